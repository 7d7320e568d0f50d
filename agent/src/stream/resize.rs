//! Terminal sizes on the resize stream: JSON objects, one after the other (client-go's remotecommand). Bytes in, sizes
//! out; pure.

use serde::Deserialize;

use super::TerminalSize;

/// What one object may take, in bytes; what is longer is dropped.
const LIMIT: usize = 1024;

/// Reads one stream.
#[derive(Debug, Default)]
pub(super) struct Sizes(Vec<u8>);

#[derive(Deserialize)]
struct Object {
    // Go's decoder takes any case of the names; these are the ones that clients write.
    #[serde(rename = "Width", alias = "width")]
    width: u16,
    #[serde(rename = "Height", alias = "height")]
    height: u16,
}

impl Sizes {
    /// The sizes that are complete with these bytes. What is none is passed over.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Vec<TerminalSize> {
        let mut sizes = Vec::new();
        for byte in bytes {
            self.0.push(*byte);
            // The objects are flat: each ends with its first brace.
            if *byte == b'}' {
                if let Ok(Object { width, height }) = serde_json::from_slice(&self.0)
                    && width > 0
                    && height > 0
                {
                    sizes.push(TerminalSize { columns: width, rows: height });
                }
                self.0.clear();
            }
            if self.0.len() > LIMIT {
                self.0.clear();
            }
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_however_they_are_cut() {
        let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":1,\"Height\":2} {\"width\":300,\"height\":100}";
        let size = |columns, rows| TerminalSize { columns, rows };
        for cut in 0..text.len() {
            let mut sizes = Sizes::default();
            let read = [sizes.read(&text[..cut]), sizes.read(&text[cut..])].concat();
            assert_eq!(read, [size(80, 24), size(1, 2), size(300, 100)]);
        }
    }

    #[test]
    fn nonsense_is_passed_over_and_not_kept() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.read(b"{\"Width\":70000,\"Height\":1}{\"Width\":0,\"Height\":1}{}]["), []);
        assert_eq!(sizes.read(&vec![b'x'; 1 << 20]), []);
        assert!(sizes.0.len() <= LIMIT);
    }
}
