//! One sled database: opened under guard, read with every block checked, written in the order that makes a commit.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};

use super::{OutboxEntry, StoreError};
use crate::snapshot::checkpoint::{Block, Section};

/// sled's page cache; reading happens once, at start.
const CACHE_BYTES: u64 = 64 << 20;

/// How long opening may take: replaying sled's log is fast, a hang is not.
const OPEN_MAX: Duration = Duration::from_mins(1);

const HEAD: &[u8] = b"head";

/// The newest commit of a database, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Its number.
    pub(super) commit: u64,
    /// Number of its blocks.
    pub(super) blocks: u64,
    /// SHA-256 over its blocks, in hexadecimal.
    pub(super) digest: String,
}

/// An open database. After a failure its handles are leaked: sled hangs in `Drop` on a failed handle.
pub(super) struct Directory {
    path: PathBuf,
    handles: Option<Handles>,
}

struct Handles {
    db: sled::Db,
    blocks: sled::Tree,
    head: sled::Tree,
    outbox: sled::Tree,
}

impl Directory {
    /// Opens a database, or makes one. A kill while sled opens leaves a half-written snapshot behind, with which it refuses
    /// to open ever after: it is removed first. Only for the holder of the state directory's lock.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let is_new = !path.join("db").exists();
        remove_generating_snapshots(path)?;
        let (sender, receiver) = mpsc::channel();
        let directory = path.to_owned();
        std::thread::spawn(move || {
            let opened = catch_unwind(AssertUnwindSafe(|| Handles::open(&directory)));
            // Nobody listens any more when opening took too long; the handle is then leaked with this thread.
            let _ = sender.send(opened);
        });
        let opened = receiver.recv_timeout(OPEN_MAX).map_err(|_| StoreError::Stuck(path.to_owned()))?;
        let handles = opened
            .map_err(|_| damaged(path, "opening it panicked"))?
            .map_err(|source| StoreError::Sled { path: path.to_owned(), source })?;
        let mut directory = Self { path: path.to_owned(), handles: Some(handles) };
        if is_new {
            directory.sync()?;
            sync_file(&path.join("conf"))?;
            sync_directory(path)?;
            sync_directory(path.parent().unwrap_or(path))?;
        }
        Ok(directory)
    }

    /// The newest commit, as the database says.
    pub(super) fn head(&mut self) -> Result<Option<Head>, StoreError> {
        let path = self.path.clone();
        self.guarded(|handles| {
            let Some(bytes) = handles.head.get(HEAD)? else {
                return Ok(None);
            };
            Ok(Some(postcard::from_bytes(&bytes).map_err(|error| damaged(&path, &format!("its head: {error}")))?))
        })
    }

    /// The blocks of a commit, each checked, and all of them against `digest`.
    pub(super) fn read(&mut self, commit: u64, digest: &str) -> Result<Vec<Block>, StoreError> {
        let path = self.path.clone();
        let bad = |what: &str| Failed::Store(damaged(&path, &format!("{what} of checkpoint {commit}")));
        self.guarded(|handles| {
            let mut blocks = Vec::new();
            let mut hasher = Sha256::new();
            for entry in handles.blocks.scan_prefix(commit.to_be_bytes()) {
                let (key, value) = entry?;
                let (bytes, sum) = value.split_last_chunk::<4>().ok_or_else(|| bad("a block"))?;
                if key.len() != 13 || crc32c::crc32c(bytes) != u32::from_le_bytes(*sum) {
                    return Err(bad("the checksum of a block"));
                }
                let section = section(key[8]).ok_or_else(|| bad("the section of a block"))?;
                hasher.update(&key[8..]);
                hasher.update(sum);
                blocks.push(Block { section, bytes: bytes.to_vec() });
            }
            if hex::encode(hasher.finalize()) != digest {
                return Err(bad("the digest"));
            }
            Ok(blocks)
        })
    }

    /// The versions that are still to be announced.
    pub(super) fn outbox(&mut self) -> Result<Vec<OutboxEntry>, StoreError> {
        let path = self.path.clone();
        self.guarded(|handles| {
            let decode = |entry: sled::Result<(sled::IVec, sled::IVec)>| {
                let (_, value) = entry?;
                postcard::from_bytes(&value)
                    .map_err(|error| Failed::Store(damaged(&path, &format!("its outbox: {error}"))))
            };
            handles.outbox.iter().map(decode).collect()
        })
    }

    /// Writes the blocks of a commit and syncs them; nothing refers to them yet. Returns what the head will be.
    pub(super) fn write(&mut self, commit: u64, blocks: &[Block]) -> Result<Head, StoreError> {
        let mut hasher = Sha256::new();
        self.guarded(|handles| {
            for (index, block) in blocks.iter().enumerate() {
                let mut key = commit.to_be_bytes().to_vec();
                key.push(block.section as u8);
                key.extend((index as u32).to_be_bytes());
                let sum = crc32c::crc32c(&block.bytes).to_le_bytes();
                hasher.update(&key[8..]);
                hasher.update(sum);
                handles.blocks.insert(key, [block.bytes.as_slice(), &sum].concat())?;
            }
            Ok(())
        })?;
        self.sync()?;
        Ok(Head { commit, blocks: blocks.len() as u64, digest: hex::encode(hasher.finalize()) })
    }

    /// Makes the commit: in one transaction the head moves from `parent` and the outbox is replaced; then syncs.
    pub(super) fn commit(
        &mut self,
        parent: Option<u64>,
        head: &Head,
        outbox: &[OutboxEntry],
    ) -> Result<(), StoreError> {
        let path = self.path.clone();
        let encoded = postcard::to_allocvec(head).expect("a head always encodes");
        self.guarded(|handles| {
            let old: Vec<sled::IVec> = handles.outbox.iter().keys().collect::<sled::Result<_>>()?;
            let moved = (&handles.head, &handles.outbox).transaction(|(heads, entries)| {
                let found: Option<Head> = heads.get(HEAD)?.and_then(|bytes| postcard::from_bytes(&bytes).ok());
                if found.map(|found| found.commit) != parent {
                    return Err(ConflictableTransactionError::Abort(()));
                }
                for key in &old {
                    entries.remove(key)?;
                }
                for entry in outbox {
                    let value = postcard::to_allocvec(entry).expect("an entry always encodes");
                    entries.insert(&entry.version.to_be_bytes(), value)?;
                }
                heads.insert(HEAD, encoded.as_slice())?;
                Ok(())
            });
            moved.map_err(|error| match error {
                TransactionError::Abort(()) => {
                    Failed::Store(damaged(&path, "its head is not the parent of the commit"))
                }
                TransactionError::Storage(error) => Failed::Sled(error),
            })
        })?;
        self.sync()
    }

    /// Removes the blocks of all commits before `first`.
    pub(super) fn forget_before(&mut self, first: u64) -> Result<(), StoreError> {
        self.guarded(|handles| {
            for key in handles.blocks.range(..first.to_be_bytes().to_vec()).keys() {
                handles.blocks.remove(key?)?;
            }
            Ok(())
        })
    }

    /// Bytes that the database takes on disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        fs::metadata(self.path.join("db")).map_or(0, |metadata| metadata.len())
    }

    /// Writes everything out and waits for the disk: sled's own flush does not sync on Linux.
    fn sync(&mut self) -> Result<(), StoreError> {
        self.guarded(|handles| {
            handles.db.flush()?;
            Ok(())
        })?;
        sync_file(&self.path.join("db"))
    }

    /// Runs against the database; an error or a panic makes the handle unusable and leaks it.
    fn guarded<T>(&mut self, run: impl FnOnce(&Handles) -> Result<T, Failed>) -> Result<T, StoreError> {
        let Some(handles) = &self.handles else {
            return Err(StoreError::Poisoned);
        };
        let result = catch_unwind(AssertUnwindSafe(|| run(handles)));
        let failed = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(Failed::Store(error))) => error,
            Ok(Err(Failed::Sled(source))) => StoreError::Sled { path: self.path.clone(), source },
            Err(_) => damaged(&self.path, "reading it panicked"),
        };
        std::mem::forget(self.handles.take());
        Err(failed)
    }
}

impl Handles {
    fn open(path: &Path) -> sled::Result<Self> {
        let db = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).open()?;
        Ok(Self { blocks: db.open_tree("blocks")?, head: db.open_tree("head")?, outbox: db.open_tree("outbox")?, db })
    }
}

/// Why a guarded run failed.
enum Failed {
    Sled(sled::Error),
    Store(StoreError),
}

impl From<sled::Error> for Failed {
    fn from(error: sled::Error) -> Self {
        Self::Sled(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn damaged(path: &Path, reason: &str) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), reason: reason.to_owned() }
}

fn section(number: u8) -> Option<Section> {
    [Section::Lineage, Section::Scalars, Section::Rows, Section::Join].into_iter().find(|s| *s as u8 == number)
}

fn remove_generating_snapshots(path: &Path) -> Result<(), StoreError> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            let path = entry.path();
            fs::remove_file(&path).map_err(|source| StoreError::Io { doing: "remove", path, source })?;
        }
    }
    Ok(())
}

fn sync_file(path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io { doing: "sync", path: path.to_owned(), source };
    File::open(path).and_then(|file| file.sync_all()).map_err(failed)
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    sync_file(path)
}
