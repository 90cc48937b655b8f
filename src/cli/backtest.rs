//! `deepfm backtest`: replay events and report how well they were predicted.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use deepfm_stream::backtest::{self, BacktestError, Files, Labels, Quality, Report};
use deepfm_stream::config::Config;
use deepfm_stream::progress::{Disorder, Progress};
use deepfm_stream::source::files::LineOrder;
use deepfm_stream::worker::drive::DriveError;
use indicatif::{HumanCount, HumanDuration};

use super::failure::{Exit, Failure};
use super::progress::Unit;
use super::run::source_exit;
use super::{config, output, progress};

/// Replay events through the trainer that `run` uses, and report how well each impression was predicted before it was
/// learned from. Reads a directory, or the configured topics from kafka.start to the end offsets captured at start; the
/// same topics give the same `state_digest` as `run --until-end`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration file. Any key can be overridden with `DEEPFM__SECTION__KEY`.
    #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
    config: PathBuf,
    /// Directory with impressions.jsonl and clicks.jsonl (or .jsonl.zst) instead of the topics.
    #[arg(long, value_name = "DIR")]
    events: Option<PathBuf>,
    /// When a label is known.
    #[arg(long, value_enum, default_value_t, requires = "events")]
    labels: LabelsArg,
    /// Sort the lines of each file by event time first, for files that are in no order. It takes up to 256 MiB of memory;
    /// what does not fit goes to the temporary directory (TMPDIR), up to 64 GiB of lines a file. Topics cannot be sorted:
    /// there, events that are late need `join.lateness_seconds`.
    #[arg(long, requires = "events")]
    sort: bool,
    /// Directory of artefacts of a live worker: replay the topics with their journals, and compare the digest of the
    /// state at each version with the published one.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["events", "labels"])]
    journal: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LabelsArg {
    /// As the join would deliver it.
    #[default]
    Windowed,
    /// At once: 1 for any click in the input whatever its delay, in merged order. For comparing learners.
    Immediate,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let config = config::load(&args.config)?;
    if let Some(artefacts) = &args.journal {
        return replay_journal(&config, artefacts, args.json);
    }
    let labels = match args.labels {
        LabelsArg::Windowed => Labels::Windowed,
        LabelsArg::Immediate => Labels::Immediate,
    };
    let order = if args.sort { LineOrder::ByTime } else { LineOrder::AsTheyStand };
    let seen = Progress::default();
    let report = match &args.events {
        Some(directory) => {
            let files = Files { directory, labels, order };
            progress::show(Unit::Bytes, &seen, || backtest::replay_files(&config, files, &seen))
        }
        None => progress::show(Unit::Records, &seen, || backtest::replay_topics(&config, &seen)),
    };
    let report = report.map_err(failure)?;
    for disorder in seen.disorder() {
        warn_of(disorder, config.join.lateness_seconds);
    }
    if args.json { output::json(&report) } else { show(&report) }
}

/// A file that is in no order loses impressions as too late: that is not to happen in silence.
fn warn_of(Disorder { kind, lines, furthest_ms }: Disorder, lateness_seconds: u64) {
    let furthest = Duration::from_millis(furthest_ms);
    let enough = if furthest <= Duration::from_secs(lateness_seconds) {
        "which join.lateness_seconds allows for"
    } else {
        "more than join.lateness_seconds: what is too late is dropped, and labels are early. --sort sorts the files first"
    };
    let lines = HumanCount(lines);
    eprintln!(
        "warning: {lines} lines of the {kind}s go back in time, the furthest by {}, {enough}",
        HumanDuration(furthest)
    );
}

fn replay_journal(config: &Config, artefacts: &std::path::Path, json: bool) -> Result<(), Failure> {
    let checks = backtest::replay_journal(config, artefacts).map_err(failure)?;
    if json {
        output::json(&checks)?;
    } else {
        let line = |check: &backtest::VersionCheck| {
            let verdict = if check.is_reproduced() { "reproduced" } else { "DIFFERS" };
            format!("version {:>6}  {verdict}  {}", check.version, check.found)
        };
        output::lines(checks.iter().map(line))?;
    }
    match checks.iter().find(|check| !check.is_reproduced()) {
        None => Ok(()),
        Some(check) => Err(Failure::new(
            Exit::Threshold,
            anyhow::anyhow!("version {} was published with state {}", check.version, check.expected),
        )),
    }
}

fn show(report: &Report) -> Result<(), Failure> {
    let metric = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
    let row = |name: &str, quality: &Quality| {
        format!(
            "{name:<12}{:>10} {:>8}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}",
            quality.examples,
            quality.clicks,
            metric(quality.log_loss),
            metric(quality.base_log_loss),
            metric(quality.normalized_entropy),
            metric(quality.auc),
            metric(quality.calibration),
        )
    };
    let [examples, clicks] = ["examples", "clicks"];
    output::lines([
        format!("{:<12}{examples:>10} {clicks:>8}  log loss      base    n. ent       AUC   calibr.", ""),
        row("all", &report.quality),
        row("second half", &report.second_half),
        row("last fifth", &report.last_fifth),
        format!(
            "{} records, {} rows, {:.0} examples a second",
            report.records, report.rows, report.examples_per_second
        ),
        format!("{} impressions whose window the log does not cover are in no figure", report.unmatured),
        format!("state_digest {}", report.state_digest),
    ])
}

fn failure(error: BacktestError) -> Failure {
    let exit = match &error {
        BacktestError::Fields(_) | BacktestError::Mapping(_) => Exit::Configuration,
        BacktestError::Source(error) | BacktestError::Drive(DriveError::Source(error)) => source_exit(error),
        BacktestError::Drive(DriveError::LogEnds(_))
        | BacktestError::Artefact(_)
        | BacktestError::Segment(_)
        | BacktestError::Chain { .. } => Exit::BadInput,
        BacktestError::Drive(DriveError::Stream(_)) | BacktestError::Stream(_) => Exit::Software,
    };
    Failure::new(exit, error)
}
