//! Flow control towards the client (SPDY protocol draft 3.1, section 2.6.8).
//!
//! spdystream, which all of Kubernetes uses, neither keeps windows nor opens them again: waiting for it would stop every
//! output after 64 KiB. So windows bind only once the client has shown, by a WINDOW_UPDATE or the setting of one, that
//! it keeps them. What was sent before is counted.

use std::collections::HashMap;

use super::codec::INITIAL_WINDOW;

/// What may still be sent.
#[derive(Debug)]
pub(super) struct Windows {
    kept: bool,
    initial: i64,
    connection: i64,
    streams: HashMap<u32, i64>,
}

impl Windows {
    pub(super) fn new() -> Self {
        let initial = i64::from(INITIAL_WINDOW);
        Self { kept: false, initial, connection: initial, streams: HashMap::new() }
    }

    pub(super) fn open(&mut self, stream: u32) {
        self.streams.insert(stream, self.initial);
    }

    pub(super) fn close(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }

    /// The client can take more; stream 0 is the connection. Of a stream that is closed it no longer matters.
    pub(super) fn update(&mut self, stream: u32, delta: u32) {
        self.kept = true;
        let window = if stream == 0 { Some(&mut self.connection) } else { self.streams.get_mut(&stream) };
        if let Some(window) = window {
            *window = window.saturating_add(i64::from(delta));
        }
    }

    /// The window that streams begin with is another one, also for those that are open (section 2.6.8).
    pub(super) fn set_initial(&mut self, initial: u32) {
        self.kept = true;
        let change = i64::from(initial) - self.initial;
        self.initial = i64::from(initial);
        self.streams.values_mut().for_each(|window| *window = window.saturating_add(change));
    }

    /// Takes as much of `wanted` bytes as may be sent on the stream now; 0: none.
    pub(super) fn take(&mut self, stream: u32, wanted: usize) -> usize {
        let Some(window) = self.streams.get_mut(&stream) else { return wanted };
        let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
        let taken = if self.kept { wanted.min(*window).min(self.connection).max(0) } else { wanted };
        *window = window.saturating_sub(taken);
        self.connection = self.connection.saturating_sub(taken);
        usize::try_from(taken).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_keeps_no_windows_is_not_waited_for() {
        let mut windows = Windows::new();
        windows.open(1);
        assert_eq!((0..100).map(|_| windows.take(1, 1 << 20)).sum::<usize>(), 100 << 20);
    }

    #[test]
    fn a_client_that_keeps_windows_gets_what_they_allow() {
        let mut windows = Windows::new();
        windows.open(1);
        windows.open(3);
        assert_eq!(windows.take(1, 64 << 10), 64 << 10);
        windows.update(1, 10);
        assert_eq!(windows.take(1, 100), 0, "the connection's is empty");
        windows.update(0, 25);
        assert_eq!((windows.take(1, 100), windows.take(1, 100)), (10, 0));
        assert_eq!((windows.take(3, 100), windows.take(3, 1)), (15, 0));
    }

    #[test]
    fn what_was_sent_too_much_counts_and_a_smaller_window_is_for_all() {
        let mut windows = Windows::new();
        windows.open(1);
        windows.take(1, 64 << 10);
        windows.take(1, 50);
        windows.update(0, 1 << 20);
        windows.update(1, 50);
        assert_eq!(windows.take(1, 1), 0);
        windows.update(1, 1);
        assert_eq!(windows.take(1, 9), 1);
        windows.open(3);
        windows.set_initial(7);
        assert_eq!(windows.take(3, 9), 7);
        windows.update(u32::MAX, u32::MAX);
        for _ in 0..3 {
            windows.update(0, u32::MAX);
        }
    }
}
