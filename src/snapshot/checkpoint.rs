//! A trainer as blocks of bytes, and back: what the store keeps for a restart.
//!
//! Rows go into blocks of whole rows, so that each block can be read alone; everything else is one stream of bytes per
//! section, cut into blocks. The encoding is postcard (little-endian, variable-length integers), which is canonical:
//! equal states have equal bytes up to the order of rows.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::join::{JoinEntry, RestoreError};
use crate::stream::JournalEntry;
use crate::train::{Restore, Scalars, Shown, StateDigest, TrainParams, Trainer};

/// The largest block, in bytes: above 128 KiB a value of the store would become a file of its own.
pub const BLOCK_BYTES_MAX: usize = 120_000;

/// The version of this encoding; a checkpoint of another is refused.
pub const FORMAT_VERSION: u32 = 1;

/// What a block belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Section {
    /// Format, configuration, version counter, journal.
    Lineage = 0,
    /// Everything of the state but rows and join entries.
    Scalars = 1,
    /// Rows of the embedding table.
    Rows = 2,
    /// Entries of the join.
    Join = 3,
}

/// A piece of a checkpoint, at most [`BLOCK_BYTES_MAX`] long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What it belongs to.
    pub section: Section,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// What a checkpoint holds beside the state of the log: where its versions come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// The encoding of the blocks.
    pub format: u32,
    /// Everything in the configuration that affects the state, as canonical JSON.
    pub configuration: String,
    /// The number that the next version gets.
    pub next_version: u64,
    /// The newest version that this state descends from.
    pub parent: Option<Parent>,
    /// The journal since that version.
    pub journal: Vec<JournalEntry>,
    /// Digest of the state that the checkpoint holds.
    pub state_digest: StateDigest,
}

/// A version, by number and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its number.
    pub version: u64,
    /// SHA-256 of its manifest, in hexadecimal.
    pub manifest_digest: String,
    /// Examples learned when it was cut.
    pub learned: u64,
}

/// A checkpoint that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A section does not decode.
    #[error("section {section:?} of the checkpoint does not decode")]
    Decode {
        /// The section.
        section: Section,
        /// Why.
        source: postcard::Error,
    },
    /// It was written by another version of the program.
    #[error("the checkpoint has format {found}, this program reads {FORMAT_VERSION}")]
    Format {
        /// Its format.
        found: u32,
    },
    /// A block of rows is not a whole number of rows.
    #[error("a block of rows has {bytes} bytes, not a multiple of {row_bytes}")]
    Rows {
        /// Its length.
        bytes: usize,
        /// Bytes of a row.
        row_bytes: usize,
    },
    /// The entries of the join contradict each other.
    #[error("the join of the checkpoint")]
    Join(#[from] RestoreError),
    /// The state that was read back is not the one that was written.
    #[error("the checkpoint's state has digest {found}, its lineage says {expected}")]
    Digest {
        /// What was read.
        found: StateDigest,
        /// What was written.
        expected: StateDigest,
    },
}

/// Encodes the trainer as it stands between two records.
pub fn encode(trainer: &Trainer, lineage: &Lineage) -> Vec<Block> {
    let mut blocks = Vec::new();
    cut(Section::Lineage, &to_bytes(lineage), &mut blocks);
    cut(Section::Scalars, &to_bytes(&trainer.scalars()), &mut blocks);
    let row_bytes = trainer.model().row_bytes();
    let block_bytes = BLOCK_BYTES_MAX / row_bytes * row_bytes;
    let mut rows = Vec::new();
    for row in trainer.model().rows() {
        rows.extend_from_slice(row);
        if rows.len() == block_bytes {
            blocks.push(Block { section: Section::Rows, bytes: std::mem::take(&mut rows) });
        }
    }
    if !rows.is_empty() {
        blocks.push(Block { section: Section::Rows, bytes: rows });
    }
    let mut entries = Vec::new();
    for entry in trainer.join().entries() {
        entries = postcard::to_extend(&entry, entries).expect("a join entry always encodes");
        if entries.len() >= BLOCK_BYTES_MAX {
            let whole = entries.len() / BLOCK_BYTES_MAX * BLOCK_BYTES_MAX;
            let rest = entries.split_off(whole);
            cut(Section::Join, &entries, &mut blocks);
            entries = rest;
        }
    }
    cut(Section::Join, &entries, &mut blocks);
    blocks
}

/// Reads a trainer back, and checks that its state is the one that was written.
///
/// # Errors
/// When the format is another, a section does not decode, or the digest differs.
pub fn decode(params: TrainParams, blocks: &[Block]) -> Result<(Trainer, Lineage), CheckpointError> {
    let lineage = read_lineage(blocks)?;
    let scalars: Scalars = one(Section::Scalars, &stream(Section::Scalars, blocks))?;
    let entries = many(Section::Join, &stream(Section::Join, blocks))?;
    let row_bytes = params.model.row_bytes();
    let row_blocks =
        || blocks.iter().filter(|block| block.section == Section::Rows).map(|block| block.bytes.as_slice());
    if let Some(bad) = row_blocks().find(|bytes| bytes.len() % row_bytes != 0) {
        return Err(CheckpointError::Rows { bytes: bad.len(), row_bytes });
    }
    let rows = row_blocks().flat_map(|bytes| bytes.chunks_exact(row_bytes));
    let saved = Restore { scalars, journal: lineage.journal.clone(), rows, entries };
    let mut trainer = Trainer::restore(params, saved)?;
    let found = trainer.state_digest();
    if found != lineage.state_digest {
        return Err(CheckpointError::Digest { found, expected: lineage.state_digest });
    }
    Ok((trainer, lineage))
}

/// Reads only where a checkpoint comes from: enough to compare its configuration before anything is built.
///
/// # Errors
/// When the format is another or the section does not decode.
pub fn read_lineage(blocks: &[Block]) -> Result<Lineage, CheckpointError> {
    let bytes = stream(Section::Lineage, blocks);
    let format: u32 = postcard::take_from_bytes(&bytes)
        .map_err(|source| CheckpointError::Decode { section: Section::Lineage, source })?
        .0;
    if format != FORMAT_VERSION {
        return Err(CheckpointError::Format { found: format });
    }
    one(Section::Lineage, &bytes)
}

fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("a state without foreign types always encodes")
}

fn cut(section: Section, bytes: &[u8], blocks: &mut Vec<Block>) {
    blocks.extend(bytes.chunks(BLOCK_BYTES_MAX).map(|piece| Block { section, bytes: piece.to_vec() }));
}

fn stream(section: Section, blocks: &[Block]) -> Vec<u8> {
    blocks.iter().filter(|block| block.section == section).flat_map(|block| block.bytes.iter().copied()).collect()
}

fn one<T: DeserializeOwned>(section: Section, bytes: &[u8]) -> Result<T, CheckpointError> {
    postcard::from_bytes(bytes).map_err(|source| CheckpointError::Decode { section, source })
}

fn many(section: Section, mut bytes: &[u8]) -> Result<Vec<JoinEntry<Arc<Shown>>>, CheckpointError> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let (value, rest) =
            postcard::take_from_bytes(bytes).map_err(|source| CheckpointError::Decode { section, source })?;
        values.push(value);
        bytes = rest;
    }
    Ok(values)
}
