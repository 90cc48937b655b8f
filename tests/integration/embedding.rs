//! The C interface: built without Kafka, store and HTTP, and used by a program in C.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::reload::{Oracle, ROUNDING, ROWS, install, numbered};
use super::versions::artefact;

fn carried_out(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The directory of the shared library. It is built into the tests' own directory, where most of what it needs is already.
fn built() -> PathBuf {
    let binaries = Path::new(env!("CARGO_BIN_EXE_deepfm")).parent().expect("it is in a directory");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--offline", "--package", "deepfm-capi", "--target-dir"]);
    cargo.arg(binaries.parent().expect("it is in a directory"));
    let output = carried_out(cargo.current_dir(env!("CARGO_MANIFEST_DIR")));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("warning"), "without features there are no warnings: {said}");
    binaries.to_owned()
}

#[test]
fn a_program_in_c_follows_a_directory_scores_and_hears_what_went_wrong() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = built();
    let program = built.join("score");
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(root.join("tests/integration/embedding/score.c"))
        .arg("-I")
        .arg(root.join("src/capi"))
        .arg("-L")
        .arg(&built)
        .arg("-ldeepfm");
    carried_out(&mut cc);
    let (versions, base) = (tempfile::tempdir().expect("a directory of our own"), artefact(1, 0).files);
    let files = numbered(&base, 7);
    install(versions.path(), &files);
    let mut score = Command::new(&program);
    score.arg(versions.path()).arg("7").args(ROWS).env("LD_LIBRARY_PATH", &built);
    let output = carried_out(&mut score);
    let text = String::from_utf8(output.stdout).expect("it is text");
    let found: Vec<f64> = text
        .lines()
        .map(|line| line.strip_prefix("7 ").expect("it names its version").parse().expect("it is a number"))
        .collect();
    let expected = Oracle::of(&files).logits();
    assert_eq!(found.len(), expected.len());
    for (found, logit) in found.iter().zip(expected) {
        let expected = 1.0 / (1.0 + (-logit).exp());
        assert!((found - expected).abs() < ROUNDING, "{found}, expected {expected}");
    }
}
