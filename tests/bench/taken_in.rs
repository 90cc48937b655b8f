//! Whether a `DeepFM` that `PyTorch` has trained is the same model here: its `state_dict` and vocabularies go through `deepfm artifact
//! import`, and the logits of some examples are compared.

use std::path::Path;
use std::process::{Command, Stdio};

use deepfm_core::checkpoint;
use deepfm_core::model::{Inline, Scratch};
use deepfm_stream::config::Config;
use deepfm_stream::publish::exports;
use serde_json::Value;

use super::stream::Stream;
use super::theirs::Theirs;

/// The most by which logits may differ, relative to the larger of 1 and the logit: sums of some 400 products of 32-bit reals.
const ROUNDING: f64 = 1e-5;

/// Exports the model of a process, imports it, and says how far logits of the last examples are apart.
///
/// # Panics
/// When that is more than rounding.
pub(crate) fn check(torch: &mut Theirs, stream: &Stream, config: &Config, file: &Path, place: &Path) -> String {
    let rows = torch.ask(&format!("export {}", place.display()))["rows"].clone();
    let mut import = Command::new(env!("CARGO_BIN_EXE_deepfm"));
    import.args(["--log", "error", "artifact", "import", "--json", "--config"]).arg(file).stdin(Stdio::null());
    import.arg("--weights").arg(place.join("model.safetensors"));
    import.arg("--vocabularies").arg(place.join("vocabularies.json")).arg("--out").arg(place.join("imported"));
    let output = import.output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let imported: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(imported["rows"], rows, "every value has become a row");

    let layer = exports::read(Path::new(imported["directory"].as_str().expect("a path"))).expect("it is whole").1;
    let (trainer, _) = checkpoint::decode(config.train_params(), &[layer]).expect("it is whole");
    let logits = std::fs::read(place.join("logits.json")).expect("it was written");
    let logits: Vec<f64> = serde_json::from_slice(&logits).expect("they are numbers");
    let first = stream.len() - logits.len();
    let mut scratch = Scratch::default();
    let mut difference = 0.0_f64;
    for (number, expected) in logits.iter().enumerate() {
        let shown = [stream.features(first + number)];
        let found = f64::from(trainer.model().score(&shown, &mut scratch, &Inline)[0]);
        difference = difference.max((found - expected).abs() / (1.0 + expected.abs()));
    }
    assert!(difference <= ROUNDING, "logits of the imported model differ by {difference:e}");
    format!("PyTorch's model imported: {rows} rows; {} logits agree to {difference:.1e}", logits.len())
}
