//! Models that were trained elsewhere: what comes in is what they are, and learning goes on from there without a jump.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use deepfm_core::checkpoint::import::{Foreign, ImportError, import};
use deepfm_core::checkpoint::{self, Layer};
use deepfm_core::event::options::EventOptions;
use deepfm_core::feature::encoder::Encoder;
use deepfm_core::feature::id::feature_id;
use deepfm_core::model::Scratch;
use deepfm_core::train::{Scope, Trainer};
use deepfm_core::version::safetensors::{Tensor, write};
use deepfm_stream::config::Config;
use deepfm_stream::publish::exports;
use serde_json::{Value, json};

use super::commands::{Place, digest};
use crate::support::broker::{self, Outgoing};
use crate::support::command::run;
use crate::support::python::python;

const FIELDS: &str = "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n\
                      [[fields]]\nname = \"item\"\nkind = \"categorical\"\n\
                      [[fields]]\nname = \"price\"\nkind = \"numeric\"\nedges = [1, 2, 3, 4, 5]\n";

/// The shape of the model in `import/deepfm.py`.
const SHAPE: &str = "embedding_dim = 4\nmlp.layers = [8, 5]\n";

/// Shapes and values by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// What is done to them.
type Alter<'a> = &'a dyn Fn(&mut Tensors);

/// Trains the model in numpy, into a directory.
fn train(python: &Path, directory: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/import/deepfm.py");
    let output = Command::new(python).arg("-B").arg(script).arg(directory).output().expect("this python ran before");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn layer_of(directory: &Path) -> Layer {
    exports::read(directory).expect("it is whole").1
}

fn decoded(layer: &Layer) -> Trainer {
    let lineage = checkpoint::read_lineage(layer).expect("it is whole");
    let params = lineage.params().expect("they are parameters");
    checkpoint::decode(params, std::slice::from_ref(layer)).expect("it is whole").0
}

#[test]
fn a_model_of_the_usual_layout_is_imported_gives_its_logits_and_does_not_jump() {
    let name = "a_model_of_the_usual_layout_is_imported_gives_its_logits_and_does_not_jump";
    let Some(python) = python(name) else { return };
    let directory = tempfile::tempdir().expect("a directory of our own");
    train(&python, directory.path());
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("deepfm.toml"), format!("{FIELDS}[model]\nname = \"foreign\"\n{SHAPE}")).expect("the disk takes it");
    for weights in ["model.safetensors", "without_sums.safetensors"] {
        let out = path(&format!("exports-{weights}"));
        let (weights, vocabularies, config) = (path(weights), path("vocabularies.json"), path("deepfm.toml"));
        let arguments = ["--weights", &weights, "--vocabularies", &vocabularies, "--config", &config, "--out", &out];
        let imported = run(&[&["artifact", "import", "--json"], &arguments[..]].concat()).json();
        assert_eq!(imported["rows"], 59 + 30 + 6, "the first user stands for none");
        assert!(imported["largest_change"].as_f64().is_some_and(|change| change < 1e-6), "{imported}");
        let export = Path::new(imported["directory"].as_str().expect("a path")).to_owned();
        assert_eq!(run(&["artifact", "verify", &export.display().to_string()]).code, Some(0));
        let layer = layer_of(&export);
        let mut trainer = decoded(&layer);
        // Written again it is the same, byte for byte.
        let lineage = checkpoint::read_lineage(&layer).expect("it is whole");
        assert!(checkpoint::encode(&trainer.cut(Scope::Everything), &lineage) == layer);
        let fields = Config::parse(FIELDS, "fields", []).expect("valid").field_set().expect("valid");
        let encoder = Encoder::new(fields, EventOptions::default().bounds());
        let text = fs::read_to_string(path("rows.jsonl")).expect("it was written");
        let mut spread = (f64::MAX, f64::MIN);
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).expect("it is JSON");
            let features = encoder.encode_json(&row["features"].to_string()).expect("it is valid");
            let expected = row["logit"].as_f64().expect("a number");
            let mut scratch = Scratch::default();
            let found = f64::from(trainer.model().score(&[&features], &mut scratch, &deepfm_core::model::Inline)[0]);
            assert!((found - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{found}, expected {expected}");
            spread = (spread.0.min(expected), spread.1.max(expected));
        }
        assert!(spread.1 - spread.0 > 1.0, "the model has learned something: {spread:?}");
    }
}

/// A small model of one field, as its tensors.
fn small(values: usize, weight: impl Fn(usize) -> f32, sum: impl Fn(usize) -> f32) -> Tensors {
    let all = |count: usize, from: usize| (from..from + count).map(&weight).collect::<Vec<_>>();
    let sums = |count: usize| (0..count).map(&sum).collect::<Vec<_>>();
    BTreeMap::from([
        ("embedding.user.weight".to_owned(), (vec![values, 3], all(3 * values, 0))),
        ("embedding.user.sum".to_owned(), (vec![values, 3], sums(3 * values))),
        ("linear.user.weight".to_owned(), (vec![values], all(values, 7))),
        ("linear.user.sum".to_owned(), (vec![values], sums(values))),
        ("bias".to_owned(), (vec![1], vec![-0.3])),
        ("bias.sum".to_owned(), (vec![1], vec![12.5])),
    ])
}

fn file(tensors: &Tensors) -> Vec<u8> {
    let tensors: Vec<_> =
        tensors.iter().map(|(name, (shape, values))| (name.clone(), shape.clone(), Tensor::F32(values))).collect();
    write(&tensors)
}

/// The file of a small model.
pub(super) fn small_file() -> Vec<u8> {
    file(&small(4, |number| number as f32 / 8.0, |_| 1.0))
}

pub(super) fn user(extra: &str) -> Config {
    let text = format!(
        "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n[model]\nembedding_dim = 3\nmlp.layers = []\n{extra}"
    );
    Config::parse(&text, "import", []).unwrap_or_else(|errors| panic!("{errors}"))
}

pub(super) fn take_in(config: &Config, weights: &[u8], users: &[Value]) -> Result<(Trainer, f32), ImportError> {
    let vocabularies = BTreeMap::from([("user".to_owned(), users.to_vec())]);
    let foreign = Foreign { weights, vocabularies: &vocabularies, seconds: 1_700_000_000 };
    let fields = config.field_set().expect("valid");
    import(&config.train_params(), &fields, foreign).map(|imported| (imported.trainer, imported.largest_change))
}

pub(super) fn names(count: usize) -> Vec<Value> {
    (0..count).map(|number| json!(format!("u{number}"))).collect()
}

/// The distance to the next number of this size.
fn unit(value: f32) -> f32 {
    value.abs().next_up() - value.abs()
}

#[test]
fn imported_weights_are_within_a_unit_in_the_last_place_or_the_rounding_of_z() {
    const VALUES: usize = 5_000;
    let weight = |number: usize| ((number as f32) * 0.7391).sin() * 10.0_f32.powi(number as i32 % 7 - 5);
    let sum = |number: usize| ((number * 31 % 97) as f32).powi(2) / 50.0;
    let tensors = small(VALUES, weight, sum);
    for (extra, l1, l21) in [
        ("", 0.0_f32, 0.0_f32),
        ("[optimizer.linear]\nl1 = 0.5\n[optimizer.embedding]\nl1 = 0.5\n", 0.5, 0.0),
        ("[optimizer.embedding]\nl21 = 0.3\n", 0.0, 0.3),
    ] {
        let config = user(extra);
        let params = config.train_params().model;
        let (trainer, largest) = take_in(&config, &file(&tensors), &names(VALUES)).expect("it fits");
        assert_eq!(trainer.model().row_count(), VALUES);
        let mut worst = 0.0_f32;
        for number in 0..VALUES {
            let row = trainer.model().table().find(feature_id("user", format!("u{number}").as_bytes())).expect("there");
            let mut v = [0.0; 3];
            let linear = trainer.model().row_weights(row, &mut v);
            let (z, n) = trainer.model().table().state(row).split_at(4);
            assert_eq!((n[0], n[1]), (sum(number), sum(3 * number)));
            let found = [linear, v[0], v[1], v[2]];
            for lane in 0..4 {
                let place = if lane == 0 { number + 7 } else { 3 * number + lane - 1 };
                let (expected, group) = (weight(place), if lane == 0 { params.linear } else { params.embedding });
                let rate = (group.beta + n[lane].sqrt()) / group.alpha + group.l2;
                let change = (found[lane] - expected).abs();
                worst = worst.max(change);
                let bound = if l21 > 0.0 && lane > 0 {
                    // The norm over the lanes, and the factor made of it, are rounded too.
                    let longest = z[1..].iter().fold(0.0_f32, |most, z| most.max(z.abs()));
                    2.0 * unit(expected) + 4.0 * unit(longest) / rate
                } else if l1 > 0.0 {
                    unit(expected) + unit(z[lane]) / rate
                } else {
                    unit(expected)
                };
                assert!(change <= bound, "{expected} became {} with {extra:?}", found[lane]);
            }
        }
        assert!(largest >= worst && largest < 1e-5, "{largest} is stated, {worst} found");
    }
}

#[test]
fn what_is_no_model_of_the_configuration_is_refused_by_name() {
    let config = user("");
    let whole = small(4, |number| number as f32 / 8.0, |_| 1.0);
    let refused = |alter: Alter<'_>, users: &[Value]| {
        let mut tensors = whole.clone();
        alter(&mut tensors);
        take_in(&config, &file(&tensors), users).expect_err("it is refused").to_string()
    };
    let nothing = |_: &mut Tensors| ();
    assert!(refused(&nothing, &names(3)).contains("expected F32 [3, 3]"));
    assert!(refused(&nothing, &[json!("a"), json!("b"), json!("a"), json!("c")]).contains("stands twice"));
    assert!(refused(&nothing, &[json!(21), json!("21"), json!("b"), json!("c")]).contains("stands twice"));
    assert!(refused(&nothing, &[json!(["a"]), json!({}), json!("b"), json!("c")]).contains("vocabulary of user"));
    assert!(refused(&nothing, &[json!(""), json!("a"), json!("b"), json!("c")]).contains("no single value"));
    let users = names(4);
    let cases: [(&str, Alter<'_>); 7] = [
        ("linear.user.weight is missing", &|tensors| drop(tensors.remove("linear.user.weight"))),
        ("not finite", &|tensors| tensors.get_mut("embedding.user.weight").expect("there").1[5] = f32::NAN),
        ("below 0", &|tensors| tensors.get_mut("linear.user.sum").expect("there").1[1] = -1.0),
        ("whose z is not finite", &|tensors| tensors.get_mut("linear.user.weight").expect("there").1[1] = 3e38),
        ("belongs to no field", &|tensors| {
            drop(tensors.insert("embedding.item.weight".to_owned(), (vec![1], vec![0.0])));
        }),
        ("layers of an MLP", &|tensors| drop(tensors.insert("mlp.0.weight".to_owned(), (vec![1, 3], vec![0.0; 3])))),
        ("tensor bias is", &|tensors| drop(tensors.insert("bias".to_owned(), (vec![2], vec![0.0; 2])))),
    ];
    for (expected, alter) in cases {
        let said = refused(alter, &users);
        assert!(said.contains(expected), "{said}");
    }
    let bytes = file(&whole);
    take_in(&config, &bytes, &users).expect("whole it is taken");
    for end in 0..bytes.len() {
        assert!(take_in(&config, &bytes[..end], &users).is_err(), "cut at {end}");
    }
    let small_table = user("rows_max = 3\n");
    let error = take_in(&small_table, &bytes, &users).expect_err("there is no room").to_string();
    assert!(error.contains("more than model.rows_max"), "{error}");
}

#[test]
fn a_worker_goes_on_from_an_imported_model_and_its_first_steps_are_small() {
    let name = "a_worker_goes_on_from_an_imported_model_and_its_first_steps_are_small";
    let Some(broker) = broker::real(name) else { return };
    let fields = "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n".to_owned();
    let place = Place::new(broker.kafka_with_topics("imported", 1), fields);
    let config = place.config("imported", "");
    let text = fs::read_to_string(&config).expect("it was written");
    let shaped = text.replace("[model]\n", "[model]\nembedding_dim = 3\nmlp.layers = []\n");
    fs::write(&config, shaped).expect("the disk takes it");
    let weight = |number: usize| 0.5 - (number % 5) as f32 / 4.0;
    fs::write(place.path("model.safetensors"), file(&small(30, weight, |_| 400.0))).expect("the disk takes it");
    fs::write(place.path("users.json"), json!({ "user": names(30) }).to_string()).expect("the disk takes it");
    let [weights, vocabularies] =
        ["model.safetensors", "users.json"].map(|name| place.path(name).display().to_string());
    let arguments = ["--weights", &weights, "--vocabularies", &vocabularies, "--config", &config, "--json"];
    let imported = run(&[&["artifact", "import"], &arguments[..]].concat()).json();
    let export = imported["directory"].as_str().expect("a path").to_owned();
    let now = jiff::Timestamp::now().as_millisecond();
    let records: Vec<String> = (0..60)
        .map(|n| {
            let time = now - 600_000 + 1000 * n;
            let features = json!({ "user": format!("u{}", n % 30) });
            json!({"impression_id": format!("i{n}"), "event_time": time, "features": features}).to_string()
        })
        .collect();
    let outgoing: Vec<Outgoing<'_>> = records
        .iter()
        .map(|record| Outgoing { payload: Some(record.as_bytes()), timestamp: Some(now), headers: &[] })
        .collect();
    broker.produce(&place.kafka.impressions_topic, 0, &outgoing);
    let before = decoded(&layer_of(Path::new(&export)));
    let summary = run(&["run", "--config", &config, "--restore", &export, "--until-end", "--json"]).json();
    assert_eq!(summary["records"], 60, "it began where a new model would");
    assert!(summary["learned"].as_u64() > Some(30) && digest(&summary).len() == 64);
    let after = run(&["artifact", "export", "--training", "--config", &config, "--json"]).json();
    let after = decoded(&layer_of(Path::new(after["directory"].as_str().expect("a path"))));
    let mut moved = 0;
    for number in 0..30 {
        let id = feature_id("user", format!("u{number}").as_bytes());
        let (mut old, mut new) = ([0.0; 3], [0.0; 3]);
        let linear = (before.model().weights(id, &mut old), after.model().weights(id, &mut new));
        for (old, new) in old.into_iter().zip(new).chain([linear]) {
            // Two or three steps with gradients below 1, divided by a root of 400: none forgets what it was.
            assert!((old - new).abs() < 0.05, "{old} became {new}");
            moved += usize::from(old != new);
        }
    }
    assert!(moved > 20, "it has learned: {moved}");
}
