//! One sled database: opened under guard, read with every block checked, written in the order that makes a commit.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sled::transaction::{ConflictableTransactionError, TransactionError};

use super::StoreError;
use crate::snapshot::checkpoint::{Block, Layer, Section};
use crate::train::Scope;

/// sled's page cache; reading happens once, at start.
const CACHE_BYTES: u64 = 64 << 20;

/// How long opening may take: replaying sled's log is fast, a hang is not.
const OPEN_MAX: Duration = Duration::from_mins(1);

const HEAD: &[u8] = b"head";

/// A layer of a checkpoint as its database knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerHead {
    /// The commit that wrote it, or up to which it was merged.
    pub(super) commit: u64,
    /// Base or delta.
    pub(super) scope: Scope,
    /// Number of its blocks.
    pub(super) blocks: u32,
    /// Bytes of its blocks.
    pub(super) bytes: u64,
    /// SHA-256 over the keys and checksums of its blocks.
    pub(super) digest: [u8; 32],
}

/// The newest commit of a database, as it says itself: its layers, the base first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Never empty in a database.
    pub(super) layers: Vec<LayerHead>,
}

impl Head {
    /// Its number; 0 when there is none.
    pub(super) fn commit(&self) -> u64 {
        self.layers.last().map_or(0, |layer| layer.commit)
    }

    /// SHA-256 over everything in it, in hexadecimal.
    pub(super) fn digest(&self) -> String {
        hex::encode(Sha256::digest(postcard::to_allocvec(self).expect("a head always encodes")))
    }

    /// The head as it was at a commit, if that is one of its layers.
    pub(super) fn at(&self, commit: u64) -> Option<Self> {
        let end = self.layers.iter().position(|layer| layer.commit == commit)?;
        Some(Self { layers: self.layers[..=end].to_vec() })
    }
}

/// Blocks of a layer on their way into a database.
pub(super) struct LayerWriter {
    layer: LayerHead,
    sums: SectionSums,
}

/// A SHA-256 for each section: within one, blocks come in their order; sections may come interleaved.
#[derive(Default)]
struct SectionSums([Sha256; 5]);

impl SectionSums {
    /// Takes a block by its key behind the commit, and its checksum.
    fn take(&mut self, key: &[u8], sum: [u8; 4]) {
        let hasher = &mut self.0[usize::from(key[0])];
        hasher.update(key);
        hasher.update(sum);
    }

    fn digest(self) -> [u8; 32] {
        let mut whole = Sha256::new();
        for hasher in self.0 {
            whole.update(hasher.finalize());
        }
        whole.finalize().into()
    }
}

/// An open database. After a failure its handles are leaked: sled hangs in `Drop` on a failed handle.
pub(super) struct Directory {
    path: PathBuf,
    handles: Option<Handles>,
}

#[derive(Clone)]
struct Handles {
    db: sled::Db,
    blocks: sled::Tree,
    head: sled::Tree,
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

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
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

    /// A layer, every block of it checked.
    pub(super) fn read(&mut self, layer: &LayerHead) -> Result<Layer, StoreError> {
        let mut blocks = Vec::with_capacity(layer.blocks as usize);
        self.read_blocks(layer, |block| {
            blocks.push(block);
            Ok(())
        })?;
        Ok(Layer { scope: layer.scope, blocks })
    }

    /// The same block by block; the digest is checked last.
    pub(super) fn read_blocks(
        &mut self,
        layer: &LayerHead,
        mut take: impl FnMut(Block) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let path = self.path.clone();
        let bad = |what: &str| Failed::Store(damaged(&path, &format!("{what} of checkpoint {}", layer.commit)));
        self.guarded(|handles| {
            let mut sums = SectionSums::default();
            for entry in handles.blocks.scan_prefix(layer.commit.to_be_bytes()) {
                let (key, value) = entry?;
                let (bytes, sum) = value.split_last_chunk::<4>().ok_or_else(|| bad("a block"))?;
                if key.len() != 13 || crc32c::crc32c(bytes) != u32::from_le_bytes(*sum) {
                    return Err(bad("the checksum of a block"));
                }
                let section = Section::of(key[8]).ok_or_else(|| bad("the section of a block"))?;
                sums.take(&key[8..], *sum);
                take(Block { section, bytes: bytes.to_vec() })?;
            }
            if sums.digest() != layer.digest {
                return Err(bad("the digest"));
            }
            Ok(())
        })
    }

    /// Another handle on the same database, to read with.
    pub(super) fn reader(&self) -> Result<Self, StoreError> {
        let handles = self.handles.as_ref().ok_or_else(|| StoreError::Poisoned(self.path.clone()))?;
        Ok(Self { path: self.path.clone(), handles: Some(handles.clone()) })
    }

    /// Begins a layer.
    pub(super) fn begin(commit: u64, scope: Scope) -> LayerWriter {
        LayerWriter {
            layer: LayerHead { commit, scope, blocks: 0, bytes: 0, digest: [0; 32] },
            sums: SectionSums::default(),
        }
    }

    /// Writes a block of a layer.
    pub(super) fn put(&mut self, writer: &mut LayerWriter, block: &Block) -> Result<(), StoreError> {
        let layer = &mut writer.layer;
        let mut key = layer.commit.to_be_bytes().to_vec();
        key.push(block.section as u8);
        key.extend(layer.blocks.to_be_bytes());
        let sum = crc32c::crc32c(&block.bytes).to_le_bytes();
        writer.sums.take(&key[8..], sum);
        layer.blocks += 1;
        layer.bytes += block.bytes.len() as u64;
        self.guarded(|handles| {
            handles.blocks.insert(key, [block.bytes.as_slice(), &sum].concat())?;
            Ok(())
        })
    }

    /// Syncs a layer; nothing refers to it yet.
    pub(super) fn end(&mut self, writer: LayerWriter) -> Result<LayerHead, StoreError> {
        self.sync()?;
        Ok(LayerHead { digest: writer.sums.digest(), ..writer.layer })
    }

    /// Writes a whole layer and syncs it.
    pub(super) fn write(&mut self, commit: u64, layer: &Layer) -> Result<LayerHead, StoreError> {
        let mut writer = Self::begin(commit, layer.scope);
        for block in &layer.blocks {
            self.put(&mut writer, block)?;
        }
        self.end(writer)
    }

    /// Makes the commit: in one transaction the head moves from `parent`; then syncs.
    pub(super) fn commit(&mut self, parent: Option<u64>, head: &Head) -> Result<(), StoreError> {
        let path = self.path.clone();
        let encoded = postcard::to_allocvec(head).expect("a head always encodes");
        self.guarded(|handles| {
            let moved = handles.head.transaction(|heads| {
                let found: Option<Head> = heads.get(HEAD)?.and_then(|bytes| postcard::from_bytes(&bytes).ok());
                if found.map(|found| found.commit()) != parent {
                    return Err(ConflictableTransactionError::Abort(()));
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
            return Err(StoreError::Poisoned(self.path.clone()));
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
        Ok(Self { blocks: db.open_tree("blocks")?, head: db.open_tree("head")?, db })
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
