//! What has to hold for any archive, and for any layer made of it: it stays where it is put, and what an entry makes does not
//! depend on the entries between.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;

use super::apply::apply as unpack_into;
use super::archive::{Archive, ArchiveError, Entry, Kind};
use super::header::{BLOCK, Header};
use super::tar_writer::{EntryKind, NewEntry, TarWriter};
use super::unpack::Limits;
use crate::fuzz::Input;
use crate::image::error::ErrorKind;

const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 1000 };

type Read = (Vec<(Entry, Vec<u8>)>, Option<String>);

/// Any bytes as an archive. The check sums are made right first, or nothing would come behind them.
pub(crate) fn read(data: &[u8]) {
    let mut input = Input::new(data);
    let room = [1, 7, 512, 4096][usize::from(input.byte()) % 4];
    let bytes = with_check_sums(input.rest().to_vec());
    let whole = entries(&bytes[..]);
    assert_eq!(whole, entries(BufReader::with_capacity(room, &bytes[..])), "{room} bytes at a time");
    let mut writer = TarWriter::new(Vec::new());
    let plain: Vec<_> =
        whole.0.into_iter().filter_map(|(entry, data)| Some((rewritten(&entry)?, entry, data))).collect();
    for (new, _, data) in &plain {
        assert!(writer.entry(new, &mut data.as_slice()).is_ok(), "to memory");
    }
    let written = writer.finish().expect("to memory");
    let (again, error) = entries(&written[..]);
    assert_eq!(error, None);
    assert_eq!(
        again,
        plain.into_iter().map(|(_, entry, data)| (entry, data)).collect::<Vec<_>>(),
        "written and read again"
    );
}

/// Makes the check sum right of each block that a reader will take for a header.
fn with_check_sums(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(block) = bytes.get_mut(at..at + BLOCK) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut header = Header([0; BLOCK]);
        header.0.copy_from_slice(block);
        let size = header.size().unwrap_or(0).min(1 << 20) as usize;
        let follows = matches!(header.0[156], b'0' | 0 | b'7' | b'S' | b'x' | b'g' | b'L' | b'K');
        at += BLOCK + if follows { size.next_multiple_of(BLOCK) } else { 0 };
    }
    bytes
}

fn entries(input: impl BufRead) -> Read {
    let mut archive = Archive::new(input);
    let mut found = Vec::new();
    loop {
        match next(&mut archive) {
            Ok(Some(entry)) => found.push(entry),
            Ok(None) => return (found, None),
            Err(ArchiveError::Framing(reason)) => return (found, Some(reason.to_owned())),
            Err(ArchiveError::Read(error)) => panic!("memory cannot be read: {error}"),
        }
    }
}

fn next(archive: &mut Archive<impl BufRead>) -> Result<Option<(Entry, Vec<u8>)>, ArchiveError> {
    let Some(entry) = archive.next_entry()? else { return Ok(None) };
    assert!(entry.mode <= 0o7777 && entry.mtime.1 < 1_000_000_000);
    assert!(entry.kind == Kind::File || archive.left() == 0, "{:?} has data", entry.kind);
    match &entry.sparse {
        None => assert_eq!(entry.size, archive.left()),
        Some(areas) => {
            let end = areas.iter().fold(0, |end, (offset, length)| {
                assert!(*offset >= end, "{areas:?}");
                offset + length
            });
            assert!(end <= entry.size && areas.iter().map(|(_, length)| length).sum::<u64>() == archive.left());
        }
    }
    let begun = archive.position();
    let data = archive.read_all()?;
    assert_eq!(archive.position(), begun + data.len() as u64);
    Ok(Some((entry, data)))
}

/// The entry as our own writer takes it; `None` for what it is never given.
fn rewritten(entry: &Entry) -> Option<NewEntry> {
    let text = |text: &[u8]| !text.contains(&0) && !text.is_empty();
    let links = matches!(entry.kind, Kind::HardLink | Kind::Symlink);
    if !text(&entry.path) || entry.path.ends_with(b"/") || entry.sparse.is_some() {
        return None;
    }
    if links != text(&entry.link)
        || !links && !entry.link.is_empty()
        || entry.xattrs.iter().any(|(name, _)| name.contains(&b'='))
    {
        return None;
    }
    Some(NewEntry {
        kind: match entry.kind {
            Kind::File => EntryKind::File,
            Kind::HardLink => EntryKind::HardLink,
            Kind::Symlink => EntryKind::Symlink,
            Kind::Directory => EntryKind::Folder,
            Kind::CharDevice => EntryKind::CharDevice,
            Kind::BlockDevice => EntryKind::BlockDevice,
            Kind::Fifo => EntryKind::Fifo,
        },
        path: entry.path.clone(),
        target: entry.link.clone(),
        mode: entry.mode,
        uid: u32::try_from(entry.uid).ok()?,
        gid: u32::try_from(entry.gid).ok()?,
        size: entry.size,
        mtime: entry.mtime,
        // Linux has twelve bits of major number and twenty of minor.
        device: Some(entry.device).filter(|device| device.0 < 1 << 12 && device.1 < 1 << 20)?,
        xattrs: entry.xattrs.clone(),
    })
}

/// Entries of a small world of names, unpacked once as they are and once with others between them.
pub(crate) fn apply(data: &[u8]) {
    let world = World::new();
    let entries = invented(Input::new(data), &world.outside);
    let plain = world.unpack("plain", &archive(&entries, false));
    let disturbed = world.unpack("disturbed", &archive(&entries, true));
    assert_eq!(plain, disturbed, "{entries:?}");
    assert_eq!(snapshot(&world.outside), world.before, "{entries:?}");
}

/// What is written between the entries of an archive that is disturbed.
const BETWEEN: &str = "zz-between";

/// A folder to unpack in, and one beside it that nobody may touch. Removed at the end.
struct World {
    root: PathBuf,
    outside: PathBuf,
    before: Tree,
}

impl World {
    fn new() -> Self {
        let root = PathBuf::from(format!("/dev/shm/berth-fuzz-{}", process::id()));
        let _ = fs::remove_dir_all(&root);
        let outside = root.join("outside");
        fs::create_dir_all(outside.join("a/b")).expect("/dev/shm");
        fs::write(outside.join("c"), "kept").expect("/dev/shm");
        Self { root, before: snapshot(&outside), outside }
    }

    /// What became of the archive: the tree and the folders it implied, or the error.
    fn unpack(&self, name: &str, archive: &[u8]) -> Result<(Tree, Vec<PathBuf>), String> {
        let target = self.root.join(name);
        fs::create_dir(&target).expect("/dev/shm");
        match unpack_into(&mut Archive::new(archive), &target, "layer", &LIMITS) {
            Ok(unpacked) => {
                let implied = unpacked.implied.into_iter().filter(|path| path != Path::new(BETWEEN));
                Ok((snapshot(&target), implied.collect()))
            }
            Err(error) => {
                // The file system is in order: what fails is the archive's fault, and has to be told as that.
                assert!(error.kind() != ErrorKind::Internal, "{error:?}");
                let text = error.to_string();
                assert!(text.len() < 2000, "{text}");
                Err(text.replace(name, "…"))
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn invented(mut input: Input<'_>, outside: &Path) -> Vec<NewEntry> {
    use EntryKind::{CharDevice, Fifo, File, Folder, HardLink, Symlink};
    let mut entries = Vec::new();
    while !input.is_empty() && entries.len() < 40 {
        let how = input.byte();
        let kind = [File, Folder, Symlink, HardLink, Folder, Symlink, CharDevice, Fifo][usize::from(how & 7)];
        let mut entry = NewEntry::file(path(&mut input, outside), 0);
        entry.kind = kind;
        if matches!(kind, Symlink | HardLink) {
            entry.target = path(&mut input, outside);
        }
        if how & 8 != 0 {
            let bits = u32::from(input.byte());
            (entry.mode, entry.uid, entry.gid) = (bits << 4 | bits & 7, bits, bits >> 4);
            entry.device = (bits & 1, bits >> 1 & 3);
        }
        if how & 16 != 0 {
            let name = input.pick(&[
                &b"user.x"[..],
                b"trusted.overlay.redirect",
                b"trusted.overlay.opaque",
                b"trusted.x",
                b"security.capability",
            ]);
            entry.xattrs.push((name.to_vec(), input.pick(&[&b"y"[..], b"", b"/outside"]).to_vec()));
        }
        entries.push(entry);
    }
    entries
}

/// Up to four names of a few, so that paths meet.
fn path(input: &mut Input<'_>, outside: &Path) -> Vec<u8> {
    const NAMES: [&[u8]; 16] = [
        b"",
        b"a",
        b"b",
        b"c",
        b"d",
        b"a",
        b"b",
        b"..",
        b".",
        b".wh.a",
        b".wh.b",
        b".wh..wh..opq",
        b".wh..wh.x",
        b".wh.",
        b"outside",
        b".wh...",
    ];
    let (first, second) = (input.byte(), input.byte());
    if first == 0xff {
        return outside.join(OsStr::from_bytes(NAMES[usize::from(second & 3)])).into_os_string().into_encoded_bytes();
    }
    let parts = [first >> 4, first & 15, second >> 4, second & 15].map(|n| NAMES[usize::from(n)]);
    let mut path = parts.join(&b'/');
    if second & 0xf0 == 0 {
        // Shorter paths are what most entries have.
        path.truncate(path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1));
    }
    path
}

fn archive(entries: &[NewEntry], disturbed: bool) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    let folder = |path: String| NewEntry { kind: EntryKind::Folder, ..NewEntry::file(path, 0) };
    for (n, entry) in entries.iter().enumerate() {
        let content = n.to_string();
        let file = entry.kind == EntryKind::File;
        let entry = NewEntry { size: if file { content.len() as u64 } else { 0 }, ..entry.clone() };
        let mut written = writer.entry(&entry, &mut content.as_bytes());
        if disturbed {
            written = written.and_then(|()| writer.entry(&folder(format!("{BETWEEN}/{n}")), &mut &b""[..]));
        }
        written.expect("to memory");
    }
    writer.finish().expect("to memory")
}

/// Everything about each file but its times, by path.
type Tree = BTreeMap<PathBuf, String>;

fn snapshot(root: &Path) -> Tree {
    let (mut tree, mut inodes) = (Tree::new(), BTreeMap::new());
    look(root, Path::new(""), &mut tree, &mut inodes);
    tree
}

fn look(root: &Path, path: &Path, tree: &mut Tree, inodes: &mut BTreeMap<u64, PathBuf>) {
    let at = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) };
    let metadata = fs::symlink_metadata(&at).expect("it was listed");
    let mut text = format!("{:o} {}:{} {:x}", metadata.mode(), metadata.uid(), metadata.gid(), metadata.rdev());
    if metadata.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(&at).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        for name in names.iter().filter(|name| *name != BETWEEN) {
            look(root, &path.join(name), tree, inodes);
        }
    } else {
        let first = inodes.entry(metadata.ino()).or_insert_with(|| path.to_owned());
        text += &format!(" is {}", first.display());
        if metadata.is_symlink() {
            text += &format!(" to {:?}", fs::read_link(&at).expect("a link"));
        } else if metadata.is_file() {
            text += &format!(" holds {:?}", fs::read(&at).expect("a file"));
        }
    }
    tree.insert(path.to_owned(), text + &xattrs(&at));
}

fn xattrs(path: &Path) -> String {
    let mut list = [0; 4096];
    let length = rustix::fs::llistxattr(path, &mut list[..]).expect("attributes");
    let mut all = String::new();
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = [0; 256];
        // An empty security.capability can be set and not be read.
        let value = rustix::fs::lgetxattr(path, name, &mut value[..]).map(|length| value[..length].to_vec());
        let (name, opaque) = (String::from_utf8_lossy(name), Ok(b"y".to_vec()));
        assert!(!name.starts_with("trusted.overlay.") || name == "trusted.overlay.opaque" && value == opaque, "{name}");
        all += &format!(" {name}={value:?}");
    }
    all
}
