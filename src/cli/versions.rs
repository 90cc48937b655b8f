//! `deepfm versions`: what the versions topic says of a model.

use std::path::PathBuf;

use clap::Subcommand;
use deepfm_stream::publish::announcement::Announcement;
use deepfm_stream::publish::topic::{self, Versions};

use super::failure::{Exit, Failure, OrExit};
use super::{config, output};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the announced versions and where the aliases point.
    List {
        /// The configuration file.
        #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
        config: PathBuf,
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
            let versions = read(config)?;
            if *json {
                let document = serde_json::json!({
                    "versions": versions.announced.values().collect::<Vec<_>>(),
                    "aliases": versions.aliases,
                });
                return output::json(&document);
            }
            let head = format!("{:>8}  {:<26} {:>12} {:>10}  state", "version", "created", "learned", "rows");
            output::lines(std::iter::once(head).chain(versions.announced.values().map(|one| line(one, &versions))))
        }
        Command::Show { version, config } => {
            let versions = read(config)?;
            let number = versions.aliases.get(version).map(|alias| alias.version).or_else(|| version.parse().ok());
            let found = number.and_then(|number| versions.announced.get(&number));
            let missing =
                || Failure::new(Exit::BadInput, anyhow::anyhow!("no version or alias {version:?} is announced"));
            output::json(found.ok_or_else(missing)?)
        }
    }
}

fn read(file: &std::path::Path) -> Result<Versions, Failure> {
    let config = config::load(file)?;
    topic::read(&config.kafka, &config.model.name).or_exit(Exit::Unreachable)
}

fn line(version: &Announcement, versions: &Versions) -> String {
    let aliases = versions.aliases.values().filter(|alias| alias.version == version.version);
    let abandoned = version.abandoned.as_ref().map(|_| "abandoned");
    let names: Vec<&str> = aliases.map(|alias| alias.alias.as_str()).chain(abandoned).collect();
    format!(
        "{:>8}  {:<26} {:>12} {:>10}  {} {}",
        version.version,
        version.created_at.get(..19).unwrap_or(&version.created_at),
        version.learned,
        version.rows,
        &version.state_digest.get(..12).unwrap_or_default(),
        names.join(" "),
    )
}
