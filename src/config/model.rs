//! `[model]` and `[model.mlp]`: the shape of the model.

use deepfm_core::model::params::{Activation, AdmissionParams, MlpParams, ModelParams, Parts};
use deepfm_core::train::check::EMBEDDING_DIM_MAX;
use deepfm_core::version::names;
use serde_json::json;

use super::declare::section;
use super::document::Value;
use super::keys::Bounds;
use super::kinds::{Choice, Kind, Special, number, whole};
use super::optimizer::Optimizer;
use super::section::Section;
use super::training::Training;

/// The most rows that a table can have.
const ROWS_MAX: u64 = 1 << 31;

/// Ten years.
const EXPIRY_MAX_SECONDS: u64 = 10 * 365 * 86_400;

/// The widest layer, and the most layers.
const WIDTH_MAX: u64 = 4096;
const LAYERS_MAX: usize = 16;

const NAME: Special<String> = Special {
    read: |section, key| section.checked_text(key, check_name),
    words: "1 to 64 letters, digits, `.`, `_`, `-`",
    schema: || json!({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}),
};

const PARTS: Choice<Parts> = Choice(&[("deepfm", Parts::Deepfm), ("fm", Parts::Fm), ("linear", Parts::Linear)]);

const ACTIVATIONS: Choice<Activation> = Choice(&[
    ("relu", Activation::Relu),
    ("leaky_relu", Activation::LeakyRelu),
    ("tanh", Activation::Tanh),
    ("sigmoid", Activation::Sigmoid),
]);

const LAYERS: Special<Vec<usize>> = Special {
    read: read_layers,
    words: "up to 16 of 1 to 4096",
    schema: || {
        let width = json!({"type": "integer", "minimum": 1, "maximum": WIDTH_MAX});
        json!({"type": "array", "items": width, "maxItems": LAYERS_MAX})
    },
};

const DROPOUT: Special<Vec<f32>> = Special {
    read: read_dropout,
    words: "0 to below 1, once or for each layer",
    schema: || {
        let one = Bounds::BELOW_ONE.schema();
        json!({"oneOf": [one, {"type": "array", "items": one, "maxItems": LAYERS_MAX}]})
    },
};

section! {
    /// The shape of the model.
    Model in "model" {
        /// The name under which versions are announced. Two workers of one name fence each other off.
        name: String = "clicks".to_owned(), NAME, Free;
        /// Width of an embedding. Wider ones tell more interactions apart, need more data, and cost memory: a row has 24 + 8
        /// bytes for each dimension.
        embedding_dim: usize = 10,
            whole(1, EMBEDDING_DIM_MAX as u64, "each id has at least one dimension"), Refused;
        /// Seed of the initial weights and the dropout masks. Equal seeds and equal logs give equal models, bit for bit.
        seed: u64 = 1, whole(0, i64::MAX as u64, "seeds are 63 bits wide"), Refused;
        /// Initial embeddings are uniform within plus or minus this. Larger ones break symmetry sooner, and make scores of
        /// unseen ids noisier.
        init_scale: f32 = 0.02,
            number(Bounds::POSITIVE, "embeddings that all start at 0 get no gradient and stay there"), Refused;
        /// "deepfm", "fm" (no MLP) or "linear" (logistic regression): less is faster, and a base line.
        parts: Parts = Parts::Deepfm, PARTS, Refused;
        /// The most rows of the embedding table, and the most ids that wait for their admission. At the bound those that were
        /// not learned for the longest make room for new ones, and are counted: looked for in one of 256 parts of the table
        /// at a time, an eighth of it at once. A row takes up to 22 bytes more than its words: 126 at dimension 10.
        rows_max: usize = 50_000_000,
            whole(1, ROWS_MAX, "row numbers have 32 bits"), ConvertsAs("model.admission.rows_max");
        /// An id has a row in the batch in which it is counted for the so-manieth time; before, it weighs nothing and takes
        /// 16 bytes. 1 is at once. Higher keeps ids that are seen once or twice out of the table, and learns rare ones later.
        admission_min_count: u32 = 1,
            whole(1, 1_000_000, "an id has a row after it was counted as often; 1 is at once"),
            ConvertsAs("model.admission.min_count");
        /// A row that was not learned for so long, in event time, is removed. 0 is never.
        expire_after_seconds: u32 = 0,
            whole(0, EXPIRY_MAX_SECONDS, "it is at most ten years; 0 is never"),
            ConvertsAs("model.admission.expire_after_seconds");
    }
    with {
        /// The MLP.
        mlp: Mlp,
    }
}

section! {
    /// The MLP over the concatenated field vectors.
    Mlp in "model.mlp" {
        /// Widths of the hidden layers; `[]` is no MLP. Most of the time per example goes here.
        layers: Vec<usize> = vec![64, 32], LAYERS, Refused;
        /// The activation of every hidden layer.
        activation: Activation = Activation::Relu, ACTIVATIONS, Refused;
        /// Probability that a unit is dropped while learning: one number, or a list with one for each layer; `[]` is none.
        /// Seldom of use online, where each example is seen once.
        dropout: Vec<f32> = Vec::new(), DROPOUT, Refused;
    }
}

impl Model {
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
            bias: optimizer.bias.params(),
            linear: optimizer.linear.params(),
            embedding: optimizer.embedding.params(),
            sgd: optimizer.mlp.params(),
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

/// The widths of the hidden layers.
fn read_layers(section: &Section<'_>, key: &str) -> Option<Vec<usize>> {
    let fix = "give the widths of the hidden layers, such as [64, 32], or [] for no MLP";
    let items = section.list(key, fix)?;
    if items.len() > LAYERS_MAX {
        section.refuse(key, format!("{} layers are too many", items.len()), "give at most 16");
    }
    let widths = items.iter().map(|item| match item.value {
        Value::Integer(width) if (1..=i128::from(WIDTH_MAX)).contains(&width) => width as usize,
        _ => {
            let problem = format!("{} is not a width", item.value.describe());
            let fix = "give whole numbers from 1 to 4096";
            section.report().add(item.origin.clone(), section.key(key), problem, fix);
            1
        }
    });
    Some(widths.collect())
}

/// One probability for all layers, or a list with one for each. None at all is an empty list.
fn read_dropout(section: &Section<'_>, key: &str) -> Option<Vec<f32>> {
    let node = section.node(key)?;
    let layers = LAYERS.read(section, "layers").unwrap_or_else(|| Mlp::default().layers).len();
    let one = number(Bounds::BELOW_ONE, "a layer whose every unit is dropped learns nothing");
    let read = |item| one.read_node(section, key, item).unwrap_or_default();
    let dropout: Vec<f32> = if let Value::List(items) = &node.value {
        if !items.is_empty() && items.len() != layers && section.are_sound(&["layers"]) {
            let problem = format!("has {} entries for {layers} layers", items.len());
            section.refuse(key, problem, "give one number for all layers, or one for each");
        }
        items.iter().map(read).collect()
    } else {
        vec![read(node); layers]
    };
    Some(if dropout.iter().all(|&p| p == 0.0) { Vec::new() } else { dropout })
}

/// Names become parts of record keys and directories.
fn check_name(name: &str) -> Result<(), (String, String)> {
    let fix = "use 1 to 64 letters, digits, `.`, `_` or `-`, a letter or digit first";
    let refused = |_| (format!("\"{name}\" cannot be part of a key or a directory"), fix.to_owned());
    names::check_model(name).map_err(refused)
}
