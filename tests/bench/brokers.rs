//! What is measured on a real broker: a configuration with its topics, and commands on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use deepfm_stream::config::Config;
use deepfm_stream::kafka::administration;

/// Writes a configuration into a directory, and makes its topics, with so many partitions each.
pub(crate) fn configure(place: &Path, name: &str, text: &str, partitions: i32) -> (PathBuf, Config) {
    let file = place.join(name).with_extension("toml");
    std::fs::write(&file, text).expect("the disk takes it");
    let config = Config::parse(text, name, []).unwrap_or_else(|errors| panic!("{errors}"));
    administration::apply(&config.kafka, partitions, 1).expect("the broker makes topics");
    (file, config)
}

/// A command on a configuration.
pub(crate) fn deepfm(command: &str, config: &Path) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_deepfm"));
    program.args(["--log", "info", command, "--config"]).arg(config).stdin(Stdio::null());
    program
}
