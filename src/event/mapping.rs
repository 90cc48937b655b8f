//! Where an event keeps its parts: JSON pointers as a tree that the decoder walks along while it reads.

use super::EventKind;
use super::options::Mapping;

/// A part of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    ImpressionId,
    EventId,
    EventTime,
    Features,
    Weight,
    RequestId,
    ModelVersion,
    Prediction,
}

impl Part {
    pub(super) const COUNT: usize = 8;

    /// Its standard key, for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ImpressionId => "impression_id",
            Self::EventId => "event_id",
            Self::EventTime => "event_time",
            Self::Features => "features",
            Self::Weight => "weight",
            Self::RequestId => "request_id",
            Self::ModelVersion => "model_version",
            Self::Prediction => "prediction",
        }
    }
}

/// A mapping that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// A pointer is not one.
    #[error("events.mapping: {pointer:?} for {part} is not a JSON pointer: it is empty or begins with '/'")]
    NotAPointer {
        /// The part it is for.
        part: &'static str,
        /// The text.
        pointer: String,
    },
    /// Two parts are read from one place.
    #[error("events.mapping: {part} and {other} are both read from {pointer:?}")]
    Twice {
        /// A part.
        part: &'static str,
        /// Another one.
        other: &'static str,
        /// The place.
        pointer: String,
    },
}

/// A place in a document.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// What is read here.
    pub(super) part: Option<Part>,
    /// The places below, by key or index.
    pub(super) children: Vec<(Box<str>, Place)>,
}

impl Place {
    /// The document of this kind of events.
    pub(super) fn document(kind: EventKind, mapping: &Mapping) -> Result<Self, MappingError> {
        let common = [
            (Part::ImpressionId, &mapping.impression_id),
            (Part::EventId, &mapping.event_id),
            (Part::EventTime, &mapping.event_time),
        ];
        let shown = [
            (Part::Features, &mapping.features),
            (Part::Weight, &mapping.weight),
            (Part::RequestId, &None),
            (Part::ModelVersion, &None),
            (Part::Prediction, &None),
        ];
        let mut root = Self::default();
        let shown = if kind == EventKind::Impression { shown.as_slice() } else { &[] };
        for (part, pointer) in common.iter().chain(shown) {
            let standard = || format!("/{}", part.name());
            root.set(*part, &Option::clone(pointer).unwrap_or_else(standard))?;
        }
        Ok(root)
    }

    /// The place below for a key.
    #[inline]
    pub(super) fn child(&self, key: &str) -> Option<&Self> {
        self.children.iter().find(|(name, _)| **name == *key).map(|(_, place)| place)
    }

    fn set(&mut self, part: Part, pointer: &str) -> Result<(), MappingError> {
        let bad = || MappingError::NotAPointer { part: part.name(), pointer: pointer.to_owned() };
        let path = match pointer.strip_prefix('/') {
            Some(path) => path.split('/').collect(),
            None if pointer.is_empty() => Vec::new(),
            None => return Err(bad()),
        };
        let mut place = self;
        for token in path {
            let key = token.replace("~1", "/").replace("~0", "~");
            let at = place.children.iter().position(|(name, _)| **name == *key);
            let at = at.unwrap_or_else(|| {
                place.children.push((key.into(), Self::default()));
                place.children.len() - 1
            });
            place = &mut place.children[at].1;
        }
        match place.part.replace(part) {
            None => Ok(()),
            Some(other) => {
                Err(MappingError::Twice { part: part.name(), other: other.name(), pointer: pointer.to_owned() })
            }
        }
    }
}
