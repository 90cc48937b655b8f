//! The thread that follows versions: news in, one version loaded at a time, the pointer swapped, and the version before let
//! go when its last request is done. Requests never wait for it, and nothing of a version is freed by them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use deepfm_core::version::acknowledgement::{ServedVersion, written};
use serde::Serialize;

#[cfg(feature = "object-store")]
use super::cache::Cache;
use super::current::Current;
use super::directory::{Listing, Notices};
use super::follower::{Follower, LoadFailure, Offer};
use super::load;
use super::model::ServedModel;
use super::places::Places;
use super::scorer::Scorer;
use super::state::{LoadStage, VersionState, VersionStatus};
use super::target::{FollowOptions, Target};
use crate::thread;

/// How long news are waited for at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is asked whether the last request of an old version is done.
const DRAIN: Duration = Duration::from_millis(20);

/// Versions cannot be followed so.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A directory has no aliases.
    #[error("a directory of versions has no alias {0:?}: follow the newest, or pin a number")]
    NoAliases(String),
    /// The model's name is none.
    #[error(transparent)]
    Name(#[from] deepfm_core::version::names::NameError),
    /// Nothing can be fetched so.
    #[cfg(feature = "object-store")]
    #[error(transparent)]
    Cache(#[from] super::cache::CacheError),
}

/// What a follower says of itself.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FollowStatus {
    /// What is followed.
    pub target: String,
    /// The version that new requests are answered with.
    pub serving: Option<u64>,
    /// What there is to know of it.
    pub served: Option<ServedVersion>,
    /// Versions, the newest last.
    pub versions: Vec<VersionStatus>,
    /// Versions that were loaded since the start.
    pub loads: u64,
    /// Versions that could not be, by where they failed.
    pub failures: BTreeMap<LoadStage, u64>,
    /// How long the last load took, from the decision to the swap, in seconds.
    pub load_seconds: Option<f64>,
    /// What keeps news away now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Why nothing is followed any more: a bug. The version served is served on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    current: Arc<Current>,
    status: Mutex<FollowStatus>,
    is_stopping: Arc<AtomicBool>,
    /// Who is woken when a version was swapped in.
    waiting: Mutex<Option<Thread>>,
}

impl Shared {
    fn update(&self, change: impl FnOnce(&mut FollowStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Another version is served.
    fn swapped(&self, served: ServedVersion) {
        self.update(|status| {
            status.loads += 1;
            status.load_seconds = Some(served.load_seconds);
            status.served = Some(served);
        });
        if let Some(thread) = &*self.waiting.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }

    fn status(&self) -> FollowStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is served, for one who tells others of it. It holds up neither following nor requests: it is woken, and looks.
#[derive(Clone, Debug)]
pub struct Watch(Arc<Shared>);

impl Watch {
    /// The version that is served.
    pub fn served(&self) -> Option<ServedVersion> {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner).served.clone()
    }

    /// Unparks this thread whenever a version was swapped in, in place of one that was named before.
    pub fn wake(&self, thread: Thread) {
        *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }
}

/// Follows one target and gives out scorers. The thread ends with it; scorers keep the version that they have.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    rows_max: usize,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Follows the versions in a directory, such as `versions/clicks`; it may come into being later.
    ///
    /// # Errors
    /// When an alias is to be followed, or the model's name is none.
    pub fn follow_directory(versions: &Path, options: FollowOptions) -> Result<Self, FollowError> {
        if let Target::Alias(alias) = &options.target {
            return Err(FollowError::NoAliases(alias.clone()));
        }
        let listing = Listing::of(versions.to_owned(), options.poll);
        Self::start(Box::new(listing), versions.to_owned(), options)
    }

    pub(super) fn start(notices: Box<dyn Notices>, root: PathBuf, options: FollowOptions) -> Result<Self, FollowError> {
        deepfm_core::version::names::check_model(&options.model)?;
        let shared = Arc::<Shared>::default();
        shared.update(|status| status.target = options.target.to_string());
        let rows_max = options.rows_max;
        let places = Places::new(root);
        #[cfg(feature = "object-store")]
        let (places, cache) = match Cache::open(&options, &shared.is_stopping)? {
            Some(cache) => (places.and(cache.root().to_owned()), Some(cache)),
            None => (places, None),
        };
        let following = Following {
            follower: Follower::new(options.target.clone()),
            notices,
            places,
            #[cfg(feature = "object-store")]
            cache,
            options,
            shared: Arc::clone(&shared),
            draining: Vec::new(),
            stamps: BTreeMap::new(),
        };
        let body = {
            let shared = Arc::clone(&shared);
            move || {
                let ended = catch_unwind(AssertUnwindSafe(|| following.run()));
                if ended.is_err() {
                    tracing::error!("following versions has ended by a bug in deepfm; the version served is served on");
                    shared.update(|status| status.ended = Some("the thread has panicked: a bug in deepfm".to_owned()));
                }
            }
        };
        let thread = thread::aside("following", body);
        Ok(Self { shared, rows_max, thread: Some(thread) })
    }

    /// A scorer for one thread or connection.
    pub fn scorer(&self) -> Scorer {
        Scorer::new(Arc::clone(&self.shared.current), self.rows_max)
    }

    /// The version that new requests are answered with.
    pub fn model(&self) -> Option<Arc<ServedModel>> {
        self.shared.current.model()
    }

    /// What it says of itself.
    pub fn status(&self) -> FollowStatus {
        self.shared.status()
    }

    /// For one who tells others what is served.
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.shared))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // Its panic was said already.
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Following {
    follower: Follower,
    notices: Box<dyn Notices>,
    places: Places,
    /// Where versions are fetched to that are not here.
    #[cfg(feature = "object-store")]
    cache: Option<Cache>,
    options: FollowOptions,
    shared: Arc<Shared>,
    /// Versions that were served before, and may still be in use.
    draining: Vec<(String, Arc<ServedModel>)>,
    /// What the files of versions that failed for good looked like.
    stamps: BTreeMap<String, Option<u64>>,
}

impl Following {
    fn run(mut self) {
        let mut has_loaded = false;
        while !self.shared.is_stopping.load(Ordering::Acquire) {
            // Between two loads news are taken without waiting: the next may be a better one by then.
            let patience = if has_loaded { Duration::ZERO } else { self.patience(Instant::now()) };
            let Self { follower, notices, .. } = &mut self;
            notices.poll(patience, &mut |notice| follower.notice(notice));
            self.look_again();
            self.tell();
            let next = self.follower.next(Instant::now());
            has_loaded = next.is_some();
            if let Some(offer) = next {
                self.load(&offer);
            }
            self.sweep();
            self.tell();
        }
    }

    fn patience(&self, now: Instant) -> Duration {
        let retry = self.follower.retry_at().map(|at| at.saturating_duration_since(now));
        let drain = (!self.draining.is_empty()).then_some(DRAIN);
        [retry, drain].into_iter().flatten().fold(PATIENCE, Duration::min)
    }

    /// Versions that failed for good are tried again when their files have changed.
    fn look_again(&mut self) {
        let given_up = self.follower.given_up();
        self.stamps.retain(|directory, _| given_up.contains(directory));
        for directory in given_up {
            let stamp = load::stamp(&self.places.of(&directory));
            if self.stamps.get(&directory).is_some_and(|before| *before != stamp) {
                self.stamps.remove(&directory);
                self.follower.forgive(&directory);
            }
        }
    }

    fn load(&mut self, offer: &Offer) {
        self.tell();
        let start = Instant::now();
        // From before it is read: what changes meanwhile is a change.
        let stamp = load::stamp(&self.places.of(&offer.directory));
        let held = self.shared.current.model();
        #[cfg(feature = "object-store")]
        let fetched = self.fetch(offer, held.as_deref());
        #[cfg(not(feature = "object-store"))]
        let fetched = Ok(());
        let Self { follower, places, options, shared, .. } = self;
        let mut note = |state: VersionState| {
            follower.progressed(state);
            shared.update(|status| status.versions = follower.statuses());
        };
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            fetched.and_then(|()| load::load(places, offer, options, held.as_deref(), &mut note))
        }));
        let loaded = loaded.unwrap_or_else(|_| {
            let reason = "loading it has panicked: a bug in deepfm".to_owned();
            Err(LoadFailure::new(LoadStage::Verifying, reason))
        });
        match loaded {
            Ok(model) => {
                let model = Arc::new(model);
                self.swap(Arc::clone(&model));
                let seconds = start.elapsed().as_secs_f64();
                tracing::info!("version {} is served, {seconds:.3} s after its load began", offer.version);
                self.shared.swapped(served(&model, seconds));
            }
            Err(failure) if failure.is_held => {
                tracing::info!("version {} ({}) is passed over: {}", offer.version, offer.directory, failure.reason);
                self.follower.failed(failure, Instant::now());
            }
            Err(failure) if failure.is_unfinished => {
                tracing::info!("version {} ({}) is fetched on: {}", offer.version, offer.directory, failure.reason);
                self.follower.failed(failure, Instant::now());
            }
            Err(failure) => {
                let LoadFailure { stage, reason, .. } = &failure;
                #[cfg(feature = "object-store")]
                if let Some(cache) = self.cache.as_ref().filter(|_| failure.is_damage) {
                    cache.forget(&offer.directory);
                }
                tracing::error!("version {} ({}) is not served: {stage}: {reason}", offer.version, offer.directory);
                self.shared.update(|status| *status.failures.entry(*stage).or_default() += 1);
                if !failure.is_transient {
                    self.stamps.insert(offer.directory.clone(), stamp);
                }
                self.follower.failed(failure, Instant::now());
            }
        }
        self.tell();
    }

    /// Fetches what is not here of a version, and of what it stands on.
    #[cfg(feature = "object-store")]
    fn fetch(&mut self, offer: &Offer, held: Option<&ServedModel>) -> Result<(), LoadFailure> {
        let Self { cache, places, .. } = self;
        let Some(cache) = cache else { return Ok(()) };
        let fetch = AssertUnwindSafe(|| cache.fetch(offer, places, held));
        catch_unwind(fetch).unwrap_or_else(|_| {
            let reason = "fetching it has panicked: a bug in deepfm".to_owned();
            Err(LoadFailure::new(LoadStage::Fetching, reason))
        })
    }

    fn swap(&mut self, model: Arc<ServedModel>) {
        #[cfg(feature = "object-store")]
        if let Some(cache) = &mut self.cache {
            cache.swapped(deepfm_core::version::names::directory(model.manifest.version, &model.digest));
        }
        let before = self.shared.current.swap(model);
        if let (Some(directory), Some(model)) = (self.follower.swapped(), before) {
            self.draining.push((directory, model));
        }
    }

    /// Frees versions that nobody uses any more.
    fn sweep(&mut self) {
        let Self { draining, follower, .. } = self;
        draining.retain(|(directory, model)| {
            // It is current no more, so that nobody can begin to use it.
            let is_used = Arc::strong_count(model) > 1;
            if !is_used {
                follower.retired(directory);
            }
            is_used
        });
    }

    fn tell(&self) {
        let (versions, serving) = (self.follower.statuses(), self.follower.serving());
        let trouble = self.notices.trouble().map(str::to_owned);
        self.shared.update(|status| {
            (status.versions, status.serving, status.trouble) = (versions, serving, trouble);
        });
    }
}

/// What there is to know of a version that has just been swapped in.
fn served(model: &ServedModel, load_seconds: f64) -> ServedVersion {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ServedVersion {
        version: model.version(),
        manifest_digest: model.digest().to_owned(),
        watermark: model.manifest().watermark,
        probes_digest: model.probes_digest.clone(),
        loaded_at: written(now.as_millis() as i64),
        load_seconds,
    }
}
