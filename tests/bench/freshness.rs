//! From a click to served weights, on a real broker: simulated traffic in real time, a worker that publishes each second, a server
//! that follows `live`, and for each click the moment at which the server first answers with a version that has seen it. Run by
//! `./dev bench freshness [SECONDS]`, which starts the broker.
//!
//! Labels come at clicks (`emit = "at_click"`): with `at_maturity`, the default, a click is learned when the window of its impression
//! is over, and how long that takes is the window's length. A version has seen a click when its positions are beyond it; what it has
//! learned then lacks at most the half-filled micro-batch, some 10 examples here.

mod freshness {
    pub(crate) mod announced;
    pub(crate) mod traffic;
    pub(crate) mod watch;
}
mod brokers;
mod made;
mod process;
mod served;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use brokers::{configure, deepfm};
use deepfm_core::feature::field::FieldKind;
use deepfm_stream::config::kafka::Kafka;
use deepfm_stream::simulate;
use freshness::traffic::{Click, send};
use freshness::watch::{Announced, Answered, Log, answers, tail};
use process::Process;

/// Partitions of either kind.
const PARTITIONS: i32 = 4;

/// Impressions a second.
const RATE: f64 = 1000.0;

/// Traffic before the first click that counts: a version is live by then.
const WARM_UP: Duration = Duration::from_secs(40);

/// How long after the last click the server may take to have learned it.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let Ok(brokers) = std::env::var("KAFKA_BOOTSTRAP_SERVERS") else {
        println!("freshness: run by `./dev bench freshness`, which starts a broker");
        return;
    };
    let seconds = std::env::var("DEEPFM_BENCH_SECONDS").ok().map_or(120, |text| text.parse().expect("a number"));
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory of our own");
    clicks(&brokers, place.path(), Duration::from_secs(seconds));
    freshness::announced::measure(&brokers, place.path());
}

fn configuration(brokers: &str, place: &Path) -> String {
    let mut fields = String::new();
    for field in simulate::fields() {
        let kind = match field.kind {
            FieldKind::Categorical => "categorical",
            FieldKind::Multi { .. } => "multi",
            FieldKind::Numeric { .. } => "numeric",
        };
        writeln!(fields, "[[fields]]\nname = {:?}\nkind = {kind:?}", field.name).expect("a text takes it");
    }
    let place = place.display();
    format!(
        "[kafka]\nbrokers = {brokers:?}\nidle_after_ms = 1000\n[join]\nattribution_window_seconds = 10\nemit = \"at_click\"\n\
         [state]\ndir = \"{place}/state\"\n[exports]\ndir = \"{place}/exports\"\n[admin]\nlisten = \"\"\n\
         [versions]\ndir = \"{place}/versions\"\ninterval_seconds = 1\n{fields}"
    )
}

fn clicks(brokers: &str, place: &Path, duration: Duration) {
    let (file, config) = configure(place, "freshness", &configuration(brokers, place), PARTITIONS);
    let log = std::fs::File::create(place.join("worker.log")).expect("the disk takes it");
    let worker = Process::start(deepfm("run", &file).stdout(Stdio::null()).stderr(log));
    let (server, address) = Process::serve(deepfm("serve", &file).args(["--listen", "127.0.0.1:0"]));

    let is_over = AtomicBool::new(false);
    let (announced, answered) = (Log::default(), Log::default());
    let clicks = std::thread::scope(|scope| {
        scope.spawn(|| tail(&config.kafka, &announced, &is_over));
        scope.spawn(|| answers(address, &answered, &is_over));
        let clicks = send(&config.kafka, RATE, WARM_UP, duration);
        wait(&clicks, &announced, &answered);
        is_over.store(true, Ordering::Release);
        clicks
    });
    drop((server, worker));
    report(&clicks, &announced.take(), &answered.take(), &config.kafka);
}

/// Waits until the server answers with what the last click taught.
fn wait(clicks: &[Click], announced: &Log<Announced>, answered: &Log<Answered>) {
    let start = std::time::Instant::now();
    let last = clicks.iter().max_by(|one, other| one.at.total_cmp(&other.at)).expect("there were clicks");
    while start.elapsed() < PATIENCE {
        let seen = announced.find(|version| version.has(last)).map(|version| version.number);
        if seen.is_some_and(|seen| answered.find(|answer| answer.version >= seen).is_some()) {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The legs of a click's way, in seconds.
#[derive(Clone, Copy)]
struct Way {
    whole: f64,
    to_cut: f64,
    to_announced: f64,
    to_answered: f64,
}

fn report(clicks: &[Click], announced: &[Announced], answered: &[Answered], kafka: &Kafka) {
    let ways: Vec<Way> = clicks
        .iter()
        .filter_map(|click| {
            let version = announced.iter().find(|version| version.has(click))?;
            let answer = answered.iter().find(|answer| answer.version >= version.number)?;
            Some(Way {
                whole: answer.at - click.at,
                to_cut: version.cut_at - click.at,
                to_announced: version.at - version.cut_at,
                to_answered: answer.at - version.at,
            })
        })
        .collect();
    let late = clicks.len() - ways.len();
    println!(
        "{} clicks on 4 + 4 partitions of {} and {}, of which {late} never reached the server",
        clicks.len(),
        kafka.impressions_topic,
        kafka.clicks_topic,
    );
    let after: Vec<&Announced> = announced.iter().skip_while(|version| version.cut_at < clicks[0].at).collect();
    let fulls = after.iter().filter(|version| version.is_full).count();
    let rejected = after.iter().filter(|version| version.held.is_some()).count();
    println!("{} versions meanwhile, {fulls} of them full, {rejected} rejected by the gate", after.len());
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    after.iter().filter_map(|version| version.held.as_deref()).for_each(|why| *reasons.entry(why).or_default() += 1);
    reasons.iter().take(5).for_each(|(why, count)| println!("  {count} × {why}"));
    println!("\n{:<58}{:>9}{:>9}{:>9}{:>9}", "seconds", "median", "p90", "p99", "most");
    line("click produced to served", ways.iter().map(|way| way.whole));
    line("  produced to cut: read, joined, learned, next version due", ways.iter().map(|way| way.to_cut));
    line("  cut to announced: written, committed, sent", ways.iter().map(|way| way.to_announced));
    line("  announced to answered: fetched, verified, swapped", ways.iter().map(|way| way.to_answered));
    line("between cuts", after.windows(2).map(|pair| pair[1].cut_at - pair[0].cut_at));
    line(
        "the log's watermark behind the clock, when a version is cut",
        after.iter().filter_map(|version| version.behind),
    );
}

fn line(what: &str, values: impl Iterator<Item = f64>) {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let Some(most) = values.last() else {
        println!("{what:<58} none");
        return;
    };
    let at = |share: usize| values[(values.len() * share / 100).min(values.len() - 1)];
    println!("{what:<58}{:>9.2}{:>9.2}{:>9.2}{most:>9.2}", at(50), at(90), at(99));
}
