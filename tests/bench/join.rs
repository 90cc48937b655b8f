//! The join alone, in the steady state: as many impressions mature as come, with a given number open and as many
//! resolved ones remembered, 3 % of them clicked, event ids on every record.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use deepfm_core::event::EventKind;
use deepfm_core::feature::{Entry, Features};
use deepfm_core::join::params::{JoinParams, LabelPolicy, LatePolicy};
use deepfm_core::join::{ClickIn, Emission, ImpressionIn, Join};
use deepfm_core::stream::Partition;
use deepfm_core::train::Shown;

const IMPRESSIONS: Partition = Partition { kind: EventKind::Impression, number: 0 };
const CLICKS: Partition = Partition { kind: EventKind::Click, number: 0 };
const START_MS: i64 = 1_700_000_000_000;
const PER_MS: i64 = 20;
/// One impression of this many is clicked.
const CLICK_EVERY: i64 = 33;
/// Inputs made at a time, outside the measurement.
const CHUNK: i64 = 10_000;

enum Input {
    Impression(ImpressionIn<Box<Shown>>),
    Click(ClickIn),
}

/// The traffic at a place of the log: an impression, and now and then the click on one of a second ago.
fn inputs(at: i64) -> impl Iterator<Item = Input> {
    let time = START_MS + at / PER_MS;
    let spread = |number: i64| (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let id = move |number: i64| format!("{:016x}-{:016x}", spread(number), spread(!number));
    let field = |field| vec![Entry { id: spread(at + field), x: 1.0 }];
    let features = Features::new(&(0..20).map(field).collect::<Vec<_>>());
    let impression = Input::Impression(ImpressionIn {
        partition: IMPRESSIONS,
        offset: at,
        impression_id: id(at).into(),
        event_id: Some(format!("i-{}", id(at)).into()),
        time,
        payload: Box::new(Shown { number: at as u64, partition: IMPRESSIONS, offset: at, weight: 1.0, features }),
    });
    let clicked = at - 1000 * PER_MS;
    let click = (at % CLICK_EVERY == 0 && clicked >= 0).then(|| {
        Input::Click(ClickIn {
            partition: CLICKS,
            offset: at,
            impression_id: id(clicked).into(),
            event_id: Some(format!("c-{}", id(at)).into()),
            time,
        })
    });
    std::iter::once(impression).chain(click)
}

/// A join and its place in the log.
struct Running {
    join: Join<Box<Shown>>,
    at: i64,
    out: Vec<Emission<Box<Shown>>>,
}

impl Running {
    fn new(params: JoinParams) -> Self {
        Self { join: Join::new(params), at: 0, out: Vec::new() }
    }

    /// Takes the traffic of so many impressions in, and says how long the join took.
    fn advance(&mut self, impressions: i64) -> Duration {
        let mut spent = Duration::ZERO;
        let end = self.at + impressions;
        while self.at < end {
            let chunk_end = end.min(self.at + CHUNK);
            let inputs: Vec<Input> = (self.at..chunk_end).flat_map(inputs).collect();
            let start = Instant::now();
            for input in inputs {
                match input {
                    Input::Impression(impression) => self.join.impression(impression.as_ref(), &mut self.out),
                    Input::Click(click) => self.join.click(click, &mut self.out),
                };
                black_box(&self.out);
                let spent = self.out.drain(..).map(|emission| emission.payload);
                self.join.rooms().extend(spent);
            }
            spent += start.elapsed();
            self.at = chunk_end;
        }
        spent
    }
}

fn steady_state(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("join");
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(5));
    for open in [10_000, 1_000_000] {
        for late_clicks in [LatePolicy::Drop, LatePolicy::Correct] {
            let mut running = Running::new(JoinParams {
                window_ms: open / PER_MS,
                click_before_ms: 1000,
                lateness_ms: 0,
                retention_ms: open / PER_MS,
                labels: LabelPolicy::AtMaturity,
                late_clicks,
                open_impressions_max: usize::MAX,
                held_bytes_max: usize::MAX,
                waiting_clicks_max: usize::MAX,
                remembered_max: usize::MAX,
            });
            running.advance(open * 5 / 2);
            let name = BenchmarkId::new(format!("{late_clicks:?}").to_lowercase(), open);
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|iterations| running.advance(iterations as i64));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, steady_state);
criterion_main!(benches);
