//! Everything that is made of the table of keys says what the table says: the committed files, what editors refuse, and what a state
//! can be converted to.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use deepfm_stream::config::Config;
use deepfm_stream::config::keys::{Change, Form, Key};
use deepfm_stream::config::schema::schema;
use deepfm_stream::config::table::{self, SECTIONS};
use deepfm_stream::config::template::{default_of, template};
use jsonschema::Validator;

use super::{FIELD, valid};

/// What stands around the table in README.
const MARKS: [&str; 2] = ["<!-- keys: a test writes this table -->\n", "<!-- end of keys -->\n"];

/// Refuses a committed file that is not what the table makes of it, or writes that.
fn is_committed(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var("DEEPFM_WRITE_FIXTURES").as_deref() == Ok("1") {
        fs::write(&path, text).expect("the disk takes it");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let advice = "DEEPFM_WRITE_FIXTURES=1 cargo test --test integration -- configuration::table writes it";
    assert!(committed == text, "{name} is not what the keys make of it: {advice}");
}

#[test]
fn the_template_is_made_of_the_keys() {
    is_committed("deploy/deepfm.toml", &template());
}

#[test]
fn the_schema_is_made_of_the_keys() {
    let text = serde_json::to_string_pretty(&schema()).expect("a schema is JSON");
    is_committed("schemas/config.schema.json", &format!("{text}\n"));
}

#[test]
fn the_readmes_table_is_made_of_the_keys() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("it is there");
    let (before, rest) = readme.split_once(MARKS[0]).expect("the first mark is there");
    let (_, after) = rest.split_once(MARKS[1]).expect("the last mark is there");
    let mut rows = String::from("\n| Key | Default | Values | New value |\n|---|---|---|---|\n");
    for (part, key) in SECTIONS.iter().flat_map(|part| part.keys.iter().map(move |key| (part, key))) {
        let path = format!("{}.{}", part.path, key.name);
        let default = default_of(&path).map_or_else(String::new, |value| format!("`{value}`"));
        let change = match key.change {
            Change::Free => "",
            Change::Converts | Change::ConvertsAs(_) => "converts",
            Change::Refused => "new model",
        };
        writeln!(rows, "| `{path}` | {default} | {} | {change} |", key.values()).expect("a string takes everything");
    }
    is_committed("README.md", &[before, MARKS[0], &rows, "\n", MARKS[1], after].concat());
}

fn validator() -> Validator {
    let schema = schema();
    let checked = jsonschema::draft202012::meta::validate(&schema);
    assert!(checked.is_ok(), "{checked:?}");
    let options = jsonschema::draft202012::options().should_validate_formats(true);
    options.build(&schema).unwrap_or_else(|error| panic!("{error}"))
}

/// Whether the schema takes a file; if not, why.
fn verdict(validator: &Validator, text: &str) -> Result<(), String> {
    let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}:\n{text}"));
    let document = serde_json::to_value(table).expect("a table is an object");
    validator.validate(&document).map_err(|error| error.to_string())
}

/// A value that a key has not by default, as TOML.
fn other(path: &str, key: &Key) -> String {
    let default = default_of(path);
    match (key.form)() {
        Form::Whole(_, high) => {
            let default = default.and_then(|value| value.as_integer()).expect("it has a default") as u64;
            (if default < high { default + 1 } else { default - 1 }).to_string()
        }
        Form::Number(_) => match default.and_then(|value| value.as_float()) {
            Some(default) if default > 0.0 => format!("{:?}", default / 2.0),
            _ => "0.25".to_owned(),
        },
        Form::Names(names) => {
            let is_other = |name: &&&str| default.as_ref().and_then(toml::Value::as_str) != Some(name);
            format!("{:?}", names.iter().find(is_other).expect("there are two names"))
        }
        Form::Other(..) => match key.name {
            "layers" => "[8]".to_owned(),
            "dropout" => "0.1".to_owned(),
            "start" => "\"2026-01-31T00:00:00Z\"".to_owned(),
            "listen" | "grpc_listen" => "\"[::1]:80\"".to_owned(),
            "arms" => "[\"a=live:1\"]".to_owned(),
            "slice_field" => "\"user\"".to_owned(),
            "impression_id" | "event_id" | "event_time" | "features" | "weight" => "\"/else~1where\"".to_owned(),
            "uri" | "fetch_uri" => "\"s3://bucket/elsewhere\"".to_owned(),
            "endpoint" => "\"https://elsewhere:9000\"".to_owned(),
            _ => "\"elsewhere\"".to_owned(),
        },
    }
}

/// Values just beyond those that a key may have, as TOML.
fn beyond(key: &Key) -> Vec<String> {
    match (key.form)() {
        Form::Whole(low, high) => {
            let over = if high < i64::MAX as u64 { high + 1 } else { 0 };
            let beyond = [i64::try_from(low).unwrap_or_default() - 1, i64::try_from(over).unwrap_or_default()];
            beyond.into_iter().filter(|value| *value < 0 || *value as u64 != 0).map(|value| value.to_string()).collect()
        }
        Form::Number(bounds) => {
            let ends = ["-0.5", "0.0", "1.0", "1.5", "2e12"];
            let is_outside = |end: &&str| !bounds.contains(end.parse().expect("they are numbers"));
            ends.into_iter().filter(is_outside).map(str::to_owned).collect()
        }
        Form::Names(_) => vec!["\"no such name\"".to_owned(), "true".to_owned()],
        Form::Other(..) => vec!["{ a = 1 }".to_owned()],
    }
}

fn set(path: &str, value: &str) -> String {
    format!("{path} = {value}\n{FIELD}")
}

#[test]
fn editors_and_the_worker_refuse_the_same_values() {
    let validator = validator();
    for (path, key) in table::keys() {
        let inside = set(&path, &other(&path, key));
        assert_eq!(verdict(&validator, &inside), Ok(()), "{inside}");
        assert!(Config::parse(&inside, "m.toml", []).is_ok(), "{inside}");
        for value in beyond(key) {
            let outside = set(&path, &value);
            assert!(verdict(&validator, &outside).is_err(), "the schema takes {path} = {value}");
            assert!(Config::parse(&outside, "m.toml", []).is_err(), "the worker takes {path} = {value}");
        }
    }
}

#[test]
fn editors_take_the_template_and_mark_what_is_no_configuration() {
    let validator = validator();
    assert_eq!(verdict(&validator, &template()), Ok(()));
    let properties = "[kafka.properties]\n\"client.id\" = \"x\"\nssl.endpoint = \"y\"\n";
    assert_eq!(verdict(&validator, &format!("{FIELD}{properties}")), Ok(()));
    for wrong in [
        "",
        "fields = []",
        "[[fields]]\nname = \"a\"",
        "[[fields]]\nname = \"a\"\nkind = \"text\"",
        "[[fields]]\nname = \"a\"\nkind = \"multi\"\nedges = [1]",
        "[[fields]]\nname = \"a\"\nkind = \"numeric\"\nweights = \"l1\"",
        "[[fields]]\nname = \"a\"\nkind = \"multi\"\nshares = 0.5",
        &format!("{FIELD}[modle]\nseed = 1"),
        &format!("{FIELD}[model]\nembeding_dim = 1"),
        &format!("{FIELD}[model.mlp]\nlayers = [0]"),
        &format!("{FIELD}[optimizer.bias]\nl21 = 0.1"),
    ] {
        assert!(verdict(&validator, wrong).is_err(), "{wrong}");
        assert!(Config::parse(wrong, "m.toml", []).is_err(), "{wrong}");
    }
}

/// What the table says of a change is what becomes of it: in the fingerprint, in what a worker compares, and in the core.
#[test]
fn a_state_can_be_converted_to_exactly_what_the_table_says() {
    let base = valid("");
    for (path, key) in table::keys() {
        let text = set(&path, &other(&path, key));
        let changed = Config::parse(&text, "m.toml", []).unwrap_or_else(|errors| panic!("{errors}"));
        let differences = changed.differences_from(&base.canonical());
        let accepts = base.train_params().can_become(&changed.train_params());
        let convertible = differences.iter().filter(|difference| Config::is_convertible(difference)).count();
        match key.change {
            Change::Free => {
                assert_eq!(changed.fingerprint(), base.fingerprint(), "{path} decides the state: {differences:?}");
                assert_eq!(changed.train_params(), base.train_params(), "{path}");
            }
            Change::Converts | Change::ConvertsAs(_) => {
                assert!(!differences.is_empty(), "{path} does not decide the state");
                assert_eq!(convertible, differences.len(), "{path}: {differences:?}");
                assert!(accepts, "{path}: the core refuses {differences:?}");
            }
            Change::Refused => {
                assert!(convertible < differences.len(), "{path}: {differences:?}");
                // What is decoded is no part of the core's trainer: only the worker compares it.
                assert_eq!(accepts, path.starts_with("events."), "{path}: {differences:?}");
            }
        }
    }
}
