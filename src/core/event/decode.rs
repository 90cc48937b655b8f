//! One streaming pass over a record's JSON, along the tree of mapped places.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::envelope::{self, CloudEvent, RawRecord};
use super::mapping::{MappingError, Part, Place};
use super::options::{EventOptions, TimeUnit};
use super::time::{self, Clock, Stamp};
use super::{Click, Decoded, Event, EventKind, Id, Impression, Reason, Refusal, framing};
use crate::feature::Features;
use crate::feature::encoder::{CowStr, Encoder, Encoding, FeaturesSeed, Misfit};
use crate::feature::field::FieldSet;

/// The longest id, in characters.
const ID_CHARS_MAX: usize = 256;
/// Keys of an impression that mean something to others: known, and not read.
const UNUSED: [&str; 3] = ["request_id", "model_version", "prediction"];

/// Reads events of both kinds for one set of fields. Holds scratch memory: one for each thread.
#[derive(Clone, Debug)]
pub struct Decoder {
    encoder: Encoder,
    options: EventOptions,
    impression: Place,
    click: Place,
    reading: Reading,
    rooms: Vec<Features>,
}

/// The record at hand.
#[derive(Clone, Debug, Default)]
struct Reading {
    encoding: Encoding,
    seen: [bool; Part::COUNT],
    unknown_keys: u32,
    impression_id: Option<Id>,
    event_id: Option<Id>,
    event_time: Option<Stamp>,
    weight: Option<f32>,
    weight_max: f64,
    time_unit: TimeUnit,
}

impl Decoder {
    /// A decoder.
    ///
    /// # Errors
    /// When the mapping is not made of JSON pointers, or reads two parts, or a part and a field, from one place.
    pub fn new(fields: FieldSet, options: EventOptions) -> Result<Self, MappingError> {
        Ok(Self {
            impression: Place::document(EventKind::Impression, &options.mapping.impression, &fields)?,
            click: Place::document(EventKind::Click, &options.mapping.click, &fields)?,
            encoder: Encoder::new(fields, options.bounds()),
            options,
            reading: Reading::default(),
            rooms: Vec::new(),
        })
    }

    /// The encoder, which probes and servers share.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Features that nobody needs any more, whose room those of the next records have.
    pub fn rooms(&mut self) -> &mut Vec<Features> {
        &mut self.rooms
    }

    /// The longest value that is read, in bytes.
    pub fn record_bytes_max(&self) -> usize {
        self.options.record_bytes_max
    }

    /// The refusal of a value of so many bytes, which are too many.
    pub fn oversized(&self, bytes: u64) -> Refusal {
        Refusal::new(Reason::Oversized, format!("{bytes} bytes, at most {} are read", self.options.record_bytes_max))
    }

    /// Reads one record.
    ///
    /// # Errors
    /// When it cannot be read; the refusal says why, and nothing of the record is kept.
    pub fn decode(&mut self, kind: EventKind, record: &RawRecord<'_>) -> Result<Decoded, Refusal> {
        let payload = record.payload.ok_or_else(|| Refusal::new(Reason::Tombstone, "the record has no value"))?;
        if payload.len() > self.options.record_bytes_max {
            return Err(self.oversized(payload.len() as u64));
        }
        let envelope = envelope::cloud_event(record.headers)?;
        let text = std::str::from_utf8(framing::document(payload, record.headers)?)
            .map_err(|error| Refusal::new(Reason::Malformed, format!("not UTF-8: {error}")))?;
        self.read(kind, text)?;
        self.finish(kind, envelope, record.timestamp)
    }

    /// Whom a record is about and when, as far as that can be read: of a record that is refused too. The time is in
    /// milliseconds since 1970.
    pub fn address(&mut self, kind: EventKind, payload: &[u8]) -> (Option<Id>, Option<i64>) {
        let Ok(text) = std::str::from_utf8(payload) else { return (None, None) };
        // What stands before the fault of a record is read.
        let _ = self.read(kind, text);
        let time = self.reading.event_time.take().and_then(|stamp| self.clock(kind, None).read(stamp).ok());
        (self.reading.impression_id.take(), time)
    }

    fn clock(&self, kind: EventKind, timestamp: Option<i64>) -> Clock<'static> {
        Clock {
            unit: self.reading.time_unit,
            key: time_unit_key(kind),
            timestamp,
            future_max_seconds: self.options.future_max_seconds,
        }
    }

    fn read(&mut self, kind: EventKind, text: &str) -> Result<(), Refusal> {
        let place = match kind {
            EventKind::Impression => &self.impression,
            EventKind::Click => &self.click,
        };
        let time_unit = self.options.mapping.of(kind).time_unit;
        let reading = &mut self.reading;
        let encoding = std::mem::take(&mut reading.encoding);
        let weight_max = self.options.weight_max;
        *reading = Reading { encoding, weight_max, time_unit, ..Reading::default() };
        reading.encoding.clear(self.encoder.fields().len());
        let mut reader = serde_json::Deserializer::from_str(text);
        let seed = PlaceSeed { place, encoder: &self.encoder, reading, depth: 0 };
        let read = seed.deserialize(&mut reader).and_then(|()| reader.end());
        read.map_err(|error| match self.reading.encoding.misfit.take() {
            Some(misfit) => refusal(&misfit),
            None => Refusal::new(Reason::Malformed, error.to_string()),
        })
    }

    fn finish(&mut self, kind: EventKind, envelope: CloudEvent, timestamp: Option<i64>) -> Result<Decoded, Refusal> {
        let reading = &mut self.reading;
        let mapping = self.options.mapping.of(kind);
        let missing = |part: Part| {
            let pointer = match part {
                Part::ImpressionId => &mapping.impression_id,
                Part::EventTime => &mapping.event_time,
                Part::Features => &mapping.features,
                Part::EventId | Part::Weight => &None,
            };
            let place = pointer.as_ref().map_or_else(String::new, |pointer| format!(" ({pointer})"));
            Refusal::new(Reason::MissingKey, format!("{}{place} is missing", part.name()))
        };
        let impression_id = reading.impression_id.take().ok_or_else(|| missing(Part::ImpressionId))?;
        if envelope.event_id.as_ref().is_some_and(|id| id.chars().count() > 2 * ID_CHARS_MAX) {
            let detail =
                format!("headers ce_source and ce_id: expected at most {} characters together", 2 * ID_CHARS_MAX);
            return Err(Refusal::new(Reason::Mistyped, detail));
        }
        let event_id = reading.event_id.take().or_else(|| envelope.event_id.map(Into::into));
        let event_time = match (reading.event_time, envelope.time) {
            (Some(stamp), _) => stamp,
            (None, Some(text)) => time::date(&text).ok_or_else(|| {
                Refusal::new(Reason::Mistyped, format!("header ce_time: expected a date and time, found {text:?}"))
            })?,
            (None, None) => return Err(missing(Part::EventTime)),
        };
        let (unknown_keys, unknown_fields) = (reading.unknown_keys, reading.encoding.unknown_fields);
        let event_time = self.clock(kind, timestamp).read(event_time)?;
        let event = match kind {
            EventKind::Click => Event::Click(Click { impression_id, event_id, event_time }),
            EventKind::Impression => {
                if !self.reading.seen[Part::Features as usize] {
                    return Err(missing(Part::Features));
                }
                let weight = self.reading.weight.unwrap_or(1.0);
                let room = self.rooms.pop().unwrap_or_default();
                let features = self.encoder.features_in(room, &mut self.reading.encoding);
                Event::Impression(Impression { impression_id, event_id, event_time, weight, features })
            }
        };
        Ok(Decoded { event, unknown_keys, unknown_fields })
    }
}

fn refusal(misfit: &Misfit) -> Refusal {
    let reason = match misfit {
        Misfit::Malformed(_) => Reason::Malformed,
        Misfit::Mistyped { .. } => Reason::Mistyped,
        Misfit::Duplicate(_) => Reason::DuplicateKey,
        Misfit::TooMany(_) => Reason::TooManyFeatures,
        Misfit::Weight { .. } => Reason::WeightOutOfRange,
    };
    Refusal::new(reason, misfit.to_string())
}

fn time_unit_key(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Impression => "events.mapping.impression.time_unit",
        EventKind::Click => "events.mapping.click.time_unit",
    }
}

/// Reads what is at a place of the document.
struct PlaceSeed<'r> {
    place: &'r Place,
    encoder: &'r Encoder,
    reading: &'r mut Reading,
    depth: usize,
}

impl PlaceSeed<'_> {
    fn below<'s>(&'s mut self, place: &'s Place) -> PlaceSeed<'s> {
        PlaceSeed { place, encoder: self.encoder, reading: self.reading, depth: self.depth + 1 }
    }
}

impl<'de> DeserializeSeed<'de> for PlaceSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if let Some(part) = self.place.part
            && std::mem::replace(&mut self.reading.seen[part as usize], true)
        {
            return Err(self.reading.encoding.refuse(Misfit::Duplicate(part.name().to_owned())));
        }
        match self.place.part {
            Some(part) if part != Part::Features => {
                deserializer.deserialize_any(PartVisitor { part, reading: self.reading })
            }
            Some(_) if self.place.children.is_empty() => {
                let visitor = ObjectOnly { encoder: self.encoder, reading: self.reading };
                deserializer.deserialize_any(visitor)
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for PlaceSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event, which is a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<CowStr<'de>>()? {
            let place = self.place;
            if let Some(child) = place.child(&key.0) {
                map.next_value_seed(self.below(child))?;
            } else if place.part == Some(Part::Features) {
                self.encoder.read_value(&key.0, &mut map, &mut self.reading.encoding)?;
            } else {
                if self.depth == 0 && !UNUSED.contains(&key.0.as_ref()) {
                    self.reading.unknown_keys += 1;
                }
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        if self.is_object() {
            return Err(self.mistyped("a list"));
        }
        let mut index = 0_i64;
        loop {
            let place = self.place;
            let more = match place.child(&Id::from(index)) {
                Some(child) => list.next_element_seed(self.below(child))?.is_some(),
                None => list.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }

    // A scalar where parts were looked for below: they are missing.
    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.scalar("a string")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.scalar("a boolean")
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.scalar("a number")
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.scalar("a number")
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.scalar("a number")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.scalar("null")
    }
}

impl PlaceSeed<'_> {
    /// Whether only an object may be here: the document, and the features even where parts are looked for among them.
    fn is_object(&self) -> bool {
        self.depth == 0 || self.place.part == Some(Part::Features)
    }

    fn scalar<E: de::Error>(self, found: &'static str) -> Result<(), E> {
        if self.is_object() { Err(self.mistyped(found)) } else { Ok(()) }
    }

    fn mistyped<E: de::Error>(self, found: &'static str) -> E {
        let path = if self.depth == 0 { "the document" } else { Part::Features.name() };
        let misfit = Misfit::Mistyped { path: path.to_owned(), expected: "an object", found: found.into() };
        self.reading.encoding.refuse(misfit)
    }
}

/// Reads the features object; any other value is refused.
struct ObjectOnly<'r> {
    encoder: &'r Encoder,
    reading: &'r mut Reading,
}

impl ObjectOnly<'_> {
    fn refuse<E: de::Error>(self, found: &'static str) -> Result<(), E> {
        let misfit = Misfit::Mistyped { path: "features".to_owned(), expected: "an object", found: found.into() };
        Err(self.reading.encoding.refuse(misfit))
    }
}

impl<'de> Visitor<'de> for ObjectOnly<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of features")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        FeaturesSeed { encoder: self.encoder, encoding: &mut self.reading.encoding }.visit_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.refuse("a list")
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.refuse("a string")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.refuse("a boolean")
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.refuse("a number")
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.refuse("a number")
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.refuse("a number")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.refuse("null")
    }
}

/// Reads a part that is a scalar.
struct PartVisitor<'r> {
    part: Part,
    reading: &'r mut Reading,
}

impl PartVisitor<'_> {
    fn refuse<E: de::Error>(self, found: &'static str) -> Result<(), E> {
        let expected = match (self.part, self.reading.time_unit) {
            (Part::ImpressionId | Part::EventId, _) => "a string of 1 to 256 characters, or an integer",
            (Part::EventTime, TimeUnit::Rfc3339) => "a date and time with offset (time_unit is \"rfc3339\")",
            (Part::EventTime, TimeUnit::S) => "a number of seconds (time_unit is \"s\")",
            (Part::EventTime, TimeUnit::Ms) => "a whole number of milliseconds (time_unit is \"ms\")",
            (Part::EventTime, TimeUnit::Us) => "a whole number of microseconds (time_unit is \"us\")",
            (Part::EventTime, TimeUnit::Ns) => "a whole number of nanoseconds (time_unit is \"ns\")",
            (Part::Weight, _) => "a number of at least 0",
            (Part::Features, _) => "an object",
        };
        let misfit = Misfit::Mistyped { path: self.part.name().to_owned(), expected, found: found.into() };
        Err(self.reading.encoding.refuse(misfit))
    }

    fn integer<E: de::Error>(self, value: i64) -> Result<(), E> {
        match self.part {
            Part::ImpressionId => self.reading.impression_id = Some(value.into()),
            Part::EventId => self.reading.event_id = Some(value.into()),
            Part::EventTime if self.reading.time_unit == TimeUnit::Rfc3339 => return self.refuse("a number"),
            Part::EventTime => self.reading.event_time = Some(Stamp::Whole(value)),
            Part::Weight => return self.real(value as f64),
            Part::Features => return self.refuse("a number"),
        }
        Ok(())
    }

    fn real<E: de::Error>(self, value: f64) -> Result<(), E> {
        match self.part {
            Part::Weight if (0.0..=self.reading.weight_max).contains(&value) => {
                self.reading.weight = Some(value as f32);
            }
            Part::Weight if value > 0.0 => {
                let (path, max) = (self.part.name().to_owned(), self.reading.weight_max);
                return Err(self.reading.encoding.refuse(Misfit::Weight { path, weight: value, max }));
            }
            Part::Weight => return self.refuse("a number out of range"),
            Part::EventTime if self.reading.time_unit == TimeUnit::S => {
                self.reading.event_time = Some(Stamp::Seconds(value));
            }
            // An integer that does not fit comes as a number with a point.
            _ if value.fract() == 0.0 => return self.refuse("an integer of more than 64 bits"),
            _ => return self.refuse("a number with a fraction"),
        }
        Ok(())
    }

    fn time<E: de::Error>(self, text: &str) -> Result<(), E> {
        match Stamp::parse(text, self.reading.time_unit) {
            Some(stamp) => self.reading.event_time = Some(stamp),
            None if time::date(text).is_some() => return self.refuse("a date and time"),
            None => return self.refuse("another string"),
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for PartVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.part.name())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        let fits = !value.is_empty() && (value.len() <= ID_CHARS_MAX || value.chars().count() <= ID_CHARS_MAX);
        match self.part {
            Part::ImpressionId if fits => self.reading.impression_id = Some(value.into()),
            Part::EventId if fits => self.reading.event_id = Some(value.into()),
            Part::ImpressionId | Part::EventId => return self.refuse("a string that is empty or too long"),
            Part::EventTime => return self.time(value),
            Part::Weight | Part::Features => return self.refuse("a string"),
        }
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.integer(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.integer(value),
            Err(_) if self.part == Part::Weight => self.real(value as f64),
            Err(_) => self.refuse("an integer of more than 64 bits"),
        }
    }

    /// An integer is an integer however it is written: JSON Schema says so of `1.0`.
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        let is_integer =
            value.fract() == 0.0 && (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value);
        if is_integer { self.integer(value as i64) } else { self.real(value) }
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.refuse("a boolean")
    }

    /// Optional parts may be null; for a required one it is as if it were missing.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.refuse("a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.refuse("an object")
    }
}
