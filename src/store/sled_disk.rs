//! A state directory of sled databases, with sled's measured faults fenced in.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sled::transaction::{ConflictableTransactionError, TransactionError};

use super::StoreError;
use super::disk::{Aside, Disk, Engine, Take};
use crate::thread::{self, give_way};

/// sled's page cache; reading happens once, at start.
const CACHE_BYTES: u64 = 64 << 20;

/// How long opening may take: replaying sled's log is fast, a hang is not. It reads a database whole, …
const OPEN_MAX: Duration = Duration::from_mins(1);

/// … and takes about a second for a GiB where that is in memory: a slow disk has so much longer.
const OPEN_MAX_PER_GIB: Duration = Duration::from_secs(20);

/// A block is kept in pieces. sled rewrites a leaf of its tree as one message, and one above 128 KiB becomes a file in `blobs/`
/// that it never syncs: after a power cut the checkpoint would be gone.
const PIECE_BYTES: usize = 7000;

/// So many values a leaf of sled's tree has, at most.
const LEAF_VALUES_MAX: usize = 17;

// Keys take little of it, and are shortened by what they share.
const _: () =
    assert!(LEAF_VALUES_MAX * (PIECE_BYTES + 64) < 128 << 10, "a leaf would become a file that is not synced");

/// How long a lock is waited for: whoever ends or forks may hold it for a moment more.
const LOCK_MAX: Duration = Duration::from_millis(500);

/// How often a lock is tried.
const LOCK_EVERY: Duration = Duration::from_millis(5);

const HEAD: &[u8] = b"head";

/// A directory that is locked for as long as this lives.
pub(super) struct SledDisk {
    root: PathBuf,
    _lock: File,
}

impl SledDisk {
    /// Makes the directory if it is missing, and locks it.
    pub(super) fn lock(root: &Path) -> Result<Self, StoreError> {
        // What was learned, and of whom, is nobody else's to read. A directory that is there keeps its mode.
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed("make", root))?;
        let path = root.join("LOCK");
        let lock = File::create(&path).map_err(failed("make", &path))?;
        let start = Instant::now();
        while let Err(error) = lock.try_lock() {
            match error {
                TryLockError::WouldBlock if start.elapsed() < LOCK_MAX => std::thread::sleep(LOCK_EVERY),
                TryLockError::WouldBlock => return Err(StoreError::Locked(root.to_owned())),
                TryLockError::Error(source) => return Err(StoreError::Io { doing: "lock", path, source }),
            }
        }
        Ok(Self { root: root.to_owned(), _lock: lock })
    }
}

impl Disk for SledDisk {
    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let entries = fs::read_dir(&self.root).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(failed("list", &self.root))?;
        Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.root.join(name))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.root.join(name);
        fs::write(&path, bytes).map_err(failed("write", &path))
    }

    fn sync(&self, name: &str) -> Result<(), StoreError> {
        sync_file(&self.root.join(name))
    }

    fn sync_names(&self) -> Result<(), StoreError> {
        sync_file(&self.root)
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.root.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(failed("remove", &path))
    }

    fn available(&self) -> Result<u64, StoreError> {
        fs4::available_space(&self.root).map_err(failed("measure", &self.root))
    }

    /// A kill while sled opens leaves a half-written snapshot behind, with which it refuses to open ever after.
    fn remove_leftovers(&self, name: &str) -> Result<(), StoreError> {
        let Ok(entries) = fs::read_dir(self.root.join(name)) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("snap.") && name.ends_with(".generating") {
                let path = entry.path();
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    fn open(&self, name: &str) -> Result<Box<dyn Engine>, StoreError> {
        let path = self.root.join(name);
        let is_new = !path.join("db").exists();
        let patience = patience(&path);
        let (sender, receiver) = mpsc::channel();
        let directory = path.clone();
        thread::aside("opening", move || {
            // So do the threads that sled starts.
            give_way();
            let opened = catch_unwind(AssertUnwindSafe(|| SledDatabase::open(&directory)));
            // Nobody listens any more when opening took too long; the handle is then leaked with this thread.
            let _ = sender.send(opened);
        });
        let opened = receiver.recv_timeout(patience).map_err(|_| StoreError::Stuck { path: path.clone(), patience })?;
        let panicked = |_| StoreError::Damaged { path: path.clone(), reason: "opening it panicked".to_owned() };
        let database = opened.map_err(panicked)??;
        if is_new {
            database.sync()?;
            sync_file(&path.join("conf"))?;
            sync_file(&path)?;
            sync_file(&self.root)?;
        }
        Ok(Box::new(database))
    }

    fn aside(&self, work: Box<dyn FnOnce() + Send>) -> Box<dyn Aside> {
        Box::new(thread::aside("merging", || {
            give_way();
            work();
        }))
    }
}

#[derive(Clone)]
struct SledDatabase {
    path: PathBuf,
    db: sled::Db,
    blocks: sled::Tree,
    head: sled::Tree,
}

impl SledDatabase {
    fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Engine { path: path.to_owned(), source: io_error(error) };
        let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES);
        let start = Instant::now();
        let db = loop {
            match config.open() {
                Err(error) if is_locked(&error) && start.elapsed() < LOCK_MAX => std::thread::sleep(LOCK_EVERY),
                opened => break opened.map_err(failed)?,
            }
        };
        let blocks = db.open_tree("blocks").map_err(failed)?;
        let head = db.open_tree("head").map_err(failed)?;
        Ok(Self { path: path.to_owned(), db, blocks, head })
    }

    fn failed(&self, error: sled::Error) -> StoreError {
        StoreError::Engine { path: self.path.clone(), source: io_error(error) }
    }
}

impl Engine for SledDatabase {
    fn head(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let head = self.head.get(HEAD).map_err(|source| self.failed(source))?;
        Ok(head.map(|bytes| bytes.to_vec()))
    }

    fn scan(&self, prefix: &[u8], take: Take<'_>) -> Result<(), StoreError> {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for entry in self.blocks.scan_prefix(prefix) {
            let (piece, bytes) = entry.map_err(|source| self.failed(source))?;
            let whole = piece.strip_suffix(&[piece.last().copied().unwrap_or(0)]).unwrap_or(&[]);
            if whole != key {
                // Blocks of one commit are of one length, most often.
                let next = Vec::with_capacity(value.len());
                let value = std::mem::replace(&mut value, next);
                if !key.is_empty() && take(&key, value).is_break() {
                    return Ok(());
                }
                whole.clone_into(&mut key);
            }
            value.extend_from_slice(&bytes);
        }
        if !key.is_empty() {
            // It was the last: whether more is wanted does not matter.
            let _ = take(&key, value);
        }
        Ok(())
    }

    /// First their keys with nothing under them, then what belongs there. sled appends a value to its leaf, and rewrites the
    /// leaf with all its values when it splits or has ten such pieces. A leaf of bare keys splits for next to nothing, and the nine
    /// that are left in it are not yet ten: so a value is written once, and not four times.
    fn insert(&self, blocks: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreError> {
        for is_bare in [true, false] {
            for (key, value) in blocks {
                for (at, piece) in (0_u8..).zip(value.chunks(PIECE_BYTES)) {
                    let key = [key.as_slice(), &[at]].concat();
                    self.blocks.insert(key, if is_bare { &[] } else { piece }).map_err(|source| self.failed(source))?;
                }
            }
        }
        Ok(())
    }

    fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        for entry in self.blocks.scan_prefix(key).keys() {
            let piece = entry.map_err(|source| self.failed(source))?;
            self.blocks.remove(piece).map_err(|source| self.failed(source))?;
        }
        Ok(())
    }

    fn move_head(&self, from: Option<&[u8]>, to: &[u8]) -> Result<bool, StoreError> {
        let moved = self.head.transaction(|heads| {
            if heads.get(HEAD)?.as_deref() != from {
                return Err(ConflictableTransactionError::Abort(()));
            }
            heads.insert(HEAD, to)?;
            Ok(())
        });
        match moved {
            Ok(()) => Ok(true),
            Err(TransactionError::Abort(())) => Ok(false),
            Err(TransactionError::Storage(source)) => Err(self.failed(source)),
        }
    }

    /// sled's own flush does not sync on Linux.
    fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|source| self.failed(source))?;
        sync_file(&self.path.join("db"))
    }

    fn another(&self) -> Box<dyn Engine> {
        Box::new(self.clone())
    }
}

/// sled tells a failure of the disk as it was, and one of its own in words. That a database is locked says nothing of what is
/// in it.
fn io_error(error: sled::Error) -> io::Error {
    match error {
        error if is_locked(&error) => io::Error::new(ErrorKind::ResourceBusy, error),
        sled::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

/// How long the database in a directory may take to open.
fn patience(path: &Path) -> Duration {
    let bytes = path.join("db").metadata().map_or(0, |db| db.len());
    OPEN_MAX + OPEN_MAX_PER_GIB.mul_f64(bytes as f64 / f64::from(1 << 30))
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock"))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { doing, path, source }
}

fn sync_file(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(failed("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_a_database_is_the_longer_it_may_take_to_open() {
        let directory = tempfile::tempdir().expect("a directory of our own");
        assert_eq!(patience(directory.path()).as_secs(), 60, "there is none yet");
        let db = File::create(directory.path().join("db")).expect("the disk takes it");
        // It has holes only.
        db.set_len(40 << 30).expect("the disk takes it");
        assert_eq!(patience(directory.path()).as_secs(), 60 + 40 * 20);
    }
}
