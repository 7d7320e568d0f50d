//! What the writable layers take, measured off everybody's path. Who asks gets the last measure at once; one that has grown
//! old is queued. A thread works through the queue, a portion of each layer in turn, and ends with it: where nobody asks,
//! nothing runs, and a stuck disk holds up this thread alone.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::walk::{LayerUsage, Walk};
use crate::model::ContainerId;
use crate::ops::now;

/// How old a measure may become before asking for it starts another.
const FRESH: Duration = Duration::from_secs(10);

/// A layer is not walked again before this many times as long as its last walk took: a huge one costs a twentieth of a
/// processor at most, however often somebody asks.
const REST: u32 = 20;

/// Entries of one layer before the next one's turn: a few milliseconds.
const PORTION: usize = 1024;

/// How long the first request about a layer waits for its measure; one that a container has just begun to write needs some
/// 20 µs.
const FIRST: Duration = Duration::from_millis(20);

/// The measures, and who makes them.
#[derive(Default)]
pub(super) struct Layers {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    measured: Condvar,
}

#[derive(Default)]
struct Table {
    known: HashMap<ContainerId, Measure>,
    queue: VecDeque<Task>,
    working: bool,
}

/// What is known of a layer.
struct Measure {
    /// None until its first walk ends.
    last: Option<LayerUsage>,
    /// When it may be walked again; none while a walk is queued or under way.
    due: Option<Instant>,
}

struct Task {
    id: ContainerId,
    root: PathBuf,
    walk: Option<Walk>,
    took: Duration,
}

impl Layers {
    /// Has the layers measured that are due. Those that nobody ever asked for are given back, for `wait`.
    pub(super) fn ask(&self, layers: impl Iterator<Item = (ContainerId, PathBuf)>) -> Vec<ContainerId> {
        let now = Instant::now();
        let mut first = Vec::new();
        let mut table = self.shared.lock();
        for (id, root) in layers {
            let measure = table.known.entry(id.clone()).or_insert_with(|| {
                first.push(id.clone());
                Measure { last: None, due: Some(now) }
            });
            if measure.due.take_if(|due| *due <= now).is_some() {
                table.queue.push_back(Task { id, root, walk: None, took: Duration::ZERO });
            }
        }
        if !table.queue.is_empty() && !table.working {
            table.working = self.start_worker();
        }
        first
    }

    /// Waits until these are measured, or not much longer.
    pub(super) fn wait(&self, first: &[ContainerId]) {
        let unknown = |table: &mut Table| {
            first.iter().any(|id| table.known.get(id).is_some_and(|measure| measure.last.is_none()))
        };
        drop(self.shared.measured.wait_timeout_while(self.shared.lock(), FIRST, unknown));
    }

    /// The last measure; none while the first walk is under way.
    pub(super) fn last(&self, id: &ContainerId) -> Option<LayerUsage> {
        self.shared.lock().known.get(id)?.last
    }

    /// The container is removed. A walk under way ends by itself, its tree being deleted.
    pub(super) fn forget(&self, id: &ContainerId) {
        self.shared.lock().known.remove(id);
    }

    fn start_worker(&self) -> bool {
        let shared = self.shared.clone();
        let worker = std::thread::Builder::new().name("layer-usage".into()).spawn(move || shared.work());
        if let Err(error) = &worker {
            // The queue stays, and the next request tries again.
            tracing::error!(%error, "cannot start the thread that measures writable layers: check the limit on threads");
        }
        worker.is_ok()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(mut task) = self.next() {
            let begun = Instant::now();
            let root = &task.root;
            let usage = task.walk.get_or_insert_with(|| Walk::begin(root)).go_on(PORTION);
            task.took += begun.elapsed();
            match usage {
                Some(usage) => self.finish(&task, usage),
                None => self.lock().queue.push_back(task),
            }
        }
    }

    fn next(&self) -> Option<Task> {
        let mut table = self.lock();
        let task = table.queue.pop_front();
        table.working = task.is_some();
        task
    }

    fn finish(&self, task: &Task, usage: LayerUsage) {
        // One that was removed meanwhile has been forgotten, and nobody would forget it again.
        if let Some(measure) = self.lock().known.get_mut(&task.id) {
            let usage = LayerUsage { measured_at: now(), ..usage };
            *measure = Measure { last: Some(usage), due: Some(Instant::now() + FRESH.max(task.took * REST)) };
        }
        self.measured.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(layers: &Layers, id: &ContainerId, root: &std::path::Path) -> Option<LayerUsage> {
        layers.wait(&layers.ask(std::iter::once((id.clone(), root.to_owned()))));
        layers.last(id)
    }

    fn eventually(mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < deadline, "it did not come");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_layer_is_measured_when_it_is_asked_for_and_the_thread_ends() {
        let (layers, dir) = (Layers::default(), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("a"), [1; 5000]).unwrap();
        let id = ContainerId::random().unwrap();
        eventually(|| ask(&layers, &id, dir.path()).is_some_and(|usage| usage.inodes == 2 && usage.bytes >= 5000));
        eventually(|| !layers.shared.lock().working);

        // Young as it is, it is given again; grown old, it is given once more, and then there is a new one.
        std::fs::write(dir.path().join("b"), [1; 5000]).unwrap();
        assert_eq!(ask(&layers, &id, dir.path()).unwrap().inodes, 2);
        assert!(!layers.shared.lock().working, "nothing was due");
        layers.shared.lock().known.get_mut(&id).unwrap().due = Some(Instant::now());
        assert_eq!(ask(&layers, &id, dir.path()).unwrap().inodes, 2);
        eventually(|| ask(&layers, &id, dir.path()).unwrap().inodes == 3);
    }

    #[test]
    fn a_huge_layer_lets_the_others_through() {
        let (layers, dir) = (Layers::default(), tempfile::tempdir().unwrap());
        let (huge, small) = (dir.path().join("huge"), dir.path().join("small"));
        [&huge, &small].into_iter().for_each(|path| std::fs::create_dir(path).unwrap());
        for n in 0..3 * PORTION {
            std::fs::write(huge.join(n.to_string()), "").unwrap();
        }
        let ids = [ContainerId::random().unwrap(), ContainerId::random().unwrap()];
        let task = |id: &ContainerId, root: &PathBuf| Task {
            id: id.clone(),
            root: root.clone(),
            walk: None,
            took: Duration::ZERO,
        };
        let mut table = layers.shared.lock();
        table.known.extend(ids.iter().map(|id| (id.clone(), Measure { last: None, due: None })));
        table.queue.extend([task(&ids[0], &huge), task(&ids[1], &small)]);
        drop(table);
        let mut order = Vec::new();
        while let Some(mut next) = layers.shared.next() {
            let root = &next.root;
            match next.walk.get_or_insert_with(|| Walk::begin(root)).go_on(PORTION) {
                Some(_) => order.push(next.id),
                None => layers.shared.lock().queue.push_back(next),
            }
        }
        assert_eq!(order, [ids[1].clone(), ids[0].clone()]);
    }

    #[test]
    fn a_container_that_is_gone_is_not_remembered() {
        let (layers, dir) = (Layers::default(), tempfile::tempdir().unwrap());
        let id = ContainerId::random().unwrap();
        layers.shared.lock().known.insert(id.clone(), Measure { last: None, due: None });
        layers.forget(&id);
        let task = Task { id, root: dir.path().to_owned(), walk: None, took: Duration::ZERO };
        layers.shared.finish(&task, LayerUsage::default());
        assert!(layers.shared.lock().known.is_empty());
    }
}
