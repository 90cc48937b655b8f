//! How a worker starts, in stages: [`Chosen`] → [`Begun`] → [`Fenced`] → [`Settled`] → [`Opened`]. Each is made only from the
//! one before, so that their order is not a matter of care: what a start can be refused for comes before anyone is fenced off,
//! and nothing is destroyed before there is something to start with. Between two stages the stop is heard, up to where the
//! state is replaced: then the first commit comes first.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::census::Census;
use super::committer::{Committer, Job, NewCheckpoint, WriteProgress};
use super::error::WorkerError;
use super::exporter::Exporter;
use super::gatekeeper::Gatekeeper;
use super::heart::HEARTBEAT;
use super::narrator;
use super::options::{OnAhead, Options};
use super::probes::Probes;
use super::publisher::{Live, Publisher};
use super::resume::{self, Ancestry, Basis, Beginning};
use super::status::{Phase, StatusBoard};
use super::stop::Stop;
use crate::artefacts;
use crate::config::Config;
use crate::drive::attendance::{Attendance, Horizon};
use crate::drive::{Drive, Pilot};
use crate::kafka::administration;
use crate::kafka::contact::Voice;
use crate::letters::Letters;
use crate::publish::topic::{self, Announcer, Reading};
use crate::publish::turning_back;
use crate::source::topics::{KafkaLog, KafkaSource};
use crate::source::{Ingest, SourceError};
use crate::store::{self, Store};
use crate::thread::crew::Crew;
use deepfm_core::checkpoint::clicks::ClickTimes;
use deepfm_core::checkpoint::{Beside, Layer};
use deepfm_core::event::Decoder;
use deepfm_core::feature::field::FieldSet;
use deepfm_core::train::Trainer;
use deepfm_core::version::gate::Evidence;
use deepfm_core::version::outbox::{Outbox, OutboxEntry};
use deepfm_core::version::settlement;

/// What every stage knows.
#[derive(Clone, Copy)]
pub(super) struct Setting<'s> {
    pub(super) config: &'s Config,
    pub(super) options: &'s Options,
    pub(super) board: &'s StatusBoard,
    pub(super) stop: &'s Stop,
}

impl Setting<'_> {
    fn go_on(&self) -> Result<(), WorkerError> {
        if self.stop.is_asked() { Err(WorkerError::StoppedAtStart) } else { Ok(()) }
    }
}

/// The checkpoint to go on from is read, or it is known that there is none; nobody was asked anything.
pub(super) struct Chosen<'s> {
    setting: Setting<'s>,
    store: Box<dyn Store>,
    basis: Basis,
    /// When the checkpoint that is there was made durable.
    committed_at: Option<SystemTime>,
}

impl<'s> Chosen<'s> {
    /// `restored` is a training export to go on from: where it is, and its layer.
    pub(super) fn choose(
        setting: Setting<'s>,
        mut store: Box<dyn Store>,
        restored: Option<(PathBuf, Layer)>,
    ) -> Result<Self, WorkerError> {
        let committed_at = store::committed_at(&setting.config.state.dir);
        // A fresh start on purpose destroys nothing before it is known that there is something to start with.
        let basis = resume::choose(setting.config, &mut *store, setting.options.is_reset, restored)?;
        Ok(Self { setting, store, basis, committed_at })
    }

    /// Asks the brokers, and finds everything that a start can be refused for.
    pub(super) fn begin(self) -> Result<Begun<'s>, WorkerError> {
        let Setting { config, options, board, .. } = self.setting;
        self.setting.go_on()?;
        administration::require(&config.kafka).map_err(SourceError::from)?;
        let known = topic::read(&config.kafka, &config.model.name)?;
        if self.basis.saved.is_none() && !options.is_reset {
            resume::refuse_lost_state(config, &known)?;
        }
        let log = KafkaLog::connect(&config.kafka)?.told_to(board.link().clone());
        let beginning = resume::begin(config, &self.basis, &log, options.on_gap)?;
        // An export is from before on purpose.
        let on_ahead = if self.basis.is_replaced { OnAhead::Abandon } else { options.on_ahead };
        resume::refuse_ahead(config, beginning.lineage.as_ref(), &known, on_ahead)?;
        Ok(Begun { chosen: self, log, beginning, on_ahead })
    }
}

/// The state is there, and nothing stands in its way.
pub(super) struct Begun<'s> {
    chosen: Chosen<'s>,
    log: KafkaLog,
    beginning: Beginning,
    on_ahead: OnAhead,
}

impl<'s> Begun<'s> {
    /// Fences off every earlier writer of the model.
    pub(super) fn fence(self) -> Result<Fenced<'s>, WorkerError> {
        let setting = self.chosen.setting;
        setting.go_on()?;
        let announcer = Announcer::fence(&setting.config.kafka, &setting.config.model.name)?;
        // What was published before the fence is read after it.
        let mut reading = Reading::default();
        reading.go_on(&setting.config.kafka, &setting.config.model.name, Voice::Aloud)?;
        resume::refuse_ahead(setting.config, self.beginning.lineage.as_ref(), &reading.known, self.on_ahead)?;
        let Chosen { basis, committed_at, .. } = &self.chosen;
        setting.board.update(|status| resume::tell(status, basis, *committed_at, &reading.known));
        Ok(Fenced { begun: self, announcer, reading })
    }
}

/// Nobody else writes the model's versions any more.
pub(super) struct Fenced<'s> {
    begun: Begun<'s>,
    announcer: Announcer,
    reading: Reading,
}

impl<'s> Fenced<'s> {
    /// Settles what was published against what the state knows of it.
    pub(super) fn settle(self) -> Result<Settled<'s>, WorkerError> {
        let Self { begun: Begun { chosen, log, beginning, .. }, announcer, reading } = self;
        let Chosen { setting, mut store, basis, .. } = chosen;
        let Beginning { mut trainer, lineage, has_decided } = beginning;
        setting.go_on()?;
        let beside = lineage.as_ref().map(|lineage| lineage.beside.clone()).unwrap_or_default();
        let (ancestry, outbox) = resume::settle(setting.config, &mut trainer, &basis, lineage, &reading.known, &log)?;
        let read = basis.saved.as_ref().map_or(0, |saved| saved.commit);
        if basis.is_replaced {
            // From here on the state is neither the old one nor, before the first commit, the new one: a stop is heard after that.
            setting.board.update(|status| status.phase = Phase::CatchingUp);
        }
        let checkpoint = resume::replace(&mut *store, &basis)?.unwrap_or(read);
        if basis.saved.is_some() {
            let now = jiff::Timestamp::now().to_string();
            announcer.abandon(&settlement::abandoned(ancestry.parent.as_ref(), &reading.known, &now))?;
        }
        Ok(Settled {
            setting,
            store,
            log,
            trainer,
            has_decided,
            beside,
            announcer,
            reading,
            ancestry,
            outbox,
            checkpoint,
        })
    }
}

/// Everything that was left of the last run is decided.
pub(super) struct Settled<'s> {
    setting: Setting<'s>,
    store: Box<dyn Store>,
    log: KafkaLog,
    trainer: Trainer,
    has_decided: bool,
    beside: Beside,
    announcer: Announcer,
    reading: Reading,
    ancestry: Ancestry,
    outbox: Outbox,
    checkpoint: u64,
}

impl Settled<'_> {
    /// Starts the threads, makes durable what was decided, and opens the log.
    pub(super) fn open(self) -> Result<Opened, WorkerError> {
        let Setting { config, board, options, .. } = self.setting;
        let fields = config.field_set()?;
        let decoder = Decoder::new(fields.clone(), config.event_options())?;
        let probes = Probes::new(config.versions.probes, &config.events.mapping.impression, &fields);
        probes.restore(self.beside.probes);
        let census = Census::new(&fields, &config.fields.shares(), config.metrics.window_impressions, board);
        let ingest = probes.clone().observing(config, decoder, census);
        let undurable_max = Duration::from_secs(config.state.undurable_max_seconds);
        let exporter = Exporter::new(&config.exports, &config.model.name, &config.state.dir);
        let artefacts = artefacts::of_model(&config.versions, &config.model.name);
        let mut committer = Committer::start(self.store, artefacts, undurable_max, exporter);
        let mut gatekeeper = Gatekeeper::new(config, &fields, self.beside.evidence);
        if let Some(live) = Live::of(config, &self.reading.known, None) {
            gatekeeper.follow(live);
        }
        let mut publisher = Publisher::start(config, self.announcer, self.reading, board)?;
        for entry in &self.outbox.versions {
            publisher.announce(entry.clone());
        }
        let mut letters = Letters::start(&config.kafka, self.outbox.letters)?;
        let mut trainer = self.trainer;
        let mut checkpoint = self.checkpoint;
        if self.has_decided {
            // The start position, or a gap, is a decision: it is durable before the first record is read.
            let cut = trainer.cut(committer.wants());
            let unsent = Outbox { versions: self.outbox.versions.clone(), letters: letters.submit() };
            let beside = kept_beside(config, self.beside.clicks, &probes, gatekeeper.evidence());
            let lineage = resume::lineage(config, &trainer, cut.digest, &self.ancestry, unsent, beside);
            let first = NewCheckpoint { cut, lineage, staged: Vec::new(), is_last: false };
            committer.submit(Job::Checkpoint(Box::new(first)));
            checkpoint = first_commit(&mut committer, board)?;
            if let Some(asked) = &options.asked {
                // It was heeded, or the state is another one now.
                turning_back::done_with(&config.state.dir, asked)
                    .map_err(|error| WorkerError::Artefact(error.into()))?;
            }
        }
        let drive = read_on(self.setting, self.log, trainer, checkpoint, ingest)?;
        Ok(Opened {
            drive,
            fields,
            committer,
            publisher,
            letters,
            probes,
            gatekeeper,
            ancestry: self.ancestry,
            outbox: self.outbox.versions,
            clicks: self.beside.clicks,
            checkpoint,
        })
    }
}

/// The parts of a worker that is about to read its first record.
pub(super) struct Opened {
    pub(super) drive: Drive<KafkaSource>,
    pub(super) fields: FieldSet,
    pub(super) committer: Committer,
    pub(super) publisher: Publisher,
    pub(super) letters: Letters,
    pub(super) probes: Probes,
    pub(super) gatekeeper: Gatekeeper,
    pub(super) ancestry: Ancestry,
    pub(super) outbox: Vec<OutboxEntry>,
    pub(super) clicks: ClickTimes,
    pub(super) checkpoint: u64,
}

/// Reads the log on from the trainer's positions.
fn read_on(
    setting: Setting<'_>,
    log: KafkaLog,
    trainer: Trainer,
    checkpoint: u64,
    ingest: Ingest,
) -> Result<Drive<KafkaSource>, WorkerError> {
    let Setting { config, options, .. } = setting;
    narrator::begin(config, &log, &trainer.positions(), (checkpoint > 0).then_some(checkpoint));
    let horizon = if options.until_end {
        log.warn_of_open_transactions();
        Horizon::Captured
    } else {
        Horizon::Live { idle_after: Duration::from_millis(config.kafka.idle_after_ms) }
    };
    let pilot = Pilot::Attendance(Attendance::new(horizon, &log.ends()));
    let source = log.read(&trainer.positions(), ingest)?;
    Ok(Drive::new(trainer, Crew::new(config.training.threads), source, pilot)?)
}

/// Waits for the commit in flight; its number.
fn first_commit(committer: &mut Committer, board: &StatusBoard) -> Result<u64, WorkerError> {
    while committer.is_busy() {
        if let WriteProgress::Durable(committed) = committer.poll(HEARTBEAT)? {
            board.update(|status| status.committed(committed.commit, committed.bytes, committed.elapsed));
            return Ok(committed.commit);
        }
    }
    Err(WorkerError::NoFirstCheckpoint)
}

/// What a checkpoint holds beside the state.
pub(super) fn kept_beside(config: &Config, clicks: ClickTimes, probes: &Probes, evidence: Evidence) -> Beside {
    Beside { model: config.model.name.clone(), clicks, probes: probes.rows(), evidence }
}
