//! Every section with its keys, in the order in which files have them.

use super::events::{self, Events};
use super::fields::FieldEntry;
use super::gate::Gate;
use super::join::JoinSection;
use super::kafka::Kafka;
use super::keys::{Key, Part};
use super::model::{Mlp, Model};
use super::operation::{Admin, Exports, MetricsSection, State, Versions};
use super::optimizer::{BiasOptimizer, EmbeddingOptimizer, LinearOptimizer, MlpOptimizer, Optimizer};
use super::properties;
use super::serve::Serve;
use super::storage::Storage;
use super::training::Training;

/// Every section.
pub static SECTIONS: &[Part] = &[
    FieldEntry::PART,
    Model::PART,
    Mlp::PART,
    Optimizer::PART,
    BiasOptimizer::PART,
    LinearOptimizer::PART,
    EmbeddingOptimizer::PART,
    MlpOptimizer::PART,
    Training::PART,
    JoinSection::PART,
    Events::PART,
    events::MAPPING,
    events::IMPRESSION,
    events::CLICK,
    Kafka::PART,
    properties::PART,
    State::PART,
    Versions::PART,
    Storage::PART,
    Gate::PART,
    Serve::PART,
    Exports::PART,
    Admin::PART,
    MetricsSection::PART,
];

/// Every key that holds a value, with its section. Keys of the entries of `fields` are left out.
pub fn keys() -> impl Iterator<Item = (String, &'static Key)> {
    let parts = SECTIONS.iter().filter(|part| part.path != FieldEntry::PART.path);
    parts.flat_map(|part| part.keys.iter().map(move |key| (format!("{}.{}", part.path, key.name), key)))
}
