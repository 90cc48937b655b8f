//! Arms of a comparison: each follows a target of its own and gets a share of the requests. The same key always meets the same
//! arm, as long as the arms are the same: its hash falls into one of their shares.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

pub use deepfm_core::version::arms::{ArmError, ArmSpec, ONLY, check};

use crate::serve::follow::{FollowStatus, Server};
use crate::serve::model::ServedModel;
use crate::serve::scorer::Scorer;

/// An arm that serves.
#[derive(Debug)]
pub struct Arm {
    pub(super) name: String,
    share: f64,
    server: Server,
    /// Scorers that no request uses now.
    idle: Mutex<Vec<Scorer>>,
}

/// All arms.
#[derive(Debug)]
pub struct Arms(Vec<Arm>);

/// What an arm says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct ArmStatus {
    /// Its name.
    pub arm: String,
    /// Its share of the requests.
    pub share: f64,
    /// How old what its version has learned is, in milliseconds of event time.
    pub age_ms: Option<i64>,
    /// What it follows, and how far.
    #[serde(flatten)]
    pub follow: FollowStatus,
}

impl Arm {
    /// Does something with a scorer of its own.
    pub(super) fn with_scorer<T>(&self, work: impl FnOnce(&mut Scorer) -> T) -> T {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut scorer = idle.unwrap_or_else(|| self.server.scorer());
        let done = work(&mut scorer);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(scorer);
        done
    }

    /// The version that new requests are answered with.
    pub(super) fn version(&self) -> Option<u64> {
        self.server.model().map(|model| model.version())
    }

    pub(super) fn model(&self) -> Option<std::sync::Arc<ServedModel>> {
        self.server.model()
    }

    pub(super) fn status(&self, now_ms: i64) -> ArmStatus {
        let age_ms = self.server.model().and_then(|model| model.age_ms(now_ms));
        ArmStatus { arm: self.name.clone(), share: self.share, age_ms, follow: self.server.status() }
    }
}

impl Arms {
    /// Arms, each with the server that follows its target.
    pub fn new(arms: Vec<(ArmSpec, Server)>) -> Self {
        let arm = |(ArmSpec { name, share, .. }, server)| Arm { name, share, server, idle: Mutex::default() };
        Self(arms.into_iter().map(arm).collect())
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arm> {
        self.0.iter()
    }

    /// Whether there is but one.
    pub(super) fn is_single(&self) -> bool {
        self.0.len() == 1
    }

    /// The arm of a request with this key.
    pub(super) fn of_key(&self, key: &[u8]) -> &Arm {
        let at = xxh3_64(key) as f64 / 2.0_f64.powi(64);
        let mut end = 0.0;
        let arm = self.0.iter().find(|arm| {
            end += arm.share;
            at < end
        });
        // Shares come to one but for rounding.
        arm.unwrap_or_else(|| self.0.last().expect("there is an arm"))
    }

    /// An arm that serves this version.
    pub(super) fn of_version(&self, version: u64) -> Option<&Arm> {
        self.0.iter().find(|arm| arm.version() == Some(version))
    }

    /// Lets scorers that no request uses take the newest version, so that they hold no old one in memory.
    pub fn refresh(&self) {
        for arm in &self.0 {
            // They stay where they are: a request that came meanwhile would add another, for good. No version is freed here.
            for scorer in &mut *arm.idle.lock().unwrap_or_else(PoisonError::into_inner) {
                scorer.refresh();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::serve::target::{FollowOptions, Target};

    #[test]
    fn there_are_never_more_scorers_than_requests_at_once() {
        let root = tempfile::tempdir().expect("a directory of our own");
        let options = FollowOptions { target: Target::Latest, ..FollowOptions::new("ctr") };
        let server = Server::follow_directory(root.path(), options).expect("it can be followed so");
        let arms = Arms::new(vec![("default=latest:1".parse().expect("it is one"), server)]);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Acquire) {
                    arms.refresh();
                }
            });
            for _ in 0..100_000 {
                arms.of_key(b"").with_scorer(|_| ());
            }
            is_over.store(true, Ordering::Release);
        });
        assert_eq!(arms.0[0].idle.lock().expect("nobody panicked").len(), 1);
    }
}
