//! Versions go to object storage before they are announced: who reads of one finds it there. Storage that is away, full or slow is
//! tried again for as long as it takes, on the announcing thread: learning goes on, and at the bound of the outbox no further
//! version is cut.
//!
//! A delta goes after what it stands on: where that is missing (the last run had no storage, somebody removed it), it is uploaded
//! first. The search ends at the first version that is there: what that one stands on went before it. What the local disk does not
//! give, in several tries where it could not be read, is announced without a place; servers on this machine find it, others say so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deepfm_core::version::manifest::{CHAIN_MAX, Kind};
use deepfm_core::version::names;
use deepfm_core::version::outbox::OutboxEntry;

use super::status::{StatusBoard, StorageAway};
use crate::config::Config;
use crate::kafka::contact::SAY_AGAIN;
use crate::remote::upload::Upload;
use crate::remote::{Remote, RemoteError};

/// How long after a failure storage is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How many times a local disk is asked that does not give a version: what is announced waits for it.
const DISK_TRIES: u32 = 5;

/// How often it is looked whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// The most versions of which is remembered that they are there: they are looked for again otherwise.
const KNOWN_MAX: usize = 1024;

/// It was asked to stop before a version was there: the next run uploads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp;

/// Uploads the versions of a worker.
#[derive(Debug)]
pub struct Uploader {
    remote: Remote,
    config: Config,
    /// Versions that are there, by directory.
    known: BTreeSet<String>,
    board: StatusBoard,
    stop: Arc<AtomicBool>,
}

impl Uploader {
    /// The uploader of a worker, if its configuration has storage; `stop` ends what it waits for.
    ///
    /// # Errors
    /// When the settings make no client.
    pub fn of(config: &Config, board: &StatusBoard, stop: &Arc<AtomicBool>) -> Result<Option<Self>, RemoteError> {
        let Some(uri) = &config.storage.uri else { return Ok(None) };
        let remote = Remote::open(&config.storage, uri, Arc::clone(stop))?;
        let (config, board, stop) = (config.clone(), board.clone(), Arc::clone(stop));
        Ok(Some(Self { remote, config, known: BTreeSet::new(), board, stop }))
    }

    /// Uploads a version, and says where servers fetch it from; nothing where the local disk does not give it.
    ///
    /// # Errors
    /// When it was asked to stop before.
    pub fn upload(&mut self, entry: &OutboxEntry) -> Result<Option<String>, GivenUp> {
        let mut uploads = match self.missing(entry)? {
            Ok(uploads) => uploads,
            Err(error) => return Ok(self.not_uploaded(entry, &error)),
        };
        while let Some(mut upload) = uploads.pop() {
            let start = Instant::now();
            match self.patiently(|remote| upload.send(remote))? {
                Ok(bytes) => self.sent(&upload, bytes, start.elapsed()),
                Err(error) => return Ok(self.not_uploaded(entry, &error)),
            }
        }
        let place = self.config.storage.fetched_from();
        Ok(place.map(|uri| uri.of_version(&self.config.model.name, entry.directory())))
    }

    /// What is not there of a version and what it stands on, the oldest last.
    fn missing(&mut self, entry: &OutboxEntry) -> Result<Result<Vec<Upload>, RemoteError>, GivenUp> {
        let model = self.config.model.name.clone();
        let root = self.config.versions.of(&model);
        let mut next = Some((entry.directory().to_owned(), entry.manifest_digest().to_owned()));
        let mut missing = Vec::new();
        while let Some((directory, digest)) = next.take().filter(|_| missing.len() as u64 <= CHAIN_MAX) {
            if self.known.contains(&directory) {
                break;
            }
            let upload = |_: &Remote| Upload::of(&root.join(&directory), &model, &directory, &digest);
            let upload = match self.patiently(upload)? {
                Ok(upload) => upload,
                Err(error) => return Ok(Err(error)),
            };
            let is_there = match self.patiently(|remote| upload.is_there(remote))? {
                Ok(is_there) => is_there,
                Err(error) => return Ok(Err(error)),
            };
            if is_there {
                self.note(directory);
                break;
            }
            let parent = upload.manifest().parent.clone().filter(|_| upload.manifest().kind == Kind::Delta);
            next = parent.map(|it| (names::directory(it.version, &it.manifest_digest), it.manifest_digest));
            missing.push(upload);
        }
        Ok(Ok(missing))
    }

    /// Does something until storage takes it; what fails for another reason is told, and a local disk that fails after some tries.
    fn patiently<T>(
        &self,
        mut step: impl FnMut(&Remote) -> Result<T, RemoteError>,
    ) -> Result<Result<T, RemoteError>, GivenUp> {
        let (mut pause, mut said, mut disk_tries) = (RETRY.0, None::<Instant>, 0);
        let since = jiff::Timestamp::now();
        loop {
            let error = match step(&self.remote) {
                Err(RemoteError::Stopped) => return Err(GivenUp),
                Err(error) if !is_for_good(&error, &mut disk_tries) => error,
                outcome => {
                    if said.is_some() && outcome.is_ok() {
                        tracing::info!("{} takes versions again", self.remote.uri());
                    }
                    self.board.note(|status| status.storage_away = None);
                    return Ok(outcome);
                }
            };
            metrics::counter!("deepfm_storage_failures_total").increment(1);
            let reason = error.in_words();
            if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                tracing::warn!(
                    "no version goes to {}: {reason}; it is tried again, and learning goes on",
                    self.remote.uri()
                );
                said = Some(Instant::now());
            }
            self.board.note(|status| status.storage_away = Some(StorageAway { since, reason }));
            self.rest(pause)?;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    fn rest(&self, pause: Duration) -> Result<(), GivenUp> {
        let start = Instant::now();
        while start.elapsed() < pause {
            if self.stop.load(Ordering::Acquire) {
                return Err(GivenUp);
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }

    fn sent(&mut self, upload: &Upload, bytes: u64, elapsed: Duration) {
        let version = upload.manifest().version;
        metrics::counter!("deepfm_storage_uploads_total").increment(1);
        metrics::counter!("deepfm_storage_uploaded_bytes_total").increment(bytes);
        tracing::info!(bytes, seconds = elapsed.as_secs_f64(), "version {version} is in {}", self.remote.uri());
        self.note(upload.directory().to_owned());
    }

    fn note(&mut self, directory: String) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(directory);
    }

    fn not_uploaded(&self, entry: &OutboxEntry, error: &RemoteError) -> Option<String> {
        metrics::counter!("deepfm_storage_failures_total").increment(1);
        let version = entry.version();
        let why = error.in_words();
        tracing::error!("version {version} is announced without a place in {}: {why}", self.remote.uri());
        None
    }

    /// Where versions go.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// These are removed: they are not taken to be there any more.
    pub fn forget(&mut self, directory: &str) {
        self.known.remove(directory);
    }
}

/// Whether waiting for storage does not mend it: the version is not what it says, or the local disk has failed in all its tries.
fn is_for_good(error: &RemoteError, disk_tries: &mut u32) -> bool {
    match error {
        RemoteError::Local { .. } | RemoteError::Settings(_) => true,
        RemoteError::Disk { .. } => {
            *disk_tries += 1;
            *disk_tries >= DISK_TRIES
        }
        _ => false,
    }
}
