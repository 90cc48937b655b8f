//! A file becomes validated parameters.
//!
//! TOML text, with the overriding variables laid over it, becomes a tree whose values know their lines; the sections
//! are then walked with small typed readers. Every error is found in one pass, with its line, its key and the fix;
//! a [`Config`] exists only when there is none. Units stand in the names of keys, unknown keys are refused.
//!
//! * [`load`] and [`Config::parse`] read, [`check::summarize`] sums up, [`init`] writes a first file from sample events.
//! * Each key is declared once, with its section: type, default, bounds, doc, and what a change of it does to a state.
//!   Readers, defaults, [`template`], [`schema`], README's table and what a state can be converted to come from that.
//! * [`Config::fingerprint`] covers what decides the state, and nothing else.

pub mod check;
mod declare;
mod document;
pub mod error;
pub mod events;
pub mod fields;
mod fingerprint;
pub mod gate;
pub mod init;
pub mod join;
pub mod kafka;
pub mod keys;
mod kinds;
pub mod model;
mod nearest;
pub mod operation;
pub mod optimizer;
mod overlay;
pub mod properties;
pub mod schema;
mod section;
pub mod serve;
pub mod storage;
pub mod table;
pub mod template;
#[cfg(test)]
mod tests;
pub mod training;

use std::fs;
use std::path::Path;

use serde::Serialize;

use deepfm_core::event::options::EventOptions;
use deepfm_core::feature::field::{FieldError, FieldSet};
use deepfm_core::join::params::{JoinParams, LabelPolicy};
use deepfm_core::model::params::ModelParams;
use deepfm_core::train::{BatchParams, BreakerParams, TrainParams};
use training::Training;

pub use error::{ConfigError, ConfigErrors, Origin};
pub use fields::Fields;
pub use optimizer::embedding_alpha;
pub use overlay::{PREFIX, environment};

use declare::Readable;
use error::Report;
use keys::Parts;
use section::Section;

/// A validated configuration: one part for each section of the file, all defaults filled in.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Config {
    /// `[[fields]]`; the default has none, a loaded configuration at least one.
    pub fields: Fields,
    /// `[model]`
    pub model: model::Model,
    /// `[optimizer]`
    pub optimizer: optimizer::Optimizer,
    /// `[training]`
    pub training: training::Training,
    /// `[join]`
    pub join: join::JoinSection,
    /// `[events]`
    pub events: events::Events,
    /// `[kafka]`
    pub kafka: kafka::Kafka,
    /// `[state]`
    pub state: operation::State,
    /// `[versions]`
    pub versions: operation::Versions,
    /// `[storage]`
    pub storage: storage::Storage,
    /// `[gate]`
    pub gate: gate::Gate,
    /// `[serve]`
    pub serve: serve::Serve,
    /// `[exports]`
    pub exports: operation::Exports,
    /// `[admin]`
    pub admin: operation::Admin,
    /// `[metrics]`
    pub metrics: operation::MetricsSection,
}

/// Reads a file, with the variables of `environment` laid over it (see [`environment`]; others are ignored).
///
/// # Errors
/// Everything that is wrong with the file and the variables, or that the file cannot be read.
pub fn load(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigErrors> {
    let file = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => Config::parse(&text, &file, environment),
        Err(error) => {
            let report = Report::default();
            let fix = "write one with `deepfm config init`";
            report.add(Origin::Whole, "", format!("cannot be read: {error}"), fix);
            Err(report.settle(&file, ()).expect_err("an error was just noted"))
        }
    }
}

impl Config {
    /// Reads a text; `file` is what errors call it.
    ///
    /// # Errors
    /// Everything that is wrong with the text and the variables. Where the text is not TOML, only that.
    pub fn parse(
        text: &str,
        file: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        let syntax = Report::default();
        let mut tree = document::parse(text, &syntax);
        syntax.settle(file, ())?;
        let report = Report::default();
        overlay::lay_over(&mut tree, environment, &report);
        let config = Self::read(&Section::root(&tree, &report, Parts(table::SECTIONS)));
        report.settle(file, config)
    }

    fn read(root: &Section<'_>) -> Self {
        let training = training::Training::read(&root.section("training"));
        let (versions, exports, events) = (root.section("versions"), root.section("exports"), root.section("events"));
        let gate = root.section("gate");
        let model = model::Model::read_keys(&root.section("model"));
        let join = join::JoinSection::read(&root.section("join"), training.negative_sampling_rate);
        let window_seconds = join.attribution_window_seconds;
        let config = Self {
            fields: fields::read(root),
            optimizer: optimizer::Optimizer::read(&root.section("optimizer"), model.parts),
            model,
            join,
            training,
            events: events::Events::read_keys(&events),
            kafka: kafka::Kafka::read(&root.section("kafka")),
            state: operation::State::read_keys(&root.section("state")),
            versions: operation::Versions::read(&versions, window_seconds),
            storage: storage::Storage::read_keys(&root.section("storage")),
            gate: gate::Gate::read_keys(&gate),
            serve: serve::Serve::read_keys(&root.section("serve")),
            exports: operation::Exports::read_keys(&exports),
            admin: operation::Admin::read_keys(&root.section("admin")),
            metrics: operation::MetricsSection::read_keys(&root.section("metrics")),
        };
        if let Ok(fields) = config.field_set() {
            config.events.check_against(&fields, &events);
            config.gate.check_against(&fields, &gate);
        }
        if config.state.dir == config.versions.dir {
            let problem = format!("\"{}\" is state.dir too", config.versions.dir.display());
            versions.refuse("dir", problem, "the state is the worker's alone: give each its own");
        }
        if [&config.state.dir, &config.versions.dir].contains(&&config.exports.dir) {
            let problem = format!("\"{}\" is state.dir or versions.dir too", config.exports.dir.display());
            exports.refuse("dir", problem, "exports are removed by age: give them a directory of their own");
        }
        // Each key has its own bounds; what they allow together may still be no model.
        if root.report().is_empty()
            && let Err(error) = config.train_params().check()
        {
            root.report().add(Origin::Whole, "", error.to_string(), "make the model smaller");
        }
        config
    }

    /// What the decoder is given.
    pub fn event_options(&self) -> EventOptions {
        self.events.options()
    }

    /// What the join is given.
    pub fn join_params(&self) -> JoinParams {
        self.join.params()
    }

    /// What the model and its optimizers are given.
    pub fn model_params(&self) -> ModelParams {
        self.model.params(self.fields.len(), &self.optimizer, &self.training)
    }

    /// The fields of the model.
    ///
    /// # Errors
    /// Never for a loaded configuration; the default one has no fields.
    pub fn field_set(&self) -> Result<FieldSet, FieldError> {
        FieldSet::new(self.fields.to_vec())
    }

    /// Everything that fixes how the log becomes a state.
    pub fn train_params(&self) -> TrainParams {
        let Training { batch_min, batch_max, batch_growth_examples, batch_span_ms, negative_sampling_rate, .. } =
            self.training;
        TrainParams {
            join: self.join_params(),
            model: self.model_params(),
            batch: BatchParams {
                min: batch_min,
                max: batch_max,
                growth_examples: batch_growth_examples,
                span_ms: i64::try_from(batch_span_ms).unwrap_or(i64::MAX),
            },
            negative_sampling_rate: f64::from(negative_sampling_rate),
            window_impressions: self.metrics.window_impressions,
            metrics_sampling_rate: f64::from(self.metrics.sampling_rate),
            breaker: self.breaker_params(),
        }
    }

    /// The circuit breaker. Where positives come at their click, labels do not show the rate of clicks: there is none.
    fn breaker_params(&self) -> Option<BreakerParams> {
        let missing_clicks = self.training.missing_clicks_max.map(f64::from)?;
        (self.join_params().labels == LabelPolicy::AtMaturity).then(|| BreakerParams::new(missing_clicks))
    }

    /// 16 hex digits that two configurations share if and only if (but for collisions) they learn the same state from
    /// the same log.
    pub fn fingerprint(&self) -> String {
        fingerprint::of(self)
    }

    /// Everything that decides the state, as canonical JSON: what the fingerprint is taken of.
    pub fn canonical(&self) -> String {
        fingerprint::canonical(self)
    }

    /// What differs between this configuration and the canonical JSON of another, as `path (was …, is …)`.
    pub fn differences_from(&self, canonical: &str) -> Vec<String> {
        fingerprint::differences(canonical, &self.canonical())
    }

    /// Whether a difference, as [`differences_from`](Self::differences_from) tells it, is one that an existing state can go
    /// on with.
    pub fn is_convertible(difference: &str) -> bool {
        fingerprint::is_convertible(difference)
    }

    /// The whole configuration as TOML that loads again, defaults filled in. Secrets are not shown: one from a file is
    /// shown as that file, one from the configuration itself as `(redacted)`.
    ///
    /// # Panics
    /// Never: every part has a form in TOML.
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).expect("sections are tables of plain values, paths are from TOML strings");
        format!("# The effective configuration, fingerprint {}\n{body}", self.fingerprint())
    }

    /// The same as one JSON document.
    ///
    /// # Panics
    /// Never: every part has a form in JSON.
    pub fn to_json(&self) -> serde_json::Value {
        // By way of text: a `Value` made directly would widen 0.1 in 32 bits to 0.10000000149011612.
        let text = serde_json::to_string(self).expect("sections are objects of plain values, paths from TOML strings");
        serde_json::from_str(&text).expect("it was just written")
    }
}
