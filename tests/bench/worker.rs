//! A whole worker on a real broker: JSON impressions and clicks, produced as fast as it takes them, a checkpoint and a version every
//! 10 s, a model of many known ids. Examples a second, the CPU seconds of each part, and the share of what the learner does alone,
//! measured before and after. Run by `./dev bench worker [ROWS]`, which starts the broker.
//!
//! All of it is on the same cores, and who produces takes its part: the CPU seconds say how much.

mod alone;
mod brokers;
mod cpu;
mod drawn;
mod encoded;
mod process;
mod traffic;
mod yardsticks;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alone::{Alone, Done};
use brokers::{configure, deepfm};
use deepfm_core::feature::Features;
use deepfm_core::model::Inline;
use deepfm_core::model::params::ModelParams;
use drawn::Drawn;
use encoded::{events, examples};
use indicatif::HumanCount;
use process::Process;
use serde_json::Value;
use traffic::{RATE, Traffic};
use yardsticks::{BLOCKS, Yardsticks};

const FIELDS: usize = 20;
const PARTITIONS: i32 = 4;

/// The batch of a model that has learned some millions.
const BATCH: usize = 256;

/// How long it is measured, in the worker and alone.
const MEASURED: Duration = Duration::from_mins(1);
const ALONE: f64 = 5.0;

/// How long the worker may take to say where it listens, and to answer.
const STARTED: Duration = Duration::from_mins(2);

/// How long every id may take to become known.
const PATIENCE: Duration = Duration::from_mins(30);

/// How often the worker is asked; it answers with what it knew a second ago at most.
const POLL: Duration = Duration::from_millis(100);

/// Threads that take less than this share of a core are told together.
const SMALL: f64 = 0.005;

fn main() {
    let given = |name| std::env::var(name).ok();
    let (Some(brokers), Some(rows)) = (given("KAFKA_BOOTSTRAP_SERVERS"), given("DEEPFM_BENCH_ROWS")) else {
        println!("worker: run by `./dev bench worker`, which starts a broker");
        return;
    };
    let rows: u64 = rows.parse().expect("a number");
    let values = rows.div_ceil(FIELDS as u64);
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory of our own");
    let (file, config) = configure(place.path(), "worker", &configuration(&brokers, place.path(), rows), PARTITIONS);
    let mut yardsticks = Yardsticks::over(BLOCKS);
    yardsticks.measure();
    let traffic = Traffic {
        drawn: Drawn { values, fields: (0..FIELDS).map(name).collect() },
        // In the past, so that no event is from the future however fast they come.
        start_ms: jiff::Timestamp::now().as_millisecond() - 3_600_000,
        sent: AtomicU64::new(0),
        consumed: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    };
    let mut learner = Learner::new(&config.train_params().model, &traffic.drawn);
    let before = learner.measure();

    let log = place.path().join("worker.log");
    let output = fs::File::create(&log).expect("the disk takes it");
    let mut worker = Process::start(deepfm("run", &file).stdout(Stdio::null()).stderr(output));
    let admin = address(&log, &mut worker);
    let pids = given("DEEPFM_BENCH_BROKERS").map(PathBuf::from);
    let span = std::thread::scope(|scope| {
        // Also when it panics: the scope would wait for who sends for ever.
        let _over = Over(&traffic.is_over);
        scope.spawn(|| traffic.send(&config.kafka));
        measure(&traffic, admin, &worker, pids.as_deref())
    });
    drop(worker);
    yardsticks.measure();
    report(&span, [before, learner.measure()]);
    yardsticks.lines().iter().for_each(|line| println!("{line}"));
}

fn name(field: usize) -> String {
    format!("f{field:02}")
}

fn configuration(brokers: &str, place: &Path, rows: u64) -> String {
    let field = |field| format!("[[fields]]\nname = {:?}\nkind = \"categorical\"\n", name(field));
    let (fields, place) = ((0..FIELDS).map(field).collect::<String>(), place.display());
    format!(
        "[kafka]\nbrokers = {brokers:?}\n[model]\nrows_max = {}\n[training]\nbatch_min = {BATCH}\nbatch_max = {BATCH}\n\
         [join]\nattribution_window_seconds = 10\n[state]\ndir = \"{place}/state\"\ncheckpoint_interval_seconds = 10\n\
         [exports]\ndir = \"{place}/exports\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [versions]\ndir = \"{place}/versions\"\ninterval_seconds = 10\n{fields}",
        2 * rows
    )
}

/// Says that it is over when it goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The learner alone, with as many rows and the same draw.
struct Learner {
    alone: Alone,
    events: Vec<Features>,
}

impl Learner {
    fn new(params: &ModelParams, drawn: &Drawn) -> Self {
        let (mut alone, values) = (Alone::new(params, BATCH, Inline), drawn.values);
        for start in (0..values).step_by(1 << 13) {
            let numbers = start..values.min(start + (1 << 13));
            alone.learn(&examples(&events(numbers, FIELDS, |number, _, _| number)));
        }
        assert_eq!(alone.model().row_count() as u64, values * FIELDS as u64, "every id is known");
        Self { alone, events: events(values..values + 200_000, FIELDS, drawn.draw()) }
    }

    /// Examples a second.
    fn measure(&mut self) -> f64 {
        let mut sum = Done::default();
        for events in self.events.chunks(1 << 13).cycle() {
            let done = self.alone.learn(&examples(events));
            (sum.examples, sum.seconds) = (sum.examples + done.examples, sum.seconds + done.seconds);
            if sum.seconds >= ALONE {
                break;
            }
        }
        sum.rate()
    }
}

/// Where the worker's admin port is, which its log says.
fn address(log: &Path, worker: &mut Process) -> SocketAddr {
    let start = Instant::now();
    while start.elapsed() < STARTED && worker.0.try_wait().is_ok_and(|status| status.is_none()) {
        let text = fs::read_to_string(log).expect("it was made");
        if let Some((_, rest)) = text.split_once("at http://") {
            let address = rest.split('/').next().unwrap_or_default();
            return address.parse().expect("an address");
        }
        std::thread::park_timeout(POLL);
    }
    panic!("the worker does not start: {}", fs::read_to_string(log).unwrap_or_default());
}

/// What a worker says of itself.
fn status(admin: SocketAddr) -> Value {
    let mut stream = TcpStream::connect(admin).expect("it listens");
    stream.set_read_timeout(Some(STARTED)).expect("it can be set");
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it is open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer has a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// What had been done at a moment.
struct Moment {
    at: Instant,
    learned: f64,
    rows: f64,
    checkpoint: f64,
    version: f64,
    /// CPU seconds by part.
    cpu: BTreeMap<String, f64>,
    /// The fewest records that waited since the moment before.
    waiting: u64,
}

impl Moment {
    fn of(status: &Value, worker: &Process, brokers: Option<&Path>) -> Self {
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        let mut cpu: BTreeMap<String, f64> = BTreeMap::new();
        let mut add = |part: String, stat: &Path| {
            // A thread may have ended since it was listed.
            if let Ok((name, seconds)) = cpu::taken(stat) {
                *cpu.entry(part.replace("{}", &name)).or_default() += seconds;
            }
        };
        for thread in fs::read_dir(format!("/proc/{}/task", worker.0.id())).expect("it is running").flatten() {
            add("worker, {}".to_owned(), &thread.path().join("stat"));
        }
        add("worker".to_owned(), &Path::new("/proc").join(worker.0.id().to_string()).join("stat"));
        add("who produces".to_owned(), Path::new("/proc/self/stat"));
        let pids = brokers.map(|file| fs::read_to_string(file).expect("they are running")).unwrap_or_default();
        for pid in pids.split_whitespace() {
            add("the broker".to_owned(), &Path::new("/proc").join(pid).join("stat"));
        }
        // The whole of it counts threads that have ended: each merge of checkpoints has its own.
        let running: f64 = cpu.iter().filter(|(name, _)| name.starts_with("worker, ")).map(|(_, taken)| taken).sum();
        let whole = cpu.remove("worker").expect("it is running");
        cpu.insert("worker, threads that have ended".to_owned(), whole - running);
        Self {
            at: Instant::now(),
            learned: number(&status["counters"]["learned"]),
            rows: number(&status["rows"]),
            checkpoint: number(&status["checkpoint"]),
            version: number(&status["version"]),
            cpu,
            waiting: u64::MAX,
        }
    }
}

/// Lets every id become known, and then the time pass in which it is measured: the moments before and after.
fn measure(traffic: &Traffic, admin: SocketAddr, worker: &Process, brokers: Option<&Path>) -> [Moment; 2] {
    let (start, mut begun, mut last, mut waiting) = (Instant::now(), None::<Moment>, 0.0, u64::MAX);
    loop {
        let status = status(admin);
        traffic.consumed.store(status["records"].as_u64().unwrap_or_default(), Ordering::Release);
        let learned = status["counters"]["learned"].as_f64().unwrap_or_default();
        // It is told about once a second: a moment is when it has just been told.
        let is_new = learned > last;
        last = learned;
        waiting = waiting.min(traffic.waiting());
        match begun.take() {
            None if is_new && learned >= traffic.drawn.values as f64 => {
                println!("every id is known after {:.0} s", start.elapsed().as_secs_f64());
                begun = Some(Moment::of(&status, worker, brokers));
                waiting = u64::MAX;
            }
            None => assert!(start.elapsed() < PATIENCE, "it takes too long until every id is known: {status}"),
            Some(moment) if is_new && moment.at.elapsed() >= MEASURED => {
                return [moment, Moment { waiting, ..Moment::of(&status, worker, brokers) }];
            }
            moment => begun = moment,
        }
        std::thread::park_timeout(POLL);
    }
}

fn report([before, after]: &[Moment; 2], alone: [f64; 2]) {
    let seconds = (after.at - before.at).as_secs_f64();
    let learned = after.learned - before.learned;
    let (rate, learner) = (learned / seconds, f64::midpoint(alone[0], alone[1]));
    println!(
        "{} rows, {} examples in {seconds:.0} s at {} a second of event time;\nmeanwhile {} checkpoints and {} versions, and \
         never fewer than {} records waiting",
        HumanCount(after.rows as u64),
        HumanCount(learned as u64),
        HumanCount(RATE as u64),
        after.checkpoint - before.checkpoint,
        after.version - before.version,
        HumanCount(after.waiting),
    );
    println!("\n{:<44}{:>12}{:>10}", "", "examples/s", "of alone");
    println!(
        "{:<44}{learner:>12.0}{:>10.2}  ({:.0} and {:.0})",
        "learner alone, batch 256, one core", 1.0, alone[0], alone[1]
    );
    println!("{:<44}{rate:>12.0}{:>10.2}", "worker", rate / learner);
    println!("\n{:<44}{:>12}{:>10}{:>13}", "CPU", "seconds", "cores", "µs/example");
    let line = |name: &str, taken: f64| {
        println!("{name:<44}{taken:>12.1}{:>10.2}{:>13.2}", taken / seconds, 1e6 * taken / learned);
    };
    let mut parts: Vec<(&str, f64)> =
        after.cpu.iter().map(|(name, taken)| (name.as_str(), taken - before.cpu.get(name).unwrap_or(&0.0))).collect();
    parts.sort_unstable_by(|one, other| other.1.total_cmp(&one.1));
    let is_worker = |name: &str| name.starts_with("worker");
    let (mut small, mut whole) = (0.0, 0.0);
    for (name, taken) in &parts {
        whole += if is_worker(name) { *taken } else { 0.0 };
        if is_worker(name) && *taken < SMALL * seconds { small += taken } else { line(name, *taken) }
    }
    line("worker, its other threads", small);
    line("worker, all", whole);
}
