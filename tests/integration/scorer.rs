//! `schemas/scorer.py`: what README says of the formats is enough to score with a version, in another language.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use deepfm_core::model::weights::Precision;
use deepfm_core::version::artefact::{PROBE_TOLERANCE, PROBES, Probe};
use deepfm_core::version::delta::DELTA;
use deepfm_stream::config::Config;

use super::deltas::chain;
use super::versions::{installed, learned};
use crate::support::python::python;

/// One of every kind of field.
const FIELDS: &str = r#"
[[fields]]
name = "user"
kind = "categorical"
[[fields]]
name = "größe"
kind = "categorical"
[[fields]]
name = "tags"
kind = "multi"
[[fields]]
name = "counts"
kind = "multi"
weights = "log"
[[fields]]
name = "shares"
kind = "multi"
weights = "l1"
[[fields]]
name = "given"
kind = "multi"
weights = "raw"
[[fields]]
name = "price"
kind = "numeric"
[[fields]]
name = "age"
kind = "numeric"
edges = [18, 30.5, 65]
[join]
attribution_window_seconds = 1
[model]
init_scale = 0.5
"#;

/// Rows with everything that an encoder has to know: each is learned from, and is a probe.
const ROWS: &[&str] = &[
    r#"{"user":"u1","größe":21,"tags":["a","b"],"price":3.5,"age":18}"#,
    r#"{"user":"u2","größe":21.0,"tags":{"a":0.5,"c":-2,"":9,"d":0},"price":-3.5,"age":17.999}"#,
    r#"{"user":true,"größe":"21","tags":"a","price":0,"age":65}"#,
    r#"{"user":18446744073709551615,"größe":1e21,"tags":["a","a",7,false,null,""],"price":-0.0,"age":64.5}"#,
    r#"{"user":-9223372036854775808,"größe":1e-7,"tags":[],"price":123456789,"age":1000}"#,
    r#"{"user":18446744073709551616,"größe":0.1,"tags":{},"price":-0.1,"age":-1}"#,
    r#"{"user":"","größe":null,"tags":3,"price":1e300,"age":30.5}"#,
    r#"{"user":"日本","größe":-0.0,"tags":["é","\u0000"],"price":"-12.50","age":"n/A","unknown":{"x":[1]}}"#,
    r#"{"user":9007199254740993,"größe":9007199254740993.0,"price":"-","age":"6.5e1"}"#,
    r#"{"tags":{"a":1e-3,"b":3.0000001},"age":null}"#,
    r#"{"counts":{"a":812,"b":-3},"shares":{"x":1,"y":3,"z":-0.5},"given":{"v":0.7,"w":1}}"#,
    r#"{"counts":{"a":1e6},"shares":{"x":0.001},"given":["v","w"]}"#,
];

/// What differs between the models that are tried.
const MODELS: &[(&str, &str)] = &[
    ("relu", ""),
    ("leaky_relu, one layer", "[model.mlp]\nlayers = [5]\nactivation = \"leaky_relu\"\n"),
    ("tanh, three layers", "[model.mlp]\nlayers = [7, 3, 2]\nactivation = \"tanh\"\n"),
    ("sigmoid, dropout", "[model.mlp]\nlayers = [4, 4]\nactivation = \"sigmoid\"\ndropout = 0.25\n"),
    ("no MLP", "[model.mlp]\nlayers = []\n"),
    ("fm", "parts = \"fm\"\nembedding_dim = 3\n"),
    ("linear", "parts = \"linear\"\n"),
    ("sampled negatives", "[training]\nnegative_sampling_rate = 0.3\n"),
];

/// What the scorer gives for raw features, one object a line.
fn scores(python: &Path, version: &Path, features: &str) -> Vec<f64> {
    let scorer = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/scorer.py");
    let mut command = Command::new(python);
    command.arg("-B").arg(scorer).arg(version).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("this python ran before");
    child.stdin.take().expect("it was piped").write_all(features.as_bytes()).expect("it reads all of it");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the scorer failed on {}", version.display());
    let text = String::from_utf8(output.stdout).expect("numbers are UTF-8");
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

#[test]
fn a_scorer_in_python_reproduces_the_probes_of_every_kind_of_model() {
    let Some(python) = python("a_scorer_in_python_reproduces_the_probes_of_every_kind_of_model") else { return };
    let root = tempfile::tempdir().expect("a directory of our own");
    let rows: Vec<String> = ROWS.iter().map(ToString::to_string).collect();
    for (number, (name, model)) in MODELS.iter().enumerate() {
        let config = Config::parse(&format!("{FIELDS}{model}"), name, []).expect("it is valid");
        let artefact = learned(&config, number as u64 + 1, |n| rows[n as usize % rows.len()].clone(), &rows);
        let lines = String::from_utf8(artefact.files[PROBES].clone()).expect("it is JSON");
        let probes: Vec<Probe> = lines.lines().map(|line| serde_json::from_str(line).expect("a probe")).collect();
        assert_eq!(probes.len(), 1 + ROWS.len(), "{name}: every row is a probe, and the empty one");
        let input = probes.iter().flat_map(|probe| [probe.features.get(), "\n"]).collect::<String>();
        let found = scores(&python, &installed(root.path(), &artefact), &input);
        assert_eq!(found.len(), probes.len(), "{name}");
        for (Probe { features, logit, .. }, score) in probes.iter().zip(found) {
            let found = (score / (1.0 - score)).ln();
            let bound = PROBE_TOLERANCE * (1.0 + logit.abs());
            assert!((found - logit).abs() <= bound, "{name}: {found} for {features}, expected {logit}");
        }
        let logits: Vec<f64> = probes.iter().map(|probe| probe.logit).collect();
        let spread = logits.iter().fold(0.0_f64, |most, logit| most.max((logit - logits[0]).abs()));
        assert!(spread > 0.05, "{name}: the model has learned nothing that could be got wrong ({spread})");
    }
}

#[test]
fn a_scorer_in_python_follows_a_chain_of_deltas_and_refuses_one_with_a_link_of_another() {
    let name = "a_scorer_in_python_follows_a_chain_of_deltas_and_refuses_one_with_a_link_of_another";
    let Some(python) = python(name) else { return };
    let root = tempfile::tempdir().expect("a directory of our own");
    let mut paths = Vec::new();
    // First those whose rows are in 16 bits.
    for artefact in [chain(Precision::F16), chain(Precision::F32)].into_iter().flatten() {
        let path = installed(root.path(), &artefact);
        let lines = String::from_utf8(artefact.files[PROBES].clone()).expect("it is JSON");
        let probes: Vec<Probe> = lines.lines().map(|line| serde_json::from_str(line).expect("a probe")).collect();
        let input = probes.iter().flat_map(|probe| [probe.features.get(), "\n"]).collect::<String>();
        for (Probe { logit, .. }, score) in probes.iter().zip(scores(&python, &path, &input)) {
            let found = (score / (1.0 - score)).ln();
            assert!((found - logit).abs() <= PROBE_TOLERANCE * (1.0 + logit.abs()), "{found}, expected {logit}");
        }
        paths.push(path);
    }
    let paths = &paths[3..];
    // The weights of another link under this one's name: the digest of what comes out of it is another.
    std::fs::copy(paths[2].join(DELTA), paths[1].join(DELTA)).expect("the disk takes it");
    let scorer = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/scorer.py");
    let output = Command::new(&python)
        .arg("-B")
        .arg(scorer)
        .arg(&paths[1])
        .stdin(Stdio::null())
        .output()
        .expect("it ran before");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("not those that its manifest digests"), "{said}");
}

#[test]
fn the_scorer_ends_quietly_when_its_reader_has_had_enough() {
    let test = "the_scorer_ends_quietly_when_its_reader_has_had_enough";
    let Some(python) = python(test) else { return };
    let root = tempfile::tempdir().expect("a directory of our own");
    let config = Config::parse(FIELDS, test, []).expect("it is valid");
    let rows: Vec<String> = ROWS.iter().map(ToString::to_string).collect();
    let artefact = learned(&config, 1, |n| rows[n as usize % rows.len()].clone(), &rows);
    let version = installed(root.path(), &artefact);
    let features = root.path().join("features.jsonl");
    std::fs::write(&features, "{}\n".repeat(20_000)).expect("the disk takes it");
    let scorer = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/scorer.py");
    let output = Command::new("sh")
        .args(["-c", "\"$1\" -B \"$2\" \"$3\" < \"$4\" | head -1", "sh"])
        .args([&python, &scorer, &version, &features])
        .output()
        .expect("a shell is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.is_empty() && output.stdout.ends_with(b"\n"), "{said}");
}
