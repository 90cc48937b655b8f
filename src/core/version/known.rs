//! What the versions topic says of one model: the newest record of each key counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::alias::{Alias, Hold, LIVE};
use super::announcement::{Announcement, RecordError};
use super::names;

/// What the topic says of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownVersions {
    /// Its versions, by number.
    pub announced: BTreeMap<u64, Announcement>,
    /// Its aliases, by name.
    pub aliases: BTreeMap<String, Alias>,
    /// The aliases that are held, by name.
    pub holds: BTreeMap<String, Hold>,
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
        } else if let Some(alias) = rest.strip_prefix("/h/") {
            let Some(record) = record else {
                self.holds.remove(alias);
                return Ok(());
            };
            let hold = Hold::read(key, record)?;
            self.holds.insert(hold.alias.clone(), hold);
        }
        Ok(())
    }

    /// The epoch of a worker that takes over now: greater than that of every announcement.
    pub fn next_epoch(&self) -> u64 {
        self.announced.values().filter_map(|one| one.epoch).max().map_or(1, |newest| newest.saturating_add(1))
    }

    /// The newest version that servers may follow to: it was not rejected, and the model descends from it.
    pub fn newest_good(&self) -> Option<&Announcement> {
        self.announced.values().rev().find(|one| one.abandoned.is_none() && one.held.is_none())
    }

    /// Where `live` is to point, given where it does: at the version that it is held at; else at the one offered, if that is
    /// newer. An alias never moves back by itself: a version that is announced again after a restart may be an old one.
    pub fn live_due(&self, offered: Option<u64>) -> Option<&Announcement> {
        let live = self.aliases.get(LIVE);
        if let Some(hold) = self.holds.get(LIVE) {
            let held = self.announced.get(&hold.version).filter(|one| one.manifest_digest == hold.manifest_digest);
            return held.filter(|held| live.is_none_or(|live| live.manifest_digest != held.manifest_digest));
        }
        let is_newer = |one: &&Announcement| live.is_none_or(|live| live.version < one.version);
        self.announced.get(&offered?).filter(is_newer)
    }

    /// The greatest number that was announced.
    pub fn newest(&self) -> Option<u64> {
        self.newest
    }
}
