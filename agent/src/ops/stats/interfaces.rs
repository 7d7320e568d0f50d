//! The counters of a pod's network interfaces, as /proc/PID/net/dev tells them (proc_net(5)): the file shows the network
//! namespace of the process that it is asked for, so that nobody has to enter it.

/// One interface, its directions as the pod sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// As in the pod.
    pub name: String,
    /// What came in.
    pub received: Traffic,
    /// What went out.
    pub sent: Traffic,
}

/// One direction, since the interface was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were wrong.
    pub errors: u64,
    /// Packets that there was no room for.
    pub dropped: u64,
}

/// The interfaces of the file, in its order, without the loopback one. What cannot be read as one is left out.
pub(super) fn parse(text: &str) -> Vec<Interface> {
    text.lines().filter_map(interface).filter(|interface| interface.name != "lo").collect()
}

fn interface(line: &str) -> Option<Interface> {
    // The two lines of headings have no colon.
    let (name, counters) = line.split_once(':')?;
    let counters = counters.split_whitespace().map(|counter| counter.parse().ok()).collect::<Option<Vec<u64>>>()?;
    // Eight columns each way; the first four are these.
    let traffic = |columns: &[u64]| match *columns {
        [bytes, packets, errors, dropped, ..] => Some(Traffic { bytes, packets, errors, dropped }),
        _ => None,
    };
    Some(Interface {
        name: name.trim().to_owned(),
        received: traffic(counters.get(..8)?)?,
        sent: traffic(counters.get(8..)?)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0: 1296 14 2 3 0 0 0 0 936 10 4 5 0 0 0 0
broken: 1 2 3
";

    #[test]
    fn both_directions_are_read_and_loopback_is_not() {
        let received = Traffic { bytes: 1296, packets: 14, errors: 2, dropped: 3 };
        let sent = Traffic { bytes: 936, packets: 10, errors: 4, dropped: 5 };
        assert_eq!(parse(TEXT), [Interface { name: "eth0".into(), received, sent }]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(eth[0-9]:)?[ 0-9:\n]{0,80}") {
            let _ = parse(&text);
        }
    }
}
