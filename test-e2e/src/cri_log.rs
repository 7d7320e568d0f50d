//! The CRI log format (rules.md, rule 33), read strictly: `RFC3339Nano stdout|stderr P|F text`.

use std::path::Path;

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The time stamp's text.
    pub time: &'a str,
    /// Where it came from.
    pub stream: Stream,
    /// `F`: the line was whole, or this is its last piece.
    pub whole: bool,
    /// The text without the newline.
    pub text: &'a [u8],
}

/// Why a line is not one.
#[derive(Debug)]
pub struct Malformed {
    /// Its number, from 1.
    pub number: usize,
    /// What is wrong.
    pub why: &'static str,
    /// Its beginning.
    pub head: String,
}

/// A log file's content.
#[derive(Debug)]
pub struct Log(Vec<u8>);

impl Log {
    /// Reads a log file; an absent one is empty.
    pub fn read(path: &Path) -> Log {
        Log(std::fs::read(path).unwrap_or_default())
    }

    /// Every line, or the first malformed one.
    pub fn lines(&self) -> Result<Vec<Line<'_>>, Malformed> {
        let mut lines = Vec::new();
        for (index, raw) in self.0.split_inclusive(|&byte| byte == b'\n').enumerate() {
            lines.push(parse(raw).map_err(|why| {
                let head = String::from_utf8_lossy(&raw[..raw.len().min(120)]).into_owned();
                Malformed { number: index + 1, why, head }
            })?);
        }
        Ok(lines)
    }

    /// What a program wrote to a stream, put together again: a newline after each whole line.
    pub fn written(&self, stream: Stream) -> Result<Vec<u8>, Malformed> {
        let mut bytes = Vec::with_capacity(self.0.len());
        for line in self.lines()?.iter().filter(|line| line.stream == stream) {
            bytes.extend_from_slice(line.text);
            if line.whole {
                bytes.push(b'\n');
            }
        }
        Ok(bytes)
    }
}

/// Reads one line, its newline included.
pub fn parse(raw: &[u8]) -> Result<Line<'_>, &'static str> {
    let raw = raw.strip_suffix(b"\n").ok_or("no newline at the end")?;
    let mut fields = raw.splitn(4, |&byte| byte == b' ');
    let time = fields.next().and_then(|field| std::str::from_utf8(field).ok()).filter(|time| is_rfc3339_nano(time));
    let time = time.ok_or("the time is not RFC 3339 with nanoseconds")?;
    let stream = match fields.next() {
        Some(b"stdout") => Stream::Stdout,
        Some(b"stderr") => Stream::Stderr,
        _ => return Err("the stream is neither stdout nor stderr"),
    };
    let whole = match fields.next() {
        Some(b"F") => true,
        Some(b"P") => false,
        _ => return Err("the tag is neither P nor F"),
    };
    Ok(Line { time, stream, whole, text: fields.next().ok_or("no text field")? })
}

/// `2006-01-02T15:04:05.999999999Z07:00`: kubelet also takes a fraction with its trailing zeros cut.
fn is_rfc3339_nano(time: &str) -> bool {
    let bytes = time.as_bytes();
    let shape = |text: &[u8], pattern: &[u8]| {
        text.len() == pattern.len()
            && text.iter().zip(pattern).all(|(b, p)| if *p == b'0' { b.is_ascii_digit() } else { b == p })
    };
    if bytes.len() < 20 || !shape(&bytes[..19], b"0000-00-00T00:00:00") {
        return false;
    }
    let (fraction, zone) = match time[19..].find(['Z', '+', '-']) {
        Some(at) => (&bytes[19..19 + at], &bytes[19 + at..]),
        None => return false,
    };
    let digits = fraction.strip_prefix(b".").unwrap_or(b"0");
    let zoned = zone == b"Z" || shape(zone, b"+00:00") || shape(zone, b"-00:00");
    zoned && !digits.is_empty() && digits.len() <= 9 && digits.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_line_is_read() {
        let line = parse(b"2024-05-06T07:08:09.123456789Z stdout F a b\n").expect("good");
        assert_eq!((line.stream, line.whole, line.text), (Stream::Stdout, true, b"a b".as_slice()));
        assert_eq!(parse(b"2024-05-06T07:08:09.1+02:00 stderr P \n").expect("good").text, b"");
    }

    #[test]
    fn bad_lines_are_refused() {
        for bad in [
            "2024-05-06T07:08:09.1Z stdout F x",
            "2024-05-06 07:08:09Z stdout F x\n",
            "2024-05-06T07:08:09.1234567890Z stdout F x\n",
            "2024-05-06T07:08:09.Z stdout F x\n",
            "2024-05-06T07:08:09.1Z stdin F x\n",
            "2024-05-06T07:08:09.1Z stdout X x\n",
            "2024-05-06T07:08:09.1Z stdout F\n",
            "\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
