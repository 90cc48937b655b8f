//! The announcing thread: a version that is installed is announced, and `live` moves to it. Its queue is the outbox, which
//! is bounded: at [`OUTBOX_MAX`] no further version is cut until the broker has taken one.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::error::WorkerError;
use crate::config::Config;
use crate::publish::announcement::{Alias, Announcement, LIVE};
use crate::publish::topic::{Announcer, TopicError, Versions};
use crate::snapshot::outbox::OutboxEntry;
use crate::source::vital;

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
    pub fn start(config: &Config, announcer: Announcer, known: &Versions) -> Self {
        let model = config.model.name.clone();
        let mut live = known.aliases.get(LIVE).cloned();
        let (entries, inbox) = channel::<OutboxEntry>();
        let (outbox, announced) = channel();
        let body = move |outbox: &Sender<Result<u64, WorkerError>>| {
            for entry in inbox {
                vital::failpoint("announcing");
                let announced = announce(&announcer, &model, &entry, &mut live);
                let result = announced.map(|()| entry.version).map_err(WorkerError::from);
                let failed = result.is_err();
                // The receiver may be gone already; then nobody wants to know.
                if outbox.send(result).is_err() || failed {
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

    /// Waits for the announcements that are under way.
    ///
    /// # Errors
    /// When one could not be announced.
    pub fn finish(mut self) -> Result<Vec<u64>, WorkerError> {
        let mut announced = self.announced()?;
        while self.waiting > 0 {
            let Ok(result) = self.announced.recv_timeout(FAREWELL) else {
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

fn announce(
    announcer: &Announcer,
    model: &str,
    entry: &OutboxEntry,
    live: &mut Option<Alias>,
) -> Result<(), TopicError> {
    let mut records = vec![(entry.key.clone(), entry.announcement.clone())];
    let announcement: Option<Announcement> = serde_json::from_str(&entry.announcement).ok();
    // An alias never moves back by itself: a version that is announced again after a restart may be an old one.
    let is_newer = live.as_ref().is_none_or(|live| live.version < entry.version);
    let moved = announcement
        .filter(|_| entry.goes_live && is_newer)
        .map(|announcement| Alias::moved(live.as_ref(), LIVE, &announcement, jiff::Timestamp::now().to_string()));
    if let Some(alias) = &moved {
        let record = serde_json::to_string(alias).expect("an alias always encodes");
        records.push((Alias::key(model, LIVE), record));
    }
    announcer.write(&records)?;
    if moved.is_some() {
        *live = moved;
    }
    tracing::info!("version {} is announced{}", entry.version, if entry.goes_live { " and live" } else { "" });
    Ok(())
}
