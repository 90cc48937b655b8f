//! `[events]`: limits of one record, and where foreign events keep their parts.

use serde_json::json;

use deepfm_core::event::mapping;
use deepfm_core::event::options::{EventOptions, Mapping, Mappings, TimeUnit};
use deepfm_core::event::{EventKind, MappingError};
use deepfm_core::feature::field::FieldSet;

use super::declare::{Readable, keys, section};
use super::keys::{Bounds, Part};
use super::kinds::{Choice, Maybe, Special, number, whole};
use super::section::Section;

const TIME_UNITS: Choice<TimeUnit> = Choice(&[
    ("ms", TimeUnit::Ms),
    ("s", TimeUnit::S),
    ("us", TimeUnit::Us),
    ("ns", TimeUnit::Ns),
    ("rfc3339", TimeUnit::Rfc3339),
]);

/// JSON pointers (RFC 6901, section 3).
const POINTER: Maybe<Special<String>> = Maybe(Special {
    read: read_pointer,
    words: "a JSON pointer",
    schema: || json!({"type": "string", "pattern": "^(/([^~]|~[01])*)?$"}),
});

section! {
    /// Limits of one record, and how topics that look different are read.
    Events in "events" {
        /// How far an event time may be ahead of its record's own Kafka timestamp; later ones are refused. A record ahead of
        /// the rest holds its partition and the watermark as long.
        future_max_seconds: u64 = EventOptions::default().future_max_seconds,
            whole(0, 86_400, "a record ahead of the rest holds its partition and the watermark as long, at most a day"),
            Refused;
        /// The largest record that is decoded; larger ones are refused.
        record_bytes_max: usize = EventOptions::default().record_bytes_max,
            whole(64, 64 << 20, "records have at least a few bytes, and one is held in memory at a time: at most 64 MiB"),
            Refused;
        /// The most feature entries of one impression, all fields together; impressions with more are refused.
        features_max: usize = EventOptions::default().features_max,
            whole(1, 1 << 20, "an impression has at least one entry"), Refused;
        /// The largest weight, of an impression or of a value in an object of weights (either sign, before it is scaled);
        /// impressions with a larger one are refused.
        weight_max: f32 = EventOptions::default().weight_max as f32,
            number(Bounds::WEIGHT, "its square must be a number too"), Refused;
        /// The most bytes of a refused record that its dead letter carries; of a longer one the digest travels too.
        dead_letter_bytes_max: usize = 65_536,
            whole(0, 8 << 20, "a dead letter is a Kafka record itself: at most 8 MiB"), Free;
    }
    with {
        /// Where foreign events keep their parts.
        mapping: Mappings,
    }
}

keys! {
    /// Where foreign events keep their parts: JSON pointers (RFC 6901). What is not named is read at its standard key,
    /// shown here.
    IMPRESSION in "events.mapping.impression", fn read_impression(..) -> Mapping {
        /// Where the impression's id is.
        impression_id: Option<String>, POINTER, Refused, Unset("\"/impression_id\"");
        /// Where the event's own id is.
        event_id: Option<String>, POINTER, Refused, Unset("\"/event_id\"");
        /// Where the event time is.
        event_time: Option<String>, POINTER, Refused, Unset("\"/event_time\"");
        /// Where the object of features is. "" is the whole document: a field then wins over a weight or `event_id` at the
        /// same key that is not mapped.
        features: Option<String>, POINTER, Refused, Unset("\"/features\"");
        /// Where the weight of the example is.
        weight: Option<String>, POINTER, Refused, Unset("\"/weight\"");
        /// The unit of the event time. Digits within a string are numbers.
        time_unit: TimeUnit, TIME_UNITS, Refused;
    }
}

keys! {
    /// The same for clicks.
    CLICK in "events.mapping.click", fn read_click(..) -> Mapping {
        /// Where the id of the clicked impression is.
        impression_id: Option<String>, POINTER, Refused, Unset("\"/impression_id\"");
        /// Where the event's own id is.
        event_id: Option<String>, POINTER, Refused, Unset("\"/event_id\"");
        /// Where the event time is.
        event_time: Option<String>, POINTER, Refused, Unset("\"/event_time\"");
        /// The unit of the event time.
        time_unit: TimeUnit, TIME_UNITS, Refused;
    }
}

pub(super) const MAPPING: Part =
    Part::empty("events.mapping", &["Where foreign events keep their parts: JSON pointers (RFC 6901)."]);

impl Readable for Mappings {
    fn read_keys(section: &Section<'_>) -> Self {
        let Self { impression, click } = Self::default();
        Self {
            impression: read_impression(&section.section("impression"), impression),
            click: read_click(&section.section("click"), click),
        }
    }
}

impl Events {
    /// Notes where the mapping reads two things from one place: two parts, or a part and a field.
    pub(super) fn check_against(&self, fields: &FieldSet, section: &Section<'_>) {
        let mapping = section.section("mapping");
        for (kind, name) in [(EventKind::Impression, "impression"), (EventKind::Click, "click")] {
            let section = mapping.section(name);
            // What is no pointer was noted already.
            let Err(error) = mapping::check(kind, &self.mapping, fields) else { continue };
            let fix = match &error {
                // Noted already, where it was read.
                MappingError::NotAPointer { .. } => continue,
                MappingError::Twice { part, other, .. } => format!("say where {part} is, or {other}"),
                MappingError::Field { part, field, .. } => {
                    format!("set {} to where {part} is, or rename the field {field:?}", section.key(part))
                }
            };
            section.refuse(error.key(), error.to_string(), &fix);
        }
    }

    /// What the decoder is given.
    pub(super) fn options(&self) -> EventOptions {
        EventOptions {
            future_max_seconds: self.future_max_seconds,
            record_bytes_max: self.record_bytes_max,
            features_max: self.features_max,
            weight_max: as_written(self.weight_max),
            mapping: self.mapping.clone(),
        }
    }
}

/// The number that was written in the file: the shortest decimal that 32 bits keep as this one. A weight of exactly the bound
/// is taken.
fn as_written(stored: f32) -> f64 {
    stored.to_string().parse().expect("a number reads back")
}

/// Only features may be the whole document.
fn read_pointer(section: &Section<'_>, key: &str) -> Option<String> {
    let pointer = section.text(key)?;
    let escapes_are_whole = pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    let names_a_part = pointer.starts_with('/') || (pointer.is_empty() && key == "features");
    if !(names_a_part && escapes_are_whole) {
        let problem = format!("\"{pointer}\" is not a JSON pointer to it");
        section.refuse(key, problem, "write \"/outer/inner\", with ~1 for a / and ~0 for a ~ inside a name");
    }
    Some(pointer)
}
