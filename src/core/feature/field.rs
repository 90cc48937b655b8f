//! The fields of a model: names and kinds, in the order in which the MLP sees them.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::Entry;
use super::id::HASHING;
use crate::math;

/// The most fields of a model.
pub const FIELDS_MAX: usize = 1024;

/// One field of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// The key of the field in an impression's features.
    pub name: String,
    /// How its values become feature ids.
    pub kind: FieldKind,
}

/// How the values of a field become feature ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldKind {
    /// One value: a string, number or boolean.
    Categorical,
    /// Several values: a list (each weighs 1) or an object of weights.
    Multi {
        /// What becomes of the weights of an object.
        weights: Weights,
    },
    /// A number, by its bucket.
    Numeric {
        /// Ascending bucket edges; without them buckets are logarithmic.
        edges: Option<Vec<f64>>,
    },
}

/// How the weights that an object gives its values are scaled, so that what they are measured in does not decide how far
/// an example moves the model. A list and a single value give no weights: their entries weigh 1 under all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// Over the sum of their magnitudes: shares, which together move a score as far as one plain value.
    L1,
    /// Over the root of the sum of their squares: their direction, with length 1.
    #[default]
    L2,
    /// `sign(w) · ln(1 + |w|)`, each by itself: counts whose amount matters too.
    Log,
    /// As they are: for weights that the producer has scaled.
    Raw,
}

impl Weights {
    /// Scales the weights of one object, in their order; sums are in f64.
    pub(super) fn scale(self, entries: &mut [(u16, Entry)]) {
        let sum = |term: fn(f64) -> f64| entries.iter().map(|(_, entry)| term(f64::from(entry.x))).sum::<f64>();
        let divisor = match self {
            Self::L1 => sum(f64::abs),
            Self::L2 => sum(|x| x * x).sqrt(),
            Self::Log => {
                for (_, entry) in entries {
                    entry.x = math::ln_1p(f64::from(entry.x.abs())).copysign(f64::from(entry.x)) as f32;
                }
                return;
            }
            Self::Raw => return,
        };
        for (_, entry) in entries {
            entry.x = (f64::from(entry.x) / divisor) as f32;
        }
    }
}

/// A list of fields that cannot be one model's.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FieldError {
    /// There are none, or too many.
    #[error("a model has 1 to {FIELDS_MAX} fields, not {0}")]
    Count(usize),
    /// A field has no name.
    #[error("field number {0} has an empty name")]
    Unnamed(usize),
    /// Two fields have one name.
    #[error("two fields are named {0:?}")]
    Twice(String),
    /// Bucket edges do not ascend, or one is not finite.
    #[error("the edges of field {0:?} do not ascend or are not finite")]
    Edges(String),
}

/// The validated fields of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldSet(Vec<Field>);

impl FieldSet {
    /// Checks a list of fields.
    ///
    /// # Errors
    /// When there are none or too many, a name is empty or twice there, or edges do not ascend.
    pub fn new(fields: Vec<Field>) -> Result<Self, FieldError> {
        if fields.is_empty() || fields.len() > FIELDS_MAX {
            return Err(FieldError::Count(fields.len()));
        }
        for (number, field) in fields.iter().enumerate() {
            if field.name.is_empty() {
                return Err(FieldError::Unnamed(number));
            }
            if fields[..number].iter().any(|other| other.name == field.name) {
                return Err(FieldError::Twice(field.name.clone()));
            }
            if let FieldKind::Numeric { edges: Some(edges) } = &field.kind {
                let ascending = edges.windows(2).all(|pair| pair[0] < pair[1]);
                if !ascending || edges.iter().any(|edge| !edge.is_finite()) {
                    return Err(FieldError::Edges(field.name.clone()));
                }
            }
        }
        Ok(Self(fields))
    }

    /// The fields, in order.
    pub fn as_slice(&self) -> &[Field] {
        &self.0
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never true: a set has at least one field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// 16 hexadecimal digits that name the fields, their order, kinds, edges and scaling of weights, and the scheme of ids.
    pub fn fingerprint(&self) -> String {
        let canonical = serde_json::to_string(&(HASHING, &self.0)).expect("fields always encode");
        format!("{:016x}", xxh3_64(canonical.as_bytes()))
    }
}
