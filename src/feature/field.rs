//! The fields of a model: names and kinds, in the order in which the MLP sees them.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::id::HASHING;

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
    Multi,
    /// A number, by its bucket.
    Numeric {
        /// Ascending bucket edges; without them buckets are logarithmic.
        edges: Option<Vec<f64>>,
    },
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

    /// 16 hexadecimal digits that name the fields, their order, kinds and edges, and the scheme of ids.
    pub fn fingerprint(&self) -> String {
        let canonical = serde_json::to_string(&(HASHING, &self.0)).expect("fields always encode");
        format!("{:016x}", xxh3_64(canonical.as_bytes()))
    }
}
