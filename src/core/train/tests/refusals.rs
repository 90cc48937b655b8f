//! Examples that cannot be learned: only they are lost, they are named, and nothing corrects them.

use super::*;

#[test]
fn of_a_batch_only_the_example_at_fault_is_lost_and_it_is_named() {
    let batch = BatchParams { min: 3, max: 3, growth_examples: 1, span_ms: 1_000_000 };
    let mut feed = Feed::new(TrainParams { batch, ..params() });
    for (n, (id, value)) in [("a", 1.0), ("huge", f32::MIN), ("b", 1.0)].into_iter().enumerate() {
        feed.impression(id, 20 * n as i64, value);
        feed.click(id, 20 * n as i64 + 10);
    }
    let counters = feed.trainer.counters();
    assert_eq!((counters.learner.batches, counters.learner.batches_refused), (1, 0));
    assert_eq!((counters.learner.examples_refused, counters.learner.learned), (1, 2));
    let huge = Unlearned { partition: IMPRESSIONS, offset: 1, impression_id: "huge".into() };
    assert_eq!(feed.unlearned, [huge]);
    feed.passes(200);
    let numbers: Vec<u64> = feed.scored.iter().map(|scored| scored.number).collect();
    assert_eq!(numbers, [0, 2], "it is not metered");
}

#[test]
fn a_batch_with_a_non_finite_gradient_is_refused_and_the_join_goes_on() {
    let mut feed = Feed::new(params());
    feed.impression("a", 0, 1.0);
    feed.click("a", 10);
    let rows = feed.trainer.learner.model.rows_digest();
    feed.impression("huge", 20, f32::MIN);
    feed.click("huge", 30);
    let counters = feed.trainer.counters();
    assert_eq!(
        (counters.learner.batches_refused, counters.learner.examples_refused, counters.learner.learned),
        (1, 1, 1)
    );
    let huge = Unlearned { partition: IMPRESSIONS, offset: 1, impression_id: "huge".into() };
    assert_eq!(feed.unlearned, [huge]);
    assert_eq!(feed.unlearned[0].refusal().reason, Reason::NotFinite);
    assert_eq!(feed.trainer.learner.model.rows_digest(), rows);
    feed.impression("b", 40, 1.0);
    feed.click("b", 50);
    assert_eq!(feed.trainer.learned(), 2);
    feed.click("huge", 60);
    assert_eq!(feed.trainer.learned(), 2, "a second click on a refused impression teaches nothing");
    feed.passes(200);
    let numbers: Vec<u64> = feed.scored.iter().map(|scored| scored.number).collect();
    assert_eq!(numbers, [0, 2], "a refused impression is not metered");
}

#[test]
fn what_was_never_learned_is_not_corrected_and_is_remembered_for_as_long_as_it_could_be() {
    let join = JoinParams { labels: LabelPolicy::AtMaturity, late_clicks: LatePolicy::Correct, ..params().join };
    let mut feed = Feed::new(TrainParams { join, ..params() });
    feed.impression("a", 0, 1.0);
    feed.click("a", 10);
    feed.passes(150);
    feed.impression("huge", 200, f32::MAX);
    feed.impression("huge too", 201, f32::MAX);
    feed.passes(400);
    assert_eq!(feed.unlearned.len(), 2, "sure of a click, and wrong");
    feed.click("huge", 250);
    let counters = feed.trainer.counters().learner;
    assert_eq!((counters.corrections_ignored, counters.learned), (1, 1));
    assert_eq!(feed.trainer.scalars().refused.len(), 2);
    // Window and retention have passed: the join corrects neither any more.
    feed.passes(200 + 100 + 1000 + 3);
    assert_eq!(feed.trainer.scalars().refused, []);
}

#[test]
fn at_their_bound_the_oldest_refusal_is_forgotten_and_counted() {
    let join = JoinParams { remembered_max: 3, ..params().join };
    let mut feed = Feed::new(TrainParams { join, ..params() });
    feed.impression("a", 0, 1.0);
    feed.click("a", 10);
    for n in 0..5 {
        let id = format!("huge{n}");
        feed.impression(&id, 20 + n, f32::MIN);
        feed.click(&id, 25 + n);
    }
    let numbers: Vec<u64> = feed.trainer.scalars().refused.iter().map(|(_, number)| *number).collect();
    assert_eq!((numbers, feed.trainer.counters().learner.refusals_forgotten), (vec![3, 4, 5], 2));
}
