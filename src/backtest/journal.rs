//! A live worker's run, repeated: the topics in the order that its journal explains, and at each published version the
//! digest of the state held against the published one. When two differ, that is a bug: this is how it is found.

use std::path::Path;

use serde::Serialize;

use super::{BacktestError, Collector};
use crate::artefacts::directory::Directory;
use crate::artefacts::{Artefacts as _, Shelf};
use crate::config::Config;
use crate::config::operation::Readers;
use crate::drive::{Drive, DriveError, Pilot};
use crate::source::Ingest;
use crate::source::topics::{KafkaLog, KafkaSource};
use crate::thread::crew::Crew;
use deepfm_core::event::Decoder;
use deepfm_core::feature::field::{Field, FieldSet};
use deepfm_core::model::Executor;
use deepfm_core::stream::{Control, JournalEntry, Positions, Script};
use deepfm_core::train::{TrainParams, Trainer};
use deepfm_core::version::journal::JOURNAL;
use deepfm_core::version::journal::read_journal;
use deepfm_core::version::manifest::Manifest;

/// A published version, and the state that the replay has in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VersionCheck {
    /// Its number.
    pub version: u64,
    /// Records of the merged order that it has seen.
    pub records: u64,
    /// The digest that was published.
    pub expected: String,
    /// The digest of the replayed state.
    pub found: String,
}

impl VersionCheck {
    /// Whether the replay has the very state that was published.
    pub fn is_reproduced(&self) -> bool {
        self.expected == self.found
    }
}

/// A version with its segment of the journal.
struct Segment {
    manifest: Manifest,
    digest: String,
    entries: Vec<JournalEntry>,
}

/// Replays every version of a directory of artefacts over the configured topics.
///
/// # Errors
/// When an artefact or the topics cannot be read, there is no version, one is missing in between, or a journal is not of these
/// topics.
pub fn replay_journal(config: &Config, directory: &Path) -> Result<Vec<VersionCheck>, BacktestError> {
    let mut checks = Vec::new();
    let mut before: Option<(u64, String)> = None;
    let mut replay: Option<Replay<'_>> = None;
    let segments = read_segments(config, directory)?;
    if segments.is_empty() {
        return Err(BacktestError::NoVersions { model: config.model.name.clone(), directory: directory.to_owned() });
    }
    for (number, segment) in segments.iter().enumerate() {
        let Manifest { version, records, .. } = segment.manifest;
        let parent = segment.manifest.parent.as_ref().map(|parent| (parent.version, parent.manifest_digest.clone()));
        if parent.is_none() {
            replay = Some(Replay::open(config, &segments[number..])?);
        } else if parent != before {
            let (parent, before) = (parent.map(|(version, _)| version), before.map(|(version, _)| version));
            // A replay begins where the log does.
            if let (None, Some(parent)) = (before, parent) {
                return Err(BacktestError::JournalsRemoved { version, parent });
            }
            return Err(BacktestError::Chain { version, parent, before });
        }
        let Some(replay) = replay.as_mut() else { continue };
        replay.follow(&segment.entries, records).map_err(|error| match error {
            BacktestError::Drive(DriveError::Stream(source)) => BacktestError::Journal { version, source },
            error => error,
        })?;
        let found = replay.drive.trainer.state_digest().to_string();
        checks.push(VersionCheck { version, records, expected: segment.manifest.state_digest.clone(), found });
        before = Some((version, segment.digest.clone()));
    }
    Ok(checks)
}

fn read_segments(config: &Config, directory: &Path) -> Result<Vec<Segment>, BacktestError> {
    let mut segments = Vec::new();
    let own = directory.join(&config.model.name);
    let root = if own.is_dir() { own } else { directory.to_owned() };
    let artefacts = Directory::new(root, Readers::Owner);
    let mut versions = artefacts.list(Shelf::Journals)?;
    versions.extend(artefacts.list(Shelf::Versions)?);
    // A removal that was cut short leaves both, with one name.
    versions.sort_unstable();
    versions.dedup_by(|one, other| one.directory == other.directory);
    for version in versions {
        let (manifest, digest) = artefacts.manifest(&version)?;
        if manifest.model == config.model.name {
            let entries = read_journal(&artefacts.file(&version, &manifest, JOURNAL)?)?;
            segments.push(Segment { manifest, digest, entries });
        }
    }
    // A version that a later one passes over was abandoned: its worker fell back behind it.
    let passed_over = |version: u64| {
        let parent = |manifest: &Manifest| manifest.parent.as_ref().map_or(u64::MAX, |parent| parent.version);
        segments.iter().any(|later| later.manifest.version > version && parent(&later.manifest) < version)
    };
    // Of two versions of one number the older is a fenced worker's, unless a later version names it as its parent.
    let is_parent = |digest: &str| {
        let parent = |segment: &Segment| segment.manifest.parent.as_ref().map(|parent| parent.manifest_digest.clone());
        segments.iter().any(|later| parent(later).as_deref() == Some(digest))
    };
    let rank = |segment: &Segment| (is_parent(&segment.digest), segment.manifest.created_at.clone());
    let is_outdone = |segment: &Segment| {
        let same = |other: &&Segment| other.manifest.version == segment.manifest.version;
        segments.iter().filter(same).any(|other| rank(other) > rank(segment))
    };
    let is_left_out = |segment: &Segment| passed_over(segment.manifest.version) || is_outdone(segment);
    let left_out: Vec<String> =
        segments.iter().filter(|segment| is_left_out(segment)).map(|segment| segment.digest.clone()).collect();
    segments.retain(|segment| !left_out.contains(&segment.digest));
    Ok(segments)
}

/// A chain of versions, repeated over the topics.
struct Replay<'c> {
    config: &'c Config,
    drive: Drive<KafkaSource>,
    /// Where the journal of the chain starts its partitions.
    starts: Positions,
    /// What records are decoded with now.
    fields: Vec<Field>,
}

impl<'c> Replay<'c> {
    /// A new state, read from wherever the journal of this chain starts its partitions.
    fn open(config: &'c Config, chain: &[Segment]) -> Result<Self, BacktestError> {
        let rest = chain.iter().skip(1).take_while(|segment| segment.manifest.parent.is_some());
        let controls =
            chain.iter().take(1).chain(rest).flat_map(|segment| &segment.entries).map(|entry| &entry.control);
        let starts: Positions = controls
            .clone()
            .filter_map(|control| match control {
                Control::Start { partition, next_offset } | Control::Added { partition, next_offset } => {
                    Some((*partition, *next_offset))
                }
                _ => None,
            })
            .collect();
        // The journal was checked when it was read: a chain that begins without parameters has no state of its own to repeat.
        let version = chain.first().map_or(0, |segment| segment.manifest.version);
        let (parameters, fields) =
            controls.clone().find_map(configured).ok_or(BacktestError::Unconfigured { version })?;
        let parameters =
            TrainParams::from_text(parameters).map_err(|source| BacktestError::Params { version, source })?;
        let (trainer, fields) = (Trainer::new(parameters), fields.clone());
        let drive = drive(config, trainer, &starts, &fields)?;
        Ok(Self { config, drive, starts, fields })
    }

    /// Repeats a segment up to so many records. Where fields were added, what follows is read again with them.
    fn follow(&mut self, mut entries: &[JournalEntry], records: u64) -> Result<(), BacktestError> {
        let changes =
            |entry: &JournalEntry, now: &Vec<Field>| configured(&entry.control).is_some_and(|(_, f)| f != now);
        while let Some(at) = entries.iter().position(|entry| changes(entry, &self.fields)) {
            let (before, after) = entries.split_at(at);
            let script = Script::new(before.iter().cloned());
            self.drive.replay(script, after[0].at, &mut Collector::default())?;
            self.fields = configured(&after[0].control).map_or_else(Vec::new, |(_, fields)| fields.clone());
            self.reopen()?;
            entries = after;
        }
        let script = Script::new(entries.iter().cloned());
        Ok(self.drive.replay(script, records, &mut Collector::default())?)
    }

    fn reopen(&mut self) -> Result<(), BacktestError> {
        let nothing = Trainer::new(self.config.train_params()).with_executor(Crew::new(1));
        let mut trainer = std::mem::replace(&mut self.drive.trainer, nothing);
        trainer.forget_queued();
        let positions: Positions = self.starts.clone().into_iter().chain(trainer.positions()).collect();
        self.drive = drive(self.config, trainer, &positions, &self.fields)?;
        Ok(())
    }
}

/// The parameters and fields of a decision that has them.
fn configured(control: &Control) -> Option<(&String, &Vec<Field>)> {
    match control {
        Control::Configured { parameters, fields } => Some((parameters, fields)),
        _ => None,
    }
}

fn drive<E: Executor>(
    config: &Config,
    trainer: Trainer<E>,
    positions: &Positions,
    fields: &[Field],
) -> Result<Drive<KafkaSource>, BacktestError> {
    let log = KafkaLog::connect(&config.kafka)?;
    log.check(positions)?;
    let decoder = Decoder::new(FieldSet::new(fields.to_vec())?, config.event_options())?;
    let source = log.read(positions, Ingest::new(decoder, 0, |_, _| ()))?;
    Ok(Drive::new(trainer, Crew::new(config.training.threads), source, Pilot::Script(Script::default()))?)
}
