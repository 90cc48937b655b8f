//! What the join holds, written down as it changes, so that a checkpoint costs what changed and takes no pause.
//!
//! The log is a sequence of records, the newest of a key counts:
//!
//! ```text
//! length of what follows, u32 | key, u128 | the entry in postcard, or nothing when it is not held any more
//! ```
//!
//! All numbers are little-endian. A key is the XXH3-128 of what identifies the entry, so that logs can be merged without
//! reading entries.

use serde::Serialize;

use super::JoinEntry;
use super::digest::Sum;
use super::record::{EventIdHash, WaitingClick};
use crate::event::EventKind;

/// Bytes of a record's length and key.
const HEAD_BYTES: usize = 4 + 16;

/// A log of changes; it takes nothing until it is switched on.
#[derive(Clone, Debug, Default)]
pub(super) struct ChangeLog {
    records: Option<Vec<u8>>,
    keys: Sum,
}

/// What identifies an entry.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) enum Key<'a> {
    Impression(&'a str),
    Click(&'a WaitingClick),
    EventId(EventKind, EventIdHash),
}

impl ChangeLog {
    /// Begins a new log, and gives the one so far.
    pub(super) fn restart(&mut self) -> Vec<u8> {
        self.records.replace(Vec::new()).unwrap_or_default()
    }

    pub(super) fn is_on(&self) -> bool {
        self.records.is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.records.as_ref().map_or(0, Vec::len)
    }

    /// The entry is held now, in this form.
    pub(super) fn holds<P: Serialize>(&mut self, key: Key<'_>, entry: &JoinEntry<P>) {
        self.holds_written(key, |records| super::digest::append(entry, records));
    }

    /// The same of an entry that is written in postcard.
    pub(super) fn holds_written(&mut self, key: Key<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(records) = &mut self.records {
            append(records, self.keys.hash(&key), write);
        }
    }

    /// The entry is not held any more.
    pub(super) fn forgets(&mut self, key: Key<'_>) {
        if let Some(records) = &mut self.records {
            append(records, self.keys.hash(&key), |_| {});
        }
    }
}

impl<P> JoinEntry<P> {
    /// What identifies the entry in a log of changes.
    pub fn key(&self) -> u128 {
        Sum::default().hash(&match self {
            Self::Impression { impression_id, .. } => Key::Impression(impression_id),
            Self::Click { click, .. } => Key::Click(click),
            Self::EventId { kind, id, .. } => Key::EventId(*kind, *id),
        })
    }
}

/// Appends a record that an entry is held.
pub(super) fn append_entry<P: Serialize>(records: &mut Vec<u8>, entry: &JoinEntry<P>) {
    append(records, entry.key(), |records| super::digest::append(entry, records));
}

fn append(records: &mut Vec<u8>, key: u128, write: impl FnOnce(&mut Vec<u8>)) {
    let start = records.len();
    records.extend([0; 4]);
    records.extend(key.to_le_bytes());
    write(records);
    let length = (records.len() - start - 4) as u32;
    records[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// A record of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeRecord<'a> {
    /// What identifies its entry.
    pub key: u128,
    /// The entry in postcard; empty when it is not held any more.
    pub entry: &'a [u8],
    /// The record as it stands in the log.
    pub whole: &'a [u8],
}

/// The first record of a log, and what follows it; `None` when the bytes end before it does.
pub fn first_record(log: &[u8]) -> Option<(ChangeRecord<'_>, &[u8])> {
    let length = u32::from_le_bytes(log.first_chunk::<4>().copied()?) as usize;
    let end = length.checked_add(4)?;
    let whole = log.get(..end)?;
    let key = u128::from_le_bytes(whole.get(4..HEAD_BYTES)?.try_into().ok()?);
    Some((ChangeRecord { key, entry: &whole[HEAD_BYTES..], whole }, &log[end..]))
}
