//! The reader against archives that the crate `tar` writes, hand-made ones, and noise.

use proptest::prelude::*;

use super::*;

fn entries(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, ArchiveError> {
    let mut archive = Archive::new(bytes);
    let mut all = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let data = archive.read_all()?;
        all.push((entry, data));
    }
    Ok(all)
}

fn header(path: &str, flag: u8, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(tar::EntryType::new(flag));
    header.set_size(size);
    header.set_mode(0o4755);
    header.set_uid(1000);
    header.set_gid(3_000_000);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    header
}

fn one(header: &tar::Header, data: &[u8]) -> Vec<u8> {
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn what_the_crate_tar_writes_is_read() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = format!("{}/file", "long-folder-name".repeat(20));
    let mut file = header("", b'0', 5);
    builder.append_data(&mut file, &long, &b"hello"[..]).unwrap();
    let mut link = header("", b'2', 0);
    builder.append_link(&mut link, "link", format!("/{long}")).unwrap();
    builder.append_pax_extensions([("SCHILY.xattr.user.a", &b"\0\x01"[..]), ("mtime", b"5.5")]).unwrap();
    builder.append(&header("dir/", b'5', 0), &b""[..]).unwrap();
    let mut device = header("null", b'3', 0);
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    device.set_cksum();
    builder.append(&device, &b""[..]).unwrap();
    let all = entries(&builder.into_inner().unwrap()).unwrap();
    let (file, data) = &all[0];
    assert_eq!((file.path.as_slice(), data.as_slice(), file.mode), (long.as_bytes(), &b"hello"[..], 0o4755));
    assert_eq!((file.uid, file.gid, file.mtime), (1000, 3_000_000, (1_700_000_000, 0)));
    assert_eq!((all[1].0.kind, all[1].0.link.as_slice()), (Kind::Symlink, format!("/{long}").as_bytes()));
    assert_eq!((all[2].0.kind, all[2].0.mtime), (Kind::Directory, (5, 500_000_000)));
    assert_eq!(all[2].0.xattrs, [(b"user.a".to_vec(), b"\0\x01".to_vec())]);
    assert_eq!((all[3].0.kind, all[3].0.device), (Kind::CharDevice, (1, 3)));
}

#[test]
fn old_gnu_sparse_files_keep_their_holes() {
    let mut header = header("sparse", b'S', 1024);
    let bytes = header.as_mut_bytes();
    for (n, (offset, length)) in [(0u64, 512u64), (8192, 512)].iter().enumerate() {
        let at = 386 + 24 * n;
        bytes[at..at + 11].copy_from_slice(format!("{offset:011o}").as_bytes());
        bytes[at + 12..at + 23].copy_from_slice(format!("{length:011o}").as_bytes());
    }
    bytes[483..494].copy_from_slice(format!("{:011o}", 16_384).as_bytes());
    header.set_cksum();
    let all = entries(&one(&header, &[7; 1024])).unwrap();
    assert_eq!(all[0].0.sparse.as_deref(), Some(&[(0, 512), (8192, 512)][..]));
    assert_eq!((all[0].0.size, all[0].1.len()), (16_384, 1024));
}

#[test]
fn pax_sparse_files_carry_their_map_in_front() {
    let mut data = b"2\n0\n5\n1000\n3\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"helloabc");
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_pax_extensions([
            ("GNU.sparse.major", &b"1"[..]),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"real/name"),
            ("GNU.sparse.realsize", b"2000"),
        ])
        .unwrap();
    builder.append(&header("GNUSparseFile.0/name", b'0', data.len() as u64), &data[..]).unwrap();
    builder.append(&header("next", b'0', 0), &b""[..]).unwrap();
    let all = entries(&builder.into_inner().unwrap()).unwrap();
    assert_eq!(
        (all[0].0.path.as_slice(), all[0].0.size, all[0].1.as_slice()),
        (&b"real/name"[..], 2000, &b"helloabc"[..])
    );
    assert_eq!(all[0].0.sparse.as_deref(), Some(&[(0, 5), (1000, 3)][..]));
    assert_eq!(all[1].0.path, b"next");
}

#[test]
fn extended_headers_are_capped_and_broken_ones_refused() {
    let framing = |bytes: &[u8]| match entries(bytes) {
        Err(ArchiveError::Framing(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert!(framing(&one(&header("x", b'L', 2 << 20), b"")).contains("1 MiB"));
    assert!(framing(&one(&header("x", b'x', 4), b"junk")).contains("PAX"));
    assert!(framing(&one(&header("x", b'0', 5000), b"short")).contains("ends within an entry"));
    assert!(framing(&one(&header("x", b'?', 0), b"")).contains("unknown type"));
    let mut broken = one(&header("x", b'0', 0), b"");
    broken[0] ^= 1;
    assert!(framing(&broken).contains("checksum"));
    assert!(framing(&broken[..100]).contains("within a header"));
}

#[test]
fn an_empty_stream_is_an_empty_archive() {
    assert!(entries(b"").unwrap().is_empty());
    assert!(entries(&[0; 1024]).unwrap().is_empty());
}

proptest! {
    #[test]
    fn noise_is_refused_or_read_but_never_panics(
        flag in any::<u8>(),
        size in 0u64..3000,
        edits in proptest::collection::vec((0usize..512, any::<u8>()), 0..6),
        data in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let mut header = header("path", flag, size);
        for (at, byte) in edits {
            header.as_mut_bytes()[at] = byte;
        }
        header.set_cksum();
        let _ = entries(&one(&header, &data));
    }

    #[test]
    fn files_come_back_whole(
        path in "[a-z]{1,20}(/[a-z]{1,20}){0,15}",
        data in proptest::collection::vec(any::<u8>(), 0..3000),
    ) {
        let mut builder = tar::Builder::new(Vec::new());
        let mut file = header("", b'0', data.len() as u64);
        builder.append_data(&mut file, &path, &data[..]).unwrap();
        let all = entries(&builder.into_inner().unwrap()).unwrap();
        prop_assert_eq!(&all[0].1, &data);
        prop_assert_eq!(&all[0].0.path, path.as_bytes());
    }
}
