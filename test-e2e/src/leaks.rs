//! What a runtime may leave on a machine. A [`Census`] is taken before and after; the difference is what leaked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use crate::agent::Agent;
use crate::host::Host;
use crate::process;

/// Everything that is there, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    kinds: BTreeMap<&'static str, BTreeSet<String>>,
    /// File descriptors the agent has open.
    pub fds: usize,
}

impl Census {
    /// Counts what is on a host with this agent.
    pub fn take(host: &Host, agent: &Agent) -> Census {
        let mut kinds = BTreeMap::new();
        kinds.insert("mount", mounts(host.pid()));
        kinds.insert("interface", host.run(interfaces));
        kinds.insert("network namespace", network_namespaces(host.pid()));
        kinds.insert("cgroup", cgroups(&agent.cgroup));
        kinds.insert("process", processes(host.pid()));
        let mut files = BTreeSet::new();
        for root in [&agent.root, &agent.run_root] {
            walk(root, &mut files);
        }
        kinds.insert("file or folder", files);
        kinds.insert("netfilter entry", host.run(netfilter));
        let fds = std::fs::read_dir(format!("/proc/{}/fd", agent.pid)).map_or(0, |entries| entries.count());
        Census { kinds, fds }
    }

    /// What is in `self` and was not in `before`.
    pub fn more_than(&self, before: &Census) -> Difference {
        let mut lines = Vec::new();
        for (kind, now) in &self.kinds {
            let then = &before.kinds[kind];
            lines.extend(now.difference(then).map(|thing| format!("{kind}: {thing}")));
        }
        if self.fds > before.fds {
            lines.push(format!("fds of the agent: {} were {}", self.fds, before.fds));
        }
        Difference(lines)
    }
}

/// What leaked, a line each.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference(pub Vec<String>);

impl Difference {
    /// Nothing leaked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} things too many:\n{}", self.0.len(), self.0.join("\n"))
    }
}

/// Mounts by id: the same mount made again has another.
fn mounts(pid: i32) -> BTreeSet<String> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    table.lines().map(str::to_owned).collect()
}

/// Interface names of the calling thread's network namespace.
fn interfaces() -> BTreeSet<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

fn network_namespaces(host: i32) -> BTreeSet<String> {
    let held = process::descendants(host).into_iter().filter_map(|pid| {
        std::fs::read_link(format!("/proc/{pid}/ns/net")).ok().map(|link| link.display().to_string())
    });
    let pinned = std::fs::read_dir(format!("/proc/{host}/root/run/netns")).into_iter().flatten().flatten();
    held.chain(pinned.map(|entry| format!("/run/netns/{}", entry.file_name().display()))).collect()
}

/// Every cgroup below `parent` in every hierarchy.
fn cgroups(parent: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let root = Path::new("/sys/fs/cgroup");
    folders(&root.join(parent), &mut found);
    for hierarchy in std::fs::read_dir(root).into_iter().flatten().flatten() {
        folders(&hierarchy.path().join(parent), &mut found);
    }
    found
}

/// A folder that is one of many by its number (exec-7) is told by its name and ordinal: which of them there are does not matter.
fn folders(folder: &Path, found: &mut BTreeSet<String>) {
    let mut numbered: BTreeMap<String, usize> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let mut path = entry.path().display().to_string();
            if let Some((name, number)) = path.rsplit_once('-')
                && number.parse::<u32>().is_ok()
            {
                let count = numbered.entry(name.to_owned()).or_default();
                *count += 1;
                path = format!("{name} #{count}");
            }
            found.insert(path);
            folders(&entry.path(), found);
        }
    }
}

/// Processes as name and ordinal: pids differ, how many there are of a name must not.
fn processes(host: i32) -> BTreeSet<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let name = |pid: i32| process::command_line(pid).split(' ').next().map(str::to_owned);
    let names = process::descendants(host).into_iter().filter_map(name);
    names
        .map(|name| {
            let count = counts.entry(name.clone()).or_default();
            *count += 1;
            format!("{name} #{count}")
        })
        .collect()
}

/// Paths below a state folder. Layers are listed and not looked into: a pod's life does not touch what is in them.
fn walk(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        found.insert(path.display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !folder.ends_with("layers") {
            walk(&path, found);
        }
    }
}

/// The rules of both netfilter tables and what else nftables has, elements one by one, without their counters.
fn netfilter() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let output = std::process::Command::new(program).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        found.extend(text.lines().filter(|line| line.starts_with('-')).map(|line| format!("{program}: {line}")));
    }
    let output = std::process::Command::new("nft").args(["--stateless", "list", "ruleset"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let words = text.split(['\n', ',', '{', '}']).map(|part| part.trim().trim_start_matches("elements =").trim());
    found.extend(words.filter(|part| !part.is_empty()).map(|part| format!("nft: {part}")));
    found
}
