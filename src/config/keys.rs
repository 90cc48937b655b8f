//! What is known of a key beside its value, and of the sections that keys stand in: readers, template, schema, README and
//! the set of keys that a state can be converted to all come from it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::nearest::nearest;

/// One key, as its section declares it.
#[derive(Debug)]
pub struct Key {
    /// Its name in its section.
    pub name: &'static str,
    /// What it does and what moving it does, in lines.
    pub doc: &'static [&'static str],
    /// What its values are.
    pub form: fn() -> Form,
    /// What becomes of a state when it changes.
    pub change: Change,
    /// How a file shows it that sets nothing.
    pub look: Look,
}

/// The one section whose keys are not ours: anything librdkafka knows.
pub(super) const FREE_SECTION: &str = "kafka.properties";

/// What becomes of an existing state when a key gets another value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: the key does not decide the state.
    Free,
    /// It is converted. The canonical form has the key where the file has it.
    Converts,
    /// It is converted. The canonical form has the key at this path, too or instead.
    ConvertsAs(&'static str),
    /// It is refused: the key decides the state, and a new value needs a new model.
    Refused,
}

/// How a file shows a key that it does not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// With its default.
    Default,
    /// Commented out, with its default: that follows from other keys.
    Follows,
    /// Commented out, with what it does unless set.
    Unset(&'static str),
}

/// The values of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// Whole numbers, both ends included.
    Whole(u64, u64),
    /// Numbers, stored in 32 bits.
    Number(Bounds),
    /// A few names.
    Names(Vec<&'static str>),
    /// Something else: in words, and as a JSON schema.
    Other(&'static str, Value),
}

/// The range of a number: both ends, and whether they belong to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    low: f64,
    low_inside: bool,
    high: f64,
    high_inside: bool,
}

/// One section.
#[derive(Debug)]
pub struct Part {
    /// Its name: `model.mlp`. Entries of a list have the name of the list.
    pub path: &'static str,
    /// Where the canonical form has its keys.
    pub canonical: &'static str,
    /// What it is for, in lines.
    pub doc: &'static [&'static str],
    /// Its keys.
    pub keys: &'static [Key],
}

impl Part {
    /// A section without keys of ours.
    pub(super) const fn empty(path: &'static str, doc: &'static [&'static str]) -> Self {
        Self { path, canonical: path, doc, keys: &[] }
    }
}

/// Every section of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts(pub(super) &'static [Part]);

impl Key {
    /// Its values in words, with their unit.
    pub fn values(&self) -> String {
        let values = (self.form)().describe();
        self.unit().map_or(values.clone(), |unit| format!("{values} {unit}"))
    }

    /// The unit of its values: it stands in the name.
    pub fn unit(&self) -> Option<&'static str> {
        const UNITS: [&str; 4] = ["ms", "seconds", "days", "bytes"];
        UNITS.into_iter().find(|unit| self.name.split('_').any(|word| word == *unit))
    }
}

impl Bounds {
    /// Above 0.
    pub(super) const POSITIVE: Self = Self::new(0.0, false, f64::INFINITY, false);
    /// 0 or above.
    pub(super) const NOT_NEGATIVE: Self = Self::new(0.0, true, f64::INFINITY, false);
    /// From 0, included, to 1, excluded.
    pub(super) const BELOW_ONE: Self = Self::new(0.0, true, 1.0, false);
    /// Above 0, and small enough for squares of it to be added up in 32 bits.
    pub(super) const WEIGHT: Self = Self::new(0.0, false, 1e12, true);
    /// From 0, excluded, to 1, included.
    pub(super) const SHARE: Self = Self::new(0.0, false, 1.0, true);

    const fn new(low: f64, low_inside: bool, high: f64, high_inside: bool) -> Self {
        Self { low, low_inside, high, high_inside }
    }

    /// Whether a number is within.
    pub fn contains(self, x: f64) -> bool {
        let above = if self.low_inside { x >= self.low } else { x > self.low };
        let below = if self.high_inside { x <= self.high } else { x < self.high };
        above && below
    }

    pub(super) fn describe(self) -> String {
        let low = if self.low_inside { "at least" } else { "above" };
        if self.high.is_infinite() {
            return format!("{low} {}", self.low);
        }
        let high = if self.high_inside { "at most" } else { "below" };
        format!("{low} {} and {high} {}", self.low, self.high)
    }

    /// The same as a JSON schema.
    pub(super) fn schema(self) -> Value {
        let mut schema = json!({"type": "number"});
        schema[if self.low_inside { "minimum" } else { "exclusiveMinimum" }] = json!(self.low);
        if self.high.is_finite() {
            schema[if self.high_inside { "maximum" } else { "exclusiveMaximum" }] = json!(self.high);
        }
        schema
    }
}

impl Form {
    /// The values in words.
    pub fn describe(&self) -> String {
        match self {
            Self::Whole(low, high) => format!("{low} to {high}"),
            Self::Number(bounds) => bounds.describe(),
            Self::Names(names) => quoted(names),
            Self::Other(words, _) => (*words).to_owned(),
        }
    }

    /// The values as a JSON schema.
    pub fn schema(&self) -> Value {
        match self {
            Self::Whole(low, high) => json!({"type": "integer", "minimum": low, "maximum": high}),
            Self::Number(bounds) => bounds.schema(),
            Self::Names(names) => json!({"enum": names}),
            Self::Other(_, schema) => schema.clone(),
        }
    }
}

/// Names in quotes, to choose from.
pub(super) fn quoted(names: &[&'static str]) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        let or = if index == 0 { "" } else { " or " };
        write!(text, "{or}\"{name}\"").expect("a string takes everything");
    }
    text
}

impl Parts {
    /// The part of that name; entries of `fields` are called `fields[0]` and so on.
    fn part(self, path: &str) -> Option<&'static Part> {
        let plain = path.split('[').next().unwrap_or_default();
        self.0.iter().find(|part| part.path == plain)
    }

    /// The keys of a section, and the sections in it.
    pub(super) fn of(self, path: &str) -> Vec<&'static str> {
        let mut known: Vec<&'static str> =
            self.part(path).into_iter().flat_map(|part| part.keys).map(|key| key.name).collect();
        let inside = if path.is_empty() { String::new() } else { format!("{path}.") };
        for part in self.0 {
            let below = part.path.strip_prefix(&inside).and_then(|rest| rest.split('.').next());
            known.extend(below.filter(|name| !name.is_empty() && !known.contains(name)));
        }
        known
    }

    /// Advice on an unknown key: the nearest of its section, the section it belongs to, or all that could have been meant.
    pub(super) fn advise(self, path: &str, key: &str) -> String {
        let keys = self.of(path);
        if let Some(near) = nearest(key, &keys) {
            return format!("did you mean `{near}`?");
        }
        if self.of("").contains(&key) {
            return format!("[{key}] is a section of its own");
        }
        let has_it = |part: &&Part| self.of(part.path).contains(&key);
        let elsewhere: Vec<&str> = self.0.iter().filter(has_it).map(|part| part.path).collect();
        match elsewhere.as_slice() {
            ["fields"] => "it belongs to an entry of [[fields]]".to_owned(),
            [name] => format!("it belongs to [{name}]"),
            _ if path.is_empty() => format!("the sections are {}", keys.join(", ")),
            _ => format!("the keys here are {}", keys.join(", ")),
        }
    }
}
