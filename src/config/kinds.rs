//! Kinds of values: each reads one and says what it takes. A reader that finds an error notes it, and the key has its default, so
//! that the walk goes on and the user sees every error at once; the configuration that comes of it is never used.

use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::document::{Node, Value};
use super::keys::{Bounds, Form, quoted};
use super::nearest::nearest;
use super::section::Section;

/// What values a key takes that is read into a `T`.
pub(super) trait Kind<T> {
    /// What was given for a key; none where nothing was, or nothing of use.
    fn read(&self, section: &Section<'_>, key: &str) -> Option<T>;

    /// The values.
    fn form(&self) -> Form;
}

/// A whole number within a range, both ends included. `why` says where the bounds come from.
pub(super) struct Whole {
    low: u64,
    high: u64,
    why: &'static str,
}

/// Whole numbers of a range.
pub(super) const fn whole(low: u64, high: u64, why: &'static str) -> Whole {
    Whole { low, high, why }
}

impl<T: TryFrom<u64>> Kind<T> for Whole {
    fn read(&self, section: &Section<'_>, key: &str) -> Option<T> {
        let node = section.node(key)?;
        let range = format!("give a whole number from {} to {}", self.low, self.high);
        let Value::Integer(number) = node.value else {
            section.refuse_type(key, node, "a whole number", &range);
            return None;
        };
        let inside = u64::try_from(number).ok().filter(|number| (self.low..=self.high).contains(number));
        let read = inside.and_then(|number| T::try_from(number).ok());
        if read.is_none() {
            section.refuse(key, format!("{number} is out of range: {}", self.why), &range);
        }
        read
    }

    fn form(&self) -> Form {
        Form::Whole(self.low, self.high)
    }
}

/// A number within bounds, as stored: in 32 bits.
pub(super) struct Number {
    bounds: Bounds,
    why: &'static str,
}

/// Numbers within bounds; `why` says where these come from.
pub(super) const fn number(bounds: Bounds, why: &'static str) -> Number {
    Number { bounds, why }
}

impl Number {
    /// A number at a node of its own, such as an item of a list.
    pub(super) fn read_node(&self, section: &Section<'_>, key: &str, node: &Node) -> Option<f32> {
        let fix = |what: &str| format!("give {what} {}", self.bounds.describe());
        let given = match node.value {
            Value::Integer(number) => number as f64,
            Value::Float(number) => number,
            _ => {
                section.refuse_type(key, node, "a number", &fix("one"));
                return None;
            }
        };
        let stored = given as f32;
        if stored.is_finite() && self.bounds.contains(f64::from(stored)) {
            return Some(stored);
        }
        let problem = format!("{given} is out of range: {}", self.why);
        section.report().add(node.origin.clone(), section.key(key), problem, &fix("a number"));
        None
    }
}

impl Kind<f32> for Number {
    fn read(&self, section: &Section<'_>, key: &str) -> Option<f32> {
        self.read_node(section, key, section.node(key)?)
    }

    fn form(&self) -> Form {
        Form::Number(self.bounds)
    }
}

/// A bound that 0 switches off.
pub(super) struct OffAtZero(pub(super) &'static str);

impl Kind<Option<f32>> for OffAtZero {
    fn read(&self, section: &Section<'_>, key: &str) -> Option<Option<f32>> {
        let bound = number(Bounds::NOT_NEGATIVE, self.0).read(section, key)?;
        Some((bound > 0.0).then_some(bound))
    }

    fn form(&self) -> Form {
        Form::Number(Bounds::NOT_NEGATIVE)
    }
}

/// One of a few names.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy> Choice<T> {
    fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }
}

impl<T: Copy> Kind<T> for Choice<T> {
    fn read(&self, section: &Section<'_>, key: &str) -> Option<T> {
        let node = section.node(key)?;
        let names = self.names();
        let fix = format!("give {}", quoted(&names));
        let Value::Text(text) = &node.value else {
            section.refuse_type(key, node, "a name", &fix);
            return None;
        };
        if let Some((_, value)) = self.0.iter().find(|(name, _)| name == text) {
            return Some(*value);
        }
        let fix = nearest(text, &names).map_or(fix, |near| format!("did you mean \"{near}\"?"));
        section.refuse(key, format!("\"{text}\" is not one of its values"), &fix);
        None
    }

    fn form(&self) -> Form {
        Form::Names(self.names())
    }
}

/// A value with a reader of its own, which notes what is wrong.
pub(super) struct Special<T> {
    pub(super) read: fn(&Section<'_>, &str) -> Option<T>,
    /// What it takes, in words and as a JSON schema.
    pub(super) words: &'static str,
    pub(super) schema: fn() -> Json,
}

impl<T> Kind<T> for Special<T> {
    fn read(&self, section: &Section<'_>, key: &str) -> Option<T> {
        (self.read)(section, key)
    }

    fn form(&self) -> Form {
        Form::Other(self.words, (self.schema)())
    }
}

/// A value that may be left out.
pub(super) struct Maybe<K>(pub(super) K);

impl<T, K: Kind<T>> Kind<Option<T>> for Maybe<K> {
    fn read(&self, section: &Section<'_>, key: &str) -> Option<Option<T>> {
        self.0.read(section, key).map(Some)
    }

    fn form(&self) -> Form {
        self.0.form()
    }
}

/// A directory.
pub(super) const DIR: Special<PathBuf> = Special {
    read: |section, key| {
        let text = section.text(key)?;
        if text.is_empty() {
            section.refuse(key, "is empty", "give a directory; it is made when it is missing");
        }
        Some(PathBuf::from(text))
    },
    words: "a directory",
    schema: || json!({"type": "string", "minLength": 1}),
};
