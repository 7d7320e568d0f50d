//! Classes of cache and memory bandwidth (Resource Director Technology): folders of the resctrl file system, which the operator
//! makes. A process enters one as it enters a cgroup, by writing 0 to a file of it, and its children are born in it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open, statfs};

/// Where it is mounted (resctrl.rst), if the processor has it and somebody mounted it.
pub const ROOT: &str = "/sys/fs/resctrl";
/// The class that everything begins in, by goresctrl's and the runtime-spec's name for it.
const DEFAULT: [&str; 2] = ["system/default", "/"];
/// RDTGROUP_SUPER_MAGIC.
const MAGIC: i64 = 0x0765_5821;
/// Folders of it that are no classes.
const NO_CLASSES: [&str; 3] = ["info", "mon_groups", "mon_data"];

/// A class that a container cannot be in.
#[derive(Debug, thiserror::Error)]
pub enum RdtError {
    /// The host shares nothing out.
    #[error("RDT class {class:?}: no resctrl file system is mounted at {ROOT}; the processor has to support it")]
    NotMounted {
        /// As requested.
        class: String,
    },
    /// The operator has made no such class.
    #[error("RDT class {class:?}: there is no such folder in {}", root.display())]
    NoClass {
        /// As requested.
        class: String,
        /// Where it would be.
        root: PathBuf,
    },
    /// The kernel.
    #[error("RDT class {class:?}: open {}", path.display())]
    Io {
        /// As requested.
        class: String,
        /// What.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The file that lets a process into a class.
///
/// # Errors
/// `RdtError`: there are no classes on this host, or none of that name.
pub fn tasks(class: &str) -> Result<OwnedFd, RdtError> {
    if !statfs(ROOT).is_ok_and(|told| told.f_type == MAGIC) {
        return Err(RdtError::NotMounted { class: class.to_owned() });
    }
    tasks_below(Path::new(ROOT), class)
}

fn tasks_below(root: &Path, class: &str) -> Result<OwnedFd, RdtError> {
    let path = match class {
        name if DEFAULT.contains(&name) => root.join("tasks"),
        name => {
            let none =
                name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) || NO_CLASSES.contains(&name);
            if none {
                return Err(RdtError::NoClass { class: class.to_owned(), root: root.to_owned() });
            }
            root.join(name).join("tasks")
        }
    };
    match open(&path, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(file) => Ok(file),
        Err(rustix::io::Errno::NOENT) => Err(RdtError::NoClass { class: class.to_owned(), root: root.to_owned() }),
        Err(errno) => Err(RdtError::Io { class: class.to_owned(), path, source: errno.into() }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_class_is_a_folder_of_its_name_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["gold", "info", "gold/mon_groups"] {
            std::fs::create_dir(root.path().join(folder)).unwrap();
            std::fs::write(root.path().join(folder).join("tasks"), "").unwrap();
        }
        std::fs::write(root.path().join("tasks"), "").unwrap();
        for (class, file) in [("gold", "gold/tasks"), ("system/default", "tasks"), ("/", "tasks")] {
            let mut tasks = std::fs::File::from(tasks_below(root.path(), class).unwrap());
            tasks.write_all(b"0").unwrap();
            assert_eq!(std::fs::read_to_string(root.path().join(file)).unwrap(), "0", "{class}");
        }
        for bad in ["silver", "info", "..", ".", "", "gold/mon_groups", "../gold", "gold\0", "mon_groups"] {
            assert!(matches!(tasks_below(root.path(), bad), Err(RdtError::NoClass { .. })), "{bad:?}");
        }
    }
}
