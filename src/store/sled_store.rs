//! Checkpoints in sled, by the rules that its measured faults ask for.
//!
//! ```text
//! DIR/LOCK            held by the worker
//! DIR/HEAD.a, HEAD.b  the witness, written in turn
//! DIR/base-<n>/       sled databases; the newest takes commits, the one before is kept
//! ```
//!
//! A commit: blocks → flush, sync → one transaction (the head must be the parent; head and outbox) → flush, sync: *this is
//! the commit point* → witness. sled's file grows without end under rewriting, so a commit that finds it grown goes into
//! a fresh directory.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::directory::{Directory, sync_directory};
use super::witness::{self, Testimony, Witness};
use super::{OutboxEntry, Saved, Store, StoreError};
use crate::snapshot::checkpoint::Block;

/// The database is replaced when it takes this many times the checkpoint that is written.
const GROWTH_MAX: u64 = 6;

/// Below this size it is not worth replacing, in bytes.
const ROTATION_MIN: u64 = 64 << 20;

/// Room that a commit must find beside the blocks themselves, in bytes.
const HEADROOM: u64 = 16 << 20;

/// The arrows of a commit, for tests that stop at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The blocks are synced; nothing refers to them.
    BlocksSynced,
    /// The transaction is synced: the commit is durable.
    Committed,
    /// The witness knows of it.
    Witnessed,
}

/// The store of a state directory.
pub struct SledStore {
    root: PathBuf,
    _lock: File,
    current: Option<(String, Directory)>,
    witness: Option<Witness>,
    is_poisoned: bool,
    at_stage: fn(Stage),
}

impl SledStore {
    /// Opens a state directory, which is made if it is missing, and locks it.
    ///
    /// # Errors
    /// When another process has it, or it cannot be made.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_with(root, |_| ())
    }

    /// The same, calling `at_stage` at every arrow of a commit.
    ///
    /// # Errors
    /// When another process has it, or it cannot be made.
    pub fn open_with(root: &Path, at_stage: fn(Stage)) -> Result<Self, StoreError> {
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { doing, path, source }
        };
        fs::create_dir_all(root).map_err(io("make", root))?;
        let path = root.join("LOCK");
        let lock = File::create(&path).map_err(io("make", &path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::Locked(root.to_owned()),
            TryLockError::Error(source) => StoreError::Io { doing: "lock", path, source },
        })?;
        let root = root.to_owned();
        Ok(Self { root, _lock: lock, current: None, witness: None, is_poisoned: false, at_stage })
    }

    /// Removes every checkpoint, for a deliberate fresh start.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn reset(&mut self) -> Result<(), StoreError> {
        self.current = None;
        for name in ["HEAD.a", "HEAD.b"] {
            let path = self.root.join(name);
            if path.exists() {
                fs::remove_file(&path).map_err(|source| StoreError::Io { doing: "remove", path, source })?;
            }
        }
        for (_, name) in self.bases() {
            self.remove(&name)?;
        }
        self.witness = None;
        sync_directory(&self.root)
    }

    /// The databases, by ascending number.
    fn bases(&self) -> Vec<(u64, String)> {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        let mut bases: Vec<(u64, String)> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some((name.strip_prefix("base-")?.parse().ok()?, name))
            })
            .collect();
        bases.sort_unstable();
        bases
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.root.join(name);
        fs::remove_dir_all(&path).map_err(|source| StoreError::Io { doing: "remove", path, source })
    }

    fn damaged(&self, reason: String) -> StoreError {
        StoreError::Damaged { path: self.root.clone(), reason }
    }

    /// The newest commit that is whole: the witness's, or its successor when a crash came between commit and witness.
    fn newest(&mut self) -> Result<Option<Saved>, StoreError> {
        let known = self.witness.as_ref().map_or(0, |witness| witness.newest.commit);
        for (_, name) in self.bases().into_iter().rev() {
            let mut directory = Directory::open(&self.root.join(&name))?;
            let Some(head) = directory.head()? else {
                // A fresh database without a commit: rotation was interrupted, or the first commit.
                continue;
            };
            let is_newest = match &self.witness {
                Some(Witness { newest, .. }) if head.commit == newest.commit => {
                    head.digest == newest.digest && name == newest.directory
                }
                _ => head.commit == known + 1,
            };
            if !is_newest {
                let reason = format!("{name} is at checkpoint {}, the witness knows {known}", head.commit);
                return Err(self.damaged(reason));
            }
            let blocks = directory.read(head.commit, &head.digest)?;
            let outbox = directory.outbox()?;
            let testimony = Testimony { commit: head.commit, directory: name.clone(), digest: head.digest };
            self.current = Some((name, directory));
            self.testify(testimony)?;
            return Ok(Some(Saved { commit: head.commit, blocks, outbox, fell_back: None }));
        }
        if known > 0 || (witness::exists(&self.root) && self.witness.is_none()) {
            return Err(self.damaged(format!("the witness knows checkpoint {known}, but there is none")));
        }
        Ok(None)
    }

    /// The commit before the newest, exactly as the witness says; what came after it will be read again.
    fn before(&mut self, error: &StoreError) -> Result<Saved, StoreError> {
        let Some(before) = self.witness.as_ref().and_then(|witness| witness.before.clone()) else {
            return Err(self.damaged(format!("{error}; there is no checkpoint before it")));
        };
        let path = self.root.join(&before.directory);
        if !path.exists() {
            return Err(self.damaged(format!("{error}; and {} is gone", before.directory)));
        }
        let mut directory = Directory::open(&path)?;
        let blocks = directory
            .read(before.commit, &before.digest)
            .map_err(|second| self.damaged(format!("{error}; and the one before: {second}")))?;
        // Nothing is written behind damage: the next commit goes into a fresh directory.
        self.current = None;
        Ok(Saved { commit: before.commit, blocks, outbox: Vec::new(), fell_back: Some(error.to_string()) })
    }

    /// Writes the witness, unless it knows of the commit already.
    fn testify(&mut self, newest: Testimony) -> Result<(), StoreError> {
        if self.witness.as_ref().is_some_and(|witness| witness.newest == newest) {
            return Ok(());
        }
        let before = self.witness.take().map(|witness| witness.newest);
        let witness = Witness { newest, before };
        witness::write(&self.root, &witness)?;
        self.witness = Some(witness);
        Ok(())
    }

    fn check_space(&self, bytes: u64) -> Result<(), StoreError> {
        let needed = 2 * bytes + HEADROOM;
        let available = fs4::available_space(&self.root).map_err(|source| StoreError::Io {
            doing: "measure",
            path: self.root.clone(),
            source,
        })?;
        if available < needed {
            return Err(StoreError::Full { path: self.root.clone(), available, needed });
        }
        Ok(())
    }

    /// The database for the next commit: the current one, or a fresh one when it has grown, or there is none.
    fn destination(&mut self, bytes: u64) -> Result<(String, Directory, bool), StoreError> {
        if let Some((name, directory)) = self.current.take()
            && directory.disk_bytes() < ROTATION_MIN.max(GROWTH_MAX * bytes)
        {
            return Ok((name, directory, false));
        }
        let number = self.bases().last().map_or(1, |(number, _)| number + 1);
        let name = format!("base-{number}");
        let directory = Directory::open(&self.root.join(&name))?;
        Ok((name, directory, true))
    }

    fn commit_to(&mut self, blocks: &[Block], outbox: &[OutboxEntry]) -> Result<u64, StoreError> {
        let bytes = blocks.iter().map(|block| block.bytes.len() as u64).sum();
        self.check_space(bytes)?;
        let known = self.witness.as_ref().map_or(0, |witness| witness.newest.commit);
        let commit = known + 1;
        let (name, mut directory, is_fresh) = self.destination(bytes)?;
        let head = directory.write(commit, blocks)?;
        if is_fresh {
            // A new base is read back before anything rests on it.
            directory.read(commit, &head.digest)?;
        }
        (self.at_stage)(Stage::BlocksSynced);
        let parent = (!is_fresh && known > 0).then_some(known);
        directory.commit(parent, &head, outbox)?;
        (self.at_stage)(Stage::Committed);
        self.testify(Testimony { commit, directory: name.clone(), digest: head.digest })?;
        (self.at_stage)(Stage::Witnessed);
        directory.forget_before(known)?;
        self.current = Some((name, directory));
        self.remove_old_bases()?;
        Ok(commit)
    }

    /// Keeps the databases that the witness speaks of.
    fn remove_old_bases(&self) -> Result<(), StoreError> {
        let Some(Witness { newest, before }) = &self.witness else {
            return Ok(());
        };
        let kept = [Some(&newest.directory), before.as_ref().map(|before| &before.directory)];
        for (_, name) in self.bases() {
            if !kept.contains(&Some(&name)) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }
}

impl Store for SledStore {
    fn load(&mut self) -> Result<Option<Saved>, StoreError> {
        if self.is_poisoned {
            return Err(StoreError::Poisoned);
        }
        self.witness = witness::read(&self.root);
        let loaded = self.newest().or_else(|error| {
            self.current = None;
            self.before(&error).map(Some)
        });
        self.is_poisoned = loaded.is_err();
        loaded
    }

    fn commit(&mut self, blocks: &[Block], outbox: &[OutboxEntry]) -> Result<u64, StoreError> {
        if self.is_poisoned {
            return Err(StoreError::Poisoned);
        }
        let committed = self.commit_to(blocks, outbox);
        self.is_poisoned = committed.is_err();
        committed
    }
}
