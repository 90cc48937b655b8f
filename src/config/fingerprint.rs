//! What decides the state, and nothing else, as 16 hex digits: two workers with one fingerprint and one log learn the
//! same model.
//!
//! Topics, brokers, directories, cadences and the admin port are left out: they say where the log is and where results
//! go. Bounds of the join and limits of records are in, since what they drop is not learned.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use deepfm_core::event::options::EventOptions;
use deepfm_core::feature::field::Field;
use deepfm_core::join::params::JoinParams;
use deepfm_core::model::params::ModelParams;

use super::Config;
use super::keys::Change;
use super::table::SECTIONS;
use super::training::Training;

/// Raised when the canonical form changes its meaning.
const FORM: u32 = 2;

/// The canonical form: compact JSON of the core's parameters in this order, floats as their shortest decimals.
#[derive(Serialize)]
struct Canonical<'a> {
    form: u32,
    fields: &'a [Field],
    model: ModelParams,
    training: Training,
    join: JoinParams,
    events: EventOptions,
    window_impressions: u64,
    metrics_sampling_rate: f32,
}

/// The canonical form.
pub(super) fn canonical(config: &Config) -> String {
    let canonical = Canonical {
        form: FORM,
        fields: &config.fields,
        model: config.model_params(),
        training: config.training.deciding(),
        join: config.join_params(),
        events: config.event_options(),
        window_impressions: config.metrics.window_impressions,
        metrics_sampling_rate: config.metrics.sampling_rate,
    };
    serde_json::to_string(&canonical).expect("parameters are plain data with string keys")
}

/// XXH3-64 of the canonical form.
pub(super) fn of(config: &Config) -> String {
    format!("{:016x}", xxh3_64(canonical(config).as_bytes()))
}

/// The keys whose values differ between two canonical forms, as paths; a text that is no such form differs as a whole.
pub(super) fn differences(one: &str, other: &str) -> Vec<String> {
    let mut found = Vec::new();
    match (serde_json::from_str(one), serde_json::from_str(other)) {
        (Ok(one), Ok(other)) => compare("", &one, &other, &mut found),
        _ => found.push("everything".to_owned()),
    }
    found
}

/// Whether a difference, as [`differences`] tells it, is one that a state can go on with: added fields, with their number,
/// or a key that converts.
pub(super) fn is_convertible(difference: &str) -> bool {
    let path = difference.split(" (was ").next().unwrap_or_default();
    path.starts_with("fields (added ") || path == "model.fields" || convertible().any(|known| known == path)
}

/// Where the canonical form has the keys that convert: some stand in two places.
fn convertible() -> impl Iterator<Item = String> {
    let keys = SECTIONS.iter().flat_map(|part| part.keys.iter().map(move |key| (part.canonical, key)));
    keys.flat_map(|(section, key)| {
        let (own, other) = match key.change {
            Change::Free | Change::Refused => (None, None),
            Change::Converts => (Some(format!("{section}.{}", key.name)), None),
            Change::ConvertsAs(path) => (Some(format!("{section}.{}", key.name)), Some(path.to_owned())),
        };
        own.into_iter().chain(other)
    })
}

fn compare(path: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let at = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&below, &at(one), &at(other), found);
            }
        }
        (one, other) if one == other => {}
        (Value::Array(one), Value::Array(other)) if path == "fields" && other.starts_with(one) => {
            let names = other[one.len()..].iter().map(|field| field["name"].as_str().unwrap_or_default());
            found.push(format!("{path} (added {})", names.collect::<Vec<_>>().join(", ")));
        }
        (one, other) => found.push(format!("{path} (was {one}, is {other})")),
    }
}
