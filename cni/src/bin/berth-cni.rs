//! `berth-cni`: the plugins as one program. The name it is called by (a link to it), or else its first argument, chooses the
//! plugin.

use std::env;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cni::call::Call;
use cni::client::Exec;
use cni::plugins::{self, InProcess, NAMES};
use cni::types::{CniError, Code, Command};

/// No configuration is as long.
const LONGEST_INPUT: u64 = 8 << 20;
/// Runtimes lose patience after two minutes; what we wait for ourselves must end before.
const PATIENCE: Duration = Duration::from_secs(100);

fn main() -> ExitCode {
    let mut words = env::args();
    let called = words.next().unwrap_or_default();
    let called = Path::new(&called).file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let name = if NAMES.contains(&called.as_str()) { called } else { words.next().unwrap_or_default() };
    if !NAMES.contains(&name.as_str()) || env::var_os("CNI_COMMAND").is_none() {
        return explain(&name);
    }
    match call().and_then(|call| run(&name, &call)) {
        Ok(output) => print(&output, ExitCode::SUCCESS),
        Err(error) => print(&plugins::print_error(&error), ExitCode::FAILURE),
    }
}

/// For people who run it by hand.
fn explain(name: &str) -> ExitCode {
    let names = NAMES.join(", ");
    let version = env!("CARGO_PKG_VERSION");
    if matches!(name, "--version" | "-V") {
        return print(format!("berth-cni {version}\n").as_bytes(), ExitCode::SUCCESS);
    }
    let text = format!(
        "berth-cni {version}: CNI plugins, versions 0.1.0 to 1.1.0 of the specification\n\n\
         A container runtime runs it by the name of a plugin, with CNI_COMMAND and a configuration on its standard input:\n    \
         ln -s {} /opt/cni/bin/bridge\nor as `berth-cni PLUGIN`. Plugins: {names}.\n",
        env::current_exe().unwrap_or_default().display()
    );
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::from(if matches!(name, "--help" | "-h") { 0 } else { 2 })
}

fn run(name: &str, call: &Call) -> Result<Vec<u8>, CniError> {
    let others = InProcess::new(Exec::new(call.path.clone()));
    plugins::run(name, call, &others).unwrap_or_else(|| Err(CniError::new(Code::INTERNAL, "no such plugin")))
}

fn call() -> Result<Call, CniError> {
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let command = variable("CNI_COMMAND");
    let Some(command) = Command::parse(&command) else {
        return Err(CniError::new(Code::INVALID_ENVIRONMENT, format!("CNI_COMMAND: {command:?} is no command")));
    };
    let mut input = Vec::new();
    io::stdin()
        .take(LONGEST_INPUT)
        .read_to_end(&mut input)
        .map_err(|error| CniError::of(Code::IO, &error).context("standard input"))?;
    Ok(Call {
        command,
        container: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        interface: variable("CNI_IFNAME"),
        args: variable("CNI_ARGS"),
        path: env::split_paths(&variable("CNI_PATH")).filter(|path| !path.as_os_str().is_empty()).collect(),
        input,
        deadline: Instant::now() + PATIENCE,
    })
}

fn print(output: &[u8], code: ExitCode) -> ExitCode {
    match io::stdout().write_all(output) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
