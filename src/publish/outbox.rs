//! Whether what a checkpoint says it owes the world is what a worker of this model owes.

use crate::letters::letter::DeadLetter;
use deepfm_core::version::announcement::RecordError;
use deepfm_core::version::outbox::{Outbox, OutboxEntry};

/// What a checkpoint says it owes the world is not what a worker of this model owes.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum OutboxError {
    /// An announcement.
    #[error("the announcement of version {version} in its outbox")]
    Announcement { version: u64, source: RecordError },
    /// An announcement of another model, or of a version that is given up.
    #[error("version {0} in its outbox is of another model, or abandoned")]
    Other(u64),
    /// A dead letter.
    #[error("the dead letter under {0:?} in its outbox is none, or belongs under another key")]
    Letter(String),
}

/// Checks versions of an outbox that was read, before anything is done by them: each is of this model, and not abandoned.
///
/// # Errors
/// The first entry that is not.
pub fn check_versions(versions: &[OutboxEntry], model: &str) -> Result<(), OutboxError> {
    for entry in versions {
        let version = entry.version();
        entry.announcement.check().map_err(|source| OutboxError::Announcement { version, source })?;
        if entry.announcement.model != model || entry.announcement.abandoned.is_some() {
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
