//! `deepfm config`: write, check and show configurations.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use deepfm_stream::config::{self, Config, check, init, template};
use deepfm_stream::source::files;

use super::failure::{Exit, Failure, OrExit};
use super::progress::Unit;
use super::{output, progress};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented configuration, from sample events if there are any.
    Init {
        /// Directory with impressions.jsonl and clicks.jsonl (or .jsonl.zst): the fields, their kinds, the attribution
        /// window, the unit and order of times and the learning rate are read off the first 200,000 lines of each. The
        /// number of rows follows from this machine's memory.
        #[arg(long, value_name = "DIR")]
        events: Option<PathBuf>,
        /// Where to write; `-` is stdout. An existing file is left alone unless --force is given.
        #[arg(long, value_name = "FILE", default_value = "-")]
        out: PathBuf,
        /// Overwrite an existing file.
        #[arg(long)]
        force: bool,
    },
    /// Check a configuration: all errors at once, each with its line and its fix.
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
        config: PathBuf,
    },
    /// Show the effective configuration: defaults filled in, environment applied, secrets hidden.
    Show {
        /// The configuration file.
        #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
        config: PathBuf,
        /// One JSON document instead of TOML.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Init { events, out, force } => init(events.as_deref(), out, *force),
        Command::Check { config } => {
            let summary = check::summarize(&load(config)?);
            output::lines([summary.to_string()])
        }
        Command::Show { config, json } => {
            let config = load(config)?;
            if *json { output::json(&config.to_json()) } else { output::lines([config.to_toml().trim_end()]) }
        }
    }
}

/// Reads a configuration for any command.
pub(crate) fn load(path: &Path) -> Result<Config, Failure> {
    config::load(path, config::environment()).or_exit(Exit::Configuration)
}

fn init(events: Option<&Path>, out: &Path, force: bool) -> Result<(), Failure> {
    let is_printed = out == Path::new("-");
    // Known before the events are read, which may take a while.
    if !force && !is_printed && out.exists() {
        return wrote(out, Err(io::ErrorKind::AlreadyExists.into()));
    }
    let toml = match events {
        Some(dir) => {
            let sample = init::Sample { memory_bytes: init::memory_bytes(), ..init::Sample::default() };
            let draft = progress::show(Unit::Bytes, &sample.progress, || init::from_events(dir, &sample));
            let draft = draft.or_exit(Exit::BadInput)?;
            files::warn_without_clicks(dir);
            eprintln!("{draft}");
            draft.toml
        }
        None => template::template(),
    };
    if is_printed {
        return output::lines([toml.trim_end()]);
    }
    let mut options = OpenOptions::new();
    let options =
        if force { options.write(true).create(true).truncate(true) } else { options.write(true).create_new(true) };
    wrote(out, options.open(out).and_then(|mut file| file.write_all(toml.as_bytes())))
}

/// Says that a file was written, or why not.
fn wrote(out: &Path, written: io::Result<()>) -> Result<(), Failure> {
    let is_there = written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists);
    let hint = if is_there { " (--force overwrites an existing file)" } else { "" };
    written.or_exit_with(Exit::Disk, format!("cannot write {}{hint}", out.display()))?;
    eprintln!("wrote {}", out.display());
    Ok(())
}
