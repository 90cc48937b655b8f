//! A training export: a whole checkpoint in a form of its own, outside the store: for another machine, a standby, or the day
//! on which the state directory is lost. `state.blocks` has the blocks of one layer of everything, each framed by its section
//! (one byte) and its length (u32, little-endian), the lineage first; `manifest.json` says where in the log it is and has the
//! file's SHA-256. The state digest is checked when it is [restored](super::decode).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BLOCK_BYTES_MAX, Block, CheckpointError, FORMAT_VERSION, Layer, Lineage, Section, read_lineage};
use crate::stream::Sequencer;
use crate::train::{Scope, Trainer};
use crate::version::manifest::{FileDigest, MANIFEST_BYTES_MAX, ParentVersion};
use crate::version::names::{self, NameError};

/// The form of exports.
pub const FORMAT: u32 = 1;

/// The file of the blocks.
pub const BLOCKS: &str = "state.blocks";

/// Bytes of a frame before its block.
const FRAME_BYTES: usize = 5;

/// What an export says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportManifest {
    /// The form of the export.
    pub format: u32,
    /// The encoding of the blocks: the program that restores it must read the same.
    pub checkpoint_format: u32,
    /// Name of the model.
    pub model: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Records of the merged order that the state has seen.
    pub records: u64,
    /// The next offset of each partition, as `impression/0`: what must still be on the topics at a restore.
    pub positions: BTreeMap<String, i64>,
    /// Event-time watermark, in milliseconds.
    pub watermark: Option<i64>,
    /// Examples learned.
    pub learned: u64,
    /// Digest of the state.
    pub state_digest: String,
    /// The newest version that the state descends from.
    pub parent: Option<ParentVersion>,
    /// Size and SHA-256 of `state.blocks`.
    pub blocks: FileDigest,
}

/// An export that cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum ExportError {
    /// The manifest does not decode.
    #[error("its manifest does not decode")]
    Manifest(#[from] serde_json::Error),
    /// The manifest is too long.
    #[error("its manifest has {0} bytes, more than {MANIFEST_BYTES_MAX}")]
    Long(u64),
    /// The model's name or a digest is not of its form.
    #[error("its manifest")]
    Name(#[from] NameError),
    /// A file is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A file is not a file: a link, a pipe, a device or a directory.
    #[error("{0} is not a regular file")]
    NotRegular(&'static str),
    /// The file has not the length that the manifest states.
    #[error("{BLOCKS} has {found} bytes, the manifest says {expected}")]
    Length { found: u64, expected: u64 },
    /// It has a form that this program does not know.
    #[error(
        "it has format {format} with checkpoints of format {checkpoint_format}, this program reads {FORMAT} with {FORMAT_VERSION}"
    )]
    Format { format: u32, checkpoint_format: u32 },
    /// The file is not the one that the manifest names.
    #[error("{BLOCKS} has {found:?}, the manifest says {expected:?}")]
    Digest { expected: FileDigest, found: FileDigest },
    /// The file ends within a block, or has a block of a section or length that there is not.
    #[error("{BLOCKS} is no sequence of blocks: it breaks at byte {at}")]
    Frame { at: usize },
    /// The manifest says of the state what is not so.
    #[error("its manifest is that of another state than {BLOCKS} has")]
    Other,
    /// The blocks do not decode.
    #[error("its blocks")]
    Checkpoint(#[from] CheckpointError),
}

/// The frame of a block.
pub fn frame(block: &Block) -> [u8; FRAME_BYTES] {
    let length = u32::try_from(block.bytes.len()).expect("a block has a bound").to_le_bytes();
    [block.section as u8, length[0], length[1], length[2], length[3]]
}

/// What the manifest needs of the blocks that pass by: lineage and scalars, without the rest.
#[derive(Debug, Default)]
pub struct Inspection {
    kept: Vec<Block>,
}

impl Inspection {
    fn of(layer: &Layer) -> Self {
        let mut inspection = Self::default();
        layer.blocks.iter().for_each(|block| inspection.see(block));
        inspection
    }

    /// Looks at a block.
    pub fn see(&mut self, block: &Block) {
        if matches!(block.section, Section::Lineage | Section::Scalars) {
            self.kept.push(block.clone());
        }
    }

    /// The manifest of an export whose blocks were all seen.
    ///
    /// # Errors
    /// When lineage or scalars do not decode.
    pub fn manifest(self, model: &str, created_at: String, blocks: FileDigest) -> Result<ExportManifest, ExportError> {
        let layer = Layer { scope: Scope::Everything, blocks: self.kept };
        let Lineage { state_digest, parent, .. } = read_lineage(&layer)?;
        let scalars = Trainer::read_scalars(&layer.section(Section::Scalars))
            .map_err(|source| CheckpointError::Decode { section: Section::Scalars, source })?;
        let sequencer = Sequencer::<()>::resume(scalars.progress, Vec::new());
        let positions =
            sequencer.positions().iter().map(|(partition, offset)| (partition.to_string(), *offset)).collect();
        Ok(ExportManifest {
            format: FORMAT,
            checkpoint_format: FORMAT_VERSION,
            model: model.to_owned(),
            created_at,
            records: sequencer.released(),
            positions,
            watermark: scalars.join.watermark,
            learned: scalars.counters.learned,
            state_digest: state_digest.to_string(),
            parent: parent.as_ref().map(ParentVersion::from),
            blocks,
        })
    }
}

/// Reads the manifest of an export: before its blocks, whose length it states.
///
/// # Errors
/// When it is too long, does not decode, or is of a form that this program does not know.
pub fn read_manifest(manifest: &[u8]) -> Result<ExportManifest, ExportError> {
    if manifest.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(ExportError::Long(manifest.len() as u64));
    }
    // Another form may have other keys: it is refused by its numbers.
    let Form { format, checkpoint_format } = serde_json::from_slice(manifest)?;
    if (format, checkpoint_format) != (FORMAT, FORMAT_VERSION) {
        return Err(ExportError::Format { format, checkpoint_format });
    }
    let manifest: ExportManifest = serde_json::from_slice(manifest)?;
    names::check_model(&manifest.model)?;
    names::check_digest(&manifest.state_digest)?;
    names::check_digest(&manifest.blocks.sha256)?;
    Ok(manifest)
}

#[derive(Deserialize)]
struct Form {
    format: u32,
    checkpoint_format: u32,
}

/// Reads an export back: its layer, and that it is the one that the manifest names.
///
/// # Errors
/// When the blocks are damaged, or of another state than the manifest says.
pub fn read(manifest: &ExportManifest, blocks: &[u8]) -> Result<Layer, ExportError> {
    let found = FileDigest::of(blocks);
    if found != manifest.blocks {
        return Err(ExportError::Digest { expected: manifest.blocks.clone(), found });
    }
    let mut layer = Layer { scope: Scope::Everything, blocks: Vec::new() };
    let mut rest = blocks;
    while !rest.is_empty() {
        let at = blocks.len() - rest.len();
        let block = next_block(&mut rest).ok_or(ExportError::Frame { at })?;
        layer.blocks.push(block);
    }
    let expected = Inspection::of(&layer).manifest(&manifest.model, manifest.created_at.clone(), found)?;
    if expected == *manifest { Ok(layer) } else { Err(ExportError::Other) }
}

fn next_block(rest: &mut &[u8]) -> Option<Block> {
    let ([section, length @ ..], behind) = rest.split_first_chunk::<FRAME_BYTES>()?;
    let (bytes, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = behind;
    // The store takes no longer ones, and none is empty.
    let is_block = (1..=BLOCK_BYTES_MAX).contains(&bytes.len());
    is_block.then_some(Block { section: Section::of(*section)?, bytes: bytes.to_vec() })
}
