//! The instruments of `./dev bench peers` that are ours: the stream is the one that its files have, its bounds are those of plain
//! definitions, and the learner alone is scored before it learns.

use std::fs;
use std::path::Path;
use std::process::Command;

use deepfm_core::event::options::EventOptions;
use deepfm_core::feature::encoder::Encoder;
use deepfm_core::feature::field::{Field, FieldKind, FieldSet};
use deepfm_core::model::params::ModelParams;
use deepfm_core::model::{DeepFm, Inline, Scratch};
use serde_json::Value;

use crate::support::python::python;

#[path = "../bench/alone.rs"]
mod alone;
#[path = "../bench/stream.rs"]
mod stream;
#[path = "../bench/yardsticks.rs"]
mod yardsticks;

use alone::Alone;
use stream::{FIELDS, Stream};

const EXAMPLES: usize = 2_000;

/// A short stream in a directory.
fn generate(python: &Path, directory: &Path, others: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/study/gen_ctr.py");
    let mut command = Command::new(python);
    command.arg("-B").arg(script).args(["--arrays", "--n", &EXAMPLES.to_string()]).args(others).arg("--out");
    let output = command.arg(directory).output().expect("this python ran before");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Lines of a file as JSON.
fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("it was written");
    text.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
}

/// Log loss as it is defined, of probabilities.
fn mean_loss(predicted: impl Iterator<Item = (f64, bool)>) -> f64 {
    let losses: Vec<f64> =
        predicted.map(|(p, is_clicked)| if is_clicked { -p.ln() } else { -(1.0 - p).ln() }).collect();
    losses.iter().sum::<f64>() / losses.len() as f64
}

#[test]
fn the_arrays_of_a_stream_say_what_its_files_say_and_how_well_it_can_be_predicted() {
    let Some(python) = python("the_arrays_of_a_stream_say_what_its_files_say_and_how_well_it_can_be_predicted") else {
        return;
    };
    let place = tempfile::tempdir().expect("a directory of our own");
    let [sparse, dense] = ["sparse", "dense"].map(|name| place.path().join(name));
    generate(&python, &sparse, &[]);
    generate(&python, &dense, &["--rate", "1000", "--closed"]);
    for array in ["ids.i32", "labels.u8", "probabilities.f64", "truth.json"] {
        let read = |directory: &Path| fs::read(directory.join(array)).expect("it was written");
        assert!(read(&sparse) == read(&dense), "{array} does not depend on the rate");
    }
    let seconds = |directory: &Path| {
        let impressions = lines(&directory.join("impressions.jsonl"));
        let time = |number: usize| impressions[number]["event_time"].as_f64().expect("a number");
        (time(EXAMPLES - 1) - time(0)) / 1000.0
    };
    assert!((800.0..1200.0).contains(&seconds(&sparse)) && (1.6..2.4).contains(&seconds(&dense)));

    let closed = lines(&dense.join("impressions.jsonl"));
    let time = |number: usize| closed[number]["event_time"].as_i64().expect("a number");
    assert_eq!((closed.len(), time(EXAMPLES) - time(EXAMPLES - 1)), (EXAMPLES + 1, 60_000), "all windows are over");

    let stream = Stream::read(&sparse);
    assert_eq!(stream.len(), EXAMPLES);
    let field = |field: usize| Field { name: stream::name(field), kind: FieldKind::Categorical };
    let fields = FieldSet::new((0..FIELDS).map(field).collect()).expect("valid");
    let encoder = Encoder::new(fields, EventOptions::default().bounds());
    for (number, line) in lines(&sparse.join("impressions.jsonl")).iter().enumerate() {
        let encoded = encoder.encode_json(&line["features"].to_string()).expect("it is valid");
        assert_eq!(stream.features(number), &encoded, "line {number}");
    }
    let clicked: Vec<String> = lines(&sparse.join("clicks.jsonl"))
        .iter()
        .map(|click| click["impression_id"].as_str().expect("a text").to_owned())
        .collect();
    let examples = stream.examples(0..EXAMPLES);
    let labels: Vec<String> =
        examples.iter().filter(|example| example.label == 1.0).map(|example| format!("i{}", example.number)).collect();
    assert_eq!(labels, clicked);

    assert_eq!(stream.last_fifth(), 1_600..2_000);
    let probabilities = fs::read(sparse.join("probabilities.f64")).expect("it was written");
    let (probabilities, _) = probabilities.as_chunks::<8>();
    let truth: Value =
        serde_json::from_slice(&fs::read(sparse.join("truth.json")).expect("it was written")).expect("JSON");
    let tail = || stream.last_fifth().map(|n| (f64::from_le_bytes(probabilities[n]), examples[n].label == 1.0));
    let rate = examples[..1_600].iter().filter(|example| example.label == 1.0).count() as f64 / 1_600.0;
    for (name, found, defined) in [
        ("best_possible", stream.best_possible(), mean_loss(tail())),
        ("constant", stream.constant(), mean_loss(tail().map(|(_, is_clicked)| (rate, is_clicked)))),
    ] {
        assert!((found - defined).abs() < 1e-12, "{name}: {found}, by definition {defined}");
        assert!((found - truth[name].as_f64().expect("a number")).abs() < 1e-12, "{name}: {found}, not {truth}");
    }
    assert!(stream.best_possible() < stream.constant());
}

#[test]
fn the_learner_alone_scores_each_batch_before_it_learns_it() {
    let Some(python) = python("the_learner_alone_scores_each_batch_before_it_learns_it") else { return };
    let place = tempfile::tempdir().expect("a directory of our own");
    generate(&python, place.path(), &[]);
    let stream = Stream::read(place.path());
    let params = ModelParams { fields: FIELDS, ..ModelParams::default() };
    let examples = stream.examples(0..EXAMPLES);
    for batch in [1, 8, 256] {
        let mut alone = Alone::new(&params, batch, Inline);
        // In parts, as it learns beside others: whole batches each.
        let cut = EXAMPLES / 2 / batch * batch;
        let parts = [alone.learn(&examples[..cut]), alone.learn(&examples[cut..])];
        assert_eq!(parts.map(|part| part.examples), [cut, EXAMPLES - cut]);
        assert!(parts.iter().all(|part| part.seconds > 0.0 && part.rate() > 0.0));

        let (mut model, mut scratch, mut loss) = (DeepFm::new(params.clone()), Scratch::default(), 0.0);
        for examples in examples.chunks(batch) {
            for example in examples {
                let logit = model.score(&[example.features], &mut scratch, &Inline)[0];
                let probability = 1.0 / (1.0 + (-f64::from(logit)).exp());
                loss += mean_loss(std::iter::once((probability, example.label == 1.0)));
            }
            model.learn(examples, examples.len() as f32, 0, &mut scratch, &Inline).expect("finite");
        }
        let found = parts[0].loss + parts[1].loss;
        assert!((found - loss).abs() < 1e-3, "batch {batch}: {found}, by definition {loss}");
        assert_eq!(alone.model().row_count(), model.row_count());
        // It has learned something: less than the loss of knowing nothing, and not less than can be known.
        let last = alone.learn(&stream.examples(stream.last_fifth())).loss / stream.last_fifth().len() as f64;
        assert!(last < std::f64::consts::LN_2, "{last}");
    }
}

#[test]
fn the_middle_of_some_values_is_that_between_the_two_nearest_to_it() {
    assert_eq!(yardsticks::median(&mut [3.0, 1.0, 2.0]), 2.0);
    assert_eq!(yardsticks::median(&mut [4.0, 1.0, 3.0, 2.0]), 2.5);
    let mut yardsticks = yardsticks::Yardsticks::over(1000);
    yardsticks.measure();
    assert_eq!(yardsticks::BLOCKS * 128, 1 << 30, "1 GiB is what a line says");
    for line in yardsticks.lines() {
        assert!(line.chars().count() <= 80 && !line.contains(" 0.0 "), "{line}");
    }
}
