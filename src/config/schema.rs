//! A JSON schema of the file, for editors: what is not in it no editor offers, and what it refuses is marked as one types.
//! Keys that contradict each other, and what librdkafka knows, are for `deepfm config check`.

use serde_json::{Map, Value, json};

use super::fields::FIELDS_MAX;
use super::keys::{FREE_SECTION, Key, Part};
use super::table::SECTIONS;
use super::template::default_of;

/// The schema (2020-12).
pub fn schema() -> Value {
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A configuration of deepfm",
        "type": "object",
        "additionalProperties": false,
        "required": ["fields"],
        "properties": {},
    });
    for part in SECTIONS {
        *below(&mut root, part.path) = section(part);
    }
    root
}

/// The place of a section among the properties of the one around it.
fn below<'s>(schema: &'s mut Value, path: &str) -> &'s mut Value {
    path.split('.').fold(schema, |schema, name| &mut schema["properties"][name])
}

fn section(part: &Part) -> Value {
    let keys: Map<String, Value> = part.keys.iter().map(|key| (key.name.to_owned(), value(part, key))).collect();
    let is_free = part.path == FREE_SECTION;
    let object = json!({
        "type": "object",
        "description": text(part.doc),
        "additionalProperties": is_free,
        "properties": keys,
    });
    if part.path == "fields" { entries(object) } else { object }
}

/// The list of fields, of which each is one object.
fn entries(mut entry: Value) -> Value {
    let description = entry["description"].take();
    let only = |key: &str, kind: &str| {
        json!({
            "if": {"required": [key]},
            "then": {"properties": {"kind": {"const": kind}}},
        })
    };
    entry["description"] = json!("A field.");
    entry["required"] = json!(["name", "kind"]);
    entry["allOf"] = json!([only("edges", "numeric"), only("weights", "multi")]);
    json!({"type": "array", "description": description, "items": entry, "minItems": 1, "maxItems": FIELDS_MAX})
}

fn value(part: &Part, key: &Key) -> Value {
    let mut schema = (key.form)().schema();
    schema["description"] = json!(text(key.doc));
    if let Some(default) = default_of(&format!("{}.{}", part.path, key.name)) {
        schema["default"] = json!(default);
    }
    schema
}

fn text(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}
