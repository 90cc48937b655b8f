//! `DEEPFM__SECTION__KEY` variables are laid over the file: `__` goes one level down, the rest is the key in capitals.
//!
//! A value is read as TOML (`[64,32]`, `0.5`, `true`) and else is a string as it stands, so that neither numbers nor
//! host names need quotes. librdkafka's keys have dots, which variables cannot have: below `KAFKA__PROPERTIES` a `_`
//! stands for a dot. A variable wins over the file; what it names must exist, like a key in the file.

use std::sync::Arc;

use super::document::{Node, Table, Value, parse_value};
use super::error::{Origin, Report};

/// What the names of overriding variables begin with.
pub const PREFIX: &str = "DEEPFM__";

/// The suffix of a property whose value is read from a file.
pub(super) const FILE_SUFFIX: &str = ".file";

/// The overriding variables of this process. Names and values that are not Unicode have their bad bytes replaced.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect()
}

/// Lays the variables over the tree, in the order of their names: `DEEPFM__MODEL` before `DEEPFM__MODEL__SEED`.
pub(super) fn lay_over(root: &mut Table, environment: impl IntoIterator<Item = (String, String)>, report: &Report) {
    let mut variables: Vec<(String, String)> =
        environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort();
    for (name, text) in variables {
        let origin = Origin::Variable(Arc::from(name.as_str()));
        let path: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_lowercase).collect();
        if path.iter().any(String::is_empty) {
            let fix = "name it DEEPFM__SECTION__KEY, such as DEEPFM__MODEL__SEED";
            report.add(origin, "", "the variable names no key", fix);
            continue;
        }
        match path.as_slice() {
            [kafka, properties, rest @ ..] if kafka == "kafka" && properties == "properties" && !rest.is_empty() => {
                set_property(root, &rest.join(".").replace('_', "."), parse_value(&text, &origin), report);
            }
            [sections @ .., key] => {
                if let Some(table) = descend(root, sections, &origin, report) {
                    table.insert(key.clone(), parse_value(&text, &origin));
                }
            }
            [] => {}
        }
    }
}

/// Sets a property, in place of both of its forms: as given, and read from a file.
fn set_property(root: &mut Table, name: &str, node: Node, report: &Report) {
    let sections = ["kafka".to_owned(), "properties".to_owned()];
    let Some(table) = descend(root, &sections, &node.origin, report) else {
        return;
    };
    let plain = name.strip_suffix(FILE_SUFFIX).unwrap_or(name);
    for replaced in [plain.to_owned(), format!("{plain}{FILE_SUFFIX}")] {
        table.remove(&replaced);
    }
    table.insert(name.to_owned(), node);
}

/// The table at a path, made where it is missing.
fn descend<'t>(root: &'t mut Table, path: &[String], origin: &Origin, report: &Report) -> Option<&'t mut Table> {
    let mut table = root;
    for (depth, section) in path.iter().enumerate() {
        let node = table.entry(section.clone()).or_insert_with(|| Node {
            origin: origin.clone(),
            value: Value::Table(Table::new()),
            raw: None,
        });
        let Value::Table(inner) = &mut node.value else {
            let key = path[..=depth].join(".");
            report.add(origin.clone(), key, "is not a section", "set the whole key instead");
            return None;
        };
        table = inner;
    }
    Some(table)
}
