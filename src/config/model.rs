//! `[model]`, `[model.mlp]` and `[optimizer]`: the shape of the model and how its parts learn.

use serde::{Serialize, Serializer};

use deepfm_core::model::params::{Activation, AdmissionParams, MlpParams, ModelParams, Parts};
use deepfm_core::optim::params::{FtrlParams, SgdParams};
use deepfm_core::train::check::EMBEDDING_DIM_MAX;
use deepfm_core::version::names;

use super::document::Value;
use super::section::{Bounds, Section};
use super::training::Training;

/// The most rows that a table can have.
const ROWS_MAX: usize = 1 << 31;

/// Ten years.
const EXPIRY_MAX_SECONDS: u64 = 10 * 365 * 86_400;

/// The shape of the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Model {
    /// The name under which versions are announced.
    pub name: String,
    /// Width of an embedding.
    pub embedding_dim: usize,
    /// Seed of the initial weights and the dropout masks.
    pub seed: u64,
    /// Initial embeddings are uniform in `(-init_scale, init_scale)`.
    pub init_scale: f32,
    /// Which parts the logit has.
    pub parts: Parts,
    /// The most rows of the table.
    pub rows_max: usize,
    /// How often an id is counted before it has a row.
    pub admission_min_count: u32,
    /// How long a row is kept without being learned; 0 is for ever.
    pub expire_after_seconds: u32,
    /// The MLP.
    pub mlp: Mlp,
}

/// The MLP over the concatenated field vectors.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mlp {
    /// Widths of the hidden layers; empty is no MLP.
    pub layers: Vec<usize>,
    /// The activation of every hidden layer.
    pub activation: Activation,
    /// Dropout probability after each hidden layer; empty is none.
    pub dropout: Vec<f32>,
}

/// How each group of parameters learns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Optimizer {
    /// The bias.
    #[serde(serialize_with = "without_group_penalty")]
    pub bias: FtrlParams,
    /// The linear weights.
    #[serde(serialize_with = "without_group_penalty")]
    pub linear: FtrlParams,
    /// The embeddings.
    pub embedding: FtrlParams,
    /// The MLP.
    pub mlp: SgdParams,
}

impl Model {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let dim = default.embedding_dim;
        let seeds = "seeds are 63 bits wide";
        let scale = "embeddings that all start at 0 get no gradient and stay there";
        let parts = [("deepfm", Parts::Deepfm), ("fm", Parts::Fm), ("linear", Parts::Linear)];
        Self {
            name: section.checked_text("name", &default.name, check_name),
            embedding_dim: section.count(
                "embedding_dim",
                dim,
                1,
                EMBEDDING_DIM_MAX,
                "each id has at least one dimension",
            ),
            seed: section.whole("seed", default.seed, 0, i64::MAX as u64, seeds),
            init_scale: section.number("init_scale", default.init_scale, Bounds::POSITIVE, scale),
            parts: section.choice("parts", default.parts, &parts),
            rows_max: section.count("rows_max", default.rows_max, 1, ROWS_MAX, "row numbers have 32 bits"),
            admission_min_count: section.whole(
                "admission_min_count",
                u64::from(default.admission_min_count),
                1,
                1_000_000,
                "an id has a row after it was counted as often; 1 is at once",
            ) as u32,
            expire_after_seconds: section.whole(
                "expire_after_seconds",
                u64::from(default.expire_after_seconds),
                0,
                EXPIRY_MAX_SECONDS,
                "it is at most ten years; 0 is never",
            ) as u32,
            mlp: Mlp::read(&section.section("mlp"), default.mlp),
        }
    }

    /// What the core is given: the model's shape together with its optimizers. Parts that are switched off have no
    /// layers.
    pub(super) fn params(&self, fields: usize, optimizer: &Optimizer, training: &Training) -> ModelParams {
        let mlp = match self.parts {
            Parts::Deepfm => self.mlp.clone(),
            Parts::Fm | Parts::Linear => Mlp { layers: Vec::new(), dropout: Vec::new(), ..self.mlp },
        };
        ModelParams {
            fields,
            embedding_dim: self.embedding_dim,
            seed: self.seed,
            init_scale: self.init_scale,
            parts: self.parts,
            mlp: MlpParams { layers: mlp.layers, activation: mlp.activation, dropout: mlp.dropout },
            bias: optimizer.bias,
            linear: optimizer.linear,
            embedding: optimizer.embedding,
            sgd: optimizer.mlp,
            n_max: training.n_max,
            gradient_max: training.gradient_max,
            admission: AdmissionParams {
                rows_max: self.rows_max,
                min_count: self.admission_min_count,
                expire_after_seconds: self.expire_after_seconds,
            },
        }
    }
}

impl Mlp {
    fn read(section: &Section<'_>, default: Self) -> Self {
        let activations = [
            ("relu", Activation::Relu),
            ("leaky_relu", Activation::LeakyRelu),
            ("tanh", Activation::Tanh),
            ("sigmoid", Activation::Sigmoid),
        ];
        let layers = read_layers(section).unwrap_or(default.layers);
        Self {
            activation: section.choice("activation", default.activation, &activations),
            dropout: read_dropout(section, layers.len()),
            layers,
        }
    }
}

/// The widths of the hidden layers, if any were given.
fn read_layers(section: &Section<'_>) -> Option<Vec<usize>> {
    let fix = "give the widths of the hidden layers, such as [64, 32], or [] for no MLP";
    let items = section.list("layers", fix)?;
    if items.len() > 16 {
        section.refuse("layers", format!("{} layers are too many", items.len()), "give at most 16");
    }
    let widths = items.iter().map(|item| match item.value {
        Value::Integer(width) if (1..=4096).contains(&width) => width as usize,
        _ => {
            let problem = format!("{} is not a width", item.value.describe());
            section.report().add(
                item.origin.clone(),
                section.key("layers"),
                problem,
                "give whole numbers from 1 to 4096",
            );
            1
        }
    });
    Some(widths.collect())
}

/// One probability for all layers, or a list with one for each. None at all is an empty list.
fn read_dropout(section: &Section<'_>, layers: usize) -> Vec<f32> {
    let why = "a layer whose every unit is dropped learns nothing";
    let Some(node) = section.node("dropout") else {
        return Vec::new();
    };
    let read = |item| section.number_at("dropout", item, Bounds::BELOW_ONE, why).unwrap_or_default();
    let dropout: Vec<f32> = if let Value::List(items) = &node.value {
        if !items.is_empty() && items.len() != layers && section.are_sound(&["layers"]) {
            let problem = format!("has {} entries for {layers} layers", items.len());
            section.refuse("dropout", problem, "give one number for all layers, or one for each");
        }
        items.iter().map(read).collect()
    } else {
        vec![read(node); layers]
    };
    if dropout.iter().all(|&p| p == 0.0) { Vec::new() } else { dropout }
}

impl Optimizer {
    pub(super) fn read(section: &Section<'_>, parts: Parts) -> Self {
        let default = Self::default();
        let embedding = section.section("embedding");
        let penalty = "a penalty holds weights at 0";
        let linear = FtrlParams { alpha: linear_alpha(parts), ..default.linear };
        Self {
            bias: read_ftrl(&section.section("bias"), default.bias),
            linear: read_ftrl(&section.section("linear"), linear),
            embedding: FtrlParams {
                l21: embedding.number("l21", default.embedding.l21, Bounds::NOT_NEGATIVE, penalty),
                ..read_ftrl(&embedding, default.embedding)
            },
            mlp: read_sgd(&section.section("mlp"), default.mlp),
        }
    }
}

/// FTRL-Proximal without its group penalty, which only embeddings have.
fn read_ftrl(section: &Section<'_>, default: FtrlParams) -> FtrlParams {
    let rate = "FTRL divides by alpha, its learning rate";
    FtrlParams {
        alpha: section.number("alpha", default.alpha, Bounds::POSITIVE, rate),
        beta: section.number(
            "beta",
            default.beta,
            Bounds::POSITIVE,
            "at beta 0 a new row would lose its initial weight",
        ),
        l1: section.number("l1", default.l1, Bounds::NOT_NEGATIVE, "a penalty holds weights at 0"),
        l2: section.number("l2", default.l2, Bounds::NOT_NEGATIVE, "it makes steps smaller, as a larger beta does"),
        l21: 0.0,
    }
}

fn read_sgd(section: &Section<'_>, default: SgdParams) -> SgdParams {
    let rate = "a step goes down the gradient; for no MLP set model.mlp.layers = []";
    let momentum = "momentum keeps a share of the last step";
    let clip = "0 is off";
    SgdParams {
        learning_rate: section.number("learning_rate", default.learning_rate, Bounds::POSITIVE, rate),
        momentum: section.number("momentum", default.momentum, Bounds::BELOW_ONE, momentum),
        l2: section.number("l2", default.l2, Bounds::NOT_NEGATIVE, "a penalty pulls weights towards 0"),
        clip_norm: section.number("clip_norm", default.clip_norm, Bounds::NOT_NEGATIVE, clip),
    }
}

/// Names become parts of record keys and directories.
fn check_name(name: &str) -> Result<(), (String, String)> {
    let fix = "use 1 to 64 letters, digits, `.`, `_` or `-`, a letter or digit first";
    let refused = |_| (format!("\"{name}\" cannot be part of a key or a directory"), fix.to_owned());
    names::check_model(name).map_err(refused)
}

fn without_group_penalty<S: Serializer>(params: &FtrlParams, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Ftrl {
        alpha: f32,
        beta: f32,
        l1: f32,
        l2: f32,
    }
    let FtrlParams { alpha, beta, l1, l2, l21: _ } = *params;
    Ftrl { alpha, beta, l1, l2 }.serialize(serializer)
}

/// The default alpha of the linear weights of `parts`: without pairs beside them they have everything to learn.
pub(super) fn linear_alpha(parts: Parts) -> f32 {
    match parts {
        Parts::Linear => 0.1,
        Parts::Fm | Parts::Deepfm => 0.05,
    }
}
