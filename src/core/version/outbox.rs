//! What a checkpoint owes the world: versions to announce and dead letters to send. It is committed with the state, acted
//! upon after, and cleared by the next commit; so a crash repeats, and never loses.

use serde::{Deserialize, Serialize};

use super::announcement::Announcement;
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
    /// What is announced. In a checkpoint it stands as the JSON that is sent: the form of metrics is none of the checkpoint's.
    #[serde(with = "as_json")]
    pub announcement: Announcement,
    /// Whether the `live` alias moves to it.
    pub goes_live: bool,
    /// Its segment of the journal: should it never be announced, the next version's segment begins with it.
    pub journal: Vec<JournalEntry>,
}

impl OutboxEntry {
    /// Its number.
    pub fn version(&self) -> u64 {
        self.announcement.version
    }

    /// SHA-256 of its manifest, in hexadecimal.
    pub fn manifest_digest(&self) -> &str {
        &self.announcement.manifest_digest
    }

    /// Name of the artefact's directory.
    pub fn directory(&self) -> &str {
        &self.announcement.directory
    }
}

/// A value as the text of its JSON.
mod as_json {
    use serde::de::{DeserializeOwned, Error as _};
    use serde::{Deserialize as _, Deserializer, Serialize, Serializer, ser};

    pub(super) fn serialize<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&serde_json::to_string(value).map_err(ser::Error::custom)?)
    }

    pub(super) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        serde_json::from_str(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
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
