//! `deepfm artifact import`: a model that was trained elsewhere becomes a training export.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::Args;
use deepfm_core::checkpoint::import::{Foreign, import};
use deepfm_core::checkpoint::{self, Beside};
use deepfm_core::train::Scope;
use deepfm_core::version::outbox::Outbox;
use deepfm_stream::durable;
use deepfm_stream::publish::exports;
use deepfm_stream::worker::resume::{self, Ancestry};
use serde_json::{Value, json};

use super::super::failure::{Exit, Failure, OrExit as _};
use super::super::run::export_failure;
use super::super::{config, output};

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The weights: a safetensors file with the names that README gives.
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// The values of each field, in the order of its rows: a JSON object of lists.
    #[arg(long, value_name = "FILE")]
    vocabularies: PathBuf,
    /// The configuration file: fields, shape and optimizers with which it will be learned.
    #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
    config: PathBuf,
    /// Where to write the export; the model's directory in `exports.dir` if not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print its manifest as one JSON document.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Import) -> Result<(), Failure> {
    durable::keep_to_owner();
    let config = config::load(&args.config)?;
    let weights = read(&args.weights)?;
    let vocabularies: BTreeMap<String, Vec<Value>> = serde_json::from_slice(&read(&args.vocabularies)?)
        .or_exit_with(Exit::BadInput, format!("{} is no object of lists", args.vocabularies.display()))?;
    let fields = config.field_set().or_exit(Exit::Configuration)?;
    let now = jiff::Timestamp::now().as_second();
    let seconds = u32::try_from(now).or_exit(Exit::BadInput)?;
    let foreign = Foreign { weights: &weights, vocabularies: &vocabularies, seconds };
    let mut imported = import(&config.train_params(), &fields, foreign)
        .or_exit_with(Exit::BadInput, format!("{} cannot be imported", args.weights.display()))?;
    let rows = imported.trainer.model().row_count();
    let cut = imported.trainer.cut(Scope::Everything);
    let origin = Ancestry { next_version: 1, parent: None, topic_ids: BTreeMap::new() };
    let beside = Beside { model: config.model.name.clone(), ..Beside::default() };
    let lineage = resume::lineage(&config, &imported.trainer, cut.digest, &origin, Outbox::default(), beside);
    let layer = checkpoint::encode(&cut, &lineage);
    let root = args.out.clone().unwrap_or_else(|| config.exports.of(&config.model.name));
    let blocks = Box::new(move |take: &mut dyn FnMut(_) -> _| layer.blocks.into_iter().try_for_each(take));
    let (path, manifest) =
        exports::write(&root, &config.model.name, blocks, &AtomicBool::new(false)).map_err(export_failure)?;
    let change = imported.largest_change;
    if args.json {
        return output::json(&json!({
            "directory": path, "manifest": manifest, "rows": rows, "largest_change": change,
        }));
    }
    output::lines([
        format!("{}: {rows} rows, state {}", path.display(), manifest.state_digest),
        format!("no weight has changed by more than {change:e}"),
    ])
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).or_exit_with(Exit::BadInput, format!("cannot read {}", path.display()))
}
