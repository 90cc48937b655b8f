//! What parameters may be, wherever they come from: configuration, checkpoint, export, journal or manifest. Bytes that were
//! written elsewhere are somebody else's: out of bounds they are refused here by name, before anything is made of them.
//!
//! Every parameter is looked at: a new one does not compile before it has its bounds here.

use super::breaker::BreakerParams;
use super::{BatchParams, TrainParams};
use crate::feature::field::{FIELDS_MAX, Field, FieldError, FieldSet};
use crate::join::params::JoinParams;
use crate::model::params::{AdmissionParams, MlpParams, ModelParams};
use crate::optim::params::{FtrlParams, SgdParams};

/// The widest embedding.
pub const EMBEDDING_DIM_MAX: usize = 1024;

/// The most hidden layers.
pub const LAYERS_MAX: usize = 16;

/// The widest hidden layer.
pub const LAYER_WIDTH_MAX: usize = 4096;

/// The most weights and biases of the MLP: a quarter of a GiB in 32 bits, and as much for their momentum.
pub const MLP_PARAMETERS_MAX: usize = 1 << 26;

/// The most examples of a micro-batch.
pub const BATCH_MAX: usize = 1 << 16;

/// The longest duration of event time, in milliseconds: ten years.
pub const DURATION_MAX_MS: i64 = 10 * 366 * 86_400_000;

/// Parameters that no state can have.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum ParamsError {
    /// They are no parameters.
    #[error("the parameters do not decode")]
    Decode(#[from] serde_json::Error),
    /// One is out of its bounds.
    #[error("{name} is {found}, it must be {allowed}")]
    Bounds { name: &'static str, found: Box<str>, allowed: Box<str> },
    /// The fields are not a model's.
    #[error(transparent)]
    Fields(#[from] FieldError),
}

impl TrainParams {
    /// Reads parameters from the JSON that [`to_text`](Self::to_text) gives.
    ///
    /// # Errors
    /// When they do not decode, or one is out of its bounds.
    pub fn from_text(text: &str) -> Result<Self, ParamsError> {
        let params: Self = serde_json::from_str(text)?;
        params.check()?;
        Ok(params)
    }

    /// Whether a state can be made of them.
    ///
    /// # Errors
    /// The first parameter that is out of its bounds.
    pub fn check(&self) -> Result<(), ParamsError> {
        let Self { join, model, batch, negative_sampling_rate, window_impressions, metrics_sampling_rate, breaker } =
            self;
        if let Some(BreakerParams { missing_clicks, clicks_min }) = breaker {
            let is_a_number = |number: f64| number > 0.0 && number.is_finite();
            must(is_a_number(*missing_clicks), "breaker.missing_clicks", missing_clicks, "above 0")?;
            must(is_a_number(*clicks_min), "breaker.clicks_min", clicks_min, "above 0")?;
        }
        join.check()?;
        model.check()?;
        let BatchParams { min, max, growth_examples, span_ms } = batch;
        within("batch.max", *max, 1, BATCH_MAX)?;
        within("batch.min", *min, 1, *max)?;
        within("batch.growth_examples", *growth_examples, 1, u64::MAX)?;
        within("batch.span_ms", *span_ms, 0, DURATION_MAX_MS)?;
        for (name, rate) in
            [("negative_sampling_rate", *negative_sampling_rate), ("metrics_sampling_rate", *metrics_sampling_rate)]
        {
            must(rate > 0.0 && rate <= 1.0, name, rate, "above 0 and at most 1")?;
        }
        within("window_impressions", *window_impressions, 1, u64::MAX)
    }

    /// Whether records that are decoded with these fields can be learned with these parameters.
    ///
    /// # Errors
    /// When they are not a model's, or not as many as the model has.
    pub fn check_fields(&self, fields: &[Field]) -> Result<(), ParamsError> {
        let fields = FieldSet::new(fields.to_vec())?;
        within("model.fields", self.model.fields, fields.len(), fields.len())
    }
}

impl JoinParams {
    /// Whether a join can be made of them.
    ///
    /// # Errors
    /// The first parameter that is out of its bounds.
    pub fn check(&self) -> Result<(), ParamsError> {
        let Self {
            window_ms,
            click_before_ms,
            lateness_ms,
            retention_ms,
            labels: _,
            late_clicks: _,
            open_impressions_max,
            held_bytes_max,
            waiting_clicks_max,
            remembered_max,
        } = self;
        within("join.window_ms", *window_ms, 0, DURATION_MAX_MS)?;
        within("join.click_before_ms", *click_before_ms, 0, DURATION_MAX_MS)?;
        within("join.lateness_ms", *lateness_ms, 0, DURATION_MAX_MS)?;
        within("join.retention_ms", *retention_ms, 0, DURATION_MAX_MS)?;
        within("join.open_impressions_max", *open_impressions_max, 1, usize::MAX)?;
        within("join.held_bytes_max", *held_bytes_max, 1, usize::MAX)?;
        within("join.waiting_clicks_max", *waiting_clicks_max, 1, usize::MAX)?;
        within("join.remembered_max", *remembered_max, 1, usize::MAX)
    }
}

impl ModelParams {
    /// Whether a model can be made of them, and how large its MLP is stays within bounds.
    ///
    /// # Errors
    /// The first parameter that is out of its bounds.
    pub fn check(&self) -> Result<(), ParamsError> {
        let Self {
            fields,
            embedding_dim,
            seed: _,
            init_scale,
            parts: _,
            mlp,
            bias,
            linear,
            embedding,
            sgd,
            n_max,
            gradient_max,
            admission: AdmissionParams { rows_max, min_count, expire_after_seconds: _ },
        } = self;
        within("model.fields", *fields, 1, FIELDS_MAX)?;
        within("model.embedding_dim", *embedding_dim, 1, EMBEDDING_DIM_MAX)?;
        positive("model.init_scale", *init_scale)?;
        mlp.check(fields * embedding_dim)?;
        check_ftrl(bias, ["bias.alpha", "bias.beta", "bias.l1", "bias.l2", "bias.l21"])?;
        check_ftrl(linear, ["linear.alpha", "linear.beta", "linear.l1", "linear.l2", "linear.l21"])?;
        let names = ["embedding.alpha", "embedding.beta", "embedding.l1", "embedding.l2", "embedding.l21"];
        check_ftrl(embedding, names)?;
        let SgdParams { learning_rate, momentum, l2, clip_norm } = sgd;
        positive("sgd.learning_rate", *learning_rate)?;
        must((0.0..1.0).contains(momentum), "sgd.momentum", *momentum, "from 0 to below 1")?;
        not_negative("sgd.l2", *l2)?;
        not_negative("sgd.clip_norm", *clip_norm)?;
        positive("n_max", n_max.unwrap_or(1.0))?;
        positive("gradient_max", gradient_max.unwrap_or(1.0))?;
        within("admission.rows_max", *rows_max, 1, usize::MAX)?;
        within("admission.min_count", *min_count, 1, u32::MAX)
    }
}

impl MlpParams {
    /// Whether an MLP over so many inputs can be made of them; `inputs` is bounded by the callers.
    fn check(&self, inputs: usize) -> Result<(), ParamsError> {
        let Self { layers, activation: _, dropout } = self;
        within("mlp.layers", layers.len(), 0, LAYERS_MAX)?;
        let (mut parameters, mut width) = (0, inputs);
        for &outputs in layers {
            within("mlp.layers", outputs, 1, LAYER_WIDTH_MAX)?;
            parameters += (width + 1) * outputs;
            width = outputs;
        }
        // The output vector, as wide as the last layer.
        parameters += if layers.is_empty() { 0 } else { width };
        within("the number of the MLP's parameters", parameters, 0, MLP_PARAMETERS_MAX)?;
        if !dropout.is_empty() {
            within("mlp.dropout", dropout.len(), layers.len(), layers.len())?;
        }
        let bad = dropout.iter().find(|share| !(0.0..1.0).contains(*share));
        bad.map_or(Ok(()), |share| must(false, "mlp.dropout", *share, "from 0 to below 1"))
    }
}

fn check_ftrl(params: &FtrlParams, names: [&'static str; 5]) -> Result<(), ParamsError> {
    let FtrlParams { alpha, beta, l1, l2, l21 } = *params;
    positive(names[0], alpha)?;
    positive(names[1], beta)?;
    not_negative(names[2], l1)?;
    not_negative(names[3], l2)?;
    not_negative(names[4], l21)
}

fn positive(name: &'static str, value: f32) -> Result<(), ParamsError> {
    must(value > 0.0 && value.is_finite(), name, value, "above 0 and finite")
}

fn not_negative(name: &'static str, value: f32) -> Result<(), ParamsError> {
    must(value >= 0.0 && value.is_finite(), name, value, "at least 0 and finite")
}

fn within<T: PartialOrd + Copy + std::fmt::Display>(
    name: &'static str,
    value: T,
    least: T,
    most: T,
) -> Result<(), ParamsError> {
    let allowed = format!("from {least} to {most}");
    must(value >= least && value <= most, name, value, &allowed)
}

fn must(is_met: bool, name: &'static str, found: impl ToString + Copy, allowed: &str) -> Result<(), ParamsError> {
    if is_met {
        return Ok(());
    }
    Err(ParamsError::Bounds { name, found: found.to_string().into(), allowed: allowed.into() })
}
