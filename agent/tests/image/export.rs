//! Images on their way out: what comes back is what went, and others can read it.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use berth::image::{Commit, ErrorKind};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};
use serde_json::Value;
use tar::EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};

use crate::Fixture;
use crate::build::{Image, Layer, digest, files, noise};
use crate::server::Server;

/// Everything about a tree that an image can tell, by path.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_file() {
            digest(&std::fs::read(&path).unwrap())
        } else if kind.is_symlink() {
            format!("{:?}", std::fs::read_link(&path).unwrap())
        } else {
            format!("dir {} char {} fifo {} {:x}", kind.is_dir(), kind.is_char_device(), kind.is_fifo(), meta.rdev())
        };
        let is_whiteout = kind.is_char_device() && meta.rdev() == 0;
        let links = if kind.is_file() { meta.nlink() } else { 0 };
        let xattr = |name: &str| {
            let mut value = [0; 64];
            let length = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap_or(0);
            String::from_utf8_lossy(&value[..length]).into_owned()
        };
        let owner = if is_whiteout {
            String::new()
        } else {
            format!("{:o} {}:{} {}.{}", meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec())
        };
        let xattrs = (xattr("trusted.overlay.opaque"), xattr("user.x"));
        let name = path.strip_prefix(root).unwrap().display().to_string();
        found.insert(name, format!("{content} links {links} {owner} {xattrs:?}"));
        if kind.is_dir() {
            walk(root, &path, found);
        }
    }
}

/// Two layers with one of everything.
fn image() -> Image {
    let mut base = Layer::new();
    base.entry(Directory, "d/", "", b"", |header| header.set_mode(0o1777));
    base.entry(Regular, "d/set-user-id", "", b"program", |header| {
        header.set_mode(0o4755);
        header.set_uid(1000);
        header.set_gid(70_000);
    });
    base.raw(Link, "d/again", "d/set-user-id", b"").raw(Symlink, "d/link", "../nowhere", b"");
    base.raw(Fifo, "fifo", "", b"").entry(Char, "null", "", b"", |header| {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    });
    base.0.append_pax_extensions([("SCHILY.xattr.user.x", &b"value"[..]), ("mtime", b"1600000000.5")]).unwrap();
    base.file("with-xattr", &noise(70_000, 3));
    let long = "long-name/".repeat(12) + "file";
    base.0.append_pax_extensions([("path", long.as_bytes())]).unwrap();
    base.file("short", b"long");
    let mut top = Layer::new();
    top.file("d/.wh.again", b"").folder("e/").file("e/.wh..wh..opq", b"").file("e/new", b"new");
    Image::gzip(&[base.tar(), files(&[("e/old", b"old")]), top.tar()])
}

fn layers(fixture: &Fixture, name: &str) -> Vec<BTreeMap<String, String>> {
    let image = fixture.store.resolve(name).unwrap();
    fixture.store.layer_dirs(&image.layers).iter().map(|dir| tree(dir)).collect()
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("the package {program}: {e}"));
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn an_exported_image_comes_back_as_it_was() {
    let (server, from, to) = (Server::start(), Fixture::new(), Fixture::new());
    let reference = server.push("app", "1", &image());
    from.pull(&reference).await.unwrap();
    let archive = from.dir.path().join("out.tar");
    from.store.export(&reference, archive.clone()).await.unwrap();
    let imported = to.store.import(archive.clone(), None).await.unwrap();
    assert_eq!(imported[0].repo_tags, std::slice::from_ref(&reference));
    assert_eq!(layers(&to, &reference), layers(&from, &reference));
    let (old, new) = (from.store.resolve(&reference).unwrap(), to.store.resolve(&reference).unwrap());
    assert_eq!(old.config.config(), new.config.config());
    let first = std::fs::read(&archive).unwrap();
    from.store.export(&reference, archive.clone()).await.unwrap();
    assert!(first == std::fs::read(&archive).unwrap(), "an export is the same bytes each time");
    assert_eq!(std::fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    from.store.remove(&reference).await.unwrap();
    from.assert_empty();
}

#[tokio::test]
async fn others_read_what_is_exported() {
    let (server, fixture) = (Server::start(), Fixture::new());
    let reference = server.push("app", "1", &image());
    fixture.pull(&reference).await.unwrap();
    let path = |name: &str| fixture.dir.path().join(name).display().to_string();
    fixture.store.export(&reference, path("out.tar").into()).await.unwrap();
    let (archive, layout) = (format!("oci-archive:{}", path("out.tar")), format!("oci:{}:latest", path("layout")));
    run("skopeo", &["copy", "--insecure-policy", &archive, &layout]);
    run("umoci", &["unpack", "--image", &format!("{}:latest", path("layout")), &path("bundle")]);
    let root = fixture.dir.path().join("bundle/rootfs");
    let unpacked = tree(&root);
    let names: Vec<&str> = unpacked.keys().map(String::as_str).filter(|name| !name.contains("long-name")).collect();
    assert_eq!(names, ["d", "d/link", "d/set-user-id", "e", "e/new", "fifo", "null", "with-xattr"]);
    assert!(root.join("long-name/".repeat(12) + "file").is_file());
    let program = std::fs::metadata(root.join("d/set-user-id")).unwrap();
    assert_eq!((program.mode() & 0o7777, program.uid(), program.gid()), (0o4755, 1000, 70_000));
}

#[tokio::test]
async fn what_cannot_be_exported_is_told_and_leaves_nothing() {
    let (server, fixture) = (Server::start(), Fixture::new());
    let absent = fixture.store.export("no/such:1", "/tmp/x".into()).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    let reference = server.push("app", "1", &image());
    fixture.pull(&reference).await.unwrap();
    assert_eq!(fixture.store.export(&reference, "x".into()).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let folder = fixture.dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("x"), "x").unwrap();
    fixture.store.export(&reference, folder.clone()).await.unwrap_err();
    assert_eq!(crate::names(fixture.dir.path()), ["folder", "store"]);
    assert!(crate::names(&fixture.dir.path().join("store/tmp")).is_empty());
}

#[tokio::test]
async fn a_writable_layer_becomes_an_image() {
    let (server, fixture) = (Server::start(), Fixture::new());
    let reference = server.push("app", "1", &image());
    fixture.pull(&reference).await.unwrap();
    let upper = fixture.dir.path().join("upper");
    std::fs::create_dir_all(upper.join("d")).unwrap();
    std::fs::create_dir(upper.join("e")).unwrap();
    lsetxattr(upper.join("e"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    mknodat(CWD, upper.join("d/link"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    std::fs::write(upper.join("written"), "by the container").unwrap();
    std::fs::hard_link(upper.join("written"), upper.join("written-too")).unwrap();
    let sparse = std::fs::File::create(upper.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
    let base = fixture.store.resolve(&reference).unwrap();
    let commit = |name: &str| Commit {
        base: base.clone(),
        upper: upper.clone(),
        reference: name.to_owned(),
        created_by: "a test".to_owned(),
    };
    let made = fixture.store.commit(commit("team/made:1")).await.unwrap();
    assert_eq!((made.layers.len(), &made.layers[..3]), (4, &base.layers[..]));
    let mut expected = tree(&upper);
    expected.remove("socket");
    assert_eq!(layers(&fixture, "team/made:1")[0], expected);
    let history = made.config.history().clone().unwrap_or_default();
    assert!(history.is_empty(), "a base without history leaves it so");
    assert_eq!(made.config.config(), base.config.config());

    let again = berth::image::ImageStore::open(&fixture.dir.path().join("store"), Default::default()).unwrap();
    assert_eq!(again.resolve("team/made:1").as_deref(), Some(&*made));
    let archive = fixture.dir.path().join("made.tar");
    fixture.store.export("team/made:1", archive.clone()).await.unwrap();
    let other = Fixture::new();
    let id = other.store.import(archive, None).await.unwrap()[0].id.clone();
    assert_eq!(layers(&other, id.as_str()), layers(&fixture, "team/made:1"));

    let second = fixture.store.commit(Commit { base: made.clone(), ..commit("team/made:2") }).await.unwrap();
    assert_eq!(second.layers[3], second.layers[4], "the same layer twice is one folder");
    let by_digest = commit(&format!("team/made@{}", made.id));
    assert_eq!(fixture.store.commit(by_digest).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    std::fs::write(upper.join(".wh.trick"), "").unwrap();
    let error = fixture.store.commit(commit("team/trick")).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains(".wh."), "{error}");
    assert!(crate::names(&fixture.dir.path().join("store/tmp")).is_empty());
}

#[tokio::test]
async fn a_commit_adds_to_the_history_of_its_base() {
    let (server, fixture) = (Server::start(), Fixture::new());
    let layer = [(files(&[("a", b"a")]), crate::build::Compression::Gzip)];
    let built = Image::with_config(&layer, |config| {
        config["history"] = serde_json::json!([{"created_by": "the base"}]);
        config["unknown"] = serde_json::json!("kept");
    });
    let reference = server.push("app", "1", &built);
    fixture.pull(&reference).await.unwrap();
    let upper = fixture.dir.path().join("upper");
    std::fs::create_dir(&upper).unwrap();
    let base = fixture.store.resolve(&reference).unwrap();
    let commit = Commit { base, upper, reference: "made".to_owned(), created_by: "a test".to_owned() };
    let made = fixture.store.commit(commit).await.unwrap();
    let path = fixture.dir.path().join("store/blobs/sha256").join(made.id.hex());
    let config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(config["history"][0]["created_by"], "the base");
    assert_eq!(config["history"][1]["created_by"], "a test");
    assert_eq!(config["unknown"], "kept");
}
