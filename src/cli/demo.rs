//! `deepfm demo`: the whole loop in one process: an embedded broker, simulated traffic, the worker, a server that follows it, and
//! a live view.

mod place;
mod server;
mod view;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use deepfm_core::event::EventKind;
use deepfm_core::feature::field::{Field, FieldKind};
use deepfm_stream::artefacts::{self, Shelf};
use deepfm_stream::config::Config;
use deepfm_stream::durable;
use deepfm_stream::simulate::{self, BayesTally, SimulationParams, Simulator};
use deepfm_stream::source::send::{EventSender, Timestamps};
use deepfm_stream::store::CommitStore;
use deepfm_stream::thread;
use deepfm_stream::worker::error::WorkerError;
use deepfm_stream::worker::options::Options;
use deepfm_stream::worker::run::{self, RunSummary};
use deepfm_stream::worker::status::StatusBoard;
use deepfm_stream::worker::stop::Stop;
use rdkafka::mocking::MockCluster;
use serde_json::json;

use super::failure::{Exit, Failure, OrExit};
use super::run::{broker_failure, start_admin, store_failure, worker_failure};
use super::{log, output};
use server::DemoServer;
use view::{Frame, View, number};

/// The attribution window of the demo: long for its clicks, short for its audience.
const WINDOW: Duration = Duration::from_secs(2);

/// How often the view changes.
const FRAME: Duration = Duration::from_millis(250);

/// The whole loop on an embedded broker with simulated traffic; needs no services and ends with Ctrl-C. The traffic has a
/// known truth: the log loss should fall from the base rate's towards the truth's.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stop after this many seconds.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Keep artefacts, state and configuration in this directory; without it the artefacts are left in a temporary one.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Instead of the view, print one JSON document at the end.
    #[arg(long)]
    json: bool,
    /// Impressions a second.
    #[arg(long, value_name = "N", default_value_t = 3000.0)]
    rate: f64,
    /// Seed of the traffic.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How fast tastes turn: 1 is a quarter turn in an hour.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    drift: f64,
}

/// Where the demo keeps its state, its configuration and, with a view that stays in its place, its log, next to the
/// artefacts.
const STATE: &str = "state";
const CONFIGURATION: &str = "deepfm.toml";
const ARTEFACTS: &str = "artefacts";
const LOG: &str = "demo.log";

/// Impressions whose label has not matured yet: event time, true probability, whether clicked within the window.
type Shown = Arc<Mutex<VecDeque<(i64, f64, bool)>>>;

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    durable::keep_to_owner();
    let directory = match &args.dir {
        Some(directory) => {
            place::given(directory)?;
            directory.clone()
        }
        None => place::scratch()?,
    };
    let directory = directory.as_path();
    let result = play(args, directory);
    if args.dir.is_none() {
        for removed in [STATE, CONFIGURATION] {
            let path = directory.join(removed);
            let gone = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            if let Err(error) = gone {
                tracing::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }
    result
}

fn play(args: &Args, directory: &Path) -> Result<(), Failure> {
    let cluster = MockCluster::new(1).or_exit_with(Exit::Software, "cannot start the embedded broker")?;
    let config = configuration(directory, &cluster.bootstrap_servers())?;
    let kafka = &config.kafka;
    let topics = [
        (&kafka.impressions_topic, 2),
        (&kafka.clicks_topic, 2),
        (&kafka.versions_topic, 1),
        (&kafka.dead_letter_topic, 1),
        (&kafka.acknowledgements_topic, 1),
    ];
    for (topic, partitions) in topics {
        cluster.create_topic(topic, partitions, 1).or_exit_with(Exit::Software, "cannot create a topic")?;
    }
    if view::is_block(args.json) {
        let path = directory.join(LOG);
        log::to_file(&path).or_exit_with(Exit::Disk, format!("cannot write {}", path.display()))?;
    }
    let (stop, board, shown) = (Stop::default(), StatusBoard::default(), Shown::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.or_exit(Exit::Software)?;
    let metrics = start_admin(&runtime, &config, &board)?;
    runtime.spawn(stop_on_interrupt(stop.clone()));
    let traffic = start_traffic(args, &config, stop.clone(), Arc::clone(&shown));
    let worker = start_worker(&config, stop.clone(), board.clone())?;
    let mut server = DemoServer::start(&config).or_exit(Exit::Software)?;
    let mut view = View::new(args.json, directory, artefacts::of_model(&config.versions, &config.model.name), metrics);
    let mut bayes = BayesTally::default();
    let start = Instant::now();
    let is_over = |elapsed: Duration| args.seconds.is_some_and(|seconds| elapsed >= Duration::from_secs(seconds));
    while !stop.is_asked() && !worker.is_finished() && !is_over(start.elapsed()) {
        std::thread::park_timeout(FRAME);
        // The interrupt's own `^C` stands behind the block: drawing it anew would leave a line of it.
        if stop.is_asked() {
            break;
        }
        let status = board.read();
        mature(&shown, status.watermark, &mut bayes);
        let (elapsed, now_ms) = (start.elapsed(), jiff::Timestamp::now().as_millisecond());
        view.show(&Frame { status: &status, bayes: &bayes, served: server.look(now_ms), elapsed, now_ms });
    }
    view.finish();
    stop.ask();
    let summary = worker.join().map_err(|_| Failure::new(Exit::Software, anyhow::anyhow!("the worker panicked")))?;
    let sent = traffic.join().map_err(|_| Failure::new(Exit::Software, anyhow::anyhow!("the traffic panicked")))?;
    sent?;
    let summary = match summary {
        Err(WorkerError::StoppedAtStart) => return Ok(()),
        summary => summary.map_err(worker_failure)?,
    };
    mature(&shown, board.read().watermark, &mut bayes);
    runtime.shutdown_background();
    report(args, &config, &summary, &bayes, &mut server)
}

fn configuration(directory: &Path, brokers: &str) -> Result<Config, Failure> {
    let table = |field: Field| {
        let kind = match field.kind {
            FieldKind::Categorical => "categorical",
            FieldKind::Multi { .. } => "multi",
            FieldKind::Numeric { .. } => "numeric",
        };
        format!("[[fields]]\nname = \"{}\"\nkind = \"{kind}\"\n", field.name)
    };
    let fields = simulate::fields().into_iter().map(table).collect::<Vec<_>>().concat();
    let text = format!(
        "{}{fields}[model]\nname = \"demo\"\n[join]\nattribution_window_seconds = {}\n\
         [kafka]\nbrokers = \"{brokers}\"\n[state]\ndir = {:?}\ncheckpoint_interval_seconds = 5\n\
         [versions]\ndir = {:?}\ninterval_seconds = 5\n[exports]\ninterval_seconds = 0\n[admin]\nlisten = \"127.0.0.1:0\"\n[metrics]\nwindow_impressions = 5000\n",
        place::MARK,
        WINDOW.as_secs(),
        directory.join(STATE).display().to_string(),
        directory.join(ARTEFACTS).display().to_string(),
    );
    let path = place::write_configuration(directory, &text)?;
    Config::parse(&text, &path.display().to_string(), []).or_exit(Exit::Configuration)
}

/// Sends simulated events in real time until it is stopped.
fn start_traffic(args: &Args, config: &Config, stop: Stop, shown: Shown) -> JoinHandle<Result<(), Failure>> {
    let params = SimulationParams {
        seed: args.seed,
        rate: args.rate,
        drift: args.drift,
        start_ms: jiff::Timestamp::now().as_millisecond(),
        click_delay_median_ms: 300.0,
        ..SimulationParams::default()
    };
    let kafka = config.kafka.clone();
    thread::aside("traffic", move || {
        let mut sender = EventSender::new(&kafka, Timestamps::Event).map_err(broker_failure)?;
        let (start, start_ms) = (Instant::now(), params.start_ms);
        let mut simulator = Simulator::new(params);
        while !stop.is_asked() {
            let event = simulator.next_event();
            let due = Duration::from_millis((event.event_time - start_ms).max(0) as u64);
            std::thread::park_timeout(due.saturating_sub(start.elapsed()));
            if let (EventKind::Impression, Some(probability)) = (event.kind, event.probability) {
                let window = WINDOW.as_millis() as i64;
                let clicked = event.clicked_at.is_some_and(|time| time - event.event_time <= window);
                let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                shown.push_back((event.event_time, probability, clicked));
            }
            sender.send((&event).into()).map_err(broker_failure)?;
        }
        // What is on its way arrives: a producer that is dropped before says of each record that it was lost.
        sender.flush().map_err(broker_failure)
    })
}

fn start_worker(
    config: &Config,
    stop: Stop,
    board: StatusBoard,
) -> Result<JoinHandle<Result<RunSummary, WorkerError>>, Failure> {
    let store = Box::new(CommitStore::open(&config.state.dir).map_err(store_failure)?);
    let config = config.clone();
    let options = Options { is_reset: true, ..Options::default() };
    Ok(thread::aside("learning", move || run::run(&config, options, store, &stop, &board)))
}

/// The first interrupt ends the demo in order, the second at once.
async fn stop_on_interrupt(stop: Stop) {
    while tokio::signal::ctrl_c().await.is_ok() {
        if stop.ask() {
            std::process::exit(130);
        }
    }
}

/// Moves impressions whose window the watermark has passed into the tally of the truth.
fn mature(shown: &Shown, watermark: Option<i64>, bayes: &mut BayesTally) {
    let Some(watermark) = watermark else { return };
    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some((time, probability, clicked)) = shown.front().copied()
        && time + (WINDOW.as_millis() as i64) < watermark
    {
        bayes.add(probability, clicked);
        shown.pop_front();
    }
}

fn report(
    args: &Args,
    config: &Config,
    summary: &RunSummary,
    bayes: &BayesTally,
    server: &mut DemoServer,
) -> Result<(), Failure> {
    // A demo is short, and before its first labels mature the model knows nothing: what it has become is the newest window.
    let is_complete = summary.newest_window.examples > 0;
    let metrics = if is_complete { &summary.newest_window } else { &summary.metrics };
    let artefacts = artefacts::of_model(&config.versions, &config.model.name);
    let installed = artefacts.list(Shelf::Versions).unwrap_or_default();
    let directory = |version: u64| installed.iter().find(|one| one.version == version).map(|one| artefacts.place(one));
    let versions: Vec<_> =
        summary.versions.iter().map(|version| json!({"version": version, "directory": directory(*version)})).collect();
    if args.json {
        return output::json(&json!({
            "examples": metrics.examples,
            "clicks": metrics.clicks,
            "log_loss": metrics.log_loss,
            "base_log_loss": metrics.base_log_loss,
            "bayes_log_loss": bayes.log_loss(),
            "auc": metrics.auc,
            "calibration": metrics.calibration,
            "versions": versions,
            "served": server.look(jiff::Timestamp::now().as_millisecond()).map(|served| served.version),
            "reloads": server.loads(),
            "state_digest": summary.state_digest,
        }));
    }
    output::lines([
        format!("learned {} examples; versions {}", summary.learned, output::ranges(&summary.versions)),
        format!("over the newest {} impressions: log loss {}", metrics.examples, number(metrics.log_loss)),
        format!("(base rate {}, best possible {})", number(metrics.base_log_loss), number(bayes.log_loss())),
        format!("AUC {}, calibration {}", number(metrics.auc), number(metrics.calibration)),
        "the versions are left:".to_owned(),
        format!("deepfm artifact verify {}/*-*", artefacts.root().display()),
    ])
}
