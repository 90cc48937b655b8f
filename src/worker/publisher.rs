//! The announcing thread: a version that is installed is announced, and `live` moves to it; then those are removed that are
//! kept no longer. Its queue is the outbox, which
//! is bounded: at [`OUTBOX_MAX`] no further version is cut until the broker has taken one.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::WorkerError;
use super::narrator;
use crate::config::Config;
use crate::publish::artefacts::ArtefactIoError;
use crate::publish::retention;
use crate::publish::topic::{Announcer, Record, TopicError};
use crate::source::vital;
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
    entries: Option<Sender<OutboxEntry>>,
    announced: Receiver<Result<u64, WorkerError>>,
    thread: Option<JoinHandle<()>>,
    waiting: usize,
}

impl Publisher {
    /// Starts the thread; `known` is what the topic said after all earlier writers were fenced off.
    pub fn start(config: &Config, announcer: Announcer, known: &KnownVersions) -> Self {
        let mut desk = Desk { announcer, config: config.clone(), known: known.clone() };
        let (entries, inbox) = channel::<OutboxEntry>();
        let (outbox, announced) = channel();
        let body = move |outbox: &Sender<Result<u64, WorkerError>>| {
            for entry in inbox {
                vital::failpoint("announcing");
                let result = desk.announce(&entry).map(|()| entry.version()).map_err(WorkerError::from);
                let failed = result.is_err();
                // The receiver may be gone already; then nobody wants to know.
                if outbox.send(result).is_err() || failed {
                    return;
                }
                if let Err(error) = desk.remove_old() {
                    let _ = outbox.send(Err(error.into()));
                    return;
                }
            }
        };
        let thread = vital::spawn("announcing", outbox, body, |panicked| Err(panicked.into()));
        Self { entries: Some(entries), announced, thread: Some(thread), waiting: 0 }
    }

    /// Gives a version to the thread.
    pub fn announce(&mut self, entry: OutboxEntry) {
        self.waiting += 1;
        if let Some(entries) = &self.entries {
            // A thread that has failed says why through `announced`.
            let _ = entries.send(entry);
        }
    }

    /// Versions that were announced since the last call.
    ///
    /// # Errors
    /// When one could not be announced.
    pub fn announced(&mut self) -> Result<Vec<u64>, WorkerError> {
        let announced: Vec<u64> = self.announced.try_iter().collect::<Result<_, _>>()?;
        self.waiting -= announced.len();
        Ok(announced)
    }

    /// Waits a moment for the announcements that are under way.
    ///
    /// # Errors
    /// When one could not be announced.
    pub fn finish(mut self) -> Result<Vec<u64>, WorkerError> {
        let mut announced = self.announced()?;
        let start = Instant::now();
        while self.waiting > 0 {
            let Ok(result) = self.announced.recv_timeout(FAREWELL.saturating_sub(start.elapsed())) else {
                break;
            };
            announced.push(result?);
            self.waiting -= 1;
        }
        Ok(announced)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.entries = None;
        if let Some(thread) = self.thread.take()
            && self.waiting == 0
            && thread.join().is_err()
        {
            tracing::error!("the announcing thread has panicked");
        }
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
        let (settings, root) = (&self.config.versions, self.config.versions.of(model));
        let failed = |error: ArtefactIoError| {
            metrics::counter!("deepfm_version_removal_failures_total").increment(1);
            tracing::warn!("old versions cannot be removed: {:#}", anyhow::Error::from(error));
        };
        let now = jiff::Timestamp::now();
        let plan = match retention::plan(settings, &self.known, &root, &self.config.exports.of(model), now) {
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
        retention::carry_out(&plan, &root).into_iter().for_each(failed);
        for removal in plan.versions.iter().filter(|removal| removal.key.is_some()) {
            self.known.announced.remove(&removal.version);
        }
        metrics::counter!("deepfm_versions_removed_total").increment(plan.versions.len() as u64);
        let (bytes, journals) = (plan.versions.iter().map(|one| one.bytes).sum::<u64>(), plan.journals.len());
        tracing::info!("removed {} versions ({bytes} bytes) and {journals} journals", plan.versions.len());
        Ok(())
    }
}
