//! A stand-in for org.freedesktop.systemd1 that makes and ends scopes as systemd does: folders in the hierarchies that it
//! manages, processes moved there, and a scope that nobody is in any more taken away.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use zbus::message::Type;
use zbus::{Connection, Message, MessageStream, ObjectPath, OwnedObjectPath, OwnedVariant};

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// The v1 hierarchies that systemd puts a delegated scope in, and the unified one.
const MANAGED: [&str; 9] =
    ["unified", "systemd", "cpu", "cpuacct", "cpu,cpuacct", "memory", "pids", "blkio", "devices"];

/// The stand-in as its test sees it.
#[derive(Clone, Default)]
pub(crate) struct Service {
    /// Running units, with their cgroups.
    pub(crate) units: Arc<Mutex<HashMap<String, String>>>,
    /// What was asked for, in short.
    pub(crate) calls: Arc<Mutex<Vec<String>>>,
    /// Jobs do not end.
    pub(crate) stuck: Arc<AtomicBool>,
}

/// The roots of hierarchies.
fn roots() -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    if base.join("cgroup.controllers").exists() {
        return vec![base.to_owned()];
    }
    let present = MANAGED.map(|name| base.join(name)).into_iter();
    present.filter(|root| root.join("cgroup.procs").exists() && !root.is_symlink()).collect()
}

/// The unified hierarchy's folder of a cgroup.
pub(crate) fn unified(cgroup: &str) -> PathBuf {
    roots()[0].join(cgroup)
}

/// The processes of a cgroup; none when it is gone.
pub(crate) fn processes(cgroup: &str) -> Vec<i32> {
    let text = fs::read_to_string(unified(cgroup).join("cgroup.procs")).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn is_populated(cgroup: &str) -> bool {
    fs::read_to_string(unified(cgroup).join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
}

/// Removes a cgroup with all below it, also from the hierarchies that systemd leaves alone; whether it is gone.
pub(crate) fn remove_everywhere(cgroup: &str) -> bool {
    let folders = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path().join(cgroup));
    let all: Vec<_> = folders.chain([Path::new("/sys/fs/cgroup").join(cgroup)]).collect();
    remove_trees(&all);
    all.iter().all(|folder| !folder.exists())
}

/// Removes a cgroup with all below it from every hierarchy that systemd manages.
fn remove(cgroup: &str) {
    remove_trees(&roots().iter().map(|root| root.join(cgroup)).collect::<Vec<_>>());
}

fn remove_trees(folders: &[PathBuf]) {
    fn tree(folder: &Path) {
        for child in fs::read_dir(folder).into_iter().flatten().flatten() {
            if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                tree(&child.path());
            }
        }
        let _ = fs::remove_dir(folder);
    }
    folders.iter().for_each(|folder| tree(folder));
}

fn slice_path(slice: &str) -> String {
    let stem = slice.strip_suffix(".slice").unwrap();
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    ends.map(|end| format!("{}.slice", &stem[..end])).collect::<Vec<_>>().join("/")
}

impl Service {
    /// Serves until the test ends.
    pub(crate) async fn start(address: &str) -> Self {
        let service = Self::default();
        let bus = zbus::connection::Builder::address(address).build().await.unwrap();
        tokio::spawn(service.clone().serve(bus.clone()));
        tokio::spawn(service.clone().collect());
        super::bus::wait_for_owner(&bus).await;
        service
    }

    pub(crate) fn cgroup(&self, unit: &str) -> Option<String> {
        self.units.lock().unwrap().get(unit).cloned()
    }

    pub(crate) fn called(&self, beginning: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|call| call.starts_with(beginning)).count()
    }

    /// Takes away the scopes that nobody is in.
    async fn collect(self) {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.units.lock().unwrap().retain(|_, cgroup| {
                let populated = is_populated(cgroup);
                if !populated {
                    remove(cgroup);
                }
                populated
            });
        }
    }

    async fn serve(self, bus: Connection) {
        let mut messages = MessageStream::from(&bus);
        bus.request_name("org.freedesktop.systemd1").await.unwrap();
        let mut job = 0u32;
        while let Some(Ok(message)) = messages.next().await {
            let header = message.header();
            let manager = header.interface().is_some_and(|name| name.as_str() == MANAGER);
            if message.message_type() != Type::MethodCall || !manager {
                continue;
            }
            match self.handle(&message) {
                Ok(None) => bus.reply(&header, &()).await.unwrap(),
                Err(name) => {
                    bus.reply_error(&header, format!("org.freedesktop.systemd1.{name}"), &name).await.unwrap();
                }
                Ok(Some(unit)) => {
                    job += 1;
                    let path = ObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{job}")).unwrap();
                    let path = OwnedObjectPath::from(path);
                    bus.reply(&header, &path).await.unwrap();
                    if !self.stuck.load(Ordering::Relaxed) {
                        let body = (job, path, unit.as_str(), "done");
                        let object = "/org/freedesktop/systemd1";
                        bus.emit_signal(None::<&str>, object, MANAGER, "JobRemoved", &body).await.unwrap();
                    }
                }
            }
        }
    }

    /// Does it, and gives the unit of the job that this is, or the error's name.
    fn handle(&self, message: &Message) -> Result<Option<String>, &'static str> {
        let method = message.header().member().unwrap().to_string();
        let body = message.body();
        match method.as_str() {
            "StartTransientUnit" => {
                type Properties = Vec<(String, OwnedVariant)>;
                let (unit, _, properties, _): (String, String, Properties, Vec<(String, Properties)>) =
                    body.deserialize().unwrap();
                self.called_with(&format!("{method} {unit}"), &properties);
                if self.cgroup(&unit).is_some() {
                    return Err("UnitExists");
                }
                let property =
                    |name: &str| properties.iter().find(|(key, _)| key == name).unwrap().1.try_clone().unwrap();
                let slice = String::try_from(property("Slice")).unwrap();
                let cgroup = format!("{}/{unit}", slice_path(&slice));
                roots().iter().for_each(|root| fs::create_dir_all(root.join(&cgroup)).unwrap());
                attach(&cgroup, &Vec::<u32>::try_from(property("PIDs")).unwrap());
                self.units.lock().unwrap().insert(unit.clone(), cgroup);
                Ok(Some(unit))
            }
            "AttachProcessesToUnit" => {
                let (unit, _, processes): (String, String, Vec<u32>) = body.deserialize().unwrap();
                self.called_with(&format!("{method} {unit}"), &[]);
                attach(&self.cgroup(&unit).ok_or("NoSuchUnit")?, &processes);
                Ok(None)
            }
            "StopUnit" => {
                let (unit, _): (String, String) = body.deserialize().unwrap();
                self.called_with(&format!("{method} {unit}"), &[]);
                let cgroup = self.units.lock().unwrap().remove(&unit).ok_or("NoSuchUnit")?;
                let _ = fs::write(unified(&cgroup).join("cgroup.kill"), "1");
                while is_populated(&cgroup) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                remove(&cgroup);
                Ok(Some(unit))
            }
            _ => Ok(None),
        }
    }

    fn called_with(&self, call: &str, properties: &[(String, OwnedVariant)]) {
        let names: Vec<&str> = properties.iter().map(|(name, _)| name.as_str()).collect();
        self.calls.lock().unwrap().push(format!("{call} {}", names.join(" ")));
    }
}

fn attach(cgroup: &str, processes: &[u32]) {
    for (root, process) in roots().iter().flat_map(|root| processes.iter().map(move |process| (root, process))) {
        fs::write(root.join(cgroup).join("cgroup.procs"), process.to_string()).unwrap();
    }
}
