//! The worker's loop: turns of consuming, and between two records checkpoints and versions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::chain::Chain;
use super::committer::{Committed, Committer, Job, NewCheckpoint, NewVersion, StagedVersion, WriteProgress};
use super::error::WorkerError;
use super::gatekeeper::Gatekeeper;
use super::heart::{HEARTBEAT, Heart};
use super::narrator::Minute;
use super::observer::Observer;
use super::options::Options;
use super::pace::RETRY_MIN;
use super::probes::{PROBES_MIN, Probes};
use super::publication::{Intervals, Progressed, Publication};
use super::publisher::{Announced, Publisher};
use super::resume::{self, Ancestry};
use super::start::{Chosen, Opened, Setting, kept_beside};
use super::status::{Phase, StatusBoard};
use super::stop::Stop;
use crate::config::Config;
use crate::drive::losses::{self, Loss};
use crate::drive::{Drive, Witness as _};
use crate::letters::Letters;
use crate::source::topics::KafkaSource;
use crate::store::{Store, UNFIT_BYTES_MAX};
use crate::thread::{self, vital};
use deepfm_core::checkpoint::clicks::ClickTimes;
use deepfm_core::feature::field::FieldSet;
use deepfm_core::metric::Report;
use deepfm_core::train::{Fate, Tally};
use deepfm_core::version::artefact::Cut;
use deepfm_core::version::manifest::ParentVersion;
use deepfm_core::version::outbox::Outbox;

/// Bytes of changes at which a checkpoint is taken before its time; at twice as many, learning waits for the disk.
const UNSAVED_BYTES_MAX: usize = 512 << 20;

// What has changed when learning waits is hardly more than what is kept where it finds no room on the disk.
const _: () = assert!(2 * UNSAVED_BYTES_MAX as u64 <= UNFIT_BYTES_MAX, "one full disk would ask for everything");

/// How often the status board is brought up to date.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// How long Kafka clients may take to end: a second or so, or for ever.
const FAREWELL_MAX: Duration = Duration::from_secs(20);

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
    gatekeeper: Gatekeeper,
    board: &'w StatusBoard,
    publication: Publication,
    chain: Chain,
    checkpoint: u64,
    clicks: ClickTimes,
    /// Whether it learns no more: what is committed now is the last.
    is_ending: bool,
    /// Whether the version at the end of everything is cut: without it the run has failed.
    is_cutting_last: bool,
    /// Why that was not written.
    not_staged: Option<WorkerError>,
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
    let restored = options.restored.take();
    let setting = Setting { config, options: &options, board, stop };
    let opened = Chosen::choose(setting, store, restored)?.begin()?.fence()?.settle()?.open()?;
    let Opened {
        drive,
        fields,
        committer,
        publisher,
        letters,
        probes,
        gatekeeper,
        ancestry,
        outbox,
        clicks,
        checkpoint,
    } = opened;
    let mut worker = Worker {
        minute: Minute::new(drive.trainer.released()),
        drive,
        letters,
        clicks,
        is_ending: false,
        is_cutting_last: false,
        not_staged: None,
        config,
        fields,
        committer,
        publisher,
        probes,
        gatekeeper,
        board,
        publication: Publication::new(intervals(config), ancestry, outbox, Instant::now()),
        chain: Chain::new((&config.versions).into()),
        checkpoint,
    };
    drop(heart);
    let summary = worker.go_on(&options, stop);
    worker.part();
    summary
}

fn intervals(config: &Config) -> Intervals {
    Intervals {
        checkpoint: Duration::from_secs(config.state.checkpoint_interval_seconds),
        version: Duration::from_secs(config.versions.interval_seconds),
        version_examples: config.versions.interval_examples,
    }
}

impl Worker<'_> {
    fn go_on(&mut self, options: &Options, stop: &Stop) -> Result<RunSummary, WorkerError> {
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
        let wants_version =
            options.until_end && is_done && self.publication.has_learned_since(self.drive.trainer.learned());
        if wants_version {
            self.is_cutting_last = true;
            self.cut_version();
        }
        // What was learned is kept also when its version cannot be written.
        self.commit_last()?;
        if let Some(error) = self.not_staged.take() {
            return Err(error);
        }
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
            let mut observer = Observer {
                letters: &mut self.letters,
                clicks: &mut self.clicks,
                toll: self.minute.toll(),
                gatekeeper: &mut self.gatekeeper,
            };
            let turn = self.drive.turn(u64::MAX, &mut observer)?;
            self.minute.note_breaker(&self.drive.trainer);
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

    /// Cuts a version, or takes a checkpoint, if one is due.
    fn save_if_due(&mut self) -> Result<(), WorkerError> {
        let unsaved = self.drive.trainer.unsaved_bytes();
        // Before anybody has the next turn: a checkpoint that follows upon the last one would leave a version none.
        if self.committer.is_busy() && unsaved >= 2 * UNSAVED_BYTES_MAX {
            self.wait_for_commit()?;
        }
        let (now, trainer) = (Instant::now(), &self.drive.trainer);
        let is_paused = trainer.intake().breaker().is_open();
        let learned = Progressed { examples: trainer.learned(), has_matured: trainer.has_matured(), is_paused };
        if self.publication.is_version_due(now, learned, self.committer.is_busy()) {
            self.cut_version();
        }
        // A checkpoint is due by time, or when much has changed.
        let has_changed_much = unsaved >= UNSAVED_BYTES_MAX || self.letters.is_due();
        if self.publication.is_checkpoint_due(Instant::now(), has_changed_much, self.committer.is_busy()) {
            self.checkpoint();
        }
        Ok(())
    }

    /// Takes a checkpoint between two records, and gives it to the writing thread.
    fn checkpoint(&mut self) {
        let start = Instant::now();
        let trainer = &mut self.drive.trainer;
        let cut = trainer.cut(self.committer.wants());
        let outbox = Outbox { versions: self.publication.owed().to_vec(), letters: self.letters.submit() };
        let beside = kept_beside(self.config, self.clicks, &self.probes, self.gatekeeper.evidence());
        let lineage = resume::lineage(self.config, trainer, cut.digest, self.publication.ancestry(), outbox, beside);
        self.board.update(|status| status.checkpoint_pause_seconds = Some(start.elapsed().as_secs_f64()));
        self.committer.submit(Job::Checkpoint(Box::new(NewCheckpoint {
            cut,
            lineage,
            staged: self.publication.staged().to_vec(),
            is_last: self.is_ending,
        })));
        self.publication.checkpoint_begun(Instant::now());
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

    /// Waits for what is in flight, with the commit that a staged version asks for, and shows meanwhile that the worker lives.
    fn wait_for_commit(&mut self) -> Result<(), WorkerError> {
        while self.committer.is_busy() {
            let progress = self.committer.poll(HEARTBEAT)?;
            self.note(progress);
            self.board.update(|_| ());
        }
        Ok(())
    }

    fn note(&mut self, progress: WriteProgress) {
        match progress {
            WriteProgress::Pending => {}
            WriteProgress::Staged(staged) => self.note_staged(*staged),
            WriteProgress::NotStaged(error) => self.note_not_staged(error),
            WriteProgress::Durable(committed) => self.note_committed(committed),
            WriteProgress::Failed => self.publication.checkpoint_failed(Instant::now()),
        }
    }

    /// A version is durable where no server looks: it is committed with its place in the outbox. What was read since it was cut
    /// belongs to the next.
    fn note_staged(&mut self, staged: StagedVersion) {
        let StagedVersion { entry, base, learned, at } = staged;
        self.chain.staged(base);
        self.drive.trainer.cut_journal(entry.journal.len());
        if let Some(why) = &entry.announcement.held {
            tracing::warn!("version {} is rejected, and not served: {why}", entry.version());
            metrics::counter!("deepfm_versions_rejected_total").increment(1);
        }
        self.publication.version_cut(entry, learned, at);
        self.checkpoint();
    }

    /// Nothing of a version was published, and its place in the journal is kept: it is tried again.
    fn note_not_staged(&mut self, error: WorkerError) {
        metrics::counter!("deepfm_version_failures_total").increment(1);
        self.publication.version_failed(Instant::now());
        self.chain.failed(&mut self.drive.trainer);
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        tracing::error!("a version could not be written: {error}{cause}");
        self.not_staged = self.is_cutting_last.then_some(error);
    }

    fn note_committed(&mut self, committed: Committed) {
        self.checkpoint = committed.commit;
        self.board.update(|status| status.committed(committed.commit, committed.bytes, committed.elapsed));
        self.letters.post();
        self.publication.checkpoint_done(&committed.installed);
        for entry in committed.installed {
            self.publisher.announce(entry);
        }
    }

    /// Cuts a version between two records, and gives it to the writing thread: it is staged, committed with its place in the
    /// outbox, installed, announced.
    fn cut_version(&mut self) {
        let Ancestry { next_version: version, parent, .. } = self.publication.ancestry();
        let (version, parent) = (*version, parent.as_ref().map(ParentVersion::from));
        let trainer = &mut self.drive.trainer;
        let state_digest = trainer.state_digest();
        let probes = self.probes.rows();
        if probes.len() + 1 < PROBES_MIN {
            tracing::warn!(
                "version {version} has {} probes, fewer than {PROBES_MIN}: they hardly check it",
                probes.len() + 1
            );
        }
        let journal = trainer.sequencer().journal().to_vec();
        let cut = Cut {
            model: &self.config.model.name,
            version,
            parent,
            created_at: jiff::Timestamp::now().to_string(),
            state_digest,
            journal: &journal,
            probes,
            fields: &self.fields,
            configuration: self.config.fingerprint(),
        };
        let cut = self.chain.cut(trainer, cut);
        let judgement = self.gatekeeper.judge(trainer, &self.clicks);
        self.committer.submit(Job::Version(Box::new(NewVersion { cut, at: Instant::now(), judgement })));
    }

    /// Clears what was announced; the next checkpoint forgets it for good.
    fn note_announced(&mut self) -> Result<(), WorkerError> {
        for Announced { version, live } in self.publisher.announced()? {
            self.publication.announced(version);
            self.board.update(|status| status.announced(version));
            if let Some(live) = live {
                self.gatekeeper.follow(live);
            }
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
            status.outbox = self.publication.owed().len();
            status.click_silence_seconds = self.clicks.silence_ms().map(|silence| silence as f64 / 1000.0);
        });
        self.minute.note(&self.board.read());
    }

    fn finish(&mut self) -> Result<RunSummary, WorkerError> {
        let announced = self.publisher.finish()?;
        if let Some(Announced { version, .. }) = announced.last() {
            self.board.update(|status| status.announced(*version));
        }
        self.board.update(|status| status.observe(&self.drive.trainer, &self.drive.source().ends()));
        let trainer = &mut self.drive.trainer;
        Ok(RunSummary {
            records: trainer.released(),
            learned: trainer.learned(),
            state_digest: trainer.state_digest().to_string(),
            checkpoint: self.checkpoint,
            versions: self.publication.cut().to_vec(),
            ledger: trainer.ledger().by_name(),
            unmatured: trainer.shown_scores().len(),
            metrics: trainer.windows().lifetime().report(),
            newest_window: trainer.windows().latest().report(),
            losses: losses::losses(
                &trainer.counters(),
                Some(trainer.join_counters()),
                trainer.sequencer().gap_records(),
                self.letters.seen(),
            ),
        })
    }

    /// Lets go of the brokers. Everything is durable and said by now: a client that hangs in its farewell is left to the end of the
    /// process.
    fn part(self) {
        let Self { drive, letters, publisher, .. } = self;
        if !thread::leave((drive, letters, publisher), FAREWELL_MAX) {
            tracing::warn!("a Kafka client hangs in its farewell; nobody needs to wait for that");
        }
    }
}
