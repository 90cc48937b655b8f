//! Which versions are removed: all but the newest few, whatever an alias points at, what a delta among them stands on, and what
//! is still needed of their journals.
//!
//! What is not announced goes only where nothing that stays can stand on it: of a topic that was lost or recreated not all of a
//! chain is known, and then nothing below goes.
//!
//! First their announcements become tombstones, then their directories go: a server that looks a version up finds it whole, or
//! does not find it announced. What a crash in between leaves is removed by a later run.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::exports;
use crate::artefacts::{ArtefactIoError, Artefacts, Installed, Journal, Shelf};
use crate::config::operation;
use crate::remote::listing::Listed;
use deepfm_core::version::known::KnownVersions;
use deepfm_core::version::manifest::Kind;
use deepfm_core::version::names;

/// How long a directory is left alone that is not announced under its own name: its worker may be about to do that.
const UNANNOUNCED_MIN: Duration = Duration::from_hours(24);

/// A version that is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// Its number.
    pub version: u64,
    /// The name of its directory.
    pub directory: String,
    /// The key of its announcement; `None` if this content was never announced: a fenced worker's, or what is left of a removal
    /// that was cut short.
    pub key: Option<String>,
    /// Bytes of its files; 0 when it is not here.
    pub bytes: u64,
    /// Whether its segment of the journal stays, since a training export that is kept is from before it.
    pub keeps_journal: bool,
}

/// What is to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Versions, by rising number.
    pub versions: Vec<Removal>,
    /// Journals of versions that were removed before, which no export needs any more.
    pub journals: Vec<Installed>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty() && self.journals.is_empty()
    }
}

/// Decides what is removed. Never the newest version, nor the newest that the model descends from, nor one that an alias points
/// at, is held at, or pointed at before: that is where it is rolled back to; and of a delta that stays neither the full version
/// that its chain begins with nor a link in between.
///
/// # Errors
/// When the directories cannot be read.
pub fn plan(
    settings: &operation::Versions,
    known: &KnownVersions,
    artefacts: &dyn Artefacts,
    exports: &Path,
    now: jiff::Timestamp,
) -> Result<Plan, ArtefactIoError> {
    let Some(newest) = known.newest().filter(|_| settings.keep > 0 && artefacts.exist()) else {
        return Ok(Plan::default());
    };
    let kept = Kept::of(settings, known, newest, now);
    let needed_since = needed_since(exports);
    let installed = artefacts.list(Shelf::Versions)?;
    let bytes =
        |directory: &str| installed.iter().find(|one| one.directory == directory).map_or(0, |one| artefacts.bytes(one));
    let announced = known.announced.values().filter(|one| !kept.has(one.version, &one.directory));
    let mut versions: Vec<Removal> = announced
        .map(|one| Removal {
            version: one.version,
            directory: one.directory.clone(),
            key: Some(one.key()),
            bytes: bytes(&one.directory),
            keeps_journal: one.abandoned.is_none() && one.version > needed_since,
        })
        .collect();
    let is_announced = |one: &&Installed| {
        known.unreadable.contains(&one.version)
            || known.announced.get(&one.version).is_some_and(|announced| announced.directory == one.directory)
    };
    let is_unwanted = |one: &&Installed| {
        let is_free = one.version <= newest && !is_announced(one) && !kept.has(one.version, &one.directory);
        is_free && is_old(artefacts.modified(one))
    };
    versions.extend(installed.iter().filter(is_unwanted).map(|one| Removal {
        version: one.version,
        directory: one.directory.clone(),
        key: None,
        bytes: artefacts.bytes(one),
        // Where its number is announced with another content it is nobody's; else a removal was cut short here.
        keeps_journal: one.version > needed_since && !known.announced.contains_key(&one.version),
    }));
    versions.sort_unstable_by(|one, other| (one.version, &one.directory).cmp(&(other.version, &other.directory)));
    let journals = artefacts.list(Shelf::Journals)?.into_iter().filter(|journal| journal.version <= needed_since);
    Ok(Plan { versions, journals: journals.collect() })
}

/// What stays.
struct Kept {
    /// Numbers of versions.
    numbers: BTreeSet<u64>,
    /// Directories that something names which stays: of their announcements nothing may be known any more.
    directories: BTreeSet<String>,
    /// Nothing below this number goes: something of that number stays, and what it stands on is not wholly known.
    unknown_below: u64,
}

impl Kept {
    fn of(settings: &operation::Versions, known: &KnownVersions, newest: u64, now: jiff::Timestamp) -> Self {
        let mut kept = Self { numbers: BTreeSet::new(), directories: BTreeSet::new(), unknown_below: 0 };
        for alias in known.aliases.values() {
            kept.name(known, alias.version, &alias.manifest_digest);
            kept.directories.insert(alias.directory.clone());
            if let Some(before) = alias.moves.get(1) {
                kept.name(known, before.version, &before.manifest_digest);
            }
        }
        known.holds.values().for_each(|hold| kept.name(known, hold.version, &hold.manifest_digest));
        let parent = known.announced.values().rev().find(|one| one.abandoned.is_none()).map(|one| one.version);
        kept.numbers.extend([Some(newest), parent].into_iter().flatten());
        kept.numbers.extend(known.announced.keys().rev().take(settings.keep));
        let days = jiff::SignedDuration::from_hours(24 * i64::try_from(settings.keep_days).unwrap_or(i64::MAX / 24));
        let is_young = |created_at: &str| {
            // Of one that does not say how old it is nothing is known.
            settings.keep_days > 0
                && created_at.parse::<jiff::Timestamp>().is_ok_and(|created| now.duration_since(created) < days)
        };
        let young = known.announced.values().filter(|one| is_young(&one.created_at));
        kept.numbers.extend(young.map(|one| one.version));
        kept.add_bases(known);
        kept
    }

    /// Something names this version, which stays; if its announcement has gone, nobody knows what it stands on.
    fn name(&mut self, known: &KnownVersions, version: u64, digest: &str) {
        self.numbers.insert(version);
        self.directories.insert(names::directory(version, digest));
        if known.announced.get(&version).is_none_or(|one| one.manifest_digest != digest) {
            self.unknown_below = self.unknown_below.max(version);
        }
    }

    /// Adds all that they stand on: of a delta its parent, and so on down to a full version.
    fn add_bases(&mut self, known: &KnownVersions) {
        // From the newest on: a base is older than what stands on it.
        for one in known.announced.values().rev().filter(|one| one.kind == Kind::Delta) {
            if !self.numbers.contains(&one.version) {
                continue;
            }
            match &one.parent {
                Some(parent) => self.name(known, parent.version, &parent.manifest_digest),
                None => self.unknown_below = self.unknown_below.max(one.version),
            }
        }
    }

    fn has(&self, version: u64, directory: &str) -> bool {
        self.numbers.contains(&version) || version < self.unknown_below || self.directories.contains(directory)
    }
}

/// A version that is removed from object storage, or what is left of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RemoteRemoval {
    /// Its number.
    pub version: u64,
    /// The name of its directory.
    pub directory: String,
    /// Bytes of its objects.
    pub bytes: u64,
}

/// Decides what is removed from object storage. Of what is announced that is what [`plan`] removes, whose announcements are
/// tombstones by then: who sees no directory of versions plans nothing, and then nothing of it goes. Of the rest (of a fenced
/// worker, or left of a removal or an upload that was cut short) nothing that is young, and nothing that may be needed.
pub fn plan_remote(
    settings: &operation::Versions,
    known: &KnownVersions,
    plan: &Plan,
    listed: &[Listed],
    now: jiff::Timestamp,
) -> Vec<RemoteRemoval> {
    let Some(newest) = known.newest().filter(|_| settings.keep > 0) else { return Vec::new() };
    let kept = Kept::of(settings, known, newest, now);
    let age = |one: &Listed| now.as_second().saturating_sub(one.modified);
    let is_removed = |one: &&Listed| {
        if plan.versions.iter().any(|removal| removal.directory == one.directory) {
            return true;
        }
        let is_announced = known.announced.get(&one.version).is_some_and(|known| known.directory == one.directory);
        let is_free = one.version <= newest && !is_announced && !known.unreadable.contains(&one.version);
        is_free && !kept.has(one.version, &one.directory) && age(one) >= UNANNOUNCED_MIN.as_secs().cast_signed()
    };
    let removal =
        |one: &Listed| RemoteRemoval { version: one.version, directory: one.directory.clone(), bytes: one.bytes };
    listed.iter().filter(is_removed).map(removal).collect()
}

/// Removes the directories of a plan, whose announcements are tombstones by now; says what could not be removed.
pub fn carry_out(plan: &Plan, artefacts: &dyn Artefacts) -> Vec<ArtefactIoError> {
    let mut failed = Vec::new();
    for removal in &plan.versions {
        let journal = if removal.keeps_journal { Journal::Keep } else { Journal::Remove };
        failed.extend(artefacts.retire(&removal.directory, journal).err());
    }
    plan.journals.iter().for_each(|journal| artefacts.remove_journal(journal));
    failed
}

/// The version from which on journals are needed, itself not: that from which the oldest training export goes on. Without an
/// export a replay begins where the log does, and needs all.
fn needed_since(root: &Path) -> u64 {
    let oldest = exports::list(root).into_iter().next();
    let manifest = oldest.and_then(|path| exports::manifest(&path).ok());
    manifest.and_then(|manifest| manifest.parent).map_or(0, |parent| parent.version)
}

fn is_old(modified: Option<SystemTime>) -> bool {
    let age = modified.and_then(|modified| SystemTime::now().duration_since(modified).ok());
    age.is_some_and(|age| age >= UNANNOUNCED_MIN)
}
