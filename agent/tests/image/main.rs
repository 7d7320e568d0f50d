//! The image store against real registries, hostile ones, and a real file system. Needs root, and fails without it.
//! Every test has folders, ports and (where it mounts) a mount namespace of its own.

// A test may stop where it stands.
#![allow(clippy::unwrap_used)]

mod apply;
mod artifact;
mod build;
mod docker_registry;
mod export;
mod pull;
mod push;
mod refused;
mod server;
mod signatures;
mod store;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth::image::{ImageConfig, ImageError, ImageStore, PullRequest};
use tempfile::TempDir;

/// A store in a folder of its own.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) store: Arc<ImageStore>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// Patience is short unless a test says otherwise.
    pub(crate) fn with(change: impl FnOnce(&mut ImageConfig)) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let dir = tempfile::tempdir().unwrap();
        let mut config = ImageConfig {
            registry_dirs: Vec::new(),
            retries: 3,
            retry_pause: Duration::from_millis(5),
            stall_period: Duration::from_secs(5),
            ..ImageConfig::default()
        };
        change(&mut config);
        let store = ImageStore::open(&dir.path().join("store"), config).unwrap();
        Self { dir, store }
    }

    pub(crate) async fn pull(&self, reference: &str) -> Result<String, ImageError> {
        let request = PullRequest { reference: reference.to_owned(), ..PullRequest::default() };
        self.store.pull(request).await.map(|id| id.to_string())
    }

    /// The file of an image, from its topmost layer that has it.
    pub(crate) fn read(&self, name: &str, path: &str) -> Option<Vec<u8>> {
        let image = self.store.resolve(name)?;
        self.store.layer_dirs(&image.layers).iter().find_map(|dir| std::fs::read(dir.join(path)).ok())
    }

    /// A pull that has to fail, and to leave nothing behind.
    pub(crate) async fn refused(&self, reference: &str) -> ImageError {
        let error = self.pull(reference).await.expect_err("the pull has to fail");
        self.assert_empty();
        error
    }

    pub(crate) fn assert_empty(&self) {
        assert!(self.store.list().is_empty());
        assert_nothing_left(&self.dir.path().join("store"));
    }
}

/// Nothing but the store's own empty folders. What is deleted in the background gets a moment.
pub(crate) fn assert_nothing_left(root: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left: Vec<_> = ["tmp", "layers", "blobs/sha256"].iter().flat_map(|dir| names(&root.join(dir))).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A thread in a mount namespace of its own, for tests that mount something: the host's table stays as it is.
pub(crate) fn in_own_mounts<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    use nix::mount::{MsFlags, mount};
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        work()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A runtime whose threads stay in this thread's namespaces.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
