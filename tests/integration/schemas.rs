//! What `schemas/` says is what the code does: every example agrees with its schema, and for events schema and decoder
//! come to one verdict, on examples and on thousands of generated documents.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use deepfm_core::event::options::EventOptions;
use deepfm_core::event::{Decoder, EventKind, RawRecord, Reason};
use deepfm_core::feature::encoder::{Encoder, Misfit};
use deepfm_core::feature::field::{Field, FieldKind, FieldSet, Weights};
use deepfm_core::feature::hash;
use deepfm_core::feature::id::feature_id;
use deepfm_core::feature::value::{Meaning, Row, TABLE};
use deepfm_core::version::acknowledgement::Acknowledgement;
use deepfm_core::version::artefact::read_manifest;
use jsonschema::Validator;
use serde_json::Value;

const EVENTS: [(&str, EventKind); 2] = [("impression", EventKind::Impression), ("click", EventKind::Click)];
const SCHEMAS: [&str; 8] =
    ["impression", "click", "dead_letter", "manifest", "announcement", "alias", "hold", "acknowledgement"];

/// All of them are multi-valued: the only kind that takes every form of a value, as the schema does.
const FIELDS: [&str; 5] = ["user", "tags", "price", "topics", "a"];

const DOCUMENTS: usize = 8_000;
const EACH_VERDICT_MIN: usize = 1_000;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

fn schema(name: &str) -> Value {
    let path = directory().join(format!("{name}.schema.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn validator(name: &str) -> Validator {
    let options = jsonschema::draft202012::options().should_validate_formats(true);
    options.build(&schema(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The examples of a schema in the order of their names, each with its verdict.
fn examples(name: &str) -> Vec<(PathBuf, String, bool)> {
    let mut found = Vec::new();
    for (folder, is_valid) in [("valid", true), ("invalid", false)] {
        let folder = directory().join("examples").join(name).join(folder);
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("the directory can be read").path();
            let text = fs::read_to_string(&path).expect("an example is text");
            found.push((path, text, is_valid));
        }
    }
    found.sort();
    found
}

fn decoder() -> Decoder {
    let field = |name: &str| Field { name: name.to_owned(), kind: FieldKind::Multi { weights: Weights::default() } };
    let fields = FieldSet::new(FIELDS.map(field).to_vec()).expect("five different names are a set of fields");
    Decoder::new(fields, EventOptions::default()).expect("the standard mapping is sound")
}

/// What schema and decoder say of a document; they have to agree.
fn verdict(kind: EventKind, text: &str, validator: &Validator, decoder: &mut Decoder) -> bool {
    let document: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON: {error}\n{text}"));
    let by_schema = validator.validate(&document).map_err(|error| error.to_string());
    let record = RawRecord { payload: Some(text.as_bytes()), ..RawRecord::default() };
    let by_decoder = decoder.decode(kind, &record).map_err(|refusal| refusal.to_string());
    assert_eq!(
        by_schema.is_ok(),
        by_decoder.is_ok(),
        "of this {kind} the schema says {by_schema:?}, the decoder {by_decoder:?}:\n{text}"
    );
    by_schema.is_ok()
}

#[test]
fn every_schema_is_one() {
    for name in SCHEMAS {
        let schema = schema(name);
        let checked = jsonschema::draft202012::meta::validate(&schema);
        assert!(checked.is_ok(), "{name}: {checked:?}");
        let validator = validator(name);
        for example in schema["examples"].as_array().into_iter().flatten() {
            assert!(validator.is_valid(example), "{name}: {example}");
        }
    }
}

#[test]
fn every_example_agrees_with_its_schema() {
    for name in SCHEMAS {
        let validator = validator(name);
        let examples = examples(name);
        let least = if EVENTS.iter().any(|(event, _)| *event == name) { 4 } else { 2 };
        for verdict in [true, false] {
            assert!(examples.iter().filter(|(_, _, is_valid)| *is_valid == verdict).count() >= least, "{name}");
        }
        for (path, text, is_valid) in examples {
            let document: Value = serde_json::from_str(&text).expect("an example is JSON");
            let checked = validator.validate(&document);
            assert_eq!(checked.is_ok(), is_valid, "{}: {checked:?}", path.display());
        }
    }
}

#[test]
fn schema_and_decoder_agree_on_every_example() {
    let mut decoder = decoder();
    for (name, kind) in EVENTS {
        let validator = validator(name);
        for (path, text, is_valid) in examples(name) {
            assert_eq!(verdict(kind, &text, &validator, &mut decoder), is_valid, "{}", path.display());
        }
    }
}

#[test]
fn schema_and_decoder_agree_on_generated_documents() {
    let mut decoder = decoder();
    for (name, kind) in EVENTS {
        let validator = validator(name);
        let mut verdicts = [0, 0];
        for seed in 0..DOCUMENTS as u64 {
            let text = document(kind, &mut Dice { seed, thrown: 0 });
            verdicts[usize::from(verdict(kind, &text, &validator, &mut decoder))] += 1;
        }
        let [refused, accepted] = verdicts;
        assert!(
            refused >= EACH_VERDICT_MIN && accepted >= EACH_VERDICT_MIN,
            "{name}: {accepted} accepted, {refused} refused"
        );
    }
}

/// The table of values, the schema and the decoder say the same of every scalar, for fields of each kind.
#[test]
fn schema_and_decoder_go_by_the_table_of_values() {
    let whole = schema("impression");
    let quantity = serde_json::json!({"$defs": whole["$defs"], "$ref": "#/$defs/quantity"});
    let quantity = jsonschema::draft202012::options().build(&quantity).expect("it is a schema");
    let numeric = FieldKind::Numeric { edges: None };
    let multi = FieldKind::Multi { weights: Weights::default() };
    let encode = |kind: &FieldKind, json: &str| {
        let field = Field { name: "x".to_owned(), kind: kind.clone() };
        let encoder =
            Encoder::new(FieldSet::new(vec![field]).expect("one field is a set"), EventOptions::default().bounds());
        encoder.encode_json(&format!("{{\"x\": {json}}}"))
    };
    for Row { json, category, number } in TABLE {
        for (kind, text) in [
            (FieldKind::Categorical, (*json).to_owned()),
            (multi.clone(), (*json).to_owned()),
            (multi.clone(), format!("[{json}]")),
        ] {
            let ids: Vec<u64> = match category {
                Meaning::Category(name) => vec![feature_id("x", name.as_bytes())],
                Meaning::NoValue | Meaning::Number(_) | Meaning::Refused => Vec::new(),
            };
            let found = encode(&kind, &text).unwrap_or_else(|misfit| panic!("{kind:?} {text}: {misfit}"));
            assert_eq!(found.ids(), ids, "{kind:?} {text}");
        }
        let value: Value = serde_json::from_str(json).expect("a row is JSON");
        assert_eq!(quantity.is_valid(&value), *number != Meaning::Refused, "{json}");
        match (number, encode(&numeric, json)) {
            (Meaning::Number(number), Ok(found)) => {
                assert_eq!(found, encode(&numeric, &number.to_string()).expect("a number fits"), "{json}");
            }
            (Meaning::NoValue, Ok(found)) => assert!(found.ids().is_empty(), "{json}"),
            (Meaning::Refused, Err(Misfit::Mistyped { .. })) => {}
            (expected, found) => panic!("{json}: the table says {expected:?}, the encoder {found:?}"),
        }
    }
}

#[test]
fn valid_manifests_are_read_and_written_alike() {
    for (path, text, is_valid) in examples("manifest") {
        let manifest = read_manifest(text.as_bytes());
        if is_valid {
            let manifest = manifest.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let written: Value = serde_json::from_slice(&manifest.to_bytes()).expect("a manifest is JSON");
            assert_eq!(
                written,
                serde_json::from_str::<Value>(&text).expect("an example is JSON"),
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn schema_and_reader_of_acknowledgements_come_to_one_verdict() {
    for (path, text, is_valid) in examples("acknowledgement") {
        let document: Value = serde_json::from_str(&text).expect("an example is JSON");
        let key = format!("ctr/s/{}", document["server"].as_str().expect("a name"));
        match Acknowledgement::read(&key, text.as_bytes()) {
            Ok(read) => {
                assert!(is_valid, "{} is read", path.display());
                let written: Value = serde_json::from_str(&read.to_json()).expect("it is JSON");
                assert_eq!(written, document, "{}", path.display());
            }
            Err(error) => assert!(!is_valid, "{}: {error}", path.display()),
        }
    }
}

#[test]
fn dead_letters_name_every_reason() {
    let schema = schema("dead_letter");
    let named = schema["properties"]["reason"]["enum"].as_array().expect("reasons are listed");
    let named: Vec<&str> = named.iter().map(|reason| reason.as_str().expect("a reason is a string")).collect();
    assert_eq!(named, Reason::ALL.map(Reason::as_str));
}

#[test]
fn the_asyncapi_document_refers_to_every_schema_of_a_record() {
    let text = fs::read_to_string(directory().join("asyncapi.yaml")).expect("the document is there");
    let references = text.lines().filter_map(|line| line.trim().strip_prefix("$ref: ./"));
    let named: BTreeSet<String> = references.map(str::to_owned).collect();
    let records = SCHEMAS.iter().filter(|name| **name != "manifest");
    assert_eq!(named, records.map(|name| format!("{name}.schema.json")).collect());
}

/// A seeded stream of choices.
struct Dice {
    seed: u64,
    thrown: u64,
}

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.thrown += 1;
        (hash::hash(self.seed, self.thrown, 0) % bound as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// A document as keys and the JSON text of their values: numbers keep their spelling.
type Members = Vec<(&'static str, String)>;

/// A valid event, changed in up to three places.
fn document(kind: EventKind, dice: &mut Dice) -> String {
    let mut members = event(kind, dice);
    for _ in 0..dice.below(4) {
        change(&mut members, dice);
    }
    if dice.one_in(100) {
        return [anything(dice), format!("[{}]", object(&members, dice))][dice.below(2)].clone();
    }
    let turn = dice.below(members.len().max(1));
    members.rotate_left(turn);
    object(&members, dice)
}

fn event(kind: EventKind, dice: &mut Dice) -> Members {
    let mut members = vec![("impression_id", id(dice)), ("event_time", time(dice))];
    if dice.one_in(2) {
        members.push(("event_id", id(dice)));
    }
    if kind == EventKind::Impression {
        members.push(("features", features(dice)));
        for key in ["weight", "request_id", "model_version", "prediction"] {
            if dice.one_in(2) {
                members.push((key, optional(key, dice)));
            }
        }
    }
    members
}

fn change(members: &mut Members, dice: &mut Dice) {
    let Some(last) = members.len().checked_sub(1) else {
        return;
    };
    let at = dice.below(last + 1);
    let key = members[at].0;
    match dice.below(8) {
        0 => drop(members.remove(at)),
        1 => "null".clone_into(&mut members[at].1),
        2 => members[at].1 = anything(dice),
        3 => members[at].1 = members[dice.below(last + 1)].1.clone(),
        4 if key == "features" => members[at].1 = broken_features(dice),
        4 | 5 => members[at].1 = near_a_bound(key, dice),
        6 => {
            let unknown = dice.pick(&["placement", "Event_Time", "", "clé", "weight", "prediction"]);
            if members.iter().all(|(key, _)| *key != unknown) {
                members.push((unknown, anything(dice)));
            }
        }
        _ => {}
    }
}

fn anything(dice: &mut Dice) -> String {
    let values = [
        "null",
        "true",
        "false",
        "0",
        "-0.0",
        "1",
        "-1",
        "1.0",
        "0.5",
        "1e12",
        "1.0E+12",
        "1e300",
        "-1e300",
        "1e-300",
        "18446744073709551615",
        "18446744073709551616",
        "\"\"",
        "\"1700000000000\"",
        "\"2023-11-14T22:13:20Z\"",
        "\"\\u00e9\\n\"",
        "[]",
        "[1]",
        "[[]]",
        "{}",
        "{\"a\": 1}",
        "{\"a\": {\"b\": [null]}}",
    ];
    dice.pick(&values).to_owned()
}

/// Spellings of one integer.
fn spelled(value: i64, dice: &mut Dice) -> String {
    match dice.below(6) {
        0 => format!("{value}.0"),
        1 => format!("{value}e0"),
        2 => format!("{value}.00E+0"),
        3 => format!("{:e}", value as f64),
        _ => value.to_string(),
    }
}

/// A string of so many characters, plain, of several bytes each or escaped.
fn characters(count: usize, dice: &mut Dice) -> String {
    let character = dice.pick(&["a", "é", "語", "𝄞", "\\u00e9", "\\ud834\\udd1e", "\\\"", "e\u{301}"]);
    if character.chars().count() == 2 && !character.starts_with('\\') {
        let rest = if count % 2 == 1 { "e" } else { "" };
        return format!("\"{}{rest}\"", character.repeat(count / 2));
    }
    format!("\"{}\"", character.repeat(count))
}

fn id(dice: &mut Dice) -> String {
    match dice.below(4) {
        0 => spelled(dice.below(1_000_000) as i64 - 500_000, dice),
        1 => characters(1 + dice.below(256), dice),
        _ => format!("\"i-{}\"", dice.below(1000)),
    }
}

fn time(dice: &mut Dice) -> String {
    let time = 1_700_000_000_000 + dice.below(100_000_000) as i64;
    if dice.one_in(4) { quoted(time, dice) } else { spelled(time, dice) }
}

/// Digits within a string, as `BigQuery` and protobuf write them; now and then not quite.
fn quoted(time: i64, dice: &mut Dice) -> String {
    match dice.below(8) {
        0 => format!("\"00{time}\""),
        1 => format!("\"{time}.000\""),
        2 => format!("\"{time}.5\""),
        3 => format!("\" {time}\""),
        4 => format!("\"{time}e0\""),
        _ => format!("\"{time}\""),
    }
}

fn optional(key: &str, dice: &mut Dice) -> String {
    if dice.one_in(5) {
        return "null".to_owned();
    }
    // What is not read is not judged.
    if key != "weight" {
        return anything(dice);
    }
    dice.pick(&["0", "1", "2.0", "0.25", "1e6", "5e-324"]).to_owned()
}

/// A value at a bound of this key, one step within or one step beyond it.
fn near_a_bound(key: &str, dice: &mut Dice) -> String {
    match key {
        "impression_id" | "event_id" => match dice.below(3) {
            0 => characters(dice.pick(&[0, 1, 255, 256, 257, 258]), dice),
            1 => spelled(dice.pick(&[i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX]), dice),
            _ => dice.pick(&["9223372036854775808", "-9223372036854775809", "9223372036854774784.0", "0.5"]).to_owned(),
        },
        "event_time" => {
            let bound = dice.pick(&[0_i64, 100_000_000_000, 100_000_000_000_000]);
            let time = bound + dice.below(3) as i64 - 1;
            match dice.below(5) {
                0 => format!("{time}.5"),
                1 => quoted(time, dice),
                _ => spelled(time, dice),
            }
        }
        "weight" => {
            let values = ["-1", "-0.0", "-5e-324", "0", "999999", "1e6", "1000000.0000000001", "1000001"];
            dice.pick(&values).to_owned()
        }
        "features" => features(dice),
        _ => anything(dice),
    }
}

fn scalar(dice: &mut Dice) -> String {
    let values =
        ["null", "true", "false", "\"\"", "\"a\"", "\"語\"", "0", "-1", "21.0", "0.1", "1e300", "18446744073709551615"];
    dice.pick(&values).to_owned()
}

fn list(of: impl Fn(&mut Dice) -> String, dice: &mut Dice) -> String {
    let elements: Vec<String> = (0..dice.below(4)).map(|_| of(dice)).collect();
    format!("[{}]", elements.join(", "))
}

/// A weight of a value that fits, at the bound.
fn feature_weight(dice: &mut Dice) -> String {
    dice.pick(&["null", "0", "1", "-2.5", "1e-300", "1e6", "-1000000.0"]).to_owned()
}

fn features(dice: &mut Dice) -> String {
    let mut members = Members::new();
    for field in FIELDS {
        match dice.below(4) {
            0 => members.push((field, scalar(dice))),
            1 => members.push((field, list(scalar, dice))),
            2 => {
                let weights = ["x", "", "é"].map(|value| (value, feature_weight(dice)));
                members.push((field, object(&weights[..dice.below(4)], dice)));
            }
            _ => {}
        }
    }
    object(&members, dice)
}

/// Features of which one has a form that no field takes.
fn broken_features(dice: &mut Dice) -> String {
    let values = [
        "[[]]",
        "[{}]",
        "[\"a\", [\"b\"]]",
        "[\"a\", {\"b\": 1}]",
        "{\"x\": \"1\"}",
        "{\"x\": true}",
        "{\"x\": []}",
        "{\"x\": {\"y\": 1}}",
        "{\"x\": 1000000.0000000001}",
        "{\"x\": 1, \"y\": -1000001}",
        "{\"\": 1e300}",
    ];
    let broken = (dice.pick(&FIELDS[..2]), dice.pick(&values).to_owned());
    object(&[broken, ("topics", scalar(dice))], dice)
}

/// The text of an object; now and then a key is escaped, which changes nothing.
fn object(members: &[(&str, String)], dice: &mut Dice) -> String {
    let member = |(key, value): &(&str, String)| {
        let escaped = if dice.one_in(20) { key.replace('e', "\\u0065") } else { (*key).to_owned() };
        format!("\"{escaped}\": {value}")
    };
    let members: Vec<String> = members.iter().map(member).collect();
    format!("{{{}}}", members.join(", "))
}
