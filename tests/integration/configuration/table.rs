//! Everything that is made of the table of keys says what the table says: the committed template, and what a state
//! can be converted to.

use std::fs;
use std::path::Path;

use deepfm_stream::config::Config;
use deepfm_stream::config::keys::{Change, Form, Key};
use deepfm_stream::config::table;
use deepfm_stream::config::template::{default_of, template};

use super::{FIELD, valid};

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
            "listen" => "\"[::1]:80\"".to_owned(),
            "impression_id" | "event_id" | "event_time" | "features" | "weight" => "\"/else~1where\"".to_owned(),
            _ => "\"elsewhere\"".to_owned(),
        },
    }
}

fn set(path: &str, value: &str) -> String {
    format!("{path} = {value}\n{FIELD}")
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
