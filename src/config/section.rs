//! One section of a file: what was given in it, and where to note what is wrong with that.

use super::document::{Node, Table, Value};
use super::error::{Origin, Report};
use super::keys::{FREE_SECTION, Parts};

/// One section of the file, or its absence.
pub(super) struct Section<'a> {
    path: String,
    origin: Origin,
    table: Option<&'a Table>,
    report: &'a Report,
    parts: Parts,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(table: &'a Table, report: &'a Report, parts: Parts) -> Self {
        let section = Self { path: String::new(), origin: Origin::Whole, table: Some(table), report, parts };
        section.refuse_unknown();
        section
    }

    /// A table that stands in a list, such as an entry of `[[fields]]`.
    pub(super) fn entry(&self, path: String, node: &'a Node) -> Option<Self> {
        let Value::Table(table) = &node.value else {
            let problem = format!("expected a table, found {}", node.value.kind());
            self.report.add(node.origin.clone(), path, problem, "");
            return None;
        };
        let section = Self { path, origin: node.origin.clone(), table: Some(table), ..*self };
        section.refuse_unknown();
        Some(section)
    }

    /// A section inside this one; where it is missing, all of its keys have their defaults.
    pub(super) fn section(&self, key: &'static str) -> Section<'a> {
        let path = self.key(key);
        let mut section = Section { path, origin: self.origin.clone(), table: None, ..*self };
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
        if section.path != FREE_SECTION {
            section.refuse_unknown();
        }
        section
    }

    fn refuse_unknown(&self) {
        let known = self.parts.of(&self.path);
        for (key, node) in self.table.into_iter().flatten() {
            if !known.contains(&key.as_str()) {
                let advice = self.parts.advise(&self.path, key);
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
            self.path == FREE_SECTION || self.parts.of(&self.path).contains(&key),
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

    /// A string, if one was given, and a note of what `check` says is wrong with it and of what to do.
    pub(super) fn checked_text(&self, key: &str, check: fn(&str) -> Result<(), (String, String)>) -> Option<String> {
        let text = self.text(key)?;
        if let Err((problem, fix)) = check(&text) {
            self.refuse(key, problem, &fix);
        }
        Some(text)
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
