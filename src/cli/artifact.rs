//! `deepfm artifact`: check or look into an artefact directory.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use deepfm_stream::publish::artefacts::{self, ArtefactIoError};
use deepfm_stream::snapshot::artefact::Verified;
use serde_json::{Value, json};

use super::failure::{Exit, Failure};
use super::output;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a version: digests of all files, tensors, fingerprints, probes reproduced by this program's own encoder.
    Verify {
        /// Artefact directories, such as `artefacts/7-0123456789ab`.
        #[arg(required = true)]
        directories: Vec<PathBuf>,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Show what a version says of itself, and what is in it.
    Inspect {
        /// An artefact directory.
        directory: PathBuf,
    },
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Verify { directories, json } => {
            let mut found = Vec::new();
            for directory in directories {
                found.push((directory, verify(directory)?));
            }
            if *json {
                let documents: Vec<Value> =
                    found.iter().map(|(directory, verified)| summary(directory, verified)).collect();
                return output::json(&documents);
            }
            output::lines(found.iter().map(|(directory, verified)| {
                format!(
                    "{}: version {} is whole: {} rows, {} probes reproduced",
                    directory.display(),
                    verified.manifest.version,
                    verified.servable.rows(),
                    verified.probes,
                )
            }))
        }
        Command::Inspect { directory } => {
            let verified = verify(directory)?;
            let mut document = summary(directory, &verified);
            document["manifest"] = serde_json::to_value(&verified.manifest).unwrap_or_default();
            let tensors = verified.servable.tensors();
            document["tensors"] =
                tensors.iter().map(|(name, shape, _)| json!({"name": name, "shape": shape})).collect();
            output::json(&document)
        }
    }
}

fn verify(directory: &Path) -> Result<Verified, Failure> {
    artefacts::verify(directory).map_err(|error| {
        let exit = if matches!(error, ArtefactIoError::Io { .. }) { Exit::Disk } else { Exit::BadInput };
        Failure::new(exit, error)
    })
}

fn summary(directory: &Path, verified: &Verified) -> Value {
    json!({
        "directory": directory,
        "model": verified.manifest.model,
        "version": verified.manifest.version,
        "manifest_digest": verified.digest,
        "rows": verified.servable.rows(),
        "probes": verified.probes,
        "state_digest": verified.manifest.state_digest,
    })
}
