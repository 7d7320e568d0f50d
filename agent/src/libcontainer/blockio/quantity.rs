//! Quantities as Kubernetes writes them: a decimal number, then a suffix of thousands or of 1024s, or an exponent. Pure.

use serde::{Deserialize, Deserializer};

/// A whole, positive number; fractions are rounded up, as Kubernetes does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quantity(u64);

const SUFFIXES: [(&str, u128); 13] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
    ("", 1),
];

impl Quantity {
    pub(super) fn value(self) -> u64 {
        self.0
    }

    /// A weight of BFQ and CFQ.
    pub(super) fn weight(&self) -> Result<u16, String> {
        match u16::try_from(self.0) {
            Ok(weight @ 10..=1000) => Ok(weight),
            _ => Err(format!("Weight {} is not from 10 to 1000", self.0)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (number, factor) = match text.split_once(['e', 'E']).filter(|(_, power)| !power.is_empty() && *power != "i")
        {
            Some((number, power)) => (number, 10u128.checked_pow(power.parse().ok().filter(|&power| power <= 18)?)?),
            None => SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))?,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() && fraction.is_empty() || !digits(whole) || !digits(fraction) {
            return None;
        }
        let number = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
        let part = (number(fraction)? * factor).div_ceil(10u128.pow(fraction.len() as u32));
        u64::try_from(number(whole)? * factor + part).ok().map(Self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // `80` and `"80"` mean the same.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(number) => Ok(Self(number)),
            Written::Text(text) => Self::parse(text.trim())
                .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no quantity such as 80, 10k or 50Mi"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        let table = [
            ("0", 0),
            ("80", 80),
            ("10k", 10_000),
            ("50M", 50_000_000),
            ("1Ki", 1024),
            ("1.5Ki", 1536),
            ("1.5", 2),
            (".5k", 500),
            ("1e3", 1000),
            ("2E6", 2_000_000),
            ("1E", 1_000_000_000_000_000_000),
            ("1Ei", 1 << 60),
        ];
        for (text, value) in table {
            assert_eq!(Quantity::parse(text), Some(Quantity(value)), "{text}");
        }
        for bad in ["", "k", "-1", "1 k", "1K", "1kk", "1e99", "99E", "1.2.3", "½", "1e-3", "+1", "."] {
            assert_eq!(Quantity::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_whole_numbers_are_themselves(text in "\\PC{0,24}", number in 0u64..1 << 59) {
            let _ = Quantity::parse(&text);
            prop_assert_eq!(Quantity::parse(&number.to_string()), Some(Quantity(number)));
        }
    }
}
