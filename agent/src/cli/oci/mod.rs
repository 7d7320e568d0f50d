//! `berth oci`: bundles of the OCI runtime specification, by the command line that engines know from runc and crun.

/// What is printed, and the first config.json.
mod show;

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use crate::oci::{self, CreateOptions, Error, ExecOptions, ExecProcess, Level, Log, LogFormat as Format, Runtime};
use crate::{model, ops};
use show::{list, processes, shown, write_spec};

/// Run OCI bundles without an agent.
#[derive(Debug, Args)]
#[command(version, long_version = LONG_VERSION, disable_help_subcommand = true)]
pub(super) struct OciArguments {
    /// Where the state of containers is
    #[arg(long, value_name = "DIR", default_value = "/run/berth/oci")]
    root: PathBuf,
    /// Append log lines to a file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Have systemd make cgroups (not supported)
    #[arg(long)]
    systemd_cgroup: bool,
    /// Accepted for the sake of engines that give it
    #[arg(long, hide = true)]
    debug: bool,
    #[command(subcommand)]
    verb: Verb,
}

const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.2.1");

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a container; its program waits for `start`
    Create(Create),
    /// Start a created container
    Start {
        /// The container's id
        id: String,
    },
    /// Create and start a container, wait for its end, and delete it
    Run {
        #[command(flatten)]
        create: Create,
        /// Do not wait
        #[arg(long, short)]
        detach: bool,
    },
    /// Print the state of a container
    State {
        /// The container's id
        id: String,
    },
    /// Send a signal to a container's process
    Kill {
        /// To all its processes
        #[arg(long, short)]
        all: bool,
        /// The container's id
        id: String,
        /// Name or number
        #[arg(default_value = "TERM")]
        signal: String,
    },
    /// Delete a stopped container
    Delete {
        /// Kill it first if it runs
        #[arg(long, short)]
        force: bool,
        /// The container's id
        id: String,
    },
    /// Run one more process in a container
    Exec(Exec),
    /// List containers
    List {
        /// Ids only
        #[arg(long, short)]
        quiet: bool,
        /// How to list
        #[arg(long, short, value_name = "FORMAT", default_value = "table")]
        format: ListFormat,
    },
    /// List the processes of a container by their ids on the host
    Ps {
        /// How to list
        #[arg(long, short, value_name = "FORMAT", default_value = "table")]
        format: ListFormat,
        /// The container's id
        id: String,
    },
    /// Freeze the processes of a container
    Pause {
        /// The container's id
        id: String,
    },
    /// Let the processes of a paused container go on
    Resume {
        /// The container's id
        id: String,
    },
    /// Change the limits of a container
    Update {
        /// File with the `linux.resources` of a config.json; - is standard input
        #[arg(long, short, value_name = "FILE")]
        resources: PathBuf,
        /// The container's id
        id: String,
    },
    /// Print what bundles may ask for
    Features,
    /// Write a config.json to begin with
    Spec {
        /// The bundle's folder
        #[arg(long, short, value_name = "DIR", default_value = ".")]
        bundle: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    Table,
    Json,
}

#[derive(Debug, Args)]
struct Create {
    /// The bundle's folder
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    #[command(flatten)]
    handles: Handles,
    /// Do not use pivot_root(2) (not supported)
    #[arg(long)]
    no_pivot: bool,
    /// Accepted: no session keyring is made
    #[arg(long, hide = true)]
    no_new_keyring: bool,
    /// The new container's id
    id: String,
}

/// What an engine gets hold of a process by.
#[derive(Debug, Args)]
struct Handles {
    /// Write the process id to a file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Send the terminal to a unix socket
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// Give the program so many descriptors, from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
}

#[derive(Debug, Args)]
struct Exec {
    /// File with the `process` of a config.json
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["tty", "cwd", "env", "user", "additional_gids", "cap", "no_new_privs", "command"])]
    process: Option<PathBuf>,
    /// With a terminal
    #[arg(long, short)]
    tty: bool,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// KEY=VALUE, added to the environment
    #[arg(long, short, value_name = "PAIR")]
    env: Vec<String>,
    /// UID or UID:GID
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    /// Supplementary group, added
    #[arg(long, short = 'g', value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Capability, added
    #[arg(long, short, value_name = "NAME")]
    cap: Vec<String>,
    /// No execve gives it more privileges
    #[arg(long)]
    no_new_privs: bool,
    /// Do not wait for its end
    #[arg(long, short)]
    detach: bool,
    #[command(flatten)]
    handles: Handles,
    /// The container's id
    id: String,
    /// The command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required_unless_present = "process")]
    command: Vec<String>,
}

/// Runs one of the verbs. A program's exit code is this one's.
pub(super) fn run(arguments: OciArguments) -> ExitCode {
    let format = match arguments.log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let path = arguments.log.clone();
    match carry_out(arguments, format) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) => {
            let log = Log::open(path.as_deref(), format).unwrap_or_default();
            log.line(Level::Error, &ops::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn carry_out(arguments: OciArguments, format: Format) -> Result<i32, Error> {
    let OciArguments { root, log, systemd_cgroup, verb, .. } = arguments;
    if systemd_cgroup {
        return Err(Error::Arguments("--systemd-cgroup is not supported: cgroups are made by mkdir(2)".to_owned()));
    }
    // Before any file is opened: see there.
    let passed = match &verb {
        Verb::Create(create) | Verb::Run { create, .. } => oci::enter(create.handles.preserve_fds)?,
        Verb::Exec(exec) => oci::enter(exec.handles.preserve_fds)?,
        _ => Vec::new(),
    };
    let runtime = Runtime::open(root, Log::open(log.as_deref(), format)?)?;
    match verb {
        Verb::Create(create) => runtime.create(&options(create, passed)?).map(|()| 0),
        Verb::Run { create, detach } => runtime.run(&options(create, passed)?, detach),
        Verb::Exec(exec) => runtime.exec(&exec_options(exec, passed)),
        Verb::Start { id } => runtime.start(&id).map(|()| 0),
        Verb::State { id } => runtime.state(&id).map(|state| shown(&format!("{state:#}"))),
        Verb::Kill { all, id, signal } => {
            let number = model::signal::parse(&signal);
            let number = number.ok_or_else(|| Error::Arguments(format!("{signal:?} is not a signal")))?;
            runtime.kill(&id, number, all).map(|()| 0)
        }
        Verb::Delete { force, id } => runtime.delete(&id, force).map(|()| 0),
        Verb::List { quiet, format } => runtime.list().map(|states| shown(&list(&states, quiet, format))),
        Verb::Ps { format, id } => runtime.processes(&id).map(|ids| shown(&processes(&ids, format))),
        Verb::Pause { id } => runtime.pause(&id).map(|()| 0),
        Verb::Resume { id } => runtime.resume(&id).map(|()| 0),
        Verb::Update { resources, id } => {
            let text = read(&resources)?;
            let limits = serde_json::from_str(&text);
            runtime.update(&id, &limits.map_err(|source| Error::Json { path: resources, source })?).map(|()| 0)
        }
        Verb::Features => Ok(shown(&format!("{:#}", oci::features()))),
        Verb::Spec { bundle } => write_spec(&bundle).map(|()| 0),
    }
}

fn options(create: Create, passed: Vec<OwnedFd>) -> Result<CreateOptions, Error> {
    if create.no_pivot {
        return Err(Error::Arguments("--no-pivot is not supported: it would leave the host within reach".to_owned()));
    }
    let Handles { pid_file, console_socket, .. } = create.handles;
    Ok(CreateOptions { id: create.id, bundle: create.bundle, pid_file, console_socket, passed })
}

fn exec_options(exec: Exec, passed: Vec<OwnedFd>) -> ExecOptions {
    let process = match exec.process {
        Some(file) => ExecProcess::File(file),
        None => ExecProcess::Changes {
            args: exec.command,
            tty: exec.tty,
            cwd: exec.cwd,
            env: exec.env,
            user: exec.user,
            additional_gids: exec.additional_gids,
            caps: exec.cap,
            no_new_privs: exec.no_new_privs,
        },
    };
    let Handles { pid_file, console_socket, .. } = exec.handles;
    ExecOptions { id: exec.id, process, detach: exec.detach, pid_file, console_socket, passed }
}

fn read(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().read_to_string(&mut text).map(drop)
    } else {
        fs::read_to_string(path).map(|content| text = content)
    };
    read.map_err(|source| Error::Io { op: "read", path: path.to_owned(), source })?;
    Ok(text)
}
