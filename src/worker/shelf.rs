//! The versions in object storage as they go: those that are removed here, and what nobody else removes, which is looked for seldom,
//! since it takes a list of everything.

use std::time::{Duration, Instant};

use deepfm_core::version::known::KnownVersions;

use super::uploader::Uploader;
use crate::config::Config;
use crate::publish::retention::{self, Plan};
use crate::remote::RemoteError;

/// How often everything is listed.
const LIST_EVERY: Duration = Duration::from_hours(1);

/// Object storage, of the announcing thread.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) uploader: Uploader,
    listed_at: Option<Instant>,
}

impl Shelf {
    pub(super) fn new(uploader: Uploader) -> Self {
        Self { uploader, listed_at: None }
    }

    /// Removes what a plan has removed from the local disk, whose announcements are tombstones by now; at first and then each hour
    /// what is of no use beside. A failure is counted and said: it is left to the next list.
    pub(super) fn tidy(&mut self, plan: &Plan, config: &Config, known: &KnownVersions, now: jiff::Timestamp) {
        let mut directories: Vec<String> = plan.versions.iter().map(|removal| removal.directory.clone()).collect();
        let is_due = self.listed_at.is_none_or(|at| at.elapsed() >= LIST_EVERY);
        if is_due && config.versions.keep > 0 {
            self.listed_at = Some(Instant::now());
            match self.uploader.remote().list(&config.model.name) {
                Ok(listed) => {
                    let removals = retention::plan_remote(&config.versions, known, plan, &listed, now);
                    directories.extend(removals.into_iter().map(|removal| removal.directory));
                }
                Err(error) => failed(&error),
            }
        }
        directories.sort_unstable();
        directories.dedup();
        for directory in directories {
            self.uploader.forget(&directory);
            match self.uploader.remote().remove(&config.model.name, &directory) {
                Ok(()) => metrics::counter!("deepfm_storage_removals_total").increment(1),
                Err(error) => {
                    failed(&error);
                    // The rest would most likely fail as well, and versions wait.
                    return;
                }
            }
        }
    }
}

fn failed(error: &RemoteError) {
    metrics::counter!("deepfm_storage_failures_total").increment(1);
    tracing::warn!("old versions cannot be removed from object storage: {error}");
}
