//! `[[fields]]`: names and kinds of the model's fields, in the order in which the MLP sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use serde::{Serialize, Serializer};
use serde_json::json;

use deepfm_core::feature::field::{Field, FieldKind, Weights};

use super::declare::{Readable, section};
use super::document::{Node, Value};
use super::error::Origin;
use super::keys::Bounds;
use super::kinds::{Choice, Maybe, Special, number};
use super::section::Section;

/// The fields in their order, and what is known of them beside. The list is what decides the state; shares are for people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields {
    list: Vec<Field>,
    /// The share of impressions to expect a field in, by name.
    shares: BTreeMap<String, f32>,
}

impl Fields {
    /// The share of impressions to expect each field in, where one is given.
    pub fn shares(&self) -> BTreeMap<String, f64> {
        self.shares.iter().map(|(name, share)| (name.clone(), f64::from(*share))).collect()
    }
}

impl Deref for Fields {
    type Target = Vec<Field>;

    fn deref(&self) -> &Vec<Field> {
        &self.list
    }
}

impl DerefMut for Fields {
    fn deref_mut(&mut self) -> &mut Vec<Field> {
        &mut self.list
    }
}

/// The most fields a model can have.
pub(super) const FIELDS_MAX: usize = 1024;

/// The longest name of a field, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 256;

/// The most edges of a numeric field.
const EDGES_MAX: usize = 4096;

/// The scalings of weights, by their names in the file.
const WEIGHTS: Choice<Weights> =
    Choice(&[("l1", Weights::L1), ("l2", Weights::L2), ("log", Weights::Log), ("raw", Weights::Raw)]);

/// The kinds, each without what is particular to it.
const KINDS: Choice<KindName> =
    Choice(&[("categorical", KindName::Categorical), ("multi", KindName::Multi), ("numeric", KindName::Numeric)]);

const NAME: Special<String> = Special {
    read: read_name,
    words: "1 to 256 bytes",
    schema: || json!({"type": "string", "minLength": 1, "maxLength": NAME_BYTES_MAX}),
};

const EDGES: Maybe<Special<Vec<f64>>> = Maybe(Special {
    read: read_edges,
    words: "up to 4096 ascending numbers",
    schema: || json!({"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": EDGES_MAX}),
});

section! {
    /// The fields to learn from, in the order in which the MLP sees them.
    FieldEntry in "fields" {
        /// The key of the field in the features of impressions.
        name: String = String::new(), NAME, Refused;
        /// "categorical" (one value), "multi" (a list or an object of weights) or "numeric" (a quantity).
        kind: KindName = KindName::Categorical, KINDS, Refused;
        /// The bounds between the buckets of a numeric field; logarithmic ones unless given.
        #[serde(skip_serializing_if = "Option::is_none")]
        edges: Option<Vec<f64>> = None, EDGES, Refused;
        /// How the weights of an object are scaled, of a multi-valued field; "l2" unless given.
        #[serde(skip_serializing_if = "Option::is_none")]
        weights: Option<Weights> = None, Maybe(WEIGHTS), Refused;
        /// The share of impressions that have the field: a worker warns when it falls below half of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        share: Option<f32> = None,
            Maybe(number(Bounds::SHARE, "it is the share of impressions that have the field")), Free;
    }
}

/// The kind of a field alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KindName {
    /// One value.
    Categorical,
    /// Several values.
    Multi,
    /// A quantity.
    Numeric,
}

const EXAMPLE: &str =
    "add [[fields]] with name and kind for each feature to learn from, or let `deepfm config init` find them";

/// Reads every entry; entries with errors are left out.
pub(super) fn read(root: &Section<'_>) -> Fields {
    if root.node("fields").is_none() {
        root.report().add(Origin::Whole, "fields", "a model needs at least one field", EXAMPLE);
        return Fields::default();
    }
    let Some(items) = root.list("fields", "write each field as its own [[fields]]") else {
        return Fields::default();
    };
    if items.is_empty() || items.len() > FIELDS_MAX {
        let problem = format!("{} fields: a model has 1 to {FIELDS_MAX}", items.len());
        root.refuse("fields", problem, EXAMPLE);
    }
    let mut names = BTreeSet::new();
    let mut fields = Fields::default();
    for (index, node) in items.iter().enumerate() {
        if let Some((field, share)) = read_field(index, node, &mut names, root) {
            fields.shares.extend(share.map(|share| (field.name.clone(), share)));
            fields.list.push(field);
        }
    }
    fields
}

fn read_field(
    index: usize,
    node: &Node,
    names: &mut BTreeSet<String>,
    root: &Section<'_>,
) -> Option<(Field, Option<f32>)> {
    let section = root.entry(format!("fields[{index}]"), node)?;
    let entry = FieldEntry::read_keys(&section);
    refuse_misplaced(&section, entry.kind);
    if section.node("name").is_none() {
        section.refuse("name", "is missing", "give the key of the field in the features of impressions");
    }
    if entry.name.is_empty() {
        return None;
    }
    if !names.insert(entry.name.clone()) {
        section.refuse("name", format!("\"{}\" is the name of another field too", entry.name), "remove one of the two");
    }
    let kind = match entry.kind {
        KindName::Numeric => FieldKind::Numeric { edges: entry.edges },
        KindName::Multi => FieldKind::Multi { weights: entry.weights.unwrap_or_default() },
        KindName::Categorical => FieldKind::Categorical,
    };
    Some((Field { name: entry.name, kind }, entry.share))
}

fn read_name(section: &Section<'_>, key: &str) -> Option<String> {
    let name = section.text(key)?;
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let problem = format!("a name of {} bytes", name.len());
        section.refuse(key, problem, "give the field's key in the features of impressions, 1 to 256 bytes");
    }
    Some(name)
}

/// Notes keys that belong to another kind.
fn refuse_misplaced(section: &Section<'_>, kind: KindName) {
    if section.node("kind").is_none() {
        section.refuse("kind", "is missing", "give \"categorical\" or \"multi\" or \"numeric\"");
    }
    let misplaced = |key: &str| section.node(key).is_some() && section.are_sound(&["kind"]);
    if kind != KindName::Numeric && misplaced("edges") {
        section.refuse("edges", "only numeric fields have edges", "remove them, or set kind = \"numeric\"");
    }
    if kind != KindName::Multi && misplaced("weights") {
        section.refuse("weights", "only multi-valued fields have weights", "remove it, or set kind = \"multi\"");
    }
}

fn read_edges(section: &Section<'_>, key: &str) -> Option<Vec<f64>> {
    let items = section.list(key, "give ascending numbers, such as [0, 10, 100]")?;
    if items.is_empty() || items.len() > EDGES_MAX {
        let problem = format!("{} edges: there can be 1 to {EDGES_MAX}", items.len());
        section.refuse(key, problem, "leave edges out for logarithmic buckets");
    }
    let mut edges: Vec<f64> = Vec::with_capacity(items.len());
    for item in items {
        let edge = match item.value {
            Value::Integer(number) => number as f64,
            Value::Float(number) if number.is_finite() => number,
            _ => {
                let problem = format!("{} is not an edge", item.value.describe());
                section.report().add(item.origin.clone(), section.key(key), problem, "give finite numbers");
                continue;
            }
        };
        if let Some(&last) = edges.last().filter(|last| **last >= edge) {
            let problem = format!("{edge} comes after {last}");
            section.report().add(item.origin.clone(), section.key(key), problem, "sort the edges, each once");
        }
        edges.push(edge);
    }
    Some(edges)
}

impl Serialize for Fields {
    /// As the file writes them.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.list.iter().map(|field| {
            let (kind, edges, weights) = match &field.kind {
                FieldKind::Categorical => (KindName::Categorical, None, None),
                FieldKind::Multi { weights } => (KindName::Multi, None, Some(*weights)),
                FieldKind::Numeric { edges } => (KindName::Numeric, edges.clone(), None),
            };
            let share = self.shares.get(&field.name).copied();
            FieldEntry { name: field.name.clone(), kind, edges, weights, share }
        }))
    }
}

/// The name of a kind in the file.
pub(super) fn kind_name(kind: &FieldKind) -> &'static str {
    match kind {
        FieldKind::Categorical => "categorical",
        FieldKind::Multi { .. } => "multi",
        FieldKind::Numeric { .. } => "numeric",
    }
}
