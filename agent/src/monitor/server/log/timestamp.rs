//! RFC 3339 with nanoseconds, UTC, always the same width.

/// "2026-11-24T06:59:01.123456789Z"
pub(super) const LEN: usize = 30;

/// Formats ns since 1970.
pub(super) fn rfc3339(ns: i64) -> [u8; LEN] {
    const NS: i64 = 1_000_000_000;
    let (secs, nanos) = (ns.div_euclid(NS), ns.rem_euclid(NS));
    let (days, second) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let mut put = |at: usize, width: usize, mut value: i64| {
        for place in (at..at + width).rev() {
            text[place] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, second / 3600);
    put(14, 2, second / 60 % 60);
    put(17, 2, second % 60);
    put(20, 9, nanos);
    text
}

/// Days since 1970-01-01 to year, month, day of the Gregorian calendar (Hinnant, "chrono-compatible low-level date
/// algorithms", civil_from_days).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    fn text(ns: i64) -> String {
        String::from_utf8(rfc3339(ns).to_vec()).unwrap()
    }

    #[test]
    fn known_times() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(text(1_767_225_599_999_999_999), "2025-12-31T23:59:59.999999999Z");
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_jiff(ns in 0i64..4_000_000_000_000_000_000) {
            let expected = jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap();
            proptest::prop_assert_eq!(text(ns).parse::<jiff::Timestamp>().unwrap(), expected);
        }
    }
}
