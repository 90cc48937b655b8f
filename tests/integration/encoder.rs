//! Feature ids that any language can compute: vectors made by an implementation in Python, reproduced by the encoder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use deepfm_core::feature::encoder::{Encoder, Encoding, EntryBounds};
use deepfm_core::feature::field::{Field, FieldKind, FieldSet};
use deepfm_core::feature::{Entry, FeatureId};
use serde::Deserialize;

use crate::support::python::python;

const VECTORS_MIN: usize = 200;
const BOUNDS: EntryBounds = EntryBounds { features_max: 64, weight_max: 1e6 };

/// A value of a field, and what becomes of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    field: String,
    kind: FieldKind,
    /// JSON text.
    value: String,
    entries: Vec<Expected>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// In decimal.
    id: String,
    x: f32,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder")
}

#[test]
fn the_encoder_reproduces_every_vector() {
    let text = fs::read_to_string(fixtures().join("vectors.json")).expect("the vectors are there");
    let vectors: Vec<Vector> = serde_json::from_str(&text).expect("the vectors have their form");
    assert!(vectors.len() >= VECTORS_MIN, "only {} vectors", vectors.len());
    for Vector { field, kind, value, entries } in vectors {
        let case = format!("{field} ({kind:?}): {value}");
        let name = serde_json::to_string(&field).expect("a string is JSON");
        let fields = FieldSet::new(vec![Field { name: field, kind }]).unwrap_or_else(|error| panic!("{case}: {error}"));
        let features = Encoder::new(fields, BOUNDS)
            .encode_json(&format!("{{{name}: {value}}}"))
            .unwrap_or_else(|misfit| panic!("{case}: {misfit}"));
        let id = |text: &str| text.parse::<FeatureId>().expect("an id is 64 bits");
        let expected: Vec<Entry> = entries.iter().map(|entry| Entry { id: id(&entry.id), x: entry.x }).collect();
        assert_eq!(features.entries().collect::<Vec<_>>(), expected, "{case}");
    }
}

#[test]
fn python_computes_the_same_vectors() {
    let Some(python) = python("python_computes_the_same_vectors") else { return };
    // -B: no bytecode beside the fixtures.
    let check = Command::new(python).arg("-B").arg(fixtures().join("check.py")).output().expect("it ran before");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

/// What an object's keys were in the last object, or for another encoder, shows nowhere.
#[test]
fn memory_that_other_encoders_and_other_orders_of_keys_have_used_changes_nothing() {
    let names = ["a", "b", "c", "d", "e"];
    let encoder = |names: &[&str]| {
        let field = |name: &&str| Field { name: (*name).to_owned(), kind: FieldKind::Categorical };
        let fields = FieldSet::new(names.iter().map(field).collect()).expect("they are valid");
        Encoder::new(fields, BOUNDS)
    };
    let encoders = [encoder(&names), encoder(&names[..2]), encoder(&["e", "d", "c", "b", "a"]), encoder(&["x", "a"])];
    let objects = [
        r#"{"a":"1","b":"2","c":"3","d":"4","e":"5"}"#,
        r#"{"e":"1","d":"2","c":"3","b":"4","a":"5"}"#,
        r#"{"b":"1","x":"2","a":"3"}"#,
        r#"{"a":"1"}"#,
        "{}",
        r#"{"x":"1","a":"2","e":"3"}"#,
    ];
    let mut used = Encoding::default();
    for round in 0..200_u64 {
        let dice = deepfm_core::feature::hash::mix64(round);
        let (encoder, object) = (&encoders[(dice % 4) as usize], objects[(dice / 4 % 6) as usize]);
        let mut fresh = Encoding::default();
        encoder.encode_into(object.as_bytes(), &mut fresh).expect("it is sound");
        encoder.encode_into(object.as_bytes(), &mut used).expect("it is sound");
        assert_eq!(used.entries(), fresh.entries(), "{object}");
        assert_eq!(used.unknown_fields, fresh.unknown_fields, "{object}");
    }
}
