//! The announcing thread: a version that is installed is announced, and `live` moves to it; then those are removed that are
//! kept no longer. Its queue is the outbox, which
//! is bounded: at [`OUTBOX_MAX`] no further version is cut until the broker has taken one.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::error::WorkerError;
use super::narrator;
use crate::artefacts::{self, ArtefactIoError};
use crate::config::Config;
use crate::publish::retention;
use crate::publish::topic::{Announcer, Record, TopicError};
use crate::thread::Hand;
use deepfm_core::version::announcement::{Alias, LIVE};
use deepfm_core::version::known::KnownVersions;
use deepfm_core::version::outbox::OutboxEntry;

/// The most versions that wait for their announcement.
pub const OUTBOX_MAX: usize = 8;

/// How long a stopping worker waits for announcements: what is left is settled at the next start.
const FAREWELL: Duration = Duration::from_secs(10);

/// The hand that gives versions to the announcing thread.
#[derive(Debug)]
pub struct Publisher {
    hand: Hand<OutboxEntry, Result<u64, WorkerError>>,
    /// Versions that found no room: those that the last run left may be many.
    waiting: VecDeque<OutboxEntry>,
}

impl Publisher {
    /// Starts the thread; `known` is what the topic said after all earlier writers were fenced off.
    pub fn start(config: &Config, announcer: Announcer, known: &KnownVersions) -> Self {
        let mut desk = Desk { announcer, config: config.clone(), known: known.clone() };
        let work = move |entry: OutboxEntry, tell: &mut dyn FnMut(Result<u64, WorkerError>)| {
            let announced = desk.announce(&entry).map(|()| entry.version()).map_err(WorkerError::from);
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
        Self { hand, waiting: VecDeque::new() }
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
    pub fn announced(&mut self) -> Result<Vec<u64>, WorkerError> {
        let announced = std::iter::from_fn(|| self.hand.try_take()).collect::<Result<_, _>>()?;
        self.hand_on();
        Ok(announced)
    }

    /// Waits a moment for the announcements that are under way.
    ///
    /// # Errors
    /// When one could not be announced.
    pub fn finish(mut self) -> Result<Vec<u64>, WorkerError> {
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
    /// What the topic says.
    known: KnownVersions,
}

impl Desk {
    fn announce(&mut self, entry: &OutboxEntry) -> Result<(), TopicError> {
        let announcement = &entry.announcement;
        let mut records = vec![Record::new(announcement.key(), announcement.to_json())];
        // An alias never moves back by itself: a version that is announced again after a restart may be an old one.
        let live = self.known.aliases.get(LIVE);
        let is_newer = live.is_none_or(|live| live.version < announcement.version);
        let moved = (entry.goes_live && is_newer)
            .then(|| Alias::moved(live, LIVE, announcement, jiff::Timestamp::now().to_string()));
        if let Some(alias) = &moved {
            let record = serde_json::to_string(alias).expect("an alias always encodes");
            records.push(Record::new(Alias::key(&self.config.model.name, LIVE), record));
        }
        self.announcer.write(&records)?;
        self.known.newest = self.known.newest.max(Some(announcement.version));
        narrator::announced(announcement, entry.goes_live);
        self.known.announced.insert(announcement.version, announcement.clone());
        self.known.aliases.extend(moved.map(|alias| (LIVE.to_owned(), alias)));
        Ok(())
    }

    /// Removes the versions that are kept no longer. What the disk does not let go of is tried again after the next version.
    fn remove_old(&mut self) -> Result<(), TopicError> {
        let model = &self.config.model.name;
        let settings = &self.config.versions;
        let artefacts = artefacts::of_model(settings, model);
        let failed = |error: ArtefactIoError| {
            metrics::counter!("deepfm_version_removal_failures_total").increment(1);
            tracing::warn!("old versions cannot be removed: {:#}", anyhow::Error::from(error));
        };
        let now = jiff::Timestamp::now();
        let plan = match retention::plan(settings, &self.known, &*artefacts, &self.config.exports.of(model), now) {
            Ok(plan) => plan,
            Err(error) => {
                failed(error);
                return Ok(());
            }
        };
        if plan.is_empty() {
            return Ok(());
        }
        let keys: Vec<String> = plan.versions.iter().filter_map(|removal| removal.key.clone()).collect();
        self.announcer.bury(&keys)?;
        retention::carry_out(&plan, &*artefacts).into_iter().for_each(failed);
        for removal in plan.versions.iter().filter(|removal| removal.key.is_some()) {
            self.known.announced.remove(&removal.version);
        }
        metrics::counter!("deepfm_versions_removed_total").increment(plan.versions.len() as u64);
        let (bytes, journals) = (plan.versions.iter().map(|one| one.bytes).sum::<u64>(), plan.journals.len());
        tracing::info!("removed {} versions ({bytes} bytes) and {journals} journals", plan.versions.len());
        Ok(())
    }
}
