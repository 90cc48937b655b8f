//! The learner alone: encoded examples of 20 one-hot fields with Zipf-distributed ids, dimension 10, MLP 64-32.

mod encoded;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use deepfm_core::feature::Features;
use deepfm_core::model::params::ModelParams;
use deepfm_core::model::{DeepFm, Inline, Scratch};
use deepfm_stream::thread::crew::Crew;
use encoded::{events, examples, zipf};

const FIELDS: usize = 20;

fn learn(criterion: &mut Criterion) {
    let events = events(0..400_000, FIELDS, zipf(10.0, 1e6, FIELDS));
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
        for (name, crew) in [("batch", Crew::new(1)), ("batch on two threads", Crew::new(2))] {
            group.bench_function(BenchmarkId::new(name, batch), |bencher| {
                bencher.iter(|| {
                    for _ in 0..64 {
                        let batch = batches.next().expect("it cycles");
                        black_box(model.learn(batch, batch.len() as f32, 0, &mut scratch, &crew)).expect("finite");
                    }
                });
            });
        }
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
