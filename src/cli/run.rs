//! `deepfm run`: the worker as a process: signals, admin port, exit codes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use deepfm_core::checkpoint::Layer;
use deepfm_core::event::DETAIL_CHARS_MAX;
use deepfm_core::event::plain::plain;
use deepfm_stream::config::Config;
use deepfm_stream::durable;
use deepfm_stream::kafka::BrokerError;
use deepfm_stream::kafka::ask::is_refused_setting;
use deepfm_stream::letters::DeadLetterError;
use deepfm_stream::publish::exports::{self, ExportIoError};
use deepfm_stream::publish::topic::TopicError;
use deepfm_stream::publish::turning_back::{self, Request};
use deepfm_stream::source::SourceError;
use deepfm_stream::store::{CommitStore, StoreError};
use deepfm_stream::worker::admin::AdminPort;
use deepfm_stream::worker::error::WorkerError;
use deepfm_stream::worker::exposition::Registry;
use deepfm_stream::worker::options::{OnAhead, OnGap, Options};
use deepfm_stream::worker::run::RunSummary;
use deepfm_stream::worker::status::{Phase, StatusBoard};
use deepfm_stream::worker::stop::Stop;

use super::failure::{Exit, Failure, OrExit};
use super::{config, losses, output, progress};

/// Consume impressions and clicks, join, learn, checkpoint and publish versions, until SIGTERM or SIGINT. A first signal
/// finishes the step, takes a checkpoint and exits 0; a second one exits at once, which loses nothing but time.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Args {
    /// The configuration file. Any key can be overridden with `DEEPFM__SECTION__KEY`.
    #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
    config: PathBuf,
    /// Stop at the end offsets captured at start; publishes a last version if anything was learned since the one before.
    #[arg(long)]
    until_end: bool,
    /// Forget every checkpoint and start anew from kafka.start. Version numbers go on rising.
    #[arg(long)]
    reset_state: bool,
    /// Go on from a training export, when the state directory is empty or damaged. Together with --reset-state also when it
    /// holds a state that is whole.
    #[arg(long, value_name = "EXPORT")]
    restore: Option<PathBuf>,
    /// Pass over records that the broker deleted before they were read (retention): journalled, and counted in
    /// `deepfm_gap_records_total`. Without it such a start is refused.
    #[arg(long)]
    skip_gaps: bool,
    /// Go on from a state that is from before versions which are announced (an old copy, or what a damaged store fell back to):
    /// they are announced again as abandoned. Without it such a start is refused.
    #[arg(long)]
    abandon_versions: bool,
    /// Print the summary as one JSON document.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    durable::keep_to_owner();
    let config = config::load(&args.config)?;
    let (stop, board) = (Stop::default(), StatusBoard::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.or_exit(Exit::Software)?;
    // Before anything that may take long: opening a store, reading an export.
    runtime.spawn(listen_for_signals(stop.clone(), board.clone()));
    let store = Box::new(CommitStore::open(&config.state.dir).map_err(store_failure)?);
    let asked = turning_back::pending(&config.state.dir).or_exit(Exit::Disk)?;
    let turned_back = asked.as_ref().filter(|_| args.restore.is_none() && !args.reset_state);
    let export = turned_back.map(|asked| turn_back(asked, &config)).transpose()?;
    let restored = args.restore.as_ref().or(export.as_ref()).map(|path| read_export(path, &config)).transpose()?;
    let on_gap = if args.skip_gaps { OnGap::Skip } else { OnGap::Refuse };
    let on_ahead = if args.abandon_versions { OnAhead::Abandon } else { OnAhead::Refuse };
    let options = Options {
        until_end: args.until_end,
        is_reset: args.reset_state || export.is_some(),
        restored,
        asked,
        on_gap,
        on_ahead,
    };
    start_admin(&runtime, &config, &board)?;
    let run = || deepfm_stream::worker::run::run(&config, options, store, &stop, &board);
    let summary = if args.until_end { progress::show_run(&board, run) } else { run() };
    runtime.shutdown_background();
    match summary {
        Err(WorkerError::StoppedAtStart) => {
            tracing::info!("{}", WorkerError::StoppedAtStart);
            Ok(())
        }
        summary => show(&summary.map_err(worker_failure)?, args.json),
    }
}

/// Where the export is that training goes back to.
fn turn_back(asked: &Request, config: &Config) -> Result<PathBuf, Failure> {
    let Request { version, by, why, at, .. } = asked;
    let [by, why] = [by, why].map(|text| plain(text, DETAIL_CHARS_MAX));
    tracing::warn!("training goes back to version {version}, as {by} asked at {at}: {why}");
    turning_back::find(asked, &config.exports.of(&config.model.name), &config.state.dir).or_exit(Exit::Disk)
}

fn read_export(path: &Path, config: &Config) -> Result<(PathBuf, Layer), Failure> {
    let (manifest, layer) = exports::read(path).map_err(export_failure)?;
    if manifest.model != config.model.name {
        let (theirs, ours) = (manifest.model, &config.model.name);
        let error = anyhow::anyhow!("{} is of model {theirs}, the configuration is of {ours}", path.display());
        return Err(Failure::new(Exit::Configuration, error));
    }
    tracing::info!("restoring {}: {} records, state {}", path.display(), manifest.records, manifest.state_digest);
    Ok((path.to_owned(), layer))
}

/// Starts the admin port, if one is configured, and says where it is.
pub(crate) fn start_admin(
    runtime: &tokio::runtime::Runtime,
    config: &Config,
    board: &StatusBoard,
) -> Result<Option<SocketAddr>, Failure> {
    let Some(address) = config.admin.listen else {
        return Ok(None);
    };
    let admin =
        runtime.block_on(AdminPort::bind(&address.to_string(), Registry::install(&config.model.name), board.clone()));
    let admin = admin.map_err(|source| worker_failure(WorkerError::Admin { address: address.to_string(), source }))?;
    let bound = admin.address().ok();
    if let Some(bound) = bound {
        tracing::info!("metrics and status are at http://{bound}/metrics and /status");
    }
    runtime.spawn(admin.serve());
    Ok(bound)
}

/// The first signal asks the run to end, the second ends the process. So does the first during a start, which may wait long for
/// brokers and disks: nothing was consumed yet, and whatever it was at, a start that is cut short is begun anew by the next.
async fn listen_for_signals(stop: Stop, board: StatusBoard) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be listened to");
        return;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.ask() {
            tracing::warn!("asked a second time: exiting at once; the last checkpoint is safe");
            std::process::exit(130);
        }
        if board.read().phase == Phase::Starting {
            tracing::info!("asked to stop during the start: nothing was consumed, exiting at once");
            std::process::exit(0);
        }
        tracing::info!("asked to stop: finishing the step and taking a checkpoint");
    }
}

fn show(summary: &RunSummary, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(summary);
    }
    let metric = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
    let (metrics, window) = (&summary.metrics, &summary.newest_window);
    let lines = [
        format!("records      {}", summary.records),
        format!("learned      {}", summary.learned),
        format!("log loss     {} (base {})", metric(metrics.log_loss), metric(metrics.base_log_loss)),
        format!("AUC          {}", metric(metrics.auc)),
        format!("calibration  {}", metric(metrics.calibration)),
        format!(
            "last window  log loss {} (base {}), AUC {}, calibration {}",
            metric(window.log_loss),
            metric(window.base_log_loss),
            metric(window.auc),
            metric(window.calibration)
        ),
        format!("unmatured    {} impressions whose window has not passed", summary.unmatured),
        format!("versions     {}", output::ranges(&summary.versions)),
        format!("state_digest {}", summary.state_digest),
    ];
    output::lines(lines.into_iter().chain(losses::lines(&summary.losses, output::columns())))
}

/// The exit code of a store's error.
pub(crate) fn store_failure(error: StoreError) -> Failure {
    let exit = if matches!(error, StoreError::Locked(_)) { Exit::Locked } else { Exit::Disk };
    Failure::new(exit, error)
}

/// The exit code of an export's error.
pub(crate) fn export_failure(error: ExportIoError) -> Failure {
    match error {
        ExportIoError::Store(error) => store_failure(error),
        ExportIoError::Export { .. } => Failure::new(Exit::BadInput, error),
        ExportIoError::Io { .. } | ExportIoError::GivenUp => Failure::new(Exit::Disk, error),
    }
}

/// The exit code of a source's error.
pub(crate) fn source_exit(error: &SourceError) -> Exit {
    match error {
        SourceError::Broker(error) => broker_exit(error),
        SourceError::NoEvents(_) | SourceError::LongLine { .. } => Exit::BadInput,
        SourceError::File { source, .. } => file_exit(source),
        SourceError::Ended | SourceError::Panicked(_) => Exit::Software,
        SourceError::Lost { .. } => Exit::Unreachable,
        // The state is of a log that is not there any more: no restart brings it back.
        SourceError::Beyond { .. } | SourceError::Recreated { .. } => Exit::Disk,
    }
}

/// A command that failed since brokers did not do what they were asked for.
pub(crate) fn broker_failure(error: BrokerError) -> Failure {
    Failure::new(broker_exit(&error), error)
}

/// The exit code of what brokers did not do.
fn broker_exit(error: &BrokerError) -> Exit {
    match error {
        BrokerError::Misconfigured(_) | BrokerError::Denied { .. } | BrokerError::Unfit { .. } => Exit::Configuration,
        BrokerError::Client(error) if is_refused_setting(error) => Exit::Configuration,
        BrokerError::Runtime(_) => Exit::Software,
        BrokerError::Unreachable { .. } | BrokerError::MissingTopic { .. } | BrokerError::Client(_) => {
            Exit::Unreachable
        }
    }
}

/// The exit code for a file that cannot be read: what is in it, or where it is.
pub(crate) fn file_exit(error: &std::io::Error) -> Exit {
    use std::io::ErrorKind;
    match error.kind() {
        // The last is the decompressor's own word for damage.
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::NotFound | ErrorKind::Other => Exit::BadInput,
        _ => Exit::Disk,
    }
}

/// The exit code of an error of the versions topic.
pub(crate) fn topic_exit(error: &TopicError) -> Exit {
    match error {
        TopicError::Fenced { .. } => Exit::Locked,
        TopicError::Broker { source, .. } => broker_exit(source),
        TopicError::Client { source, .. } if is_refused_setting(source) => Exit::Configuration,
        TopicError::Client { .. } | TopicError::Missing { .. } | TopicError::Unreachable { .. } => Exit::Unreachable,
    }
}

/// The exit code of a worker's error.
pub(crate) fn worker_failure(error: WorkerError) -> Failure {
    let exit = match &error {
        WorkerError::Store(StoreError::Locked(_)) => Exit::Locked,
        WorkerError::Topic(error) => topic_exit(error),
        WorkerError::Store(_)
        | WorkerError::CommitStuck(_)
        | WorkerError::NoFirstCheckpoint
        | WorkerError::Checkpoint { .. }
        | WorkerError::Outbox { .. }
        | WorkerError::NumbersUsedUp { .. }
        | WorkerError::StateLost { .. }
        | WorkerError::StateIsWhole { .. }
        | WorkerError::VersionsAhead { .. }
        | WorkerError::Artefact(_) => Exit::Disk,
        WorkerError::Fields(_)
        | WorkerError::Mapping(_)
        | WorkerError::Configuration { .. }
        | WorkerError::OtherModel { .. }
        | WorkerError::Storage(_)
        | WorkerError::Admin { .. } => Exit::Configuration,
        WorkerError::Source(error) => source_exit(error),
        // Whoever asked for it makes no failure of it.
        WorkerError::StoppedAtStart
        | WorkerError::Panicked(_)
        | WorkerError::DeadLetters(DeadLetterError::Panicked(_) | DeadLetterError::Ended(_))
        | WorkerError::Stream(_)
        | WorkerError::Log(_) => Exit::Software,
        WorkerError::DeadLetters(_) => Exit::Unreachable,
    };
    Failure::new(exit, error)
}
