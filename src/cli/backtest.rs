//! `deepfm backtest`: replay events and report how well they were predicted.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use deepfm_stream::backtest::{self, BacktestError, BacktestReport, Files, LabelTiming, Quality};
use deepfm_stream::config::Config;
use deepfm_stream::drive::DriveError;
use deepfm_stream::progress::{Disorder, Progress};
use deepfm_stream::source::files::LineOrder;
use indicatif::{HumanCount, HumanDuration};

use super::failure::{Exit, Failure};
use super::progress::Unit;
use super::run::source_exit;
use super::{config, losses, output, progress};

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
    /// Exit 65 when more than this share of the impressions, or of the clicks, could not be read.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    refused_max: f64,
    /// Exit 10 when the AUC of the second half is below this, or undefined.
    #[arg(long, value_name = "AUC", value_parser = share, conflicts_with = "journal")]
    auc_min: Option<f64>,
    /// Exit 10 when the normalized entropy of the second half is above this, or undefined.
    #[arg(long, value_name = "NE", conflicts_with = "journal")]
    normalized_entropy_max: Option<f64>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// A number from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "it is not a number".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("it is from 0 to 1".to_owned()) }
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
        LabelsArg::Windowed => LabelTiming::Windowed,
        LabelsArg::Immediate => LabelTiming::Immediate,
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
    if args.json {
        output::json(&report)?;
    } else {
        show(&report)?;
    }
    for doubt in doubts(&report, &config) {
        tracing::warn!("{doubt}");
    }
    judge(args, &report)
}

/// What the report is not good enough for: input that could not be read, then thresholds. It has been printed by now.
fn judge(args: &Args, report: &BacktestReport) -> Result<(), Failure> {
    let BacktestReport { impressions_read, clicks_read, second_half, .. } = report;
    let bad = |error| Err(Failure::new(Exit::BadInput, error));
    if impressions_read.records == impressions_read.refused {
        return bad(anyhow::anyhow!("no impression could be read ({} were refused)", impressions_read.refused));
    }
    for (kind, read) in [("impressions", impressions_read), ("clicks", clicks_read)] {
        let share = read.refused_share();
        if share > args.refused_max {
            let (percent, most) = (100.0 * share, 100.0 * args.refused_max);
            let refused = read.refused;
            return bad(anyhow::anyhow!("{refused} {kind} were refused: {percent:.1} %, --refused-max is {most:.1} %"));
        }
    }
    let missed = |name: &str, value: Option<f64>, bound: f64| {
        let value = value.map_or_else(|| "undefined".to_owned(), |value| format!("{value:.4}"));
        let error = anyhow::anyhow!("the {name} of the second half is {value}, the threshold is {bound}");
        Err(Failure::new(Exit::Threshold, error))
    };
    match (args.auc_min, args.normalized_entropy_max) {
        (Some(least), _) if second_half.auc.is_none_or(|auc| auc < least) => missed("AUC", second_half.auc, least),
        (_, Some(most)) if second_half.normalized_entropy.is_none_or(|entropy| entropy > most) => {
            missed("normalized entropy", second_half.normalized_entropy, most)
        }
        _ => Ok(()),
    }
}

/// Why the figures say nothing, or little, of how good the model would be.
fn doubts(report: &BacktestReport, config: &Config) -> Vec<String> {
    let seconds = config.join.attribution_window_seconds + config.join.lateness_seconds;
    let covers = format!(
        "a label is learned {seconds} s after its impression (join.attribution_window_seconds + lateness_seconds): the \
         log should cover several times that"
    );
    let Quality { examples, before_learning, .. } = report.second_half;
    let mut doubts = Vec::new();
    if report.clicks_read.records == 0 && report.impressions_read.records > 0 {
        doubts.push(format!("no click: {NOTHING}"));
    }
    if report.quality.examples == 0 && report.unmatured > 0 {
        doubts.push(format!("no label has matured: {covers}"));
    } else if examples == 0 && report.unmatured > 0 {
        doubts.push(format!("no label of the second half has matured: {covers}"));
    } else if examples > 0 && 2 * before_learning >= examples {
        let share = if before_learning == examples { "all" } else { "most" };
        doubts.push(format!(
            "{share} of the second half was scored before the first example was learned, so that its figures are those of \
             an empty model: {covers}"
        ));
    }
    doubts
}

/// What a log without clicks is good for.
const NOTHING: &str = "nothing can be learned from this";

/// A file that is in no order loses impressions as too late: that is not to happen in silence.
fn warn_of(Disorder { kind, lines, furthest_ms }: Disorder, lateness_seconds: u64) {
    let furthest = Duration::from_millis(furthest_ms);
    let enough = if furthest <= Duration::from_secs(lateness_seconds) {
        "which join.lateness_seconds allows for: every label is as much later. --sort sorts the files first, and 0 is \
         enough then"
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

fn show(report: &BacktestReport) -> Result<(), Failure> {
    let metric = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
    let row = |name: &str, quality: &Quality| {
        format!(
            "{name:<12}{:>10} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            quality.examples,
            quality.clicks,
            metric(quality.log_loss),
            metric(quality.base_log_loss),
            metric(quality.normalized_entropy),
            metric(quality.auc),
            metric(quality.calibration),
        )
    };
    let ([examples, clicks], columns) = (["examples", "clicks"], output::columns());
    let lines = [
        format!("{:<12}{examples:>10} {clicks:>8} log loss     base   n. ent      AUC  calibr.", ""),
        row("all", &report.quality),
        row("second half", &report.second_half),
        row("last fifth", &report.last_fifth),
        format!(
            "{} records, {} rows, {:.0} examples a second",
            report.records, report.rows, report.examples_per_second
        ),
        format!("{} impressions whose window the log does not cover are in no figure", report.unmatured),
        format!("state_digest {}", report.state_digest),
    ];
    let open = report.open_transactions.iter().map(|(partition, behind)| {
        let line = format!("{partition} ends at an open transaction: {behind} offsets behind it are not read");
        output::cut(&line, columns)
    });
    let (unclicked, early) = (report.clicks_read.records == 0, report.quality.before_learning);
    let unclicked = (unclicked && report.impressions_read.records > 0).then(|| format!("no click: {NOTHING}"));
    let early = (early > 0).then(|| {
        let of = report.quality.examples;
        format!("{early} of the {of} scored impressions were scored before the first example was learned")
    });
    output::lines(
        lines.into_iter().chain(unclicked).chain(early).chain(open).chain(losses::lines(&report.losses, columns)),
    )
}

fn failure(error: BacktestError) -> Failure {
    let exit = match &error {
        BacktestError::Fields(_) | BacktestError::Mapping(_) => Exit::Configuration,
        BacktestError::Source(error) | BacktestError::Drive(DriveError::Source(error)) => source_exit(error),
        BacktestError::Drive(DriveError::LogEnds(_) | DriveError::JournalEnds(_))
        | BacktestError::Journal { .. }
        | BacktestError::Unconfigured { .. }
        | BacktestError::Params { .. }
        | BacktestError::Artefact(_)
        | BacktestError::Segment(_)
        | BacktestError::JournalsRemoved { .. }
        | BacktestError::NoVersions { .. }
        | BacktestError::Chain { .. } => Exit::BadInput,
        BacktestError::Drive(DriveError::Stream(_)) | BacktestError::Stream(_) => Exit::Software,
    };
    Failure::new(exit, error)
}
