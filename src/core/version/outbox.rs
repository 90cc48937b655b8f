//! What a checkpoint owes the world: versions to announce and dead letters to send. It is committed with the state, acted
//! upon after, and cleared by the next commit; so a crash repeats, and never loses.

use serde::{Deserialize, Serialize};

use crate::stream::JournalEntry;

/// Everything that is durable and perhaps not sent yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outbox {
    /// Versions, by rising number.
    pub versions: Vec<OutboxEntry>,
    /// Dead letters, in the order in which their records were consumed.
    pub letters: Vec<Letter>,
}

/// A version that is durable but perhaps not announced yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutboxEntry {
    /// Its number.
    pub version: u64,
    /// SHA-256 of its manifest, in hexadecimal.
    pub manifest_digest: String,
    /// Name of the artefact's directory.
    pub directory: String,
    /// The announcement's key.
    pub key: String,
    /// The announcement, as it is sent.
    pub announcement: String,
    /// Whether the `live` alias moves to it.
    pub goes_live: bool,
    /// Its segment of the journal: should it never be announced, the next version's segment begins with it.
    pub journal: Vec<JournalEntry>,
}

/// A dead letter, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// `<topic>/<partition>/<offset>` of the record: a letter that is sent again is known as the same one.
    pub key: String,
    /// The letter, as `schemas/dead_letter.schema.json` has it.
    pub document: String,
}

impl Letter {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.key.len() + self.document.len()
    }
}
