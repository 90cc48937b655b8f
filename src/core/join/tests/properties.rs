//! Random event streams, through all policies and tight bounds: what must hold of each.

use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

use super::super::params::{JoinParams, LabelPolicy, LatePolicy};
use super::super::{ClickIn, Emission, EmissionKind, ImpressionIn, ImpressionState, Join, JoinEntry, first_record};
use super::checkpoint::{recomputed, reread};
use crate::event::{EventKind, Id};
use crate::stream::Partition;

/// One call of the join.
#[derive(Clone, Debug)]
enum Call {
    Impression(Record),
    Click(Record),
    Flush,
}

#[derive(Clone, Debug)]
struct Record {
    partition: Partition,
    impression: u8,
    event_id: Option<u8>,
    /// Behind the time that goes on with the calls.
    behind: i64,
}

/// Event time between two calls, in milliseconds.
const STEP_MS: i64 = 10;

fn partition(numbers: std::ops::Range<i32>) -> impl Strategy<Value = Partition> {
    (prop_oneof![Just(EventKind::Impression), Just(EventKind::Click)], numbers)
        .prop_map(|(kind, number)| Partition { kind, number })
}

fn record() -> impl Strategy<Value = Record> {
    (partition(0..2), 0..25_u8, prop::option::weighted(0.7, 0..60_u8), 0..150_i64)
        .prop_map(|(partition, impression, event_id, behind)| Record { partition, impression, event_id, behind })
}

/// Calls of every kind, half of the time with a flush at the end.
fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        40 => record().prop_map(Call::Impression),
        40 => record().prop_map(Call::Click),
    ];
    (vec(call, 0..150), any::<bool>()).prop_map(|(mut calls, flushed)| {
        calls.extend(flushed.then_some(Call::Flush));
        calls
    })
}

fn params() -> impl Strategy<Value = JoinParams> {
    let labels =
        prop_oneof![Just(LabelPolicy::AtClick), Just(LabelPolicy::AtMaturity), Just(LabelPolicy::FakeNegative)];
    let late_clicks = prop_oneof![Just(LatePolicy::Drop), Just(LatePolicy::Correct)];
    let bound = || prop_oneof![1..6_usize, Just(usize::MAX)];
    let bytes = prop_oneof![1..60_usize, Just(usize::MAX)];
    let times = (0..200_i64, 0..50_i64, 0..50_i64, 0..300_i64);
    (times, labels, late_clicks, (bound(), bytes), bound(), bound()).prop_map(
        |((window_ms, click_before_ms, lateness_ms, retention_ms), labels, late_clicks, open, waiting, remembered)| {
            JoinParams {
                window_ms,
                click_before_ms,
                lateness_ms,
                retention_ms,
                labels,
                late_clicks,
                open_impressions_max: open.0,
                held_bytes_max: open.1,
                waiting_clicks_max: waiting,
                remembered_max: remembered,
            }
        },
    )
}

fn start(params: JoinParams) -> Join<i64> {
    Join::new(params)
}

/// Makes the call at a place of the stream. The payload of an impression is that place, so no two are equal.
fn make(join: &mut Join<i64>, at: usize, call: &Call, out: &mut Vec<Emission<i64>>) {
    let at = at as i64;
    let parts = |record: &Record| {
        let impression_id = Id::from(format!("i{}", record.impression));
        let event_id = record.event_id.map(|id| Id::from(format!("e{id}")));
        (record.partition, impression_id, event_id, at * STEP_MS - record.behind)
    };
    match call {
        Call::Impression(record) => {
            let (partition, impression_id, event_id, time) = parts(record);
            join.impression(ImpressionIn { partition, offset: at, impression_id, event_id, time, payload: &at }, out);
        }
        Call::Click(record) => {
            let (partition, impression_id, event_id, time) = parts(record);
            join.click(ClickIn { partition, offset: at, impression_id, event_id, time }, out);
        }
        Call::Flush => join.flush(out),
    }
}

fn run(params: JoinParams, calls: &[Call]) -> (Join<i64>, Vec<Emission<i64>>) {
    let (mut join, mut out) = (start(params), Vec::new());
    for (at, call) in calls.iter().enumerate() {
        make(&mut join, at, call, &mut out);
    }
    (join, out)
}

/// Payloads and click times of the emissions of some kinds, sorted.
fn labels(out: &[Emission<i64>], kinds: &[EmissionKind]) -> Vec<(i64, Option<i64>)> {
    let of_kind = out.iter().filter(|emission| kinds.contains(&emission.kind));
    let mut labels: Vec<_> = of_kind.map(|emission| (emission.payload, emission.click_time)).collect();
    labels.sort_unstable();
    labels
}

/// Impressions admitted, and clicks that are or may become a label, by the counters and what is held.
fn fates(params: &JoinParams, join: &Join<i64>) -> u64 {
    let counters = join.counters();
    let impressions = match params.labels {
        LabelPolicy::AtClick | LabelPolicy::AtMaturity => {
            counters.positives + counters.negatives + counters.closed_unlabelled + join.open() as u64
        }
        LabelPolicy::FakeNegative => counters.fake_negatives,
    };
    let late = match (params.labels, params.late_clicks) {
        (LabelPolicy::FakeNegative, LatePolicy::Correct) => 0,
        (LabelPolicy::AtClick | LabelPolicy::AtMaturity, _) | (_, LatePolicy::Drop) => counters.late_click,
    };
    let held_back = join
        .entries()
        .filter(|entry| matches!(entry, JoinEntry::Impression { state: ImpressionState::Clicked(..), .. }))
        .count();
    let clicks = counters.click_outside_window
        + counters.extra_click
        + late
        + counters.unlabelled_click
        + counters.orphan_expired
        + counters.forgotten_waiting
        + counters.positives
        + counters.fake_positives
        + join.waiting() as u64
        + held_back as u64;
    counters.too_late + counters.duplicate + counters.conflicting_impression + impressions + clicks
}

/// Takes a log of changes into what is held, the newest of a key.
fn merge(mut log: &[u8], held: &mut BTreeMap<u128, Vec<u8>>) {
    while let Some((record, rest)) = first_record(log) {
        if record.entry.is_empty() {
            held.remove(&record.key);
        } else {
            held.insert(record.key, record.entry.to_vec());
        }
        log = rest;
    }
    assert!(log.is_empty(), "the log ends with a record");
}

fn payload_is_held(entry: &JoinEntry<i64>) -> bool {
    matches!(entry, JoinEntry::Impression { state, .. } if state.payload().is_some())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_restored_join_goes_on_exactly_as_the_saved_one(
        params in params(),
        calls in calls(),
        saves in vec(any::<prop::sample::Index>(), 1..4),
        reversed in any::<bool>(),
    ) {
        let saves: Vec<usize> = saves.iter().map(|save| save.index(calls.len() + 1)).collect();
        let (mut join, mut out) = (start(params.clone()), Vec::new());
        for (at, call) in calls.iter().enumerate() {
            if saves.contains(&at) {
                let mut entries = reread(&join);
                if reversed {
                    entries.reverse();
                }
                let restored = Join::restore(params.clone(), &join.scalars(), entries).expect("entries of a join");
                prop_assert_eq!(restored.entries_sum(), join.entries_sum());
                join = restored;
            }
            make(&mut join, at, call, &mut out);
        }
        let (expected, expected_out) = run(params, &calls);
        prop_assert_eq!(out, expected_out);
        prop_assert_eq!(join.scalars(), expected.scalars());
        prop_assert_eq!(join.entries_sum(), expected.entries_sum());
        prop_assert!(join.entries().eq(expected.entries()), "entries differ");
    }

    #[test]
    fn the_sum_kept_from_what_changes_is_the_sum_over_all_entries(params in params(), calls in calls()) {
        let (mut join, mut out) = (start(params), Vec::new());
        for (at, call) in calls.iter().enumerate() {
            make(&mut join, at, call, &mut out);
            prop_assert_eq!(join.entries_sum(), recomputed(&join), "after call {}", at);
        }
    }

    #[test]
    fn the_log_of_changes_leads_to_all_that_is_held(params in params(), calls in calls()) {
        let (mut join, mut out) = (start(params), Vec::new());
        join.cut_changes();
        let mut held = BTreeMap::new();
        for (at, call) in calls.iter().enumerate() {
            make(&mut join, at, call, &mut out);
            let log = join.cut_changes().expect("it is on");
            merge(&log, &mut held);
        }
        let mut expected = BTreeMap::new();
        merge(&join.all_as_changes(), &mut expected);
        prop_assert_eq!(held, expected);
    }

    #[test]
    fn every_record_has_one_fate_and_every_bound_holds(params in params(), calls in calls()) {
        let (mut join, mut out) = (start(params.clone()), Vec::new());
        for (at, call) in calls.iter().enumerate() {
            let before = join.watermark();
            make(&mut join, at, call, &mut out);
            let counters = join.counters();
            prop_assert_eq!(fates(&params, &join), counters.received_impressions + counters.received_clicks);
            prop_assert!(join.watermark() >= before);
            prop_assert!(join.open() <= params.open_impressions_max);
            prop_assert!(join.held_bytes() <= params.held_bytes_max.max(10), "one is always held");
            let held = join.entries().filter(payload_is_held).count();
            prop_assert_eq!(join.held_bytes(), 10 * held);
            prop_assert!(join.waiting() <= params.waiting_clicks_max);
            prop_assert!(join.retained() - join.open() <= params.remembered_max);
            prop_assert!(join.remembered() <= params.remembered_max.saturating_mul(2));
        }
    }

    #[test]
    fn an_impression_gets_at_most_one_label_of_each_kind(params in params(), calls in calls()) {
        use EmissionKind::{Correction, FakeNegative, FakePositive, Matured, Negative, Positive, Unlabelled};
        let (_, out) = run(params, &calls);
        let mut kinds: BTreeMap<i64, Vec<EmissionKind>> = BTreeMap::new();
        for emission in &out {
            kinds.entry(emission.payload).or_default().push(emission.kind);
        }
        for (impression, kinds) in kinds {
            let possible = matches!(
                kinds[..],
                [Positive | Negative | FakeNegative | Unlabelled]
                    | [Negative, Correction]
                    | [FakeNegative, FakePositive | Matured | Unlabelled]
                    | [FakeNegative, Matured, FakePositive]
            );
            prop_assert!(possible, "the impression of call {} got {:?}", impression, kinds);
        }
    }

    #[test]
    fn label_policies_differ_in_when_and_not_in_what(params in params(), calls in calls()) {
        use EmissionKind::{Correction, FakeNegative, FakePositive, Matured, Negative, Positive};
        let mut calls = calls;
        calls.push(Call::Flush);
        let unbounded = |labels| JoinParams {
            labels,
            open_impressions_max: usize::MAX,
            held_bytes_max: usize::MAX,
            waiting_clicks_max: usize::MAX,
            remembered_max: usize::MAX,
            ..params.clone()
        };
        let (clicks, at_click) = run(unbounded(LabelPolicy::AtClick), &calls);
        let (maturity, at_maturity) = run(unbounded(LabelPolicy::AtMaturity), &calls);
        let (_, fake) = run(unbounded(LabelPolicy::FakeNegative), &calls);
        prop_assert_eq!(clicks.scalars(), maturity.scalars());
        for kind in [Positive, Negative, Correction] {
            prop_assert_eq!(labels(&at_click, &[kind]), labels(&at_maturity, &[kind]));
        }
        for emission in at_maturity.iter().filter(|emission| emission.kind == Positive) {
            prop_assert!(emission.watermark > Some(emission.impression_time + params.window_ms));
        }
        prop_assert_eq!(labels(&at_click, &[Positive, Correction]), labels(&fake, &[FakePositive]));
        let matured = fake.iter().filter(|emission| emission.kind == Matured).map(|emission| &emission.impression_id);
        let negatives = at_click.iter().filter(|emission| emission.kind == Negative);
        prop_assert!(matured.eq(negatives.map(|emission| &emission.impression_id)), "other impressions matured");
        let fakes: Vec<_> = labels(&fake, &[FakeNegative]).into_iter().map(|(payload, _)| payload).collect();
        let mut all: Vec<_> = at_click.iter().filter(|emission| emission.kind != Correction).map(|e| e.payload).collect();
        all.sort_unstable();
        prop_assert_eq!(fakes, all);
    }
}
