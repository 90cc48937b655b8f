//! How a worker starts: from its newest checkpoint, or, only when there never was one, from the start position.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;

use super::error::WorkerError;
use super::options::{OnAhead, OnGap};
use super::status::Status;
use crate::artefacts::{self, Artefacts, Shelf};
use crate::config::Config;
use crate::publish::outbox::{self, OutboxError};
use crate::source::topics::KafkaLog;
use crate::source::{Gap, SourceError};
use crate::store::{Saved, Store, StoreError};
use deepfm_core::checkpoint::{self, Beside, CheckpointError, FORMAT_VERSION, Layer, Lineage};
use deepfm_core::model::Executor;
use deepfm_core::stream::Control;
use deepfm_core::train::{StateDigest, Trainer};
use deepfm_core::version::known::KnownVersions;
use deepfm_core::version::manifest::Parent;
use deepfm_core::version::names;
use deepfm_core::version::outbox::Outbox;
use deepfm_core::version::settlement::{self, Settled, VersionLoss};

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
pub struct Basis {
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
pub fn replace(store: &mut dyn Store, basis: &Basis) -> Result<Option<u64>, WorkerError> {
    let mut newest = None;
    match (&basis.saved, basis.is_replaced) {
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
pub fn choose(
    config: &Config,
    store: &mut dyn Store,
    is_reset: bool,
    restored: Option<(PathBuf, Layer)>,
) -> Result<Basis, WorkerError> {
    let Some((export, layer)) = restored else {
        let saved = if is_reset { None } else { store.load()? };
        return Ok(Basis { saved, place: config.state.dir.clone(), is_replaced: is_reset });
    };
    // Read in any case: what the export is committed over must be known to the store.
    match store.load() {
        Ok(Some(saved)) if !is_reset => {
            return Err(WorkerError::StateIsWhole { path: config.state.dir.clone(), checkpoint: saved.commit });
        }
        Ok(_) => {}
        Err(error @ StoreError::Damaged { .. }) => tracing::warn!("{error}: going on from the training export"),
        Err(error) => return Err(error.into()),
    }
    let saved = Saved { commit: 0, layers: vec![layer], fell_back: None };
    Ok(Basis { saved: Some(saved), place: export, is_replaced: true })
}

/// Puts on the board what there was before this process: alarms on its age must not wait for the next one to be made.
pub fn tell(status: &mut Status, basis: &Basis, committed_at: Option<SystemTime>, known: &KnownVersions) {
    let committed_at = committed_at.and_then(|time| Timestamp::try_from(time).ok());
    // What replaces a state is durable only later.
    let checkpoint = basis.saved.as_ref().filter(|_| !basis.is_replaced).map(|saved| (saved.commit, committed_at));
    let newest = known.announced.values().next_back();
    status.found(checkpoint, newest.map(|newest| (newest.version, newest.created_at.parse().ok())));
}

/// Begins from a checkpoint, or anew. Everything that a start can be refused for is found here, before anyone is fenced off.
///
/// # Errors
/// When the checkpoint does not fit the configuration or the topics, or the start position cannot be resolved.
pub fn begin(config: &Config, basis: &Basis, log: &KafkaLog, on_gap: OnGap) -> Result<Beginning, WorkerError> {
    let Some(saved) = &basis.saved else {
        let mut trainer = Trainer::new(config.train_params());
        trainer.control(&configured(config))?;
        for (partition, next_offset) in log.starts(&config.kafka.start)? {
            trainer.control(&Control::Start { partition, next_offset })?;
        }
        return Ok(Beginning { trainer, lineage: None, has_decided: true });
    };
    let (mut trainer, lineage) = restore(config, &basis.place, &saved.layers)?;
    check_outbox(config, basis, &lineage.outbox)
        .map_err(|source| WorkerError::Outbox { path: basis.place.clone(), source: Box::new(source) })?;
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
    if !basis.is_replaced {
        // An export may be restored over a mirror of the topics.
        log.check_ids(&lineage.topic_ids)?;
    }
    let has_decided = settle_gaps(&mut trainer, log, on_gap)? || basis.is_replaced;
    if trainer.positions().is_empty() {
        // A model that was imported has read nothing: it begins where a new one does.
        for (partition, next_offset) in log.starts(&config.kafka.start)? {
            trainer.control(&Control::Start { partition, next_offset })?;
        }
    }
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
fn check_outbox(config: &Config, basis: &Basis, outbox: &Outbox) -> Result<(), OutboxError> {
    if basis.is_replaced {
        outbox::check_outbox(outbox, &config.model.name)
    } else {
        outbox::check_versions(&outbox.versions, &config.model.name)
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
    basis: &Basis,
    lineage: Option<Lineage>,
    known: &KnownVersions,
    log: &KafkaLog,
) -> Result<(Ancestry, Outbox), WorkerError> {
    // Versions that were made and never announced have numbers too.
    let artefacts = artefacts::of_model(&config.versions, &config.model.name);
    let installed = artefacts.list(Shelf::Versions).unwrap_or_default();
    let newest = known.newest().max(installed.last().map(|newest| newest.version));
    let first_free = newest.map_or(Some(1), |newest| newest.checked_add(1)).unwrap_or(u64::MAX);
    let Some(lineage) = lineage else {
        artefacts.sweep();
        let origin = Ancestry { next_version: number(config, first_free)?, parent: None, topic_ids: log.topic_ids() };
        return Ok((origin, Outbox::default()));
    };
    let settled = if basis.is_replaced {
        settlement::settle_restored(&lineage.outbox.versions, lineage.parent.as_ref(), known)
    } else {
        settled(config, &lineage, known)
    };
    carry_out(&*artefacts, &settled)?;
    let Settled { parent, pending: versions, journal, .. } = settled;
    trainer.lengthen_journal(journal);
    let Lineage { outbox: Outbox { letters, .. }, mut topic_ids, .. } = lineage;
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
    let settled = settled(config, lineage, known);
    let ahead = settlement::abandoned(settled.parent.as_ref(), known, "");
    let versions: Vec<u64> = ahead.iter().map(|one| one.version).collect();
    if versions.is_empty() {
        return Ok(());
    }
    let (topic, model) = (config.kafka.versions_topic.clone(), config.model.name.clone());
    Err(WorkerError::VersionsAhead { path: config.state.dir.clone(), topic, model, versions })
}

/// What becomes of what the last run owed.
fn settled(config: &Config, lineage: &Lineage, known: &KnownVersions) -> Settled {
    let artefacts = artefacts::of_model(&config.versions, &config.model.name);
    settlement::settle(&lineage.outbox.versions, lineage.parent.as_ref(), known, |entry| {
        // A copy of a state directory may come without its artefacts.
        artefacts.is_present(entry.directory(), entry.manifest_digest())
    })
}

/// Does what was settled.
fn carry_out(artefacts: &dyn Artefacts, settled: &Settled) -> Result<(), WorkerError> {
    for (version, loss) in &settled.lost {
        match loss {
            VersionLoss::Missing => {
                tracing::error!("version {version} is not in {}: it will not be announced", artefacts.root().display());
            }
            VersionLoss::Overtaken => {
                tracing::error!("version {version} was announced with another content; ours is dropped");
            }
            VersionLoss::Orphaned => {
                tracing::error!("version {version} is a delta on a version that is lost: it will not be announced");
            }
            VersionLoss::Forsaken => {
                tracing::error!("version {version} of the training export was never announced, and will not be");
            }
        }
        metrics::counter!("deepfm_versions_dropped_total").increment(1);
    }
    settled.install.iter().try_for_each(|directory| artefacts.install(directory))?;
    settled.remove.iter().try_for_each(|directory| artefacts.remove(directory))?;
    artefacts.sweep();
    Ok(())
}

/// What a checkpoint holds beside the state.
pub fn lineage<E: Executor>(
    config: &Config,
    trainer: &Trainer<E>,
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
