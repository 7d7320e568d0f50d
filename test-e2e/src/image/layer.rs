//! One layer: a tar made entry by entry (well-formed or, on purpose, not), then compressed and digested.

use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// How a layer's blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip, as nearly every image has.
    Gzip,
    /// zstd.
    Zstd,
}

/// A finished layer.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The compressed bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: String,
    /// The digest of the tar inside.
    pub diff_id: String,
    /// How they are compressed.
    pub compression: Compression,
}

/// `sha256:` and the hexadecimal digest.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A tar being written. Every entry has the same time and owner, so the same content has the same digest.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer").field("bytes", &self.tar.get_ref().len()).finish()
    }
}

impl Default for Layer {
    fn default() -> Layer {
        Layer::new()
    }
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Layer {
        Layer { tar: tar::Builder::new(Vec::new()) }
    }

    /// A folder with these permission bits.
    pub fn folder(&mut self, path: &str, mode: u32) -> io::Result<&mut Layer> {
        let mut header = header(EntryType::Directory, mode, 0);
        self.tar.append_data(&mut header, format!("{}/", path.trim_end_matches('/')), io::empty())?;
        Ok(self)
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, content: &[u8], mode: u32) -> io::Result<&mut Layer> {
        let mut header = header(EntryType::Regular, mode, content.len() as u64);
        self.tar.append_data(&mut header, path, content)?;
        Ok(self)
    }

    /// A regular file that belongs to somebody.
    pub fn owned_file(&mut self, path: &str, content: &[u8], mode: u32, uid: u64, gid: u64) -> io::Result<&mut Layer> {
        let mut header = header(EntryType::Regular, mode, content.len() as u64);
        header.set_uid(uid);
        header.set_gid(gid);
        self.tar.append_data(&mut header, path, content)?;
        Ok(self)
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<&mut Layer> {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// A hard link to an earlier entry; as in every real tar it repeats that entry's mode and owner.
    pub fn hard_link(&mut self, path: &str, target: &str, mode: u32, uid: u64, gid: u64) -> io::Result<&mut Layer> {
        let mut header = header(EntryType::Link, mode, 0);
        header.set_uid(uid);
        header.set_gid(gid);
        self.tar.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// An entry whose name and link target are written byte for byte, however hostile: the tar library would refuse
    /// `..` and absolute paths. Both must fit the 100 bytes of a ustar field.
    pub fn raw(&mut self, kind: EntryType, path: &str, target: &str, content: &[u8]) -> io::Result<&mut Layer> {
        let mut header = header(kind, 0o644, content.len() as u64);
        let fields = header.as_old_mut();
        fields.name[..path.len()].copy_from_slice(path.as_bytes());
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.tar.append(&header, content)?;
        Ok(self)
    }

    /// The files below an installed folder, under their own names, until `budget` bytes are in.
    pub fn tree(&mut self, root: &Path, budget: u64) -> io::Result<&mut Layer> {
        let mut left = budget;
        self.walk(root, &mut left)?;
        Ok(self)
    }

    fn walk(&mut self, folder: &Path, left: &mut u64) -> io::Result<()> {
        let mut entries: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(|entry| entry.file_name());
        let name = folder.to_string_lossy().trim_start_matches('/').to_owned();
        self.folder(&name, folder.metadata()?.permissions().mode() & 0o7777)?;
        for entry in entries {
            let path = entry.path();
            let name = path.to_string_lossy().trim_start_matches('/').to_owned();
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                self.walk(&path, left)?;
            } else if metadata.is_symlink() {
                self.symlink(&name, &std::fs::read_link(&path)?.to_string_lossy())?;
            } else if metadata.is_file() && metadata.len() <= *left && metadata.len() < 40 << 20 {
                *left -= metadata.len();
                self.file(&name, &std::fs::read(&path)?, metadata.mode() & 0o7777)?;
            }
        }
        Ok(())
    }

    /// Ends the tar, compresses and digests it.
    pub fn finish(self, compression: Compression) -> io::Result<Blob> {
        let tar = self.tar.into_inner()?;
        let diff_id = digest(&tar);
        let bytes = match compression {
            Compression::None => tar,
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
                encoder.write_all(&tar)?;
                encoder.finish()?
            }
            Compression::Zstd => zstd::encode_all(tar.as_slice(), 3)?,
        };
        Ok(Blob { digest: digest(&bytes), bytes, diff_id, compression })
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(1_704_067_200);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_entry_keeps_a_name_that_climbs_out() {
        let mut layer = Layer::new();
        layer.raw(EntryType::Regular, "../../evil", "", b"x").expect("raw");
        let blob = layer.finish(Compression::None).expect("finish");
        let mut archive = tar::Archive::new(blob.bytes.as_slice());
        let entry = archive.entries().expect("entries").next().expect("one").expect("readable");
        assert_eq!(&*entry.path_bytes(), b"../../evil");
    }

    #[test]
    fn the_same_content_has_the_same_digest() {
        let make = || {
            let mut layer = Layer::new();
            layer.file("a", b"b", 0o644).expect("file");
            layer.finish(Compression::Gzip).expect("finish").digest
        };
        assert_eq!(make(), make());
    }
}
