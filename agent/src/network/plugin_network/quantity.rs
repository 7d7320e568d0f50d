//! Limits on a pod's traffic, as annotations say them. Pure.

use cni::conf::Bandwidth;

/// Annotations of Kubernetes: bits a second, as quantities.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// What Kubernetes takes for reasonable: a kilobit to a petabit a second.
const REASONABLE: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
/// How many bits may come at once: as other runtimes say it, as good as any number.
const BURST: u64 = u32::MAX as u64;

/// An annotation that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {key}: {value:?} {reason}")]
pub struct InvalidBandwidth {
    key: &'static str,
    value: String,
    reason: &'static str,
}

/// The limits that a pod's annotations ask for; none when they ask for none.
pub(super) fn bandwidth<'a>(
    annotation: impl Fn(&str) -> Option<&'a String>,
) -> Result<Option<Bandwidth>, InvalidBandwidth> {
    let rate = |key: &'static str| {
        let Some(text) = annotation(key) else { return Ok(None) };
        let refused = |reason| InvalidBandwidth { key, value: text.chars().take(40).collect(), reason };
        let rate = quantity(text).ok_or_else(|| refused("is no quantity, as 10M is one"))?;
        if REASONABLE.contains(&rate) { Ok(Some(rate)) } else { Err(refused("is not between 1k and 1P")) }
    };
    let (ingress, egress) = (rate(INGRESS)?, rate(EGRESS)?);
    let burst = |rate: Option<u64>| if rate.is_some() { BURST } else { 0 };
    Ok((ingress.is_some() || egress.is_some()).then(|| Bandwidth {
        ingress_rate: ingress.unwrap_or(0),
        ingress_burst: burst(ingress),
        egress_rate: egress.unwrap_or(0),
        egress_burst: burst(egress),
    }))
}

/// A quantity of Kubernetes as a whole number, rounded up: digits with at most one point, then a suffix or an exponent.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) || number.len() > 20 {
        return None;
    }
    let mantissa: u128 = format!("0{whole}{fraction}").parse().ok()?;
    let (factor, divisor) = scale(suffix)?;
    let divisor = divisor.checked_mul(10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    u64::try_from(mantissa.checked_mul(factor)?.div_ceil(divisor)).ok()
}

/// What a suffix multiplies with, and what it divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let thousands = |power: u32| Some((1000u128.pow(power), 1));
    match suffix {
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "" => thousands(0),
        "k" => thousands(1),
        "M" => thousands(2),
        "G" => thousands(3),
        "T" => thousands(4),
        "P" => thousands(5),
        "E" => thousands(6),
        "Ki" => Some((1 << 10, 1)),
        "Mi" => Some((1 << 20, 1)),
        "Gi" => Some((1 << 30, 1)),
        "Ti" => Some((1 << 40, 1)),
        "Pi" => Some((1 << 50, 1)),
        "Ei" => Some((1 << 60, 1)),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = 10u128.checked_pow(power.unsigned_abs()).filter(|_| power.abs() <= 18)?;
            Some(if power < 0 { (1, size) } else { (size, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, value) in [
            ("10M", 10_000_000),
            ("1Ki", 1024),
            ("1.5k", 1500),
            (".5k", 500),
            ("1e3", 1000),
            ("2E6", 2_000_000),
            ("1500e-3", 2),
            ("100m", 1),
            ("+1k", 1000),
            ("1E", 1_000_000_000_000_000_000),
            ("7", 7),
        ] {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for bad in ["", "k", ".", "1.2.3", "1 k", "-1", "1kk", "1e99", "99E", "0x10", "1e", "١k"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }

    #[test]
    fn limits_are_taken_from_annotations_and_have_to_be_reasonable() {
        let of = |pairs: &[(&str, &str)]| {
            let map: HashMap<_, _> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            bandwidth(|key| map.get(key))
        };
        assert_eq!(of(&[]).unwrap(), None);
        let limits = of(&[(INGRESS, "1M")]).unwrap().unwrap();
        assert_eq!((limits.ingress_rate, limits.ingress_burst, limits.egress_rate), (1_000_000, BURST, 0));
        assert_eq!(of(&[(EGRESS, "5k")]).unwrap().unwrap().egress_rate, 5000);
        for bad in ["1", "2P", "fast", "0"] {
            assert!(of(&[(EGRESS, bad)]).unwrap_err().to_string().contains(EGRESS), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text: String) {
            quantity(&text);
        }

        #[test]
        fn what_looks_like_a_quantity_does_no_harm(text in "[0-9.]{0,24}[eEkMGTPmun]?[i0-9-]{0,3}") {
            quantity(&text);
        }
    }
}
