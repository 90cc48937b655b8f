//! What is asked of the server in any protocol: whether it is ready, what it serves, which arm a request is for, and what an
//! answer says of who gave it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use deepfm_core::version::names;
use jiff::Timestamp;
use metrics::counter;
use serde_json::{Map, Value};
use tokio::sync::SemaphorePermit;

use super::App;
use super::answer::HttpRefusal;
use super::arms::{Arm, ArmStatus};
use super::rows::ROWS;
use crate::serve::model::ServedModel;
use crate::serve::scorer::Predictions;

/// What the server calls itself in the protocol.
pub(super) const NAME: &str = "deepfm-stream";

/// What it can do beyond the protocol's core.
pub(super) const EXTENSIONS: [&str; 2] = ["binary_tensor_data", "model_repository"];

/// The most characters that a refusal repeats of what was asked for.
const REPEATED_MAX: usize = 100;

impl App {
    /// Ready from the first version of every arm to the end, whatever reloads come to.
    pub(super) fn is_ready(&self) -> bool {
        !self.is_draining.load(Ordering::Acquire) && self.arms.iter().all(|arm| arm.version().is_some())
    }

    /// Refuses another model's name.
    pub(super) fn check(&self, name: &str) -> Result<(), HttpRefusal> {
        if name == self.model {
            return Ok(());
        }
        Err(HttpRefusal::NotFound(format!(
            "there is no model {:?}",
            name.chars().take(REPEATED_MAX).collect::<String>()
        )))
    }

    /// The arm that serves a version, which is given as text.
    pub(super) fn arm_of(&self, name: &str, version: &str) -> Result<(&Arm, u64), HttpRefusal> {
        self.check(name)?;
        let missing = || {
            let version: String = version.chars().take(REPEATED_MAX).collect();
            HttpRefusal::NotFound(format!("version {version:?} is not served"))
        };
        let number = names::version(version).ok_or_else(missing)?;
        Ok((self.arms.of_version(number).ok_or_else(missing)?, number))
    }

    /// The arm of a request that gave this key, or none.
    pub(super) fn arm(&self, key: Option<&[u8]>) -> &Arm {
        match key {
            Some(key) => self.arms.of_key(key),
            None => self.arms.of_key(&self.turn.fetch_add(1, Ordering::Relaxed).to_le_bytes()),
        }
    }

    /// The arm of a request that gave this key, or none, and asked for a version, or for any.
    pub(super) fn chosen<'a>(&'a self, asked: Option<(&'a Arm, u64)>, key: Option<&[u8]>) -> &'a Arm {
        match (asked, key) {
            // Where several arms serve the version that is asked for, the key's own is named.
            (Some((arm, version)), Some(key)) => {
                Some(self.arms.of_key(key)).filter(|own| own.version() == Some(version)).unwrap_or(arm)
            }
            (Some((arm, _)), None) => arm,
            (None, key) => self.arm(key),
        }
    }

    /// The versions that are served, each once, and the model that stands for all of them.
    pub(super) fn versions(&self) -> Result<(Arc<ServedModel>, Vec<String>), HttpRefusal> {
        let models: Vec<Arc<ServedModel>> = self.arms.iter().filter_map(Arm::model).collect();
        let first = models.first().cloned().ok_or(HttpRefusal::NoVersion)?;
        let mut versions: Vec<u64> = models.iter().map(|model| model.version()).collect();
        versions.sort_unstable();
        versions.dedup();
        Ok((first, versions.iter().map(u64::to_string).collect()))
    }

    /// The versions that are served, each with the arm that does; or what keeps the model from being served.
    pub(super) fn index(&self, only_ready: bool) -> Vec<IndexEntry> {
        let served = self.arms.iter().filter_map(|arm| {
            let version = Some(arm.version()?.to_string());
            Some(IndexEntry { version, state: "READY", reason: format!("arm {}", arm.name) })
        });
        let mut entries: Vec<IndexEntry> = served.collect();
        if entries.is_empty() && !only_ready {
            let reason = HttpRefusal::NoVersion.to_string();
            entries.push(IndexEntry { version: None, state: "UNAVAILABLE", reason });
        }
        entries
    }

    pub(super) fn statuses(&self) -> Vec<ArmStatus> {
        let now = Timestamp::now().as_millisecond();
        self.arms.iter().map(|arm| arm.status(now)).collect()
    }

    /// A place among the requests that are read or scored at once.
    pub(super) fn place(&self) -> Result<SemaphorePermit<'_>, HttpRefusal> {
        self.places.try_acquire().map_err(|_| HttpRefusal::Busy(self.limits.concurrency_max))
    }
}

/// An entry of the model repository.
pub(super) struct IndexEntry {
    pub(super) version: Option<String>,
    pub(super) state: &'static str,
    pub(super) reason: String,
}

/// The inputs that a model takes, with their shapes; all of them are texts.
pub(super) fn inputs(model: &ServedModel) -> Vec<(&str, &'static [i64])> {
    let mut inputs: Vec<(&str, &[i64])> =
        model.manifest().fields.iter().map(|field| (field.name.as_str(), &[-1, -1][..])).collect();
    if model.encoder().field(ROWS).is_none() {
        inputs.push((ROWS, &[-1]));
    }
    inputs
}

/// Refuses to answer with another version than the one that was asked for.
pub(super) fn check_version(asked: Option<(&Arm, u64)>, version: u64) -> Result<(), HttpRefusal> {
    match asked.filter(|(_, asked)| *asked != version) {
        Some((_, asked)) => Err(HttpRefusal::NotFound(format!("version {asked} is not served any more"))),
        None => Ok(()),
    }
}

/// What an answer says of who gave it.
pub(super) fn about(arm: &Arm, model: &ServedModel) -> Map<String, Value> {
    let mut about = Map::new();
    about.insert("version".to_owned(), model.version().into());
    about.insert("arm".to_owned(), arm.name.clone().into());
    let age = model.age_ms(Timestamp::now().as_millisecond());
    about.insert("age_ms".to_owned(), age.map_or(Value::Null, Value::from));
    about
}

/// Counts what was scored.
pub(super) fn count(arm: &Arm, scores: &Predictions<'_>) {
    counter!("deepfm_serve_rows_total", "arm" => arm.name.clone()).increment(scores.logits.len() as u64);
    if scores.unknown_fields > 0 {
        counter!("deepfm_serve_unknown_fields_total").increment(scores.unknown_fields);
    }
}
