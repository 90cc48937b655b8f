//! From the JSON of an event's features to [`Features`], while the JSON is read: no value of a feature is ever owned.
//!
//! The visitors below are serde seeds over one [`Encoding`], the scratch memory of the event at hand. What does not fit
//! is noted there as a [`Misfit`], and reading stops.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;

use hashbrown::HashTable;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use xxhash_rust::xxh3::xxh3_64;

use super::field::{FieldKind, FieldSet};
use super::value::{NumberText, number_text};
use super::{Entry, Features, id};

/// Turns features into ids, for one set of fields.
#[derive(Clone, Debug)]
pub struct Encoder {
    fields: FieldSet,
    prefixes: Vec<Vec<u8>>,
    by_name: HashTable<u16>,
    bounds: EntryBounds,
}

/// What one event's features may hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EntryBounds {
    /// The most entries, all fields together.
    pub features_max: usize,
    /// The largest magnitude of a weight that an object gives a value, before it is scaled.
    pub weight_max: f64,
}

/// Features that do not fit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum Misfit {
    /// The text is not JSON.
    #[error("{0}")]
    Malformed(String),
    /// A value is of another type than its place asks for.
    #[error("{path}: expected {expected}, found {found}")]
    Mistyped { path: String, expected: &'static str, found: Cow<'static, str> },
    /// A key stands twice in one object.
    #[error("{0} is there twice")]
    Duplicate(String),
    /// There are more entries than allowed.
    #[error("more than {0} feature values")]
    TooMany(usize),
    /// A weight is beyond the bound, or below 0 where it may not be.
    #[error("{path}: a weight of {weight:?}, at most {max:?} is taken")]
    Weight { path: String, weight: f64, max: f64 },
}

/// The event at hand: what was found so far.
#[derive(Clone, Debug, Default)]
pub struct Encoding {
    pairs: Vec<(u16, Entry)>,
    seen: Vec<bool>,
    /// The field of the key that was read last.
    last: Option<u16>,
    /// At `f + 1` the field whose key came after that of field f when that was last seen, at 0 the one whose key came first: most often
    /// it comes there again.
    following: Vec<u16>,
    text: String,
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Features of no configured field.
    pub unknown_fields: u32,
    /// Why reading stopped, if the event itself was the reason.
    pub misfit: Option<Misfit>,
}

impl Encoding {
    /// Forgets the last event.
    pub fn clear(&mut self, fields: usize) {
        self.pairs.clear();
        self.seen.clear();
        self.seen.resize(fields, false);
        self.last = None;
        self.unknown_fields = 0;
        self.misfit = None;
    }

    /// The entries found so far, each with the number of its field, in the order in which they were read.
    pub fn entries(&self) -> &[(u16, Entry)] {
        &self.pairs
    }

    /// Notes why reading stops; the error only unwinds.
    pub fn refuse<E: de::Error>(&mut self, misfit: Misfit) -> E {
        self.misfit = Some(misfit);
        E::custom("refused")
    }
}

impl Encoder {
    /// An encoder.
    pub fn new(fields: FieldSet, bounds: EntryBounds) -> Self {
        let names: Vec<&str> = fields.as_slice().iter().map(|field| field.name.as_str()).collect();
        let prefixes = names.iter().map(|name| id::prefix(name)).collect();
        let mut by_name = HashTable::with_capacity(names.len());
        let hash = |field: &u16| xxh3_64(names[usize::from(*field)].as_bytes());
        for number in 0..names.len() as u16 {
            by_name.insert_unique(hash(&number), number, hash);
        }
        Self { fields, prefixes, by_name, bounds }
    }

    /// The fields.
    pub fn fields(&self) -> &FieldSet {
        &self.fields
    }

    /// Encodes one JSON object of features.
    ///
    /// # Errors
    /// When it is not JSON, not an object, or a value does not fit its field.
    pub fn encode_json(&self, json: &str) -> Result<Features, Misfit> {
        let mut encoding = Encoding::default();
        self.encode_into(json.as_bytes(), &mut encoding)?;
        Ok(self.features(&encoding))
    }

    /// The same into memory that is used again: whoever encodes many objects allocates nothing for them, unless their strings have
    /// escapes. What is not UTF-8 is not JSON.
    ///
    /// # Errors
    /// As [`encode_json`](Self::encode_json).
    pub fn encode_into(&self, json: &[u8], encoding: &mut Encoding) -> Result<(), Misfit> {
        encoding.clear(self.fields.len());
        let mut reader = serde_json::Deserializer::from_slice(json);
        let read = FeaturesSeed { encoder: self, encoding }.deserialize(&mut reader);
        let ended = read.and_then(|()| reader.end());
        ended.map_err(|error| encoding.misfit.take().unwrap_or_else(|| Misfit::Malformed(error.to_string())))
    }

    /// Adds a value to a field, as if it stood in the features object: where values come in columns instead of objects. A second
    /// value of a field that has one of them only is an error.
    ///
    /// # Errors
    /// When the value does not fit the field.
    pub fn encode_value<'de, D: Deserializer<'de>>(
        &self,
        field: u16,
        value: D,
        encoding: &mut Encoding,
    ) -> Result<(), Misfit> {
        let is_multi = matches!(self.fields.as_slice()[usize::from(field)].kind, FieldKind::Multi { .. });
        let before = encoding.pairs.len();
        let read = ValueSeed { encoder: self, encoding, field }.deserialize(value);
        read.map_err(|error| encoding.misfit.take().unwrap_or_else(|| Misfit::Malformed(error.to_string())))?;
        let is_more = encoding.pairs.len() > before;
        if is_more && std::mem::replace(&mut encoding.seen[usize::from(field)], true) && !is_multi {
            return Err(Misfit::Duplicate(self.path(field)));
        }
        Ok(())
    }

    /// The features of the event at hand.
    pub fn features(&self, encoding: &Encoding) -> Features {
        Features::from_pairs(self.fields.len(), &encoding.pairs)
    }

    /// The same in the room of other features.
    pub fn features_in(&self, mut room: Features, encoding: &mut Encoding) -> Features {
        room.fill(self.fields.len(), &encoding.pairs, &mut encoding.ends);
        room
    }

    /// The number of the field of this name.
    pub fn field(&self, name: &str) -> Option<u16> {
        let same = |field: &u16| self.fields.as_slice()[usize::from(*field)].name == name;
        self.by_name.find(xxh3_64(name.as_bytes()), same).copied()
    }

    /// The same for the next key of an object: that which followed the one before in the last object is tried first.
    fn next_field(&self, name: &str, encoding: &mut Encoding) -> Option<u16> {
        let fields = self.fields.as_slice();
        let Encoding { last, following, .. } = encoding;
        let place = last.map_or(0, |last| usize::from(last) + 1);
        let is_it = |guess: &u16| fields.get(usize::from(*guess)).is_some_and(|field| field.name == name);
        if let Some(guess) = following.get(place).copied().filter(is_it) {
            *last = Some(guess);
        } else {
            let field = self.field(name)?;
            following.resize(following.len().max(fields.len() + 1), field);
            following[place] = field;
            *last = Some(field);
        }
        *last
    }

    /// Reads the value of a key of the features object, whatever the key is.
    ///
    /// # Errors
    /// Those of the reader; a misfit is noted in `encoding`.
    pub fn read_value<'de, A: MapAccess<'de>>(
        &self,
        key: &str,
        map: &mut A,
        encoding: &mut Encoding,
    ) -> Result<(), A::Error> {
        let Some(field) = self.next_field(key, encoding) else {
            encoding.unknown_fields += 1;
            map.next_value::<IgnoredAny>()?;
            return Ok(());
        };
        if std::mem::replace(&mut encoding.seen[usize::from(field)], true) {
            return Err(encoding.refuse(Misfit::Duplicate(self.path(field))));
        }
        map.next_value_seed(ValueSeed { encoder: self, encoding, field })
    }

    fn path(&self, field: u16) -> String {
        format!("features.{}", self.fields.as_slice()[usize::from(field)].name)
    }
}

/// Reads a whole features object.
#[derive(Debug)]
pub struct FeaturesSeed<'e> {
    /// The encoder.
    pub encoder: &'e Encoder,
    /// The event at hand.
    pub encoding: &'e mut Encoding,
}

impl<'de> DeserializeSeed<'de> for FeaturesSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FeaturesSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of features")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<CowStr<'de>>()? {
            self.encoder.read_value(&key.0, &mut map, self.encoding)?;
        }
        Ok(())
    }
}

/// A string that is borrowed unless it had escapes.
#[derive(Debug, serde::Deserialize)]
pub struct CowStr<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Reads the value of a field.
struct ValueSeed<'e> {
    encoder: &'e Encoder,
    encoding: &'e mut Encoding,
    field: u16,
}

impl ValueSeed<'_> {
    fn kind(&self) -> &FieldKind {
        &self.encoder.fields.as_slice()[usize::from(self.field)].kind
    }

    fn misfit<E: de::Error>(&mut self, found: impl Into<Cow<'static, str>>) -> E {
        let expected = match self.kind() {
            FieldKind::Categorical => "one string, number or boolean (the field is categorical)",
            FieldKind::Multi { .. } => "a list of values or an object of weights (the field is multi-valued)",
            FieldKind::Numeric { .. } => "a number, or its digits in a string (the field is numeric)",
        };
        let path = self.encoder.path(self.field);
        self.encoding.refuse(Misfit::Mistyped { path, expected, found: found.into() })
    }

    fn add<E: de::Error>(&mut self, text: &[u8], x: f32) -> Result<(), E> {
        let most = self.encoder.bounds.features_max;
        if self.encoding.pairs.len() >= most {
            return Err(self.encoding.refuse(Misfit::TooMany(most)));
        }
        let bytes = &mut self.encoding.bytes;
        bytes.clear();
        bytes.extend_from_slice(&self.encoder.prefixes[usize::from(self.field)]);
        bytes.extend_from_slice(text);
        let id = xxh3_64(bytes);
        self.encoding.pairs.push((self.field, Entry { id, x }));
        Ok(())
    }

    fn add_text<E: de::Error>(&mut self, write: impl FnOnce(&mut String)) -> Result<(), E> {
        let mut text = std::mem::take(&mut self.encoding.text);
        text.clear();
        write(&mut text);
        let added = self.add(text.as_bytes(), 1.0);
        self.encoding.text = text;
        added
    }

    fn number<E: de::Error>(&mut self, value: f64, digits: Option<i128>) -> Result<(), E> {
        let bucket = match self.kind() {
            FieldKind::Numeric { edges: Some(edges) } => Some(id::edge_bucket(edges, value)),
            FieldKind::Numeric { edges: None } => Some(id::log_bucket(value)),
            FieldKind::Categorical | FieldKind::Multi { .. } => None,
        };
        self.add_text(|text| match (bucket.map(i128::from).or(digits), value) {
            (Some(whole), _) => write!(text, "{whole}").expect("writing to a string cannot fail"),
            (None, value) => id::write_number(value, text),
        })
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a feature value")
    }

    fn visit_str<E: de::Error>(mut self, value: &str) -> Result<(), E> {
        match self.kind() {
            FieldKind::Numeric { .. } => match number_text(value) {
                NumberText::Missing => Ok(()),
                NumberText::Number(number) => self.number(number, None),
                NumberText::Other => Err(self.misfit("a string that is no number")),
            },
            FieldKind::Categorical | FieldKind::Multi { .. } if value.is_empty() => Ok(()),
            FieldKind::Categorical | FieldKind::Multi { .. } => self.add(value.as_bytes(), 1.0),
        }
    }

    fn visit_bool<E: de::Error>(mut self, value: bool) -> Result<(), E> {
        match self.kind() {
            FieldKind::Numeric { .. } => Err(self.misfit("a boolean")),
            FieldKind::Categorical | FieldKind::Multi { .. } => self.add(if value { b"true" } else { b"false" }, 1.0),
        }
    }

    fn visit_i64<E: de::Error>(mut self, value: i64) -> Result<(), E> {
        self.number(value as f64, Some(i128::from(value)))
    }

    fn visit_u64<E: de::Error>(mut self, value: u64) -> Result<(), E> {
        self.number(value as f64, Some(i128::from(value)))
    }

    fn visit_f64<E: de::Error>(mut self, value: f64) -> Result<(), E> {
        self.number(value, None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        if !matches!(self.kind(), FieldKind::Multi { .. }) {
            return Err(self.misfit("a list"));
        }
        let Self { encoder, encoding, field } = self;
        while list.next_element_seed(ElementSeed(ValueSeed { encoder, encoding, field }))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let FieldKind::Multi { weights } = *self.kind() else {
            return Err(self.misfit("an object"));
        };
        let start = self.encoding.pairs.len();
        while let Some(key) = map.next_key::<CowStr<'de>>()? {
            let weight = map.next_value_seed(WeightSeed(&mut self))?.filter(|weight| *weight != 0.0);
            if let Some(weight) = weight.filter(|_| !key.0.is_empty()) {
                self.add(key.0.as_bytes(), weight)?;
            }
        }
        weights.scale(&mut self.encoding.pairs[start..]);
        Ok(())
    }
}

/// An element of a list: like a value of the field, but not itself a list or an object.
struct ElementSeed<'e>(ValueSeed<'e>);

impl<'de> DeserializeSeed<'de> for ElementSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ElementSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an element of a feature list")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.0.visit_str(value)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.0.visit_bool(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.0.visit_i64(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.0.visit_u64(value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.0.visit_f64(value)
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, _: A) -> Result<(), A::Error> {
        Err(self.0.misfit("a list within a list"))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, _: A) -> Result<(), A::Error> {
        Err(self.0.misfit("an object within a list"))
    }
}

/// Reads the weight of a value in an object of weights; `None` is a missing one.
struct WeightSeed<'s, 'e>(&'s mut ValueSeed<'e>);

impl<'de> DeserializeSeed<'de> for WeightSeed<'_, '_> {
    type Value = Option<f32>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<f32>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for WeightSeed<'_, '_> {
    type Value = Option<f32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a weight")
    }

    fn visit_f64<E: de::Error>(self, weight: f64) -> Result<Option<f32>, E> {
        let max = self.0.encoder.bounds.weight_max;
        if weight.abs() <= max {
            return Ok(Some(weight as f32));
        }
        let path = self.0.encoder.path(self.0.field);
        Err(self.0.encoding.refuse(Misfit::Weight { path, weight, max }))
    }

    fn visit_i64<E: de::Error>(self, weight: i64) -> Result<Option<f32>, E> {
        self.visit_f64(weight as f64)
    }

    fn visit_u64<E: de::Error>(self, weight: u64) -> Result<Option<f32>, E> {
        self.visit_f64(weight as f64)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Option<f32>, E> {
        Ok(None)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Option<f32>, E> {
        Err(self.0.misfit("a string as weight"))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Option<f32>, E> {
        Err(self.0.misfit("a boolean as weight"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Option<f32>, A::Error> {
        Err(self.0.misfit("a list as weight"))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Option<f32>, A::Error> {
        Err(self.0.misfit("an object as weight"))
    }
}
