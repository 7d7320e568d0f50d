//! Bytes to the pieces that become log lines (CRI rule 33).

use crate::sys::bytes::find;

/// The longest text of one log line; longer output lines are split.
pub(super) const LIMIT: usize = 16 * 1024;

/// One log line's text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a [u8],
    /// A newline followed: tag `F`. Otherwise `P`: the output line goes on, or broke off.
    pub(super) full: bool,
}

/// Cuts output into pieces; what remains when it ends is the beginning of a line.
#[derive(Debug)]
pub(super) struct Pieces<'a> {
    rest: &'a [u8],
}

impl<'a> Pieces<'a> {
    pub(super) fn new(output: &'a [u8]) -> Self {
        Self { rest: output }
    }

    /// The beginning of a line whose end has not come yet, at most `LIMIT` long.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        // A line of exactly LIMIT is whole: look one byte further.
        let window = &self.rest[..self.rest.len().min(LIMIT + 1)];
        let (text, skip, full) = match find(b'\n', window) {
            Some(at) => (&window[..at], at + 1, true),
            None if window.len() > LIMIT => (&window[..LIMIT], LIMIT, false),
            None => return None,
        };
        self.rest = &self.rest[skip..];
        Some(Piece { text, full })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(output: &[u8]) -> (Vec<(usize, bool)>, usize) {
        let mut pieces = Pieces::new(output);
        let cut = pieces.by_ref().map(|piece| (piece.text.len(), piece.full)).collect();
        (cut, pieces.rest().len())
    }

    #[test]
    fn long_lines_are_split_at_the_limit() {
        let line = |len: usize| [vec![b'x'; len], b"\n".to_vec()].concat();
        assert_eq!(cut(&line(LIMIT)), (vec![(LIMIT, true)], 0));
        assert_eq!(cut(&line(LIMIT + 1)), (vec![(LIMIT, false), (1, true)], 0));
        assert_eq!(cut(&line(2 * LIMIT)), (vec![(LIMIT, false), (LIMIT, true)], 0));
        assert_eq!(cut(&vec![b'x'; LIMIT]), (vec![], LIMIT));
        assert_eq!(cut(b"\n\na"), (vec![(0, true), (0, true)], 1));
    }

    proptest! {
        /// However the output is cut into reads, the pieces put together are the output.
        #[test]
        fn nothing_is_lost(
            output in proptest::collection::vec(prop_oneof![20 => Just(b'x'), 1 => Just(b'\n')], 0..60_000),
            cuts in proptest::collection::vec(1usize..40_000, 1..8),
        ) {
            let (mut joined, mut pending) = (Vec::new(), Vec::new());
            let (mut rest, mut cuts) = (output.as_slice(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (read, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                rest = later;
                pending.extend_from_slice(read);
                let mut pieces = Pieces::new(&pending);
                for piece in pieces.by_ref() {
                    prop_assert!(piece.text.len() <= LIMIT);
                    prop_assert!(piece.full || piece.text.len() == LIMIT);
                    joined.extend_from_slice(piece.text);
                    joined.extend_from_slice(if piece.full { b"\n" } else { b"" });
                }
                pending = pieces.rest().to_vec();
                prop_assert!(pending.len() <= LIMIT);
            }
            joined.extend_from_slice(&pending);
            prop_assert!(joined == output);
        }
    }
}
