//! `deepfm dead-letters`: what could not be read, and sending it again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Subcommand;
use deepfm_core::event::EventKind;
use deepfm_core::event::plain::plain;
use deepfm_core::version::known::KnownVersions;
use deepfm_stream::backtest;
use deepfm_stream::config::Config;
use deepfm_stream::kafka::produce::Sender;
use deepfm_stream::letters::letter::{self, DeadLetter, Examiner, LetterFate};
use deepfm_stream::publish::topic;
use serde_json::json;

use super::failure::{Exit, Failure, OrExit};
use super::run::{broker_failure, topic_exit};
use super::{config, output};

/// The most characters of a text out of a letter that are listed.
const TEXT_CHARS_MAX: usize = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the dead letters, each once.
    List {
        #[command(flatten)]
        selection: Selection,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Send the records of dead letters to their topics again, after what was wrong is mended: they are judged with this
    /// configuration. A warning says when the newest announced version was made with another: its worker judges by that. Those that the join has passed already (by the newest announced version's watermark) are
    /// refused, unless they are meant for replays only. A record that was sent again already is sent once more; the join
    /// knows it as the same impression for as long as it remembers it.
    Requeue {
        #[command(flatten)]
        selection: Selection,
        /// Also send records that the running worker will count as too late; a replay will learn them.
        #[arg(long)]
        for_replays: bool,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
    config: PathBuf,
    /// Only letters of this reason, such as `mistyped`.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Only the letter of this record: `topic/partition/offset`.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

impl Selection {
    fn read(&self, kafka: &deepfm_stream::config::kafka::Kafka) -> Result<BTreeMap<String, DeadLetter>, Failure> {
        let mut letters = letter::read(kafka).map_err(broker_failure)?;
        letters.retain(|key, letter| {
            self.key.as_ref().is_none_or(|wanted| wanted == key)
                && self.reason.as_ref().is_none_or(|wanted| *wanted == letter.reason)
        });
        Ok(letters)
    }
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { selection, json } => {
            let config = config::load(&selection.config)?;
            let letters = selection.read(&config.kafka)?;
            if *json {
                return output::json(&letters);
            }
            // Whoever may write to the topic may have written anything.
            let shown = |text: &str| plain(text, TEXT_CHARS_MAX);
            let line = |(key, letter): (&String, &DeadLetter)| {
                format!("{:<32} {:<26} {}", shown(key), shown(&letter.reason), shown(&letter.detail))
            };
            output::lines(letters.iter().map(line))
        }
        Command::Requeue { selection, for_replays, dry_run, json } => requeue(selection, *for_replays, *dry_run, *json),
    }
}

fn requeue(selection: &Selection, for_replays: bool, dry_run: bool, json: bool) -> Result<(), Failure> {
    let config = config::load(&selection.config)?;
    let letters = selection.read(&config.kafka)?;
    let known = topic::read(&config.kafka, &config.model.name);
    let known = known.map_err(|error| Failure::new(topic_exit(&error), error))?;
    let same_configuration = compare(&config, &known);
    let join = config.train_params().join;
    let mut sender = Sender::new(&config.kafka).map_err(broker_failure)?;
    let mut partitions = BTreeMap::new();
    for kind in [EventKind::Impression, EventKind::Click] {
        let topic = config.kafka.topic_of(kind);
        partitions.insert(topic.to_owned(), sender.partition_count(topic).map_err(broker_failure)?);
    }
    let mut examiner = Examiner {
        kafka: &config.kafka,
        decoder: backtest::decoder(&config).or_exit(Exit::Configuration)?,
        held_ms: join.window_ms.saturating_add(join.retention_ms),
        watermark: known.announced.values().next_back().and_then(|newest| newest.watermark),
        partitions,
        now: jiff::Timestamp::now().as_millisecond(),
    };
    let (mut fates, mut sent) = (BTreeMap::<LetterFate, u64>::new(), 0_u64);
    for letter in letters.values() {
        let examined = examiner.examine(letter).map_err(broker_failure)?;
        *fates.entry(examined.fate).or_default() += 1;
        let is_wanted =
            examined.fate == LetterFate::InTime || (for_replays && examined.fate == LetterFate::ForReplaysOnly);
        if is_wanted && !dry_run {
            letter::send_again(&mut sender, letter, &examined).map_err(broker_failure)?;
            sent += 1;
        }
    }
    sender.flush().map_err(broker_failure)?;
    if json {
        return output::json(&json!({
            "letters": letters.len(),
            "fates": fates,
            "sent": sent,
            "same_configuration": same_configuration,
        }));
    }
    let count = |fate| fates.get(&fate).copied().unwrap_or_default();
    output::lines([
        format!("{} letters, {sent} sent again", letters.len()),
        format!(
            "can be read with this configuration, and is inside window and retention: {}",
            count(LetterFate::InTime)
        ),
        format!(
            "can be read, but is past them, for replays only (--for-replays): {}",
            count(LetterFate::ForReplaysOnly)
        ),
        format!("refused still: {}", count(LetterFate::StillRefused)),
        format!("gone from their topic, and too long for a letter: {}", count(LetterFate::Gone)),
        format!("of a partition that its topic does not have: {}", count(LetterFate::NoPartition)),
        format!("of a topic that is not configured: {}", count(LetterFate::ForeignTopic)),
    ])
}

/// Whether the newest version's worker reads records as this configuration does; nothing where there is no version. A worker
/// with another configuration judges for itself what is sent again.
fn compare(config: &Config, known: &KnownVersions) -> Option<bool> {
    let newest = known.announced.values().rev().find(|one| one.abandoned.is_none())?;
    let is_same = newest.fingerprints.configuration == config.fingerprint();
    if !is_same {
        tracing::warn!(
            "version {} of model {} was made with another configuration than this one: what is sent again is judged here by \
             this one, and by its worker with the one that it runs with, which may refuse it again. A worker that has a \
             state does not take another mapping or other limits of events: see README, \"Dead letters\"",
            newest.version,
            config.model.name
        );
    }
    Some(is_same)
}
