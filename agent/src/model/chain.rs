//! An error in one line.

/// The whole chain of an error, outermost first, joined by ": ".
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries tell their cause both in their own text and as their source.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Told {
        text: &'static str,
        source: io::Error,
    }

    #[test]
    fn causes_are_told_once() {
        let told = |text| chain(&Told { text, source: io::Error::other("the disk is full") });
        assert_eq!(told("cannot write"), "cannot write: the disk is full");
        assert_eq!(told("cannot write: the disk is full"), "cannot write: the disk is full");
    }
}
