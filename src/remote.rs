//! Versions in object storage: uploaded by the worker, fetched by servers on other machines, listed and removed. What is done here
//! waits for its end, on the thread of who asks: nobody that learns or scores does.
//!
//! * A version is there when its manifest is: that comes last, and goes first.
//! * What is fetched is kept aside until all of it has the digests that its manifest states; it then gets its name in one step.
//! * Every request has its time, and no more of a file than [`PART_BYTES`] is in memory.

mod client;
mod credentials;
mod crypto;
pub mod fetch;
pub mod listing;
pub mod upload;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deepfm_core::version::storage_uri::StorageUri;
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Runtime;

use crate::config::storage::Storage;
use crate::durable::DurableError;

/// Bytes of a file that one request carries.
pub const PART_BYTES: u64 = 8 << 20;

/// How many times the time of a request anything may take that is made of one: it is tried twice more.
const TRIES: u32 = 4;

/// Threads that wait for the files of a `file:///` place: one request is made at a time.
const THREADS_MAX: usize = 4;

/// How long what is given up may take to be told so.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often it is looked whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Something could not be done with object storage.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum RemoteError {
    /// The settings make no client.
    #[error("the settings of [storage] cannot be used: {0}")]
    Settings(String),
    /// It does not answer, or refuses.
    #[error("cannot {doing} {place}: {reason}")]
    Storage { doing: &'static str, place: String, reason: String },
    /// There is nothing of this name.
    #[error("{0} is missing")]
    Missing(String),
    /// It is longer or shorter there than it should be.
    #[error("{place} has {found} bytes, {expected} are expected")]
    Length { place: String, found: u64, expected: u64 },
    /// It is another than it should be.
    #[error("{place} has digest {found}, {expected} is expected")]
    Digest { place: String, found: String, expected: String },
    /// The object that is there was fetched before, and was not what it should be.
    #[error("{0} is still the object that was refused before")]
    Unchanged(String),
    /// The time of a load is over, and something has come in it: the next try goes on there.
    #[error("{place} is not here yet: {brought} bytes came, and the rest is fetched next")]
    Unfinished { place: String, brought: u64 },
    /// The local disk refuses.
    #[error(transparent)]
    Disk(#[from] DurableError),
    /// The local version is not what its manifest says.
    #[error("{path} is not the version to upload: {reason}")]
    Local { path: PathBuf, reason: String },
    /// It was asked to stop.
    #[error("asked to stop")]
    Stopped,
}

impl RemoteError {
    /// It with its causes, in one line that is no longer than anybody reads.
    pub fn in_words(&self) -> String {
        said(self)
    }

    /// Whether the local disk has no room, for this user at least.
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Disk(error) if matches!(error.source.kind(), QuotaExceeded | StorageFull))
    }
}

/// A place in object storage, and the client that reaches it.
pub struct Remote {
    store: Box<dyn ObjectStore>,
    uri: StorageUri,
    prefix: Path,
    /// There until it is dropped.
    runtime: Option<Runtime>,
    /// When everything has to be over that is waited for, if that is set.
    deadline: Option<Instant>,
    /// How long a request may take.
    time: Duration,
    /// Ends every wait.
    stop: Arc<AtomicBool>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri)
    }
}

impl Remote {
    /// The place of this URI; nothing is asked yet. Whoever sets `stop` ends what is waited for.
    ///
    /// # Errors
    /// When the settings make no client.
    pub fn open(settings: &Storage, uri: &StorageUri, stop: Arc<AtomicBool>) -> Result<Self, RemoteError> {
        let unusable = |error: &dyn fmt::Display| RemoteError::Settings(error.to_string());
        let time = Duration::from_secs(settings.timeout_seconds);
        // The runtime comes last: one that is dropped by a failure after it would panic in a caller that is asynchronous.
        let store = client::build(settings, uri).map_err(|error| unusable(&error))?;
        let prefix = client::prefix(uri).map_err(|error| unusable(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(THREADS_MAX)
            .build()
            .map_err(|error| unusable(&error))?;
        Ok(Self { store, prefix, runtime: Some(runtime), deadline: None, uri: uri.clone(), time, stop })
    }

    /// Where it is.
    pub fn uri(&self) -> &StorageUri {
        &self.uri
    }

    /// The object of a file of a version.
    fn object(&self, model: &str, directory: &str, file: &str) -> Path {
        self.prefix.clone().join(model).join(directory).join(file)
    }

    /// What an object is called in words.
    fn named(&self, object: &Path) -> String {
        let below = object.prefix_match(&self.prefix);
        let below: Vec<String> = below.into_iter().flatten().map(|part| part.as_ref().to_owned()).collect();
        format!("{}/{}", self.uri, below.join("/"))
    }

    /// Waits for something, for as long as its requests may take.
    fn wait<T>(
        &self,
        doing: &'static str,
        object: &Path,
        future: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, RemoteError> {
        self.within(doing, object, async { future.await.map_err(|error| self.failure(doing, object, &error)) })
    }

    /// The same for what tells its own failures.
    fn within<T>(
        &self,
        doing: &'static str,
        object: &Path,
        future: impl Future<Output = Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let limit = self.time.saturating_mul(TRIES).min(left.unwrap_or(Duration::MAX));
        let (place, reason) = (self.named(object), format!("no end within {limit:?}"));
        self.runtime().block_on(async {
            tokio::select! {
                outcome = future => outcome,
                () = tokio::time::sleep(limit) => Err(RemoteError::Storage { doing, place, reason }),
                () = self.stopped() => Err(RemoteError::Stopped),
            }
        })
    }

    /// Waits for something of little weight for a moment, also when it was asked to stop.
    fn briefly<T>(&self, future: impl Future<Output = object_store::Result<T>>) {
        // Timers are made within the runtime.
        let _ = self.runtime().block_on(async { tokio::time::timeout(FAREWELL, future).await });
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until it is dropped")
    }

    /// Whether the time of what is waited for is over.
    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|at| at <= Instant::now())
    }

    async fn stopped(&self) {
        while !self.stop.load(Ordering::Acquire) {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn failure(&self, doing: &'static str, object: &Path, error: &object_store::Error) -> RemoteError {
        match error {
            object_store::Error::NotFound { .. } => RemoteError::Missing(self.named(object)),
            error => RemoteError::Storage { doing, place: self.named(object), reason: said(error) },
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // A request to a file system that hangs has no end: it is not waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An error with its causes, in one line that is no longer than anybody reads.
fn said(error: &dyn std::error::Error) -> String {
    use deepfm_core::event::DETAIL_CHARS_MAX;
    use deepfm_core::event::plain::plain;
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !words.contains(&said) {
            words = format!("{words}: {said}");
        }
        cause = error.source();
    }
    plain(&words, DETAIL_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::storage::Addressing;

    #[test]
    fn settings_that_make_no_client_are_an_error_to_a_caller_that_is_asynchronous() {
        let storage = Storage {
            endpoint: Some("http://127.0.0.1:9000".parse().expect("it is one")),
            addressing: Addressing::Virtual,
            ..Storage::default()
        };
        let uri: StorageUri = "s3://bucket/models".parse().expect("it is one");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it can be made");
        let open = |storage: &Storage| Remote::open(storage, &uri, Arc::default()).map(drop);
        // One that was made goes without a panic, too.
        let (refused, made) = runtime.block_on(async { (open(&storage), open(&Storage::default())) });
        assert!(matches!(refused, Err(RemoteError::Settings(_))), "{refused:?}");
        assert!(made.is_ok(), "{made:?}");
    }
}
