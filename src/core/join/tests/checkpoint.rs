//! What a checkpoint holds, and the sum that stands for it in a digest.

use super::super::{ImpressionState, Join, JoinEntry, JoinRestoreError, WaitingClick};
use super::super::{digest::Sum, memory, waiting};
use super::{CLICKS, PARAMS, Run};
use crate::event::EventKind;

/// The sum over all entries, from nothing.
pub(super) fn recomputed(join: &Join<i64>) -> u128 {
    let mut sum = Sum::default();
    for entry in join.entries() {
        match entry {
            JoinEntry::Impression { impression_id, time, state } => {
                let state = state.map(|payload| Sum::default().hash(&payload));
                sum.add(&(0_u8, impression_id, time, state));
            }
            JoinEntry::Click { impression_id, click } => sum.add(&waiting::bytes_of(&impression_id, &click)),
            JoinEntry::EventId { kind, time, id } => sum.add(&memory::bytes_of(kind, time, id)),
        }
    }
    sum.total()
}

/// The entries of a join as a checkpoint brings them back.
pub(super) fn reread(join: &Join<i64>) -> Vec<JoinEntry<i64>> {
    let reread = |entry: JoinEntry<i64>| {
        let bytes = postcard::to_stdvec(&entry).expect("entries have a form in postcard");
        postcard::from_bytes(&bytes).expect("that form reads back")
    };
    join.entries().map(reread).collect()
}

#[test]
fn the_sum_depends_on_every_part_of_an_entry() {
    let mut run = Run::new(PARAMS);
    run.impression_event("a", 1000, Some("e"));
    run.click_event("b", 1000, Some("e"));
    let sum = |entries: Vec<JoinEntry<i64>>| {
        Join::restore(PARAMS, &run.join.scalars(), entries).expect("entries of a join").entries_sum()
    };
    let entries = reread(&run.join);
    assert_eq!(sum(entries.clone()), run.join.entries_sum());
    let mut sums = vec![run.join.entries_sum()];
    for (index, entry) in entries.iter().enumerate() {
        for changed in changed(entry) {
            let mut entries = entries.clone();
            entries[index] = changed;
            sums.push(sum(entries));
        }
        let mut entries = entries.clone();
        entries.remove(index);
        sums.push(sum(entries));
    }
    let all = sums.len();
    sums.sort_unstable();
    sums.dedup();
    assert_eq!(sums.len(), all, "two different sets of entries have one sum");
}

/// Every other entry that differs from this one in one part.
fn changed(entry: &JoinEntry<i64>) -> Vec<JoinEntry<i64>> {
    match entry.clone() {
        JoinEntry::Impression { impression_id, time, state: _ } => {
            let with_state = |state| JoinEntry::Impression { impression_id: impression_id.clone(), time, state };
            vec![
                JoinEntry::Impression { impression_id: "x".into(), time, state: ImpressionState::Open(time) },
                JoinEntry::Impression {
                    impression_id: impression_id.clone(),
                    time: 1,
                    state: ImpressionState::Open(time),
                },
                with_state(ImpressionState::Open(1)),
                with_state(ImpressionState::Faked(time)),
                with_state(ImpressionState::Negative(Some(time))),
                with_state(ImpressionState::Negative(None)),
                with_state(ImpressionState::Positive),
                with_state(ImpressionState::Corrected),
                with_state(ImpressionState::Unlabelled),
            ]
        }
        JoinEntry::Click { impression_id, click } => vec![
            JoinEntry::Click { impression_id: "x".into(), click: click.clone() },
            JoinEntry::Click { impression_id: impression_id.clone(), click: waiting_at(&click, 1, 0) },
            JoinEntry::Click { impression_id, click: waiting_at(&click, 0, 1) },
        ],
        JoinEntry::EventId { kind, time, id } => vec![JoinEntry::EventId { kind, time: time + 1, id }],
    }
}

fn waiting_at(click: &WaitingClick, later: i64, further: i64) -> WaitingClick {
    WaitingClick { time: click.time + later, offset: click.offset + further, ..click.clone() }
}

#[test]
fn repeated_entries_are_refused() {
    let mut run = Run::new(PARAMS);
    run.impression_event("a", 1000, Some("e"));
    run.click("b", 1000);
    let entries = reread(&run.join);
    assert_eq!(entries.len(), 3);
    for (index, entry) in entries.iter().enumerate() {
        let repeated = entries.iter().chain([entry]).cloned();
        let error = Join::restore(PARAMS, &run.join.scalars(), repeated).expect_err("an entry is listed twice");
        let expected = match index {
            0 => JoinRestoreError::RepeatedImpression("a".into()),
            1 => JoinRestoreError::RepeatedClick { partition: CLICKS, offset: 1 },
            _ => JoinRestoreError::RepeatedEventId { kind: EventKind::Impression, time: 1000 },
        };
        assert_eq!(error, expected);
    }
}
