//! The files of an archive or a folder, by their names there. An archive is read once to find them; their content is
//! then read in place.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::image::error::{ImageError, shorten};
use crate::image::layer::{Archive, ArchiveError, FileBlocks, Kind};
use crate::image::manifest::{LARGEST_DOCUMENT, too_large};

/// Entries of an archive: an index, and three for each layer of the largest image, many times over.
const MOST_FILES: usize = 100_000;
/// Old docker archives have one layer's file stand for another's by a symlink.
const MOST_LINKS: usize = 4;

/// Where a file's bytes are.
#[derive(Debug, Clone)]
pub(super) enum Place {
    At { offset: u64, length: u64 },
    SameAs(String),
}

/// An opened archive or folder.
#[derive(Debug)]
pub(super) enum Bundle {
    Folder(PathBuf),
    Tar { path: PathBuf, file: File, places: HashMap<String, Place> },
}

impl Bundle {
    pub(super) fn open(path: &Path) -> Result<Self, ImageError> {
        let failed = |e| ImageError::io("open", path, e);
        let file = File::open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?;
        if kind.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if !kind.is_file() {
            let reason = format!("{} is neither a file nor a folder", path.display());
            return Err(ImageError::InvalidArgument { field: "path", reason });
        }
        let places = scan(path, &file)?;
        Ok(Self::Tar { path: path.to_owned(), file, places })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(path) => path.join(name).is_file(),
            Self::Tar { places, .. } => places.contains_key(name),
        }
    }

    /// A small file, whole.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let length = self.length(name)?;
        if length > LARGEST_DOCUMENT {
            return Err(too_large(format!("{}: size", shorten(name)), length, LARGEST_DOCUMENT));
        }
        let (file, offset, _) = self.locate(name)?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut bytes, offset).map_err(|e| ImageError::io("read", Path::new(name), e))?;
        Ok(bytes)
    }

    pub(super) fn length(&self, name: &str) -> Result<u64, ImageError> {
        self.locate(name).map(|(_, _, length)| length)
    }

    /// A file of any size, as a stream.
    pub(super) fn blocks(&self, name: &str) -> Result<FileBlocks, ImageError> {
        let (file, offset, length) = self.locate(name)?;
        Ok(FileBlocks::new(file, offset, length))
    }

    fn locate(&self, name: &str) -> Result<(File, u64, u64), ImageError> {
        let missing = |path: &Path| ImageError::InvalidContent {
            what: path.display().to_string(),
            reason: format!("it has no file {:?}", shorten(name)),
        };
        match self {
            Self::Folder(folder) => {
                // Only names of our own making come here: `index.json` and `blobs/sha256/<hex>`.
                let path = folder.join(name);
                let file = File::open(&path).map_err(|_| missing(folder))?;
                let meta = file.metadata().map_err(|e| ImageError::io("stat", &path, e))?;
                if meta.is_file() { Ok((file, 0, meta.len())) } else { Err(missing(folder)) }
            }
            Self::Tar { path, file, places } => {
                let mut name = clean(name);
                for _ in 0..=MOST_LINKS {
                    match places.get(&name) {
                        Some(Place::At { offset, length }) => {
                            let file = file.try_clone().map_err(|e| ImageError::io("open", path, e))?;
                            return Ok((file, *offset, *length));
                        }
                        Some(Place::SameAs(other)) => name = other.clone(),
                        None => break,
                    }
                }
                Err(missing(path))
            }
        }
    }
}

fn scan(path: &Path, file: &File) -> Result<HashMap<String, Place>, ImageError> {
    let invalid =
        |reason: &str| ImageError::InvalidContent { what: path.display().to_string(), reason: reason.to_owned() };
    let failed = |error| match error {
        ArchiveError::Read(e) => ImageError::io("read", path, e),
        ArchiveError::Framing(reason) => invalid(&format!("it is not a tar archive, or a broken one: {reason}")),
    };
    let mut start = [0; 4];
    let mut reader = file;
    let read = reader.read(&mut start).and_then(|read| reader.rewind().map(|()| read));
    let read = read.map_err(|e| ImageError::io("read", path, e))?;
    if start[..read].starts_with(&[0x1f, 0x8b]) || start[..read].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Err(invalid(
            "the archive is compressed as a whole: decompress it first (its layers may stay compressed)",
        ));
    }
    let mut archive = Archive::new(BufReader::with_capacity(256 << 10, file));
    let mut places = HashMap::new();
    while let Some(entry) = archive.next_entry().map_err(failed)? {
        let name = clean(&String::from_utf8_lossy(&entry.path));
        let place = match entry.kind {
            Kind::File if entry.sparse.is_none() => Place::At { offset: archive.position(), length: archive.left() },
            Kind::HardLink => Place::SameAs(clean(&String::from_utf8_lossy(&entry.link))),
            Kind::Symlink => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                Place::SameAs(clean(&format!("{folder}/{}", String::from_utf8_lossy(&entry.link))))
            }
            _ => continue,
        };
        places.insert(name, place);
        if places.len() > MOST_FILES {
            return Err(too_large(
                format!("{}: number of files", path.display()),
                places.len() as u64,
                MOST_FILES as u64,
            ));
        }
    }
    Ok(places)
}

/// A name without `.` and `..`: only ever a key, never a path.
fn clean(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_keys() {
        assert_eq!(clean("./a//b/../c"), "a/c");
        assert_eq!(clean("x/../../layer.tar"), "layer.tar");
    }

    #[test]
    fn files_are_found_through_links_and_compressed_archives_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        builder.append_data(&mut header, "one/layer.tar", &b"hello"[..]).unwrap();
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        builder.append_link(&mut link, "two/layer.tar", "../one/layer.tar").unwrap();
        builder.append_link(&mut link, "turning", "turning").unwrap();
        builder.into_inner().unwrap();
        let bundle = Bundle::open(&path).unwrap();
        assert_eq!(bundle.document("two/layer.tar").unwrap(), b"hello");
        assert!(bundle.document("turning").unwrap_err().to_string().contains("no file"));
        std::fs::write(&path, [0x1f, 0x8b, 8, 0]).unwrap();
        assert!(Bundle::open(&path).unwrap_err().to_string().contains("decompress it first"));
    }
}
