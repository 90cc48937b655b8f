//! Golden event logs through the public join: every emission with its watermark and trigger, every watermark, every
//! counter, and what is left at the end.

use deepfm_core::event::{EventKind, Id};
use deepfm_core::join::params::{JoinParams, LabelPolicy, LatePolicy};
use deepfm_core::join::{ClickIn, Emission, EmissionKind, ImpressionIn, Join, JoinCounters, Pack, Weigh};
use deepfm_core::stream::Partition;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Document {
    name: String,
    config: Config,
    events: Vec<Event>,
    expected: Expected,
}

#[derive(Deserialize)]
struct Config {
    window_ms: i64,
    lateness_ms: i64,
    retention_ms: i64,
    late_policy: LatePolicy,
    emit: LabelPolicy,
    click_before_ms: i64,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    Impression(Record),
    Click(Record),
    Flush,
}

#[derive(Deserialize)]
struct Record {
    partition: String,
    event_id: Id,
    impression_id: Id,
    ts: i64,
}

#[derive(Deserialize)]
struct Expected {
    emissions: Vec<Value>,
    counters: Map<String, Value>,
    watermarks: Vec<Option<i64>>,
    #[serde(rename = "final")]
    at_end: Value,
}

impl Config {
    fn params(&self) -> JoinParams {
        JoinParams {
            window_ms: self.window_ms,
            click_before_ms: self.click_before_ms,
            lateness_ms: self.lateness_ms,
            retention_ms: self.retention_ms,
            labels: self.emit,
            late_clicks: self.late_policy,
            open_impressions_max: usize::MAX,
            held_bytes_max: usize::MAX,
            waiting_clicks_max: usize::MAX,
            remembered_max: usize::MAX,
        }
    }
}

/// Replays one golden file of kind `join`.
///
/// # Panics
/// On any difference between the file and the join.
pub(super) fn check(document: &Value) {
    let Document { name, config, events, expected } =
        serde_json::from_value(document.clone()).expect("the golden form of section 6");
    let mut join = Join::new(config.params());
    let (mut emissions, mut watermarks, mut out) = (Vec::new(), Vec::new(), Vec::new());
    for (trigger, event) in events.into_iter().enumerate() {
        feed(&mut join, event, trigger as i64, &mut out);
        emissions.extend(out.drain(..).map(|emission| as_golden(&emission, trigger)));
        watermarks.push(join.watermark());
    }
    for (index, (got, wanted)) in emissions.iter().zip(&expected.emissions).enumerate() {
        assert_eq!(got, wanted, "join {name}: emission {index}");
    }
    assert_eq!(emissions.len(), expected.emissions.len(), "join {name}: number of emissions");
    assert_eq!(watermarks, expected.watermarks, "join {name}: watermarks");
    check_counters(&name, join.counters(), &expected.counters);
    let at_end = json!({
        "open": join.open(),
        "retained_impressions": join.retained(),
        "orphans": join.waiting(),
        "seen": join.remembered(),
    });
    assert_eq!(at_end, expected.at_end, "join {name}: what is left at the end");
}

/// The payload of an impression is its own id, so that an emission with another's payload is noticed.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Payload(String);

impl Weigh for Payload {
    fn weight(&self) -> usize {
        self.0.len()
    }
}

impl Pack for Payload {
    fn pack(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.0.as_bytes());
    }

    fn unpack(bytes: &[u8], _: Option<Self>) -> Self {
        Self(String::from_utf8(bytes.to_vec()).expect("a text was packed"))
    }
}

/// The partition of a record, "imp-0" or "clk-1": for information, the join knows none.
fn partition(name: &str) -> Partition {
    let (kind, number) = name.split_once('-').expect("a kind and a number");
    let kind = if kind == "imp" { EventKind::Impression } else { EventKind::Click };
    Partition { kind, number: number.parse().expect("a number") }
}

fn feed(join: &mut Join<Payload>, event: Event, offset: i64, out: &mut Vec<Emission<Payload>>) {
    match event {
        Event::Impression(Record { partition, event_id, impression_id, ts }) => {
            let payload = Payload(impression_id.to_string());
            let (partition, event_id) = (self::partition(&partition), Some(event_id));
            join.impression(
                ImpressionIn { partition, offset, impression_id, event_id, time: ts, payload: &payload },
                out,
            );
        }
        Event::Click(Record { partition, event_id, impression_id, ts }) => {
            let (partition, event_id) = (self::partition(&partition), Some(event_id));
            join.click(ClickIn { partition, offset, impression_id, event_id, time: ts }, out);
        }
        Event::Flush => join.flush(out),
    }
}

fn as_golden(emission: &Emission<Payload>, trigger: usize) -> Value {
    assert_eq!(emission.payload.0, *emission.impression_id, "the payload of another impression");
    let (kind, label) = match emission.kind {
        EmissionKind::Positive => ("positive", 1),
        EmissionKind::Negative => ("negative", 0),
        EmissionKind::Correction => ("correction", 1),
        EmissionKind::FakeNegative | EmissionKind::FakePositive | EmissionKind::Matured | EmissionKind::Unlabelled => {
            panic!("{:?} belongs to another label policy", emission.kind)
        }
    };
    json!({
        "kind": kind,
        "label": label,
        "impression_id": &*emission.impression_id,
        "impression_ts": emission.impression_time,
        "click_ts": emission.click_time,
        "click_event_id": emission.click_event_id.as_deref(),
        "trigger": trigger,
        "watermark": emission.watermark,
    })
}

/// Counters that golden does not know must be zero: nothing is forsaken or at a bound.
fn check_counters(name: &str, counters: &JoinCounters, expected: &Map<String, Value>) {
    let Value::Object(got) = serde_json::to_value(counters).expect("counters are an object") else {
        panic!("join {name}: counters are not an object")
    };
    for (counter, value) in &got {
        assert_eq!(value, expected.get(counter).unwrap_or(&json!(0)), "join {name}: counter {counter}");
    }
    for counter in expected.keys() {
        assert!(got.contains_key(counter), "join {name}: counter {counter} is missing");
    }
}
