//! Stop signals: the CRI's enum, an image's `StopSignal` (name or number) and the kernel's number. Pure.

use cri_api::v1::Signal;

const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// signal(7), the numbers that x86 and arm share.
const NAMES: [(&str, i32); 35] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("RTMIN", SIGRTMIN),
];

/// The number of a signal's name, with or without `SIG`, in any case, `RTMIN+n` and `RTMAX-n` included, or of a decimal
/// number between 1 and 64.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let offset = |rest: &str| rest.parse::<i32>().ok().filter(|n| (0..=SIGRTMAX - SIGRTMIN).contains(n));
    match name {
        "RTMAX" => Some(SIGRTMAX),
        _ => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(rest), _) => offset(rest).map(|n| SIGRTMIN + n),
            (_, Some(rest)) => offset(rest).map(|n| SIGRTMAX - n),
            _ => None,
        },
    }
}

/// The number of a CRI signal; `None` for `RUNTIME_DEFAULT`.
pub fn from_cri(signal: Signal) -> Option<i32> {
    let name = signal.as_str_name().strip_prefix("SIGNAL_SIG")?;
    parse(&name.replace("PLUS", "+").replace("MINUS", "-"))
}

/// The CRI signal of a number: of two names for one number the first in the enum.
pub fn to_cri(number: i32) -> Signal {
    let all = (1..=65).filter_map(|value| Signal::try_from(value).ok());
    all.into_iter().find(|signal| from_cri(*signal) == Some(number)).unwrap_or(Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_offsets_are_read() {
        for (text, number) in
            [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGRTMAX", 64)]
        {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for bad in ["", "0", "65", "-1", "SIGNOPE", "RTMIN+99", "RTMIN-1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_cri_signal_has_a_number_that_leads_back_to_it_or_its_synonym() {
        for signal in (1..=65).map(|value| Signal::try_from(value).unwrap()) {
            let number = from_cri(signal).unwrap_or_else(|| panic!("{}", signal.as_str_name()));
            assert_eq!(from_cri(to_cri(number)), Some(number));
        }
        assert_eq!(from_cri(Signal::RuntimeDefault), None);
    }
}
