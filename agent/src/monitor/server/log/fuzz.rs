//! What has to hold for any output: however it comes in, the lines are the same and put together they are the output.

use super::lines::{LIMIT, Pieces};
use crate::fuzz::Input;

/// The first bytes say how the rest is cut into reads, and how often it comes.
pub(crate) fn lines(data: &[u8]) {
    let mut input = Input::new(data);
    let (cuts, times) = ([input.word() as usize % 40_000, input.word() as usize % 300], input.word() as usize % 400);
    let output = input.rest().repeat(1 + times.min((1 << 18) / data.len().max(1)));
    let whole = cut(&output, &[output.len()]);
    assert!(whole == cut(&output, &cuts), "in reads of {cuts:?}");
    let mut joined = Vec::new();
    for (text, full) in whole {
        joined.extend(text);
        joined.extend(full.then_some(b'\n'));
    }
    assert!(joined == output, "{} bytes in, {} out", output.len(), joined.len());
}

/// The pieces, at last what has no end yet.
fn cut(output: &[u8], reads: &[usize]) -> Vec<(Vec<u8>, bool)> {
    let (mut found, mut pending, mut rest) = (Vec::new(), Vec::new(), output);
    let mut reads = reads.iter().cycle();
    while !rest.is_empty() {
        let length = reads.next().map_or(1, |read| 1 + read).min(rest.len());
        let (read, later) = rest.split_at(length);
        rest = later;
        pending.extend_from_slice(read);
        let mut pieces = Pieces::new(&pending);
        for piece in pieces.by_ref() {
            assert!(piece.text.len() <= LIMIT && (piece.full || piece.text.len() == LIMIT));
            assert!(!piece.text.contains(&b'\n'));
            found.push((piece.text.to_vec(), piece.full));
        }
        assert!(pieces.rest().len() <= LIMIT);
        pending = pieces.rest().to_vec();
    }
    if !pending.is_empty() {
        found.push((pending, false));
    }
    found
}
