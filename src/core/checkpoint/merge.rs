//! Layers become one: a new base out of the old one and its deltas, block by block, in the memory of the deltas' ids.

use super::seen::SeenIds;
use super::{BLOCK_BYTES_MAX, Block, CheckpointError, RowPacker, Section, is_newest, is_tombstone, row_id, rows_in};
use crate::feature::hash::SlotSet;
use crate::join;
use crate::train::Scope;

/// Where a block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    /// Its layer, counted from the newest, which is 0.
    pub depth: usize,
    /// Whether that layer is the base.
    pub scope: Scope,
}

/// A merge under way. It is given the blocks of the newest layer, then those of the one below, down to the base.
#[derive(Debug, Default)]
pub struct Merge {
    depth: usize,
    seen_entries: SlotSet<u128>,
    rows: Rows,
    candidates: Rows,
    shown_scores: Rows,
    /// Bytes of the log being read whose record has not ended.
    pending: Vec<u8>,
    log: Vec<u8>,
}

impl Merge {
    /// Takes a block, and gives the blocks of the merged layer that it completes.
    ///
    /// # Errors
    /// When the block cannot be read, or the layer above it ended within a record.
    pub fn take(&mut self, place: BlockPlace, block: Block) -> Result<Vec<Block>, CheckpointError> {
        if place.depth != self.depth {
            self.end_layer()?;
            self.depth = place.depth;
        }
        match block.section {
            Section::Lineage | Section::Scalars if place.depth == 0 => Ok(vec![block]),
            Section::Lineage | Section::Scalars => Ok(Vec::new()),
            Section::Rows => self.rows.take(place.scope, block.section, &block.bytes),
            Section::Candidates => self.candidates.take(place.scope, block.section, &block.bytes),
            Section::ShownScores => self.shown_scores.take(place.scope, block.section, &block.bytes),
            Section::Join => Ok(self.take_entries(place.scope, &block.bytes)),
        }
    }

    /// The last blocks.
    ///
    /// # Errors
    /// When the base ended within a record.
    pub fn finish(mut self) -> Result<Vec<Block>, CheckpointError> {
        self.end_layer()?;
        let packers = [&mut self.rows, &mut self.candidates, &mut self.shown_scores];
        let mut blocks: Vec<Block> =
            packers.into_iter().filter_map(|rows| rows.packer.as_mut().and_then(RowPacker::finish)).collect();
        if !self.log.is_empty() {
            blocks.push(Block { section: Section::Join, bytes: self.log });
        }
        Ok(blocks)
    }

    fn end_layer(&mut self) -> Result<(), CheckpointError> {
        if self.pending.is_empty() { Ok(()) } else { Err(CheckpointError::Truncated) }
    }

    fn take_entries(&mut self, scope: Scope, bytes: &[u8]) -> Vec<Block> {
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        while let Some((record, behind)) = join::first_record(rest) {
            if is_newest(scope, record.key, &mut self.seen_entries) && !record.entry.is_empty() {
                self.log.extend_from_slice(record.whole);
            }
            rest = behind;
        }
        let read = self.pending.len() - rest.len();
        self.pending.drain(..read);
        let whole = self.log.len() / BLOCK_BYTES_MAX * BLOCK_BYTES_MAX;
        let left = self.log.split_off(whole);
        let full = std::mem::replace(&mut self.log, left);
        full.chunks(BLOCK_BYTES_MAX).map(|bytes| Block { section: Section::Join, bytes: bytes.to_vec() }).collect()
    }
}

/// Rows, or candidates, on their way into the merged layer.
#[derive(Debug, Default)]
struct Rows {
    seen: SeenIds,
    packer: Option<RowPacker>,
}

impl Rows {
    fn take(&mut self, scope: Scope, section: Section, bytes: &[u8]) -> Result<Vec<Block>, CheckpointError> {
        let row_bytes = bytes.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
        let rows = rows_in(bytes, row_bytes).ok_or(CheckpointError::Rows { bytes: bytes.len(), row_bytes })?;
        let packer = self.packer.get_or_insert_with(|| RowPacker::new(section, row_bytes));
        let mut full = Vec::new();
        for row in rows {
            if self.seen.is_newest(scope, row_id(row)) && !is_tombstone(row) {
                full.extend(packer.push(row));
            }
        }
        Ok(full)
    }
}
