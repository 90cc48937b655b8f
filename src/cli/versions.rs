//! `deepfm versions`: what the versions topic says of a model.

mod gc;
mod moves;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Subcommand;
use deepfm_core::event::plain::plain;
use deepfm_core::version::alias::Hold;
use deepfm_core::version::announcement::{Announcement, TEXT_CHARS_MAX};
use deepfm_core::version::arms::ONLY;
use deepfm_core::version::fleet::FleetRow;
use deepfm_core::version::known::KnownVersions;
use deepfm_core::version::manifest::{FileDigest, Kind};
use deepfm_core::version::moves::Order;
use deepfm_stream::config::Config;
use deepfm_stream::kafka::BrokerError;
use deepfm_stream::publish::servers::{self, FleetSeen, ServersRead};
use deepfm_stream::publish::topic;

use self::moves::{Told, Training};
use super::failure::{Exit, Failure};
use super::run::topic_exit;
use super::{config, output};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the announced versions, with the quality of their last window, where the aliases point, and which servers serve
    /// which.
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
    /// Point an alias at a version: servers that follow it load that version, and it follows new versions from there.
    Promote {
        /// The version's number.
        version: u64,
        #[command(flatten)]
        told: Told,
    },
    /// Point an alias at a version and hold it there: no new version moves it until it is promoted or resumed.
    Pin {
        /// The version's number.
        #[arg(required_unless_present = "resume")]
        version: Option<u64>,
        /// Let the alias follow new versions again; `live` moves to the newest that passed the gate.
        #[arg(long, conflicts_with = "version")]
        resume: bool,
        #[command(flatten)]
        told: Told,
    },
    /// Point an alias back at the version before, and hold it there.
    Rollback {
        /// Another version than the one before.
        #[arg(long, value_name = "VERSION")]
        to: Option<u64>,
        /// Let the alias follow new versions again; `live` moves to the newest that passed the gate.
        #[arg(long, conflicts_with_all = ["to", "state"])]
        resume: bool,
        /// Take training back too, at the worker's next start: to the newest training export that has seen no more of the log
        /// than the version. Versions made since are abandoned then.
        #[arg(long)]
        state: bool,
        #[command(flatten)]
        told: Told,
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

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::List { config, json } => {
            let config = config::load(&config)?;
            let FleetSeen { versions, rows, .. } = FleetSeen::read(|| Ok(servers(&config)), || read(&config))?;
            let servers = rows.unwrap_or_default();
            if json {
                let document = serde_json::json!({
                    "versions": versions.announced.values().collect::<Vec<_>>(),
                    "aliases": versions.aliases,
                    "holds": versions.holds,
                    "servers": servers,
                });
                return output::json(&document);
            }
            if versions.announced.is_empty() {
                return output::lines(none_yet(&config));
            }
            let columns = output::columns();
            let rows = versions.announced.values().map(|one| line(one, &versions, columns));
            let holds = versions.holds.values().map(|hold| output::cut(&held(hold), columns));
            let served = served(&servers).into_iter().map(|line| output::cut(&line, columns));
            output::lines(std::iter::once(head(columns)).chain(rows).chain(holds).chain(served))?;
            let newest = versions.announced.values().next_back();
            if let Some(hint) = newest.and_then(|newest| stale(&config, newest, jiff::Timestamp::now())) {
                eprintln!("{hint}");
            }
            Ok(())
        }
        Command::Gc { config, dry_run, json } => gc::collect(&config, dry_run, json),
        Command::Promote { version, told } => moves::follow(Order::Promote(version), told, Training::GoesOn),
        Command::Pin { version, resume: _, told } => {
            moves::follow(version.map_or(Order::Resume, Order::Pin), told, Training::GoesOn)
        }
        Command::Rollback { resume: true, told, .. } => moves::follow(Order::Resume, told, Training::GoesOn),
        Command::Rollback { to, state, told, .. } => {
            let training = if state { Training::TurnsBack } else { Training::GoesOn };
            moves::follow(Order::Rollback(to), told, training)
        }
        Command::Show { version, config } => {
            let config = config::load(&config)?;
            let versions = read(&config)?;
            let number = versions.aliases.get(&version).map(|alias| alias.version).or_else(|| version.parse().ok());
            let found = number.and_then(|number| versions.announced.get(&number));
            output::json(found.ok_or_else(|| missing(&config, &version, &versions))?)
        }
    }
}

fn read(config: &Config) -> Result<KnownVersions, Failure> {
    topic::read(&config.kafka, &config.model.name).map_err(|error| Failure::new(topic_exit(&error), error))
}

/// What servers say that they serve. A list of versions is one without it, too.
fn servers(config: &Config) -> Option<ServersRead> {
    match servers::read(&config.kafka, &config.model.name) {
        Ok(read) => Some(read),
        Err(BrokerError::MissingTopic { .. }) => None,
        Err(error) => {
            tracing::warn!("what servers serve is not known: {error}");
            None
        }
    }
}

/// Which servers serve each version, in lines.
fn served(rows: &[FleetRow]) -> Vec<String> {
    let mut versions: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for row in rows {
        let Some(version) = row.version else { continue };
        let flags: Vec<String> = row.flags.iter().map(|flag| format!(" ({})", flag.name())).collect();
        let arm = if row.arm == ONLY { String::new() } else { format!(" {}", plain(&row.arm, TEXT_CHARS_MAX)) };
        versions.entry(version).or_default().push(format!("{}{arm}{}", row.server, flags.concat()));
    }
    let line =
        |(version, servers): (u64, Vec<String>)| format!("version {version} is served by {}", servers.join(", "));
    versions.into_iter().map(line).collect()
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

/// Who holds an alias where, and why.
fn held(hold: &Hold) -> String {
    let Hold { alias, version, by, held_at, why, .. } = hold;
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    format!("{alias} is held at version {version} by {by} since {held_at}{why}")
}

/// Why a version or alias cannot be shown: there is none yet, or there never was such a one.
fn missing(config: &Config, version: &str, versions: &KnownVersions) -> Failure {
    if versions.announced.is_empty() {
        return Failure::new(Exit::Unreachable, anyhow::anyhow!(none_yet(config).join("\n")));
    }
    let error =
        anyhow::anyhow!("no version or alias {version:?} is announced: `deepfm versions list` has those that are");
    Failure::usage(error)
}

/// How many intervals a version may be old before that is worth a word.
const STALE_INTERVALS: u64 = 3;

/// What may be wrong when the newest version is old.
fn stale(config: &Config, newest: &Announcement, now: jiff::Timestamp) -> Option<String> {
    let interval = config.versions.interval_seconds;
    let created_at: jiff::Timestamp = newest.created_at.parse().ok()?;
    let age = u64::try_from(now.duration_since(created_at).as_secs()).ok()?;
    let version = newest.version;
    (interval > 0 && age > STALE_INTERVALS * interval).then(|| {
        format!(
            "version {version} is {age} s old (versions.interval_seconds is {interval}): no worker runs, or nothing new \
             was learned since version {version}. A worker's log says each minute what it reads, learns and loses."
        )
    })
}

/// Columns of a line with everything.
const WIDE: usize = 100;

/// Whether the table has to do without the digest, seconds, and room to spare.
fn is_narrow(columns: Option<usize>) -> bool {
    columns.is_some_and(|columns| columns < WIDE)
}

fn head(columns: Option<usize>) -> String {
    let [version, created, learned, rows, size] = ["version", "created", "learned", "rows", "size"];
    if is_narrow(columns) {
        return format!("{version:>7} {created:<16} {learned:>10} {rows:>9} {size:>7} logloss calibr.");
    }
    format!("{version:>8}  {created:<19} {learned:>11} {rows:>10} {size:>8} log loss  calibr.  state")
}

fn line(version: &Announcement, versions: &KnownVersions, columns: Option<usize>) -> String {
    let aliases = versions.aliases.values().filter(|alias| alias.version == version.version);
    let abandoned = version.abandoned.as_ref().map(|_| "abandoned");
    let held = version.held.as_ref().map(|_| "rejected");
    let delta = (version.kind == Kind::Delta).then_some("delta");
    let names = delta.into_iter().chain(aliases.map(|alias| alias.alias.as_str())).chain(abandoned).chain(held);
    let names: Vec<&str> = names.collect();
    let metric = |name: &str| version.metrics.get("window").and_then(|window| window[name].as_f64());
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    if is_narrow(columns) {
        let line = format!(
            "{:>7} {:<16} {:>10} {:>9} {:>7} {:>7} {:>7} {}",
            version.version,
            version.created_at.get(..16).unwrap_or(&version.created_at),
            version.learned,
            version.rows,
            output::size(FileDigest::total(version.files.values())),
            number(metric("log_loss")),
            number(metric("calibration")),
            names.join(" "),
        );
        return output::cut(line.trim_end(), columns);
    }
    format!(
        "{:>8}  {:<19} {:>11} {:>10} {:>8} {:>8} {:>8}  {} {}",
        version.version,
        version.created_at.get(..19).unwrap_or(&version.created_at),
        version.learned,
        version.rows,
        output::size(FileDigest::total(version.files.values())),
        number(metric("log_loss")),
        number(metric("calibration")),
        version.state_digest.get(..12).unwrap_or_default(),
        names.join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced() -> Announcement {
        let text = include_str!("../../schemas/examples/announcement/valid/abandoned.json");
        serde_json::from_str(text).expect("it is an announcement")
    }

    #[test]
    fn an_old_version_is_told_with_what_may_be_the_reason() {
        let (config, version) = (Config::default(), announced());
        let created_at: jiff::Timestamp = version.created_at.parse().expect("it is a time");
        let after = |seconds| created_at + jiff::SignedDuration::from_secs(seconds);
        assert_eq!(stale(&config, &version, after(899)), None);
        let said = stale(&config, &version, after(901)).expect("it is old");
        assert!(said.contains(&format!("nothing new was learned since version {}.", version.version)), "{said}");
    }

    #[test]
    fn the_table_fits_a_terminal_of_eighty_columns_and_is_whole_where_there_is_none() {
        let mut version = announced();
        (version.version, version.learned, version.rows) = (1_234_567, 9_876_543_210, 123_456_789);
        let versions = KnownVersions::default();
        for line in [head(Some(80)), line(&version, &versions, Some(80))] {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(line(&version, &versions, Some(80)).ends_with("abandoned"));
        let digest = version.state_digest.get(..12).expect("it is longer");
        assert!(line(&version, &versions, None).contains(digest));
    }
}
