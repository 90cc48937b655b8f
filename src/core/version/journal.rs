//! A version's segment of the journal, `journal.jsonl`: read back with every decision checked, since a replay makes them all
//! again.

use crate::stream::{Control, JournalEntry, Partition};
use crate::train::{ParamsError, TrainParams};

/// The journal since the parent version: the file's name.
pub const JOURNAL: &str = "journal.jsonl";

/// The largest offset: far from where adding to it would overflow.
const OFFSET_MAX: i64 = i64::MAX / 4;

/// A decision that no worker makes.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum EntryError {
    /// It stands before the decision above it.
    #[error("its place {at} is before that of the decision above it, {before}")]
    Order { at: u64, before: u64 },
    /// There is no such partition or offset.
    #[error("partition {0} has no such offset, or there is no such partition")]
    Place(Partition),
    /// Its parameters are none.
    #[error(transparent)]
    Params(#[from] ParamsError),
}

/// A segment cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum JournalError {
    /// A line does not decode.
    #[error("{JOURNAL} does not decode")]
    Decode(#[source] serde_json::Error),
    /// A line is no decision of a worker.
    #[error("line {line} of {JOURNAL} is no decision of a worker")]
    Line { line: usize, source: EntryError },
}

/// Reads a segment.
///
/// # Errors
/// When a line does not decode, or is no decision of a worker.
pub fn read_journal(lines: &[u8]) -> Result<Vec<JournalEntry>, JournalError> {
    let mut entries: Vec<JournalEntry> = Vec::new();
    for (number, line) in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
        let entry = serde_json::from_slice(line).map_err(JournalError::Decode)?;
        check(&entry, entries.last()).map_err(|source| JournalError::Line { line: number + 1, source })?;
        entries.push(entry);
    }
    Ok(entries)
}

/// Checks the entries of a segment that came in another form than lines.
///
/// # Errors
/// When one is no decision of a worker; with its number from 1.
pub fn check_entries(entries: &[JournalEntry]) -> Result<(), (usize, EntryError)> {
    let befores = std::iter::once(None).chain(entries.iter().map(Some));
    for (number, (entry, before)) in entries.iter().zip(befores).enumerate() {
        check(entry, before).map_err(|error| (number + 1, error))?;
    }
    Ok(())
}

fn check(entry: &JournalEntry, before: Option<&JournalEntry>) -> Result<(), EntryError> {
    if let Some(before) = before.filter(|before| before.at > entry.at) {
        return Err(EntryError::Order { at: entry.at, before: before.at });
    }
    let (partition, offsets) = match &entry.control {
        Control::Start { partition, next_offset } | Control::Added { partition, next_offset } => {
            (partition, [*next_offset, *next_offset])
        }
        Control::Idle(partition) | Control::Ended(partition) | Control::Returned(partition) => (partition, [0, 0]),
        Control::Gap { partition, from, to } => (partition, [*from, *to]),
        Control::Configured { parameters, fields } => {
            return Ok(TrainParams::from_text(parameters)?.check_fields(fields)?);
        }
    };
    let is_sound = 0 <= offsets[0] && offsets[0] <= offsets[1] && offsets[1] <= OFFSET_MAX && partition.number >= 0;
    if is_sound { Ok(()) } else { Err(EntryError::Place(*partition)) }
}
