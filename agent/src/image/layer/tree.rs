//! The folder that a layer is unpacked into. Every path is resolved beneath it: a name with `..`, a symlink that climbs
//! above the root and one that leads to nothing are errors; an absolute symlink starts at the layer's own root.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use super::walk::{DEEPEST, Implied, components, walk};

pub(super) const LONGEST_PATH: usize = 4095;
const LONGEST_NAME: usize = 255;
/// Marks a folder that hides the ones below it (kernel, Documentation/filesystems/overlayfs.rst).
const OPAQUE: &str = "trusted.overlay.opaque";

/// Why a path of an entry cannot be used, or a system call failed.
#[derive(Debug)]
pub(super) enum TreeError {
    /// The entry breaks a rule.
    Refused(String),
    /// The file system failed.
    Io(&'static str, io::Error),
}

impl TreeError {
    pub(super) fn refused<T>(reason: impl Into<String>) -> Result<T, Self> {
        Err(Self::Refused(reason.into()))
    }
}

/// Names a failed system call.
pub(super) trait Named<T> {
    fn named(self, op: &'static str) -> Result<T, TreeError>;
}

impl<T> Named<T> for Result<T, Errno> {
    fn named(self, op: &'static str) -> Result<T, TreeError> {
        self.map_err(|e| TreeError::Io(op, e.into()))
    }
}

/// An entry's path within the layer: its folder and its name there. The root itself has no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryPath {
    pub(super) parent: Vec<u8>,
    pub(super) name: Vec<u8>,
}

impl EntryPath {
    /// Cleans what an archive says: a leading `/` or `./` means the layer's root.
    pub(super) fn parse(text: &[u8]) -> Result<Self, TreeError> {
        if text.contains(&0) {
            return TreeError::refused("its name contains a NUL");
        }
        // PATH_MAX and NAME_MAX; of a longer one no file can be made, and no error should quote it.
        if text.len() > LONGEST_PATH || text.split(|b| *b == b'/').any(|name| name.len() > LONGEST_NAME) {
            return TreeError::refused("it is longer than 4095 bytes, or a name in it longer than 255");
        }
        if components(text).count() > DEEPEST {
            return TreeError::refused("it is nested deeper than 512 folders");
        }
        let mut parent = Vec::with_capacity(text.len());
        let mut name: &[u8] = b"";
        for component in text.split(|b| *b == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return TreeError::refused("its name climbs with \"..\""),
                _ => {}
            }
            if !name.is_empty() {
                if !parent.is_empty() {
                    parent.push(b'/');
                }
                parent.extend_from_slice(name);
            }
            name = component;
        }
        Ok(Self { parent, name: name.to_vec() })
    }

    pub(super) fn is_root(&self) -> bool {
        self.name.is_empty()
    }

    /// The whole path, without a leading slash.
    pub(super) fn whole(&self) -> Vec<u8> {
        if self.parent.is_empty() { self.name.clone() } else { [&self.parent, &b"/"[..], &self.name].concat() }
    }
}

/// See the module's head.
pub(super) struct Tree {
    root: OwnedFd,
    /// The folder of the entry before: entries come in order, so it is mostly the next one's too.
    cached: Option<(Vec<u8>, OwnedFd)>,
    implied: Implied,
}

impl Tree {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let root = sys::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, cached: None, implied: Implied::default() })
    }

    /// The folders that the archive implied, for whoever knows the layers below.
    pub(super) fn implied(&self) -> Vec<PathBuf> {
        self.implied.folders.iter().map(|path| PathBuf::from(OsStr::from_bytes(path))).collect()
    }

    /// An entry of its own came for this folder, whose name the caller keeps.
    pub(super) fn described(&mut self, path: &[u8]) -> Result<(), TreeError> {
        if !self.implied.folders.is_empty() {
            self.implied.folders.remove(path);
        }
        self.implied.account(path)
    }

    /// A folder was removed or replaced: the cached one may be it.
    pub(super) fn forget(&mut self) {
        self.cached = None;
    }

    /// The folder `path`, made if it is missing.
    pub(super) fn folder(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, TreeError> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.cached.as_ref().is_none_or(|(cached, _)| cached != path) {
            let fd = match self.resolve(path) {
                Err(Errno::XDEV | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.walk(path, true)?,
                other => other.named("open")?,
            };
            self.cached = Some((path.to_vec(), fd));
        }
        match &self.cached {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => Ok(self.root.as_fd()),
        }
    }

    /// The folder `path` if it is there; nothing is made.
    pub(super) fn existing_folder(&self, path: &[u8]) -> Result<OwnedFd, TreeError> {
        match self.resolve(if path.is_empty() { b"." } else { path }) {
            Err(Errno::XDEV | Errno::LOOP | Errno::NOTDIR) => self.walk_existing(path),
            other => other.named("open"),
        }
    }

    /// One system call for the usual case: beneath the root, no symlink, no mount.
    fn resolve(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let confined = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        loop {
            match sys::openat2(&self.root, path, flags, Mode::empty(), confined) {
                // The kernel could not prove that no `..` raced with a rename elsewhere (openat2(2)).
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    fn walk_existing(&self, path: &[u8]) -> Result<OwnedFd, TreeError> {
        let mut unused = Implied::default();
        walk(self.root.as_fd(), path, false, &mut unused)
    }

    fn walk(&mut self, path: &[u8], make: bool) -> Result<OwnedFd, TreeError> {
        walk(self.root.as_fd(), path, make, &mut self.implied)
    }
}

/// Is there a whiteout of that name?
pub(super) fn is_whiteout(stat: &sys::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Hides what the layers below have in this folder.
pub(super) fn set_opaque(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), TreeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = if name.is_empty() { b"." } else { name };
    let folder = sys::openat(folder, name, flags, Mode::empty()).named("open")?;
    sys::fsetxattr(&folder, OPAQUE, b"y", XattrFlags::empty()).named("mark as opaque")
}

/// Removes whatever has that name, a folder with all it holds, without following anything.
pub(super) fn remove_all(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), TreeError> {
    match sys::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return other.named("remove"),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = File::from(sys::openat(folder, name, flags, Mode::empty()).named("open")?);
    let names: Vec<Vec<u8>> = sys::Dir::read_from(&inner)
        .and_then(|entries| entries.map(|e| e.map(|e| e.file_name().to_bytes().to_vec())).collect())
        .named("list")?;
    for inside in names.iter().filter(|n| !matches!(n.as_slice(), b"." | b"..")) {
        remove_all(inner.as_fd(), inside)?;
    }
    sys::unlinkat(folder, name, AtFlags::REMOVEDIR).named("remove")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Result<String, String> {
        match EntryPath::parse(text.as_bytes()) {
            Ok(path) => Ok(String::from_utf8_lossy(&path.whole()).into_owned()),
            Err(TreeError::Refused(reason)) => Err(reason),
            Err(TreeError::Io(op, _)) => panic!("{op}"),
        }
    }

    #[test]
    fn names_are_cleaned_and_never_climb() {
        for (text, clean) in
            [("./", ""), ("/", ""), ("./a", "a"), ("/etc/passwd", "etc/passwd"), ("a//b/./c/", "a/b/c")]
        {
            assert_eq!(parsed(text), Ok(clean.to_owned()), "{text}");
        }
        for text in ["..", "../x", "a/../../x", "a/..", "/.."] {
            assert!(parsed(text).is_err(), "{text}");
        }
        assert!(parsed("a\0b").is_err());
    }

    proptest! {
        #[test]
        fn a_clean_name_has_no_way_out(text in "[a./]{0,20}") {
            if let Ok(clean) = parsed(&text) {
                prop_assert!(!clean.starts_with('/') && clean.split('/').all(|c| c != ".." && c != "."));
            }
        }
    }

    fn folder() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        (dir, tree)
    }

    fn reason(result: Result<BorrowedFd<'_>, TreeError>) -> String {
        match result {
            Err(TreeError::Refused(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn symlinks_are_followed_only_inside() {
        use std::os::unix::fs::symlink;
        let (dir, mut tree) = folder();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("usr/lib")).unwrap();
        symlink("usr/lib", at("lib")).unwrap();
        symlink("/usr", at("absolute")).unwrap();
        symlink("/etc", at("nowhere")).unwrap();
        symlink("../../../../tmp", at("climbing")).unwrap();
        symlink("../usr", at("usr/sideways")).unwrap();
        symlink("turning", at("turning")).unwrap();
        tree.folder(b"lib/made").unwrap();
        assert!(at("usr/lib/made").is_dir());
        tree.folder(b"absolute/lib/too").unwrap();
        assert!(at("usr/lib/too").is_dir());
        tree.folder(b"usr/sideways/new").unwrap();
        assert!(at("usr/new").is_dir());
        assert!(reason(tree.folder(b"nowhere/x")).contains("does not have"));
        assert!(reason(tree.folder(b"climbing/x")).contains("climbs out"));
        assert!(reason(tree.folder(b"turning")).contains("too many symlinks"));
        std::fs::write(at("file"), "").unwrap();
        assert!(reason(tree.folder(b"file/x")).contains("not a folder"));
    }

    #[test]
    fn implied_folders_are_told() {
        let (dir, mut tree) = folder();
        tree.folder(b"a/b/c").unwrap();
        tree.described(b"a/b").unwrap();
        assert!(dir.path().join("a/b/c").is_dir());
        assert_eq!(tree.implied(), [PathBuf::from("a"), PathBuf::from("a/b/c")]);
    }

    #[test]
    fn removing_takes_all_and_follows_nothing() {
        let (dir, tree) = folder();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("kept"), "").unwrap();
        std::fs::create_dir_all(dir.path().join("x/y/z")).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("x/y/link")).unwrap();
        remove_all(tree.root.as_fd(), b"x").unwrap();
        assert!(!dir.path().join("x").exists() && outside.path().join("kept").exists());
    }
}
