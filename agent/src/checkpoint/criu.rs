//! criu, run as a program: what it is asked, and what its log says when it cannot. It is run by `nsenter` in the network, IPC
//! and UTS namespaces of the pod, which belong to all of the pod's containers: what is criu's own it neither takes nor remakes.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::CheckpointError;

/// The oldest that knows what is asked of it here.
const OLDEST: (u32, u32) = (3, 16);
const OLDEST_TEXT: &str = "3.16";
/// Its logs, in the folder that it is told to work in.
const DUMP_LOG: &str = "dump.log";
const RESTORE_LOG: &str = "restore.log";
/// Deleted files that are still open are kept in the images up to this size, bytes; criu's own limit is 1 MiB.
const GHOST_LIMIT: &str = "67108864";
/// Errors of a log that are told: the last ones, which name the cause.
const TOLD: usize = 4;

/// The program, and what it says of itself.
#[derive(Debug, Clone)]
pub struct Criu {
    program: PathBuf,
    version: String,
}

/// A process whose network, IPC and UTS namespaces are the pod's.
#[derive(Debug, Clone, Copy)]
pub struct Namespaces(pub i32);

/// What is taken.
#[derive(Debug)]
pub struct Dump<'a> {
    /// The container's first process, as the host counts.
    pub pid: i32,
    /// Whose namespaces criu runs in.
    pub namespaces: Namespaces,
    /// An empty folder for the images.
    pub images: &'a Path,
    /// The folder for criu's log and statistics.
    pub work: &'a Path,
    /// The container's frozen cgroup.
    pub frozen: &'a Path,
    /// `mounts::external`.
    pub external: &'a [String],
}

/// What is remade.
#[derive(Debug)]
pub struct Restore<'a> {
    /// The images.
    pub images: &'a Path,
    /// The folder for criu's log and statistics.
    pub work: &'a Path,
    /// Where criu leaves the id of the first process.
    pub pid_file: &'a Path,
    /// In it are the root, `0`, and the external mounts, `1`, `2` …
    pub staging: &'a Path,
    /// `mounts::external` of the container that is to be.
    pub external: &'a [String],
}

impl Criu {
    /// Asks the program who it is.
    ///
    /// # Errors
    /// `NoCriu`, `TooOld`.
    pub fn find(program: &Path) -> Result<Self, CheckpointError> {
        let failed = |source| CheckpointError::NoCriu { program: program.to_owned(), source };
        let output = run(Command::new(program).arg("--version")).map_err(failed)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some(version) = version(&said) else {
            return Err(failed(io::Error::other(format!("it says of its version: {:?}", said.trim()))));
        };
        if numbers(version).is_none_or(|found| found < OLDEST) {
            let (program, found) = (program.to_owned(), version.to_owned());
            return Err(CheckpointError::TooOld { program, found, wanted: OLDEST_TEXT });
        }
        Ok(Self { program: program.to_owned(), version: version.to_owned() })
    }

    /// Its version, as in "3.17.1".
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Takes the processes into images. They are in a frozen cgroup before, and afterwards, whether it worked or not.
    ///
    /// # Errors
    /// `Kernel` when it can take nothing at all here, else `Refused`.
    pub fn dump(&self, dump: &Dump<'_>) -> Result<(), CheckpointError> {
        let failed = |source| CheckpointError::NoCriu { program: "nsenter".into(), source };
        let output =
            run(Command::new("nsenter").args(enter(dump.namespaces)).arg(&self.program).args(dump_arguments(dump)))
                .map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let log = std::fs::read_to_string(dump.work.join(DUMP_LOG)).unwrap_or_default();
        Err(self.why("take the container's processes", &log, &output))
    }

    /// The program and its arguments for a restore: the processes become siblings of it, with what whoever runs it has prepared.
    ///
    /// # Errors
    /// `Unsupported` for a path that is no UTF-8.
    pub fn restore_arguments(&self, restore: &Restore<'_>) -> Result<Vec<String>, CheckpointError> {
        let mut arguments: Vec<OsString> = vec![self.program.clone().into(), "restore".into()];
        // Connections of another time and, perhaps, another address: their sockets come back closed.
        let flags = [
            "--restore-detached",
            "--restore-sibling",
            "--leave-stopped",
            "-v3",
            "--manage-cgroups=ignore",
            "--file-locks",
            "--tcp-close",
        ];
        arguments.extend(flags.map(OsString::from));
        for (option, value) in [
            ("--images-dir", restore.images.as_os_str()),
            ("--work-dir", restore.work.as_os_str()),
            ("--log-file", RESTORE_LOG.as_ref()),
            ("--pidfile", restore.pid_file.as_os_str()),
            ("--root", restore.staging.join("0").as_os_str()),
        ] {
            arguments.extend([option.into(), value.to_owned()]);
        }
        for (number, place) in (1..).zip(restore.external) {
            let at = restore.staging.join(number.to_string());
            arguments.extend(["--external".into(), format!("mnt[{place}]:{}", at.display()).into()]);
        }
        let text = |argument: OsString| argument.into_string();
        arguments.into_iter().map(text).collect::<Result<_, _>>().map_err(|_| CheckpointError::Unsupported {
            what: "a container on this node",
            reason: "the agent's folders or criu's have names that are no UTF-8",
        })
    }

    /// Whose fault it was: `criu check` fails where criu can do nothing at all.
    fn why(&self, what: &'static str, log: &str, output: &Output) -> CheckpointError {
        let check = run(Command::new(&self.program).arg("check"));
        if let Ok(check) = &check
            && !check.status.success()
        {
            let said = errors(&String::from_utf8_lossy(&check.stderr));
            let (program, version) = (self.program.clone(), self.version.clone());
            return CheckpointError::Kernel { program, version, said };
        }
        let said = match errors(log) {
            said if said.is_empty() => {
                format!("{}; {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
            }
            said => said,
        };
        CheckpointError::Refused { what, said }
    }
}

/// The errors of the log of a restore in the folder `work`, whose files of criu are taken away.
pub fn restore_errors(work: &Path) -> String {
    let log = work.join(RESTORE_LOG);
    let said = errors(&std::fs::read_to_string(&log).unwrap_or_default());
    for file in [log, work.join("stats-restore")] {
        let _ = std::fs::remove_file(file);
    }
    said
}

fn run(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).output()
}

fn enter(Namespaces(pid): Namespaces) -> Vec<OsString> {
    let namespace = |name: &str| OsString::from(format!("--{name}=/proc/{pid}/ns/{name}"));
    vec![namespace("net"), namespace("ipc"), namespace("uts"), "--".into()]
}

fn dump_arguments(dump: &Dump<'_>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["dump".into(), "--leave-running".into(), "--tree".into()];
    arguments.push(dump.pid.to_string().into());
    for (option, value) in [
        ("--images-dir", dump.images.as_os_str()),
        ("--work-dir", dump.work.as_os_str()),
        ("--log-file", DUMP_LOG.as_ref()),
        ("--freeze-cgroup", dump.frozen.as_os_str()),
        ("--ghost-limit", GHOST_LIMIT.as_ref()),
    ] {
        arguments.extend([option.into(), value.to_owned()]);
    }
    // Cgroups are made by whoever restores. Connections are taken so that their sockets can come back, closed.
    arguments.extend(["-v3", "--manage-cgroups=ignore", "--file-locks", "--tcp-established"].map(OsString::from));
    for place in dump.external {
        arguments.extend(["--external".into(), format!("mnt[{place}]:{place}").into()]);
    }
    arguments
}

/// "Version: 3.17.1", the first line of `criu --version`.
fn version(said: &str) -> Option<&str> {
    said.lines().find_map(|line| line.strip_prefix("Version:")).map(str::trim).filter(|version| !version.is_empty())
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next().and_then(Result::ok).unwrap_or(0)))
}

/// The last lines with an error of a log, without their times: "(00.012345) Error (criu/tty.c:1234): tty: ..." and, on standard
/// error, "Error (criu/vdso.c:381): ...".
fn errors(log: &str) -> String {
    let error = |line: &str| {
        let at = line.find("Error (")?;
        let text = &line[at..];
        // What a container's limits make criu say each time is no cause.
        (!text.contains("RLIMIT_NOFILE")).then(|| text.trim_start_matches("Error ").trim().to_owned())
    };
    let mut found: Vec<String> = log.lines().filter_map(error).collect();
    found.dedup();
    found.split_off(found.len().saturating_sub(TOLD)).join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_and_compared() {
        assert_eq!(version("Version: 3.17.1\nGitID: v4.2\n"), Some("3.17.1"));
        assert_eq!(version("criu 3\n"), None);
        assert_eq!(numbers("4"), Some((4, 0)));
        assert_eq!(numbers("3.17.1"), Some((3, 17)));
        assert!(numbers("3.15").unwrap() < OLDEST && numbers("x").is_none());
    }

    #[test]
    fn what_is_not_there_or_not_criu_is_said_to_be_so() {
        let missing = Criu::find(Path::new("/nonexistent/criu")).unwrap_err();
        assert!(matches!(missing, CheckpointError::NoCriu { .. }), "{missing}");
        let other = Criu::find(Path::new("true")).unwrap_err();
        assert!(matches!(other, CheckpointError::NoCriu { .. }), "{other}");
    }

    #[test]
    fn a_dump_leaves_what_is_not_the_containers_own() {
        let external = ["/etc/hosts".to_owned()];
        let dump = Dump {
            pid: 42,
            namespaces: Namespaces(7),
            images: Path::new("/w/images"),
            work: Path::new("/w"),
            frozen: Path::new("/sys/fs/cgroup/berth/c"),
            external: &external,
        };
        let text = |list: Vec<OsString>| list.iter().map(|one| one.to_string_lossy().into_owned()).collect::<Vec<_>>();
        assert_eq!(
            text(enter(dump.namespaces)),
            ["--net=/proc/7/ns/net", "--ipc=/proc/7/ns/ipc", "--uts=/proc/7/ns/uts", "--"]
        );
        let arguments = text(dump_arguments(&dump)).join(" ");
        assert!(
            arguments.starts_with("dump --leave-running --tree 42 --images-dir /w/images --work-dir /w "),
            "{arguments}"
        );
        assert!(arguments.contains("--freeze-cgroup /sys/fs/cgroup/berth/c "), "{arguments}");
        assert!(arguments.ends_with("--external mnt[/etc/hosts]:/etc/hosts"), "{arguments}");
    }

    #[test]
    fn a_restore_finds_the_mounts_where_they_are_laid_out() {
        let external = ["/etc/hosts".to_owned(), "/dev".to_owned()];
        let restore = Restore {
            images: Path::new("/l/checkpoint"),
            work: Path::new("/r"),
            pid_file: Path::new("/r/pid"),
            staging: Path::new("/r/restore"),
            external: &external,
        };
        let criu = Criu { program: "criu".into(), version: "4.2".to_owned() };
        let arguments = criu.restore_arguments(&restore).unwrap().join(" ");
        assert!(arguments.starts_with("criu restore --restore-detached --restore-sibling "), "{arguments}");
        assert!(arguments.contains("--pidfile /r/pid --root /r/restore/0 "), "{arguments}");
        assert!(
            arguments.ends_with("--external mnt[/etc/hosts]:/r/restore/1 --external mnt[/dev]:/r/restore/2"),
            "{arguments}"
        );
    }

    #[test]
    fn a_log_is_cut_to_its_errors() {
        let log = "(00.01) nothing\n(00.02) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self\n\
                   (00.03) Error (criu/tty.c:9): tty: no\nError (criu/cr-dump.c:2): Dumping FAILED.\n";
        assert_eq!(errors(log), "(criu/tty.c:9): tty: no; (criu/cr-dump.c:2): Dumping FAILED.");
        assert_eq!(errors(""), "");
    }
}
