//! `berth config default` and `berth config check FILE`.

use std::path::PathBuf;

use clap::Subcommand;

use crate::config::{Config, ConfigError, Overrides, default_yaml};

/// What to do with a configuration.
#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Print every key with its default and meaning, as a file
    Default,
    /// Say whether a file would be accepted
    Check {
        /// The file
        file: PathBuf,
    },
}

/// Does it.
pub(super) fn run(action: Action) -> Result<(), ConfigError> {
    match action {
        Action::Default => print!("{}", default_yaml()),
        Action::Check { file } => {
            Config::load(Some(&file), Overrides::default())?;
            println!("{} is a valid configuration", file.display());
        }
    }
    Ok(())
}
