//! `deepfm demo`: the whole loop in one process: an embedded broker, simulated traffic, the worker, and a live view.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use deepfm_stream::config::Config;
use deepfm_stream::event::EventKind;
use deepfm_stream::feature::field::Field;
use deepfm_stream::publish::artefacts;
use deepfm_stream::simulate::{self, BayesTally, SimulationParams, Simulator};
use deepfm_stream::source::send::{EventSender, Timestamps};
use deepfm_stream::store::SledStore;
use deepfm_stream::worker::error::WorkerError;
use deepfm_stream::worker::run::{self, Options, Summary};
use deepfm_stream::worker::status::{Status, StatusBoard};
use deepfm_stream::worker::stop::Stop;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use rdkafka::mocking::MockCluster;
use serde_json::json;

use super::failure::{Exit, Failure, OrExit};
use super::output;
use super::run::{source_exit, store_failure, worker_failure};

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

/// Where the demo keeps its state and its configuration, next to the artefacts.
const STATE: &str = "state";
const CONFIGURATION: &str = "deepfm.toml";

/// Impressions whose label has not matured yet: event time, true probability, whether clicked within the window.
type Shown = Arc<Mutex<VecDeque<(i64, f64, bool)>>>;

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let scratch = std::env::temp_dir().join(format!("deepfm-demo-{}", std::process::id()));
    let directory = args.dir.as_ref().unwrap_or(&scratch);
    std::fs::create_dir_all(directory).or_exit_with(Exit::Disk, format!("cannot make {}", directory.display()))?;
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
    ];
    for (topic, partitions) in topics {
        cluster.create_topic(topic, partitions, 1).or_exit_with(Exit::Software, "cannot create a topic")?;
    }
    let (stop, board, shown) = (Stop::default(), StatusBoard::default(), Shown::default());
    let traffic = start_traffic(args, &config, stop.clone(), Arc::clone(&shown));
    let worker = start_worker(&config, stop.clone(), board.clone())?;
    stop_on_interrupt(&stop)?;
    let mut view = View::new(args, directory);
    let mut bayes = BayesTally::default();
    let start = Instant::now();
    let is_over = |elapsed: Duration| args.seconds.is_some_and(|seconds| elapsed >= Duration::from_secs(seconds));
    while !stop.is_asked() && !worker.is_finished() && !is_over(start.elapsed()) {
        std::thread::park_timeout(FRAME);
        let status = board.read();
        mature(&shown, status.watermark, &mut bayes);
        view.show(&status, &bayes, start.elapsed());
    }
    stop.ask();
    let summary = worker.join().map_err(|_| Failure::new(Exit::Software, anyhow::anyhow!("the worker panicked")))?;
    let sent = traffic.join().map_err(|_| Failure::new(Exit::Software, anyhow::anyhow!("the traffic panicked")))?;
    let summary = summary.map_err(worker_failure)?;
    sent?;
    mature(&shown, board.read().watermark, &mut bayes);
    view.finish();
    report(args, &config, &summary, &bayes)
}

fn configuration(directory: &Path, brokers: &str) -> Result<Config, Failure> {
    let table = |field: Field| {
        let kind = serde_json::to_value(&field.kind).unwrap_or_default();
        format!("[[fields]]\nname = \"{}\"\nkind = \"{}\"\n", field.name, kind.as_str().unwrap_or("numeric"))
    };
    let fields = simulate::fields().into_iter().map(table).collect::<Vec<_>>().concat();
    let text = format!(
        "# Written by `deepfm demo`.\n{fields}[model]\nname = \"demo\"\n[join]\nattribution_window_seconds = {}\n\
         [kafka]\nbrokers = \"{brokers}\"\n[state]\ndir = {:?}\ncheckpoint_interval_seconds = 5\n\
         [versions]\ndir = {:?}\ninterval_seconds = 5\n[exports]\ninterval_seconds = 0\n[admin]\nlisten = \"\"\n[metrics]\nwindow_impressions = 10000\n",
        WINDOW.as_secs(),
        directory.join(STATE).display().to_string(),
        directory.join("artefacts").display().to_string(),
    );
    let path = directory.join(CONFIGURATION);
    std::fs::write(&path, &text).or_exit_with(Exit::Disk, format!("cannot write {}", path.display()))?;
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
    std::thread::spawn(move || {
        let failed = |error| Failure::new(source_exit(&error), error);
        let mut sender = EventSender::new(&kafka, Timestamps::Event).map_err(failed)?;
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
            sender.send(event.kind, event.json.as_bytes()).map_err(failed)?;
        }
        Ok(())
    })
}

fn start_worker(
    config: &Config,
    stop: Stop,
    board: StatusBoard,
) -> Result<JoinHandle<Result<Summary, WorkerError>>, Failure> {
    let store = Box::new(SledStore::open(&config.state.dir).map_err(store_failure)?);
    let config = config.clone();
    let options = Options { is_reset: true, ..Options::default() };
    Ok(std::thread::spawn(move || run::run(&config, options, store, &stop, &board)))
}

fn stop_on_interrupt(stop: &Stop) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().or_exit(Exit::Software)?;
    let stop = stop.clone();
    std::thread::spawn(move || {
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() && stop.ask() {
                std::process::exit(130);
            }
        });
    });
    Ok(())
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

fn report(args: &Args, config: &Config, summary: &Summary, bayes: &BayesTally) -> Result<(), Failure> {
    let metrics = &summary.metrics;
    let installed = artefacts::list(&config.versions.dir).unwrap_or_default();
    let versions: Vec<_> = summary
        .versions
        .iter()
        .map(|version| json!({"version": version, "directory": installed.get(version)}))
        .collect();
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
            "state_digest": summary.state_digest,
        }));
    }
    output::lines([
        format!("learned {} examples, cut {} versions", summary.learned, versions.len()),
        format!(
            "log loss {} (base rate {}, truth {})",
            number(metrics.log_loss),
            number(metrics.base_log_loss),
            number(bayes.log_loss())
        ),
        format!("AUC {}, calibration {}", number(metrics.auc), number(metrics.calibration)),
        format!("the versions are left: `deepfm artifact verify {}/*`", config.versions.dir.display()),
    ])
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

/// The live view: lines that change in place on a terminal, a line every few seconds elsewhere, nothing for `--json`.
struct View {
    lines: Vec<ProgressBar>,
    _screen: Option<MultiProgress>,
    last: (Instant, u64),
    announced: Option<u64>,
    printed: Instant,
    is_silent: bool,
}

impl View {
    fn new(args: &Args, directory: &Path) -> Self {
        let is_terminal = console_is_terminal();
        let screen = (!args.json && is_terminal).then(MultiProgress::new);
        let style =
            ProgressStyle::with_template("{prefix:>18}  {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let names = ["events", "open impressions", "log loss", "last window", "AUC, calibration", "version"];
        let lines = screen.iter().flat_map(|screen| {
            names.map(|name| screen.add(ProgressBar::new_spinner().with_style(style.clone()).with_prefix(name)))
        });
        let lines = lines.collect();
        if screen.is_some() {
            eprintln!(
                "deepfm demo: simulated traffic through an embedded broker; files in {}; Ctrl-C ends\n",
                directory.display()
            );
        }
        let now = Instant::now();
        Self { lines, _screen: screen, last: (now, 0), announced: None, printed: now, is_silent: args.json }
    }

    fn show(&mut self, status: &Status, bayes: &BayesTally, elapsed: Duration) {
        let (since, records) = std::mem::replace(&mut self.last, (Instant::now(), status.records));
        let rate = status.records.saturating_sub(records) as f64 / since.elapsed().as_secs_f64().max(1e-3);
        let (life, window) = (&status.lifetime, &status.window);
        let texts = [
            format!("{} consumed, {rate:.0} a second, {:.0} s", status.records, elapsed.as_secs_f64()),
            format!("{}   ({} rows in the table)", status.open_impressions, status.rows),
            format!(
                "{} against {} for the base rate and {} for the truth",
                number(life.log_loss),
                number(life.base_log_loss),
                number(bayes.log_loss())
            ),
            format!("log loss {}, normalized entropy {}", number(window.log_loss), number(window.normalized_entropy)),
            format!("{}, {}", number(window.auc), number(window.calibration)),
            status.version.map_or_else(|| "none yet".to_owned(), |version| format!("{version} announced and live")),
        ];
        for (line, text) in self.lines.iter().zip(&texts) {
            line.set_message(text.clone());
        }
        if self.announced != status.version {
            self.announced = status.version;
            if let Some(line) = self.lines.first() {
                line.suspend(|| {
                    eprintln!(
                        "version {} published: log loss {}",
                        status.version.unwrap_or_default(),
                        number(window.log_loss)
                    );
                });
            }
        }
        if self.lines.is_empty() && !self.is_silent && self.printed.elapsed() >= Duration::from_secs(5) {
            self.printed = Instant::now();
            eprintln!("{}", texts.join(" | "));
        }
    }

    fn finish(&self) {
        self.lines.iter().for_each(ProgressBar::finish);
    }
}

fn console_is_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal()
}
