//! The learner alone: encoded examples of 20 one-hot fields with Zipf-distributed ids, dimension 10, MLP 64-32.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use deepfm_core::feature::{Entry, Features, hash};
use deepfm_core::model::params::ModelParams;
use deepfm_core::model::{DeepFm, Example, Importance, Inline, Scratch};

const FIELDS: usize = 20;

/// A Zipf-like id out of `vocabulary`: the inverse of a density that falls with the rank.
fn rank(unit: f64, vocabulary: f64) -> u64 {
    (vocabulary.powf(unit) - 1.0) as u64
}

/// Examples whose fields have vocabularies from 10 to 1,000,000.
fn events(count: u64) -> Vec<Features> {
    let field = |n: u64, f: u64| {
        let unit = (hash::hash(7, n, f) >> 11) as f64 / (1_u64 << 53) as f64;
        let vocabulary = 10_f64.powf(1.0 + 5.0 * f as f64 / (FIELDS - 1) as f64);
        vec![Entry { id: hash::mix64(f << 40 | rank(unit, vocabulary)), x: 1.0 }]
    };
    (0..count).map(|n| Features::new(&(0..FIELDS as u64).map(|f| field(n, f)).collect::<Vec<_>>())).collect()
}

fn examples(events: &[Features]) -> Vec<Example<'_>> {
    let label = |n: usize| if hash::unit(3, n as u64) < 0.1 { 1.0 } else { 0.0 };
    let example = |(n, features)| Example {
        features,
        label: label(n),
        weight: 1.0,
        importance: Importance::None,
        number: n as u64,
    };
    events.iter().enumerate().map(example).collect()
}

fn learn(criterion: &mut Criterion) {
    let events = events(400_000);
    let examples = examples(&events);
    let params = ModelParams { fields: FIELDS, ..ModelParams::default() };
    let mut group = criterion.benchmark_group("learn");
    group.sample_size(10);
    for batch in [1_usize, 8, 32, 256] {
        let mut model = DeepFm::new(params.clone());
        let mut scratch = Scratch::default();
        let mut batches = examples.chunks_exact(batch).cycle();
        // The table is filled first, so that the figure is that of a model in its stride.
        for batch in examples.chunks(256) {
            model.learn(batch, 256.0, 0, &mut scratch, &Inline).expect("finite");
        }
        group.throughput(Throughput::Elements(64 * batch as u64));
        group.bench_function(BenchmarkId::new("batch", batch), |bencher| {
            bencher.iter(|| {
                for _ in 0..64 {
                    let batch = batches.next().expect("it cycles");
                    black_box(model.learn(batch, batch.len() as f32, 0, &mut scratch, &Inline)).expect("finite");
                }
            });
        });
        // What each impression costs beside that, since it is scored when it is shown.
        let shown: Vec<&Features> = events.iter().collect();
        let mut arrivals = shown.chunks_exact(batch).cycle();
        group.bench_function(BenchmarkId::new("score", batch), |bencher| {
            bencher.iter(|| {
                for _ in 0..64 {
                    let batch = arrivals.next().expect("it cycles");
                    black_box(model.score(batch, &mut scratch, &Inline));
                }
            });
        });
        let table = model.table();
        println!("{} rows, {:.1} bytes each", table.len(), table.bytes() as f64 / table.len() as f64);
    }
    group.finish();
}

criterion_group!(benches, learn);
criterion_main!(benches);
