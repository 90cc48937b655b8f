//! What `config check` says of a configuration that loads: its shape in a few numbers, and what is probably not meant.

use std::fmt;

use serde::Serialize;

use super::Config;
use super::join::Labels;
use deepfm_core::join::params::LatePolicy;

/// Bytes of an open impression beside its entries: 85 in the join, and 56 of its shown score.
const OPEN_BYTES: usize = 141;

/// Bytes of an encoded feature without a weight; most fields have one.
const ENTRY_BYTES: usize = 8;

/// A valid configuration in a few numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigSummary {
    /// The name of the model.
    pub model: String,
    /// Number of fields.
    pub fields: usize,
    /// Width of an embedding.
    pub embedding_dim: usize,
    /// Widths of the MLP that is in use.
    pub layers: Vec<usize>,
    /// Weights and biases of the MLP.
    pub mlp_parameters: usize,
    /// Length of the attribution window, in seconds.
    pub attribution_window_seconds: u64,
    /// The fingerprint of what decides the state.
    pub fingerprint: String,
    /// What is allowed, but probably not meant.
    pub warnings: Vec<String>,
}

impl fmt::Display for ConfigSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<String> = self.layers.iter().map(ToString::to_string).collect();
        let layers = if widths.is_empty() { "no MLP".to_owned() } else { format!("MLP {}", widths.join("-")) };
        write!(
            f,
            "model {}: {} fields, dimension {}, {layers} ({} parameters); window {} s; fingerprint {}",
            self.model,
            self.fields,
            self.embedding_dim,
            self.mlp_parameters,
            self.attribution_window_seconds,
            self.fingerprint
        )?;
        for warning in &self.warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}

/// Sums a configuration up.
pub fn summarize(config: &Config) -> ConfigSummary {
    let params = config.model_params();
    let inputs = params.fields * params.embedding_dim;
    let widths = std::iter::once(inputs).chain(params.mlp.layers.iter().copied());
    let dense: usize = widths.zip(&params.mlp.layers).map(|(inputs, outputs)| (inputs + 1) * outputs).sum();
    ConfigSummary {
        model: config.model.name.clone(),
        fields: params.fields,
        embedding_dim: params.embedding_dim,
        mlp_parameters: dense + params.mlp.layers.last().copied().unwrap_or_default(),
        layers: params.mlp.layers,
        attribution_window_seconds: config.join.attribution_window_seconds,
        fingerprint: config.fingerprint(),
        warnings: warnings(config),
    }
}

fn warnings(config: &Config) -> Vec<String> {
    let join = &config.join;
    let mut found = Vec::new();
    if join.late_clicks == LatePolicy::Correct && join.retention_seconds == 0 && join.labels == Labels::Window {
        found.push(
            "join.retention_seconds = 0 forgets an impression with its window, so no late click can be corrected"
                .to_owned(),
        );
    }
    if join.remembered_max < join.open_impressions_max {
        found.push(
            "join.remembered_max is below join.open_impressions_max: duplicates and late clicks of open impressions \
             go unnoticed"
                .to_owned(),
        );
    }
    let held = join.open_impressions_max.saturating_mul(OPEN_BYTES + config.fields.len() * ENTRY_BYTES);
    if held > 16 << 30 {
        found.push(format!("join.open_impressions_max allows about {} GiB of open impressions", held >> 30));
    }
    if config.kafka.idle_after_ms / 1000 > join.attribution_window_seconds {
        found.push(
            "kafka.idle_after_ms is longer than the attribution window: a silent click partition delays every label"
                .to_owned(),
        );
    }
    if config.versions.interval_seconds == 0 && config.versions.interval_examples == 0 {
        found.push("no versions are published: both versions.interval_seconds and interval_examples are 0".to_owned());
    }
    let mapping = &config.events.mapping.impression;
    for (key, given) in [("weight", &mapping.weight), ("event_id", &mapping.event_id)] {
        let is_field = config.fields.iter().any(|field| field.name == key);
        if mapping.features.as_deref() == Some("") && given.is_none() && is_field {
            found.push(format!(
                "the field \"{key}\" is read from /{key}, so no {key} of the event is; \
                 events.mapping.impression.{key} says where else it is"
            ));
        }
    }
    if let Some(property) = config.kafka.inline_secret() {
        found.push(format!(
            "kafka.properties.{property} stands in the configuration itself; \"{property}.file\" reads it from a file"
        ));
    }
    found
}
