//! `deepfm versions`: what the versions topic says of a model.

use std::path::PathBuf;

use clap::Subcommand;
use deepfm_core::version::announcement::Announcement;
use deepfm_core::version::known::KnownVersions;
use deepfm_stream::config::Config;
use deepfm_stream::publish::retention;
use deepfm_stream::publish::topic;

use super::failure::{Exit, Failure, OrExit as _};
use super::run::topic_exit;
use super::{config, output};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the announced versions, with the quality of their last window, and where the aliases point.
    List {
        /// The configuration file.
        #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
        config: PathBuf,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Remove the versions that are kept no longer (`versions.keep`, `keep_days`): their announcements, then their directories.
    /// A worker does so itself after each version; this may run beside it. Never one that an alias points at, nor the newest.
    Gc {
        /// The configuration file.
        #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
        config: PathBuf,
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Show the announcement of one version.
    Show {
        /// The version's number, or an alias such as `live`.
        version: String,
        /// The configuration file.
        #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
        config: PathBuf,
    },
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { config, json } => {
            let config = config::load(config)?;
            let versions = read(&config)?;
            if *json {
                let document = serde_json::json!({
                    "versions": versions.announced.values().collect::<Vec<_>>(),
                    "aliases": versions.aliases,
                });
                return output::json(&document);
            }
            if versions.announced.is_empty() {
                return output::lines(none_yet(&config));
            }
            output::lines(std::iter::once(head()).chain(versions.announced.values().map(|one| line(one, &versions))))
        }
        Command::Gc { config, dry_run, json } => collect(config, *dry_run, *json),
        Command::Show { version, config } => {
            let versions = read(&config::load(config)?)?;
            let number = versions.aliases.get(version).map(|alias| alias.version).or_else(|| version.parse().ok());
            let found = number.and_then(|number| versions.announced.get(&number));
            let missing =
                || Failure::new(Exit::BadInput, anyhow::anyhow!("no version or alias {version:?} is announced"));
            output::json(found.ok_or_else(missing)?)
        }
    }
}

fn collect(file: &std::path::Path, is_dry: bool, json: bool) -> Result<(), Failure> {
    let config = config::load(file)?;
    let model = &config.model.name;
    let (root, exports) = (config.versions.of(model), config.exports.of(model));
    let known = read(&config)?;
    let plan =
        retention::plan(&config.versions, &known, &root, &exports, jiff::Timestamp::now()).or_exit(Exit::Disk)?;
    let mut failed = Vec::new();
    if !is_dry {
        let keys: Vec<String> = plan.versions.iter().filter_map(|removal| removal.key.clone()).collect();
        topic::bury(&config.kafka, &keys).or_exit(Exit::Unreachable)?;
        failed = retention::carry_out(&plan, &root);
    }
    if json {
        output::json(&serde_json::json!({"removed": !is_dry, "versions": plan.versions, "journals": plan.journals}))?;
    } else {
        let removed = plan.versions.iter().map(|one| {
            let journal = if one.keeps_journal { ", its journal stays for the training exports" } else { "" };
            let announced = if one.key.is_some() { "" } else { ", never announced" };
            format!("{:>8}  {:<26} {:>14} bytes{announced}{journal}", one.version, one.directory, one.bytes)
        });
        let journals = plan.journals.iter().map(|path| format!("journal   {}", path.display()));
        let bytes: u64 = plan.versions.iter().map(|one| one.bytes).sum();
        let verb = if is_dry { "would be removed" } else { "removed" };
        let sum =
            format!("{} versions and {} journals {verb}, {bytes} bytes", plan.versions.len(), plan.journals.len());
        output::lines(removed.chain(journals).chain([sum]))?;
    }
    failed.into_iter().next().map_or(Ok(()), |error| Err(Failure::new(Exit::Disk, error)))
}

fn read(config: &Config) -> Result<KnownVersions, Failure> {
    topic::read(&config.kafka, &config.model.name).map_err(|error| Failure::new(topic_exit(&error), error))
}

/// Says when the first version of a model is due.
fn none_yet(config: &Config) -> Vec<String> {
    let (versions, window) = (&config.versions, config.join.attribution_window_seconds);
    let seconds = (versions.interval_seconds > 0)
        .then(|| format!("{} s after the worker's start (versions.interval_seconds)", versions.interval_seconds));
    let examples = (versions.interval_examples > 0)
        .then(|| format!("after {} examples (versions.interval_examples)", versions.interval_examples));
    let due: Vec<String> = [seconds, examples].into_iter().flatten().collect();
    let due = if due.is_empty() {
        "A worker that runs cuts none: versions.interval_seconds and versions.interval_examples are both 0.".to_owned()
    } else {
        format!(
            "The first is due {}, but not before the window of the first impression is over, {window} s of event time \
             (join.attribution_window_seconds): until then no label has matured.",
            due.join(" or ")
        )
    };
    vec![
        format!("no version of model {:?} is announced on {}", config.model.name, config.kafka.versions_topic),
        due,
        "`deepfm run --until-end` cuts one at the end of the topics.".to_owned(),
    ]
}

fn head() -> String {
    let [version, created, learned, rows, size] = ["version", "created", "learned", "rows", "size"];
    format!("{version:>8}  {created:<19} {learned:>11} {rows:>10} {size:>8} log loss  calibr.  state")
}

fn line(version: &Announcement, versions: &KnownVersions) -> String {
    let aliases = versions.aliases.values().filter(|alias| alias.version == version.version);
    let abandoned = version.abandoned.as_ref().map(|_| "abandoned");
    let held = version.held.as_ref().map(|_| "held");
    let names: Vec<&str> = aliases.map(|alias| alias.alias.as_str()).chain(abandoned).chain(held).collect();
    let metric = |name: &str| version.metrics.get("window").and_then(|window| window[name].as_f64());
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    format!(
        "{:>8}  {:<19} {:>11} {:>10} {:>8} {:>8} {:>8}  {} {}",
        version.version,
        version.created_at.get(..19).unwrap_or(&version.created_at),
        version.learned,
        version.rows,
        output::size(version.files.values().map(|file| file.bytes).sum()),
        number(metric("log_loss")),
        number(metric("calibration")),
        version.state_digest.get(..12).unwrap_or_default(),
        names.join(" "),
    )
}
