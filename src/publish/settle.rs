//! What to do with a version that was durable but perhaps not announced when the worker stopped.

use super::announcement::Announcement;
use crate::snapshot::outbox::OutboxEntry;

/// The fate of an outbox entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The topic lacks the number: announce it.
    Announce,
    /// The topic has it with the same digest: it was announced.
    Done,
    /// The topic has the number with another digest: another worker used it. Drop the version and its artefact.
    Drop,
}

/// Decides, given what the topic holds under the entry's number.
pub fn settlement(entry: &OutboxEntry, announced: Option<&Announcement>) -> Settlement {
    match announced {
        None => Settlement::Announce,
        Some(announced) if announced.manifest_digest == entry.manifest_digest => Settlement::Done,
        Some(_) => Settlement::Drop,
    }
}
