//! `berth doctor`: the host's checks as a table. Its exit code says whether the agent could run.

use std::fmt::Write as _;

use super::Failure;
use super::checks::{Check, Facts, Level, evaluate};
use super::flags::ConfigFlags;

/// Prints the table; an error when a check failed.
pub(super) fn run(flags: ConfigFlags) -> Result<(), Failure> {
    let config = flags.load()?;
    let checks = evaluate(&Facts::gather(&config), &config);
    print!("{}", table(&checks));
    let failed = checks.iter().filter(|check| check.level == Level::Fail).count();
    if failed == 0 { Ok(()) } else { Err(Failure::Checks(failed)) }
}

fn table(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for check in checks {
        let level = match check.level {
            Level::Ok => "OK",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        let _ = writeln!(out, "{level:<4}  {:width$}  {}", check.name, check.found);
        if !check.remedy.is_empty() {
            let _ = writeln!(out, "{:4}  {:width$}  → {}", "", "", check.remedy);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_stands_below_its_finding() {
        let check = |name, level, remedy: &str| Check { name, level, found: "x".into(), remedy: remedy.into() };
        let text = table(&[check("kernel", Level::Ok, ""), check("user", Level::Fail, "be root")]);
        assert_eq!(text, "OK    kernel  x\nFAIL  user    x\n              → be root\n");
    }
}
