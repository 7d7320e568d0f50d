//! A private bus: Debian's dbus-daemon.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use zbus::Connection;

pub(crate) struct Bus {
    daemon: Child,
    pub(crate) address: String,
    folder: tempfile::TempDir,
}

impl Bus {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("bus.conf");
        let text = format!(
            "<busconfig><type>session</type><listen>unix:path={}/bus</listen><policy context=\"default\">\
             <allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/>\
             </policy></busconfig>",
            folder.path().display()
        );
        std::fs::write(&config, text).unwrap();
        let (daemon, address) = run(&config);
        Self { daemon, address, folder }
    }

    /// Ends it and starts another at the same address; every connection is lost.
    pub(crate) fn restart(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        let (daemon, address) = run(&self.folder.path().join("bus.conf"));
        (self.daemon, self.address) = (daemon, address);
    }
}

fn run(config: &Path) -> (Child, String) {
    let mut daemon = Command::new("dbus-daemon")
        .arg(format!("--config-file={}", config.display()))
        .args(["--nofork", "--print-address=1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("dbus-daemon: install the package of that name");
    let mut address = String::new();
    BufReader::new(daemon.stdout.as_mut().unwrap()).read_line(&mut address).unwrap();
    // Its guid is another after a restart; the socket is the same.
    let address = address.trim().split(',').next().unwrap().to_owned();
    (daemon, address)
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// systemd's name has an owner once the stand-in runs.
pub(crate) async fn wait_for_owner(connection: &Connection) {
    const BUS: &str = "org.freedesktop.DBus";
    let body = ("org.freedesktop.systemd1",);
    loop {
        let asked =
            connection.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), "NameHasOwner", &body).await.unwrap();
        if asked.body().deserialize::<bool>().unwrap() {
            return;
        }
        tokio::task::yield_now().await;
    }
}
