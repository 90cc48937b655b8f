//! What happens at the bounds.

use super::super::EmissionKind;
use super::super::params::{JoinParams, LabelPolicy};
use super::{PARAMS, Run, label};

#[test]
fn at_the_bound_the_oldest_open_impression_is_closed_unlabelled() {
    let mut run = Run::new(JoinParams { open_impressions_max: 2, ..PARAMS });
    run.impression("b", 1000);
    run.impression("a", 1000);
    run.impression("older", 999);
    assert_eq!((run.join.open(), run.join.counters().closed_unlabelled), (2, 1));
    run.click("a", 1010);
    assert_eq!(run.join.counters().unlabelled_click, 1, "a is before b");
    run.impression("z", 1200);
    assert_eq!(run.join.counters().closed_unlabelled, 2, "older goes although this record ends its window");
    let unlabelled = |id| label(EmissionKind::Unlabelled, id, None);
    assert_eq!(run.said(), [unlabelled("a"), unlabelled("older"), label(EmissionKind::Negative, "b", None)]);
    assert_eq!(run.join.retained(), 4);
}

#[test]
fn an_impression_that_is_positive_at_once_needs_no_room() {
    let mut run = Run::new(JoinParams { open_impressions_max: 1, ..PARAMS });
    run.impression("a", 1000);
    run.click("b", 1010);
    run.impression("b", 1000);
    assert_eq!(run.said(), [label(EmissionKind::Positive, "b", Some(1010))]);
    assert_eq!((run.join.open(), run.join.counters().closed_unlabelled), (1, 0));
}

#[test]
fn the_click_of_an_impression_closed_before_maturity_is_unlabelled() {
    let mut run = Run::new(JoinParams { labels: LabelPolicy::AtMaturity, open_impressions_max: 1, ..PARAMS });
    run.impression("a", 1000);
    run.click("a", 1010);
    run.impression("b", 1020);
    let counters = run.join.counters();
    assert_eq!((counters.closed_unlabelled, counters.unlabelled_click, counters.click_coverage()), (1, 1, Some(0.0)));
}

#[test]
fn at_the_bound_the_oldest_waiting_click_is_forgotten() {
    let mut run = Run::new(JoinParams { waiting_clicks_max: 2, ..PARAMS });
    run.click("a", 1010);
    run.click("b", 1005);
    run.click("c", 1020);
    assert_eq!((run.join.waiting(), run.join.counters().forgotten_waiting), (2, 1));
    run.impression("a", 1000);
    run.impression("b", 1000);
    assert_eq!(run.said(), [label(EmissionKind::Positive, "a", Some(1010))]);
    assert_eq!(run.join.open(), 1, "the click of b was the oldest");
}

#[test]
fn at_the_bound_the_oldest_resolved_impressions_and_event_ids_are_forgotten() {
    let mut run = Run::new(JoinParams { remembered_max: 1, ..PARAMS });
    run.impression_event("a", 1000, Some("e1"));
    run.impression_event("b", 1001, Some("e2"));
    assert_eq!((run.join.remembered(), run.join.counters().forgotten_event_ids), (1, 1));
    run.click("a", 1010);
    run.click("b", 1010);
    assert_eq!((run.join.retained(), run.join.counters().forgotten_impressions), (1, 1));
    run.impression_event("c", 1002, Some("e1"));
    assert_eq!(run.join.counters().duplicate, 0, "e1 was forgotten");
    run.click("a", 1020);
    assert_eq!(run.join.waiting(), 1, "a was forgotten");
    run.click("b", 1020);
    assert_eq!(run.join.counters().extra_click, 1, "b was not");
}

#[test]
fn at_the_bound_of_bytes_the_remembered_go_before_the_open() {
    let mut run = Run::new(JoinParams { held_bytes_max: 30, ..PARAMS });
    run.impression("negative", 1000);
    run.impression("b", 1101);
    run.impression("c", 1102);
    assert_eq!((run.join.held_bytes(), run.join.retained()), (30, 3), "the negative waits for its late click");
    run.impression("d", 1103);
    let counters = run.join.counters();
    assert_eq!((counters.forgotten_impressions, counters.closed_unlabelled, run.join.held_bytes()), (1, 0, 30));
    run.impression("e", 1104);
    let counters = run.join.counters();
    assert_eq!((counters.forgotten_impressions, counters.closed_unlabelled, run.join.held_bytes()), (1, 1, 30));
    run.click("b", 1110);
    assert_eq!(run.join.counters().unlabelled_click, 1, "b was the oldest open one");
}

#[test]
fn at_the_bound_of_bytes_nothing_is_forgotten_that_has_none() {
    let mut run = Run::new(JoinParams { held_bytes_max: 30, ..PARAMS });
    for (id, time) in [("a", 1000), ("b", 1001)] {
        run.impression(id, time);
        run.click(id, time + 1);
    }
    for (id, time) in [("c", 1002), ("d", 1003), ("e", 1004), ("f", 1005)] {
        run.impression(id, time);
    }
    let counters = run.join.counters();
    assert_eq!((counters.forgotten_impressions, counters.closed_unlabelled), (0, 1), "positives hold no payload");
    run.click("a", 1010);
    assert_eq!(run.join.counters().extra_click, 1, "a is remembered");
}
