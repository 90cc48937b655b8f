//! Bytes to typed events with encoded features.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use deepfm_core::event::options::EventOptions;
use deepfm_core::event::{Decoder, EventKind, RawRecord};
use deepfm_core::feature::field::{Field, FieldKind, FieldSet};

const FIELDS: usize = 20;

fn decoder() -> Decoder {
    let field = |f: usize| Field { name: format!("field_{f:02}"), kind: FieldKind::Categorical };
    let fields = FieldSet::new((0..FIELDS).map(field).collect()).expect("the fields are valid");
    Decoder::new(fields, EventOptions::default()).expect("the default mapping is valid")
}

fn impression(n: u64) -> String {
    let features: Vec<String> =
        (0..FIELDS).map(|f| format!("\"field_{f:02}\":\"value-{}\"", n * 31 % (f as u64 + 2))).collect();
    format!(
        "{{\"impression_id\":\"imp-{n}\",\"event_time\":{},\"features\":{{{}}}}}",
        1_700_000_000_000 + n,
        features.join(",")
    )
}

fn decode(criterion: &mut Criterion) {
    let mut decoder = decoder();
    let records: Vec<String> = (0..1000).map(impression).collect();
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(records.len() as u64));
    group.bench_function("impression of 20 fields", |bencher| {
        bencher.iter(|| {
            for record in &records {
                let record = RawRecord { payload: Some(record.as_bytes()), ..RawRecord::default() };
                black_box(decoder.decode(EventKind::Impression, &record)).expect("it is valid");
            }
        });
    });
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
