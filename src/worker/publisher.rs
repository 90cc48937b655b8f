//! The announcing thread: a version that is installed is announced, and `live` moves to it if it passed the gate and nobody
//! holds `live` elsewhere; then those are removed that are kept no longer. Its queue is the outbox, which is bounded: at
//! [`OUTBOX_MAX`] no further version is cut until the broker has taken one.
//!
//! People move aliases at any time. So the topic is read on before `live` is moved, and once more after, until what was written is
//! shown: what a hold says that was written between the two is done then.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::error::WorkerError;
use super::narrator;
use super::shelf::Shelf;
use super::status::StatusBoard;
use super::uploader::{GivenUp, Uploader};
use crate::artefacts::{self, ArtefactIoError};
use crate::config::Config;
use crate::kafka::contact::Voice;
use crate::publish::retention;
use crate::publish::topic::{Announcer, Reading, Record, TopicError};
use crate::thread::Hand;
use deepfm_core::version::alias::{Act, Alias, LIVE};
use deepfm_core::version::announcement::Announcement;
use deepfm_core::version::artefact::Verified;
use deepfm_core::version::known::KnownVersions;
use deepfm_core::version::outbox::OutboxEntry;

/// The most versions that wait for their announcement.
pub const OUTBOX_MAX: usize = 8;

/// How long a stopping worker waits for announcements: what is left is settled at the next start.
const FAREWELL: Duration = Duration::from_secs(10);

/// A version that was announced.
#[derive(Debug)]
pub struct Announced {
    /// Its number.
    pub version: u64,
    /// Present when another version is live since, and can be compared with.
    pub live: Option<Live>,
}

/// A version that is live, and can be compared with.
#[derive(Debug)]
pub struct Live {
    /// Its weights.
    pub weights: Arc<Verified>,
    /// Up to where it has seen the log, in milliseconds of event time.
    pub watermark: i64,
}

impl Live {
    /// What the topic says is live; nothing where nothing is, or its weights cannot be read. A delta is applied to the version
    /// that is held, where it can be.
    pub fn of(config: &Config, known: &KnownVersions, held: Option<&Verified>) -> Option<Self> {
        let Alias { version, directory, .. } = known.aliases.get(LIVE)?;
        let watermark = known.announced.get(version)?.watermark?;
        match artefacts::of_model(&config.versions, &config.model.name).whole(directory, held) {
            Ok(whole) => Some(Self { weights: Arc::new(whole), watermark }),
            Err(error) => {
                tracing::warn!("live version {version} cannot be compared with: {:#}", anyhow::Error::from(error));
                None
            }
        }
    }
}

/// The hand that gives versions to the announcing thread.
#[derive(Debug)]
pub struct Publisher {
    hand: Hand<OutboxEntry, Result<Announced, WorkerError>>,
    /// Versions that found no room: those that the last run left may be many.
    waiting: VecDeque<OutboxEntry>,
    /// Tells the thread to wait for object storage no longer.
    stop: Arc<AtomicBool>,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

impl Publisher {
    /// Starts the thread; `known` is what the topic said after all earlier writers were fenced off.
    ///
    /// # Errors
    /// When the settings of object storage make no client.
    pub fn start(
        config: &Config,
        announcer: Announcer,
        reading: Reading,
        board: &StatusBoard,
    ) -> Result<Self, WorkerError> {
        let stop = Arc::<AtomicBool>::default();
        let uploader = Uploader::of(config, board, &stop)?;
        let epoch = reading.known.next_epoch();
        let told = reading.known.aliases.get(LIVE).map(|live| live.manifest_digest.clone());
        let shelf = uploader.map(Shelf::new);
        let mut desk = Desk { announcer, config: config.clone(), reading, epoch, told, live: None, shelf };
        let work = move |entry: OutboxEntry, tell: &mut dyn FnMut(Result<Announced, WorkerError>)| {
            let Ok(uri) = desk.upload(&entry) else { return ControlFlow::Break(()) };
            let announced = desk.announce(&entry, uri).map_err(WorkerError::from);
            let has_failed = announced.is_err();
            tell(announced);
            if has_failed {
                return ControlFlow::Break(());
            }
            if let Err(error) = desk.remove_old() {
                tell(Err(error.into()));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        let hand = Hand::start("announcing", OUTBOX_MAX, work, |panicked| Err(panicked.into()));
        Ok(Self { hand, waiting: VecDeque::new(), stop })
    }

    /// Gives a version to the thread.
    pub fn announce(&mut self, entry: OutboxEntry) {
        self.waiting.push_back(entry);
        self.hand_on();
    }

    fn hand_on(&mut self) {
        while self.hand.has_room()
            && let Some(entry) = self.waiting.pop_front()
        {
            self.hand.give(entry);
        }
    }

    /// Versions that were announced since the last call.
    ///
    /// # Errors
    /// When one could not be announced.
    pub fn announced(&mut self) -> Result<Vec<Announced>, WorkerError> {
        let announced = std::iter::from_fn(|| self.hand.try_take()).collect::<Result<_, _>>()?;
        self.hand_on();
        Ok(announced)
    }

    /// Waits a moment for the announcements that are under way.
    ///
    /// # Errors
    /// When one could not be announced.
    pub fn finish(&mut self) -> Result<Vec<Announced>, WorkerError> {
        let mut announced = self.announced()?;
        let start = Instant::now();
        while self.hand.in_flight() > 0 {
            let Ok(Some(result)) = self.hand.take_within(FAREWELL.saturating_sub(start.elapsed())) else {
                break;
            };
            announced.push(result?);
            self.hand_on();
        }
        Ok(announced)
    }
}

/// Where versions are announced and removed.
struct Desk {
    announcer: Announcer,
    config: Config,
    reading: Reading,
    /// This worker's.
    epoch: u64,
    /// SHA-256 of the manifest of the version that the learner was last told is live.
    told: Option<String>,
    /// The weights of the version that is live, once it has moved: the next may be a delta on it.
    live: Option<Arc<Verified>>,
    /// Object storage, if there is some.
    shelf: Option<Shelf>,
}

impl Desk {
    /// Uploads a version, if there is somewhere to.
    fn upload(&mut self, entry: &OutboxEntry) -> Result<Option<String>, GivenUp> {
        self.shelf.as_mut().map_or(Ok(None), |shelf| shelf.uploader.upload(entry))
    }

    fn announce(&mut self, entry: &OutboxEntry, uri: Option<String>) -> Result<Announced, TopicError> {
        let version = entry.version();
        let announcement = &Announcement { epoch: Some(self.epoch), uri, ..entry.announcement.clone() };
        self.read_on()?;
        self.known().newest = self.known().newest.max(Some(version));
        self.known().announced.insert(version, announcement.clone());
        let moved = self.move_live(entry.goes_live.then_some(version));
        let records: Vec<Record> =
            std::iter::once(Record::version(announcement)).chain(moved.as_ref().map(Record::alias)).collect();
        self.announcer.write(&records)?;
        if let Some(moved) = &moved {
            let Self { config, reading, .. } = self;
            reading.go_on_past(&config.kafka, &config.model.name, Voice::Quiet, &Record::alias(moved))?;
            if let Some(alias) = self.move_live(None) {
                self.announcer.write(&[Record::alias(&alias)])?;
            }
        }
        let live = self.live_digest();
        narrator::announced(announcement, live.as_deref() == Some(entry.manifest_digest()));
        // People may have moved it since it was last told.
        if live == self.told {
            return Ok(Announced { version, live: None });
        }
        self.told = live;
        let live = Live::of(&self.config, &self.reading.known, self.live.as_deref());
        self.live = live.as_ref().map(|live| Arc::clone(&live.weights));
        Ok(Announced { version, live })
    }

    /// Moves `live` to where it is due, for whoever writes it then.
    fn move_live(&mut self, offered: Option<u64>) -> Option<Alias> {
        let (known, at) = (self.known(), jiff::Timestamp::now().to_string());
        let due = known.live_due(offered)?;
        let why = if offered == Some(due.version) { "it passed the gate" } else { "live is held there" };
        let alias = Alias::moved(known.aliases.get(LIVE), LIVE, due, Act::new("worker", why, at));
        known.aliases.insert(LIVE.to_owned(), alias.clone());
        Some(alias)
    }

    fn known(&mut self) -> &mut KnownVersions {
        &mut self.reading.known
    }

    fn live_digest(&self) -> Option<String> {
        self.reading.known.aliases.get(LIVE).map(|live| live.manifest_digest.clone())
    }

    fn read_on(&mut self) -> Result<(), TopicError> {
        // That the brokers are away is said by who reads the log.
        self.reading.go_on(&self.config.kafka, &self.config.model.name, Voice::Quiet)
    }

    /// Removes the versions that are kept no longer. What the disk does not let go of is tried again after the next version.
    fn remove_old(&mut self) -> Result<(), TopicError> {
        // What somebody pinned a moment ago stays.
        self.read_on()?;
        let model = &self.config.model.name;
        let settings = &self.config.versions;
        let artefacts = artefacts::of_model(settings, model);
        let failed = |error: ArtefactIoError| {
            metrics::counter!("deepfm_version_removal_failures_total").increment(1);
            tracing::warn!("old versions cannot be removed: {:#}", anyhow::Error::from(error));
        };
        let now = jiff::Timestamp::now();
        let plan =
            match retention::plan(settings, &self.reading.known, &*artefacts, &self.config.exports.of(model), now) {
                Ok(plan) => plan,
                Err(error) => {
                    failed(error);
                    return Ok(());
                }
            };
        if plan.is_empty() {
            self.tidy(&plan, now);
            return Ok(());
        }
        let keys: Vec<String> = plan.versions.iter().filter_map(|removal| removal.key.clone()).collect();
        self.announcer.bury(&keys)?;
        retention::carry_out(&plan, &*artefacts).into_iter().for_each(failed);
        for removal in plan.versions.iter().filter(|removal| removal.key.is_some()) {
            self.reading.known.announced.remove(&removal.version);
        }
        metrics::counter!("deepfm_versions_removed_total").increment(plan.versions.len() as u64);
        let (bytes, journals) = (plan.versions.iter().map(|one| one.bytes).sum::<u64>(), plan.journals.len());
        tracing::info!("removed {} versions ({bytes} bytes) and {journals} journals", plan.versions.len());
        self.tidy(&plan, now);
        Ok(())
    }

    /// Removes from object storage what a plan has removed here, and seldom what nobody else does. What it does not let go of is left
    /// to the next time.
    fn tidy(&mut self, plan: &retention::Plan, now: jiff::Timestamp) {
        let Some(shelf) = &mut self.shelf else { return };
        shelf.tidy(plan, &self.config, &self.reading.known, now);
    }
}
