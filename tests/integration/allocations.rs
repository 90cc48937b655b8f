//! What an event costs in calls of the allocator, from the bytes of its payload until it is learned: in steady state, where its
//! features are known and the buffers on its way have grown as far as they do.

use deepfm_core::event::options::EventOptions;
use deepfm_core::event::{Decoder, EventKind, RawRecord};
use deepfm_core::feature::field::{Field, FieldKind, FieldSet, Weights};
use deepfm_core::feature::hash;
use deepfm_core::join::params::{JoinParams, LabelPolicy, LatePolicy};
use deepfm_core::model::params::ModelParams;
use deepfm_core::stream::{Arrival, Control, Partition};
use deepfm_core::train::{BatchParams, BreakerParams, TrainParams, Trainer};
use deepfm_stream::source::Ingest;
use deepfm_stream::source::ingest::Message;

use crate::support::counting::allocations;

const IMPRESSIONS: Partition = Partition { kind: EventKind::Impression, number: 0 };
const CLICKS: Partition = Partition { kind: EventKind::Click, number: 0 };
const START_MS: u64 = 1_700_000_000_000;

/// Plain fields of an impression; it has one more of several values, which is there in every other one.
const FIELDS: u64 = 20;

/// Records of a partition that are decoded at a time, and impressions in a round.
const HANDFUL: usize = 512;
const ROUND: u64 = 4 * HANDFUL as u64;

/// Rounds until the state is steady, and those that are counted.
const WARM_UP: u64 = 12;
const COUNTED: u64 = 12;

/// A click comes so many impressions after its own, one a millisecond.
const CLICKED_AFTER: u64 = 400;
const WINDOW_MS: i64 = 1000;

/// An id as long as a UUID.
fn id(kind: &str, number: u64) -> String {
    format!("{kind}-{:016x}-{number:017}", hash::mix64(number))
}

fn impression(number: u64) -> String {
    let field = |field| format!("\"f{field}\":\"v{}\"", hash::hash(1, number, field) % 200);
    let mut fields: Vec<String> = (0..FIELDS).map(field).collect();
    if number.is_multiple_of(2) {
        let value = |place| format!("\"t{}\"", hash::hash(2, number, place) % 50);
        let values: Vec<String> = (0..number % 5).map(value).collect();
        fields.push(format!("\"tags\":[{}]", values.join(",")));
    }
    let (time, id, event_id, fields) = (START_MS + number, id("i", number), id("e", number), fields.join(","));
    format!(
        "{{\"impression_id\":\"{id}\",\"event_time\":{time},\"event_id\":\"{event_id}\",\"features\":{{{fields}}}}}"
    )
}

/// The click on an impression.
fn click(number: u64) -> String {
    let (time, id, event_id) = (START_MS + number + CLICKED_AFTER, id("i", number), id("c", number));
    format!("{{\"impression_id\":\"{id}\",\"event_time\":{time},\"event_id\":\"{event_id}\"}}")
}

pub(super) fn params(batch: usize) -> TrainParams {
    TrainParams {
        join: JoinParams {
            window_ms: WINDOW_MS,
            click_before_ms: 0,
            lateness_ms: 0,
            retention_ms: WINDOW_MS,
            labels: LabelPolicy::AtMaturity,
            late_clicks: LatePolicy::Correct,
            open_impressions_max: usize::MAX,
            held_bytes_max: usize::MAX,
            waiting_clicks_max: usize::MAX,
            remembered_max: usize::MAX,
        },
        model: ModelParams { fields: FIELDS as usize + 1, ..ModelParams::default() },
        batch: BatchParams { min: batch, max: batch, growth_examples: 1, span_ms: 500 },
        negative_sampling_rate: 1.0,
        window_impressions: 10_000,
        metrics_sampling_rate: 1.0,
        breaker: Some(BreakerParams::new(1000.0)),
    }
}

/// A decoder and what learns from it, on one thread.
struct Feed {
    ingest: Ingest,
    trainer: Trainer,
    /// The next offset of impressions and of clicks.
    next: [i64; 2],
    arrivals: Vec<Arrival>,
}

/// Calls of the allocator while records were decoded, and while they were joined, scored and learned.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    decoding: u64,
    learning: u64,
}

impl Feed {
    fn new(params: TrainParams, has_clicks: bool) -> Self {
        let plain = (0..FIELDS).map(|number| Field { name: format!("f{number}"), kind: FieldKind::Categorical });
        let tags = Field { name: "tags".to_owned(), kind: FieldKind::Multi { weights: Weights::default() } };
        let fields = FieldSet::new(plain.chain([tags]).collect()).expect("they are sound");
        let decoder = Decoder::new(fields, EventOptions::default()).expect("it is sound");
        let mut trainer = Trainer::new(params);
        for partition in [IMPRESSIONS, CLICKS].into_iter().take(if has_clicks { 2 } else { 1 }) {
            trainer.control(&Control::Start { partition, next_offset: 0 }).expect("it is new");
        }
        Self { ingest: Ingest::new(decoder, 0, |_, _| ()), trainer, next: [0; 2], arrivals: Vec::new() }
    }

    /// Decodes records and queues them.
    fn read(&mut self, partition: Partition, payloads: &[String], calls: &mut Calls) {
        for handful in payloads.chunks(HANDFUL) {
            let (decoding, ()) = allocations(|| {
                self.ingest.fetch_rooms();
                for payload in handful {
                    let offset = self.next[partition.kind as usize];
                    self.next[partition.kind as usize] += 1;
                    let record = RawRecord { payload: Some(payload.as_bytes()), ..RawRecord::default() };
                    let message = Message { offset, key: None, record };
                    self.arrivals.push(self.ingest.arrival(partition.kind, &message));
                }
            });
            let (queueing, ()) = allocations(|| {
                for arrival in self.arrivals.drain(..) {
                    self.trainer.push(partition, arrival).expect("it is in order");
                }
            });
            calls.decoding += decoding;
            calls.learning += queueing;
        }
    }

    /// Consumes what is queued.
    fn learn(&mut self, calls: &mut Calls) {
        let (learning, ()) = allocations(|| {
            while let Some(step) = self.trainer.step(&mut ()) {
                assert!(step.record.refused.is_none() && step.unlearned.is_empty());
            }
            self.ingest.rooms().take_back(self.trainer.rooms());
        });
        calls.learning += learning;
    }
}

/// Calls for each impression in steady state; with one click on every `click_every`.
fn calls_each(batch: usize, click_every: Option<u64>) -> [f64; 2] {
    let mut feed = Feed::new(params(batch), click_every.is_some());
    let mut calls = Calls::default();
    for round in 0..WARM_UP + COUNTED {
        let numbers = round * ROUND..(round + 1) * ROUND;
        let impressions: Vec<String> = numbers.clone().map(impression).collect();
        let is_clicked = |number: &u64| click_every.is_some_and(|every| number.is_multiple_of(every));
        let clicks: Vec<String> = numbers.filter(is_clicked).map(click).collect();
        if round == WARM_UP {
            calls = Calls::default();
        }
        feed.read(IMPRESSIONS, &impressions, &mut calls);
        feed.read(CLICKS, &clicks, &mut calls);
        feed.learn(&mut calls);
    }
    let learned = feed.trainer.learned();
    let counters = feed.trainer.join_counters();
    assert!(learned > (WARM_UP + COUNTED - 2) * ROUND, "{learned} were learned");
    assert_eq!(counters.positives > 0, click_every.is_some());
    assert_eq!(feed.trainer.model().table().len() as u64, FIELDS * 200 + 50, "no id is new any more");
    let impressions = (COUNTED * ROUND) as f64;
    [calls.decoding as f64 / impressions, calls.learning as f64 / impressions]
}

/// Where each event owned what it is made of this was 9.3 to 11.3 calls an impression, and 3.4 to 5.4 a click. What is left is of the
/// metrics' windows: a node of a tree for some bins of logits, and few of them in ten thousand impressions.
#[test]
fn an_event_costs_no_call_of_the_allocator() {
    const CLICK_EVERY: u64 = 4;
    for batch in [1, 8, 80] {
        let impression = calls_each(batch, None);
        let with_click = calls_each(batch, Some(CLICK_EVERY));
        let click: Vec<f64> =
            impression.iter().zip(with_click).map(|(without, with)| (with - without) * CLICK_EVERY as f64).collect();
        println!("batches of {batch}: an impression {impression:.4?}, a click {click:.4?} (decoding, learning)");
        for calls in [impression.iter().sum::<f64>(), click.iter().sum()] {
            assert!(calls < 0.05, "{impression:?} calls an impression, {click:?} a click, in batches of {batch}");
        }
    }
}
