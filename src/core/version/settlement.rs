//! What becomes of the versions that a checkpoint owed the world, when a worker starts again: a function of the checkpoint, of
//! what the topic says, and of which artefacts are there. The caller does what it says.
//!
//! | the topic has the number | the artefact is there | is not |
//! |---|---|---|
//! | not | install and announce it | it is lost |
//! | with the same content | install it | nothing: it was announced |
//! | with another content | remove ours, which is lost | it is lost |
//!
//! A delta stands on its parent: one that is not announced yet, and whose parent is lost or was never announced, is lost with
//! it. So no link is announced that no server could apply; the first version of the next run is a full one in any case.
//!
//! A version that is lost is nobody's parent: the version before it is, and the next version's segment of the journal begins
//! with the lost one's.

use super::announcement::{Abandoned, Announcement};
use super::known::KnownVersions;
use super::manifest::{Kind, Parent, ParentVersion};
use super::outbox::OutboxEntry;
use crate::stream::JournalEntry;

/// Why a version will not be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionLoss {
    /// Its artefact is gone.
    Missing,
    /// Another worker announced the number with another content.
    Overtaken,
    /// It is a delta, and its parent is lost, or not announced.
    Orphaned,
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

/// What becomes of one version that was owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is announced, and whether it is here.
    Announced {
        is_present: bool,
    },
    /// It is here, and can be announced.
    Pending,
    Lost {
        why: VersionLoss,
        is_present: bool,
    },
}

/// The fates of versions, by rising number: a delta's is its parent's.
fn fates(outbox: &[OutboxEntry], known: &KnownVersions, is_present: impl Fn(&OutboxEntry) -> bool) -> Vec<Fate> {
    let mut standing: Vec<&str> = Vec::new();
    let mut fates = Vec::new();
    for entry in outbox {
        let is_present = is_present(entry);
        let announced = known.announced.get(&entry.version());
        let is_announced = |base: &ParentVersion| {
            known.announced.get(&base.version).is_some_and(|one| one.manifest_digest == base.manifest_digest)
        };
        let stands = match (entry.announcement.kind, &entry.announcement.parent) {
            (Kind::Full, _) => true,
            (Kind::Delta, Some(base)) => standing.contains(&&*base.manifest_digest) || is_announced(base),
            (Kind::Delta, None) => false,
        };
        let is_ours = announced.map(|announced| announced.manifest_digest == entry.manifest_digest());
        let fate = match (is_ours, is_present) {
            (Some(true), _) => Fate::Announced { is_present },
            (Some(false), _) => Fate::Lost { why: VersionLoss::Overtaken, is_present },
            (None, false) => Fate::Lost { why: VersionLoss::Missing, is_present },
            (None, true) if stands => Fate::Pending,
            (None, true) => Fate::Lost { why: VersionLoss::Orphaned, is_present },
        };
        if !matches!(fate, Fate::Lost { .. }) {
            standing.push(entry.manifest_digest());
        }
        fates.push(fate);
    }
    fates
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
    for (entry, fate) in outbox.iter().zip(fates(outbox, known, is_present)).rev() {
        let directory = || entry.directory().to_owned();
        match fate {
            Fate::Pending => {
                settled.install.push(directory());
                settled.pending.push(entry.clone());
            }
            Fate::Announced { is_present } => settled.install.extend(is_present.then(directory)),
            Fate::Lost { why, is_present } => {
                settled.remove.extend(is_present.then(directory));
                settled.lose(entry, why, known);
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
