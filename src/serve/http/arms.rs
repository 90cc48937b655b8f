//! Arms of a comparison: each follows a target of its own and gets a share of the requests. The same key always meets the same
//! arm, as long as the arms are the same: its hash falls into one of their shares.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::serve::follow::{FollowStatus, Server};
use crate::serve::model::ServedModel;
use crate::serve::scorer::Scorer;
use crate::serve::target::Target;

/// The name of the arm where there is one only.
pub const ONLY: &str = "default";

/// The most arms.
pub const ARMS_MAX: usize = 16;

/// The most characters of an arm's name.
const NAME_CHARS_MAX: usize = 64;

/// An arm as it is asked for: `NAME=TARGET:SHARE`.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmSpec {
    /// Its name, which answers have.
    pub name: String,
    /// What it follows.
    pub target: Target,
    /// Its share of the requests, in (0, 1].
    pub share: f64,
}

/// Arms that cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ArmError {
    /// It is not written as one.
    #[error("{0:?} is no arm: write NAME=TARGET:SHARE, such as control=live:0.9")]
    Form(String),
    /// Two have one name.
    #[error("two arms are named {0:?}")]
    Twice(String),
    /// There are too many.
    #[error("{0} arms are more than {ARMS_MAX}")]
    Many(usize),
    /// Shares do not come to one.
    #[error("the shares of the arms come to {0}, not to 1")]
    Shares(f64),
}

impl FromStr for ArmSpec {
    type Err = ArmError;

    fn from_str(text: &str) -> Result<Self, ArmError> {
        let parse = || {
            let (name, rest) = text.split_once('=')?;
            let (target, share) = rest.rsplit_once(':')?;
            let share: f64 = share.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0)?;
            let is_name = !name.is_empty()
                && name.len() <= NAME_CHARS_MAX
                && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter));
            let target = target.parse().ok().filter(|_| !target.is_empty())?;
            is_name.then(|| Self { name: name.to_owned(), target, share })
        };
        parse().ok_or_else(|| ArmError::Form(text.chars().take(100).collect()))
    }
}

/// Checks that arms can stand together.
///
/// # Errors
/// When there are too many, two have one name, or the shares do not come to one.
pub fn check(arms: &[ArmSpec]) -> Result<(), ArmError> {
    if arms.len() > ARMS_MAX {
        return Err(ArmError::Many(arms.len()));
    }
    for (number, arm) in arms.iter().enumerate() {
        if arms[..number].iter().any(|other| other.name == arm.name) {
            return Err(ArmError::Twice(arm.name.clone()));
        }
    }
    let sum: f64 = arms.iter().map(|arm| arm.share).sum();
    if (sum - 1.0).abs() < 1e-6 { Ok(()) } else { Err(ArmError::Shares(sum)) }
}

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
    use crate::serve::target::FollowOptions;

    #[test]
    fn arms_are_read_as_they_are_written_and_stand_together_or_not() {
        let arm = |text: &str| text.parse::<ArmSpec>();
        let control = arm("control=live:0.9").expect("it is one");
        assert_eq!((control.name.as_str(), &control.target, control.share), ("control", &Target::default(), 0.9));
        assert_eq!(arm("b=17:1").expect("it is one").target, Target::Pinned(17));
        for text in ["", "a", "a=live", "a=:0.5", "=live:0.5", "a=live:0", "a=live:1.5", "a=live:NaN", "a b=live:1"] {
            assert_eq!(arm(text), Err(ArmError::Form(text.to_owned())));
        }
        let other = arm("other=latest:0.1").expect("it is one");
        assert_eq!(check(&[control.clone(), other.clone()]), Ok(()));
        assert_eq!(check(&[control.clone(), control.clone()]), Err(ArmError::Twice("control".to_owned())));
        assert!(matches!(check(&[control]), Err(ArmError::Shares(_))));
        assert!(matches!(check(&vec![other; 17]), Err(ArmError::Many(17))));
    }

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
