//! `deepfm versions gc`: removes the versions that are kept no longer, here and in object storage.
//!
//! * Storage is listed before the topic is read: the list may take long, and what is promoted meanwhile has to be known.
//! * Storage that is away keeps nothing from being removed here. Both failures are told.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use deepfm_stream::artefacts;
use deepfm_stream::config::Config;
use deepfm_stream::publish::retention::{self, Plan, RemoteRemoval};
use deepfm_stream::publish::topic::{self, Record};
use deepfm_stream::remote::Remote;

use super::super::failure::{Exit, Failure, OrExit as _};
use super::super::{config, output};
use super::read;

pub(super) fn collect(file: &Path, is_dry: bool, json: bool) -> Result<(), Failure> {
    let config = config::load(file)?;
    let model = &config.model.name;
    let (artefacts, exports) = (artefacts::of_model(&config.versions, model), config.exports.of(model));
    let remote = config.storage.uri.as_ref().map(|uri| Remote::open(&config.storage, uri, Arc::default())).transpose();
    let remote = remote.or_exit(Exit::Configuration)?;
    let mut failures: Vec<(Exit, anyhow::Error)> = Vec::new();
    let listed = remote.as_ref().map_or(Ok(Vec::new()), |remote| remote.list(model)).unwrap_or_else(|error| {
        failures.push((Exit::Unreachable, error.into()));
        Vec::new()
    });
    let (known, now) = (read(&config)?, jiff::Timestamp::now());
    let plan = retention::plan(&config.versions, &known, &*artefacts, &exports, now).or_exit(Exit::Disk)?;
    let mut shelved = retention::plan_remote(&config.versions, &known, &plan, &listed, now);
    if !is_dry {
        let keys = plan.versions.iter().filter_map(|removal| removal.key.as_deref());
        let tombstones: Vec<Record> = keys.map(Record::tombstone).collect();
        topic::write(&config.kafka, &tombstones).or_exit(Exit::Unreachable)?;
        failures.extend(retention::carry_out(&plan, &*artefacts).into_iter().map(|error| (Exit::Disk, error.into())));
        if let Some(remote) = &remote {
            let (gone, failed) = remove(remote, model, shelved);
            shelved = gone;
            failures.extend(failed.map(|error| (Exit::Unreachable, error)));
        }
    }
    let journals: Vec<PathBuf> = plan.journals.iter().map(|journal| artefacts.place(journal)).collect();
    if json {
        output::json(
            &serde_json::json!({"removed": !is_dry, "versions": plan.versions, "journals": journals, "remote": shelved}),
        )?;
    } else {
        output::lines(lines(&config, &plan, &shelved, &journals, is_dry))?;
    }
    told(failures)
}

/// Removes from storage until it fails, and says what has gone.
fn remove(remote: &Remote, model: &str, removals: Vec<RemoteRemoval>) -> (Vec<RemoteRemoval>, Option<anyhow::Error>) {
    let mut gone = Vec::new();
    for removal in removals {
        if let Err(error) = remote.remove(model, &removal.directory) {
            return (gone, Some(error.into()));
        }
        gone.push(removal);
    }
    (gone, None)
}

fn lines(config: &Config, plan: &Plan, shelved: &[RemoteRemoval], journals: &[PathBuf], is_dry: bool) -> Vec<String> {
    let removed = plan.versions.iter().map(|one| {
        let journal = if one.keeps_journal { ", its journal stays for the training exports" } else { "" };
        let announced = if one.key.is_some() { "" } else { ", never announced" };
        format!("{:>8}  {:<26} {:>14} bytes{announced}{journal}", one.version, one.directory, one.bytes)
    });
    let remote = shelved.iter().map(|one| {
        let place = config.storage.uri.as_ref().map_or_else(String::new, ToString::to_string);
        format!("{:>8}  {:<26} {:>14} bytes in {place}", one.version, one.directory, one.bytes)
    });
    let journals = journals.iter().map(|path| format!("journal   {}", path.display()));
    let bytes: u64 = plan.versions.iter().map(|one| one.bytes).sum();
    let verb = if is_dry { "would be removed" } else { "removed" };
    let sum = format!("{} versions and {} journals {verb}, {bytes} bytes", plan.versions.len(), plan.journals.len());
    let sum = match shelved.iter().map(|one| one.bytes).sum::<u64>() {
        0 => sum,
        bytes => format!("{sum}; {} versions of object storage, {bytes} bytes", shelved.len()),
    };
    removed.chain(remote).chain(journals).chain([sum]).collect()
}

/// One failure that says what all of them do; its exit code is that of the first.
fn told(failures: Vec<(Exit, anyhow::Error)>) -> Result<(), Failure> {
    let words: Vec<String> = failures.iter().map(|(_, error)| format!("{error:#}")).collect();
    let Some((exit, _)) = failures.into_iter().next() else { return Ok(()) };
    Err(Failure::new(exit, anyhow::anyhow!(words.join("; and "))))
}
