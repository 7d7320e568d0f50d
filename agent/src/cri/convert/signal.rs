//! The API's signals and Linux's numbers for them (signal(7); the same on every architecture we run on).

use cri_api::v1::Signal;

/// Names of the standard signals, in the order of their numbers from 1. Where one number has two names in the API
/// (SIGIOT, SIGCLD, SIGPOLL are the others), the usual one.
const STANDARD: [Signal; 31] = [
    Signal::Sighup,
    Signal::Sigint,
    Signal::Sigquit,
    Signal::Sigill,
    Signal::Sigtrap,
    Signal::Sigabrt,
    Signal::Sigbus,
    Signal::Sigfpe,
    Signal::Sigkill,
    Signal::Sigusr1,
    Signal::Sigsegv,
    Signal::Sigusr2,
    Signal::Sigpipe,
    Signal::Sigalrm,
    Signal::Sigterm,
    Signal::Sigstkflt,
    Signal::Sigchld,
    Signal::Sigcont,
    Signal::Sigstop,
    Signal::Sigtstp,
    Signal::Sigttin,
    Signal::Sigttou,
    Signal::Sigurg,
    Signal::Sigxcpu,
    Signal::Sigxfsz,
    Signal::Sigvtalrm,
    Signal::Sigprof,
    Signal::Sigwinch,
    Signal::Sigio,
    Signal::Sigpwr,
    Signal::Sigsys,
];

/// The first real-time signal that C libraries leave to programs.
const SIGRTMIN: i32 = 34;

/// The API's name of a signal; its default for a number that has none.
pub(super) fn of_number(number: i32) -> Signal {
    match number {
        1..=31 => usize::try_from(number - 1).map_or(Signal::RuntimeDefault, |at| STANDARD[at]),
        // SIGRTMIN to SIGRTMAX follow each other in the API as in the kernel.
        SIGRTMIN..=64 => Signal::try_from(number - SIGRTMIN + i32::from(Signal::Sigrtmin)).unwrap_or_default(),
        _ => Signal::RuntimeDefault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_names() {
        for (number, name) in [
            (1, "SIGNAL_SIGHUP"),
            (9, "SIGNAL_SIGKILL"),
            (15, "SIGNAL_SIGTERM"),
            (31, "SIGNAL_SIGSYS"),
            (34, "SIGNAL_SIGRTMIN"),
            (49, "SIGNAL_SIGRTMINPLUS15"),
            (50, "SIGNAL_SIGRTMAXMINUS14"),
            (64, "SIGNAL_SIGRTMAX"),
            (0, "SIGNAL_RUNTIME_DEFAULT"),
            (32, "SIGNAL_RUNTIME_DEFAULT"),
            (65, "SIGNAL_RUNTIME_DEFAULT"),
            (-1, "SIGNAL_RUNTIME_DEFAULT"),
        ] {
            assert_eq!(of_number(number).as_str_name(), name, "{number}");
        }
    }

    #[test]
    fn standard_names_agree_with_the_kernels() {
        for (number, signal) in (1..).zip(STANDARD) {
            let raw = rustix::process::Signal::from_named_raw(number).unwrap();
            let name = signal.as_str_name().trim_start_matches("SIGNAL_SIG");
            let told = format!("{raw:?}").replace('"', "");
            let told = told.trim_start_matches("Signal::").to_uppercase();
            assert!(
                [name, "ABORT", "ALARM", "CHILD", "POWER", "IO", "PROF", "VTALARM"].contains(&told.as_str()),
                "{told} {name}"
            );
        }
    }
}
