//! A live worker's run, repeated: the topics in the order that its journal explains, and at each published version the
//! digest of the state held against the published one. When two differ, that is a bug: this is how it is found.

use std::path::Path;

use serde::Serialize;

use super::{BacktestError, Collector, decoder};
use crate::config::Config;
use crate::model::Inline;
use crate::publish::artefacts;
use crate::snapshot::artefact::{JOURNAL, read_journal};
use crate::snapshot::manifest::Manifest;
use crate::source::kafka::{KafkaLog, KafkaSource};
use crate::source::{Ingest, SourceError};
use crate::stream::{Control, JournalEntry, Positions, Script};
use crate::train::Trainer;
use crate::worker::drive::{Drive, Pilot};

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
/// When an artefact or the topics cannot be read, a version is missing in between, or a journal is not of these topics.
pub fn replay_journal(config: &Config, directory: &Path) -> Result<Vec<VersionCheck>, BacktestError> {
    let mut checks = Vec::new();
    let mut before: Option<(u64, String)> = None;
    let mut drive = None;
    let segments = read_segments(config, directory)?;
    for (number, segment) in segments.iter().enumerate() {
        let Manifest { version, records, .. } = segment.manifest;
        let parent = segment.manifest.parent.as_ref().map(|parent| (parent.version, parent.manifest_digest.clone()));
        if parent.is_none() {
            drive = Some(open(config, &segments[number..])?);
        } else if parent != before {
            let (parent, before) = (parent.map(|(version, _)| version), before.map(|(version, _)| version));
            return Err(BacktestError::Chain { version, parent, before });
        }
        let Some(drive) = drive.as_mut() else { continue };
        let script = Script::new(segment.entries.iter().cloned());
        drive.replay(script, records, &Inline, &mut Collector::default())?;
        let found = drive.trainer.state_digest().to_string();
        checks.push(VersionCheck { version, records, expected: segment.manifest.state_digest.clone(), found });
        before = Some((version, segment.digest.clone()));
    }
    Ok(checks)
}

fn read_segments(config: &Config, directory: &Path) -> Result<Vec<Segment>, BacktestError> {
    let mut segments = Vec::new();
    for path in artefacts::list(directory)?.into_values() {
        let (manifest, digest) = artefacts::manifest(&path)?;
        if manifest.model == config.model.name {
            let file = path.join(JOURNAL);
            let lines = std::fs::read(&file).map_err(|source| SourceError::File { path: file, source })?;
            segments.push(Segment { manifest, digest, entries: read_journal(&lines)? });
        }
    }
    // A version that a later one passes over was abandoned: its worker fell back behind it.
    let passed_over = |version: u64| {
        let parent = |manifest: &Manifest| manifest.parent.as_ref().map_or(u64::MAX, |parent| parent.version);
        segments.iter().any(|later| later.manifest.version > version && parent(&later.manifest) < version)
    };
    let abandoned: Vec<u64> =
        segments.iter().map(|segment| segment.manifest.version).filter(|version| passed_over(*version)).collect();
    segments.retain(|segment| !abandoned.contains(&segment.manifest.version));
    Ok(segments)
}

/// A new state over the topics, read from wherever the journal of this chain starts its partitions.
fn open(config: &Config, chain: &[Segment]) -> Result<Drive<KafkaSource>, BacktestError> {
    let own = chain.iter().take(1).chain(chain.iter().skip(1).take_while(|segment| segment.manifest.parent.is_some()));
    let starts: Positions = own
        .flat_map(|segment| &segment.entries)
        .filter_map(|entry| match &entry.control {
            Control::Start { partition, next_offset } | Control::Added { partition, next_offset } => {
                Some((*partition, *next_offset))
            }
            _ => None,
        })
        .collect();
    let log = KafkaLog::connect(&config.kafka)?;
    log.check(&starts)?;
    let source = log.read(&starts, Ingest::new(decoder(config)?, 0, |_, _| ()))?;
    let pilot = Pilot::Script(Script::default());
    Ok(Drive::new(Trainer::new(config.train_params()), source, pilot, &Inline)?)
}
