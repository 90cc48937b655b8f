//! The worker's loop: turns of consuming, and between two records checkpoints and versions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::attendance::{Attendance, Horizon};
use super::census::Census;
use super::committer::{CommitProgress, Committed, Committer, Job};
use super::dead_letters::Letters;
use super::drive::{Drive, Pilot, Witness as _};
use super::error::WorkerError;
use super::exporter::Exporter;
use super::heart::{HEARTBEAT, Heart};
use super::losses::{self, Loss};
use super::narrator::{self, Minute};
use super::observer::{Observer, held};
use super::options::{OnAhead, Options};
use super::pace::{Pace, RETRY_MIN};
use super::probes::{PROBES_MIN, Probes};
use super::publisher::{OUTBOX_MAX, Publisher};
use super::resume::{self, Ancestry, Beginning};
use super::status::{Phase, StatusBoard};
use super::stop::Stop;
use crate::config::Config;
use crate::publish::announcement::Announcement;
use crate::publish::topic::Announcer;
use crate::publish::{artefacts, topic};
use crate::source::kafka::{KafkaLog, KafkaSource};
use crate::source::{topics, vital};
use crate::store::{self, Store};
use deepfm_core::event::Decoder;
use deepfm_core::feature::field::FieldSet;
use deepfm_core::metric::Report;
use deepfm_core::model::Inline;
use deepfm_core::snapshot::artefact::{Artefact, Cut};
use deepfm_core::snapshot::checkpoint::{Beside, Parent};
use deepfm_core::snapshot::clicks::ClickTimes;
use deepfm_core::snapshot::manifest::ParentVersion;
use deepfm_core::snapshot::outbox::{Outbox, OutboxEntry};
use deepfm_core::train::{Fate, Tally};

/// Bytes of changes at which a checkpoint is taken before its time; at twice as many, learning waits for the disk.
const UNSAVED_BYTES_MAX: usize = 128 << 20;

/// How often the status board is brought up to date.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
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
    /// What was not learned since the log began, and why.
    pub losses: Vec<Loss>,
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
    origin: Ancestry,
    outbox: Vec<OutboxEntry>,
    /// Those of the outbox that wait for the commit that makes them durable.
    staged: Vec<OutboxEntry>,
    versions: Vec<u64>,
    checkpoint: u64,
    clicks: ClickTimes,
    pace: Pace,
    /// Whether it learns no more: what is committed now is the last.
    is_ending: bool,
    minute: Minute,
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
) -> Result<RunSummary, WorkerError> {
    board.update(|status| status.model.clone_from(&config.model.name));
    let heart = Heart::beat(board);
    let mut store = store;
    // A fresh start on purpose destroys nothing before it is known that there is something to start with.
    let committed_at = store::committed_at(&config.state.dir);
    let chosen = resume::choose(config, &mut *store, &mut options)?;
    let mut checkpoint = chosen.saved.as_ref().map_or(0, |saved| saved.commit);
    topics::require(&config.kafka)?;
    let known = topic::read(&config.kafka, &config.model.name)?;
    // An empty state is refused before anyone is fenced off; what was published before is read after.
    if chosen.saved.is_none() && !options.is_reset {
        resume::refuse_lost_state(config, &known)?;
    }
    let log = KafkaLog::connect(&config.kafka)?.told_to(board.link().clone());
    // So is everything else that this start could be refused for.
    let Beginning { mut trainer, lineage, has_decided } = resume::begin(config, &chosen, &log, options.on_gap)?;
    // An export is from before on purpose.
    let on_ahead = if chosen.is_replaced { OnAhead::Abandon } else { options.on_ahead };
    resume::refuse_ahead(config, lineage.as_ref(), &known, on_ahead)?;
    let beside = lineage.as_ref().map(|lineage| lineage.beside.clone()).unwrap_or_default();
    let announcer = Announcer::fence(&config.kafka, &config.model.name)?;
    let known = topic::read(&config.kafka, &config.model.name)?;
    resume::refuse_ahead(config, lineage.as_ref(), &known, on_ahead)?;
    board.update(|status| resume::tell(status, &chosen, committed_at, &known));
    let (origin, outbox) = resume::settle(config, &mut trainer, &chosen, lineage, &known, &log)?;
    checkpoint = resume::replace(&mut *store, &chosen)?.unwrap_or(checkpoint);
    if chosen.saved.is_some() {
        announcer.abandon(&resume::abandoned(origin.parent.as_ref(), &known))?;
    }
    drop(chosen);
    let ends = log.ends();
    let fields = config.field_set()?;
    let decoder = Decoder::new(fields.clone(), config.event_options())?;
    let probes = Probes::new(config.versions.probes, &config.events.mapping.impression, &fields);
    probes.restore(beside.probes);
    let census = Census::new(&fields, &config.fields.shares(), config.metrics.window_impressions, board);
    let ingest = probes.clone().observing(config, decoder, census);
    let undurable_max = Duration::from_secs(config.state.undurable_max_seconds);
    let exporter = Exporter::new(&config.exports, &config.model.name);
    let mut committer = Committer::start(store, config.versions.of(&config.model.name), undurable_max, exporter);
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
        let beside = kept_beside(config, beside.clicks, &probes);
        let lineage = resume::lineage(config, &trainer, cut.digest, &origin, unsent, beside);
        committer.submit(Job { cut, lineage, staged: Vec::new(), is_last: false });
        while committer.is_busy() {
            if let CommitProgress::Durable(committed) = committer.poll(HEARTBEAT)? {
                checkpoint = committed.commit;
                board.update(|status| status.committed(committed.commit, committed.bytes, committed.elapsed));
            }
        }
        if checkpoint == before {
            return Err(WorkerError::NoFirstCheckpoint);
        }
    }
    narrator::begin(config, &log, &trainer.positions(), (checkpoint > 0).then_some(checkpoint));
    if options.until_end {
        log.warn_of_open_transactions();
    }
    let source = log.read(&trainer.positions(), ingest)?;
    let horizon = if options.until_end {
        Horizon::Captured
    } else {
        Horizon::Live { idle_after: Duration::from_millis(config.kafka.idle_after_ms) }
    };
    let pilot = Pilot::Attendance(Attendance::new(horizon, &ends));
    let worker = Worker {
        minute: Minute::new(trainer.released()),
        drive: Drive::new(trainer, source, pilot)?,
        letters,
        staged: Vec::new(),
        versions: Vec::new(),
        clicks: beside.clicks,
        pace: Pace::new(Instant::now()),
        is_ending: false,
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
    drop(heart);
    worker.go_on(&options, stop)
}

/// What a checkpoint holds beside the state.
fn kept_beside(config: &Config, clicks: ClickTimes, probes: &Probes) -> Beside {
    Beside { model: config.model.name.clone(), clicks, probes: probes.rows() }
}

impl Worker<'_> {
    fn go_on(mut self, options: &Options, stop: &Stop) -> Result<RunSummary, WorkerError> {
        self.board.update(|status| status.phase = Phase::CatchingUp);
        self.show();
        let learned = self.learn(stop);
        self.board.update(|status| status.phase = Phase::Stopping);
        self.is_ending = true;
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
        let wants_version = options.until_end && is_done && self.has_learned_since_version();
        let cut = if wants_version { self.cut_version() } else { Ok(()) };
        // What was learned is kept also when its version cannot be written.
        self.commit_last()?;
        cut?;
        if options.until_end && !self.letters.is_empty() {
            // Those of a live run are durable, and sent by the next one if this one cannot. Sent letters are forgotten by the commit after.
            self.wait_for_letters(stop)?;
            self.commit_last()?;
        }
        self.finish()
    }

    /// Learns until everything that was to be consumed is, or until it is asked to stop; says which.
    fn learn(&mut self, stop: &Stop) -> Result<bool, WorkerError> {
        let mut shown = Instant::now();
        loop {
            let mut observer =
                Observer { letters: &mut self.letters, clicks: &mut self.clicks, toll: self.minute.toll() };
            let turn = self.drive.turn(u64::MAX, &Inline, &mut observer)?;
            self.note_announced()?;
            self.letters.note_delivered()?;
            if self.letters.is_full() {
                self.send_letters(stop)?;
            }
            let progress = self.committer.poll(Duration::ZERO)?;
            self.note(progress);
            vital::failpoint("learning");
            if turn.is_done || stop.is_asked() {
                return Ok(turn.is_done);
            }
            self.save_if_due()?;
            if shown.elapsed() >= STATUS_EVERY {
                self.show();
                shown = Instant::now();
            }
        }
    }

    /// Cuts a version, or takes a checkpoint, if one is due: a version that cannot be written is in no checkpoint's way.
    fn save_if_due(&mut self) -> Result<(), WorkerError> {
        if self.is_version_due() {
            let Err(error) = self.cut_version() else {
                return Ok(());
            };
            // Nothing of it was published, and its place in the journal is kept: it is tried again.
            tracing::error!("a version could not be written: {:#}", anyhow::Error::from(error));
            metrics::counter!("deepfm_version_failures_total").increment(1);
            self.pace.version_failed(Instant::now());
        }
        if self.is_checkpoint_due()? {
            self.checkpoint();
        }
        Ok(())
    }

    /// A checkpoint is due by time, or when much has changed; learning waits for a commit in flight only when very much has.
    fn is_checkpoint_due(&mut self) -> Result<bool, WorkerError> {
        let unsaved = self.drive.trainer.unsaved_bytes();
        if self.committer.is_busy() && unsaved >= 2 * UNSAVED_BYTES_MAX {
            self.wait_for_commit()?;
        }
        let interval = Duration::from_secs(self.config.state.checkpoint_interval_seconds);
        let has_changed_much = unsaved >= UNSAVED_BYTES_MAX || self.letters.is_due();
        let is_due = self.pace.is_checkpoint_due(Instant::now(), interval, has_changed_much);
        Ok(is_due && !self.committer.is_busy())
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
        let has_enough = versions.interval_examples > 0 && since >= versions.interval_examples;
        self.pace.is_version_due(Instant::now(), Duration::from_secs(versions.interval_seconds), has_enough)
    }

    /// Takes a checkpoint between two records, and gives it to the writing thread.
    fn checkpoint(&mut self) {
        let start = Instant::now();
        let trainer = &mut self.drive.trainer;
        let cut = trainer.cut(self.committer.wants());
        let outbox = Outbox { versions: self.outbox.clone(), letters: self.letters.submit() };
        let beside = kept_beside(self.config, self.clicks, &self.probes);
        let lineage = resume::lineage(self.config, trainer, cut.digest, &self.origin, outbox, beside);
        self.board.update(|status| status.checkpoint_pause_seconds = Some(start.elapsed().as_secs_f64()));
        self.committer.submit(Job { cut, lineage, staged: self.staged.clone(), is_last: self.is_ending });
        self.pace.checkpoint_begun(Instant::now());
    }

    /// Makes everything durable before the worker ends: tries until it is, or until there is no time left.
    fn commit_last(&mut self) -> Result<(), WorkerError> {
        self.wait_for_commit()?;
        let before = self.checkpoint;
        while self.checkpoint == before {
            self.checkpoint();
            self.wait_for_commit()?;
            if self.checkpoint == before {
                std::thread::park_timeout(RETRY_MIN);
            }
        }
        Ok(())
    }

    /// Makes every letter durable and waits until it is sent, or until the worker is asked to stop.
    fn send_letters(&mut self, stop: &Stop) -> Result<(), WorkerError> {
        self.commit_last()?;
        self.wait_for_letters(stop)
    }

    /// Waits for letters that are durable. It shows meanwhile that the worker lives.
    fn wait_for_letters(&mut self, stop: &Stop) -> Result<(), WorkerError> {
        let board = self.board;
        self.letters.wait(HEARTBEAT, || {
            board.update(|_| ());
            !stop.is_asked()
        })?;
        Ok(())
    }

    /// Waits for the commit in flight, and shows meanwhile that the worker lives.
    fn wait_for_commit(&mut self) -> Result<(), WorkerError> {
        while self.committer.is_busy() {
            let progress = self.committer.poll(HEARTBEAT)?;
            self.note(progress);
            self.board.update(|_| ());
        }
        Ok(())
    }

    fn note(&mut self, progress: CommitProgress) {
        match progress {
            CommitProgress::Pending => {}
            CommitProgress::Durable(committed) => {
                self.pace.checkpoint_done();
                self.note_committed(committed);
            }
            CommitProgress::Failed => self.pace.checkpoint_failed(Instant::now()),
        }
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
        let probes = self.probes.rows();
        let artefact = Artefact::cut(
            trainer,
            &Cut {
                model: &self.config.model.name,
                version,
                parent: self.origin.parent.as_ref().map(ParentVersion::from),
                created_at: jiff::Timestamp::now().to_string(),
                state_digest,
                journal: &journal,
                probes: &probes,
                fields: &self.fields,
                configuration: self.config.fingerprint(),
            },
        );
        let root = self.config.versions.of(&self.config.model.name);
        artefacts::stage(&root, &artefact, self.config.versions.readers)?;
        trainer.cut_journal();
        if probes.len() + 1 < PROBES_MIN {
            tracing::warn!(
                "version {version} has {} probes, fewer than {PROBES_MIN}: they hardly check it",
                probes.len() + 1
            );
        }
        let held = held(self.config, &self.clicks, version);
        let announcement = Announcement { held, ..Announcement::of(&artefact) };
        let entry = OutboxEntry {
            version,
            manifest_digest: artefact.digest.clone(),
            directory: artefact.directory(),
            key: announcement.key(),
            announcement: serde_json::to_string(&announcement).expect("an announcement always encodes"),
            goes_live: trainer.has_matured() && announcement.held.is_none(),
            journal,
        };
        let learned = trainer.counters().learned;
        self.origin.parent = Some(Parent { version, manifest_digest: artefact.digest.clone(), learned });
        self.origin.next_version = version + 1;
        self.outbox.push(entry.clone());
        self.staged.push(entry);
        self.checkpoint();
        self.versions.push(version);
        self.pace.version_cut(Instant::now());
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

    fn show(&mut self) {
        self.board.update(|status| {
            status.observe(&self.drive.trainer, &self.drive.source().ends());
            if status.phase == Phase::CatchingUp && self.drive.is_caught_up() {
                status.phase = Phase::Running;
            }
            status.checkpoint = Some(self.checkpoint);
            status.outbox = self.outbox.len();
            status.click_silence_seconds = self.clicks.silence_ms().map(|silence| silence as f64 / 1000.0);
        });
        self.minute.note(&self.board.read());
    }

    fn finish(mut self) -> Result<RunSummary, WorkerError> {
        let announced = self.publisher.finish()?;
        if let Some(version) = announced.last() {
            self.board.update(|status| status.announced(*version));
        }
        self.board.update(|status| status.observe(&self.drive.trainer, &self.drive.source().ends()));
        let trainer = &mut self.drive.trainer;
        Ok(RunSummary {
            records: trainer.released(),
            learned: trainer.counters().learned,
            state_digest: trainer.state_digest().to_string(),
            checkpoint: self.checkpoint,
            versions: self.versions,
            ledger: trainer.ledger().by_name(),
            unmatured: trainer.shown_scores().len(),
            metrics: trainer.windows().lifetime().report(),
            newest_window: trainer.windows().latest().report(),
            losses: losses::losses(
                trainer.counters(),
                Some(trainer.join_counters()),
                trainer.sequencer().gap_records(),
                self.letters.seen(),
            ),
        })
    }
}
