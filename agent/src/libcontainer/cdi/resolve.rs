//! Names to edits: the files of the node are read anew each time, so that a vendor's file counts as soon as it is there.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::document::{Document, Edits, Node};
use super::{CdiError, DeviceName};

/// A file with a node for each of a thousand devices has a tenth of it.
const LONGEST_FILE: u64 = 4 << 20;
/// In one folder.
const MOST_FILES: usize = 1024;
/// How many unusable files an error tells of.
const TOLD: usize = 3;

/// What the devices of a request need, in the order in which it is to be put into the `Spec`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Injection {
    pub(super) edits: Vec<Named>,
}

/// Edits, and whose they are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) edits: Edits,
}

/// A file that can be used. Files of a later folder come before those of an earlier one.
struct Found {
    path: PathBuf,
    folder: usize,
    document: Document,
}

/// Looks the devices up in the folders' files; a file in a later folder wins over one in an earlier folder.
///
/// # Errors
/// `CdiError`: no file has them, or two of the same folder have; a node is not there. None of the others is then given.
pub fn resolve(dirs: &[PathBuf], names: &[DeviceName]) -> Result<Injection, CdiError> {
    let mut injection = Injection::default();
    if names.is_empty() {
        return Ok(injection);
    }
    let mut trouble = Vec::new();
    let files = read_all(dirs, &mut trouble);
    let (mut used, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        let Some((file, edits)) = find(&files, name, &mut trouble) else {
            missing.push(name.to_string());
            continue;
        };
        // What all devices of a file need is needed once.
        if !used.contains(&&file.path) {
            used.push(&file.path);
            injection
                .edits
                .push(Named { name: file.document.kind.clone(), edits: file.document.container_edits.clone() });
        }
        injection.edits.push(Named { name: name.to_string(), edits: edits.clone() });
    }
    if !missing.is_empty() {
        let told: Vec<String> = trouble.iter().take(TOLD).cloned().collect();
        let hint = if told.is_empty() { String::new() } else { format!(" ({})", told.join("; ")) };
        return Err(CdiError::Unresolvable { names: missing, dirs: dirs.to_vec(), hint });
    }
    for Named { name, edits } in &mut injection.edits {
        for node in &mut edits.device_nodes {
            complete(name, node)?;
        }
    }
    Ok(injection)
}

fn find<'f>(files: &'f [Found], name: &DeviceName, trouble: &mut Vec<String>) -> Option<(&'f Found, &'f Edits)> {
    let with_it = files.iter().filter(|file| file.document.kind == name.kind);
    let mut with_it = with_it.filter_map(|file| {
        let device = file.document.devices.iter().find(|device| device.name == name.device)?;
        Some((file, &device.container_edits))
    });
    let first = with_it.next()?;
    match with_it.next() {
        Some((other, _)) if other.folder == first.0.folder => {
            trouble.push(format!("{} and {} both have {name}", first.0.path.display(), other.path.display()));
            None
        }
        _ => Some(first),
    }
}

/// Those that can be used. A vendor's broken file takes nobody's devices away but its own.
fn read_all(dirs: &[PathBuf], trouble: &mut Vec<String>) -> Vec<Found> {
    let mut found = Vec::new();
    for (folder, dir) in dirs.iter().enumerate().rev() {
        let mut files: Vec<PathBuf> = match fs::read_dir(dir) {
            Ok(entries) => entries.filter_map(Result::ok).map(|entry| entry.path()).take(MOST_FILES).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                trouble.push(format!("{}: {error}", dir.display()));
                continue;
            }
        };
        files.sort();
        for path in files {
            let yaml = match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => false,
                Some("yaml") => true,
                _ => continue,
            };
            match read(&path).and_then(|text| Document::parse(&text, yaml)) {
                Ok(document) => found.push(Found { path, folder, document }),
                Err(reason) => trouble.push(format!("{}: {reason}", path.display())),
            }
        }
    }
    found
}

fn read(path: &Path) -> Result<String, String> {
    let open = || -> std::io::Result<(File, fs::Metadata)> {
        // What looks like a file may be a pipe that nobody writes to.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        Ok((file, metadata))
    };
    let (file, metadata) = open().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    let mut text = String::new();
    file.take(LONGEST_FILE + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > LONGEST_FILE { Err(format!("it is longer than {LONGEST_FILE} bytes")) } else { Ok(text) }
}

/// What the file leaves to the host: kind and numbers of a node.
fn complete(name: &str, node: &mut Node) -> Result<(), CdiError> {
    if node.host_path.is_empty() {
        node.host_path = node.path.clone();
    }
    if !node.r#type.is_empty() && (node.major != 0 || node.r#type == "p") {
        return Ok(());
    }
    let path = PathBuf::from(&node.host_path);
    let refuse = |reason: String| CdiError::Node { name: name.to_owned(), path: path.clone(), reason };
    let metadata = fs::metadata(&path).map_err(|error| refuse(error.to_string()))?;
    let kind = match metadata.file_type() {
        kind if kind.is_block_device() => "b",
        kind if kind.is_char_device() => "c",
        kind if kind.is_fifo() => "p",
        _ => return Err(refuse("it is no device".to_owned())),
    };
    if !node.r#type.is_empty() && node.r#type != kind && !(node.r#type == "u" && kind == "c") {
        return Err(refuse(format!("it is of type {kind}, not {}", node.r#type)));
    }
    node.r#type = kind.to_owned();
    let number = metadata.rdev();
    (node.major, node.minor) = (i64::from(rustix::fs::major(number)), i64::from(rustix::fs::minor(number)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(device: &str, env: &str) -> String {
        format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "v/c", "containerEdits": {{"env": ["ALL=1"]}},
                "devices": [{{"name": "{device}", "containerEdits": {{"env": ["WHO={env}"]}}}},
                            {{"name": "null-{device}", "containerEdits": {{"deviceNodes": [{{"path": "/dev/{device}", "hostPath": "/dev/null"}}]}}}}]}}"#
        )
    }

    fn names(list: &[&str]) -> Vec<DeviceName> {
        list.iter().map(|name| DeviceName::parse(name).unwrap()).collect()
    }

    #[test]
    fn a_later_folder_wins_and_a_files_own_edits_come_once() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("etc"), dir.path().join("run"), dir.path().join("none")];
        dirs[..2].iter().for_each(|dir| fs::create_dir(dir).unwrap());
        fs::write(dirs[0].join("a.json"), file("x", "etc")).unwrap();
        fs::write(dirs[1].join("a.yaml"), file("x", "run")).unwrap();
        fs::write(dirs[1].join("broken.json"), "{").unwrap();
        fs::write(dirs[1].join("README"), "not looked at").unwrap();
        let injection = resolve(&dirs, &names(&["v/c=x", "v/c=null-x"])).unwrap();
        let told: Vec<_> =
            injection.edits.iter().map(|named| (named.name.as_str(), named.edits.env.join(","))).collect();
        assert_eq!(told, [("v/c", "ALL=1".to_owned()), ("v/c=x", "WHO=run".to_owned()), ("v/c=null-x", String::new())]);
        let node = &injection.edits[2].edits.device_nodes[0];
        assert_eq!((node.r#type.as_str(), node.major, node.minor), ("c", 1, 3));
        assert_eq!(resolve(&dirs, &[]).unwrap(), Injection::default());
    }

    #[test]
    fn what_cannot_be_had_is_told_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        let refused = |list: &[&str]| resolve(&dirs, &names(list)).unwrap_err().to_string();
        assert!(refused(&["v/c=x"]).starts_with("unresolvable CDI devices v/c=x"));
        fs::write(dir.path().join("a.json"), file("x", "a")).unwrap();
        assert!(resolve(&dirs, &names(&["v/c=x"])).is_ok());
        assert!(refused(&["v/c=x", "v/c=y"]).contains("devices v/c=y"), "one of two is not enough");
        fs::write(dir.path().join("b.json"), file("x", "b")).unwrap();
        assert!(refused(&["v/c=x"]).contains("both have v/c=x"));
        fs::remove_file(dir.path().join("b.json")).unwrap();
        fs::write(dir.path().join("a.json"), "{\"kind\": 5}").unwrap();
        assert!(refused(&["v/c=x"]).contains("a.json: "));
        let node = r#"{"cdiVersion": "0.6.0", "kind": "v/c", "devices": [{"name": "x", "containerEdits": {"deviceNodes": [{"path": "/dev/x", "hostPath": "PATH", "type": "b"}]}}]}"#;
        fs::write(dir.path().join("a.json"), node.replace("PATH", "/dev/none-of-that")).unwrap();
        assert!(refused(&["v/c=x"]).contains("/dev/none-of-that"));
        fs::write(dir.path().join("a.json"), node.replace("PATH", "/dev/null")).unwrap();
        assert!(refused(&["v/c=x"]).contains("of type c, not b"));
        fs::write(dir.path().join("a.json"), node.replace("PATH", "/etc/passwd")).unwrap();
        assert!(refused(&["v/c=x"]).contains("no device"));
    }

    #[test]
    fn a_huge_file_and_a_pipe_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let huge = File::create(dir.path().join("a.json")).unwrap();
        huge.set_len(LONGEST_FILE + 1).unwrap();
        let pipe = dir.path().join("b.json");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let error = resolve(&[dir.path().to_owned()], &names(&["v/c=x"])).unwrap_err().to_string();
        assert!(error.contains("longer than") && error.contains("it is no file"), "{error}");
    }
}
