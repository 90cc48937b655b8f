//! The corpus that the fuzzer has found (`./dev fuzz`) against the same functions, without nightly. What it ever found to be wrong is
//! in it.

use std::path::Path;

#[path = "../fuzz/targets.rs"]
mod targets;

/// Bytes that the corpus may have in all: it is part of the repository.
const CORPUS_BYTES_MAX: u64 = 300_000;

#[test]
fn nothing_that_the_fuzzer_has_kept_harms_whoever_reads_it() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let mut bytes = 0;
    for (name, target) in targets::TARGETS {
        let entries = std::fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut count = 0;
        for entry in entries {
            let path = entry.expect("it is readable").path();
            let data = std::fs::read(&path).expect("it is readable");
            // A panic names the input that made it.
            println!("{}", path.display());
            target(&data);
            (bytes, count) = (bytes + data.len() as u64, count + 1);
        }
        assert!(count > 0, "{name} has no corpus");
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "the corpus has {bytes} bytes");
    let programs = std::fs::read_dir(corpus.with_file_name("targets")).expect("it is there").count();
    assert_eq!(programs, targets::TARGETS.len(), "every target has its program");
}

#[test]
fn what_is_whole_passes_the_targets_that_are_fuzzed() {
    // A target that refuses everything would find nothing: each goes all its way with a whole input.
    let whole = [
        ("manifest", include_bytes!("../fixtures/formats/delta-3/manifest.json").to_vec()),
        ("weights", include_bytes!("../fixtures/formats/artefact-3/model.safetensors").to_vec()),
        ("delta", include_bytes!("../fixtures/formats/delta-3/delta.safetensors").to_vec()),
        ("rank", br#"{"context":{"user":"u1"},"candidates":[{"tags":["a1"]},{}]}"#.to_vec()),
        (
            "infer",
            [b"\xff\xff", &br#"{"inputs":[{"name":"user","datatype":"BYTES","shape":[1],"data":["u1"]}]}"#[..]]
                .concat(),
        ),
    ];
    for (name, data) in whole {
        let (_, target) = targets::TARGETS.iter().find(|(target, _)| *target == name).expect("it is a target");
        assert!(target(&data), "{name}");
    }
}
