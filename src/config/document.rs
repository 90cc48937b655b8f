//! TOML text becomes a tree whose every value knows where it was given.
//!
//! serde would stop at the first error and loses lines; a tree lets the sections be walked to the end, and lets the
//! environment put values beside those of the file.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Origin, Report};

/// A value and where it was given.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where it was given.
    pub(super) origin: Origin,
    /// What was given.
    pub(super) value: Value,
    /// The text as it stood in an environment variable, which has no quotes to tell strings from numbers.
    pub(super) raw: Option<String>,
}

/// A table: keys in order of their names.
pub(super) type Table = BTreeMap<String, Node>;

/// A TOML value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A string.
    Text(String),
    /// An integer, wide enough for every 64-bit one.
    Integer(i128),
    /// A number with a point or an exponent, or one too large for an integer.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A date, a time or both, as written.
    Time(String),
    /// An array.
    List(Vec<Node>),
    /// A table.
    Table(Table),
}

impl Value {
    /// What kind of value it is: for places where a value may hold a secret.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::Time(_) => "a time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    /// The value in words, short, for error messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(text) if text.chars().count() > 40 => {
                format!("the string \"{}…\"", text.chars().take(40).collect::<String>())
            }
            Self::Text(text) => format!("the string \"{text}\""),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Time(text) => format!("the time {text}"),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}

/// Parses a file. Every syntax error is reported; the tree is then of no use.
pub(super) fn parse(text: &str, report: &Report) -> Table {
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let origin = error.span().map_or(Origin::Whole, |span| lines.place(span.start));
        report.add(origin, "", error.message().replace('\n', ", "), "");
    }
    read_table(table.get_ref(), &|at| Origin::Line(lines.line(at)))
}

/// Parses the value of an environment variable: a TOML value, or else a string as it stands.
pub(super) fn parse_value(text: &str, origin: &Origin) -> Node {
    let value = match DeValue::parse(text) {
        Ok(value) => read_value(value.get_ref(), &|_| origin.clone()),
        Err(_) => Value::Text(text.to_owned()),
    };
    Node { origin: origin.clone(), value, raw: Some(text.to_owned()) }
}

fn read_table(table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Table {
    table
        .iter()
        .map(|(key, value)| {
            let node = Node { origin: origin(key.span().start), value: read_value(value.get_ref(), origin), raw: None };
            (key.get_ref().to_string(), node)
        })
        .collect()
}

fn read_value(value: &DeValue<'_>, origin: &dyn Fn(usize) -> Origin) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(digits) => match i128::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Float(digits.as_str().parse().unwrap_or(f64::INFINITY)),
        },
        DeValue::Float(digits) => Value::Float(digits.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(time) => Value::Time(time.to_string()),
        DeValue::Array(items) => Value::List(items.iter().map(|item| read_item(item, origin)).collect()),
        DeValue::Table(table) => Value::Table(read_table(table, origin)),
    }
}

fn read_item(item: &Spanned<DeValue<'_>>, origin: &dyn Fn(usize) -> Origin) -> Node {
    Node { origin: origin(item.span().start), value: read_value(item.get_ref(), origin), raw: None }
}

/// Where the lines of a text begin.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    /// The line of a byte, counted from 1.
    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|&start| start <= at)
    }

    /// Line and column of a byte; columns count characters from 1.
    fn place(&self, at: usize) -> Origin {
        let line = self.line(at);
        let start = self.starts[line - 1];
        let before = self.text.get(start..at).unwrap_or_default();
        Origin::Place(line, before.chars().count() + 1)
    }
}
