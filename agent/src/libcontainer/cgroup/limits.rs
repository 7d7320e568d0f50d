//! Limits of a cgroup: set in a new one, or changed in one that is in use, all of them or none.

/// `blockIO`.
mod block_io;
/// Resources to file contents.
mod plan;
/// Limits that only bundles ask for.
mod rare;
/// File contents to what takes a write back.
mod restore;

use oci_spec::runtime::LinuxResources;

use super::folder::{Folder, Root};
use super::{Cgroup, CgroupError, Layout};
use crate::model::CgroupValue;

pub use plan::cpu_weight;
use plan::{Host, Missing, UNIFIED, Write, plan};

/// Sets what is given in a new cgroup. Whoever made it removes it when this fails: nothing is taken back.
pub(super) fn set(layout: &Layout, path: &str, resources: &LinuxResources) -> Result<(), CgroupError> {
    let target = Target { layout, path };
    let mut folder = None;
    for one in plan(resources, &Host { is_v2: &|name| target.is_v2(name), current: &|_, _| None })? {
        target.put(&one, &mut folder)?;
    }
    Ok(())
}

/// A change of limits that was looked up and not yet made: it is known what takes it back.
#[derive(Debug)]
pub struct Change {
    cgroup: Cgroup,
    writes: Vec<CgroupValue>,
    undo: Vec<CgroupValue>,
}

impl Change {
    /// Nothing of it is made. Memory that the new limit has no room for is reclaimed, as far as that goes.
    ///
    /// # Errors
    /// `CgroupError`: the cgroup is gone, the host does not have such a limit, or more memory is in use than the new
    /// limit allows.
    pub(super) fn of(cgroup: &Cgroup, resources: &LinuxResources) -> Result<Self, CgroupError> {
        let target = Target { layout: &cgroup.layout, path: &cgroup.path };
        let host =
            Host { is_v2: &|name| target.is_v2(name), current: &|name, file| target.open(name).ok()?.read(file).ok() };
        let (mut writes, mut undo) = (Vec::new(), Vec::new());
        for one in plan(resources, &host)? {
            if let Some((write, back)) = target.look_up(&one)? {
                target.make_room(&write)?;
                writes.push(write);
                undo.push(back);
            }
        }
        Ok(Self { cgroup: cgroup.clone(), writes, undo })
    }

    /// What takes the change back, in the order in which it is made.
    pub fn undo(&self) -> &[CgroupValue] {
        &self.undo
    }

    /// Makes it, as a whole or not at all.
    ///
    /// # Errors
    /// `CgroupError`: which file did not take which value; `NotUndone` when the limits before it could not be written back.
    pub fn carry_out(&self) -> Result<(), CgroupError> {
        let target = Target { layout: &self.cgroup.layout, path: &self.cgroup.path };
        for (index, one) in self.writes.iter().enumerate() {
            if let Err(error) = target.write(one) {
                return Err(match self.cgroup.put_back(&self.undo[..index]) {
                    Ok(()) => error,
                    Err(back) => CgroupError::NotUndone { undo: back.to_string(), source: Box::new(error) },
                });
            }
        }
        Ok(())
    }

    /// Takes it back after it was carried out.
    ///
    /// # Errors
    /// As `Cgroup::put_back`.
    pub fn take_back(&self) -> Result<(), CgroupError> {
        self.cgroup.put_back(&self.undo)
    }
}

impl Cgroup {
    /// Writes values back that a change has replaced, the last one first. A cgroup that is gone has none.
    ///
    /// # Errors
    /// `CgroupError::Write`: the first that did not work; the others are written all the same.
    pub fn put_back(&self, values: &[CgroupValue]) -> Result<(), CgroupError> {
        let target = Target { layout: &self.layout, path: &self.path };
        let mut result = Ok(());
        for one in values.iter().rev() {
            match target.write(one) {
                Err(CgroupError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                written => result = result.and(written),
            }
        }
        result
    }
}

struct Target<'a> {
    layout: &'a Layout,
    path: &'a str,
}

impl<'a> Target<'a> {
    fn home(&self, controller: &str) -> Option<&'a Root> {
        match controller {
            UNIFIED => self.layout.unified(),
            // Its name in v1.
            "io" => self.layout.home("blkio").or_else(|| self.layout.home("io")),
            name => self.layout.home(name),
        }
    }

    fn is_v2(&self, controller: &str) -> bool {
        let unified = self.layout.unified();
        self.home(controller).is_some_and(|home| unified.is_some_and(|unified| std::ptr::eq(home, unified)))
    }

    fn open(&self, controller: &str) -> Result<Folder, CgroupError> {
        match self.home(controller) {
            Some(root) => root.open(self.path),
            None => Err(CgroupError::NoHierarchy),
        }
    }

    /// As `open`, for a value, whose limit cannot be had where there is no such controller.
    fn open_for(&self, wanted: &Write) -> Result<Folder, CgroupError> {
        if self.home(wanted.controller).is_none() {
            Err(self.unavailable(wanted))
        } else {
            self.open(wanted.controller)
        }
    }

    /// Writes where a file of that name is; `folder` is the one that was used last.
    fn put(&self, wanted: &Write, folder: &mut Option<(&'static str, Folder)>) -> Result<(), CgroupError> {
        let opened = match folder.take() {
            Some((controller, opened)) if controller == wanted.controller => opened,
            _ => self.open_for(wanted)?,
        };
        let (_, opened) = folder.insert((wanted.controller, opened));
        match opened.write(&wanted.file, &wanted.value) {
            Err(error) if error.is_no_file() => match &wanted.missing {
                Missing::Refuse => Err(self.unavailable(wanted)),
                Missing::Skip => Ok(()),
                Missing::Instead(other) => self.put(other, folder),
            },
            result => result,
        }
    }

    /// A write and what takes it back.
    fn look_up(&self, wanted: &Write) -> Result<Option<(CgroupValue, CgroupValue)>, CgroupError> {
        let old = match self.open_for(wanted)?.read(&wanted.file) {
            Ok(old) => old,
            Err(error) if error.is_no_file() => {
                return match &wanted.missing {
                    Missing::Refuse => Err(self.unavailable(wanted)),
                    Missing::Skip => Ok(None),
                    Missing::Instead(other) => self.look_up(other),
                };
            }
            // memory.reclaim and its like: a deed, not a limit.
            Err(_) => {
                let reason = "the file cannot be read, so that it is no limit that could be taken back";
                return Err(CgroupError::Write {
                    file: wanted.file.clone().into(),
                    value: wanted.value.clone(),
                    source: std::io::Error::new(std::io::ErrorKind::InvalidInput, reason),
                });
            }
        };
        let value =
            |value: String| CgroupValue { controller: wanted.controller.to_owned(), file: wanted.file.clone(), value };
        let back = restore::restore(&wanted.file, &old, &wanted.value);
        Ok(Some((value(wanted.value.clone()), value(back))))
    }

    /// v2 takes any limit, and kills what does not fit; v1 reclaims, and refuses what does not fit. Here the second.
    fn make_room(&self, wanted: &CgroupValue) -> Result<(), CgroupError> {
        let Some(limit) = wanted.value.trim().parse::<u64>().ok().filter(|_| wanted.file == "memory.max") else {
            return Ok(());
        };
        let folder = self.open(&wanted.controller)?;
        if folder.number("memory.max")?.is_some_and(|present| present <= limit) {
            return Ok(());
        }
        let usage = || Ok(folder.number("memory.current")?.unwrap_or(0));
        let above: u64 = usage()?.saturating_sub(limit);
        if above > 0 {
            // As much as goes: a kernel before 5.19 has no such file, and EAGAIN is some of it. What counts is what is left.
            let _ = folder.write("memory.reclaim", &above.to_string());
        }
        match usage()? {
            usage if usage > limit => Err(CgroupError::InUse { limit, usage }),
            _ => Ok(()),
        }
    }

    fn write(&self, one: &CgroupValue) -> Result<(), CgroupError> {
        let folder = self.open(&one.controller)?;
        match folder.write(&one.file, &one.value) {
            Err(CgroupError::Write { source, .. })
                if source.raw_os_error() == Some(libc::EBUSY) && one.file.starts_with("memory.") =>
            {
                let usage = folder.number("memory.usage_in_bytes").ok().flatten().unwrap_or(0);
                Err(CgroupError::InUse { limit: one.value.trim().parse().unwrap_or(0), usage })
            }
            result => result,
        }
    }

    /// A file that is not there while its cgroup is: the controller, or the kernel's support for that file, is missing.
    fn unavailable(&self, wanted: &Write) -> CgroupError {
        let (file, value) = (wanted.file.clone(), wanted.value.clone());
        let of_v1 = file.split_once('.').is_some_and(|(name, _)| self.home(name).is_some() && !self.is_v2(name));
        if wanted.controller == UNIFIED && of_v1 {
            return CgroupError::OnV1 { file, value };
        }
        CgroupError::NoController { controller: wanted.controller, file, value }
    }
}

/// A new v1 cpuset is empty, and nothing can run in it until it has its parent's processors and memory nodes.
pub(super) fn inherit_cpuset(root: &Root, path: &str) -> Result<(), CgroupError> {
    let folder = root.open(path)?;
    let parent = root.open(path.rsplit_once('/').map_or("", |(parent, _)| parent))?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if folder.read(file)?.trim().is_empty() {
            folder.write(file, parent.read(file)?.trim())?;
        }
    }
    Ok(())
}
