//! `[events]`: limits of one record, and where foreign events keep their parts.

use serde::Serialize;

use deepfm_core::event::mapping;
use deepfm_core::event::options::{EventOptions, Mapping, Mappings, TimeUnit};
use deepfm_core::event::{EventKind, MappingError};
use deepfm_core::feature::field::FieldSet;

use super::section::{Bounds, Section};

/// Limits of one record, and how topics that look different are read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Events {
    /// How far an event time may be ahead of its record's own Kafka timestamp.
    pub future_max_seconds: u64,
    /// The largest record that is decoded.
    pub record_bytes_max: usize,
    /// The most feature entries that one impression may have.
    pub features_max: usize,
    /// The largest weight of an example, or of a value of a field.
    pub weight_max: f32,
    /// The most bytes of a refused record that its dead letter carries.
    pub dead_letter_bytes_max: usize,
    /// Where foreign events keep their parts.
    pub mapping: Mappings,
}

impl Events {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let mapping = section.section("mapping");
        let future = "a record ahead of the rest holds its partition and the watermark as long, at most a day";
        let record = "records have at least a few bytes, and one is held in memory at a time: at most 64 MiB";
        let features = "an impression has at least one entry";
        let letters = "a dead letter is a Kafka record itself: at most 8 MiB";
        Self {
            future_max_seconds: section.whole("future_max_seconds", default.future_max_seconds, 0, 86_400, future),
            record_bytes_max: section.count("record_bytes_max", default.record_bytes_max, 64, 64 << 20, record),
            features_max: section.count("features_max", default.features_max, 1, 1 << 20, features),
            weight_max: section.number(
                "weight_max",
                default.weight_max,
                Bounds::WEIGHT,
                "its square must be a number too",
            ),
            dead_letter_bytes_max: section.count(
                "dead_letter_bytes_max",
                default.dead_letter_bytes_max,
                0,
                8 << 20,
                letters,
            ),
            mapping: Mappings {
                impression: read_impression(&mapping.section("impression")),
                click: read_click(&mapping.section("click")),
            },
        }
    }

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

fn read_impression(section: &Section<'_>) -> Mapping {
    Mapping {
        features: read_pointer(section, "features"),
        weight: read_pointer(section, "weight"),
        ..read_click(section)
    }
}

fn read_click(section: &Section<'_>) -> Mapping {
    let units = [
        ("ms", TimeUnit::Ms),
        ("s", TimeUnit::S),
        ("us", TimeUnit::Us),
        ("ns", TimeUnit::Ns),
        ("rfc3339", TimeUnit::Rfc3339),
    ];
    Mapping {
        impression_id: read_pointer(section, "impression_id"),
        event_id: read_pointer(section, "event_id"),
        event_time: read_pointer(section, "event_time"),
        time_unit: section.choice("time_unit", TimeUnit::default(), &units),
        ..Mapping::default()
    }
}

/// A JSON pointer (RFC 6901, section 3). Only features may be the whole document.
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
