//! One database: opened under guard, read with every block checked, written in the order that makes a commit.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::StoreError;
use super::disk::{Disk, Engine};
use deepfm_core::checkpoint::{BLOCK_BYTES_MAX, Block, Layer, Section};
use deepfm_core::train::Scope;

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

    /// Bytes of its layers.
    pub(super) fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }

    /// SHA-256 over everything in it, in hexadecimal.
    pub(super) fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.to_bytes()))
    }

    fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("a head always encodes")
    }

    /// The head as it was at a commit, if that is one of its layers.
    pub(super) fn at(&self, commit: u64) -> Option<Self> {
        let end = self.layers.iter().position(|layer| layer.commit == commit)?;
        Some(Self { layers: self.layers[..=end].to_vec() })
    }
}

/// So many blocks go to the engine at once: what it can lay out together takes a fraction of the writing.
const BLOCKS_AT_ONCE: usize = 16;

/// Blocks of a layer on their way into a database.
pub(super) struct LayerWriter {
    layer: LayerHead,
    sums: SectionSums,
    /// Fewer than go to the engine at once, as keys and values.
    waiting: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A SHA-256 for each section: within one, blocks come in their order; sections may come interleaved.
#[derive(Default)]
struct SectionSums([Sha256; Section::ALL.len()]);

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

/// An open database. After a failure of its own the handle is leaked: sled hangs in `Drop` on a failed handle. What is found
/// in it, and what its callers make of that, is no failure of the database: a handle that is leaked keeps the space of a
/// database that was removed.
pub(super) struct Database {
    path: PathBuf,
    engine: Option<Box<dyn Engine>>,
}

impl Database {
    /// Opens a database, or makes one. Only for the holder of the state directory's lock.
    pub(super) fn open(disk: &dyn Disk, name: &str) -> Result<Self, StoreError> {
        disk.remove_leftovers(name)?;
        let engine = disk.open(name)?;
        Ok(Self { path: disk.path(name), engine: Some(engine) })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The newest commit, as the database says.
    pub(super) fn head(&mut self) -> Result<Option<Head>, StoreError> {
        let Some(bytes) = self.guarded(|engine| engine.head())? else {
            return Ok(None);
        };
        let damaged = |error| StoreError::Damaged { path: self.path.clone(), reason: format!("its head: {error}") };
        Ok(Some(postcard::from_bytes(&bytes).map_err(damaged)?))
    }

    /// A layer, every block of it checked.
    pub(super) fn read(&mut self, layer: &LayerHead) -> Result<Layer, StoreError> {
        let mut blocks = Vec::new();
        self.read_blocks(layer, |block| {
            blocks.push(block);
            Ok(())
        })?;
        Ok(Layer { scope: layer.scope, blocks })
    }

    /// The same block by block; the digest is checked last. An error of `take` ends it, and harms nothing.
    pub(super) fn read_blocks(
        &mut self,
        layer: &LayerHead,
        mut take: impl FnMut(Block) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let path = self.path.clone();
        let bad = |what: &str| StoreError::Damaged {
            path: path.clone(),
            reason: format!("{what} of checkpoint {}", layer.commit),
        };
        let mut sums = SectionSums::default();
        let mut look = |key: &[u8], mut bytes: Vec<u8>| {
            let sum = *bytes.last_chunk::<4>().ok_or_else(|| bad("a block"))?;
            bytes.truncate(bytes.len() - sum.len());
            if key.len() != 13 || crc32c::crc32c(&bytes) != u32::from_le_bytes(sum) {
                return Err(bad("the checksum of a block"));
            }
            let section = Section::of(key[8]).ok_or_else(|| bad("the section of a block"))?;
            sums.take(&key[8..], sum);
            take(Block { section, bytes })
        };
        let mut ended = Ok(());
        self.guarded(|engine| {
            engine.scan(&layer.commit.to_be_bytes(), &mut |key, value| {
                ended = look(key, value);
                if ended.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
        })?;
        ended?;
        if sums.digest() == layer.digest { Ok(()) } else { Err(bad("the digest")) }
    }

    /// Another handle on the same database, to read with.
    pub(super) fn reader(&self) -> Result<Self, StoreError> {
        let engine = self.engine.as_ref().ok_or_else(|| StoreError::Poisoned(self.path.clone()))?;
        Ok(Self { path: self.path.clone(), engine: Some(engine.another()) })
    }

    /// Begins a layer. Blocks under its number are those of a commit that a crash cut short: they are removed, or they
    /// would be read as part of it.
    pub(super) fn begin(&mut self, commit: u64, scope: Scope) -> Result<LayerWriter, StoreError> {
        self.guarded(|engine| {
            let mut left = Vec::new();
            engine.scan(&commit.to_be_bytes(), &mut |key, _| {
                left.push(key.to_vec());
                ControlFlow::Continue(())
            })?;
            left.iter().try_for_each(|key| engine.remove(key))
        })?;
        Ok(LayerWriter {
            layer: LayerHead { commit, scope, blocks: 0, bytes: 0, digest: [0; 32] },
            sums: SectionSums::default(),
            waiting: Vec::new(),
        })
    }

    /// Writes a block of a layer, with some of those that come after it.
    pub(super) fn put(&mut self, writer: &mut LayerWriter, block: &Block) -> Result<(), StoreError> {
        assert!(block.bytes.len() <= BLOCK_BYTES_MAX, "no block is longer than {BLOCK_BYTES_MAX} bytes");
        let layer = &mut writer.layer;
        let mut key = layer.commit.to_be_bytes().to_vec();
        key.push(block.section as u8);
        key.extend(layer.blocks.to_be_bytes());
        let sum = crc32c::crc32c(&block.bytes).to_le_bytes();
        writer.sums.take(&key[8..], sum);
        layer.blocks += 1;
        layer.bytes += block.bytes.len() as u64;
        writer.waiting.push((key, [block.bytes.as_slice(), &sum].concat()));
        if writer.waiting.len() < BLOCKS_AT_ONCE {
            return Ok(());
        }
        self.guarded(|engine| engine.insert(&std::mem::take(&mut writer.waiting)))
    }

    /// Writes the last blocks of a layer and syncs it; nothing refers to it yet.
    pub(super) fn end(&mut self, writer: LayerWriter) -> Result<LayerHead, StoreError> {
        self.guarded(|engine| engine.insert(&writer.waiting).and_then(|()| engine.sync()))?;
        Ok(LayerHead { digest: writer.sums.digest(), ..writer.layer })
    }

    /// Writes a whole layer and syncs it.
    pub(super) fn write(&mut self, commit: u64, layer: &Layer) -> Result<LayerHead, StoreError> {
        let mut writer = self.begin(commit, layer.scope)?;
        for block in &layer.blocks {
            self.put(&mut writer, block)?;
        }
        self.end(writer)
    }

    /// Makes the commit: in one step the head moves from `parent`; then syncs.
    pub(super) fn commit(&mut self, parent: Option<&Head>, head: &Head) -> Result<(), StoreError> {
        let (from, to) = (parent.map(Head::to_bytes), head.to_bytes());
        let reason = "its head is not the parent of the commit".to_owned();
        if !self.guarded(|engine| engine.move_head(from.as_deref(), &to))? {
            return Err(StoreError::Damaged { path: self.path.clone(), reason });
        }
        self.guarded(|engine| engine.sync())
    }

    /// Runs against the database; an error or a panic makes the handle unusable and leaks it.
    fn guarded<T>(&mut self, run: impl FnOnce(&dyn Engine) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let Some(engine) = &self.engine else {
            return Err(StoreError::Poisoned(self.path.clone()));
        };
        let failed = match catch_unwind(AssertUnwindSafe(|| run(&**engine))) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => StoreError::Damaged { path: self.path.clone(), reason: "reading it panicked".to_owned() },
        };
        std::mem::forget(self.engine.take());
        Err(failed)
    }
}
