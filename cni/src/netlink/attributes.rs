//! Attributes, read from bytes and written to them. Pure: any bytes give attributes or none, never a panic.

/// The kinds, without the flags in their two highest bits, and the values.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; 4] = bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of one kind.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// An attribute as it is written: length, kind, value, padding to four bytes.
pub(crate) fn written(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_is_read_in_order() {
        let bytes =
            [&5u16.to_ne_bytes()[..], &1u16.to_ne_bytes(), b"a\0\0\0", &8u16.to_ne_bytes(), &[2, 0x80], b"bcde"];
        let bytes = bytes.concat();
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(1, &b"a"[..]), (2, b"bcde")]);
        assert_eq!(attribute(&bytes, 2), Some(&b"bcde"[..]));
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes: Vec<u8>) {
            prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
        }
    }
}
