//! Where an event keeps its parts: JSON pointers as a tree that the decoder walks along while it reads.

use super::EventKind;
use super::options::{Mapping, Mappings};
use crate::feature::field::FieldSet;

/// A part of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    ImpressionId,
    EventId,
    EventTime,
    Features,
    Weight,
}

impl Part {
    pub(super) const COUNT: usize = 5;

    fn is_optional(self) -> bool {
        matches!(self, Self::EventId | Self::Weight)
    }

    /// Its standard key, for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ImpressionId => "impression_id",
            Self::EventId => "event_id",
            Self::EventTime => "event_time",
            Self::Features => "features",
            Self::Weight => "weight",
        }
    }
}

/// A mapping that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum MappingError {
    /// A pointer is not one.
    #[error("{pointer:?} for {part} is not a JSON pointer: it is empty or begins with '/'")]
    NotAPointer { part: &'static str, pointer: String },
    /// Two parts are read from one place.
    #[error("{part} and {other} are both read from {pointer:?}")]
    Twice { part: &'static str, other: &'static str, pointer: String },
    /// A part is read from the place of a field, or from within it.
    #[error("{part} is read from {pointer:?}, which is the field {field:?} too")]
    Field { part: &'static str, pointer: String, field: String },
}

impl MappingError {
    /// The key of the mapping that is at fault.
    pub fn key(&self) -> &'static str {
        match self {
            Self::NotAPointer { part, .. } | Self::Twice { part, .. } | Self::Field { part, .. } => part,
        }
    }
}

/// Checks the mapping of one kind of events against the fields.
///
/// # Errors
/// When it cannot be used.
pub fn check(kind: EventKind, mappings: &Mappings, fields: &FieldSet) -> Result<(), MappingError> {
    Place::document(kind, mappings.of(kind), fields).map(|_| ())
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
    ///
    /// Where features and parts share an object, a configured field wins over an optional part that is not mapped; a part
    /// that is mapped, or required, and a field cannot be read from one place.
    pub(super) fn document(kind: EventKind, mapping: &Mapping, fields: &FieldSet) -> Result<Self, MappingError> {
        let features = mapping.features.as_deref().unwrap_or("/features");
        let mut parts = vec![
            (Part::ImpressionId, &mapping.impression_id),
            (Part::EventId, &mapping.event_id),
            (Part::EventTime, &mapping.event_time),
        ];
        if kind == EventKind::Impression {
            parts.extend([(Part::Features, &mapping.features), (Part::Weight, &mapping.weight)]);
        }
        let mut root = Self::default();
        for (part, given) in parts {
            let pointer = given.clone().unwrap_or_else(|| format!("/{}", part.name()));
            let field = match kind {
                EventKind::Impression if part != Part::Features => field_at(&pointer, features, fields),
                _ => None,
            };
            match field {
                Some(_) if given.is_none() && part.is_optional() => {}
                Some(field) => return Err(MappingError::Field { part: part.name(), pointer, field }),
                None => root.set(part, &pointer)?,
            }
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
        let twice = |other: Self| MappingError::Twice {
            part: part.name(),
            other: other.part.map_or("another part", Part::name),
            pointer: pointer.to_owned(),
        };
        let mut place = self;
        for token in path {
            // A part other than features is a scalar: nothing is below it.
            if place.part.is_some_and(|above| above != Part::Features) {
                return Err(twice(place.clone()));
            }
            let key = unescaped(token);
            let at = place.children.iter().position(|(name, _)| **name == *key);
            let at = at.unwrap_or_else(|| {
                place.children.push((key.into(), Self::default()));
                place.children.len() - 1
            });
            place = &mut place.children[at].1;
        }
        if part != Part::Features
            && let Some((_, below)) = place.children.first()
        {
            return Err(twice(below.clone()));
        }
        match place.part {
            None => place.part = Some(part),
            Some(_) => return Err(twice(place.clone())),
        }
        Ok(())
    }
}

/// The configured field that a pointer leads to or into.
fn field_at(pointer: &str, features: &str, fields: &FieldSet) -> Option<String> {
    let below = pointer.strip_prefix(features)?.strip_prefix('/')?;
    let name = unescaped(below.split('/').next().unwrap_or_default());
    fields.as_slice().iter().any(|field| field.name == name).then_some(name)
}

/// A reference token of a pointer as the key that it names.
fn unescaped(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::options::EventOptions;
    use crate::event::{Decoded, Decoder, Event, RawRecord, Reason};
    use crate::feature::field::{Field, FieldKind};

    fn fields(names: &[&str]) -> FieldSet {
        let field = |name: &&str| Field { name: (*name).to_owned(), kind: FieldKind::Categorical };
        FieldSet::new(names.iter().map(field).collect()).expect("they are different")
    }

    fn flat(weight: Option<&str>) -> Mapping {
        Mapping { features: Some(String::new()), weight: weight.map(str::to_owned), ..Mapping::default() }
    }

    fn decode(mapping: Mapping, names: &[&str], json: &str) -> Result<Decoded, crate::event::Refusal> {
        let mapping = Mappings { impression: mapping, ..Mappings::default() };
        let options = EventOptions { mapping, ..EventOptions::default() };
        let mut decoder = Decoder::new(fields(names), options).expect("the mapping is sound");
        let record = RawRecord { payload: Some(json.as_bytes()), ..RawRecord::default() };
        decoder.decode(EventKind::Impression, &record)
    }

    #[test]
    fn in_a_flat_event_a_configured_field_wins_over_the_parts_of_its_name() {
        let json = r#"{"impression_id":"i","event_time":1700000000000,"event_id":"e","weight":7.5,"model_version":"2024-01-01",
            "prediction":-2.3,"request_id":17}"#;
        let names = ["weight", "model_version", "prediction", "request_id", "event_id"];
        let decoded = decode(flat(None), &names, json).expect("nothing of it is judged but the features");
        let Event::Impression(impression) = decoded.event else { panic!("it is an impression") };
        assert_eq!(impression.features.entries().len(), names.len());
        assert_eq!((impression.weight, impression.event_id), (1.0, None));
        // Without such fields they are parts as ever.
        let decoded = decode(flat(None), &["user"], json).expect("the weight fits");
        let Event::Impression(impression) = decoded.event else { panic!("it is an impression") };
        assert_eq!((impression.weight, impression.event_id.as_deref()), (7.5, Some("e")));
    }

    #[test]
    fn a_part_and_a_field_that_are_both_asked_for_at_one_place_are_refused_with_both_names() {
        let refused = |mapping: Mapping, names: &[&str]| {
            Place::document(EventKind::Impression, &mapping, &fields(names))
                .expect_err("two are read there")
                .to_string()
        };
        let said = refused(flat(Some("/w~1eight")), &["user", "w/eight"]);
        assert_eq!(said, "weight is read from \"/w~1eight\", which is the field \"w/eight\" too");
        assert!(refused(flat(None), &["event_time"]).contains("field \"event_time\""));
        let inside = Mapping { event_time: Some("/features/at/ms".to_owned()), ..Mapping::default() };
        assert!(refused(inside.clone(), &["at"]).contains("field \"at\""));
        assert!(Place::document(EventKind::Impression, &inside, &fields(&["other"])).is_ok());
        let below = Mapping { weight: Some("/event_time/w".to_owned()), ..Mapping::default() };
        assert!(refused(below, &["user"]).contains("weight and event_time are both read from"));
    }

    #[test]
    fn what_is_not_used_is_not_judged() {
        let json = |unused: &str| {
            format!(r#"{{"impression_id":"i","event_time":1700000000000,"features":{{"user":"u"}},{unused}}}"#)
        };
        for unused in [
            r#""request_id":17"#,
            r#""request_id":{"a":[1]}"#,
            r#""model_version":"2024-01-01""#,
            r#""model_version":-1"#,
            r#""prediction":-2.3"#,
            r#""prediction":"high","prediction":null"#,
        ] {
            let decoded = decode(Mapping::default(), &["user"], &json(unused)).expect(unused);
            assert_eq!(decoded.unknown_keys, 0, "they are known, if not used");
        }
    }

    #[test]
    fn features_are_an_object_even_where_another_part_is_among_them() {
        let mapping = Mapping { weight: Some("/features/meta/w".to_owned()), ..Mapping::default() };
        for found in ["\"text\"", "null", "[1]", "7", "true"] {
            let json = format!(r#"{{"impression_id":"i","event_time":1700000000000,"features":{found}}}"#);
            let refusal = decode(mapping.clone(), &["user"], &json).expect_err("it is no object");
            assert_eq!(refusal.reason, Reason::Mistyped);
            assert!(refusal.detail().starts_with("features: expected an object"), "{refusal}");
        }
        let json = r#"{"impression_id":"i","event_time":1700000000000,"features":{"user":"u","meta":{"w":3}}}"#;
        let Event::Impression(read) = decode(mapping, &["user"], json).expect("it is one").event else { panic!() };
        assert_eq!((read.weight, read.features.entries().len()), (3.0, 1));
    }
}
