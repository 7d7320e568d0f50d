//! Pressure stall information of a cgroup (kernel: Documentation/accounting/psi.rst).

/// How long tasks waited for one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Psi {
    /// At least one task waited.
    pub some: Stall,
    /// All of them did. The kernel knows no such time for the CPU of the whole machine.
    pub full: Stall,
}

/// Waiting time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stall {
    /// Since the cgroup was made, in ns.
    pub total_ns: u64,
    /// Of the last 10 s, in hundredths of a percent.
    pub avg10: u32,
    /// Of the last 60 s.
    pub avg60: u32,
    /// Of the last 300 s.
    pub avg300: u32,
}

/// What a pressure file says; `None` when it is none.
pub(super) fn parse(text: &str) -> Option<Psi> {
    let of = |word: &str| text.lines().find_map(|line| stall(line.strip_prefix(word)?));
    Some(Psi { some: of("some ")?, full: of("full ").unwrap_or_default() })
}

fn stall(fields: &str) -> Option<Stall> {
    let mut stall = Stall::default();
    for field in fields.split_whitespace() {
        match field.split_once('=')? {
            ("avg10", value) => stall.avg10 = hundredths(value)?,
            ("avg60", value) => stall.avg60 = hundredths(value)?,
            ("avg300", value) => stall.avg300 = hundredths(value)?,
            ("total", value) => stall.total_ns = value.parse::<u64>().ok()?.saturating_mul(1000),
            _ => {}
        }
    }
    Some(stall)
}

/// `12.34`, as the kernel prints it.
fn hundredths(value: &str) -> Option<u32> {
    let (whole, part) = value.split_once('.')?;
    let (whole, part): (u32, u32) = (whole.parse().ok()?, part.parse().ok()?);
    (part < 100).then(|| whole.checked_mul(100)?.checked_add(part)).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_lines_are_read() {
        let text =
            "some avg10=12.34 avg60=0.05 avg300=100.00 total=2000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let some = Stall { total_ns: 2_000_000, avg10: 1234, avg60: 5, avg300: 10_000 };
        assert_eq!(parse(text), Some(Psi { some, full: Stall { total_ns: 7000, ..Stall::default() } }));
        // Before Linux 5.13 the file of the CPU had one line.
        assert_eq!(parse(text.lines().next().unwrap()), Some(Psi { some, full: Stall::default() }));
        assert_eq!(parse(""), None);
        assert_eq!(parse("some avg10=x"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(some |full )?(avg10=|total=)?[0-9.= \n]{0,40}") {
            let _ = parse(&text);
        }
    }
}
