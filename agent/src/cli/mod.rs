//! The command line. `bin/berth.rs` calls `main`; each command is a module. What a command prints for people goes to
//! standard output, what went wrong to standard error as one line with its causes.

/// What the agent needs of its host.
mod checks;
/// `berth config`.
mod config;
/// `berth debug`.
mod debug;
/// `berth doctor`.
mod doctor;
/// Flags that several commands take.
mod flags;
/// `berth image`.
mod image;
/// `berth oci`.
mod oci;
/// `berth serve`.
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ConfigError;
use crate::ops;
use serve::ServeError;

/// A Kubernetes node agent: container runtime, image store and pod network in one.
#[derive(Debug, Parser)]
#[command(name = "berth", version, subcommand_required = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    Serve(flags::ServeFlags),
    /// Check what the agent needs of this host, and say how to get what is missing
    Doctor(flags::ConfigFlags),
    /// Print or check a configuration file
    #[command(subcommand)]
    Config(config::Action),
    /// Pull, import, list and remove images
    Image(image::ImageArguments),
    /// Run OCI bundles without an agent, as runc and crun do
    Oci(oci::OciArguments),
    /// Tell the tests about this build
    #[command(subcommand, hide = true)]
    Debug(debug::Action),
    /// Print the version
    Version,
}

/// A command that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{} of this host's checks failed", .0)]
    Checks(usize),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Image(#[from] image::ImageFailure),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve(flags) => serve::run(flags).map_err(Failure::from),
        Command::Doctor(flags) => doctor::run(flags),
        Command::Config(action) => config::run(action).map_err(Failure::from),
        Command::Image(arguments) => image::run(arguments).map_err(Failure::from),
        Command::Oci(arguments) => return oci::run(arguments),
        Command::Debug(action) => {
            debug::run(action);
            Ok(())
        }
        Command::Version => {
            println!("berth {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("berth: {}", ops::chain(&failure));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_are_read() {
        let line = ["berth", "serve", "--root", "/x", "--cgroup-driver", "systemd", "--log-format", "json"];
        assert!(Arguments::try_parse_from(line).is_ok());
        assert!(Arguments::try_parse_from(["berth", "serve", "--cgroup-driver", "other"]).is_err());
    }
}
