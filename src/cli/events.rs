//! `deepfm events`: send event files, or simulate traffic with a known truth.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Subcommand;
use deepfm_core::event::EventKind;
use deepfm_stream::backtest;
use deepfm_stream::progress::Progress;
use deepfm_stream::simulate::{SimulationParams, Simulator};
use deepfm_stream::source::send::{EventSender, Timestamps, send_directory};

use super::failure::{Exit, Failure, OrExit};
use super::progress::Unit;
use super::run::{broker_failure, source_exit};
use super::{config, output, progress};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send a directory of event files to the configured topics, merged by event time, keyed by impression id.
    Send {
        /// The configuration file.
        #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
        config: PathBuf,
        /// Directory with impressions.jsonl and clicks.jsonl (or .jsonl.zst).
        #[arg(long, value_name = "DIR")]
        events: PathBuf,
        /// At most this many events a second.
        #[arg(long, value_name = "N")]
        rate: Option<f64>,
        /// Stamp each record with its event time, so that `kafka.start` can find it by time. Brokers delete by timestamp:
        /// on a topic with limited retention old events may then be gone within minutes.
        #[arg(long)]
        event_timestamps: bool,
    },
    /// Make impressions and clicks with a known truth, and say how well the best possible prediction does (its Bayes log
    /// loss), so that a learner's regret can be measured.
    Simulate(Simulate),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Simulate {
    /// Where to send them, in real time: the configuration with brokers and topics.
    #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG", required_unless_present = "out", conflicts_with = "out")]
    config: Option<PathBuf>,
    /// Write impressions.jsonl and clicks.jsonl here instead, as fast as the disk takes them.
    #[arg(long, value_name = "DIR", requires = "count")]
    out: Option<PathBuf>,
    /// Number of impressions.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Mean impressions a second.
    #[arg(long, value_name = "N", default_value_t = 1000.0)]
    rate: f64,
    /// Stop after this many seconds.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Seed of everything: the same parameters give the same events.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How fast tastes turn: 1 is a quarter turn in an hour, 0 never.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    drift: f64,
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Send { config, events, rate, event_timestamps } => {
            let config = config::load(config)?;
            let timestamps = if *event_timestamps { Timestamps::Event } else { Timestamps::Sent };
            let decoder = backtest::decoder(&config).or_exit(Exit::Configuration)?;
            let seen = Progress::default();
            let send = || send_directory(&config.kafka, decoder, events, *rate, timestamps, &seen);
            let sent = progress::show(Unit::Bytes, &seen, send);
            let [impressions, clicks] = sent.map_err(|error| Failure::new(source_exit(&error), error))?;
            output::lines([format!("sent {impressions} impressions and {clicks} clicks")])
        }
        Command::Simulate(simulate) => simulate.run(),
    }
}

impl Simulate {
    fn run(&self) -> Result<(), Failure> {
        if self.rate <= 0.0 || !self.rate.is_finite() {
            return Err(Failure::usage(anyhow::anyhow!("--rate must be above 0")));
        }
        let params =
            SimulationParams { seed: self.seed, rate: self.rate, drift: self.drift, ..SimulationParams::default() };
        let tally = match (&self.out, &self.config) {
            (Some(directory), _) => self.write(directory, params)?,
            (None, Some(file)) => {
                let start_ms = jiff::Timestamp::now().as_millisecond();
                self.produce(file, SimulationParams { start_ms, ..params })?
            }
            (None, None) => return Err(Failure::usage(anyhow::anyhow!("give --out DIR or --config FILE"))),
        };
        let mut document = serde_json::json!({
            "impressions": tally.tally().impressions,
            "clicks": tally.tally().clicks,
            "bayes_log_loss": tally.tally().log_loss(),
        });
        document["seed"] = self.seed.into();
        output::json(&document)
    }

    fn is_over(&self, impressions: u64, elapsed_seconds: f64) -> bool {
        self.count.is_some_and(|count| impressions >= count)
            || self.seconds.is_some_and(|seconds| elapsed_seconds >= seconds as f64)
    }

    fn write(&self, directory: &Path, params: SimulationParams) -> Result<Simulator, Failure> {
        fs::create_dir_all(directory).or_exit_with(Exit::Disk, format!("cannot make {}", directory.display()))?;
        let open = |kind: EventKind| {
            let path = directory.join(format!("{kind}s.jsonl"));
            File::create(&path).map(BufWriter::new).or_exit_with(Exit::Disk, format!("cannot write {}", path.display()))
        };
        let (mut impressions, mut clicks) = (open(EventKind::Impression)?, open(EventKind::Click)?);
        let start = params.start_ms;
        let mut simulator = Simulator::new(params);
        let mut write = |kind, json: &str| {
            let file = if kind == EventKind::Impression { &mut impressions } else { &mut clicks };
            writeln!(file, "{json}").or_exit_with(Exit::Disk, "cannot write an event")
        };
        let mut now = start;
        while !self.is_over(simulator.tally().impressions, (now - start) as f64 / 1000.0) {
            let event = simulator.next_event();
            now = event.event_time;
            write(event.kind, &event.json)?;
        }
        while let Some(click) = simulator.pop_click() {
            write(click.kind, &click.json)?;
        }
        impressions.flush().and_then(|()| clicks.flush()).or_exit_with(Exit::Disk, "cannot write the last events")?;
        Ok(simulator)
    }

    fn produce(&self, file: &Path, params: SimulationParams) -> Result<Simulator, Failure> {
        let config = config::load(file)?;
        let mut sender = EventSender::new(&config.kafka, Timestamps::Event).map_err(broker_failure)?;
        let (start, start_ms) = (Instant::now(), params.start_ms);
        let mut simulator = Simulator::new(params);
        while !self.is_over(simulator.tally().impressions, start.elapsed().as_secs_f64()) {
            let event = simulator.next_event();
            let due = Duration::from_millis((event.event_time - start_ms).max(0) as u64);
            std::thread::park_timeout(due.saturating_sub(start.elapsed()));
            sender.send((&event).into()).map_err(broker_failure)?;
        }
        sender.flush().map_err(broker_failure)?;
        Ok(simulator)
    }
}
