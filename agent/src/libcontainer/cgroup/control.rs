//! Kill, freeze, remove, and who is in a cgroup.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::folder::Root;
use super::{Cgroup, CgroupError, Layout};

/// A frozen process may first have to come back from the disk.
const FREEZE_WAIT: Duration = Duration::from_secs(5);
/// A killed process holds its cgroup until it is reaped.
const REMOVE_WAIT: Duration = Duration::from_secs(3);
/// Nothing of ours is deeper.
const SWEEP_DEPTH: usize = 12;

impl Cgroup {
    /// Kills every process in it and below it with SIGKILL. One that is gone has nobody in it.
    ///
    /// # Errors
    /// `CgroupError`, e.g. when v1's processes cannot be stopped from forking away, or for the root of the hierarchy.
    pub fn kill(&self) -> Result<(), CgroupError> {
        super::path::check(&self.path)?;
        if let Some(root) = self.layout.unified() {
            let killed = root.open(&self.path).and_then(|folder| folder.write("cgroup.kill", "1"));
            match killed {
                // The file came with Linux 5.14: a folder without it is killed the old way.
                Err(error) if error.is_not_found() && root.full(&self.path).exists() => {}
                Err(error) if error.is_not_found() => return Ok(()),
                result => return result,
            }
        }
        self.kill_frozen()
    }

    /// Frozen processes cannot fork while their list is read; the signal takes effect as they thaw.
    fn kill_frozen(&self) -> Result<(), CgroupError> {
        let frozen = self.freeze();
        for process in self.processes()? {
            let _ = Pid::from_raw(process).map(|pid| kill_process(pid, Signal::KILL));
        }
        let thawed = self.thaw();
        match frozen.and(thawed) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    /// The processes in it and below it.
    ///
    /// # Errors
    /// `CgroupError::Io` when the list cannot be read; one that is gone has none.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        let Some(root) = self.layout.unified().or_else(|| self.layout.v1_roots().first()) else {
            return Ok(Vec::new());
        };
        let mut list = Vec::new();
        for path in subtree(root, &self.path) {
            match root.open(&path).and_then(|folder| folder.read("cgroup.procs")) {
                Ok(text) => list.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(list)
    }

    /// Stops all its processes, and waits until they are.
    ///
    /// # Errors
    /// `CgroupError::Timeout` when one does not stop within 5 s; it then stays asked to.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.set_frozen(true)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// `CgroupError` when the cgroup is gone.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.set_frozen(false)
    }

    /// The folder by which it is frozen, for a program that has to be told; `None` where it cannot be.
    pub fn freezer(&self) -> Option<PathBuf> {
        let unified = self.layout.unified().map(|root| root.full(&self.path));
        let unified = unified.filter(|folder| folder.join("cgroup.freeze").exists());
        unified.or_else(|| self.layout.home("freezer").map(|root| root.full(&self.path)))
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        let unified = self.layout.unified().filter(|root| root.full(&self.path).join("cgroup.freeze").exists());
        let state = if frozen { "frozen" } else { "thawed" };
        if let Some(root) = unified {
            let folder = root.open(&self.path)?;
            folder.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
            let wanted = if frozen { "frozen 1" } else { "frozen 0" };
            return wait(FREEZE_WAIT, root.full(&self.path), state, || {
                Ok(folder.read("cgroup.events")?.lines().any(|line| line == wanted))
            });
        }
        let Some(root) = self.layout.home("freezer") else {
            let (file, value) = ("freezer.state".to_owned(), state.to_owned());
            return Err(CgroupError::NoController { controller: "freezer", file, value });
        };
        let folder = root.open(&self.path)?;
        let wanted = if frozen { "FROZEN" } else { "THAWED" };
        wait(FREEZE_WAIT, root.full(&self.path), state, || {
            // A process that forks just then has to be asked again.
            folder.write("freezer.state", wanted)?;
            Ok(folder.read("freezer.state")?.trim() == wanted)
        })
    }

    /// Removes it with all below it from every hierarchy, waiting up to 3 s for killed processes to be gone.
    ///
    /// # Errors
    /// `CgroupError::Io` when a process is still in it. One that is gone is removed already.
    pub fn remove(&self) -> Result<(), CgroupError> {
        super::path::check(&self.path)?;
        let deadline = Instant::now() + REMOVE_WAIT;
        let mut result = Ok(());
        for root in self.layout.roots() {
            let removed = remove_tree(root, &self.path, deadline);
            result = result.and(removed);
        }
        result
    }

    /// Kills and removes every cgroup of that name, or scope of that id, wherever it is: for what a crash left behind
    /// and no record tells the place of. As far as it goes: what stays is swept the next time.
    pub fn sweep(layout: &Layout, name: &str) {
        let mut found: Vec<String> = Vec::new();
        for root in layout.roots() {
            find(root, "", name, SWEEP_DEPTH, &mut found);
        }
        for path in found {
            let cgroup = Cgroup::open(layout, &path);
            let _ = cgroup.kill();
            let _ = cgroup.remove();
        }
    }
}

fn find(root: &Root, below: &str, name: &str, depth: usize, found: &mut Vec<String>) {
    let scope = |child: &str| child.strip_suffix(".scope").and_then(|stem| stem.rsplit('-').next()) == Some(name);
    for child in root.children(below) {
        let path = join(below, &child);
        if child == name || scope(&child) {
            if !found.contains(&path) {
                found.push(path);
            }
        } else if depth > 0 {
            find(root, &path, name, depth - 1, found);
        }
    }
}

fn join(parent: &str, child: &str) -> String {
    if parent.is_empty() { child.to_owned() } else { format!("{parent}/{child}") }
}

/// A cgroup and all below it, parents first.
fn subtree(root: &Root, path: &str) -> Vec<String> {
    let mut list = vec![path.to_owned()];
    let mut next = 0;
    while next < list.len() {
        let children: Vec<String> = root.children(&list[next]).iter().map(|child| join(&list[next], child)).collect();
        list.extend(children);
        next += 1;
    }
    list
}

fn remove_tree(root: &Root, path: &str, deadline: Instant) -> Result<(), CgroupError> {
    let mut pause = Duration::from_micros(200);
    loop {
        match root.remove(path) {
            Ok(()) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) if Instant::now() < deadline => {}
            Err(errno) => {
                return Err(CgroupError::Io { op: "remove", path: root.full(path), source: errno.into() });
            }
        }
        let children = root.children(path);
        for child in &children {
            remove_tree(root, &join(path, child), deadline)?;
        }
        if children.is_empty() {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

fn wait(
    limit: Duration,
    path: PathBuf,
    state: &'static str,
    mut done: impl FnMut() -> Result<bool, CgroupError>,
) -> Result<(), CgroupError> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(50);
    while !done()? {
        if Instant::now() >= deadline {
            return Err(CgroupError::Timeout { path, state });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    Ok(())
}
