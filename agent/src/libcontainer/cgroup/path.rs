//! A container's place below its pod's cgroup, for each driver.

use super::{CgroupError, Driver, Layout};
use crate::model::ContainerId;

/// Where pods go that name no parent.
const DEFAULT_PARENT: &str = "berth";
const DEFAULT_SLICE: &str = "system.slice";

impl Layout {
    /// Refuses what cannot be the parent of a container's cgroup: with the cgroupfs driver a slice, with systemd's
    /// anything else. None is fine.
    ///
    /// # Errors
    /// `CgroupError::Path`: it climbs, or is not of the driver's kind.
    pub fn check_parent(&self, parent: &str) -> Result<(), CgroupError> {
        parent_path(self.driver(), parent).map(drop)
    }

    /// The cgroup that a parent names, below the root of each hierarchy: the path itself, or the slice's.
    ///
    /// # Errors
    /// As `check_parent`.
    pub fn parent_path(&self, parent: &str) -> Result<String, CgroupError> {
        parent_path(self.driver(), parent)
    }

    /// The cgroup of a container: `<parent>/<id>` with the cgroupfs driver, and with systemd's the scope
    /// `berth-<id>.scope` in the slice that the parent names.
    ///
    /// # Errors
    /// `CgroupError::Path`: a parent that climbs, or that is not of the driver's kind.
    pub fn container_path(&self, parent: &str, id: &ContainerId) -> Result<String, CgroupError> {
        let parent = parent_path(self.driver(), parent)?;
        Ok(match self.driver() {
            Driver::Cgroupfs => format!("{parent}/{id}"),
            Driver::Systemd => format!("{parent}/{}", scope_name(id)),
        })
    }
}

/// Where a parent is, below the root of each hierarchy.
fn parent_path(driver: Driver, parent: &str) -> Result<String, CgroupError> {
    match driver {
        Driver::Cgroupfs => {
            let parent = parent.trim_matches('/');
            if parent.ends_with(".slice") {
                return refuse(parent, "is a slice, and the cgroup driver is cgroupfs");
            }
            let parent = if parent.is_empty() { DEFAULT_PARENT } else { parent };
            check(parent)?;
            Ok(parent.to_owned())
        }
        Driver::Systemd => slice_path(if parent.is_empty() { DEFAULT_SLICE } else { parent }),
    }
}

/// The unit of a container.
pub(super) fn scope_name(id: &ContainerId) -> String {
    format!("berth-{id}.scope")
}

fn refuse<T>(path: &str, reason: &'static str) -> Result<T, CgroupError> {
    Err(CgroupError::Path { path: path.chars().take(256).collect(), reason })
}

/// Refuses what does not stay below the root of a hierarchy.
pub(super) fn check(path: &str) -> Result<(), CgroupError> {
    if path.is_empty() {
        return refuse(path, "is the root of the hierarchy");
    }
    if path.len() > 4000 || path.contains(['\0', '\n']) {
        return refuse(path, "is too long or has characters that no cgroup has");
    }
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return refuse(path, "has an empty part or one of dots");
    }
    Ok(())
}

/// From the outermost: `a/b` has the ancestors-or-self ``, `a`, `a/b`.
pub(super) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let inner = path.match_indices('/').map(|(at, _)| &path[..at]);
    std::iter::once("").chain(inner).chain(std::iter::once(path).filter(|path| !path.is_empty()))
}

/// `a-b.slice` lives in `a.slice/a-b.slice` (systemd.slice(5)). A path of slices, as kubelet may send it, counts by its
/// last part.
pub(super) fn slice_path(slice: &str) -> Result<String, CgroupError> {
    let name = slice.trim_matches('/').rsplit('/').next().unwrap_or("");
    let Some(stem) = name.strip_suffix(".slice") else {
        return refuse(slice, "is not a slice, and the cgroup driver is systemd");
    };
    if name == "-.slice" {
        return refuse(slice, "is the root slice");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '\\' | '@');
    if stem.is_empty() || !stem.chars().all(plain) || stem.split('-').any(str::is_empty) {
        return refuse(slice, "is not a slice name");
    }
    let mut path = String::new();
    let ends = stem.match_indices('-').map(|(at, _)| at).chain(std::iter::once(stem.len()));
    for end in ends {
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(&stem[..end]);
        path.push_str(".slice");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_expanded() {
        assert_eq!(slice_path("a.slice").unwrap(), "a.slice");
        assert_eq!(slice_path("a-b_c-d.slice").unwrap(), "a.slice/a-b_c.slice/a-b_c-d.slice");
        assert_eq!(slice_path("/kubepods.slice/kubepods-x.slice").unwrap(), "kubepods.slice/kubepods-x.slice");
        for bad in ["", "-.slice", "a", ".slice", "-a.slice", "a-.slice", "a--b.slice", "..", "a b.slice", "é.slice"] {
            assert!(slice_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_parent_is_of_its_drivers_kind() {
        let parent = |driver, parent: &str| parent_path(driver, parent).ok();
        assert_eq!(parent(Driver::Cgroupfs, "").as_deref(), Some("berth"));
        assert_eq!(parent(Driver::Cgroupfs, "/kubepods/pod1").as_deref(), Some("kubepods/pod1"));
        assert_eq!(parent(Driver::Cgroupfs, "kubepods.slice"), None);
        assert_eq!(parent(Driver::Systemd, "").as_deref(), Some("system.slice"));
        assert_eq!(parent(Driver::Systemd, "a-b.slice").as_deref(), Some("a.slice/a-b.slice"));
        assert_eq!(parent(Driver::Systemd, "/kubepods/pod1"), None);
    }

    #[test]
    fn ancestors_come_outermost_first() {
        assert_eq!(ancestors("a/b").collect::<Vec<_>>(), ["", "a", "a/b"]);
        assert_eq!(ancestors("").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn paths_stay_below_the_root() {
        assert!(check("a/b.c").is_ok());
        for bad in ["", "..", "a/../b", "a//b", "a/.", "a\n"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
