//! Examples a second of the learner alone, each scored when it is shown, against what a model grows by: rows, fields, dimension, MLP,
//! batch, threads. Run by `./dev bench growth [ROWS]`; prints a table and draws `growth.svg` beside this file.
//!
//! Each point is measured some times for a second, and one base before and after each: its share is the median of those beside the
//! mean of their two neighbours, and how far the bases were apart is what the machine did meanwhile. The chart has each point's share,
//! times the base's median. In the axis of rows ids are drawn evenly from all, so that nearly each is a miss of the
//! cache; elsewhere they are Zipf-like.

mod alone;
mod chart;
mod cores;
mod encoded;
mod yardsticks;

use std::path::Path;

use alone::{Alone, Done};
use chart::Panel;
use deepfm_core::feature::Features;
use deepfm_core::model::params::{MlpParams, ModelParams};
use deepfm_stream::thread::crew::Crew;
use encoded::{events, examples, zipf};
use yardsticks::{BLOCKS, Yardsticks, median};

/// How long a measurement takes at least, in seconds.
const SECONDS: f64 = 1.0;

/// Examples that are learned between two looks at the time: whole batches of every size.
const PIECE: usize = 8_192;

/// Examples that are drawn for a point.
const DRAWN: u64 = 25 * PIECE as u64;

/// How often a point is measured.
const TIMES: usize = 3;

/// Memory that a row is reckoned to take at dimension 10, to see how many there is room for; and the share of it that is used.
const ROW_BYTES: u64 = 140;
const SHARE: f64 = 0.7;

/// A model and how it learns.
#[derive(Clone, Debug, PartialEq)]
struct Setting {
    fields: usize,
    dim: usize,
    layers: Vec<usize>,
    batch: usize,
    threads: usize,
    /// So many rows that are there before, of which ids are drawn evenly; without it they are drawn Zipf-like.
    rows: Option<u64>,
}

/// An axis: what varies, with its unit, and the settings by the text of their values.
struct Axis {
    label: &'static str,
    points: Vec<(String, Setting)>,
}

fn base() -> Setting {
    Setting { fields: 20, dim: 10, layers: vec![64, 32], batch: 256, threads: 1, rows: None }
}

/// An axis of numbers.
fn axis(label: &'static str, values: &[usize], with: impl Fn(usize) -> Setting) -> Axis {
    let text = |value: usize| if value >= 10_000 { chart::short(value as f64) } else { value.to_string() };
    Axis { label, points: values.iter().map(|value| (text(*value), with(*value))).collect() }
}

fn axes(rows_max: usize) -> Vec<Axis> {
    let rows: Vec<usize> =
        [10_000, 100_000, 1_000_000, 10_000_000, 50_000_000].into_iter().filter(|rows| *rows <= rows_max).collect();
    let widths: [&[usize]; 6] = [&[], &[16, 8], &[64, 32], &[128, 64], &[256, 128], &[512, 256]];
    let name = |layers: &[usize]| match layers {
        [] => "none".to_owned(),
        layers => layers.iter().map(usize::to_string).collect::<Vec<_>>().join("-"),
    };
    let mlp = widths.map(|layers| (name(layers), Setting { layers: layers.to_vec(), ..base() }));
    vec![
        axis("rows of the table (ids drawn evenly)", &rows, |rows| Setting { rows: Some(rows as u64), ..base() }),
        axis("fields of an example", &[5, 10, 20, 50, 100], |fields| Setting { fields, ..base() }),
        axis("embedding dimension", &[4, 8, 10, 16, 32, 64], |dim| Setting { dim, ..base() }),
        Axis { label: "MLP (units of its layers)", points: mlp.to_vec() },
        axis("batch (examples)", &[1, 2, 4, 8, 16, 32, 64, 256, 512, 1024, 4096], |batch| Setting { batch, ..base() }),
        axis("threads (and as many cores)", &[1, 2], |threads| Setting { threads, ..base() }),
    ]
}

/// A setting in its stride.
struct Runner {
    alone: Alone<Crew>,
    events: Vec<Features>,
    next: usize,
}

impl Runner {
    /// Makes its rows and draws its examples.
    fn new(setting: &Setting) -> Self {
        let params = ModelParams {
            fields: setting.fields,
            embedding_dim: setting.dim,
            mlp: MlpParams { layers: setting.layers.clone(), ..MlpParams::default() },
            ..ModelParams::default()
        };
        let mut alone = Alone::new(&params, setting.batch, Crew::new(setting.threads));
        let events = match setting.rows {
            None => events(0..DRAWN, setting.fields, zipf(10.0, 1e6, setting.fields)),
            Some(rows) => {
                let values = rows / setting.fields as u64;
                for start in (0..values).step_by(PIECE) {
                    let end = values.min(start + PIECE as u64);
                    alone.learn(&examples(&events(start..end, setting.fields, |number, _, _| number)));
                }
                events(0..DRAWN, setting.fields, |_, unit, _| (unit * values as f64) as u64)
            }
        };
        let mut made = Self { alone, events, next: 0 };
        // Zipf-like ids get their rows by being learned once.
        for start in (0..made.events.len()).step_by(PIECE) {
            made.alone.learn(&examples(&made.events[start..start + PIECE]));
        }
        made
    }

    /// Learns for a while.
    fn measure(&mut self) -> f64 {
        let mut sum = Done::default();
        while sum.seconds < SECONDS {
            let done = self.alone.learn(&examples(&self.events[self.next..self.next + PIECE]));
            self.next = (self.next + PIECE) % self.events.len();
            sum.examples += done.examples;
            sum.seconds += done.seconds;
        }
        sum.rate()
    }
}

/// The base that each point is measured beside.
struct Base {
    runner: Runner,
    rates: Vec<f64>,
}

/// What was measured: examples a second, the share of the base, and how far the fastest and the slowest base were apart.
struct Point {
    rate: f64,
    share: f64,
    noise: f64,
}

impl Base {
    /// Measures another beside this, in turns.
    fn beside(&mut self, other: &mut Runner) -> Point {
        let mut bases = vec![self.runner.measure()];
        let (mut rates, mut shares) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            let (before, rate) = (bases[bases.len() - 1], other.measure());
            bases.push(self.runner.measure());
            rates.push(rate);
            shares.push(rate / f64::midpoint(before, bases[bases.len() - 1]));
        }
        let (least, most) =
            bases.iter().fold((f64::MAX, 0.0_f64), |(least, most), rate| (least.min(*rate), most.max(*rate)));
        self.rates.extend(bases);
        Point { rate: median(&mut rates), share: median(&mut shares), noise: most / least - 1.0 }
    }
}

/// As many cores, from the first one on.
fn cores(count: usize) -> String {
    format!("0-{}", count - 1)
}

/// Rows that there is memory for.
fn room() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("this is Linux");
    let available = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).expect("it says so");
    let kib: u64 = available.trim().trim_end_matches(" kB").parse().expect("a number");
    (kib as f64 * 1024.0 * SHARE) as u64 / ROW_BYTES
}

fn main() {
    let Some(rows_max) = std::env::var("DEEPFM_BENCH_ROWS").ok().map(|rows| rows.parse().expect("a number")) else {
        println!("growth: run by `./dev bench growth`");
        return;
    };
    cores::pin(&cores(1));
    let mut yardsticks = Yardsticks::over(BLOCKS);
    yardsticks.measure();
    let room = room();
    if room < rows_max {
        println!("memory is free for {} rows: more are left out\n", chart::short(room as f64));
    }
    let mut unchanging = Base { runner: Runner::new(&base()), rates: Vec::new() };
    println!("{:<38}{:>8}{:>12}{:>9}{:>7}{:>6}", "", "", "examples/s", "of base", "noise", "B/row");
    let mut panels = Vec::new();
    for Axis { label, points } in axes(room.min(rows_max) as usize) {
        let mut panel = Panel { label: label.to_owned(), points: Vec::new() };
        for (name, setting) in points {
            let mut runner = Runner::new(&setting);
            cores::pin(&cores(setting.threads));
            let before = (setting.threads > 1).then(cores::hand_over_ns);
            let Point { rate, share, noise } = unchanging.beside(&mut runner);
            if let Some(before) = before {
                let after = cores::hand_over_ns();
                println!("from one core to the other and back: {before:.0} ns before, {after:.0} ns after");
            }
            let table = runner.alone.model().table();
            let bytes = table.bytes() as f64 / table.len() as f64;
            let noise = 100.0 * noise;
            cores::pin(&cores(1));
            println!("{label:<38}{name:>8}{rate:>12.0}{share:>9.2}{noise:>6.0}%{bytes:>6.0}");
            panel.points.push((name, share));
        }
        panels.push(panel);
    }
    let rate = median(&mut unchanging.rates);
    panels.iter_mut().flat_map(|panel| &mut panel.points).for_each(|(_, share)| *share *= rate);
    println!("\n{:<38}{:>8}{rate:>12.0}", "the base: 20 fields, 10, 64-32, 256", "");
    yardsticks.measure();
    yardsticks.lines().iter().for_each(|line| println!("{line}"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/growth.svg");
    std::fs::write(&file, chart::svg("examples/s", &panels)).expect("the disk takes it");
    println!("drawn in {}", file.display());
}
