//! Searching bytes with the C library's vector code.
#![allow(unsafe_code)]

/// The first place of `byte` in `haystack`.
pub fn find(byte: u8, haystack: &[u8]) -> Option<usize> {
    let base = haystack.as_ptr();
    // SAFETY: memchr reads at most the slice's length from its base.
    let found = unsafe { libc::memchr(base.cast(), i32::from(byte), haystack.len()) };
    (!found.is_null()).then(|| found as usize - base as usize)
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_the_first() {
        assert_eq!(super::find(b'\n', b"ab\nc\n"), Some(2));
        assert_eq!(super::find(b'\n', b""), None);
        assert_eq!(super::find(b'\n', b"abc"), None);
    }
}
