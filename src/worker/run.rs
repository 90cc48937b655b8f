//! The worker's loop: turns of consuming, and between two records checkpoints and versions.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::attendance::{Attendance, Horizon};
use super::census::Census;
use super::committer::{Committed, Committer, Job};
use super::dead_letters::Letters;
use super::drive::{Drive, Pilot, Witness as _};
use super::error::WorkerError;
use super::exporter::Exporter;
use super::probes::Probes;
use super::publisher::{OUTBOX_MAX, Publisher};
use super::resume::{self, Beginning, OnGap, Origin};
use super::status::{Phase, StatusBoard};
use super::stop::Stop;
use crate::config::Config;
use crate::event::{Decoder, Event};
use crate::feature::field::FieldSet;
use crate::metric::Report;
use crate::model::Inline;
use crate::publish::announcement::Announcement;
use crate::publish::topic::Announcer;
use crate::publish::{artefacts, topic};
use crate::snapshot::artefact::{Artefact, Cut};
use crate::snapshot::checkpoint::{Layer, Parent};
use crate::snapshot::manifest::ParentVersion;
use crate::snapshot::outbox::{Outbox, OutboxEntry};
use crate::source::kafka::{KafkaLog, KafkaSource};
use crate::source::{Ingest, vital};
use crate::store::Store;
use crate::train::{Fate, Tally};

/// Bytes of changes at which a checkpoint is taken before its time; at twice as many, learning waits for the disk.
const UNSAVED_BYTES_MAX: usize = 128 << 20;

/// The least time between two checkpoints, and between two tries of one that fails.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often a worker that waits for the disk shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How often the status board is brought up to date.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// How a run goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Stop at the end offsets captured at start, instead of going on for ever.
    pub until_end: bool,
    /// What is in the state directory is given up on purpose: an empty one is no loss.
    pub is_reset: bool,
    /// A training export to go on from, when the state directory has nothing that is whole: where it is, and its layer.
    pub restored: Option<(PathBuf, Layer)>,
    /// What to do about records that the broker no longer has.
    pub on_gap: OnGap,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Records consumed since the log began.
    pub records: u64,
    /// Examples learned since the log began.
    pub learned: u64,
    /// Digest of the state at the end.
    pub state_digest: String,
    /// Number of the last checkpoint.
    pub checkpoint: u64,
    /// Versions cut by this run.
    pub versions: Vec<u64>,
    /// What became of every record since the log began, by partition.
    pub ledger: BTreeMap<String, BTreeMap<Fate, Tally>>,
    /// Impressions whose window has not passed: their labels are not known, and they are not in the metrics.
    pub unmatured: usize,
    /// Progressive metrics since the log began: the scores of a model that had learned nothing yet are among them.
    pub metrics: Report,
    /// The same over the newest complete window of `metrics.window_impressions`; of no impressions before the first.
    pub newest_window: Report,
}

/// The parts of a running worker.
struct Worker<'w> {
    config: &'w Config,
    fields: FieldSet,
    committer: Committer,
    drive: Drive<KafkaSource>,
    letters: Letters,
    publisher: Publisher,
    probes: Probes,
    board: &'w StatusBoard,
    origin: Origin,
    outbox: Vec<OutboxEntry>,
    /// Those of the outbox that wait for the commit that makes them durable.
    staged: Vec<OutboxEntry>,
    versions: Vec<u64>,
    checkpoint: u64,
    checkpoint_at: Instant,
    version_at: Instant,
}

/// Runs until it is stopped, or until everything that was there at start is consumed.
///
/// # Errors
/// When the worker cannot start or go on. What was committed before is safe, and a later run goes on from there.
pub fn run(
    config: &Config,
    mut options: Options,
    store: Box<dyn Store>,
    stop: &Stop,
    board: &StatusBoard,
) -> Result<Summary, WorkerError> {
    board.update(|status| status.model.clone_from(&config.model.name));
    let mut store = store;
    // A fresh start on purpose destroys nothing before it is known that there is something to start with.
    let chosen = resume::choose(config, &mut *store, &mut options)?;
    let mut checkpoint = chosen.saved.as_ref().map_or(0, |saved| saved.commit);
    let known = topic::read(&config.kafka, &config.model.name)?;
    // An empty state is refused before anyone is fenced off; what was published before is read after.
    if chosen.saved.is_none() && !options.is_reset {
        resume::refuse_lost_state(config, &known)?;
    }
    let log = KafkaLog::connect(&config.kafka)?;
    // So is everything else that this start could be refused for.
    let Beginning { mut trainer, lineage, has_decided } = resume::begin(config, &chosen, &log, options.on_gap)?;
    board.update(|_| ());
    let announcer = Announcer::fence(&config.kafka, &config.model.name)?;
    let known = topic::read(&config.kafka, &config.model.name)?;
    let (origin, outbox) = resume::settle(config, &mut trainer, lineage, &known, &log)?;
    match (&chosen.saved, chosen.is_replaced) {
        // What is given up goes when the export is durable.
        (Some(export), true) => {
            for layer in &export.layers {
                checkpoint = store.commit(layer)?;
            }
        }
        (None, true) => store.reset()?,
        (_, false) => {}
    }
    if chosen.saved.is_some() {
        announcer.abandon(&resume::abandoned(&origin, &known))?;
    }
    drop(chosen);
    let ends = log.ends();
    let fields = config.field_set()?;
    let decoder = Decoder::new(fields.clone(), config.event_options())?;
    let probes = Probes::new(config.versions.probes, &config.events.mapping.impression);
    let mut observed = probes.clone();
    let mut census = Census::new(&fields, &config.fields.shares(), config.metrics.window_impressions, board);
    let ingest = Ingest::new(decoder, config.events.dead_letter_bytes_max, move |event, payload| {
        census.observe(event);
        if matches!(event, Event::Impression(_)) {
            observed.observe(payload);
        }
    });
    let undurable_max = Duration::from_secs(config.state.undurable_max_seconds);
    let exporter = Exporter::new(&config.exports, &config.model.name);
    let mut committer = Committer::start(store, config.versions.dir.clone(), undurable_max, exporter);
    let mut publisher = Publisher::start(config, announcer, &known);
    for entry in &outbox.versions {
        publisher.announce(entry.clone());
    }
    let mut letters = Letters::start(&config.kafka, outbox.letters)?;
    if has_decided {
        // The start position, or a gap, is a decision: it is durable before the first record is read.
        let before = checkpoint;
        let cut = trainer.cut(committer.wants());
        let unsent = Outbox { versions: outbox.versions.clone(), letters: letters.submit() };
        let lineage = resume::lineage(config, &trainer, cut.digest, &origin, unsent);
        committer.submit(Job { cut, lineage, staged: Vec::new() });
        while committer.is_busy() {
            checkpoint = committer.poll(HEARTBEAT)?.map_or(checkpoint, |committed| committed.commit);
            board.update(|_| ());
        }
        if checkpoint == before {
            return Err(WorkerError::NoFirstCheckpoint);
        }
    }
    let source = log.read(&trainer.positions(), ingest)?;
    let horizon = if options.until_end {
        Horizon::Captured
    } else {
        Horizon::Live { idle_after: Duration::from_millis(config.kafka.idle_after_ms) }
    };
    let pilot = Pilot::Attendance(Attendance::new(horizon, &ends));
    let now = Instant::now();
    let worker = Worker {
        drive: Drive::new(trainer, source, pilot)?,
        letters,
        staged: Vec::new(),
        versions: Vec::new(),
        checkpoint_at: now,
        version_at: now,
        config,
        fields,
        committer,
        publisher,
        probes,
        board,
        origin,
        outbox: outbox.versions,
        checkpoint,
    };
    worker.go_on(&options, stop)
}

impl Worker<'_> {
    fn go_on(mut self, options: &Options, stop: &Stop) -> Result<Summary, WorkerError> {
        self.board.update(|status| status.phase = Phase::Running);
        self.show();
        let learned = self.learn(stop);
        self.board.update(|status| status.phase = Phase::Stopping);
        let is_done = match learned {
            Ok(is_done) => is_done,
            Err(error) => {
                // Everything consumed so far is whole: it is kept if that is possible. The first error is the one to report.
                if let Err(second) = self.commit_last() {
                    tracing::error!("the last checkpoint failed as well: {:#}", anyhow::Error::from(second));
                }
                return Err(error);
            }
        };
        self.wait_for_commit()?;
        if options.until_end && is_done && self.has_learned_since_version() {
            self.cut_version()?;
        }
        self.commit_last()?;
        if options.until_end && !self.letters.is_empty() {
            // Those of a live run are durable, and sent by the next one if this one cannot. Sent letters are forgotten by the commit after.
            self.letters.wait()?;
            self.commit_last()?;
        }
        self.finish()
    }

    /// Learns until everything that was to be consumed is, or until it is asked to stop; says which.
    fn learn(&mut self, stop: &Stop) -> Result<bool, WorkerError> {
        let mut shown = Instant::now();
        loop {
            let turn = self.drive.turn(u64::MAX, &Inline, &mut self.letters)?;
            self.note_announced()?;
            self.letters.note_delivered()?;
            if self.letters.is_full() {
                self.send_letters()?;
            }
            if let Some(committed) = self.committer.poll(Duration::ZERO)? {
                self.note_committed(committed);
            }
            vital::failpoint("learning");
            if turn.is_done || stop.is_asked() {
                return Ok(turn.is_done);
            }
            if self.is_version_due() {
                if let Err(error) = self.cut_version() {
                    // Nothing of it was published, and its place in the journal is kept: the next one is tried in its time.
                    tracing::error!("a version could not be written: {:#}", anyhow::Error::from(error));
                    metrics::counter!("deepfm_version_failures_total").increment(1);
                    self.version_at = Instant::now();
                }
            } else if self.is_checkpoint_due()? {
                self.checkpoint();
            }
            if shown.elapsed() >= STATUS_EVERY {
                self.show();
                shown = Instant::now();
            }
        }
    }

    /// A checkpoint is due by time, or when much has changed; learning waits for a commit in flight only when very much has.
    fn is_checkpoint_due(&mut self) -> Result<bool, WorkerError> {
        let unsaved = self.drive.trainer.unsaved_bytes();
        if self.committer.is_busy() && unsaved >= 2 * UNSAVED_BYTES_MAX {
            self.wait_for_commit()?;
        }
        let elapsed = self.checkpoint_at.elapsed();
        let by_time = elapsed >= Duration::from_secs(self.config.state.checkpoint_interval_seconds);
        let by_size = (unsaved >= UNSAVED_BYTES_MAX || self.letters.is_due()) && elapsed >= RETRY_AFTER;
        Ok(!self.committer.is_busy() && (by_time || by_size))
    }

    fn has_learned_since_version(&self) -> bool {
        let learned = self.drive.trainer.counters().learned;
        learned > self.origin.parent.as_ref().map_or(0, |parent| parent.learned)
    }

    /// A version is due by time or by examples, when there is something new and labels have begun to mature.
    fn is_version_due(&self) -> bool {
        let versions = &self.config.versions;
        let trainer = &self.drive.trainer;
        let is_held = self.committer.is_busy() || self.outbox.len() >= OUTBOX_MAX;
        if is_held || !trainer.has_matured() || !self.has_learned_since_version() {
            return false;
        }
        let since = trainer.counters().learned - self.origin.parent.as_ref().map_or(0, |parent| parent.learned);
        let by_examples = versions.interval_examples > 0 && since >= versions.interval_examples;
        let by_time = versions.interval_seconds > 0
            && self.version_at.elapsed() >= Duration::from_secs(versions.interval_seconds);
        by_examples || by_time
    }

    /// Takes a checkpoint between two records, and gives it to the writing thread.
    fn checkpoint(&mut self) {
        let start = Instant::now();
        let trainer = &mut self.drive.trainer;
        let cut = trainer.cut(self.committer.wants());
        let outbox = Outbox { versions: self.outbox.clone(), letters: self.letters.submit() };
        let lineage = resume::lineage(self.config, trainer, cut.digest, &self.origin, outbox);
        self.board.update(|status| status.checkpoint_pause_seconds = Some(start.elapsed().as_secs_f64()));
        self.committer.submit(Job { cut, lineage, staged: self.staged.clone() });
        self.checkpoint_at = Instant::now();
    }

    /// Makes everything durable before the worker ends: tries until it is, or until there is no time left.
    fn commit_last(&mut self) -> Result<(), WorkerError> {
        self.wait_for_commit()?;
        let before = self.checkpoint;
        while self.checkpoint == before {
            self.checkpoint();
            self.wait_for_commit()?;
            if self.checkpoint == before {
                std::thread::park_timeout(RETRY_AFTER);
            }
        }
        Ok(())
    }

    /// Makes every letter durable and waits until it is sent.
    fn send_letters(&mut self) -> Result<(), WorkerError> {
        self.commit_last()?;
        self.letters.wait()?;
        Ok(())
    }

    /// Waits for the commit in flight, and shows meanwhile that the worker lives.
    fn wait_for_commit(&mut self) -> Result<(), WorkerError> {
        while self.committer.is_busy() {
            if let Some(committed) = self.committer.poll(HEARTBEAT)? {
                self.note_committed(committed);
            }
            self.board.update(|_| ());
        }
        Ok(())
    }

    fn note_committed(&mut self, committed: Committed) {
        self.checkpoint = committed.commit;
        self.board.update(|status| status.committed(committed.commit, committed.bytes, committed.elapsed));
        self.letters.post();
        for entry in committed.installed {
            self.staged.retain(|staged| staged.version != entry.version);
            self.publisher.announce(entry);
        }
    }

    /// Cuts a version between two records: staged, committed with its place in the outbox, installed, announced.
    fn cut_version(&mut self) -> Result<(), WorkerError> {
        let version = self.origin.next_version;
        let trainer = &mut self.drive.trainer;
        let state_digest = trainer.state_digest();
        let journal = trainer.sequencer().journal().to_vec();
        let artefact = Artefact::cut(
            trainer,
            &Cut {
                model: &self.config.model.name,
                version,
                parent: self.origin.parent.as_ref().map(ParentVersion::from),
                created_at: jiff::Timestamp::now().to_string(),
                state_digest,
                journal: &journal,
                probes: &self.probes.rows(),
                fields: &self.fields,
                configuration: self.config.fingerprint(),
            },
        );
        let root = &self.config.versions.dir;
        artefacts::stage(root, &artefact)?;
        trainer.cut_journal();
        let announcement = Announcement::of(&artefact);
        let entry = OutboxEntry {
            version,
            manifest_digest: artefact.digest.clone(),
            directory: artefact.directory(),
            key: announcement.key(),
            announcement: serde_json::to_string(&announcement).expect("an announcement always encodes"),
            goes_live: trainer.has_matured(),
            journal,
        };
        let learned = trainer.counters().learned;
        self.origin.parent = Some(Parent { version, manifest_digest: artefact.digest.clone(), learned });
        self.origin.next_version = version + 1;
        self.outbox.push(entry.clone());
        self.staged.push(entry);
        self.checkpoint();
        self.versions.push(version);
        self.version_at = Instant::now();
        Ok(())
    }

    /// Clears what was announced; the next checkpoint forgets it for good.
    fn note_announced(&mut self) -> Result<(), WorkerError> {
        for version in self.publisher.announced()? {
            self.outbox.retain(|entry| entry.version != version);
            self.board.update(|status| status.announced(version));
        }
        Ok(())
    }

    fn show(&self) {
        self.board.update(|status| {
            status.observe(&self.drive.trainer, &self.drive.source().ends());
            status.checkpoint = Some(self.checkpoint);
            status.outbox = self.outbox.len();
        });
    }

    fn finish(mut self) -> Result<Summary, WorkerError> {
        let announced = self.publisher.finish()?;
        if let Some(version) = announced.last() {
            self.board.update(|status| status.announced(*version));
        }
        self.board.update(|status| status.observe(&self.drive.trainer, &self.drive.source().ends()));
        let trainer = &mut self.drive.trainer;
        Ok(Summary {
            records: trainer.released(),
            learned: trainer.counters().learned,
            state_digest: trainer.state_digest().to_string(),
            checkpoint: self.checkpoint,
            versions: self.versions,
            ledger: trainer.ledger().by_name(),
            unmatured: trainer.shown_scores().len(),
            metrics: trainer.windows().lifetime().report(),
            newest_window: trainer.windows().latest().report(),
        })
    }
}
