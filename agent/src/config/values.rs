//! Values that YAML has no type for, as the file spells them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A span of time: a whole number with `ms`, `s`, `m` or `h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A number of bytes: a whole number, alone or with `KiB`, `MiB`, `GiB` or `TiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

const SPANS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZES: &[(&str, u64)] = &[("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let &(_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// In the largest unit that leaves a whole number.
fn show(value: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let whole = units.iter().rev().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor));
    let &(unit, factor) = whole.unwrap_or(&units[0]);
    write!(f, "{}{unit}", value / factor)
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let millis = parse(text, SPANS).ok_or_else(|| format!("{text:?} is not a time: write 500ms, 30s, 2m or 1h"))?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, SIZES)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a size: write bytes, or 16KiB, 10MiB, 64GiB"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0.as_millis() as u64, SPANS, f)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0, SIZES, f)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A key as the reference tells it.
pub(super) struct Entry {
    pub(super) key: &'static str,
    pub(super) doc: Vec<&'static str>,
    pub(super) value: Shown,
}

/// What stands behind a key.
pub(super) enum Shown {
    /// One line of YAML.
    Value(String),
    /// More keys.
    Section(Vec<Entry>),
    /// Names of the operator's choice, each with these keys; none by default.
    Named(Vec<Entry>),
}

/// What a value looks like in the file.
pub(super) trait Yaml {
    fn shown(&self) -> Shown;
}

macro_rules! yaml_by_display {
    ($($kind:ty),*) => {$(
        impl Yaml for $kind {
            fn shown(&self) -> Shown {
                Shown::Value(self.to_string())
            }
        }
    )*};
}

yaml_by_display!(bool, u32, u64, usize, Span, Size, ipnet::Ipv4Net);

/// JSON strings are YAML; plain words need no quotes.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if word && text.chars().all(plain) && !reserved.contains(&text.to_lowercase().as_str()) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

impl Yaml for String {
    fn shown(&self) -> Shown {
        Shown::Value(quoted(self))
    }
}

impl Yaml for PathBuf {
    fn shown(&self) -> Shown {
        Shown::Value(quoted(&self.to_string_lossy()))
    }
}

impl Yaml for std::net::SocketAddr {
    fn shown(&self) -> Shown {
        Shown::Value(quoted(&self.to_string()))
    }
}

impl<T: Yaml> Yaml for Option<T> {
    fn shown(&self) -> Shown {
        self.as_ref().map_or_else(|| Shown::Value("null".to_owned()), Yaml::shown)
    }
}

impl<T: Yaml> Yaml for Vec<T> {
    fn shown(&self) -> Shown {
        let text = |value: &T| match value.shown() {
            Shown::Value(text) => text,
            Shown::Section(_) | Shown::Named(_) => String::new(),
        };
        Shown::Value(format!("[{}]", self.iter().map(text).collect::<Vec<_>>().join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!("1500ms".parse(), Ok(Span(Duration::from_millis(1500))));
        assert_eq!("2m".parse(), Ok(Span(Duration::from_secs(120))));
        assert_eq!("16KiB".parse(), Ok(Size(16384)));
        assert_eq!("7".parse(), Ok(Size(7)));
    }

    #[test]
    fn what_is_not_a_value_is_refused() {
        for bad in ["", "s", "5", "-1s", "1.5s", "5d", "99999999999999999999s", "99999999999999999h"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        for bad in ["", "KiB", "5KB", "-1", "99999999TiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(number in 0..u64::MAX / 2) {
            prop_assert_eq!(Size(number).to_string().parse(), Ok(Size(number)));
            let span = Span(Duration::from_millis(number));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn any_text_survives_as_yaml(text in "\\PC*") {
            prop_assert_eq!(serde_saphyr::from_str::<String>(&quoted(&text)).unwrap(), text);
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC*") {
            let _ = (text.parse::<Size>(), text.parse::<Span>());
        }
    }
}
