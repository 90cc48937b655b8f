//! `[[fields]]`: names and kinds of the model's fields, in the order in which the MLP sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use serde::{Serialize, Serializer};

use deepfm_core::feature::field::{Field, FieldKind, Weights};

use super::document::{Node, Value};
use super::error::Origin;
use super::section::{Bounds, Section};

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
const WEIGHTS: [(&str, Weights); 4] =
    [("l1", Weights::L1), ("l2", Weights::L2), ("log", Weights::Log), ("raw", Weights::Raw)];

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
    let section = Section::entry(format!("fields[{index}]"), node, root.report())?;
    let kind = read_kind(&section);
    let why = "it is the share of impressions that have the field";
    let share = section.node("share").and_then(|node| section.number_at("share", node, Bounds::SHARE, why));
    if section.node("name").is_none() {
        section.refuse("name", "is missing", "give the key of the field in the features of impressions");
    }
    let name = section.text("name")?;
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let problem = format!("a name of {} bytes", name.len());
        section.refuse("name", problem, "give the field's key in the features of impressions, 1 to 256 bytes");
    }
    if !names.insert(name.clone()) {
        section.refuse("name", format!("\"{name}\" is the name of another field too"), "remove one of the two");
    }
    Some((Field { name, kind }, share))
}

fn read_kind(section: &Section<'_>) -> FieldKind {
    let numeric = FieldKind::Numeric { edges: None };
    let multi = FieldKind::Multi { weights: Weights::default() };
    let kinds = [("categorical", &FieldKind::Categorical), ("multi", &multi), ("numeric", &numeric)];
    if section.node("kind").is_none() {
        section.refuse("kind", "is missing", "give \"categorical\" or \"multi\" or \"numeric\"");
        return FieldKind::Categorical;
    }
    let kind = section.choice("kind", kinds[0].1, &kinds);
    let misplaced = |key: &str| section.node(key).is_some() && section.are_sound(&["kind"]);
    if !matches!(kind, FieldKind::Numeric { .. }) && misplaced("edges") {
        section.refuse("edges", "only numeric fields have edges", "remove them, or set kind = \"numeric\"");
    }
    if !matches!(kind, FieldKind::Multi { .. }) && misplaced("weights") {
        section.refuse("weights", "only multi-valued fields have weights", "remove it, or set kind = \"multi\"");
    }
    match kind {
        FieldKind::Numeric { .. } => FieldKind::Numeric { edges: read_edges(section) },
        FieldKind::Multi { weights } => FieldKind::Multi { weights: section.choice("weights", *weights, &WEIGHTS) },
        FieldKind::Categorical => FieldKind::Categorical,
    }
}

fn read_edges(section: &Section<'_>) -> Option<Vec<f64>> {
    let items = section.list("edges", "give ascending numbers, such as [0, 10, 100]")?;
    if items.is_empty() || items.len() > EDGES_MAX {
        let problem = format!("{} edges: there can be 1 to {EDGES_MAX}", items.len());
        section.refuse("edges", problem, "leave edges out for logarithmic buckets");
    }
    let mut edges: Vec<f64> = Vec::with_capacity(items.len());
    for item in items {
        let edge = match item.value {
            Value::Integer(number) => number as f64,
            Value::Float(number) if number.is_finite() => number,
            _ => {
                let problem = format!("{} is not an edge", item.value.describe());
                section.report().add(item.origin.clone(), section.key("edges"), problem, "give finite numbers");
                continue;
            }
        };
        if let Some(&last) = edges.last().filter(|last| **last >= edge) {
            let problem = format!("{edge} comes after {last}");
            section.report().add(item.origin.clone(), section.key("edges"), problem, "sort the edges, each once");
        }
        edges.push(edge);
    }
    Some(edges)
}

impl Serialize for Fields {
    /// As the file writes them.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Entry<'a> {
            name: &'a str,
            kind: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            edges: Option<&'a [f64]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            weights: Option<Weights>,
            #[serde(skip_serializing_if = "Option::is_none")]
            share: Option<f32>,
        }
        serializer.collect_seq(self.list.iter().map(|field| Entry {
            name: &field.name,
            kind: kind_name(&field.kind),
            edges: match &field.kind {
                FieldKind::Numeric { edges } => edges.as_deref(),
                FieldKind::Categorical | FieldKind::Multi { .. } => None,
            },
            weights: match field.kind {
                FieldKind::Multi { weights } => Some(weights),
                FieldKind::Categorical | FieldKind::Numeric { .. } => None,
            },
            share: self.shares.get(&field.name).copied(),
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
