//! Learners on one stream, in one run: ours alone and as `deepfm backtest`, `PyTorch`'s usual `DeepFM`, and Vowpal Wabbit. Each goes over
//! the stream once and scores every example before it learns it. `./dev bench peers [EXAMPLES]` makes the stream and installs the
//! others.
//!
//! All take turns, a slice of the stream at a time on one core, and `PyTorch` learns a part of its slice beside each of the others: a
//! ratio is the median over such pairs, so that what else the machine does falls on both. Backtests read files from their beginning
//! to their end; before and after each `PyTorch` learns a slice again.

mod alone;
mod cores;
mod process;
mod stream;
mod taken_in;
mod theirs;
mod yardsticks;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use alone::{Alone, Done};
use deepfm_core::model::Inline;
use deepfm_core::model::params::ModelParams;
use deepfm_stream::config::Config;
use indicatif::HumanCount;
use serde_json::Value;
use stream::Stream;
use theirs::Theirs;
use yardsticks::{BLOCKS, Yardsticks, median};

/// The others' batches are cut at multiples of it.
const BATCH: usize = 512;

/// What learns alone, on the first core.
const ONE_CORE: &str = "0";
const TWO_CORES: &str = "0,1";

/// How often each backtest is run.
const BACKTESTS: usize = 3;

/// Examples in a slice, and the fewest and most slices: fifths of the stream are whole slices.
const SLICE: usize = 50_000;
const SLICES: (usize, usize) = (5, 20);

/// A backtest that is measured: its name, which stream, its cores.
const BACKTEST_ROWS: [(&str, &str, &str); 3] = [
    ("deepfm backtest from JSON", "dense", ONE_CORE),
    ("the same on two cores", "dense", TWO_CORES),
    ("the same at 2 events a second, one core", "sparse", ONE_CORE),
];

fn main() {
    let given = |name| std::env::var_os(name).map(PathBuf::from);
    let (Some(python), Some(streams)) = (given("DEEPFM_BENCH_PYTHON"), given("DEEPFM_BENCH_STREAMS")) else {
        println!("peers: run by `./dev bench peers`, which installs them and makes the stream");
        return;
    };
    cores::pin(ONE_CORE);
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory of our own");
    let sparse = streams.join("sparse");
    let stream = Stream::read(&sparse);
    let floor = stream.best_possible();
    println!(
        "{} examples of {} one-hot fields, one pass; log loss on the last fifth:\n{floor:.4} is that of the true probabilities, {:.4} that of a constant\n",
        HumanCount(stream.len() as u64),
        stream::FIELDS,
        stream.constant()
    );
    let configs: Vec<PathBuf> =
        ["dense", "sparse"].iter().map(|name| configure(&streams.join(name), place.path())).collect();
    let text = fs::read_to_string(&configs[1]).expect("it was written");
    let config = Config::parse(&text, "peers", []).unwrap_or_else(|errors| panic!("{errors}"));

    let mut yardsticks = Yardsticks::over(BLOCKS);
    let mut torch = Theirs::start(&python, "torch", &sparse);
    let mut table = Table { floor, rows: Vec::new() };
    let mut contenders = contenders(&python, &sparse, &config.train_params().model);
    for row in pass(&stream, &mut torch, &mut contenders, &mut yardsticks) {
        table.add(row);
    }
    let memory = memory(&contenders);
    drop(contenders);
    let agreement = taken_in::check(&mut torch, &stream, &config, &configs[1], place.path());
    let again = stream.len() - stream.len() / slices(stream.len())..stream.len();
    for (name, kind, cores) in BACKTEST_ROWS {
        let config = &configs[usize::from(kind == "sparse")];
        let mut row = Row::new(name);
        for round in 1..=BACKTESTS {
            let before = torch.learn(again.clone()).rate();
            let (rate, loss) = backtest(config, &streams.join(kind), cores, stream.len());
            let after = torch.learn(again.clone()).rate();
            eprintln!("{name}: {round} of {BACKTESTS}: {rate:.0} a second, PyTorch {before:.0} and {after:.0}");
            row.note(rate, f64::midpoint(before, after));
            row.loss = loss;
            yardsticks.measure();
        }
        table.add(row);
    }
    table.print();
    println!("\n{agreement}");
    println!("{memory}");
    yardsticks.lines().iter().for_each(|line| println!("{line}"));
}

/// What learns slices in turns.
enum Learner {
    Ours(Box<Alone>),
    Theirs(Theirs),
}

/// All but `PyTorch`, with their names.
fn contenders(python: &Path, stream: &Path, params: &ModelParams) -> Vec<(String, Learner)> {
    let ours = |batch: usize| {
        (format!("learner alone, batch {batch}"), Learner::Ours(Box::new(Alone::new(params, batch, Inline))))
    };
    let linear = Learner::Theirs(Theirs::start(python, "vw-linear", stream));
    let pairs = Learner::Theirs(Theirs::start(python, "vw-pairs", stream));
    let theirs = [("Vowpal Wabbit, linear", linear), ("Vowpal Wabbit, all pairs", pairs)];
    let theirs = theirs.map(|(name, learner)| (name.to_owned(), learner));
    [256, 32, 8, 1].map(ours).into_iter().chain(theirs).collect()
}

/// Slices of so many examples.
fn slices(examples: usize) -> usize {
    (examples / SLICE).clamp(SLICES.0, SLICES.1) / 5 * 5
}

/// A learner's figures.
struct Row {
    name: String,
    rates: Vec<f64>,
    ratios: Vec<f64>,
    loss: f64,
}

impl Row {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), rates: Vec::new(), ratios: Vec::new(), loss: 0.0 }
    }

    fn note(&mut self, rate: f64, theirs: f64) {
        self.rates.push(rate);
        self.ratios.push(rate / theirs);
    }
}

/// All of them over the stream, each slice in another order.
fn pass(
    stream: &Stream,
    torch: &mut Theirs,
    contenders: &mut [(String, Learner)],
    yardsticks: &mut Yardsticks,
) -> Vec<Row> {
    let (slices, count) = (slices(stream.len()), contenders.len());
    let scored = stream.last_fifth();
    let mut pytorch = Row::new("PyTorch DeepFM, batch 512");
    let mut rows: Vec<Row> = contenders.iter().map(|(name, _)| Row::new(name)).collect();
    for slice in 0..slices {
        yardsticks.measure();
        let span = slice * stream.len() / slices..(slice + 1) * stream.len() / slices;
        let counts = if span.start >= scored.start { 1.0 / scored.len() as f64 } else { 0.0 };
        for turn in 0..count {
            let number = if slice % 2 == 0 { turn } else { count - 1 - turn };
            let theirs = torch.learn(part(&span, turn, count));
            let ours = contenders[number].1.learn(stream, span.clone());
            rows[number].note(ours.rate(), theirs.rate());
            rows[number].loss += counts * ours.loss;
            pytorch.note(theirs.rate(), theirs.rate());
            pytorch.loss += counts * theirs.loss;
        }
        eprintln!("slice {} of {slices}", slice + 1);
    }
    rows.insert(0, pytorch);
    rows
}

/// What the table of one of ours takes.
fn memory(contenders: &[(String, Learner)]) -> String {
    let ours = contenders.iter().find_map(|(_, learner)| match learner {
        Learner::Ours(ours) => Some(ours.model().table()),
        Learner::Theirs(_) => None,
    });
    let table = ours.expect("some are ours");
    format!("{} rows of ours, {:.1} bytes each", table.len(), table.bytes() as f64 / table.len() as f64)
}

/// One of so many parts of a slice: whole batches but for the last.
fn part(slice: &Range<usize>, number: usize, count: usize) -> Range<usize> {
    let cut = |number: usize| {
        if number == count { slice.end } else { slice.start + slice.len() * number / count / BATCH * BATCH }
    };
    cut(number)..cut(number + 1)
}

impl Learner {
    fn learn(&mut self, stream: &Stream, span: Range<usize>) -> Done {
        match self {
            Self::Ours(ours) => ours.learn(&stream.examples(span)),
            Self::Theirs(theirs) => theirs.learn(span),
        }
    }
}

/// What is printed, within 80 columns.
struct Table {
    floor: f64,
    rows: Vec<Row>,
}

impl Table {
    /// # Panics
    /// When it claims to know more than can be known.
    fn add(&mut self, row: Row) {
        assert!(row.loss >= self.floor, "{}: a log loss of {} is below the least, {}", row.name, row.loss, self.floor);
        self.rows.push(row);
    }

    fn print(&mut self) {
        println!("{:<40}{:>13}{:>13}{:>12}", "", "examples/s", "of PyTorch", "log loss");
        for Row { name, rates, ratios, loss } in &mut self.rows {
            let rate = HumanCount(median(rates) as u64).to_string();
            println!("{name:<40}{rate:>13}{:>13.2}{loss:>12.4}", median(ratios));
        }
    }
}

fn deepfm(before: &[&str]) -> Command {
    let mut command = Command::new(before.first().copied().unwrap_or(env!("CARGO_BIN_EXE_deepfm")));
    if let Some((_, others)) = before.split_first() {
        command.args(others).arg(env!("CARGO_BIN_EXE_deepfm"));
    }
    command.args(["--log", "error"]).stdin(Stdio::null());
    command
}

/// What a command printed on standard output.
fn said(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is text")
}

/// The configuration that `config init` makes of a stream.
fn configure(events: &Path, place: &Path) -> PathBuf {
    let name = events.file_name().expect("it has a name").to_string_lossy();
    let file = place.join(format!("{name}.toml"));
    said(deepfm(&[]).args(["config", "init", "--events"]).arg(events).arg("--out").arg(&file));
    file
}

/// Examples a second of a whole backtest, and its log loss on the last fifth.
fn backtest(config: &Path, events: &Path, cores: &str, examples: usize) -> (f64, f64) {
    let mut command = deepfm(&["taskset", "-c", cores]);
    let start = Instant::now();
    let report = said(command.args(["backtest", "--json", "--config"]).arg(config).arg("--events").arg(events));
    let rate = examples as f64 / start.elapsed().as_secs_f64();
    let report: Value = serde_json::from_str(&report).expect("it is JSON");
    (rate, report["last_fifth"]["log_loss"].as_f64().expect("it has one"))
}
