//! What is unpacked is what was packed; how layers stack is compared with what umoci, an unpacker that we did not
//! write, makes of the same image.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};

use crate::build::{Compression, Image, Layer, files};
use crate::server::Server;
use crate::{Fixture, in_own_mounts};

/// Pulls an image of these layers; answers their folders, the bottom one first.
async fn unpacked(fixture: &Fixture, layers: Vec<Layer>) -> Vec<PathBuf> {
    let server = Server::start();
    let image = Image::gzip(&layers.into_iter().map(Layer::tar).collect::<Vec<_>>());
    let reference = server.push("app", "1", &image);
    fixture.pull(&reference).await.unwrap();
    let mut dirs = fixture.store.layer_dirs(&fixture.store.resolve(&reference).unwrap().layers);
    dirs.reverse();
    dirs
}

async fn unpacked_one(fixture: &Fixture, fill: impl FnOnce(&mut Layer)) -> PathBuf {
    let mut layer = Layer::new();
    fill(&mut layer);
    unpacked(fixture, vec![layer]).await.remove(0)
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    Some(value[..length].to_vec())
}

fn meta(path: PathBuf) -> std::fs::Metadata {
    std::fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[tokio::test]
async fn modes_owners_and_times() {
    let fixture = Fixture::new();
    let dir = unpacked_one(&fixture, |l| {
        l.entry(Directory, "./", "", b"", |h| h.set_mode(0o751));
        l.entry(Directory, "d/", "", b"", |h| {
            h.set_mode(0o3777);
            h.set_uid(7);
            h.set_mtime(1_500_000_000);
        });
        l.entry(Regular, "d/setuid", "", b"s", |h| {
            h.set_mode(0o6755);
            h.set_uid(1000);
            h.set_gid(3_000_000);
        });
        l.entry(Symlink, "d/link", "/else/where", b"", |h| h.set_uid(5));
    })
    .await;
    assert_eq!(meta(dir.clone()).mode() & 0o7777, 0o751);
    let folder = meta(dir.join("d"));
    assert_eq!((folder.mode() & 0o7777, folder.uid(), folder.mtime()), (0o3777, 7, 1_500_000_000));
    let file = meta(dir.join("d/setuid"));
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid(), file.mtime()), (0o6755, 1000, 3_000_000, 1_600_000_000));
    let link = meta(dir.join("d/link"));
    assert_eq!((link.uid(), link.mtime()), (5, 1_600_000_000));
    assert_eq!(std::fs::read_link(dir.join("d/link")).unwrap(), Path::new("/else/where"));
}

#[tokio::test]
async fn devices_fifos_links_and_long_names() {
    let fixture = Fixture::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    let dir = unpacked_one(&fixture, |l| {
        let device = |major, minor| {
            move |h: &mut tar::Header| {
                h.set_device_major(major).unwrap();
                h.set_device_minor(minor).unwrap();
            }
        };
        l.entry(Char, "null", "", b"", device(1, 3)).entry(Block, "disk", "", b"", device(259, 300));
        l.raw(Fifo, "pipe", "", b"").file("one", b"same").raw(Link, "two", "one", b"").raw(
            Link,
            "sub/three",
            "/two",
            b"",
        );
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o600);
        l.0.append_data(&mut header, &long, &b"long"[..]).unwrap();
    })
    .await;
    let null = meta(dir.join("null"));
    assert!(null.file_type().is_char_device());
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(meta(dir.join("disk")).rdev(), rustix::fs::makedev(259, 300));
    assert!(meta(dir.join("pipe")).file_type().is_fifo());
    let one = meta(dir.join("one"));
    assert_eq!((one.nlink(), meta(dir.join("sub/three")).ino()), (3, one.ino()));
    assert_eq!(std::fs::read(dir.join(long)).unwrap(), b"long");
}

#[tokio::test]
async fn extended_attributes_but_not_overlays_own() {
    let fixture = Fixture::new();
    // Version 2 with CAP_NET_RAW permitted, as `setcap cap_net_raw+p` writes it.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let dir = unpacked_one(&fixture, |l| {
        let attributes = |l: &mut Layer, list: &[(&str, &[u8])]| {
            let names: Vec<(String, &[u8])> = list.iter().map(|(n, v)| (format!("SCHILY.xattr.{n}"), *v)).collect();
            l.0.append_pax_extensions(names.iter().map(|(n, v)| (n.as_str(), *v))).unwrap();
        };
        attributes(l, &[("security.capability", &capability[..]), ("user.x", b"1\0\n2")]);
        l.entry(Regular, "ping", "", b"p", |h| h.set_uid(12));
        attributes(l, &[("trusted.overlay.redirect", b"/etc"), ("trusted.overlay.opaque", b"y"), ("user.dir", b"d")]);
        l.folder("folder/");
        attributes(l, &[("trusted.link", b"l"), ("user.refused", b"x")]);
        l.raw(Symlink, "link", "ping", b"");
    })
    .await;
    assert_eq!(xattr(&dir.join("ping"), "security.capability").as_deref(), Some(&capability[..]), "it survives chown");
    assert_eq!(xattr(&dir.join("ping"), "user.x").as_deref(), Some(&b"1\0\n2"[..]));
    assert_eq!(xattr(&dir.join("folder"), "user.dir").as_deref(), Some(&b"d"[..]));
    assert_eq!(xattr(&dir.join("folder"), "trusted.overlay.redirect"), None);
    assert_eq!(xattr(&dir.join("folder"), "trusted.overlay.opaque"), None);
    assert_eq!(xattr(&dir.join("link"), "trusted.link").as_deref(), Some(&b"l"[..]));
}

#[tokio::test]
async fn the_last_entry_of_a_name_wins() {
    let fixture = Fixture::new();
    let dir = unpacked_one(&fixture, |l| {
        l.file("kept", b"first").raw(Link, "other", "kept", b"").file("kept", b"second");
        l.folder("turns/").file("turns/inside", b"x").file("turns", b"now a file");
        l.raw(Symlink, "becomes", "/etc", b"").folder("becomes/").file("becomes/inside", b"i");
        l.folder("deep/a/b/").file("deep/a/b/c", b"c").raw(Symlink, "deep", "turns", b"");
    })
    .await;
    assert_eq!(std::fs::read(dir.join("kept")).unwrap(), b"second");
    assert_eq!(std::fs::read(dir.join("other")).unwrap(), b"first");
    assert_eq!(std::fs::read(dir.join("turns")).unwrap(), b"now a file");
    assert_eq!(std::fs::read(dir.join("becomes/inside")).unwrap(), b"i");
    assert!(meta(dir.join("becomes")).is_dir() && meta(dir.join("deep")).is_symlink());
}

/// The way to an entry is looked for anew when an entry has changed it.
#[tokio::test]
async fn a_link_that_became_a_folder_leads_nowhere_else() {
    let fixture = Fixture::new();
    let dir = unpacked_one(&fixture, |l| {
        l.entry(Directory, "usr/x/", "", b"", |_| ());
        l.entry(Symlink, "way", "usr", b"", |_| ());
        l.entry(Regular, "way/x/one", "", b"1", |_| ());
        l.entry(Directory, "way/", "", b"", |_| ());
        l.entry(Regular, "way/x/two", "", b"2", |_| ());
    })
    .await;
    assert_eq!(crate::names(&dir.join("usr/x")), ["one"]);
    assert_eq!(crate::names(&dir.join("way/x")), ["two"]);
}

/// What such an entry has is set on what it made, not on what its name leads to afterwards.
#[tokio::test]
async fn an_entry_may_replace_the_link_that_it_leads_through() {
    let fixture = Fixture::new();
    let dir = unpacked_one(&fixture, |l| {
        l.folder("a/").raw(Symlink, "a/way", "/a", b"");
        l.entry(Directory, "a/way/way/", "", b"", |h| h.set_mode(0o700));
        l.folder("b/").folder("c/").file("c/way", b"c").raw(Symlink, "b/way", "/b", b"");
        l.entry(Symlink, "b/way/way", "/c", b"", |h| h.set_uid(5));
    })
    .await;
    assert_eq!(meta(dir.join("a/way")).mode(), 0o40700);
    assert_eq!((meta(dir.join("b/way")).uid(), meta(dir.join("c/way")).uid()), (5, 0));
}

#[tokio::test]
async fn sparse_files_of_gnu_tar_keep_their_holes() {
    let fixture = Fixture::new();
    let made = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(made.path().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"begin", 0).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 5 << 20).unwrap();
    file.set_len(20 << 20).unwrap();
    let whole = std::fs::read(made.path().join("sparse")).unwrap();
    let server = Server::start();
    for (n, format) in [
        &["--format=gnu"][..],
        &["--format=pax"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=0.0"],
    ]
    .iter()
    .enumerate()
    {
        let tar = Command::new("tar")
            .args(*format)
            .args(["--sparse", "-cf", "-", "sparse"])
            .current_dir(made.path())
            .output()
            .unwrap();
        assert!(tar.stdout.len() < 1 << 20, "tar made it sparse");
        let reference = server.push("sparse", &n.to_string(), &Image::gzip(&[tar.stdout]));
        fixture.pull(&reference).await.unwrap();
        let dir = fixture.store.layer_dirs(&fixture.store.resolve(&reference).unwrap().layers).remove(0);
        assert!(std::fs::read(dir.join("sparse")).unwrap() == whole, "{format:?}");
        assert!(meta(dir.join("sparse")).blocks() * 512 < 1 << 20, "{format:?} has holes on disk");
    }
}

#[tokio::test]
async fn implied_folders_take_their_attributes_from_below() {
    let fixture = Fixture::new();
    let mut below = Layer::new();
    below.entry(Directory, "tmp/", "", b"", |h| {
        h.set_mode(0o1777);
        h.set_uid(3);
    });
    let (mut middle, mut above) = (Layer::new(), Layer::new());
    middle.file("tmp/a", b"a");
    above.file("tmp/b/c", b"c");
    let dirs = unpacked(&fixture, vec![below, middle, above]).await;
    for dir in &dirs {
        let tmp = meta(dir.join("tmp"));
        assert_eq!((tmp.mode() & 0o7777, tmp.uid(), tmp.mtime()), (0o1777, 3, 1_600_000_000), "{}", dir.display());
    }
    assert_eq!(meta(dirs[2].join("tmp/b")).mode() & 0o7777, 0o755);
}

/// Everything that can be seen of a tree, but folders' times and what overlayfs keeps for itself.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = meta(path.clone());
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let mut text = format!("{:o} {}:{} {:x}", meta.mode(), meta.uid(), meta.gid(), meta.rdev());
        if meta.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            text += &format!(" mtime {} links {}", meta.mtime(), meta.nlink());
        }
        if meta.is_file() {
            text += &format!(" {:?}", crate::build::digest(&std::fs::read(&path).unwrap()));
        }
        if meta.is_symlink() {
            text += &format!(" -> {}", std::fs::read_link(&path).unwrap().display());
        }
        text += &format!(" {:?}", xattr(&path, "user.x"));
        all.insert(name, text);
    }
    all
}

fn stacked() -> Vec<Layer> {
    let mut below = Layer::new();
    below.folder("./").folder("dir/").file("dir/kept", b"kept").file("dir/gone", b"gone").folder("dir/tree/");
    below.file("dir/tree/leaf", b"leaf").folder("opaque/").file("opaque/old", b"old").folder("opaque/sub/");
    below.file("opaque/sub/older", b"older").file("replaced", b"a file").folder("emptied/").file("emptied/x", b"x");
    below
        .folder("again/")
        .file("again/old", b"old")
        .raw(Symlink, "way", "dir", b"")
        .file("hard", b"h")
        .raw(Link, "harder", "hard", b"");
    below.folder("swapped/").file("swapped/old", b"old").folder("late/").file("late/old", b"old");
    below.folder("swapped2/").file("swapped2/old", b"old");
    let mut middle = Layer::new();
    // Whiteout and folder of one name in one layer: the folder hides the one below, whichever comes first.
    middle.file(".wh.swapped", b"").folder("swapped/").file("swapped/new", b"new");
    middle.folder("late/").file("late/new", b"new").file(".wh.late", b"");
    middle.file(".wh.swapped2", b"").file("swapped2/implied", b"new");
    middle.folder("./").folder("dir/").file("dir/.wh.gone", b"").file("dir/.wh.tree", b"").folder("opaque/");
    middle.file("opaque/.wh..wh..opq", b"").file("opaque/new", b"new").file(".wh.replaced", b"").folder("replaced/");
    middle.file("replaced/inside", b"inside").folder("emptied/").file("emptied/.wh.x", b"").file(".wh.again", b"");
    let mut top = Layer::new();
    top.folder("./")
        .folder("again/")
        .file("again/new", b"new")
        .folder("dir/")
        .folder("dir/tree/")
        .file("dir/tree/other", b"o");
    top.file(".wh.way", b"").folder("opaque/").folder("opaque/sub/").file("opaque/sub/newest", b"n");
    vec![below, middle, top]
}

#[test]
fn whiteouts_and_opaque_folders_stack_as_umoci_unpacks_them() {
    in_own_mounts(|| {
        let fixture = Fixture::new();
        let server = Server::start();
        let image = Image::gzip(&stacked().into_iter().map(Layer::tar).collect::<Vec<_>>());
        let reference = server.push("app", "1", &image);
        crate::block_on(fixture.pull(&reference)).unwrap();
        let dirs = fixture.store.layer_dirs(&fixture.store.resolve(&reference).unwrap().layers);
        let lower: Vec<_> = dirs.iter().map(|dir| dir.to_str().unwrap()).collect();
        let merged = fixture.dir.path().join("merged");
        std::fs::create_dir(&merged).unwrap();
        let options = format!("lowerdir={}", lower.join(":"));
        nix::mount::mount(
            Some("overlay"),
            &merged,
            Some("overlay"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap();

        let layout = fixture.dir.path().join("layout");
        image.write_layout(&layout);
        let bundle = fixture.dir.path().join("bundle");
        let mut umoci = Command::new("umoci");
        umoci.arg("unpack").arg("--image").arg(format!("{}:latest", layout.display())).arg(&bundle);
        let done = umoci.output().expect("the package umoci");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

        let (ours, theirs) = (listing(&merged), listing(&bundle.join("rootfs")));
        nix::mount::umount2(&merged, nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert_eq!(ours, theirs);
        assert!(ours.contains_key("again/new") && !ours.contains_key("again/old") && !ours.contains_key("way"));
        for folder in ["swapped", "late"] {
            let has = |name: &str| ours.contains_key(&format!("{folder}/{name}"));
            assert!(has("new") && !has("old"), "{folder}");
        }
        assert!(ours.contains_key("swapped2/implied") && !ours.contains_key("swapped2/old"));
        assert!(!ours.contains_key("opaque/sub/older") && !ours.contains_key("dir/tree/leaf"));
    });
}

#[tokio::test]
async fn an_image_without_layers_has_an_empty_folder() {
    let fixture = Fixture::new();
    let server = Server::start();
    let image = Image::new(&[]);
    let reference = server.push("scratch", "1", &image);
    fixture.pull(&reference).await.unwrap();
    let dirs = fixture.store.layer_dirs(&fixture.store.resolve(&reference).unwrap().layers);
    assert_eq!(dirs.len(), 1);
    assert!(crate::names(&dirs[0]).is_empty());
}

#[tokio::test]
async fn a_layer_that_comes_twice_is_one_folder() {
    let fixture = Fixture::new();
    let server = Server::start();
    let layer = (files(&[("x", b"x")]), Compression::Gzip);
    let image = Image::new(&[layer.clone(), (files(&[("y", b"y")]), Compression::Gzip), layer]);
    let reference = server.push("twice", "1", &image);
    fixture.pull(&reference).await.unwrap();
    let known = fixture.store.resolve(&reference).unwrap();
    assert_eq!((known.layers.len(), fixture.store.layer_dirs(&known.layers).len()), (3, 2));
    assert_eq!(server.count(&image.layers[0]), 1);
}
