//! Small typed readers over one section. A reader that finds an error notes it and returns the default, so that the walk
//! goes on and the user sees every error at once; the configuration that comes of it is never used.

use super::document::{Node, Table, Value};
use super::error::{Origin, Report};
use super::keys;

/// One section of the file, or its absence.
pub(super) struct Section<'a> {
    path: String,
    origin: Origin,
    table: Option<&'a Table>,
    report: &'a Report,
}

/// The range of a number: both ends, and whether they belong to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    low: f64,
    low_inside: bool,
    high: f64,
    high_inside: bool,
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

    fn contains(self, x: f64) -> bool {
        let above = if self.low_inside { x >= self.low } else { x > self.low };
        let below = if self.high_inside { x <= self.high } else { x < self.high };
        above && below
    }

    fn describe(self) -> String {
        let low = if self.low_inside { "at least" } else { "above" };
        if self.high.is_infinite() {
            return format!("{low} {}", self.low);
        }
        let high = if self.high_inside { "at most" } else { "below" };
        format!("{low} {} and {high} {}", self.low, self.high)
    }
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(table: &'a Table, report: &'a Report) -> Self {
        let section = Self { path: String::new(), origin: Origin::Whole, table: Some(table), report };
        section.refuse_unknown();
        section
    }

    /// A table that stands in a list, such as an entry of `[[fields]]`.
    pub(super) fn entry(path: String, node: &'a Node, report: &'a Report) -> Option<Self> {
        let Value::Table(table) = &node.value else {
            let problem = format!("expected a table, found {}", node.value.kind());
            report.add(node.origin.clone(), path, problem, "");
            return None;
        };
        let section = Self { path, origin: node.origin.clone(), table: Some(table), report };
        section.refuse_unknown();
        Some(section)
    }

    /// A section inside this one; where it is missing, all of its keys have their defaults.
    pub(super) fn section(&self, key: &'static str) -> Section<'a> {
        let path = self.key(key);
        let mut section = Section { path, origin: self.origin.clone(), table: None, report: self.report };
        match self.node(key) {
            None => return section,
            Some(node) => {
                section.origin = node.origin.clone();
                if let Value::Table(table) = &node.value {
                    section.table = Some(table);
                } else {
                    let problem = format!("expected a section, found {}", node.value.kind());
                    let fix = format!("write [{}] above its keys", section.path);
                    self.report.add(node.origin.clone(), section.path.clone(), problem, &fix);
                }
            }
        }
        if section.path != keys::FREE_SECTION {
            section.refuse_unknown();
        }
        section
    }

    fn refuse_unknown(&self) {
        let known = keys::of(&self.path);
        for (key, node) in self.table.into_iter().flatten() {
            if !known.contains(&key.as_str()) {
                let advice = keys::advise(&self.path, key);
                self.report.add(node.origin.clone(), self.key(key), "unknown key", &advice);
            }
        }
    }

    /// The full name of a key in this section.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// What was given for a key.
    pub(super) fn node(&self, key: &str) -> Option<&'a Node> {
        debug_assert!(
            self.path == keys::FREE_SECTION || keys::of(&self.path).contains(&key),
            "`{key}` is missing from the keys of [{}]",
            self.path
        );
        self.table?.get(key)
    }

    /// Everything in the section.
    pub(super) fn table(&self) -> Option<&'a Table> {
        self.table
    }

    /// Whether nothing is wrong with any of these keys, so that they can be compared with each other.
    pub(super) fn are_sound(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| self.report.is_sound(&self.key(key)))
    }

    /// Notes an error about a key, at the place where it (or else the section) was given.
    pub(super) fn refuse(&self, key: &str, problem: impl Into<String>, fix: &str) {
        let origin = self.node(key).map_or_else(|| self.origin.clone(), |node| node.origin.clone());
        self.report.add(origin, self.key(key), problem, fix);
    }

    /// Notes that a key holds the wrong kind of value.
    pub(super) fn refuse_type(&self, key: &str, node: &Node, expected: &str, fix: &str) {
        let problem = format!("expected {expected}, found {}", node.value.describe());
        self.report.add(node.origin.clone(), self.key(key), problem, fix);
    }

    /// A whole number within a range, both ends included. `why` says where the bounds come from.
    pub(super) fn whole(&self, key: &str, default: u64, low: u64, high: u64, why: &str) -> u64 {
        let Some(node) = self.node(key) else {
            return default;
        };
        let Value::Integer(number) = node.value else {
            self.refuse_type(key, node, "a whole number", &whole_range(low, high));
            return default;
        };
        match u64::try_from(number) {
            Ok(number) if (low..=high).contains(&number) => number,
            _ => {
                let problem = format!("{number} is out of range: {why}");
                self.refuse(key, problem, &whole_range(low, high));
                default
            }
        }
    }

    /// The same, for a count that fits in memory.
    pub(super) fn count(&self, key: &str, default: usize, low: usize, high: usize, why: &str) -> usize {
        self.whole(key, default as u64, low as u64, high as u64, why) as usize
    }

    /// A number within bounds, as stored: in 32 bits.
    pub(super) fn number(&self, key: &str, default: f32, bounds: Bounds, why: &str) -> f32 {
        match self.node(key) {
            None => default,
            Some(node) => self.number_at(key, node, bounds, why).unwrap_or(default),
        }
    }

    /// A number at a node of its own, such as an item of a list.
    pub(super) fn number_at(&self, key: &str, node: &Node, bounds: Bounds, why: &str) -> Option<f32> {
        let given = match node.value {
            Value::Integer(number) => number as f64,
            Value::Float(number) => number,
            _ => {
                self.refuse_type(key, node, "a number", &format!("give one {}", bounds.describe()));
                return None;
            }
        };
        let stored = given as f32;
        if stored.is_finite() && bounds.contains(f64::from(stored)) {
            return Some(stored);
        }
        let problem = format!("{given} is out of range: {why}");
        let fix = format!("give a number {}", bounds.describe());
        self.report.add(node.origin.clone(), self.key(key), problem, &fix);
        None
    }

    /// One of a few names.
    pub(super) fn choice<T: Copy>(&self, key: &str, default: T, choices: &[(&'static str, T)]) -> T {
        let Some(node) = self.node(key) else {
            return default;
        };
        let names: Vec<&'static str> = choices.iter().map(|(name, _)| *name).collect();
        let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let fix = format!("give {}", quoted.join(" or "));
        let Value::Text(text) = &node.value else {
            self.refuse_type(key, node, "a name", &fix);
            return default;
        };
        if let Some((_, value)) = choices.iter().find(|(name, _)| name == text) {
            return *value;
        }
        let fix = keys::nearest(text, &names).map_or(fix, |near| format!("did you mean \"{near}\"?"));
        self.refuse(key, format!("\"{text}\" is not one of its values"), &fix);
        default
    }

    /// A string, if one was given. A variable's text is one whatever it looks like.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        let node = self.node(key)?;
        match (&node.value, &node.raw) {
            (Value::Text(text), _) => Some(text.clone()),
            (_, Some(raw)) => Some(raw.clone()),
            _ => {
                self.refuse_type(key, node, "a string", "put it in quotes");
                None
            }
        }
    }

    /// A string that passes `check`, which says what is wrong and what to do.
    pub(super) fn checked_text(
        &self,
        key: &str,
        default: &str,
        check: fn(&str) -> Result<(), (String, String)>,
    ) -> String {
        let Some(text) = self.text(key) else {
            return default.to_owned();
        };
        if let Err((problem, fix)) = check(&text) {
            self.refuse(key, problem, &fix);
        }
        text
    }

    /// The items of a list, if one was given.
    pub(super) fn list(&self, key: &str, fix: &str) -> Option<&'a [Node]> {
        let node = self.node(key)?;
        if let Value::List(items) = &node.value {
            return Some(items);
        }
        self.refuse_type(key, node, "a list", fix);
        None
    }

    /// The errors of the whole file.
    pub(super) fn report(&self) -> &'a Report {
        self.report
    }
}

fn whole_range(low: u64, high: u64) -> String {
    format!("give a whole number from {low} to {high}")
}
