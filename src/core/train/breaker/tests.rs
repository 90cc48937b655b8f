use super::*;
use crate::event::EventKind;
use crate::feature::{Features, hash};
use crate::stream::Partition;
use crate::train::Shown;

const PARAMS: BreakerParams = BreakerParams { missing_clicks: 20.0, clicks_min: 30.0 };

/// A breaker with what came out of it: whether each label was skipped, by its number.
struct Bench {
    breaker: Breaker,
    next: u64,
    came: Vec<(u64, bool)>,
}

/// A label of the impression of this number, shown in as many milliseconds.
fn label(kind: EmissionKind, number: u64) -> Label {
    let partition = Partition { kind: EventKind::Impression, number: 0 };
    let shown = Shown { number, partition, offset: 0, weight: 1.0, features: Features::new(&[]) };
    let impression_time = number.cast_signed();
    Label { kind, impression_id: "".into(), impression_time, shown: Box::new(shown) }
}

impl Bench {
    fn new() -> Self {
        Self { breaker: Breaker::default(), next: 0, came: Vec::new() }
    }

    fn label(&mut self, kind: EmissionKind) {
        let label = label(kind, self.next);
        self.next += 1;
        let mut items = Vec::new();
        self.breaker.take(Some(&PARAMS), label, &mut items);
        self.came.extend(items.iter().map(|item| match item {
            Item::Label(label) => (label.shown.number, false),
            Item::Skipped(label) => (label.shown.number, true),
            Item::Shown { .. } => panic!("a breaker shows nothing"),
        }));
    }

    /// So many labels that are 1 at this rate, by a fixed sequence.
    fn run(&mut self, count: u64, rate: f64) {
        for _ in 0..count {
            let is_click = hash::unit(5, self.next) < rate;
            self.label(if is_click { EmissionKind::Positive } else { EmissionKind::Negative });
        }
    }

    fn skipped(&self) -> Vec<u64> {
        self.came.iter().filter(|(_, is_skipped)| *is_skipped).map(|(number, _)| *number).collect()
    }
}

#[test]
fn labels_come_out_in_their_order_and_none_is_lost() {
    let mut bench = Bench::new();
    bench.run(20_000, 0.05);
    bench.run(3_000, 0.0);
    bench.run(20_000, 0.05);
    let numbers: Vec<u64> = bench.came.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(numbers.len() + bench.breaker.held(), 43_000);
    assert!(!bench.skipped().is_empty());
}

#[test]
fn an_outage_is_skipped_from_where_it_began_to_where_clicks_came_back() {
    let mut bench = Bench::new();
    bench.run(20_000, 0.05);
    bench.run(3_000, 0.0);
    assert!(bench.breaker.is_open());
    bench.run(5_000, 0.05);
    assert!(!bench.breaker.is_open(), "it closes by itself");
    assert_eq!(bench.breaker.openings(), 1);
    let skipped = bench.skipped();
    let (first, last) = (skipped[0], skipped[skipped.len() - 1]);
    assert_eq!(skipped.len() as u64, last - first + 1, "it is one piece");
    // A few missing clicks may be chance: as many labels are learned. Where it ended nobody can tell before the first click.
    assert!((19_800..20_200).contains(&first) && (22_999..23_200).contains(&last), "{first} to {last}");
}

#[test]
fn a_rate_that_falls_to_a_third_for_good_opens_nothing() {
    let mut bench = Bench::new();
    bench.run(20_000, 0.06);
    bench.run(50_000, 0.02);
    assert_eq!((bench.breaker.openings(), bench.skipped().len()), (0, 0));
}

#[test]
fn before_a_few_dozen_clicks_nothing_is_known_and_nothing_waits() {
    let mut bench = Bench::new();
    bench.run(100_000, 0.0);
    assert_eq!((bench.came.len(), bench.breaker.is_open()), (100_000, false));
}

#[test]
fn long_gaps_that_are_natural_to_a_log_raise_the_bound() {
    let mut bench = Bench::new();
    bench.run(5_000, 0.1);
    // Fifteen clicks are missing, and come back: this log does that. Seventy are no outage then.
    bench.run(150, 0.0);
    bench.run(5_000, 0.1);
    bench.run(600, 0.0);
    bench.run(5_000, 0.1);
    assert_eq!(bench.breaker.openings(), 0);
    bench.run(20_000, 0.0);
    assert!(bench.breaker.is_open(), "there is an end to it");
}

#[test]
fn corrections_are_clicks_and_what_is_closed_unlabelled_is_nothing() {
    let mut bench = Bench::new();
    bench.run(20_000, 0.05);
    bench.run(250, 0.0);
    let (held, missing) = (bench.breaker.held(), bench.breaker.missing_clicks());
    assert!(held > 100 && missing > 5.0 && missing < 20.0);
    let before = bench.came.len();
    bench.label(EmissionKind::Unlabelled);
    bench.label(EmissionKind::Matured);
    assert_eq!((bench.came.len(), bench.breaker.held()), (before, held + 2), "they come after those that wait");
    assert_eq!(bench.breaker.missing_clicks(), missing, "and say nothing of clicks");
    for _ in 0..10 {
        bench.label(EmissionKind::Correction);
    }
    assert_eq!((bench.breaker.held(), bench.skipped().len()), (0, 0), "clicks came, though late");
}

#[test]
fn a_queue_at_its_bound_lets_the_oldest_pass() {
    let mut bench = Bench::new();
    // One click in ten thousand: twenty missing ones would be two hundred thousand labels.
    bench.run(600_000, 1e-4);
    bench.run(50_000, 0.0);
    assert_eq!(bench.breaker.held(), HELD_MAX);
    assert_eq!(bench.skipped().len(), 0);
}

#[test]
fn one_that_is_switched_off_lets_go_of_what_it_has() {
    let mut bench = Bench::new();
    bench.run(20_000, 0.05);
    bench.run(3_000, 0.0);
    assert!(bench.breaker.is_open());
    let mut items = Vec::new();
    bench.breaker.take(None, label(EmissionKind::Negative, bench.next), &mut items);
    assert!(!bench.breaker.is_open() && items.iter().all(|item| matches!(item, Item::Label(_))));
}

#[test]
fn a_late_click_on_what_was_skipped_is_not_learned_and_is_a_click_all_the_same() {
    let mut bench = Bench::new();
    bench.run(20_000, 0.05);
    bench.run(3_000, 0.0);
    assert!(bench.breaker.is_open());
    let correction = |bench: &mut Bench, number: i64| {
        let label = Label { impression_time: number, ..label(EmissionKind::Correction, number.cast_unsigned()) };
        let mut items = Vec::new();
        bench.breaker.take(Some(&PARAMS), label, &mut items);
        items
    };
    let before = bench.breaker.missing_clicks();
    let items = correction(&mut bench, 22_000);
    assert!(matches!(items[..], [Item::Skipped(_)]), "{items:?}");
    assert!(bench.breaker.missing_clicks() < before, "clicks come again");
    bench.run(5_000, 0.05);
    assert!(!bench.breaker.is_open());
    assert!(matches!(correction(&mut bench, 22_000)[..], [Item::Skipped(_)]), "long after the outage, too");
    let learned = correction(&mut bench, 10_000);
    assert!(learned.iter().chain(&correction(&mut bench, 10_001)).all(|item| matches!(item, Item::Label(_))));
}

#[test]
fn no_outage_that_came_back_disarms_the_breaker() {
    let mut bench = Bench::new();
    bench.run(20_000, 0.05);
    for _ in 0..12 {
        // Just below the bound each time, whatever that is by now.
        let bound = 20.0_f64.max(NATURAL * bench.breaker.natural);
        assert!(bound <= NATURAL * NATURAL_MAX * 20.0, "{bound} clicks may be missing");
        while bench.breaker.missing_clicks() < 0.95 * bound {
            bench.label(EmissionKind::Negative);
        }
        bench.run(20_000, 0.05);
    }
    let openings = bench.breaker.openings();
    bench.run(1_000_000, 0.0);
    assert!(bench.breaker.openings() > openings && bench.breaker.natural <= NATURAL_MAX * 20.0);
}

#[test]
fn a_checkpoint_with_a_breaker_that_cannot_be_is_refused() {
    assert_eq!(Breaker::default().check(), Ok(()));
    for wrong in [f64::NAN, f64::INFINITY, -1.0] {
        assert!(Breaker { evidence: wrong, ..Breaker::default() }.check().is_err());
        assert!(Breaker { open_at: Some(wrong), ..Breaker::default() }.check().is_err());
    }
}
