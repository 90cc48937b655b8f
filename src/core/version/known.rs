//! What the versions topic says of one model: the newest record of each key counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::announcement::{Alias, Announcement, RecordError};
use super::names;

/// What the topic says of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownVersions {
    /// Its versions, by number.
    pub announced: BTreeMap<u64, Announcement>,
    /// Its aliases, by name.
    pub aliases: BTreeMap<String, Alias>,
    /// Numbers whose records this program cannot read.
    pub unreadable: BTreeSet<u64>,
    /// The greatest number under its keys, those of records that this program cannot read, and of removed versions, included.
    pub newest: Option<u64>,
}

/// What every announcement says, of whatever form it is: a number that has it cannot be used again.
#[derive(Deserialize)]
struct Claim {
    model: String,
    version: u64,
}

impl KnownVersions {
    /// Takes note of a record; one without payload is a tombstone: what was under its key is no more. Everything of other
    /// models is passed over.
    ///
    /// # Errors
    /// When it is not what its key says: it is passed over too.
    pub fn take(&mut self, model: &str, key: &[u8], record: Option<&[u8]>) -> Result<(), RecordError> {
        let Ok(key) = std::str::from_utf8(key) else { return Ok(()) };
        let Some(rest) = key.strip_prefix(model) else { return Ok(()) };
        if let Some(number) = rest.strip_prefix("/v/").and_then(names::version) {
            self.announced.remove(&number);
            self.unreadable.remove(&number);
            // A number that was used and removed is used up all the same.
            let Some(record) = record else {
                self.newest = self.newest.max(Some(number));
                return Ok(());
            };
            let claimed = |claim: &Claim| claim.model == model && claim.version == number;
            let is_claimed = serde_json::from_slice(record).is_ok_and(|claim| claimed(&claim));
            if is_claimed {
                self.newest = self.newest.max(Some(number));
            }
            let read = Announcement::read(key, record);
            if read.is_err() && is_claimed {
                self.unreadable.insert(number);
            }
            self.announced.insert(number, read?);
        } else if let Some(alias) = rest.strip_prefix("/a/") {
            let Some(record) = record else {
                self.aliases.remove(alias);
                return Ok(());
            };
            let alias = Alias::read(key, record)?;
            self.aliases.insert(alias.alias.clone(), alias);
        }
        Ok(())
    }

    /// The greatest number that was announced.
    pub fn newest(&self) -> Option<u64> {
        self.newest
    }
}
