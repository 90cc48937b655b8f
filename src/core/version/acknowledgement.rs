//! The records in which servers say what they serve, as `schemas/acknowledgement.schema.json` has them.
//!
//! A server writes one when it has swapped a version in, and one at every beat, under a key of its own on a compacted topic:
//! what is there is what each server said last. A tombstone is a server that ended in order; one that falls silent was not
//! able to. Whoever may write to the topic may have written anything.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::announcement::{FORMAT, RecordError, TEXT_CHARS_MAX, check_form, check_key};
use super::manifest::sha256;
use super::names;

/// The most arms of a server.
pub const ARMS_MAX: usize = 16;

/// The most seconds between two beats.
pub const BEAT_SECONDS_MAX: u64 = 3600;

/// What a server serves. Key: `<model>/s/<server>`; a tombstone is a server that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// The form of the record.
    pub format: u32,
    /// Name of the model.
    pub model: String,
    /// Name of the server.
    pub server: String,
    /// When it said so, RFC 3339, by its own clock.
    pub written_at: String,
    /// After how many seconds it says so again at the latest.
    pub beat_seconds: u64,
    /// Its arms, in their order.
    pub arms: Vec<AcknowledgedArm>,
}

/// An arm of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AcknowledgedArm {
    /// Its name.
    pub arm: String,
    /// What it follows: an alias, `latest`, or a version's number.
    pub target: String,
    /// The version that it serves; none before the first.
    pub serving: Option<ServedVersion>,
}

/// A version that is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServedVersion {
    /// Its number.
    pub version: u64,
    /// SHA-256 of its manifest.
    pub manifest_digest: String,
    /// Its event-time watermark, in milliseconds.
    pub watermark: Option<i64>,
    /// What the server computed for the version's probes: see [`probes_digest`].
    pub probes_digest: String,
    /// Since when it is served, RFC 3339.
    pub loaded_at: String,
    /// How long it took to load, in seconds.
    pub load_seconds: f64,
}

/// SHA-256 of logits as little-endian 64-bit floats, in the order of the probes: two servers that have one digest score alike to
/// the bit.
pub fn probes_digest(logits: &[f64]) -> String {
    sha256(&logits.iter().flat_map(|logit| logit.to_bits().to_le_bytes()).collect::<Vec<u8>>())
}

/// A time in milliseconds since 1970 as records have it; the nearest that can be written where it is none.
pub fn written(ms: i64) -> String {
    let end = if ms < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_millisecond(ms).unwrap_or(end).to_string()
}

/// A time as records have it, in milliseconds since 1970.
///
/// # Errors
/// When it is none.
pub fn read_time(text: &str) -> Result<i64, RecordError> {
    let time: Result<Timestamp, _> = text.parse();
    time.map(Timestamp::as_millisecond).map_err(|_| RecordError::Time(text.chars().take(100).collect()))
}

impl Acknowledgement {
    /// What a server says at a time, in milliseconds since 1970.
    pub fn new(model: &str, server: &str, now_ms: i64, beat_seconds: u64, arms: Vec<AcknowledgedArm>) -> Self {
        let (model, server) = (model.to_owned(), server.to_owned());
        Self { format: FORMAT, model, server, written_at: written(now_ms), beat_seconds, arms }
    }

    /// Reads a record of the topic, which counts only under its own key.
    ///
    /// # Errors
    /// When it is not what a server of this key can say.
    pub fn read(key: &str, record: &[u8]) -> Result<Self, RecordError> {
        // Another form may have other keys: it is refused by its number.
        let Form { format } = serde_json::from_slice(record)?;
        check_form(format)?;
        let acknowledgement: Self = serde_json::from_slice(record)?;
        check_key(key, Self::key(&acknowledgement.model, &acknowledgement.server))?;
        acknowledgement.check()?;
        Ok(acknowledgement)
    }

    fn check(&self) -> Result<(), RecordError> {
        names::check_model(&self.model)?;
        names::check_server(&self.server)?;
        read_time(&self.written_at)?;
        if !(1..=BEAT_SECONDS_MAX).contains(&self.beat_seconds) {
            return Err(RecordError::Beat(self.beat_seconds));
        }
        if self.arms.is_empty() || self.arms.len() > ARMS_MAX {
            return Err(RecordError::Arms(self.arms.len()));
        }
        self.arms.iter().try_for_each(AcknowledgedArm::check)
    }

    /// The record's payload.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an acknowledgement always encodes")
    }

    /// The key of a server.
    pub fn key(model: &str, server: &str) -> String {
        format!("{model}/s/{server}")
    }
}

impl AcknowledgedArm {
    fn check(&self) -> Result<(), RecordError> {
        if self.arm.is_empty() || [&self.arm, &self.target].iter().any(|text| text.chars().count() > TEXT_CHARS_MAX) {
            return Err(RecordError::Text);
        }
        let Some(served) = &self.serving else { return Ok(()) };
        names::check_version(served.version)?;
        names::check_digest(&served.manifest_digest)?;
        names::check_digest(&served.probes_digest)?;
        read_time(&served.loaded_at)?;
        if served.load_seconds >= 0.0 { Ok(()) } else { Err(RecordError::Seconds(served.load_seconds)) }
    }
}

#[derive(Deserialize)]
struct Form {
    format: u32,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn own() -> Acknowledgement {
        let served = ServedVersion {
            version: 7,
            manifest_digest: "a".repeat(64),
            watermark: Some(1_700_000_000_000),
            probes_digest: probes_digest(&[0.5, -0.5]),
            loaded_at: written(1_700_000_001_000),
            load_seconds: 0.25,
        };
        let arm = |arm: &str, serving| AcknowledgedArm { arm: arm.to_owned(), target: "live".to_owned(), serving };
        let arms = vec![arm("control", Some(served)), arm("new", None)];
        Acknowledgement::new("ctr", "host-1:8000", 1_700_000_002_000, 30, arms)
    }

    #[test]
    fn an_acknowledgement_is_read_as_it_was_written_and_under_its_own_key_only() {
        let own = own();
        let record = own.to_json();
        assert_eq!(Acknowledgement::read("ctr/s/host-1:8000", record.as_bytes()).expect("it is one"), own);
        for key in ["ctr/s/host-1:8001", "ctr/s/", "ctr2/s/host-1:8000", "ctr/v/7", ""] {
            assert!(matches!(Acknowledgement::read(key, record.as_bytes()), Err(RecordError::Key { .. })), "{key}");
        }
    }

    #[test]
    fn what_no_server_can_say_is_refused() {
        type Altered<'a> = (&'a dyn Fn(&mut Value), &'a str);
        let hostile: [Altered<'_>; 15] = [
            (&|doc| doc["format"] = json!(2), "format 2"),
            (&|doc| doc["arms"] = json!({}), "it does not decode"),
            (&|doc| doc["written_at"] = json!("yesterday"), "\"yesterday\" is no time"),
            (&|doc| doc["beat_seconds"] = json!(0), "a beat of 0 s"),
            (&|doc| doc["beat_seconds"] = json!(u64::MAX), "a beat of 18446744073709551615 s"),
            (&|doc| doc["arms"] = json!([]), "it has 0 arms"),
            (&|doc| doc["arms"] = json!(vec![doc["arms"][1].clone(); 17]), "it has 17 arms"),
            (&|doc| doc["arms"][0]["arm"] = json!("x".repeat(501)), "more than 500 characters"),
            (&|doc| doc["arms"][0]["arm"] = json!(""), "a text of it"),
            (&|doc| doc["arms"][0]["target"] = json!("x".repeat(501)), "more than 500 characters"),
            (&|doc| doc["arms"][0]["serving"]["version"] = json!(u64::MAX), "is no number of a version"),
            (&|doc| doc["arms"][0]["serving"]["manifest_digest"] = json!("../"), "is no SHA-256"),
            (&|doc| doc["arms"][0]["serving"]["probes_digest"] = json!("A".repeat(64)), "is no SHA-256"),
            (&|doc| doc["arms"][0]["serving"]["loaded_at"] = json!(""), "is no time"),
            (&|doc| doc["arms"][0]["serving"]["load_seconds"] = json!(-1), "-1 s"),
        ];
        for (alter, words) in hostile {
            let mut document = serde_json::to_value(own()).expect("plain data");
            alter(&mut document);
            let refused = Acknowledgement::read("ctr/s/host-1:8000", document.to_string().as_bytes());
            let refused = refused.expect_err("it is refused").to_string();
            assert!(refused.contains(words), "{refused:?} does not say {words:?}");
        }
        for name in ["", "a b", "\u{1b}[2J", "é", &"x".repeat(201)] {
            let (key, document) =
                (Acknowledgement::key("ctr", name), Acknowledgement { server: name.to_owned(), ..own() });
            let refused = Acknowledgement::read(&key, document.to_json().as_bytes());
            assert!(matches!(refused, Err(RecordError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn one_bit_of_one_logit_is_another_digest() {
        let next = f64::from_bits(0.5_f64.to_bits() + 1);
        assert_eq!(probes_digest(&[0.5, 1.0]), probes_digest(&[0.5, 1.0]));
        assert_ne!(probes_digest(&[0.5, 1.0]), probes_digest(&[next, 1.0]));
        assert_ne!(probes_digest(&[0.5, 1.0]), probes_digest(&[1.0, 0.5]));
    }
}
