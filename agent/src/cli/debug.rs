//! `berth debug`: what the tests ask the program about itself. Not for operators, and not in the help.

use clap::Subcommand;

/// What `berth debug` takes.
#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// List the crash points that this build has
    FaultPoints,
}

/// Carries it out.
pub(super) fn run(action: Action) {
    match action {
        Action::FaultPoints if cfg!(feature = "fault-points") => {
            crate::fault::POINTS.iter().for_each(|point| println!("{point}"));
        }
        Action::FaultPoints => {}
    }
}
