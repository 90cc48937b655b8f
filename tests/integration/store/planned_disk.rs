//! A real disk that has the room that a plan gives it, and fails by that plan.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use deepfm_stream::store::{Aside, AtStage, CommitStore, Disk, Engine, Store, StoreError, Take};

use super::disks::size;

/// What happens to a disk, and what it has seen.
pub(super) struct Plan {
    /// The operation that fails, counted from 1.
    fails_at: usize,
    operations: AtomicUsize,
    /// Operations on a database after one on it has failed.
    pub(super) after_failure: AtomicUsize,
    /// Bytes free: what is written takes of them, what is removed gives its own back.
    pub(super) available: AtomicU64,
    /// Blocks that can be read until one cannot.
    pub(super) readable: AtomicUsize,
    /// The error of the operating system with which files cannot be read; 0 is none.
    pub(super) unreadable: AtomicI32,
    /// Handles on databases that are open.
    pub(super) handles: AtomicUsize,
}

impl Plan {
    pub(super) fn new(fails_at: usize) -> Arc<Self> {
        let [operations, after_failure, handles] = [0; 3].map(AtomicUsize::new);
        let (available, unreadable) = (AtomicU64::new(u64::MAX), AtomicI32::new(0));
        let readable = AtomicUsize::new(usize::MAX);
        Arc::new(Self { fails_at, operations, after_failure, available, readable, unreadable, handles })
    }

    fn take_room(&self, bytes: u64) -> Result<(), StoreError> {
        let less = |available: u64| available.checked_sub(bytes);
        let taken = self.available.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        taken.map(drop).map_err(|_| failure(28))
    }

    fn give_room(&self, bytes: u64) {
        let more = |available: u64| Some(available.saturating_add(bytes));
        let _ = self.available.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
    }

    fn operate(&self) -> Result<(), StoreError> {
        if self.operations.fetch_add(1, Ordering::SeqCst) + 1 == self.fails_at {
            return Err(failure(5));
        }
        Ok(())
    }
}

/// An error of the operating system: 5 is one of the device, 28 a disk that is full.
pub(super) fn failure(error: i32) -> StoreError {
    let source = std::io::Error::from_raw_os_error(error);
    StoreError::Io { doing: "use", path: "disk".into(), source }
}

/// A real disk whose room is the plan's, and that fails by plan.
pub(super) struct PlannedDisk<D> {
    pub(super) disk: D,
    pub(super) plan: Arc<Plan>,
}

impl<D: Disk> Disk for PlannedDisk<D> {
    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        self.disk.names()
    }

    fn read(&self, name: &str) -> std::io::Result<Vec<u8>> {
        match self.plan.unreadable.load(Ordering::SeqCst) {
            0 => self.disk.read(name),
            error => Err(std::io::Error::from_raw_os_error(error)),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.plan.operate()?;
        self.disk.write(name, bytes)
    }

    fn sync(&self, name: &str) -> Result<(), StoreError> {
        self.plan.operate()?;
        self.disk.sync(name)
    }

    fn sync_names(&self) -> Result<(), StoreError> {
        self.plan.operate()?;
        self.disk.sync_names()
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let bytes = size(&self.disk.path(name));
        self.disk.remove(name)?;
        self.plan.give_room(bytes);
        Ok(())
    }

    fn available(&self) -> Result<u64, StoreError> {
        Ok(self.plan.available.load(Ordering::SeqCst))
    }

    fn remove_leftovers(&self, name: &str) -> Result<(), StoreError> {
        self.disk.remove_leftovers(name)
    }

    fn open(&self, name: &str) -> Result<Box<dyn Engine>, StoreError> {
        self.plan.operate()?;
        let (database, plan) = (self.disk.open(name)?, Arc::clone(&self.plan));
        Ok(Box::new(Planned::new(database, plan, Arc::new(AtomicU64::new(0)))))
    }

    fn aside(&self, work: Box<dyn FnOnce() + Send>) -> Box<dyn Aside> {
        self.disk.aside(work)
    }
}

struct Planned {
    database: Box<dyn Engine>,
    plan: Arc<Plan>,
    has_failed: Arc<AtomicU64>,
}

impl Planned {
    fn new(database: Box<dyn Engine>, plan: Arc<Plan>, has_failed: Arc<AtomicU64>) -> Self {
        plan.handles.fetch_add(1, Ordering::SeqCst);
        Self { database, plan, has_failed }
    }

    fn operate(&self) -> Result<(), StoreError> {
        if self.has_failed.load(Ordering::SeqCst) > 0 {
            self.plan.after_failure.fetch_add(1, Ordering::SeqCst);
        }
        self.plan.operate().inspect_err(|_| self.has_failed.store(1, Ordering::SeqCst))
    }
}

impl Engine for Planned {
    fn head(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.database.head()
    }

    fn scan(&self, prefix: &[u8], take: Take<'_>) -> Result<(), StoreError> {
        let mut read = Ok(());
        self.database.scan(prefix, &mut |key, value| {
            if self.plan.readable.fetch_sub(1, Ordering::SeqCst) == 0 {
                read = Err(failure(5));
                return ControlFlow::Break(());
            }
            take(key, value)
        })?;
        read
    }

    fn insert(&self, blocks: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreError> {
        for block in blocks {
            self.operate()?;
            self.plan.take_room(block.1.len() as u64)?;
            self.database.insert(std::slice::from_ref(block))?;
        }
        Ok(())
    }

    fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        self.operate()?;
        self.database.remove(key)
    }

    fn move_head(&self, from: Option<&[u8]>, to: &[u8]) -> Result<bool, StoreError> {
        self.operate()?;
        self.database.move_head(from, to)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.operate()?;
        self.database.sync()
    }

    fn another(&self) -> Box<dyn Engine> {
        let (plan, has_failed) = (Arc::clone(&self.plan), Arc::clone(&self.has_failed));
        Box::new(Self::new(self.database.another(), plan, has_failed))
    }
}

impl Drop for Planned {
    fn drop(&mut self) {
        self.plan.handles.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A store on a real disk that goes by a plan.
pub(super) fn planned(root: &Path, plan: &Arc<Plan>, deltas_max: usize, at_stage: AtStage) -> CommitStore {
    let disk = CommitStore::disk(root).expect("nobody else has it");
    let disk = PlannedDisk { disk, plan: Arc::clone(plan) };
    let mut store = CommitStore::on(Arc::new(disk), deltas_max, at_stage);
    store.load().expect("nothing is wrong yet");
    store
}
