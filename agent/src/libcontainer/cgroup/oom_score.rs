//! Whom the kernel kills first for memory: a property of processes, not of their cgroup.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, open, openat};

use super::{Cgroup, CgroupError};

impl Cgroup {
    /// Gives all its processes another oom_score_adj but those that have set one of their own, i.e. another than `before`.
    ///
    /// # Errors
    /// `CgroupError`: the first that the kernel did not let be changed; it tries all. One that ended is none.
    pub fn set_oom_score_adj(&self, before: i32, score: i32) -> Result<(), CgroupError> {
        let mut result = Ok(());
        for process in self.processes()? {
            match self.set_process_score(process, before, score) {
                Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(source) => {
                    let file = PathBuf::from(format!("/proc/{process}/oom_score_adj"));
                    result = result.and(Err(CgroupError::Write { file, value: score.to_string(), source }));
                }
                Ok(()) => {}
            }
        }
        result
    }

    /// By a descriptor of the process, which cannot become another's while it is looked at.
    fn set_process_score(&self, process: i32, before: i32, score: i32) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = open(format!("/proc/{process}"), flags, Mode::empty())?;
        let inside =
            |line: &str| line.rsplit(':').next().is_some_and(|path| path.trim_matches('/').starts_with(&self.path));
        if !read(&process, "cgroup")?.lines().any(inside) {
            return Ok(());
        }
        if read(&process, "oom_score_adj")?.trim().parse() != Ok(before) {
            return Ok(());
        }
        let file = openat(&process, "oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        File::from(file).write_all(score.to_string().as_bytes())
    }
}

fn read(process: &OwnedFd, file: &str) -> io::Result<String> {
    let mut text = String::new();
    File::from(openat(process, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?).read_to_string(&mut text)?;
    Ok(text)
}
