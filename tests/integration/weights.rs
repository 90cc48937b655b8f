//! Weights of multi-valued fields, and of examples, whatever they are measured in: a model learns from them, and none of
//! them spoils it.

use deepfm_stream::config::Config;
use deepfm_stream::feature::encoder::{Encoder, EntryBounds};
use deepfm_stream::feature::{Features, hash};
use deepfm_stream::metric::Metrics;
use deepfm_stream::model::{DeepFm, Example, Importance, Inline, Scratch};

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
