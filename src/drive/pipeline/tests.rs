//! A trainer whose halves go on at once is the one whose records are consumed one by one.

use super::*;
use crate::config::Config;
use crate::source::Ingest;
use crate::source::ingest::Message;
use deepfm_core::event::{Decoder, EventKind, RawRecord};
use deepfm_core::stream::{Control, Partition};
use deepfm_core::train::{Observer, Scored};

/// Takes note of all it hears, and is full from so many records on.
#[derive(Debug, Default, PartialEq)]
struct Notes {
    heard: Vec<(Partition, i64, bool)>,
    scores: Vec<(u64, u64, bool)>,
    full_from: Option<usize>,
}

impl Observer for Notes {
    fn scored(&mut self, scored: Scored) {
        self.scores.push((scored.number, scored.logit.to_bits(), scored.label));
    }
}

impl Witness for Notes {
    fn consumed(&mut self, step: Step) {
        self.heard.push((step.record.partition, step.record.offset, step.record.refused.is_some()));
    }

    fn is_full(&self) -> bool {
        self.full_from.is_some_and(|full_from| self.heard.len() >= full_from)
    }
}

fn config() -> Config {
    let fields = ["a", "b"].map(|name| format!("[[fields]]\nname = \"{name}\"\nkind = \"categorical\"\n")).concat();
    let text = format!(
        "[kafka]\nbrokers = \"127.0.0.1:1\"\n[model.mlp]\nlayers = [4]\n[training]\nbatch_max = 16\n\
         [join]\nattribution_window_seconds = 3\n{fields}"
    );
    Config::parse(&text, "deepfm.toml", []).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A trainer whose queues have `count` impressions, ten a second.
fn queued(count: i64, is_bad: impl Fn(i64) -> Option<usize>) -> Trainer {
    let mut trainer = Trainer::new(config().train_params());
    for kind in [EventKind::Impression, EventKind::Click] {
        let start = Control::Start { partition: Partition { kind, number: 0 }, next_offset: 0 };
        trainer.control(&start).expect("it is new");
    }
    push(&mut trainer, 0..count, |n| 100 * n, is_bad);
    trainer
}

/// Queues impressions of these times, of which each fifth is clicked a second later; each for which `is_bad` is instead as long a line
/// that cannot be read.
fn push(
    trainer: &mut Trainer,
    numbers: std::ops::Range<i64>,
    time: impl Fn(i64) -> i64,
    is_bad: impl Fn(i64) -> Option<usize>,
) {
    let config = config();
    let decoder = Decoder::new(config.field_set().expect("they are fields"), config.event_options()).expect("it reads");
    let mut ingest = Ingest::new(decoder, 1 << 20, |_, _| ());
    let mut push = |kind, offset, text: String| {
        let record = RawRecord { payload: Some(text.as_bytes()), ..RawRecord::default() };
        let arrival = ingest.arrival(kind, &Message { offset, key: None, record });
        trainer.push(Partition { kind, number: 0 }, arrival).expect("it is the next");
    };
    for n in numbers {
        let time = 1_700_000_000_000 + time(n);
        let impression = || {
            let (a, b) = (n % 13, n % 7);
            format!(r#"{{"impression_id":"i{n}","event_time":{time},"features":{{"a":"{a}","b":"{b}"}}}}"#)
        };
        push(EventKind::Impression, n, is_bad(n).map_or_else(impression, |bytes| "x".repeat(bytes)));
        if n % 5 == 0 {
            push(EventKind::Click, n / 5, format!(r#"{{"impression_id":"i{n}","event_time":{}}}"#, time + 1000));
        }
    }
}

/// What is heard of a run, in runs of so many records, and the digest of the state.
fn run(mut trainer: Trainer, has_company: bool, count: usize) -> (Notes, String) {
    let mut pipeline = Pipeline { company: has_company.then(Pipeline::company), ..Pipeline::new() };
    let (mut notes, mut left) = (Notes::default(), 0);
    while pipeline.run(&mut trainer, count, &mut notes, &mut |_| left += 1) > 0 {}
    assert_eq!(
        (left, trainer.released()),
        (notes.heard.len(), notes.heard.len() as u64),
        "what was consumed was heard"
    );
    (notes, trainer.state_digest().to_string())
}

#[test]
fn the_halves_at_once_hear_and_learn_what_one_record_after_the_other_does() {
    let bad = |n| (n % 50 == 7).then_some(100);
    let one_by_one = run(queued(3000, bad), false, usize::MAX);
    assert!(one_by_one.0.heard.len() > 3000 && one_by_one.0.scores.len() > 2000);
    assert!(one_by_one.0.heard.iter().any(|(.., is_refused)| *is_refused));
    for count in [usize::MAX, 1000, RECORDS_MIN, RECORDS_MIN + RECORDS_OF_A_LOT / 2] {
        assert_eq!(run(queued(3000, bad), true, count), one_by_one, "in runs of {count}");
    }
}

#[test]
fn a_full_witness_hears_what_was_under_way_and_no_more() {
    let mut trainer = queued(3000, |_| None);
    let mut pipeline = Pipeline { company: Some(Pipeline::company()), ..Pipeline::new() };
    let mut notes = Notes { full_from: Some(300), ..Notes::default() };
    let consumed = pipeline.run(&mut trainer, usize::MAX, &mut notes, &mut |_| ());
    assert_eq!((notes.heard.len(), trainer.released()), (consumed, consumed as u64));
    assert!((300..=300 + (LOTS + 1) * RECORDS_OF_A_LOT).contains(&consumed), "{consumed}");
    assert_eq!(pipeline.run(&mut trainer, usize::MAX, &mut notes, &mut |_| ()), 0);
    notes.full_from = None;
    while pipeline.run(&mut trainer, usize::MAX, &mut notes, &mut |_| ()) > 0 {}
    let (expected, digest) = run(queued(3000, |_| None), false, usize::MAX);
    assert_eq!((notes, trainer.state_digest().to_string()), (expected, digest));
}

#[test]
fn the_intake_goes_only_so_far_ahead_of_letters() {
    let bytes = 16 << 10;
    let mut trainer = queued(1000, |_| Some(bytes));
    let mut pipeline = Pipeline { company: Some(Pipeline::company()), ..Pipeline::new() };
    let mut notes = Notes::default();
    let consumed = pipeline.run(&mut trainer, usize::MAX, &mut notes, &mut |_| ());
    assert!((1..=REFUSED_BYTES_MAX.div_ceil(bytes)).contains(&consumed), "{consumed}");
    assert_eq!(notes.heard.len(), consumed);
}

#[test]
fn a_record_that_lets_many_mature_leaves_no_room_behind() {
    // A hundred a second: all that a window of 3 s holds matures with the first record after an hour.
    let mut trainer = queued(0, |_| None);
    push(&mut trainer, 0..600, |n| 10 * n, |_| None);
    push(&mut trainer, 600..1200, |n| 3_600_000 + 10 * n, |_| None);
    let mut pipeline = Pipeline { company: Some(Pipeline::company()), ..Pipeline::new() };
    let mut notes = Notes::default();
    while pipeline.run(&mut trainer, usize::MAX, &mut notes, &mut |_| ()) > 0 {}
    assert!(notes.scores.len() >= 600, "{}", notes.scores.len());
    let room = pipeline.spare.iter().flat_map(|lot| &lot.deliveries).map(|delivery| delivery.items.capacity()).max();
    assert!(room.is_some_and(|room| (1..=ITEMS_KEPT).contains(&room)), "{room:?}");
}

#[test]
#[should_panic(expected = "the witness is at its wits' end")]
fn a_panic_of_the_learner_s_side_is_the_run_s() {
    #[derive(Debug)]
    struct Panics;
    impl Observer for Panics {
        fn scored(&mut self, _: Scored) {}
    }
    impl Witness for Panics {
        fn consumed(&mut self, _: Step) {
            panic!("the witness is at its wits' end");
        }
    }
    let mut pipeline = Pipeline { company: Some(Pipeline::company()), ..Pipeline::new() };
    pipeline.run(&mut queued(3000, |_| None), usize::MAX, &mut Panics, &mut |_| ());
}
