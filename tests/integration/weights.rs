//! Weights of multi-valued fields, and of examples, whatever they are measured in: a model learns from them, and none of
//! them spoils it.

use deepfm_core::event::{Decoder, Event, EventKind, RawRecord, Reason};
use deepfm_core::feature::encoder::{Encoder, EntryBounds};
use deepfm_core::feature::{Features, hash};
use deepfm_core::metric::Metrics;
use deepfm_core::model::{DeepFm, Example, Importance, Inline, Scratch};
use deepfm_stream::config::Config;

const BOUNDS: EntryBounds = EntryBounds { features_max: 64, weight_max: 1e6 };
const CATEGORIES: u64 = 12;

fn unit(n: u64, lane: u64) -> f64 {
    (hash::hash(11, n, lane) >> 11) as f64 / (1_u64 << 53) as f64
}

/// One impression: what the user clicked so far, as counts by category, and the category that is shown. Users differ in
/// taste and, by three orders of magnitude, in how much they clicked; a click is likely where the taste is.
struct Shown {
    json: String,
    clicked: bool,
}

fn shown(n: u64) -> Shown {
    let user = (unit(n, 0) * 400.0) as u64;
    let activity = 10_f64.powf(3.0 * unit(user, 100));
    let favourite = (unit(user, 101) * CATEGORIES as f64) as u64;
    let counts: Vec<(u64, u64)> = (0..CATEGORIES)
        .map(|c| (c, (activity * if c == favourite { 1.0 } else { 0.3 * unit(user, 102 + c).powi(4) }).round() as u64))
        .filter(|(_, count)| *count > 0)
        .collect();
    let item = (unit(n, 1) * CATEGORIES as f64) as u64;
    let p = if item == favourite { 0.6 } else { 0.1 };
    let counts: Vec<String> = counts.iter().map(|(c, count)| format!("\"c{c}\": {count}")).collect();
    Shown { json: format!("{{\"counts\": {{{}}}, \"item\": \"c{item}\"}}", counts.join(", ")), clicked: unit(n, 2) < p }
}

/// Normalized entropy over the second half of progressive scores, at the default settings.
fn normalized_entropy(counts_field: &str) -> f64 {
    let text = format!("{counts_field}\n[[fields]]\nname = \"item\"\nkind = \"categorical\"\n");
    let config = Config::parse(&text, "test", []).expect("it is valid");
    let encoder = Encoder::new(config.field_set().expect("the fields are valid"), BOUNDS);
    let mut model = DeepFm::new(config.model_params());
    let mut scratch = Scratch::default();
    let mut metrics = Metrics::default();
    let count = 20_000;
    for start in (0..count).step_by(8) {
        let batch: Vec<(Features, bool)> = (start..start + 8)
            .map(shown)
            .map(|shown| (encoder.encode_json(&shown.json).expect("it fits"), shown.clicked))
            .collect();
        let batch: Vec<Example<'_>> = batch
            .iter()
            .zip(start..)
            .map(|((features, clicked), number)| Example {
                features,
                label: if *clicked { 1.0 } else { 0.0 },
                weight: 1.0,
                importance: Importance::None,
                number,
            })
            .collect();
        let _ = model.learn(&batch, 8.0, 0, &mut scratch, &Inline);
        if start >= count / 2 {
            for (example, logit) in batch.iter().zip(scratch.logits()) {
                metrics.add(f64::from(*logit), example.label > 0.5, 1.0);
            }
        }
    }
    metrics.report().normalized_entropy.expect("both labels are there")
}

#[test]
fn raw_counts_as_weights_are_no_worse_than_no_field_at_all() {
    let without = normalized_entropy("");
    let with = normalized_entropy("[[fields]]\nname = \"counts\"\nkind = \"multi\"");
    assert!(with < without - 0.01, "the counts tell the taste: {with} with them, {without} without");
    let raw = normalized_entropy("[[fields]]\nname = \"counts\"\nkind = \"multi\"\nweights = \"raw\"");
    assert!(raw > with, "only scaled counts can be learned from: {raw} as they are, {with} scaled");
}

#[test]
fn a_weight_of_1e20_in_every_250th_record_costs_those_records_and_says_so() {
    let text = "[[fields]]\nname = \"counts\"\nkind = \"multi\"\nweights = \"raw\"\n";
    let config = Config::parse(text, "test", []).expect("it is valid");
    let fields = config.field_set().expect("the fields are valid");
    let mut decoder = Decoder::new(fields, config.event_options()).expect("the mapping is sound");
    let mut model = DeepFm::new(config.model_params());
    let (mut refused, mut learned) = (0, 0);
    for n in 0..2_000_u64 {
        let weight = if n % 250 == 17 { "1e20" } else { "1" };
        let weighs = if n % 250 == 18 { "1e20" } else { "1" };
        let record = format!(
            "{{\"impression_id\": \"i{n}\", \"event_time\": 1700000000000, \"weight\": {weighs}, \
             \"features\": {{\"counts\": {{\"a\": {weight}, \"b{}\": 1}}}}}}",
            n % 7
        );
        let record = RawRecord { payload: Some(record.as_bytes()), ..RawRecord::default() };
        match decoder.decode(EventKind::Impression, &record) {
            Err(refusal) => {
                assert_eq!(refusal.reason, Reason::WeightOutOfRange);
                let place = if n % 250 == 17 { "features.counts" } else { "weight" };
                assert_eq!(refusal.detail(), format!("{place}: a weight of 1e20, at most 1000000.0 is taken"));
                refused += 1;
            }
            Ok(decoded) => {
                let Event::Impression(impression) = decoded.event else { panic!("it is an impression") };
                let features = &impression.features;
                let example = Example { features, label: 0.0, weight: 1.0, importance: Importance::None, number: n };
                let step = model.learn(&[example], 1.0, 0, &mut Scratch::default(), &Inline).expect("finite");
                learned += 1 - step.at_fault.len();
            }
        }
    }
    assert_eq!((refused, learned), (16, 1_984));
}
