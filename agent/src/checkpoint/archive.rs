//! The archive: a tar file with `checkpoint/` (criu's images), `config.dump`, `spec.dump`, `rootfs-diff.tar` (a layer, whiteouts
//! included), `dump.log` and `stats-dump`. It appears under its name when it is whole and on the disk.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::CheckpointError;
use crate::image::archive::{NewEntry, TarWriter, pack};

/// Memory is in it, and with it every secret: for root alone.
pub const ARCHIVE_MODE: u32 = 0o600;
/// The folder of criu's images.
pub const IMAGES: &str = "checkpoint";
/// What the container changed of its root.
const ROOTFS_DIFF: &str = "rootfs-diff.tar";
/// In the staging folder: where the archive is being written, so that the next start can take away what a crash left.
const UNFINISHED: &str = "unfinished";
/// The end of an unfinished archive's name.
const UNFINISHED_SUFFIX: &str = ".berth-unfinished";

/// A folder in which a checkpoint is put together: whatever is in it goes into the archive.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
}

impl Staging {
    /// Makes it, empty; what an earlier try left is taken away.
    ///
    /// # Errors
    /// `Io`.
    pub fn make(dir: PathBuf) -> Result<Self, CheckpointError> {
        Self::sweep(&dir);
        let make = |path: &Path| {
            use std::os::unix::fs::DirBuilderExt;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(CheckpointError::io("make", path))
        };
        let staging = Self { dir };
        make(&staging.content())?;
        make(&staging.images())?;
        Ok(staging)
    }

    /// What will be the archive's root.
    pub fn content(&self) -> PathBuf {
        self.dir.join("content")
    }

    /// criu's images.
    pub fn images(&self) -> PathBuf {
        self.content().join(IMAGES)
    }

    /// Packs a container's writable layer.
    ///
    /// # Errors
    /// The layer has something that an archive cannot tell, or cannot be read; `Io`.
    pub fn add_rootfs_diff(&self, upper: &Path) -> Result<(), crate::image::ImageError> {
        let path = self.content().join(ROOTFS_DIFF);
        let file = File::create(&path).map_err(|source| crate::image::ImageError::io("make", &path, source))?;
        let out = pack(upper, BufWriter::new(file))?;
        out.into_inner().map_err(|error| crate::image::ImageError::io("write", &path, error.into_error())).map(drop)
    }

    /// Writes a document.
    ///
    /// # Errors
    /// `Io`.
    pub fn add(&self, name: &str, text: &[u8]) -> Result<(), CheckpointError> {
        let path = self.content().join(name);
        fs::write(&path, text).map_err(CheckpointError::io("write", path))
    }

    /// Takes a staging folder away, and the unfinished archive that it names.
    pub fn sweep(dir: &Path) {
        if let Ok(path) = fs::read(dir.join(UNFINISHED)) {
            let path = Path::new(OsStr::from_bytes(&path));
            // Only what can be ours.
            if path.as_os_str().as_bytes().ends_with(UNFINISHED_SUFFIX.as_bytes()) {
                let _ = fs::remove_file(path);
            }
        }
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(path = %dir.display(), %error, "cannot delete what a checkpoint was put together in");
            }
            _ => {}
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        Self::sweep(&self.dir);
    }
}

/// Writes the archive of what is staged to `location`, beside it first. Before it gets its name, `is_wanted` is asked whether
/// anybody still waits for it. With an error there is no archive.
///
/// # Errors
/// `Io`, `GivenUp`.
pub fn write(staging: &Staging, location: &Path, is_wanted: impl FnOnce() -> bool) -> Result<(), CheckpointError> {
    let unfinished = unfinished(location);
    let note = staging.dir.join(UNFINISHED);
    fs::write(&note, unfinished.as_os_str().as_bytes()).map_err(CheckpointError::io("write", note))?;
    let result = write_whole(&staging.content(), &unfinished).and_then(|()| match is_wanted() {
        true => fs::rename(&unfinished, location).map_err(CheckpointError::io("rename to", location)),
        false => Err(CheckpointError::GivenUp),
    });
    if result.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    result
}

fn unfinished(location: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(location.file_name().unwrap_or_default());
    name.push(UNFINISHED_SUFFIX);
    location.with_file_name(name)
}

fn write_whole(content: &Path, target: &Path) -> Result<(), CheckpointError> {
    let failed = |source| CheckpointError::io("write the archive", target)(source);
    match fs::remove_file(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(ARCHIVE_MODE).open(target).map_err(failed)?;
    let mut tar = TarWriter::new(BufWriter::with_capacity(1 << 20, file));
    add_folder(&mut tar, content, "")?;
    let file = tar.finish().and_then(|out| out.into_inner().map_err(io::IntoInnerError::into_error)).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// Adds what is in a folder of ours, in order of names.
fn add_folder<W: Write>(tar: &mut TarWriter<W>, dir: &Path, prefix: &str) -> Result<(), CheckpointError> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(CheckpointError::io("list", dir))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let failed = |source| CheckpointError::io("add to the archive", &path)(source);
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let metadata = entry.metadata().map_err(failed)?;
        if metadata.is_dir() {
            tar.entry(&folder(format!("{name}/")), &mut io::empty()).map_err(failed)?;
            add_folder(tar, &path, &format!("{name}/"))?;
        } else if metadata.is_file() {
            let mut content = File::open(&path).map_err(failed)?;
            let entry = NewEntry { mode: ARCHIVE_MODE, ..NewEntry::file(name, metadata.len()) };
            tar.entry(&entry, &mut content).map_err(failed)?;
        }
    }
    Ok(())
}

fn folder(path: String) -> NewEntry {
    NewEntry { kind: crate::image::archive::EntryKind::Folder, mode: 0o700, ..NewEntry::file(path, 0) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn staged(dir: &Path) -> Staging {
        let staging = Staging::make(dir.join("staging")).unwrap();
        staging.add("config.dump", b"{}").unwrap();
        fs::write(staging.images().join("core-1.img"), [7; 1000]).unwrap();
        staging
    }

    fn names(path: &Path) -> Vec<String> {
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn what_was_staged_is_in_the_archive_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let location = dir.path().join("c.tar");
        fs::write(&location, "an older one").unwrap();
        let staging = staged(dir.path());
        write(&staging, &location, || true).unwrap();
        drop(staging);
        assert_eq!(names(&location), ["checkpoint/", "checkpoint/core-1.img", "config.dump"]);
        assert_eq!(fs::metadata(&location).unwrap().permissions().mode() & 0o777, ARCHIVE_MODE);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_archive_that_nobody_waits_for_does_not_appear() {
        let dir = tempfile::tempdir().unwrap();
        let location = dir.path().join("c.tar");
        let staging = staged(dir.path());
        assert!(matches!(write(&staging, &location, || false), Err(CheckpointError::GivenUp)));
        drop(staging);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let staging = staged(dir.path());
        let nowhere = dir.path().join("missing/c.tar");
        write(&staging, &nowhere, || true).unwrap_err();
    }

    #[test]
    fn what_a_crash_left_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (half, other) = (dir.path().join(".c.tar.berth-unfinished"), dir.path().join("precious"));
        fs::write(&half, "half").unwrap();
        fs::write(&other, "precious").unwrap();
        for named in [&half, &other] {
            let staging = dir.path().join("staging");
            fs::create_dir(&staging).unwrap();
            fs::write(staging.join(UNFINISHED), named.as_os_str().as_bytes()).unwrap();
            Staging::sweep(&staging);
            assert!(!staging.exists());
        }
        assert!(!half.exists() && other.exists());
    }
}
