//! An NRI plugin that the runtime starts. Its configuration is the path of a file, to which it writes what it is told, a line a
//! call; containers get LAUNCHED=NAME.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;

use nri_api::v1alpha1 as api;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use test_e2e::nri::{Call, Plugin, Reply};
use tokio::net::UnixStream;

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> io::Result<()> {
    let variable = |name: &str| std::env::var(name).map_err(|e| io::Error::other(format!("{name}: {e}")));
    let (name, index) = (variable("NRI_PLUGIN_NAME")?, variable("NRI_PLUGIN_IDX")?);
    let number = variable("NRI_PLUGIN_SOCKET")?.parse().map_err(io::Error::other)?;
    // A descriptor by its number is nobody's until the kernel has duplicated it.
    let socket = pidfd_getfd(pidfd_open(getpid(), PidfdFlags::empty())?, number, PidfdGetfdFlags::empty())?;
    let socket = StdStream::from(socket);
    socket.set_nonblocking(true)?;
    let mut file = String::new();
    let told = name.clone();
    let answer = move |call: &Call| {
        if call.method == "Configure" {
            file = call.request::<api::ConfigureRequest>().config;
        }
        if let Err(error) = append(Path::new(file.trim()), &format!("{told} {}", call.method)) {
            return Reply::Fail(13, error.to_string());
        }
        match call.method.as_str() {
            "CreateContainer" => Reply::adjust(|adjust| {
                adjust.env = vec![api::KeyValue { key: "LAUNCHED".into(), value: told.clone() }];
            }),
            _ => Reply::Fine,
        }
    };
    let plugin = Plugin::over(UnixStream::from_std(socket)?, &index, &name, 0, answer).await?;
    while plugin.is_connected() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Ok(())
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    writeln!(OpenOptions::new().create(true).append(true).open(path)?, "{line}")
}
