//! What becomes of the versions that a checkpoint owed the world, when a worker starts again: a function of the checkpoint, of
//! what the topic says, and of which artefacts are there. The caller does what it says.
//!
//! | the topic has the number | the artefact is there | is not |
//! |---|---|---|
//! | not | install and announce it | it is lost |
//! | with the same content | install it | nothing: it was announced |
//! | with another content | remove ours, which is lost | it is lost |
//!
//! A version that is lost is nobody's parent: the version before it is, and the next version's segment of the journal begins
//! with the lost one's.

use super::announcement::{Abandoned, Announcement};
use super::known::KnownVersions;
use super::manifest::{Parent, ParentVersion};
use super::outbox::OutboxEntry;
use crate::stream::JournalEntry;

/// Why a version will not be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionLoss {
    /// Its artefact is gone.
    Missing,
    /// Another worker announced the number with another content.
    Overtaken,
    /// It is of a training export, whose worker had not announced it: it was never here.
    Forsaken,
}

/// What is to be done, and where the state goes on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settled {
    /// The version that the state descends from.
    pub parent: Option<Parent>,
    /// Versions to announce, by rising number.
    pub pending: Vec<OutboxEntry>,
    /// Directories of artefacts to install: those of `pending`, and those that were announced.
    pub install: Vec<String>,
    /// Directories to remove: of versions that were overtaken.
    pub remove: Vec<String>,
    /// Versions that will not be announced, and why.
    pub lost: Vec<(u64, VersionLoss)>,
    /// What the journal begins with now.
    pub journal: Vec<JournalEntry>,
}

/// Settles what the last run of this worker owed.
pub fn settle(
    outbox: &[OutboxEntry],
    parent: Option<&Parent>,
    known: &KnownVersions,
    is_present: impl Fn(&OutboxEntry) -> bool,
) -> Settled {
    let mut settled = Settled { parent: parent.cloned(), ..Settled::default() };
    // From the newest to the oldest: a parent may be handed down more than once.
    for entry in outbox.iter().rev() {
        let announced = known.announced.get(&entry.version());
        let is_ours = announced.map(|announced| announced.manifest_digest == entry.manifest_digest());
        let directory = || entry.directory().to_owned();
        match (is_ours, is_present(entry)) {
            (None, true) => {
                settled.install.push(directory());
                settled.pending.push(entry.clone());
            }
            (Some(true), true) => settled.install.push(directory()),
            (Some(true), false) => {}
            (None, false) => settled.lose(entry, VersionLoss::Missing, known),
            (Some(false), is_present) => {
                settled.remove.extend(is_present.then(directory));
                settled.lose(entry, VersionLoss::Overtaken, known);
            }
        }
    }
    settled.pending.reverse();
    settled
}

/// Settles what the worker of a training export owed. Its versions are its own to announce, and their directories its own to
/// move and remove: here none is touched. One that the topic does not know was never there.
pub fn settle_restored(outbox: &[OutboxEntry], parent: Option<&Parent>, known: &KnownVersions) -> Settled {
    let mut settled = Settled { parent: parent.cloned(), ..Settled::default() };
    for entry in outbox.iter().rev() {
        let announced = known.announced.get(&entry.version());
        if announced.is_none_or(|announced| announced.manifest_digest != entry.manifest_digest()) {
            settled.lose(entry, VersionLoss::Forsaken, known);
        }
    }
    settled
}

impl Settled {
    fn lose(&mut self, entry: &OutboxEntry, loss: VersionLoss, known: &KnownVersions) {
        self.lost.push((entry.version(), loss));
        if self.parent.as_ref().is_none_or(|parent| parent.manifest_digest != entry.manifest_digest()) {
            return;
        }
        self.parent = entry.announcement.parent.as_ref().map(|before| Parent {
            version: before.version,
            manifest_digest: before.manifest_digest.clone(),
            learned: known.announced.get(&before.version).map_or(0, |announced| announced.learned),
        });
        self.journal.splice(..0, entry.journal.iter().cloned());
    }
}

/// The announcements of versions that a state with this parent does not descend from, marked as abandoned at a time (RFC 3339):
/// its worker fell back behind them, was restored from an export, or is a copy from before them.
pub fn abandoned(parent: Option<&Parent>, known: &KnownVersions, at: &str) -> Vec<Announcement> {
    let is_ahead = |announcement: &Announcement| match parent {
        None => true,
        Some(parent) if parent.version == announcement.version => {
            parent.manifest_digest != announcement.manifest_digest
        }
        Some(parent) => parent.version < announcement.version,
    };
    let ahead = known.announced.values().filter(|one| one.abandoned.is_none() && is_ahead(one));
    let parent = parent.map(ParentVersion::from);
    ahead
        .map(|one| Announcement {
            abandoned: Some(Abandoned { at: at.to_owned(), parent: parent.clone() }),
            ..one.clone()
        })
        .collect()
}
