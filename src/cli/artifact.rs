//! `deepfm artifact`: check or look into an artefact directory, write training exports, and make one of a foreign model.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use clap::Subcommand;
use deepfm_core::checkpoint;
use deepfm_core::checkpoint::export::ExportManifest;
use deepfm_core::version::artefact::Verified;
use deepfm_core::version::link::ChainLink;
use deepfm_core::version::manifest::Manifest;
use deepfm_core::version::safetensors;
use deepfm_stream::artefacts::directory::Whole;
use deepfm_stream::artefacts::{ArtefactIoError, directory};
use deepfm_stream::durable;
use deepfm_stream::publish::exports;
use deepfm_stream::publish::outbox::check_outbox;
use deepfm_stream::store::{CommitStore, Store as _};
use deepfm_stream::worker::probes::PROBES_MIN;
use serde_json::{Value, json};

use super::failure::{Exit, Failure, OrExit as _};
use super::run::{export_failure, store_failure};
use super::{config, output};

mod import;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a version: digests of all files, tensors, fingerprints, probes reproduced by this program's own encoder. A delta is
    /// applied to the versions that it stands on, where they are beside it. Or a training export: its digest, and that its state decodes to the digest that it names.
    Verify {
        /// Directories, such as `versions/7-0123456789ab` or `exports/20261124T101500Z`.
        #[arg(required = true)]
        directories: Vec<PathBuf>,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Show what a version says of itself, and what is in it.
    Inspect {
        /// The directory of a version or of a training export.
        directory: PathBuf,
    },
    /// Write all weights of a version as the `model.safetensors` that a full version of its number has: of a delta, from the
    /// versions that it stands on, which must be beside it.
    Materialize {
        /// The directory of a version.
        directory: PathBuf,
        /// The file to write, which must not be there.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make a starting state of a model that was trained elsewhere: a training export that `deepfm run --restore` takes.
    Import(import::Import),
    /// Write the newest checkpoint as a training export: everything from which a worker goes on (`run --restore`). For a
    /// state that no worker uses now; a running worker writes its own, see [exports] in the configuration.
    Export {
        /// Export the whole training state.
        #[arg(long, required = true)]
        training: bool,
        /// The configuration file.
        #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
        config: PathBuf,
        /// Where to write it; the model's directory in `exports.dir` if not given.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Print its manifest as one JSON document.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Verify { directories, json } => {
            let mut found = Vec::new();
            for directory in directories {
                found.push(Found::read(directory)?);
            }
            if *json {
                return output::json(&found.iter().map(Found::summary).collect::<Vec<_>>());
            }
            output::lines(found.iter().map(Found::line))
        }
        Command::Inspect { directory } => {
            let found = Found::read(directory)?;
            let mut document = found.summary();
            match &found {
                Found::Delta(_, link, _) => {
                    document["manifest"] = serde_json::to_value(&link.manifest).unwrap_or_default();
                    let tensors = link.delta.tensors();
                    document["tensors"] =
                        tensors.iter().map(|(name, shape, _)| json!({"name": name, "shape": shape})).collect();
                }
                Found::Version(_, verified) => {
                    document["manifest"] = serde_json::to_value(&verified.manifest).unwrap_or_default();
                    let tensors = verified.servable.tensors();
                    document["tensors"] =
                        tensors.iter().map(|(name, shape, _)| json!({"name": name, "shape": shape})).collect();
                }
                Found::Export(_, manifest, _) => {
                    document["manifest"] = serde_json::to_value(manifest).unwrap_or_default();
                }
            }
            output::json(&document)
        }
        Command::Import(args) => import::run(args),
        Command::Materialize { directory, out } => materialize(directory, out),
        Command::Export { training: _, config, out, json } => export(config, out.as_deref(), *json),
    }
}

fn export(config: &Path, out: Option<&Path>, json: bool) -> Result<(), Failure> {
    durable::keep_to_owner();
    let config = config::load(config)?;
    let mut store = CommitStore::open(&config.state.dir).map_err(store_failure)?;
    let saved = store.load().map_err(store_failure)?;
    let root = out.map_or_else(|| config.exports.of(&config.model.name), Path::to_owned);
    if saved.is_none() {
        let error = anyhow::anyhow!("{} holds no checkpoint: there is nothing to export", config.state.dir.display());
        return Err(Failure::new(Exit::BadInput, error));
    }
    let read = store.reader().map_err(store_failure)?;
    let (path, manifest) =
        exports::write(&root, &config.model.name, read, &AtomicBool::new(false)).map_err(export_failure)?;
    if json {
        return output::json(&json!({"directory": path, "manifest": manifest}));
    }
    output::lines([format!("{}: {} records, state {}", path.display(), manifest.records, manifest.state_digest)])
}

/// A directory that is whole.
enum Found {
    Version(PathBuf, Box<Verified>),
    /// A delta, and the version that it gives, where its chain is beside it.
    Delta(PathBuf, Box<ChainLink>, Option<Box<Verified>>),
    /// With the rows of its state.
    Export(PathBuf, Box<ExportManifest>, usize),
}

impl Found {
    fn read(directory: &Path) -> Result<Self, Failure> {
        let path = directory.to_owned();
        if !exports::is_export(directory) {
            return match directory::verify_either(directory).map_err(unusable)? {
                Whole::Full(verified) => Ok(Self::Version(path, verified)),
                Whole::Delta(link) => match directory::materialize(directory) {
                    Ok(verified) => Ok(Self::Delta(path, link, Some(Box::new(verified)))),
                    Err(ArtefactIoError::Parent { .. }) => Ok(Self::Delta(path, link, None)),
                    Err(error) => Err(unusable(error)),
                },
            };
        }
        let (manifest, layer) = exports::read(directory).map_err(export_failure)?;
        let bad =
            |error: anyhow::Error| Failure::new(Exit::BadInput, error.context(format!("{}", directory.display())));
        let lineage = checkpoint::read_lineage(&layer).map_err(|error| bad(error.into()))?;
        check_outbox(&lineage.outbox, &manifest.model).map_err(|error| bad(error.into()))?;
        let params = lineage.params().map_err(|error| bad(error.into()))?;
        let (trainer, _) = checkpoint::decode(params, &[layer]).map_err(|error| bad(error.into()))?;
        Ok(Self::Export(path, Box::new(manifest), trainer.model().row_count()))
    }

    fn line(&self) -> String {
        match self {
            Self::Version(directory, verified) => format!(
                "{}: version {} is whole: {} rows, {} probes reproduced{}",
                directory.display(),
                verified.manifest.version,
                verified.servable.rows(),
                verified.probes,
                few_probes(verified).map(|warning| format!("; {warning}")).unwrap_or_default(),
            ),
            Self::Delta(directory, link, applied) => {
                let Manifest { version, parent, weights, .. } = &link.manifest;
                let parent = parent.as_ref().map_or(0, |parent| parent.version);
                let chain = weights.as_ref().map_or(0, |weights| weights.chain);
                let applied = match applied {
                    Some(verified) => {
                        format!("applied: {} rows, {} probes reproduced", verified.servable.rows(), verified.probes)
                    }
                    None => "not applied: what it stands on is not beside it".to_owned(),
                };
                format!(
                    "{}: version {version} is whole: a delta on version {parent}, {chain} from its full version, with {} \
                     rows and {} removed; {applied}",
                    directory.display(),
                    link.delta.changed(),
                    link.delta.removed(),
                )
            }
            Self::Export(directory, manifest, rows) => format!(
                "{}: training export is whole: {} records, {rows} rows, state {}",
                directory.display(),
                manifest.records,
                manifest.state_digest,
            ),
        }
    }

    fn summary(&self) -> Value {
        match self {
            Self::Version(directory, verified) => summary(directory, verified),
            Self::Delta(directory, link, applied) => json!({
                "directory": directory,
                "model": link.manifest.model,
                "version": link.manifest.version,
                "kind": link.manifest.kind,
                "manifest_digest": link.digest,
                "parent": link.manifest.parent,
                "weights": link.manifest.weights,
                "rows": link.manifest.rows,
                "is_applied": applied.is_some(),
                "probes": applied.as_ref().map(|verified| verified.probes),
                "state_digest": link.manifest.state_digest,
                "warnings": applied.iter().filter_map(|verified| few_probes(verified)).collect::<Vec<_>>(),
            }),
            Self::Export(directory, manifest, rows) => json!({
                "directory": directory,
                "model": manifest.model,
                "records": manifest.records,
                "rows": rows,
                "state_digest": manifest.state_digest,
            }),
        }
    }
}

fn unusable(error: ArtefactIoError) -> Failure {
    let exit = if matches!(error, ArtefactIoError::Io { .. }) { Exit::Disk } else { Exit::BadInput };
    Failure::new(exit, error)
}

fn materialize(directory: &Path, out: &Path) -> Result<(), Failure> {
    let verified = directory::materialize(directory).map_err(unusable)?;
    let content = safetensors::write(&verified.servable.tensors());
    let written = File::create_new(out).and_then(|mut file| file.write_all(&content).and_then(|()| file.sync_all()));
    written.with_context(|| format!("cannot write {}", out.display())).or_exit(Exit::Disk)?;
    let (version, rows) = (verified.manifest.version, verified.servable.rows());
    output::lines([format!("{}: all weights of version {version}, {rows} rows", out.display())])
}

/// What is to be said of a version with hardly a probe: that it is whole is true, and means little.
fn few_probes(verified: &Verified) -> Option<String> {
    let probes = verified.probes;
    (probes < PROBES_MIN).then(|| format!("fewer than {PROBES_MIN} probes ({probes}) hardly check it"))
}

fn summary(directory: &Path, verified: &Verified) -> Value {
    json!({
        "directory": directory,
        "model": verified.manifest.model,
        "version": verified.manifest.version,
        "kind": verified.manifest.kind,
        "manifest_digest": verified.digest,
        "rows": verified.servable.rows(),
        "probes": verified.probes,
        "state_digest": verified.manifest.state_digest,
        "warnings": few_probes(verified).into_iter().collect::<Vec<_>>(),
    })
}
