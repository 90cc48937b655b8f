//! What the program takes of the machine's memory: an allocator that gives back, and no more with time.

use std::time::Duration;

use deepfm_core::event::{Decoded, Event, EventKind, Impression};
use deepfm_core::feature::{Entry, Features, hash};
use deepfm_core::join::params::JoinParams;
use deepfm_core::join::{ImpressionIn, Join};
use deepfm_core::model::params::ModelParams;
use deepfm_core::model::{DeepFm, Example, Importance, Inline, Scratch};
use deepfm_core::stream::{Arrival, Control, Partition};
use deepfm_core::train::{Shown, TrainParams, Trainer};

use super::allocations;
use crate::support::command::{Running, deepfm};
use crate::support::counting::{allocations, held_bytes};
use crate::support::rounds;

#[test]
fn the_program_and_its_c_libraries_run_on_jemalloc_with_few_arenas() {
    let mut command = deepfm(&["--version"]);
    let output = command.env("MALLOC_CONF", "stats_print:true").output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Begin jemalloc statistics"), "{said}");
    assert!(said.lines().any(|line| line.trim() == "opt.narenas: 4"), "{said}");
}

/// Resident megabytes of a process, while it is there.
fn resident(id: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok().map(|kilobytes: f64| kilobytes / 1024.0)
}

/// The largest of a part of the samples.
fn most(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(0.0, f64::max)
}

/// Five minutes, in the torture only. It stands between 80 and 110 MB; on glibc's allocator it had 261 MB in the end, and rose.
#[test]
fn under_steady_traffic_memory_does_not_grow() {
    for seed in 0..rounds(0, 1) {
        let seed = seed.to_string();
        let mut demo = Running::start(&["demo", "--json", "--seconds", "300", "--rate", "3000", "--seed", &seed]);
        let mut samples = Vec::new();
        while demo.is_running() {
            samples.extend(resident(demo.id()));
            std::thread::park_timeout(Duration::from_millis(500));
        }
        let outcome = demo.wait();
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let third = samples.len() / 3;
        let (before, last) = (most(&samples[third..2 * third]), most(&samples[2 * third..]));
        assert!(third > 100, "{} samples", samples.len());
        assert!(last < 1.15 * before && last < 160.0, "{before:.0} MB, then {last:.0} MB: {samples:.0?}");
    }
}

/// The model alone: whoever hands it a batch makes a list of the batch's examples.
#[test]
fn a_model_learns_and_scores_known_ids_without_allocating() {
    let field = |example: u64, field: u64| vec![Entry { id: hash::hash(1, example, field) % 500, x: 1.0 }];
    let features: Vec<Features> = (0..256_u64)
        .map(|example| Features::new(&(0..20).map(|number| field(example, number)).collect::<Vec<_>>()))
        .collect();
    let shown: Vec<&Features> = features.iter().collect();
    let example = |(number, features)| Example {
        features,
        label: f32::from(u8::from(hash::unit(3, number) < 0.2)),
        weight: 1.0,
        importance: Importance::None,
        number,
    };
    let examples: Vec<Example<'_>> = (0..).zip(&features).map(example).collect();
    for (momentum, dropout) in [(0.0, Vec::new()), (0.9, vec![0.1, 0.1])] {
        let mut params = ModelParams { fields: 20, ..ModelParams::default() };
        params.sgd.momentum = momentum;
        params.mlp.dropout = dropout;
        for size in [1, 8, 80, 256] {
            let (mut model, mut scratch) = (DeepFm::new(params.clone()), Scratch::default());
            let mut once = || {
                for (examples, shown) in examples.chunks(size).zip(shown.chunks(size)) {
                    model.score(shown, &mut scratch, &Inline);
                    model.learn(examples, size as f32, 7, &mut scratch, &Inline).expect("they are finite");
                }
            };
            let (warm_up, ()) = allocations(&mut once);
            let (after, ()) = allocations(|| (0..3).for_each(|_| once()));
            assert!(warm_up > 0, "what is allocated is counted");
            assert_eq!(after, 0, "batches of {size}, momentum {momentum}");
        }
    }
}

/// An impression of twenty plain fields, whose id has twelve characters, from far into a log.
fn impression(number: u64, has_event_id: bool) -> ImpressionIn<Box<Shown>> {
    const FAR: u64 = 10_000_000_000;
    let partition = Partition { kind: EventKind::Impression, number: 11 };
    let field = |field| vec![Entry { id: hash::hash(2, number, field), x: 1.0 }];
    let features = Features::new(&(0..20).map(field).collect::<Vec<_>>());
    let offset = (FAR + number) as i64;
    ImpressionIn {
        partition,
        offset,
        impression_id: format!("{number:012}").into(),
        event_id: has_event_id.then(|| format!("e{number}").into()),
        time: 1_700_000_000_000 + number as i64 / 20,
        payload: Box::new(Shown { number: FAR + number, partition, offset, weight: 1.0, features }),
    }
}

/// Bytes that a join takes for each of so many open impressions.
fn bytes_each(count: u64, has_event_id: bool) -> f64 {
    let params = JoinParams { window_ms: 600_000, retention_ms: 600_000, ..allocations::params(8).join };
    let (bytes, join) = held_bytes(|| {
        let (mut join, mut out) = (Join::new(params), Vec::new());
        for number in 0..count {
            let impression = impression(number, has_event_id);
            join.impression(impression.as_ref(), &mut out);
        }
        join
    });
    assert_eq!((join.open() as u64, join.remembered() > 0), (count, has_event_id));
    bytes as f64 / count as f64
}

/// After so many the table of ids is as empty as it ever is, or as full.
const EMPTY_AND_FULL: [u64; 4] = [10_000, 114_688, 114_689, 400_000];

/// What is allocated is the largest part in blocks of 64 KiB, which an allocator does not round up.
#[test]
fn an_open_impression_of_twenty_plain_fields_takes_at_most_250_bytes() {
    for (count, at_most) in EMPTY_AND_FULL.into_iter().zip([250, 244, 250, 250]) {
        let each = bytes_each(count, false);
        assert!((200.0..=f64::from(at_most)).contains(&each), "{each:.1} bytes each of {count}");
    }
}

/// In a tree beside a set of hashes it took 82.
#[test]
fn a_remembered_event_id_takes_at_most_42_bytes() {
    for count in EMPTY_AND_FULL {
        let each = bytes_each(count, true) - bytes_each(count, false);
        assert!((28.0..=42.0).contains(&each), "{each:.1} bytes each of {count}");
    }
}

/// A trainer that holds so many open impressions without features, of which this share has a shown score.
fn holding(count: i64, metrics_sampling_rate: f64) -> Trainer {
    const IMPRESSIONS: Partition = Partition { kind: EventKind::Impression, number: 0 };
    let params = allocations::params(8);
    let (fields, join) = (params.model.fields, JoinParams { window_ms: i64::from(i32::MAX), ..params.join });
    let mut trainer = Trainer::new(TrainParams { join, metrics_sampling_rate, ..params });
    trainer.control(&Control::Start { partition: IMPRESSIONS, next_offset: 0 }).expect("it is new");
    for offset in 0..count {
        let features = Features::new(&vec![Vec::new(); fields]);
        let (impression_id, event_time) = (offset.into(), 1_700_000_000_000 + offset);
        let event = Event::Impression(Impression { impression_id, event_id: None, event_time, weight: 1.0, features });
        let body = Ok(Decoded { event, unknown_keys: 0, unknown_fields: 0 });
        trainer.push(IMPRESSIONS, Arrival { offset, hash: 0, body }).expect("it is in order");
        trainer.step(&mut ()).expect("nothing is waited for");
    }
    assert_eq!(trainer.join().open() as i64, count);
    trainer
}

/// In a tree it took 56.
#[test]
fn a_shown_score_takes_at_most_40_bytes_until_its_label_has_matured() {
    const COUNT: i64 = 200_000;
    let (without, trainer) = held_bytes(|| holding(COUNT, 1e-12));
    assert_eq!(trainer.shown_scores().len(), 0);
    let (with, trainer) = held_bytes(|| holding(COUNT, 1.0));
    assert_eq!(trainer.shown_scores().len() as i64, COUNT);
    let each = (with - without) as f64 / COUNT as f64;
    assert!((28.0..=40.0).contains(&each), "{each:.1} bytes each");
}
