//! Processes as /proc tells. Everything here answers for processes that vanish meanwhile: they count as nothing.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

/// One process of /proc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent's id.
    pub parent: i32,
    /// Its name: at most 15 bytes (proc_pid_comm(5)).
    pub name: String,
    /// CPU time of its own and of its reaped children, in clock ticks.
    pub ticks: u64,
}

/// Reads `/proc/PID/stat`; `None` when the process is gone.
pub fn read(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may itself hold any byte: the last one closes it.
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    // Counted from field 3, the state: 4 is the parent, 14 to 17 are utime, stime, cutime, cstime.
    let parent = fields.get(1)?.parse().ok()?;
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Process { pid, parent, name, ticks })
}

/// Every process of the machine.
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(read).collect()
}

/// The pids of all processes below `root`, not `root` itself.
pub fn descendants(root: i32) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for process in all() {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        open.extend(&below);
        found.extend(below);
    }
    found
}

/// Whether the process is there and not a zombie.
pub fn is_alive(pid: i32) -> bool {
    let state = |stat: String| stat.rsplit_once(')').and_then(|(_, tail)| tail.trim_start().chars().next());
    fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(state).is_some_and(|state| !"ZX".contains(state))
}

/// Proportional set size in bytes: the process's own pages and its share of those it has in common.
pub fn pss(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    field.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// CPU time the whole machine has used, in clock ticks: user, nice, system, irq and softirq of /proc/stat.
pub fn machine_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = first.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().filter_map(|&index| fields.get(index)).sum()
}

/// Milliseconds in a clock tick: USER_HZ is 100 on every Linux that Rust has a target for.
pub const TICK_MS: f64 = 10.0;

/// The command line, its words joined by a space; empty for kernel threads and the vanished.
pub fn command_line(pid: i32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&raw).trim_end_matches('\0').replace('\0', " ")
}

/// The processes that have `key=value` in their environment, zombies left out.
pub fn with_environment(key: &str, value: &str) -> Vec<i32> {
    let wanted = format!("{key}={value}").into_bytes();
    let has = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|entry| entry == wanted)
    };
    all().into_iter().map(|process| process.pid).filter(has).collect()
}

/// The folder of a process's cgroup in a controller's hierarchy (v1), or in the one there is (v2).
pub fn cgroup(pid: i32, controller: &str) -> Option<std::path::PathBuf> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let root = std::path::Path::new("/sys/fs/cgroup");
    let of = |line: &str, wanted: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let names = fields.next()?;
        let path = fields.next()?.trim_start_matches('/').to_owned();
        names.split(',').any(|name| name == wanted).then_some(path)
    };
    if let Some(path) = table.lines().find_map(|line| of(line, controller)) {
        return Some(root.join(controller).join(path));
    }
    table.lines().find_map(|line| of(line, "")).map(|path| root.join(path))
}

/// Whether this machine has only cgroup v2.
pub fn cgroup_is_v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The process that listens on a unix socket: the runtime behind a CRI endpoint (SO_PEERCRED, unix(7)).
pub fn listener_of(socket: &str) -> std::io::Result<i32> {
    let stream = std::os::unix::net::UnixStream::connect(socket)?;
    Ok(nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)?.pid())
}

/// Where a program of that name is, by PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").filter(|_| !name.is_empty())?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_found_with_its_parent() {
        let own = read(std::process::id() as i32).expect("own stat");
        assert_eq!(own.parent, nix::unistd::getppid().as_raw());
        assert!(descendants(own.parent).contains(&own.pid));
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().expect("true");
        let pid = child.id() as i32;
        while is_alive(pid) {
            std::thread::yield_now();
        }
        assert!(read(pid).is_some(), "not reaped yet, so it is still listed");
        child.wait().expect("wait");
        assert!(read(pid).is_none());
    }
}
