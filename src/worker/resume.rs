//! How a worker starts: from its newest checkpoint, or, only when there never was one, from the start position.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;

use super::error::WorkerError;
use super::options::{OnAhead, OnGap, Options};
use super::status::Status;
use crate::config::Config;
use crate::publish::announcement::{Abandoned, Announcement};
use crate::publish::artefacts;
use crate::publish::settle::{self, OutboxError, Settlement, settlement};
use crate::publish::topic::KnownVersions;
use crate::source::kafka::KafkaLog;
use crate::source::{Gap, SourceError};
use crate::store::{Saved, Store, StoreError};
use deepfm_core::snapshot::checkpoint::{self, Beside, CheckpointError, FORMAT_VERSION, Layer, Lineage, Parent};
use deepfm_core::snapshot::manifest::ParentVersion;
use deepfm_core::snapshot::names;
use deepfm_core::snapshot::outbox::{Outbox, OutboxEntry};
use deepfm_core::stream::Control;
use deepfm_core::train::{StateDigest, Trainer};

/// Where a worker's versions and records come from.
#[derive(Clone, Debug)]
pub struct Ancestry {
    /// The number that the next version gets.
    pub next_version: u64,
    /// The newest version that the state descends from.
    pub parent: Option<Parent>,
    /// The broker's ids of the event topics, where it gives them.
    pub topic_ids: BTreeMap<String, String>,
}

/// A worker's beginning, as far as it does not depend on what is published.
#[derive(Debug)]
pub struct Beginning {
    /// The state.
    pub trainer: Trainer,
    /// What its checkpoint says beside the state; none for a new model.
    pub lineage: Option<Lineage>,
    /// Whether something was decided that must be durable before the first record is read: where a new log starts, which topics
    /// an export goes on with, or that records are passed over.
    pub has_decided: bool,
}

/// Refuses to begin anew a model of which the versions topic knows versions: its state was lost.
///
/// # Errors
/// When there are versions.
pub fn refuse_lost_state(config: &Config, known: &KnownVersions) -> Result<(), WorkerError> {
    known.newest().map_or(Ok(()), |version| {
        Err(WorkerError::StateLost {
            topic: config.kafka.versions_topic.clone(),
            model: config.model.name.clone(),
            version,
            path: config.state.dir.clone(),
        })
    })
}

/// What a worker goes on from.
#[derive(Debug)]
pub struct Chosen {
    /// The checkpoint; none for a new model.
    pub saved: Option<Saved>,
    /// Where it is: the state directory, or the export.
    pub place: PathBuf,
    /// Whether it replaces what the state directory has.
    pub is_replaced: bool,
}

/// Commits an export over what is there, or forgets that; the newest commit if there is one. What is given up goes when the
/// export is durable.
///
/// # Errors
/// When the store takes no commit.
pub fn replace(store: &mut dyn Store, chosen: &Chosen) -> Result<Option<u64>, WorkerError> {
    let mut newest = None;
    match (&chosen.saved, chosen.is_replaced) {
        (Some(export), true) => {
            for layer in &export.layers {
                newest = Some(store.commit(layer)?);
            }
        }
        (None, true) => store.reset()?,
        (_, false) => {}
    }
    Ok(newest)
}

/// The checkpoint to go on from: the newest in the state directory, or that of a training export.
/// An export does not push aside a state that is whole, unless that is given up with `--reset-state`.
///
/// # Errors
/// When the state directory cannot be read, or has a whole state that an export would replace.
pub fn choose(config: &Config, store: &mut dyn Store, options: &mut Options) -> Result<Chosen, WorkerError> {
    let Some((export, layer)) = options.restored.take() else {
        let saved = if options.is_reset { None } else { store.load()? };
        return Ok(Chosen { saved, place: config.state.dir.clone(), is_replaced: options.is_reset });
    };
    // Read in any case: what the export is committed over must be known to the store.
    match store.load() {
        Ok(Some(saved)) if !options.is_reset => {
            return Err(WorkerError::StateIsWhole { path: config.state.dir.clone(), checkpoint: saved.commit });
        }
        Ok(_) => {}
        Err(error @ StoreError::Damaged { .. }) => tracing::warn!("{error}: going on from the training export"),
        Err(error) => return Err(error.into()),
    }
    let saved = Saved { commit: 0, layers: vec![layer], fell_back: None };
    Ok(Chosen { saved: Some(saved), place: export, is_replaced: true })
}

/// Puts on the board what there was before this process: alarms on its age must not wait for the next one to be made.
pub fn tell(status: &mut Status, chosen: &Chosen, committed_at: Option<SystemTime>, known: &KnownVersions) {
    let committed_at = committed_at.and_then(|time| Timestamp::try_from(time).ok());
    // What replaces a state is durable only later.
    let checkpoint = chosen.saved.as_ref().filter(|_| !chosen.is_replaced).map(|saved| (saved.commit, committed_at));
    let newest = known.announced.values().next_back();
    status.found(checkpoint, newest.map(|newest| (newest.version, newest.created_at.parse().ok())));
}

/// Begins from a checkpoint, or anew. Everything that a start can be refused for is found here, before anyone is fenced off.
///
/// # Errors
/// When the checkpoint does not fit the configuration or the topics, or the start position cannot be resolved.
pub fn begin(config: &Config, chosen: &Chosen, log: &KafkaLog, on_gap: OnGap) -> Result<Beginning, WorkerError> {
    let Some(saved) = &chosen.saved else {
        let mut trainer = Trainer::new(config.train_params());
        trainer.control(&configured(config))?;
        for (partition, next_offset) in log.starts(&config.kafka.start)? {
            trainer.control(&Control::Start { partition, next_offset })?;
        }
        return Ok(Beginning { trainer, lineage: None, has_decided: true });
    };
    let (mut trainer, lineage) = restore(config, &chosen.place, &saved.layers)?;
    check_outbox(config, chosen, &lineage.outbox)
        .map_err(|source| WorkerError::Outbox { path: chosen.place.clone(), source: Box::new(source) })?;
    if let Some(reason) = &saved.fell_back {
        metrics::counter!("deepfm_checkpoint_fallbacks_total").increment(1);
        let positions: Vec<String> =
            trainer.positions().iter().map(|(partition, offset)| format!("{partition} from {offset}")).collect();
        tracing::error!(
            "newer checkpoints are damaged ({reason}); going on from checkpoint {}, reading again: {}",
            saved.commit,
            positions.join(", ")
        );
    }
    if !chosen.is_replaced {
        // An export may be restored over a mirror of the topics.
        log.check_ids(&lineage.topic_ids)?;
    }
    let has_decided = settle_gaps(&mut trainer, log, on_gap)? || chosen.is_replaced;
    for (partition, extent) in log.extents() {
        if !trainer.positions().contains_key(partition) {
            let control = Control::Added { partition: *partition, next_offset: extent.low };
            trainer.control(&control)?;
        }
    }
    tracing::info!("going on from checkpoint {} after {} records", saved.commit, trainer.released());
    Ok(Beginning { trainer, lineage: Some(lineage), has_decided })
}

/// Nothing is done by an outbox that is not this worker's.
fn check_outbox(config: &Config, chosen: &Chosen, outbox: &Outbox) -> Result<(), OutboxError> {
    if chosen.is_replaced {
        settle::check_outbox(outbox, &config.model.name)
    } else {
        settle::check_versions(&outbox.versions, &config.model.name)
    }
}

/// Settles what was published against what the state knows of it: where its versions come from, and what is still to be
/// sent.
///
/// # Errors
/// When artefacts cannot be read, installed or removed, or there is no number left for a version.
pub fn settle(
    config: &Config,
    trainer: &mut Trainer,
    chosen: &Chosen,
    lineage: Option<Lineage>,
    known: &KnownVersions,
    log: &KafkaLog,
) -> Result<(Ancestry, Outbox), WorkerError> {
    // Versions that were made and never announced have numbers too.
    let root = config.versions.of(&config.model.name);
    let installed = artefacts::list(&root).unwrap_or_default();
    let newest = known.newest().max(installed.last().map(|newest| newest.version));
    let first_free = newest.map_or(Some(1), |newest| newest.checked_add(1)).unwrap_or(u64::MAX);
    let Some(lineage) = lineage else {
        artefacts::remove_stray(&root, &[]);
        let origin = Ancestry { next_version: number(config, first_free)?, parent: None, topic_ids: log.topic_ids() };
        return Ok((origin, Outbox::default()));
    };
    let Lineage { mut parent, outbox: Outbox { versions, letters }, mut topic_ids, .. } = lineage;
    let versions = if chosen.is_replaced {
        forsake_versions(trainer, versions, known, &mut parent);
        artefacts::remove_stray(&root, &[]);
        Vec::new()
    } else {
        settle_versions(&root, trainer, versions, known, &mut parent)?
    };
    // A broker that does not tell an id now may have told it before.
    topic_ids.extend(log.topic_ids());
    let next_version = number(config, lineage.next_version.max(first_free))?;
    Ok((Ancestry { next_version, parent, topic_ids }, Outbox { versions, letters }))
}

/// A number for the next version, if there is one left.
fn number(config: &Config, number: u64) -> Result<u64, WorkerError> {
    let used_up =
        |_| WorkerError::NumbersUsedUp { model: config.model.name.clone(), topic: config.kafka.versions_topic.clone() };
    names::check_version(number).map(|()| number).map_err(used_up)
}

/// Passes over the records that the broker no longer has, if that is allowed. Says whether there were any.
fn settle_gaps(trainer: &mut Trainer, log: &KafkaLog, on_gap: OnGap) -> Result<bool, WorkerError> {
    let gaps = log.gaps(&trainer.positions())?;
    if on_gap == OnGap::Refuse && !gaps.is_empty() {
        return Err(SourceError::Lost { gaps }.into());
    }
    for gap in &gaps {
        let Gap { partition, from, to } = *gap;
        trainer.control(&Control::Gap { partition, from, to })?;
        tracing::warn!("passing over what is gone: {gap}; {} since the log began", trainer.sequencer().gap_records());
    }
    Ok(!gaps.is_empty())
}

/// The decision to go on with a configuration, as the journal has it.
fn configured(config: &Config) -> Control {
    Control::Configured { parameters: config.train_params().to_text(), fields: config.fields.to_vec() }
}

fn restore(config: &Config, place: &Path, layers: &[Layer]) -> Result<(Trainer, Lineage), WorkerError> {
    let path = || place.to_owned();
    let unusable = |source| WorkerError::Checkpoint { path: path(), source };
    let newest = layers.last().ok_or_else(|| unusable(CheckpointError::NoBase))?;
    let lineage = checkpoint::read_lineage(newest).map_err(unusable)?;
    if lineage.beside.model != config.model.name {
        let (theirs, ours) = (lineage.beside.model, config.model.name.clone());
        return Err(WorkerError::OtherModel { path: path(), theirs, ours });
    }
    let params = lineage.params().map_err(unusable)?;
    let differences = config.differences_from(&lineage.configuration);
    let (converted, refused): (Vec<String>, Vec<String>) =
        differences.into_iter().partition(|difference| Config::is_convertible(difference));
    if !refused.is_empty() || !params.can_become(&config.train_params()) {
        let differences = if refused.is_empty() { converted } else { refused };
        return Err(WorkerError::Configuration { path: path(), differences });
    }
    // Damage that the checksums did not see may still panic in a constructor: it is damage all the same.
    let decode = || checkpoint::decode(params.clone(), layers);
    let (mut trainer, lineage) = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode)) {
        Ok(decoded) => decoded.map_err(unusable)?,
        Err(_) => {
            return Err(
                StoreError::Damaged { path: path(), reason: "its checkpoint does not decode".to_owned() }.into()
            );
        }
    };
    if !converted.is_empty() {
        tracing::warn!("going on with another configuration: {}", converted.join("; "));
        trainer.control(&configured(config))?;
        tracing::info!("no weight has changed by more than {:e}", trainer.largest_change());
    }
    Ok((trainer, lineage))
}

/// The announcements of versions that the state does not descend from, now marked as abandoned: its worker fell back behind
/// them, was restored from an export, or is a copy from before them.
pub fn abandoned(parent: Option<&Parent>, known: &KnownVersions) -> Vec<Announcement> {
    let at = Timestamp::now().to_string();
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
            abandoned: Some(Abandoned { at: at.clone(), parent: parent.clone() }),
            ..one.clone()
        })
        .collect()
}

/// Refuses to go on from a state from before versions that are announced, unless they are given up.
///
/// # Errors
/// When there are such versions.
pub fn refuse_ahead(
    config: &Config,
    lineage: Option<&Lineage>,
    known: &KnownVersions,
    on_ahead: OnAhead,
) -> Result<(), WorkerError> {
    let Some(lineage) = lineage.filter(|_| on_ahead == OnAhead::Refuse) else {
        return Ok(());
    };
    let root = config.versions.of(&config.model.name);
    let mut parent = lineage.parent.clone();
    for entry in lineage.outbox.versions.iter().rev() {
        let is_lost = match settlement(entry, known.announced.get(&entry.version)) {
            Settlement::Announce => !artefacts::is_present(&root, &entry.directory, &entry.manifest_digest),
            Settlement::Drop => true,
            Settlement::Done => false,
        };
        if is_lost {
            hand_down(entry, &mut parent, known);
        }
    }
    let versions: Vec<u64> = abandoned(parent.as_ref(), known).iter().map(|one| one.version).collect();
    if versions.is_empty() {
        return Ok(());
    }
    let (topic, model) = (config.kafka.versions_topic.clone(), config.model.name.clone());
    Err(WorkerError::VersionsAhead { path: config.state.dir.clone(), topic, model, versions })
}

/// A version that will not be announced is nobody's parent: the newest announced one before it is. Its segment of the journal
/// is then the next version's.
fn disown(entry: &OutboxEntry, trainer: &mut Trainer, parent: &mut Option<Parent>, known: &KnownVersions) {
    if hand_down(entry, parent, known) {
        trainer.lengthen_journal(entry.journal.clone());
    }
}

/// The parent of an entry becomes the state's, if the entry was; says whether it was.
fn hand_down(entry: &OutboxEntry, parent: &mut Option<Parent>, known: &KnownVersions) -> bool {
    if parent.as_ref().is_none_or(|parent| parent.manifest_digest != entry.manifest_digest) {
        return false;
    }
    let announcement: Option<Announcement> = serde_json::from_str(&entry.announcement).ok();
    *parent = announcement.and_then(|announcement| announcement.parent).map(|before| {
        let learned = known.announced.get(&before.version).map_or(0, |announcement| announcement.learned);
        Parent { version: before.version, manifest_digest: before.manifest_digest, learned }
    });
    true
}

/// Versions that an export's worker had not seen announced. They are its own to announce, and their directories its own to move
/// and remove: here none is touched. One that the topic does not know was never there.
fn forsake_versions(
    trainer: &mut Trainer,
    outbox: Vec<OutboxEntry>,
    known: &KnownVersions,
    parent: &mut Option<Parent>,
) {
    for entry in outbox.into_iter().rev() {
        if settlement(&entry, known.announced.get(&entry.version)) != Settlement::Done {
            tracing::error!("version {} of the training export was never announced, and will not be", entry.version);
            metrics::counter!("deepfm_versions_dropped_total").increment(1);
            disown(&entry, trainer, parent, known);
        }
    }
}

/// Settles what the last run left: installs what is still to be announced, drops what another worker overtook.
fn settle_versions(
    root: &Path,
    trainer: &mut Trainer,
    outbox: Vec<OutboxEntry>,
    known: &KnownVersions,
    parent: &mut Option<Parent>,
) -> Result<Vec<OutboxEntry>, WorkerError> {
    let mut pending = Vec::new();
    // From the newest to the oldest: a parent may be handed down more than once.
    for entry in outbox.into_iter().rev() {
        match settlement(&entry, known.announced.get(&entry.version)) {
            // A copy of a state directory may come without its artefacts.
            fate if !artefacts::is_present(root, &entry.directory, &entry.manifest_digest) => {
                if fate == Settlement::Announce {
                    tracing::error!("version {} is not in {}: it will not be announced", entry.version, root.display());
                    metrics::counter!("deepfm_versions_dropped_total").increment(1);
                }
                if fate != Settlement::Done {
                    disown(&entry, trainer, parent, known);
                }
            }
            Settlement::Announce => {
                artefacts::install(root, &entry.directory)?;
                pending.push(entry);
            }
            Settlement::Done => artefacts::install(root, &entry.directory)?,
            Settlement::Drop => {
                tracing::error!("version {} was announced with another content; ours is dropped", entry.version);
                metrics::counter!("deepfm_versions_dropped_total").increment(1);
                artefacts::remove(root, &entry.directory)?;
                disown(&entry, trainer, parent, known);
            }
        }
    }
    artefacts::remove_stray(root, &[]);
    pending.reverse();
    Ok(pending)
}

/// What a checkpoint holds beside the state.
pub fn lineage(
    config: &Config,
    trainer: &Trainer,
    state_digest: StateDigest,
    origin: &Ancestry,
    outbox: Outbox,
    beside: Beside,
) -> Lineage {
    Lineage {
        format: FORMAT_VERSION,
        configuration: config.canonical(),
        parameters: trainer.params().to_text(),
        next_version: origin.next_version,
        parent: origin.parent.clone(),
        journal: trainer.sequencer().journal().to_vec(),
        ledger: trainer.ledger().clone(),
        topic_ids: origin.topic_ids.clone(),
        state_digest,
        outbox,
        beside,
    }
}
