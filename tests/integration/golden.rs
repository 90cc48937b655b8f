//! The golden vectors: numbers and event logs made by an independent float64 reference. Every file found is read, and
//! dispatched on its `kind`. `DEEPFM_GOLDEN_DIR` points at another set than the committed one.

mod join;
mod metrics;
mod numeric;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::under_each_instruction_set;

type Check = fn(&Value);

const KINDS: [(&str, Check); 7] = [
    ("forward", numeric::forward),
    ("gradients", numeric::gradients),
    ("ftrl", numeric::ftrl),
    ("train", numeric::train),
    ("sampling", numeric::sampling),
    ("metrics", metrics::check),
    ("join", join::check),
];

fn golden_dir() -> PathBuf {
    std::env::var_os("DEEPFM_GOLDEN_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden"), PathBuf::from)
}

fn documents(directory: &Path, found: &mut Vec<(PathBuf, Value)>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let document = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            found.push((path, document));
        }
    }
}

#[test]
fn golden_vectors_of_every_kind_are_read_and_hold() {
    let mut found = Vec::new();
    documents(&golden_dir(), &mut found);
    let mut counts: BTreeMap<&str, usize> = KINDS.iter().map(|(kind, _)| (*kind, 0)).collect();
    for (path, document) in &found {
        let kind = document["kind"].as_str().unwrap_or_else(|| panic!("{} has no kind", path.display()));
        let known = KINDS.iter().find(|(name, _)| *name == kind);
        let (name, check) = known.unwrap_or_else(|| panic!("{}: unknown kind {kind:?}", path.display()));
        eprintln!("golden: {}", path.display());
        under_each_instruction_set(|_| check(document));
        *counts.get_mut(name).expect("every kind is counted") += 1;
    }
    println!("golden files read, by kind: {counts:?}");
    assert!(counts.values().sum::<usize>() > 0, "no golden file in {}", golden_dir().display());
    let missing: Vec<&&str> = counts.iter().filter(|(_, count)| **count == 0).map(|(kind, _)| kind).collect();
    assert!(missing.is_empty(), "no golden file of kinds {missing:?} in {}", golden_dir().display());
}

/// The numbers of an array.
fn reals(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap_or_else(|| panic!("not an array: {value}"));
    list.iter().map(|number| number.as_f64().unwrap_or_else(|| panic!("not a number: {number}"))).collect()
}

fn real(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

fn integer(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not an unsigned 64-bit integer: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("not an array: {value}"))
}

/// A tolerance of a file: element-wise `|got - expected| <= atol + rtol * |expected|`.
#[derive(Clone, Copy)]
struct Tolerance {
    rtol: f64,
    atol: f64,
}

impl Tolerance {
    fn of(value: &Value) -> Self {
        Self { rtol: real(&value["rtol"]), atol: real(&value["atol"]) }
    }

    fn check(self, what: &str, got: f64, expected: f64) {
        let bound = self.atol + self.rtol * expected.abs();
        assert!((got - expected).abs() <= bound, "{what}: got {got}, expected {expected} within {bound}");
    }

    /// An expected weight of exactly 0 is a threshold: it must be exactly 0.
    fn check_weight(self, what: &str, got: f64, expected: f64) {
        if expected == 0.0 {
            assert_eq!(got, 0.0, "{what}");
        }
        self.check(what, got, expected);
    }

    fn check_all(self, what: &str, got: &[f32], expected: &[f64]) {
        assert_eq!(got.len(), expected.len(), "{what}: length");
        for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
            self.check(&format!("{what}[{at}]"), f64::from(*got), *expected);
        }
    }
}
