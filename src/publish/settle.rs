//! What to do with a version that was durable but perhaps not announced when the worker stopped.

use crate::source::letters::DeadLetter;
use deepfm_core::version::announcement::{Announcement, RecordError};
use deepfm_core::version::outbox::{Outbox, OutboxEntry};

/// What a checkpoint says it owes the world is not what a worker of this model owes.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// An announcement.
    #[error("the announcement of version {version} in its outbox")]
    Announcement {
        /// The version.
        version: u64,
        /// What is wrong with it.
        source: RecordError,
    },
    /// An announcement of another version than its entry, or of another model.
    #[error("the outbox entry of version {0} has the announcement of another version or model")]
    Other(u64),
    /// A dead letter.
    #[error("the dead letter under {0:?} in its outbox is none, or belongs under another key")]
    Letter(String),
}

/// Checks versions of an outbox that was read, before anything is done by them: an entry is of this model, and its key and
/// document are those of its number and digest, by which directories are named, moved and removed.
///
/// # Errors
/// The first entry that is not.
pub fn check_versions(versions: &[OutboxEntry], model: &str) -> Result<(), OutboxError> {
    for entry in versions {
        let version = entry.version;
        let announcement = Announcement::read(&entry.key, entry.announcement.as_bytes())
            .map_err(|source| OutboxError::Announcement { version, source })?;
        let Announcement { model: of, version: number, manifest_digest, directory, abandoned, .. } = &announcement;
        let is_its_own = of == model
            && *number == version
            && *manifest_digest == entry.manifest_digest
            && *directory == entry.directory
            && abandoned.is_none();
        if !is_its_own {
            return Err(OutboxError::Other(version));
        }
    }
    Ok(())
}

/// Checks the outbox of an export, which may come from anywhere.
///
/// # Errors
/// The first entry that is not a version's of this model, or no dead letter under its own key.
pub fn check_outbox(outbox: &Outbox, model: &str) -> Result<(), OutboxError> {
    check_versions(&outbox.versions, model)?;
    for letter in &outbox.letters {
        let document: Option<DeadLetter> = serde_json::from_str(&letter.document).ok();
        if document.is_none_or(|document| document.key() != letter.key) {
            return Err(OutboxError::Letter(letter.key.chars().take(200).collect()));
        }
    }
    Ok(())
}

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
