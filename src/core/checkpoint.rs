//! A trainer as layers of blocks, and back: what the store keeps for a restart.
//!
//! The first layer, the *base*, is a whole state; each *delta* on top of it has the rows and join entries that changed since
//! the layer below, and all the scalars. The newest form of a row or entry counts: so layers are read from the newest to
//! the oldest, and what was seen before is passed over. That is how they are restored, and how they are merged into a new
//! base without looking into more than ids and keys.
//!
//! Rows, candidates and shown scores go into blocks of whole rows, each beginning with the length of a row; a row whose
//! fourth word is 0 is a tombstone. Everything else is one stream of bytes per section, cut into blocks.

pub mod clicks;
pub mod export;
pub mod import;
mod merge;
mod seen;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use clicks::ClickTimes;

use crate::feature::FeatureId;
use crate::feature::hash::{SlotHash, SlotSet};
use crate::join::{self, ImpressionState, JoinEntry};
use crate::model::batch::Architecture;
use crate::model::candidates::CANDIDATE_BYTES;
use crate::stream::JournalEntry;
use crate::train::{
    Ledger, ParamsError, Restore, RestoreError, SHOWN_SCORE_BYTES, Scalars, Scope, Shown, StateCut, StateDigest,
    TrainParams, Trainer,
};
use crate::version::gate::Evidence;
use crate::version::journal::{EntryError, check_entries};
use crate::version::manifest::Parent;
use crate::version::names::{self, NameError};
use crate::version::outbox::Outbox;

pub use merge::{BlockPlace, Merge};
use seen::SeenIds;

/// The largest block, in bytes: a checkpoint is written, read and merged in such parts.
pub const BLOCK_BYTES_MAX: usize = 120_000;

/// The version of this encoding; a checkpoint of another is refused.
pub const FORMAT_VERSION: u32 = 8;

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
    /// Ids that are counted towards admission, in blocks like those of rows.
    Candidates = 4,
    /// Shown scores whose labels have not matured, in blocks like those of rows.
    ShownScores = 5,
}

impl Section {
    /// All sections, by ascending number.
    pub const ALL: [Self; 6] =
        [Self::Lineage, Self::Scalars, Self::Rows, Self::Join, Self::Candidates, Self::ShownScores];

    /// The section of a number.
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|section| *section as u8 == number)
    }
}

/// A piece of a checkpoint, at most [`BLOCK_BYTES_MAX`] long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What it belongs to.
    pub section: Section,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// One commit's worth of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// A base, or a delta on the layer before.
    pub scope: Scope,
    /// Its blocks, by ascending section.
    pub blocks: Vec<Block>,
}

impl Layer {
    /// The bytes of a section, block after block.
    pub fn section(&self, section: Section) -> Vec<u8> {
        stream(section, &self.blocks)
    }

    /// Bytes of all blocks.
    pub fn bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.bytes.len() as u64).sum()
    }
}

/// What a checkpoint holds beside the state of the log: where its versions come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// The encoding of the blocks.
    pub format: u32,
    /// Everything in the configuration that affects the state, as canonical JSON.
    pub configuration: String,
    /// The trainer's parameters, as JSON: those that the state was learned with last.
    pub parameters: String,
    /// The number that the next version gets.
    pub next_version: u64,
    /// The newest version that this state descends from.
    pub parent: Option<Parent>,
    /// The journal since that version.
    pub journal: Vec<JournalEntry>,
    /// What became of every record.
    pub ledger: Ledger,
    /// The broker's ids of the event topics, where it gives them: a topic that was recreated has another.
    pub topic_ids: BTreeMap<String, String>,
    /// Digest of the state that the checkpoint holds.
    pub state_digest: StateDigest,
    /// What is to be sent once the checkpoint is durable.
    pub outbox: Outbox,
    /// What later versions and later starts need to know beside the state.
    pub beside: Beside,
}

/// What a checkpoint holds that neither decides the state nor is decided by where it came from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    /// Name of the model: its state is no other model's.
    pub model: String,
    /// When clicks were last read.
    pub clicks: ClickTimes,
    /// The newest raw feature rows for probes: a version that is cut before another impression comes has them too.
    pub probes: Vec<String>,
    /// What versions are judged by.
    pub evidence: Evidence,
}

/// A checkpoint that cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum CheckpointError {
    /// A section does not decode.
    #[error("section {section:?} of the checkpoint does not decode")]
    Decode { section: Section, source: postcard::Error },
    /// It was written by another version of the program.
    #[error(
        "it has format {found}, this program reads {FORMAT_VERSION}: go on with the version of deepfm that wrote it"
    )]
    Format { found: u32 },
    /// A block of rows is not a whole number of rows of the model's length.
    #[error("a block of {bytes} bytes does not hold rows of {row_bytes}")]
    Rows { bytes: usize, row_bytes: usize },
    /// The entries of the join end within one.
    #[error("the entries of the join are cut off")]
    Truncated,
    /// An entry of the join stands under another key than its own.
    #[error("an entry of the join stands under another key")]
    Key,
    /// The parameters are no trainer's.
    #[error("the parameters of the checkpoint")]
    Parameters(#[from] ParamsError),
    /// A name or number of its versions is not of its form.
    #[error("its versions")]
    Name(#[from] NameError),
    /// An entry of its journal is no decision of a worker.
    #[error("entry {number} of its journal is no decision of a worker")]
    Journal { number: usize, source: EntryError },
    /// A part of the state has another shape than its parameters say.
    #[error("{what} of the checkpoint: {found} where the parameters ask for {expected}")]
    Shape { what: &'static str, found: usize, expected: usize },
    /// Its circuit breaker is none.
    #[error("{what}")]
    Breaker { what: &'static str },
    /// There is no layer, or the first one is not a base.
    #[error("the checkpoint has no base")]
    NoBase,
    /// Its parts contradict each other.
    #[error("the parts of the checkpoint contradict each other")]
    Restore(#[from] RestoreError),
    /// The state that was read back is not the one that was written.
    #[error("the checkpoint's state has digest {found}, its lineage says {expected}")]
    Digest { found: StateDigest, expected: StateDigest },
}

/// Encodes a cut as a layer.
pub fn encode(cut: &StateCut, lineage: &Lineage) -> Layer {
    let mut blocks = Vec::new();
    split(Section::Lineage, &to_bytes(lineage), &mut blocks);
    split(Section::Scalars, &cut.scalars, &mut blocks);
    pack(Section::Rows, cut.row_bytes, &cut.rows, &mut blocks);
    match cut.scope {
        Scope::Everything => split(Section::Join, &cut.join, &mut blocks),
        Scope::Changes => split(Section::Join, &newest_of_each(&cut.join), &mut blocks),
    }
    pack_newest(Section::Candidates, CANDIDATE_BYTES, &cut.candidates, &mut blocks);
    pack_newest(Section::ShownScores, SHOWN_SCORE_BYTES, &cut.shown_scores, &mut blocks);
    Layer { scope: cut.scope, blocks }
}

/// Packs rows as they lie.
fn pack(section: Section, row_bytes: usize, rows: &[u8], blocks: &mut Vec<Block>) {
    let whole = (BLOCK_BYTES_MAX - ROW_LENGTH_BYTES) / row_bytes * row_bytes;
    let head = (row_bytes as u32).to_le_bytes();
    blocks.extend(rows.chunks(whole).map(|rows| Block { section, bytes: [&head, rows].concat() }));
}

/// Packs the last form of each entry of a log: the first of an id, read from the end.
fn pack_newest(section: Section, entry_bytes: usize, log: &[u8], blocks: &mut Vec<Block>) {
    let (mut packer, mut seen) = (RowPacker::new(section, entry_bytes), SeenIds::default());
    for entry in log.rchunks_exact(entry_bytes).filter(|entry| seen.insert(row_id(entry))) {
        blocks.extend(packer.push(entry));
    }
    blocks.extend(packer.finish());
}

/// A log with the newest record of each key only.
fn newest_of_each(log: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    let mut rest = log;
    while let Some((record, behind)) = join::first_record(rest) {
        records.push(record);
        rest = behind;
    }
    let mut seen = SlotSet::with_capacity_and_hasher(records.len(), SlotHash::default());
    let newest = records.iter().rev().filter(|record| seen.insert(record.key));
    newest.map(|record| record.whole).collect::<Vec<_>>().concat()
}

/// Reads a trainer back, and checks that its state is the one that was written.
///
/// # Errors
/// When the format is another, the parameters are no trainer's, a section does not decode or is not of their shape, or the
/// digest differs.
pub fn decode(params: TrainParams, layers: &[Layer]) -> Result<(Trainer, Lineage), CheckpointError> {
    params.check()?;
    let newest = layers.last().filter(|_| layers[0].scope == Scope::Everything).ok_or(CheckpointError::NoBase)?;
    let lineage = read_lineage(newest)?;
    let scalars = Trainer::read_scalars(&stream(Section::Scalars, &newest.blocks))
        .map_err(|source| CheckpointError::Decode { section: Section::Scalars, source })?;
    check_scalars(&params, &scalars)?;
    let row_bytes = params.model.row_bytes();
    let mut entries = Entries { fields: params.model.fields, ..Entries::default() };
    for layer in layers.iter().rev() {
        entries.take(layer)?;
    }
    let rows = newest_rows(layers, Section::Rows, row_bytes)?;
    let candidates = newest_rows(layers, Section::Candidates, CANDIDATE_BYTES)?;
    let shown_scores = newest_rows(layers, Section::ShownScores, SHOWN_SCORE_BYTES)?;
    let (journal, ledger) = (lineage.journal.clone(), lineage.ledger.clone());
    let saved = Restore { scalars, journal, ledger, rows, candidates, shown_scores, entries: entries.held };
    let mut trainer = Trainer::restore(params, saved)?;
    let found = trainer.state_digest();
    if found != lineage.state_digest {
        return Err(CheckpointError::Digest { found, expected: lineage.state_digest });
    }
    Ok((trainer, lineage))
}

impl Lineage {
    /// The parameters that the state was learned with last.
    ///
    /// # Errors
    /// When they do not decode, or no state can be made of them.
    pub fn params(&self) -> Result<TrainParams, CheckpointError> {
        Ok(TrainParams::from_text(&self.parameters)?)
    }

    /// A checkpoint may come from anywhere: what it owes the world is done by name and number, so these must be those of
    /// versions, and nothing else.
    fn check(&self) -> Result<(), CheckpointError> {
        names::check_version(self.next_version.saturating_sub(1).max(1))?;
        if let Some(Parent { version, manifest_digest, .. }) = &self.parent {
            names::check_version(*version)?;
            names::check_digest(manifest_digest)?;
        }
        let journal = |(number, source)| CheckpointError::Journal { number, source };
        check_entries(&self.journal).map_err(journal)?;
        for entry in &self.outbox.versions {
            names::check_directory(entry.directory(), entry.version(), entry.manifest_digest())?;
            check_entries(&entry.journal).map_err(journal)?;
        }
        Ok(())
    }
}

/// Reads only where a checkpoint comes from: enough to compare its configuration before anything is built.
///
/// # Errors
/// When the format is another, the section does not decode, or what it says cannot be said of versions.
pub fn read_lineage(newest: &Layer) -> Result<Lineage, CheckpointError> {
    let bytes = stream(Section::Lineage, &newest.blocks);
    let decode = |source| CheckpointError::Decode { section: Section::Lineage, source };
    let format: u32 = postcard::take_from_bytes(&bytes).map_err(decode)?.0;
    if format != FORMAT_VERSION {
        return Err(CheckpointError::Format { found: format });
    }
    let lineage: Lineage = postcard::from_bytes(&bytes).map_err(decode)?;
    lineage.check()?;
    Ok(lineage)
}

/// Whether the state has the shape that its parameters ask for: before anything is made of either.
fn check_scalars(params: &TrainParams, scalars: &Scalars) -> Result<(), CheckpointError> {
    let expected = Architecture::new(&params.model).mlp.len;
    for (what, part) in [("the MLP", &scalars.dense.mlp), ("the MLP's momentum", &scalars.dense.momentum)] {
        if part.len() != expected {
            return Err(CheckpointError::Shape { what, found: part.len(), expected });
        }
    }
    scalars.breaker.check().map_err(|what| CheckpointError::Breaker { what })?;
    let pending = scalars.batch.pending.iter().map(|pending| &pending.shown);
    let held = scalars.breaker.labels().map(|label| &label.shown);
    let mut shown = pending.chain(held).chain(scalars.unscored.iter().map(|unscored| &unscored.shown));
    shown.try_for_each(|shown| check_shown(shown, params.model.fields))
}

/// An impression may be from before fields were added, and have fewer than the model.
fn check_shown(shown: &Shown, fields: usize) -> Result<(), CheckpointError> {
    let found = shown.features.fields();
    if found <= fields {
        return Ok(());
    }
    Err(CheckpointError::Shape { what: "the fields of an impression", found, expected: fields })
}

/// Whether an entry of the join is the newest of its key, when layers come from the newest to the oldest. A base holds each once.
fn is_newest(scope: Scope, key: u128, seen: &mut SlotSet<u128>) -> bool {
    match scope {
        Scope::Everything => !seen.contains(&key),
        Scope::Changes => seen.insert(key),
    }
}

fn row_id(row: &[u8]) -> FeatureId {
    u64::from_le_bytes(*row.first_chunk().expect("a row begins with its id"))
}

/// A row's count is its fourth word; it is never 0 in the table.
fn is_tombstone(row: &[u8]) -> bool {
    row[12..16] == [0; 4]
}

/// The rows, or candidates, that count.
fn newest_rows(
    layers: &[Layer],
    section: Section,
    row_bytes: usize,
) -> Result<impl Iterator<Item = &[u8]>, CheckpointError> {
    let mut blocks = layers.iter().flat_map(|layer| &layer.blocks).filter(|block| block.section == section);
    if let Some(bad) = blocks.find(|block| rows_in(&block.bytes, row_bytes).is_none()) {
        return Err(CheckpointError::Rows { bytes: bad.bytes.len(), row_bytes });
    }
    let mut seen = SeenIds::default();
    let rows = layers.iter().rev().flat_map(move |layer| {
        let blocks = layer.blocks.iter().filter(move |block| block.section == section);
        let rows = blocks.flat_map(move |block| rows_in(&block.bytes, row_bytes).into_iter().flatten());
        rows.map(|row| (layer.scope, row))
    });
    Ok(rows
        .filter(move |(scope, row)| seen.is_newest(*scope, row_id(row)))
        .map(|(_, row)| row)
        .filter(|row| !is_tombstone(row)))
}

/// The rows of a block; `None` when it does not hold whole rows of this length.
fn rows_in(block: &[u8], row_bytes: usize) -> Option<std::slice::ChunksExact<'_, u8>> {
    let (length, rows) = block.split_first_chunk::<4>()?;
    let fits = u32::from_le_bytes(*length) as usize == row_bytes && row_bytes >= 16 && rows.len() % row_bytes == 0;
    fits.then(|| rows.chunks_exact(row_bytes))
}

/// The entries of the join that count, out of layers from the newest to the oldest.
#[derive(Default)]
struct Entries {
    /// Fields of the model.
    fields: usize,
    seen: SlotSet<u128>,
    held: Vec<JoinEntry<Box<Shown>>>,
}

impl Entries {
    fn take(&mut self, layer: &Layer) -> Result<(), CheckpointError> {
        let log = stream(Section::Join, &layer.blocks);
        let mut rest = log.as_slice();
        while !rest.is_empty() {
            let (record, behind) = join::first_record(rest).ok_or(CheckpointError::Truncated)?;
            rest = behind;
            if is_newest(layer.scope, record.key, &mut self.seen) && !record.entry.is_empty() {
                let entry: JoinEntry<Box<Shown>> = postcard::from_bytes(record.entry)
                    .map_err(|source| CheckpointError::Decode { section: Section::Join, source })?;
                if entry.key() != record.key {
                    return Err(CheckpointError::Key);
                }
                if let JoinEntry::Impression { state, .. } = &entry
                    && let Some(shown) = payload(state)
                {
                    check_shown(shown, self.fields)?;
                }
                self.held.push(entry);
            }
        }
        Ok(())
    }
}

/// What a held impression carries.
fn payload(state: &ImpressionState<Box<Shown>>) -> Option<&Shown> {
    match state {
        ImpressionState::Open(shown) | ImpressionState::Clicked(shown, _) | ImpressionState::Faked(shown) => {
            Some(shown)
        }
        ImpressionState::Negative(shown) => shown.as_deref(),
        ImpressionState::Positive | ImpressionState::Corrected | ImpressionState::Unlabelled => None,
    }
}

/// What stands before the rows of a block: the length of one.
const ROW_LENGTH_BYTES: usize = size_of::<u32>();

/// Packs rows, or candidates, into blocks, one by one.
#[derive(Debug)]
struct RowPacker {
    section: Section,
    row_bytes: usize,
    block: Vec<u8>,
    /// Bytes of the block before.
    before: usize,
}

impl RowPacker {
    fn new(section: Section, row_bytes: usize) -> Self {
        Self { section, row_bytes, block: Vec::new(), before: 0 }
    }

    /// Adds a row; a block when one is full.
    fn push(&mut self, row: &[u8]) -> Option<Block> {
        let full = (self.block.len() + self.row_bytes > BLOCK_BYTES_MAX).then(|| self.finish()).flatten();
        if self.block.is_empty() {
            // What has filled one block fills another, most often.
            self.block.reserve_exact(self.before);
            self.block.extend((self.row_bytes as u32).to_le_bytes());
        }
        self.block.extend_from_slice(row);
        full
    }

    /// The last block, if there is one.
    fn finish(&mut self) -> Option<Block> {
        let bytes = std::mem::take(&mut self.block);
        self.before = bytes.len();
        (!bytes.is_empty()).then_some(Block { section: self.section, bytes })
    }
}

fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("a state without foreign types always encodes")
}

fn split(section: Section, bytes: &[u8], blocks: &mut Vec<Block>) {
    blocks.extend(bytes.chunks(BLOCK_BYTES_MAX).map(|piece| Block { section, bytes: piece.to_vec() }));
}

fn stream(section: Section, blocks: &[Block]) -> Vec<u8> {
    let blocks = blocks.iter().filter(|block| block.section == section);
    blocks.map(|block| block.bytes.as_slice()).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_packed_at_once_are_in_the_blocks_that_they_are_packed_into_one_by_one() {
        for row_bytes in [24, 104, 8216, BLOCK_BYTES_MAX - ROW_LENGTH_BYTES] {
            let whole = (BLOCK_BYTES_MAX - ROW_LENGTH_BYTES) / row_bytes;
            for count in [0, 1, whole - 1, whole, whole + 1, 2 * whole + 1] {
                let rows: Vec<u8> = (0..count * row_bytes).map(|at| (at % 251) as u8).collect();
                let (mut at_once, mut one_by_one) = (Vec::new(), Vec::new());
                pack(Section::Rows, row_bytes, &rows, &mut at_once);
                let mut packer = RowPacker::new(Section::Rows, row_bytes);
                rows.chunks_exact(row_bytes).for_each(|row| one_by_one.extend(packer.push(row)));
                one_by_one.extend(packer.finish());
                assert!(at_once == one_by_one, "{count} rows of {row_bytes} bytes");
            }
        }
    }
}
