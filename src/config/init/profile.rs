//! What the values of one field look like, and the kind that follows.
//!
//! The learner prefers categories: an id has weights of its own, a bucket shares them. So integers with few distinct
//! values (ages, hours, positions) are categorical; many-valued ones are ids or quantities, told apart by name and
//! shape. Quantities are bucketed, by edges from the sample where logarithmic buckets would lump them together.
//!
//! What a text means is [`deepfm_core::feature::value`]'s to say: digits in strings are numbers where a number is expected,
//! and "N/A" is none. A few texts that are neither do not make categories of a quantity.

use std::collections::{BTreeMap, HashSet};

use indicatif::HumanCount;
use serde_json::{Number, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::FoundField;
use super::number::{percent, quoted, rounded};
use crate::config::fields::{NAME_BYTES_MAX, kind_name};
use deepfm_core::feature::field::{FieldKind, Weights};
use deepfm_core::feature::hash::hash;
use deepfm_core::feature::value::{NumberText, number_text};

/// Distinct values are counted up to here.
const DISTINCT_MAX: usize = 100_000;

/// Numbers that are kept of each field, a uniform sample.
const NUMBERS_MAX: usize = 10_000;

/// Integers with at most so many distinct values are categories.
const FEW_INTEGERS: u64 = 256;

/// Other numbers with at most so many distinct values are categories.
const FEW_FLOATS: u64 = 32;

/// A quantity may have one other text among so many numbers: the impressions with one are refused.
const STRAY_IN: u64 = 100;

/// Where almost each of at least so many values is new, there is nothing to learn from it.
const UNIQUE_MIN: u64 = 1000;

/// Parts of names, cut at capitals and punctuation, that say what an integer is.
const ID_WORDS: &[&str] =
    &["id", "ids", "uid", "key", "code", "hash", "zip", "zip3", "postcode", "sku", "isbn", "ean", "asin"];
const QUANTITY_WORDS: &[&str] = &[
    "price", "amount", "count", "num", "number", "n", "qty", "quantity", "size", "length", "width", "height", "bytes",
    "seconds", "secs", "ms", "minutes", "days", "duration", "score", "cost", "bid", "total", "distance", "views",
    "clicks", "likes", "age",
];

/// The values of one field so far.
#[derive(Debug)]
pub(super) struct Profile {
    name: String,
    present: u64,
    /// Texts that are neither digits nor a sign that there is no number.
    texts: u64,
    /// The first of them.
    first_text: Option<String>,
    /// Texts that stand for no number, by their spelling: a few dozen at most.
    missing: BTreeMap<String, u64>,
    bools: u64,
    integers: u64,
    floats: u64,
    /// Whole numbers, and others, as digits in strings.
    whole_numerals: u64,
    other_numerals: u64,
    lists: u64,
    weighted: u64,
    unfit: u64,
    entries: u64,
    distinct: HashSet<u64>,
    /// Values counted until `distinct` was full.
    counted: u64,
    numbers: Vec<f64>,
}

/// What was found out about a field.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    /// `None`: its values cannot be used.
    pub(super) kind: Option<FieldKind>,
    /// Why it is left out, if it is.
    pub(super) left_out: Option<String>,
    /// What was seen, and why it has its kind, in lines of a comment.
    pub(super) comment: Vec<String>,
    present: u64,
    /// Values in all, those of a list or object each for itself.
    pub(super) entries: u64,
    cardinality: u64,
    cardinality_is_bound: bool,
}

impl Found {
    /// The share of so many impressions that have it, as the configuration states it: what a worker then expects.
    pub(super) fn share(&self, impressions: u64) -> f64 {
        (self.present as f64 / impressions as f64 * 1000.0).round() / 1000.0
    }

    /// The summary for the user.
    pub(super) fn describe(&self, impressions: u64) -> FoundField {
        FoundField {
            name: self.name.clone(),
            kind: self.kind.as_ref().map(kind_name),
            cardinality: self.cardinality,
            cardinality_is_bound: self.cardinality_is_bound,
            share_present: self.present as f64 / impressions as f64,
            left_out: self.left_out.clone(),
            comment: self.comment.clone(),
        }
    }
}

impl Profile {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            present: 0,
            texts: 0,
            first_text: None,
            missing: BTreeMap::new(),
            bools: 0,
            integers: 0,
            floats: 0,
            whole_numerals: 0,
            other_numerals: 0,
            lists: 0,
            weighted: 0,
            unfit: 0,
            entries: 0,
            distinct: HashSet::new(),
            counted: 0,
            numbers: Vec::new(),
        }
    }

    /// Adds the value of one impression. Null and empty ones are missing.
    pub(super) fn add(&mut self, value: &Value) {
        match value {
            Value::Null => return,
            Value::String(text) if text.is_empty() => return,
            Value::Array(items) if items.is_empty() => return,
            Value::Object(weights) if weights.is_empty() => return,
            Value::Array(items) => {
                if items.iter().any(|item| item.is_array() || item.is_object()) {
                    self.unfit += 1;
                } else {
                    self.lists += 1;
                    for item in items.iter().filter(|item| !item.is_null() && item.as_str() != Some("")) {
                        self.add_scalar(item);
                    }
                }
            }
            Value::Object(weights) => {
                let is_weight = |weight: &Value| weight.is_number() || weight.is_null();
                if weights.values().all(is_weight) {
                    self.weighted += 1;
                    for (key, _) in weights.iter().filter(|(_, weight)| !weight.is_null()) {
                        self.add_distinct(key.as_bytes());
                    }
                } else {
                    self.unfit += 1;
                }
            }
            Value::String(text) => match number_text(text) {
                NumberText::Missing => {
                    *self.missing.entry(text.clone()).or_default() += 1;
                    return;
                }
                NumberText::Number(number) => {
                    let count = if number.fract() == 0.0 && !text.contains(['.', 'e', 'E']) {
                        &mut self.whole_numerals
                    } else {
                        &mut self.other_numerals
                    };
                    *count += 1;
                    self.add_scalar(value);
                    self.add_number(number);
                }
                NumberText::Other => {
                    self.texts += 1;
                    self.first_text.get_or_insert_with(|| text.chars().take(40).collect());
                    self.add_scalar(value);
                }
            },
            Value::Bool(_) => {
                self.bools += 1;
                self.add_scalar(value);
            }
            Value::Number(number) => {
                if is_whole(number) {
                    self.integers += 1;
                } else {
                    self.floats += 1;
                }
                self.add_scalar(value);
                self.add_number(number.as_f64().unwrap_or_default());
            }
        }
        self.present += 1;
    }

    fn add_scalar(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.add_distinct(text.as_bytes()),
            Value::Number(number) if number.is_f64() && is_whole(number) => {
                self.add_distinct(format!("{}", number.as_f64().unwrap_or_default()).as_bytes());
            }
            other => self.add_distinct(other.to_string().as_bytes()),
        }
    }

    fn add_distinct(&mut self, value: &[u8]) {
        self.entries += 1;
        if self.distinct.len() < DISTINCT_MAX {
            self.counted += 1;
            self.distinct.insert(xxh3_64(value));
        }
    }

    /// Reservoir sampling (Vitter 1985, Algorithm R), with a hash for its dice.
    fn add_number(&mut self, x: f64) {
        let before = self.numbers_seen() - 1;
        if self.numbers.len() < NUMBERS_MAX {
            self.numbers.push(x);
            return;
        }
        let slot = hash(0, before, 0) % (before + 1);
        if let Some(kept) = self.numbers.get_mut(slot as usize) {
            *kept = x;
        }
    }

    fn numbers_seen(&self) -> u64 {
        self.integers + self.floats + self.whole_numerals + self.other_numerals
    }

    /// Decides the kind.
    pub(super) fn decide(mut self, impressions: u64) -> Found {
        let (kind, why) = self.kind();
        if !matches!(kind, Some(FieldKind::Numeric { .. }) | None) {
            self.name_missing();
        }
        let left_out = self.left_out(kind.as_ref());
        let mut comment = vec![self.describe(impressions)];
        comment.extend(why);
        comment.extend(self.losses(kind.as_ref()));
        Found {
            kind,
            left_out,
            comment,
            present: self.present,
            entries: self.entries,
            cardinality: self.distinct.len() as u64,
            cardinality_is_bound: self.is_bound(),
            name: self.name,
        }
    }

    /// To a category, the texts that stand for no number are names like any other.
    fn name_missing(&mut self) {
        for (text, count) in std::mem::take(&mut self.missing) {
            self.add_distinct(text.as_bytes());
            self.entries += count - 1;
            self.counted += count - 1;
            self.texts += count;
            self.present += count;
        }
    }

    /// What of the values is not learned from, in lines of a comment.
    fn losses(&self, kind: Option<&FieldKind>) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.missing.is_empty() && kind.is_some() {
            let several = self.missing.iter().map(|(text, count)| format!("{} {}", HumanCount(*count), quoted(text)));
            lines.push(format!("No value: {}.", several.collect::<Vec<_>>().join(", ")));
        }
        let strays = self.texts + self.bools;
        if let (Some(FieldKind::Numeric { .. }), true) = (kind, strays > 0) {
            let example = self.first_text.as_ref().map_or_else(|| "a boolean".to_owned(), |text| quoted(text));
            lines.push(format!(
                "{} values are no numbers, such as {example}: impressions with them will be refused.",
                HumanCount(strays)
            ));
        }
        if self.unfit > 0 && kind.is_some() {
            lines.push(format!("{} values of other forms will be refused.", HumanCount(self.unfit)));
        }
        lines
    }

    fn is_bound(&self) -> bool {
        self.entries > self.counted
    }

    /// The kind, and what to say for it where it is not plain. What has another form than most is counted as unfit.
    fn kind(&mut self) -> (Option<FieldKind>, Option<String>) {
        let several = self.lists + self.weighted;
        let single = self.texts + self.bools + self.numbers_seen();
        if several + single == 0 {
            return (None, None);
        }
        if several >= single {
            self.unfit += single;
            return (Some(FieldKind::Multi { weights: Weights::default() }), None);
        }
        self.unfit += several;
        let strays = self.texts + self.bools;
        if strays * STRAY_IN > self.numbers_seen() {
            return (Some(FieldKind::Categorical), None);
        }
        let (kind, why) = self.number_kind();
        // A stray text among numbers that are categories is one more category, and needs no word.
        if strays > 0 && kind == Some(FieldKind::Categorical) { (kind, None) } else { (kind, why) }
    }

    /// The kind of a field that holds numbers, as such or as digits in strings.
    fn number_kind(&mut self) -> (Option<FieldKind>, Option<String>) {
        let distinct = self.distinct.len() as u64;
        let categorical = |why: &str| (Some(FieldKind::Categorical), Some(why.to_owned()));
        if self.floats + self.other_numerals > 0 {
            return match distinct {
                ..=FEW_FLOATS => categorical("Few enough distinct numbers for each to have weights of its own."),
                _ => self.numeric("A quantity."),
            };
        }
        if distinct <= FEW_INTEGERS {
            return categorical("Few enough distinct integers for each to have weights of its own.");
        }
        if self.integers == 0 && !self.is_named_for_a_quantity() {
            return categorical("Digits in strings, taken for ids. If they are quantities: \"numeric\".");
        }
        match self.integer_guess() {
            Guess::Id(why) => {
                categorical(&format!("Integers taken for ids: {why}. If they are quantities: \"numeric\"."))
            }
            Guess::Quantity(why) => {
                self.numeric(&format!("Integers taken for quantities: {why}. If they are ids: \"categorical\"."))
            }
        }
    }

    fn numeric(&mut self, why: &str) -> (Option<FieldKind>, Option<String>) {
        self.numbers.sort_by(f64::total_cmp);
        let (low, high) = (self.numbers[0], self.numbers[self.numbers.len() - 1]);
        let edges = edges(&self.numbers);
        let buckets = match edges {
            Some(_) => "logarithmic buckets would lump them together, so these have equal shares of the sample",
            None => "in logarithmic buckets",
        };
        let comment = format!("{why} From {} to {}; {buckets}.", rounded(low), rounded(high));
        (Some(FieldKind::Numeric { edges }), Some(comment))
    }

    /// Whether integers with many distinct values are ids or quantities.
    fn integer_guess(&mut self) -> Guess {
        let words = words(&self.name);
        if words.iter().any(|word| ID_WORDS.contains(&word.as_str())) {
            return Guess::Id("by their name");
        }
        if self.is_named_for_a_quantity() {
            return Guess::Quantity("by their name");
        }
        self.numbers.sort_by(f64::total_cmp);
        let at = |share: f64| self.numbers[((self.numbers.len() - 1) as f64 * share) as usize];
        if at(0.0) < 0.0 {
            return Guess::Quantity("some are negative");
        }
        if at(0.0) >= 100_000.0 {
            return Guess::Id("none is small");
        }
        if at(0.99) > 20.0 * at(0.5).max(1.0) {
            return Guess::Quantity("most are small and a few are large");
        }
        Guess::Id("they are spread evenly")
    }

    fn is_named_for_a_quantity(&self) -> bool {
        let words = words(&self.name);
        let is_any_of = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
        is_any_of(QUANTITY_WORDS) && !is_any_of(ID_WORDS)
    }

    fn left_out(&self, kind: Option<&FieldKind>) -> Option<String> {
        if self.present == 0 {
            let stand_ins: Vec<String> = self.missing.keys().map(|text| format!(", or {}", quoted(text))).collect();
            return Some(format!("no value seen: all are null or empty{}", stand_ins.concat()));
        }
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX {
            return Some(format!("its name has {} bytes, 1 to {NAME_BYTES_MAX} are allowed", self.name.len()));
        }
        let Some(kind) = kind else {
            return Some(
                "its values are nested objects or lists of lists; send them as fields of their own".to_owned(),
            );
        };
        let almost_all_new = self.distinct.len() as u64 * 100 > self.counted * 98;
        if *kind == FieldKind::Categorical && self.counted >= UNIQUE_MIN && almost_all_new {
            let reason = "almost every value is new, so there is nothing to learn from it, and each would take a row";
            return Some(reason.to_owned());
        }
        None
    }

    /// `string, 943 values, in 100 % of the impressions`.
    fn describe(&self, impressions: u64) -> String {
        let forms = [
            (self.texts, "string"),
            (self.bools, "boolean"),
            (self.integers, "integer"),
            (self.floats, "number"),
            (self.whole_numerals + self.other_numerals, "digits in a string"),
            (self.lists, "list"),
            (self.weighted, "object of weights"),
        ];
        let names: Vec<&str> = forms.iter().filter(|(count, _)| *count > 0).map(|(_, name)| *name).collect();
        let bound = if self.is_bound() { "at least " } else { "" };
        let plural = if self.distinct.len() == 1 { "value" } else { "values" };
        let several = self.lists + self.weighted;
        let mean = self.entries as f64 / several.max(1) as f64;
        let entries = if several > 0 { format!(", {mean:.1} entries each") } else { String::new() };
        format!(
            "{}, {bound}{} {plural}, in {} of the impressions{entries}",
            if names.is_empty() { "no usable form".to_owned() } else { names.join(" or ") },
            HumanCount(self.distinct.len() as u64),
            percent(self.present as f64 / impressions as f64),
        )
    }
}

enum Guess {
    Id(&'static str),
    Quantity(&'static str),
}

/// Whether a number is an integer, however it is written.
fn is_whole(number: &Number) -> bool {
    !number.is_f64() || number.as_f64().is_some_and(|x| x.fract() == 0.0)
}

/// Edges between equal shares of sorted numbers, where logarithmic buckets would be too coarse for them.
fn edges(sorted: &[f64]) -> Option<Vec<f64>> {
    let bucket = |x: f64| (x.signum() * (4.0 * x.abs().ln_1p()).floor()) as i64;
    let mut buckets: Vec<i64> = sorted.iter().map(|&x| bucket(x)).collect();
    buckets.dedup();
    if buckets.len() >= 8 {
        return None;
    }
    let mut edges: Vec<f64> = (1..20).map(|part| rounded(sorted[part * (sorted.len() - 1) / 20])).collect();
    edges.dedup();
    (edges.len() > 1).then_some(edges)
}

/// The words of a name, in small letters: `userId` and `user_id` have the same.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut small_before = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && small_before) {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            words.last_mut().expect("there is always one").extend(c.to_lowercase());
        }
        small_before = c.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests;
