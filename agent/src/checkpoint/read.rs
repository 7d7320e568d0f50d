//! Reading an archive: it comes from a file that only root can have written, and is looked at as something hostile all the same. Of
//! criu's images only plain files with plain names are taken; documents are small; the writable layer is applied as any layer is.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{CheckpointError, Config, POD_OPTIONS, PodOptions};
use crate::image::archive::{Archive, ArchiveError, Kind};

/// The most that a document may be, bytes.
const MOST_DOCUMENT: u64 = 1 << 20;
/// The longest name of an image.
const LONGEST_NAME: usize = 128;

/// An archive on the node's disk.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
}

impl Reader {
    /// Who can write the file decides what runs in the container, with which capabilities: it has to be root alone.
    ///
    /// # Errors
    /// `BadArchive`, `Io`.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let reader = Self { path: path.to_owned() };
        let file = reader.file()?;
        let metadata = file.metadata().map_err(CheckpointError::io("look at", path))?;
        if !metadata.is_file() {
            return Err(reader.bad("it is no file"));
        }
        if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            return Err(reader.bad("others than root can write it, or it belongs to another (chown root, chmod 0600)"));
        }
        Ok(reader)
    }

    /// What it is a checkpoint of.
    ///
    /// # Errors
    /// `BadArchive`, `Io`.
    pub fn config(&self) -> Result<Config, CheckpointError> {
        self.document("config.dump")
    }

    /// What a pod's archive has in it.
    ///
    /// # Errors
    /// `BadArchive`, `Io`.
    pub fn pod_options(&self) -> Result<PodOptions, CheckpointError> {
        self.document(POD_OPTIONS)
    }

    fn document<T: serde::de::DeserializeOwned>(&self, document: &str) -> Result<T, CheckpointError> {
        let mut found = None;
        self.each(|name, content| {
            if name == document.as_bytes() && found.is_none() {
                let mut text = Vec::new();
                let length = content.take(MOST_DOCUMENT + 1).read_to_end(&mut text)?;
                found = (length as u64 <= MOST_DOCUMENT).then_some(text);
            }
            Ok(())
        })?;
        let text = found.ok_or_else(|| self.bad(&format!("it has no {document}, or one that is larger than 1 MiB")))?;
        serde_json::from_slice(&text).map_err(|error| self.bad(&format!("{document}: {error}")))
    }

    /// Puts files of these names, which are the caller's own, into the folder `dir`.
    ///
    /// # Errors
    /// `BadArchive`, also when one of them is missing; `Io`.
    pub fn extract_members(&self, members: &[String], dir: &Path) -> Result<(), CheckpointError> {
        let mut missing: Vec<&String> = members.iter().collect();
        self.each(|name, content| match missing.iter().position(|member| member.as_bytes() == name) {
            Some(at) => write_new(&dir.join(missing.swap_remove(at)), content),
            None => Ok(()),
        })?;
        match missing.first() {
            Some(member) => Err(self.bad(&format!("it has no {member}"))),
            None => Ok(()),
        }
    }

    /// Puts criu's images into the folder `images`, and has `fill` read the container's writable layer.
    ///
    /// # Errors
    /// `BadArchive`, `Io`; `fill`'s.
    pub fn extract<E: From<CheckpointError>>(
        &self,
        images: &Path,
        mut fill: impl FnMut(&mut dyn BufRead) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut failure = None;
        let (mut has_images, mut has_layer) = (false, false);
        let read = self.each(|name, content| {
            if name == b"rootfs-diff.tar" && !has_layer {
                has_layer = true;
                failure = fill(content).err();
            } else if let Some(name) = name.strip_prefix(b"checkpoint/") {
                let name =
                    image_name(name).ok_or_else(|| io::Error::other("an image has a name that criu gives none"))?;
                has_images = true;
                write_new(&images.join(name), content)?;
            }
            if failure.is_some() { Err(io::Error::other("given up")) } else { Ok(()) }
        });
        match (failure, read) {
            (Some(failure), _) => Err(failure),
            (None, Err(error)) => Err(error.into()),
            (None, Ok(())) if !has_images => Err(self.bad("it has no images of processes").into()),
            (None, Ok(())) => Ok(()),
        }
    }

    /// Calls `visit` with name and content of every plain file in it.
    fn each(&self, mut visit: impl FnMut(&[u8], &mut dyn BufRead) -> io::Result<()>) -> Result<(), CheckpointError> {
        let mut archive = Archive::new(BufReader::with_capacity(1 << 20, self.file()?));
        loop {
            let entry = match archive.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.bad(&text(error))),
            };
            // A hole is written from nothing: what an archive makes on the disk is to be no larger than it is.
            if entry.kind != Kind::File || entry.sparse.is_some() {
                continue;
            }
            let name = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
            visit(name, &mut Content(&mut archive)).map_err(|error| {
                self.bad(&format!("{}: {error}", String::from_utf8_lossy(&name[..name.len().min(LONGEST_NAME)])))
            })?;
        }
    }

    fn file(&self) -> Result<File, CheckpointError> {
        // A FIFO must not hold up whoever opens it.
        let mut options = OpenOptions::new();
        let opened = options.read(true).custom_flags(libc::O_NONBLOCK).open(&self.path);
        opened.map_err(CheckpointError::io("open the archive", &self.path))
    }

    fn bad(&self, reason: &str) -> CheckpointError {
        CheckpointError::BadArchive { path: self.path.clone(), reason: reason.to_owned() }
    }
}

fn write_new(path: &Path, content: &mut dyn BufRead) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::copy(content, &mut file).map(drop)
}

/// One of criu's names, `core-1.img` and the like.
fn image_name(name: &[u8]) -> Option<&str> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let fits = !name.is_empty() && name.len() <= LONGEST_NAME && !name.starts_with(b".") && name.iter().all(plain);
    std::str::from_utf8(name).ok().filter(|_| fits)
}

fn text(error: ArchiveError) -> String {
    match error {
        ArchiveError::Read(error) => error.to_string(),
        ArchiveError::Framing(reason) => reason.to_owned(),
    }
}

/// An entry's content.
struct Content<'a, R>(&'a mut Archive<R>);

impl<R: BufRead> BufRead for Content<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.data().map_err(|error| io::Error::other(text(error)))
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

impl<R: BufRead> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive with these entries, whose names are written as they are.
    fn archive(dir: &Path, entries: &[(&str, &[u8])]) -> Reader {
        let path = dir.join("c.tar");
        let mut tar = tar::Builder::new(File::create(&path).unwrap());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        }
        tar.finish().unwrap();
        // `open` wants root's files, which a test that is not root cannot make.
        Reader { path }
    }

    fn extract(reader: &Reader, images: &Path) -> Result<Vec<u8>, CheckpointError> {
        let mut layer = Vec::new();
        reader.extract(images, |content| {
            content.read_to_end(&mut layer).map(drop).map_err(CheckpointError::io("read", "layer"))
        })?;
        Ok(layer)
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let reader = archive(
            dir.path(),
            &[("./config.dump", br#"{"id":"c"}"#), ("checkpoint/core-1.img", b"core"), ("rootfs-diff.tar", b"layer")],
        );
        assert_eq!(reader.config().unwrap().id, "c");
        let images = dir.path().join("images");
        std::fs::create_dir(&images).unwrap();
        assert_eq!(extract(&reader, &images).unwrap(), b"layer");
        assert_eq!(std::fs::read(images.join("core-1.img")).unwrap(), b"core");
        assert_eq!(std::fs::read_dir(&images).unwrap().count(), 1);
    }

    #[test]
    fn a_hostile_archive_writes_nothing_elsewhere() {
        for name in
            ["checkpoint/../x", "checkpoint/a/b", "checkpoint/.x", "checkpoint/", "checkpoint//x", "checkpoint/x y"]
        {
            let dir = tempfile::tempdir().unwrap();
            let images = dir.path().join("images");
            std::fs::create_dir(&images).unwrap();
            let reader = archive(dir.path(), &[(name, b"hostile")]);
            let error = extract(&reader, &images).unwrap_err();
            assert!(matches!(error, CheckpointError::BadArchive { .. }), "{name}: {error}");
            assert_eq!(std::fs::read_dir(&images).unwrap().count(), 0, "{name}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "{name}");
        }
        // The same image twice, links, documents of any size, and none.
        let dir = tempfile::tempdir().unwrap();
        let twice = archive(dir.path(), &[("checkpoint/x", b"1"), ("checkpoint/x", b"2")]);
        extract(&twice, dir.path()).unwrap_err();
        let large = vec![b' '; (MOST_DOCUMENT + 1) as usize];
        for entries in [vec![("config.dump", large.as_slice())], vec![("config.dump", b"1".as_slice())], vec![]] {
            archive(dir.path(), &entries).config().unwrap_err();
        }
        std::fs::write(dir.path().join("c.tar"), [7; 700]).unwrap();
        twice.config().unwrap_err();
    }

    #[test]
    fn a_pods_archive_has_those_of_its_containers() {
        let dir = tempfile::tempdir().unwrap();
        let options = br#"{"version":1,"containers":{"one":"1"}}"#;
        let reader = archive(dir.path(), &[(POD_OPTIONS, options), ("1.tar", b"first"), ("2.tar", b"second")]);
        assert_eq!(reader.pod_options().unwrap().containers["one"], "1");
        let members = dir.path().join("members");
        std::fs::create_dir(&members).unwrap();
        reader.extract_members(&["1.tar".to_owned()], &members).unwrap();
        assert_eq!(std::fs::read(members.join("1.tar")).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(&members).unwrap().count(), 1);
        let error = reader.extract_members(&["3.tar".to_owned()], &members).unwrap_err();
        assert!(error.to_string().contains("it has no 3.tar"), "{error}");
    }

    #[test]
    fn who_else_can_write_it_is_no_friend() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let reader = archive(dir.path(), &[("config.dump", b"{}")]);
        std::fs::set_permissions(&reader.path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let error = Reader::open(&reader.path).unwrap_err();
        assert!(error.to_string().contains("others than root can write it"), "{error}");
        assert!(Reader::open(dir.path()).is_err());
        assert!(Reader::open(&dir.path().join("missing")).is_err());
    }
}
