mod refusals;

use super::*;
use crate::event::{Click, Decoded, Event, EventKind, Impression};
use crate::feature::{Entry, Features};
use crate::join::params::{JoinParams, LabelPolicy, LatePolicy};
use crate::model::params::{AdmissionParams, MlpParams, ModelParams, Parts};
use crate::model::{Inline, Scratch};
use crate::optim::params::{FtrlParams, SgdParams};

const IMPRESSIONS: Partition = Partition { kind: EventKind::Impression, number: 0 };
const CLICKS: Partition = Partition { kind: EventKind::Click, number: 0 };
const START: i64 = 1_700_000_000_000;

fn params() -> TrainParams {
    let ftrl = FtrlParams { alpha: 0.5, beta: 1.0, l1: 0.0, l2: 0.0, l21: 0.0 };
    TrainParams {
        join: JoinParams {
            window_ms: 100,
            click_before_ms: 0,
            lateness_ms: 0,
            retention_ms: 1000,
            labels: LabelPolicy::AtClick,
            late_clicks: LatePolicy::Drop,
            open_impressions_max: 100,
            held_bytes_max: usize::MAX,
            waiting_clicks_max: 100,
            remembered_max: 100,
        },
        model: ModelParams {
            fields: 1,
            embedding_dim: 2,
            parts: Parts::Linear,
            mlp: MlpParams { layers: Vec::new(), ..MlpParams::default() },
            bias: ftrl,
            linear: ftrl,
            embedding: ftrl,
            sgd: SgdParams { learning_rate: 0.1, momentum: 0.0, l2: 0.0, clip_norm: 0.0 },
            ..ModelParams::default()
        },
        batch: BatchParams { min: 1, max: 1, growth_examples: 1, span_ms: 1_000_000 },
        negative_sampling_rate: 1.0,
        window_impressions: 1000,
        metrics_sampling_rate: 1.0,
        breaker: None,
    }
}

/// A trainer over one partition of each kind, fed one record at a time. Each kind's other records are not waited for.
struct Feed {
    trainer: Trainer,
    next: std::collections::BTreeMap<Partition, i64>,
    scored: Vec<Scored>,
    unlearned: Vec<Unlearned>,
}

impl Feed {
    fn new(params: TrainParams) -> Self {
        let mut trainer = Trainer::new(params);
        for partition in [IMPRESSIONS, CLICKS] {
            let start = Control::Start { partition, next_offset: 0 };
            trainer.control(&start).expect("it is new");
        }
        Self { trainer, next: [(IMPRESSIONS, 0), (CLICKS, 0)].into(), scored: Vec::new(), unlearned: Vec::new() }
    }

    fn event(&mut self, partition: Partition, event: Event) {
        let offset = self.next[&partition];
        self.next.insert(partition, offset + 1);
        let body = Ok(Decoded { event, unknown_keys: 0, unknown_fields: 0 });
        self.trainer.push(partition, Arrival { offset, hash: 0, body }).expect("in order");
        let other = if partition == IMPRESSIONS { CLICKS } else { IMPRESSIONS };
        let scored = &mut self.scored;
        self.trainer.control(&Control::Idle(other)).expect("it is live");
        let step = self.trainer.step(&mut |s| scored.push(s)).expect("nothing is waited for");
        self.unlearned.extend(step.unlearned);
        self.trainer.control(&Control::Returned(other)).expect("it was idle");
    }

    fn impression(&mut self, id: &str, after_ms: i64, value: f32) {
        let features = Features::new(&[vec![Entry { id: 42, x: value }]]);
        let event_time = START + after_ms;
        self.event(
            IMPRESSIONS,
            Event::Impression(Impression {
                impression_id: id.into(),
                event_id: None,
                event_time,
                weight: 1.0,
                features,
            }),
        );
    }

    /// Lets every window before this time pass.
    fn passes(&mut self, after_ms: i64) {
        self.click("of nothing", after_ms);
    }

    fn click(&mut self, id: &str, after_ms: i64) {
        let event_time = START + after_ms;
        self.event(CLICKS, Event::Click(Click { impression_id: id.into(), event_id: None, event_time }));
    }
}

#[test]
fn an_impression_is_scored_with_the_weights_that_it_arrived_to() {
    let mut feed = Feed::new(params());
    feed.impression("a", 0, 1.0);
    feed.impression("b", 5, 1.0);
    feed.click("a", 10);
    assert_eq!(feed.trainer.learned(), 1);
    feed.impression("c", 20, 1.0);
    feed.click("b", 30);
    feed.click("c", 40);
    assert_eq!(feed.scored, [], "no label has matured");
    feed.passes(121);
    let logits: Vec<(u64, f64)> = feed.scored.iter().map(|scored| (scored.number, scored.logit)).collect();
    assert_eq!(logits[..2], [(0, 0.0), (1, 0.0)], "b arrived before a was learned");
    assert!(logits[2].1 > 0.1, "c arrived after: {logits:?}");
}

#[test]
fn metrics_do_not_depend_on_when_labels_are_learned() {
    let figures = |labels| {
        let join = JoinParams { labels, ..params().join };
        // Nothing is learned, so that scores are alike, and only labels and their order could differ.
        let batch = BatchParams { min: 1000, max: 1000, growth_examples: 1, span_ms: i64::MAX };
        let mut feed = Feed::new(TrainParams { join, batch, ..params() });
        for n in 0..50 {
            feed.impression(&n.to_string(), 20 * n, 1.0);
            if n % 3 == 0 {
                feed.click(&n.to_string(), 20 * n + 7);
            }
        }
        (feed.scored, feed.trainer.shown_scores().len())
    };
    let at_maturity = figures(LabelPolicy::AtMaturity);
    assert_eq!(at_maturity, figures(LabelPolicy::AtClick));
    assert_eq!(at_maturity, figures(LabelPolicy::FakeNegative));
    assert_eq!((at_maturity.0.len(), at_maturity.1), (44, 6), "the last window is not covered");
    assert_eq!(at_maturity.0.iter().filter(|scored| scored.label).count(), 15);
}

#[test]
fn an_impression_without_a_label_is_in_no_metric() {
    let join = JoinParams { open_impressions_max: 2, ..params().join };
    let mut feed = Feed::new(TrainParams { join, ..params() });
    for n in 0..3 {
        feed.impression(&n.to_string(), n, 1.0);
    }
    feed.passes(500);
    let numbers: Vec<u64> = feed.scored.iter().map(|scored| scored.number).collect();
    assert_eq!(numbers, [1, 2], "the first was closed at the bound");
    assert!(feed.trainer.shown_scores().is_empty());
}

#[test]
fn a_sample_of_impressions_is_scored_and_all_are_learned() {
    let mut feed = Feed::new(TrainParams { metrics_sampling_rate: 0.5, ..params() });
    for n in 0..200 {
        feed.impression(&format!("i{n}"), 2 * n, 1.0);
    }
    feed.passes(500);
    let counters = feed.trainer.counters();
    assert!((70..130).contains(&feed.scored.len()), "{}", feed.scored.len());
    assert_eq!((counters.learner.unscored + feed.scored.len() as u64, counters.learner.learned), (200, 200));
}

#[test]
fn shown_scores_of_clicked_impressions_are_bounded_too() {
    let join = JoinParams { open_impressions_max: 5, ..params().join };
    let mut feed = Feed::new(TrainParams { join, ..params() });
    for n in 0..20 {
        feed.impression(&n.to_string(), n, 1.0);
        feed.click(&n.to_string(), n);
    }
    assert_eq!(feed.trainer.join().open(), 0, "all were positive at once");
    assert_eq!((feed.trainer.shown_scores().len(), feed.trainer.counters().learner.scores_forgotten), (5, 15));
}

#[test]
fn at_the_bound_an_impression_is_in_the_metrics_or_not_whatever_its_label() {
    for labels in [LabelPolicy::AtClick, LabelPolicy::AtMaturity, LabelPolicy::FakeNegative] {
        let join = JoinParams { open_impressions_max: 8, labels, ..params().join };
        let mut feed = Feed::new(TrainParams { join, ..params() });
        for n in 0..60 {
            feed.impression(&n.to_string(), n, 1.0);
            if n % 2 == 0 {
                feed.click(&n.to_string(), n);
            }
        }
        feed.passes(500);
        let numbers: Vec<u64> = feed.scored.iter().map(|scored| scored.number).collect();
        let first = numbers[0];
        assert!(first > 30 && numbers.iter().copied().eq(first..60), "{labels:?}: {numbers:?}");
        assert!(feed.trainer.shown_scores().is_empty());
    }
}

#[test]
fn immediate_labels_give_every_impression_its_score_from_before_it_was_learned() {
    let batch = BatchParams { min: 3, max: 3, growth_examples: 1, span_ms: i64::MAX };
    let mut trainer = Trainer::new(TrainParams { batch, ..params() });
    trainer.control(&Control::Start { partition: IMPRESSIONS, next_offset: 0 }).expect("it is new");
    let mut scored = Vec::new();
    for offset in 0..8 {
        let features = Features::new(&[vec![Entry { id: 42, x: 1.0 }]]);
        let impression_id = offset.to_string().into();
        let event_time = START + offset;
        let impression = Impression { impression_id, event_id: None, event_time, weight: 1.0, features };
        let body = Ok(Decoded { event: Event::Impression(impression), unknown_keys: 0, unknown_fields: 0 });
        trainer.push(IMPRESSIONS, Arrival { offset, hash: 0, body }).expect("in order");
        trainer.step_labelled(&|_| true, &mut |s| scored.push(s)).expect("nothing is waited for");
    }
    trainer.learn_rest(&mut |s| scored.push(s));
    let numbers: Vec<u64> = scored.iter().map(|scored| scored.number).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
    let logits: Vec<f64> = scored.iter().map(|scored| scored.logit).collect();
    assert_eq!(logits[..3], [0.0; 3], "one batch, one model");
    assert!(logits[3] > 0.1 && logits[3] == logits[5] && logits[6] > logits[5], "{logits:?}");
    assert_eq!(trainer.learned(), 8);
}

#[test]
fn a_half_filled_batch_is_cut_when_the_logs_time_has_moved_past_its_span() {
    let batch = BatchParams { min: 100, max: 100, growth_examples: 1, span_ms: 500 };
    let mut feed = Feed::new(TrainParams { batch, ..params() });
    feed.impression("a", 0, 1.0);
    feed.click("a", 10);
    feed.impression("b", 509, 1.0);
    assert_eq!(feed.trainer.learned(), 0, "499 ms are not the span");
    feed.impression("c", 510, 1.0);
    assert_eq!(feed.trainer.learned(), 1);
}

#[test]
fn the_batch_grows_with_the_number_of_examples_learned() {
    let batch = BatchParams { min: 8, max: 256, growth_examples: 100, span_ms: 0 };
    let sizes: Vec<usize> = [0, 899, 900, 5000, u64::MAX].map(|learned| batch.size(learned)).to_vec();
    assert_eq!(sizes, [8, 8, 9, 50, 256]);
}

#[test]
fn down_sampled_negatives_are_counted_and_their_logits_corrected() {
    let mut feed = Feed::new(TrainParams { negative_sampling_rate: 0.5, ..params() });
    for n in 0..200 {
        feed.impression(&format!("i{n}"), n * 200, 1.0);
    }
    let counters = feed.trainer.counters();
    assert!((70..130).contains(&counters.learner.sampled_out), "{counters:?}");
    assert_eq!(counters.learner.sampled_out + counters.learner.learned, 199, "the last impression is open");
    assert_eq!(feed.scored.len(), 199, "negatives that are not learned are scored as well");
    assert!(feed.scored.iter().all(|scored| scored.weight == 1.0 && !scored.label), "{:?}", feed.scored);
    let offset = -std::f64::consts::LN_2;
    assert!((feed.scored[0].logit - offset).abs() < 1e-12, "the first logit is the correction alone");
}

#[test]
fn a_late_click_corrects_what_was_learned_but_is_not_counted_twice_in_the_metrics() {
    let join = JoinParams { late_clicks: LatePolicy::Correct, ..params().join };
    let mut feed = Feed::new(TrainParams { join, ..params() });
    feed.impression("a", 0, 1.0);
    feed.impression("b", 150, 1.0);
    assert_eq!((feed.scored.len(), feed.trainer.learned()), (1, 1), "a was labelled negative");
    feed.click("a", 90);
    assert_eq!((feed.scored.len(), feed.trainer.learned()), (1, 2));
    assert_eq!(feed.trainer.join_counters().corrections, 1);
}

#[test]
fn a_fake_negative_is_metered_with_its_matured_label() {
    let join = JoinParams { labels: LabelPolicy::FakeNegative, ..params().join };
    let mut feed = Feed::new(TrainParams { join, ..params() });
    feed.impression("clicked", 0, 1.0);
    assert_eq!((feed.scored.len(), feed.trainer.learned()), (0, 1), "learned at once, metered later");
    feed.click("clicked", 10);
    feed.impression("ignored", 20, 1.0);
    feed.impression("later", 500, 1.0);
    let labels: Vec<(u64, bool)> = feed.scored.iter().map(|scored| (scored.number, scored.label)).collect();
    assert_eq!(labels, [(0, true), (1, false)]);
    assert_eq!(feed.scored[0].logit, 0.0, "the score is from before its own fake negative");
}

#[test]
fn nothing_has_matured_before_the_watermark_has_passed_the_first_impression_and_its_window() {
    let mut feed = Feed::new(params());
    assert!(!feed.trainer.has_matured());
    feed.impression("a", 0, 1.0);
    feed.impression("b", 100, 1.0);
    assert!(!feed.trainer.has_matured(), "the window includes its end");
    feed.impression("c", 101, 1.0);
    assert!(feed.trainer.has_matured());
}

/// Twenty impressions of one id, each clicked, and their scores.
fn scores_of_one_id(admission: AdmissionParams) -> Vec<f64> {
    let model = ModelParams { admission, ..params().model };
    let mut feed = Feed::new(TrainParams { model, ..params() });
    for n in 0..20 {
        feed.impression(&n.to_string(), 10 * n, 1.0);
        feed.click(&n.to_string(), 10 * n + 1);
    }
    assert_eq!(feed.trainer.model().row_count() + feed.trainer.model().candidates().len(), 1);
    feed.passes(10_000);
    feed.scored.iter().map(|scored| scored.logit).collect()
}

#[test]
fn an_id_weighs_nothing_until_it_was_counted_often_enough() {
    let at_once = scores_of_one_id(AdmissionParams::default());
    let third = scores_of_one_id(AdmissionParams { min_count: 3, ..AdmissionParams::default() });
    let never = scores_of_one_id(AdmissionParams { min_count: 21, ..AdmissionParams::default() });
    // Only the bias learns before the id is admitted; the score that shows its weight is the one after.
    assert_eq!(third[..3], never[..3]);
    assert!(third[3] > never[3] && at_once[1] > never[1], "{third:?} {never:?} {at_once:?}");
}

#[test]
fn a_full_table_makes_room_for_new_ids_and_counts_what_goes() {
    let admission = AdmissionParams { rows_max: 1, ..AdmissionParams::default() };
    let model = ModelParams { fields: 1, admission, ..params().model };
    let mut feed = Feed::new(TrainParams { model, ..params() });
    for (n, id) in [1, 2, 3, 1].into_iter().enumerate() {
        let features = Features::new(&[vec![Entry { id, x: 1.0 }]]);
        let (impression_id, event_time) = (n.to_string().into(), START + 10 * n as i64);
        let impression = Impression { impression_id, event_id: None, event_time, weight: 1.0, features };
        feed.event(IMPRESSIONS, Event::Impression(impression));
        feed.click(&n.to_string(), 10 * n as i64 + 1);
    }
    assert_eq!(feed.trainer.model().row_count(), 1);
    assert_eq!((feed.trainer.counters().learner.rows_evicted, feed.trainer.counters().learner.ids_refused), (3, 0));
    assert!(feed.trainer.model().table().find(1).is_some(), "what came last is there, though it went before");
}

#[test]
fn rows_that_are_not_learned_for_long_expire_by_event_time() {
    let admission = AdmissionParams { expire_after_seconds: 10, ..AdmissionParams::default() };
    let model = ModelParams { admission, ..params().model };
    let mut feed = Feed::new(TrainParams { model, ..params() });
    feed.impression("old", 0, 1.0);
    feed.click("old", 1);
    assert_eq!(feed.trainer.model().row_count(), 1);
    for n in 0..4 {
        let features = Features::new(&[vec![Entry { id: 7, x: 1.0 }]]);
        let (impression_id, event_time) = (n.to_string().into(), START + 20_000 + 10 * n);
        let impression = Impression { impression_id, event_id: None, event_time, weight: 1.0, features };
        feed.event(IMPRESSIONS, Event::Impression(impression));
        feed.click(&n.to_string(), 20_000 + 10 * n + 1);
    }
    assert_eq!(feed.trainer.counters().learner.rows_expired, 1);
    assert_eq!(feed.trainer.model().table().find(42), None, "what expired is as if never seen");
    assert!(feed.trainer.model().table().find(7).is_some());
}

#[test]
fn immediate_labels_let_rows_expire_by_the_logs_time_too() {
    let admission = AdmissionParams { expire_after_seconds: 10, ..AdmissionParams::default() };
    let model = ModelParams { admission, ..params().model };
    let mut trainer = Trainer::new(TrainParams { model, ..params() });
    trainer.control(&Control::Start { partition: IMPRESSIONS, next_offset: 0 }).expect("it is new");
    for offset in 0..8 {
        let (id, event_time) = if offset == 0 { (42, START) } else { (7, START + 20_000 + offset) };
        let features = Features::new(&[vec![Entry { id, x: 1.0 }]]);
        let impression_id = offset.to_string().into();
        let impression = Impression { impression_id, event_id: None, event_time, weight: 1.0, features };
        let body = Ok(Decoded { event: Event::Impression(impression), unknown_keys: 0, unknown_fields: 0 });
        trainer.push(IMPRESSIONS, Arrival { offset, hash: 0, body }).expect("in order");
        trainer.step_labelled(&|_| false, &mut |_| ()).expect("nothing is waited for");
    }
    assert_eq!(trainer.counters().learner.rows_expired, 1);
    assert!(trainer.model().table().find(42).is_none() && trainer.model().table().find(7).is_some());
}

#[test]
fn other_optimizer_parameters_leave_every_weight_where_it_is() {
    let mut feed = Feed::new(params());
    for n in 0..20 {
        feed.impression(&n.to_string(), 10 * n, 1.0);
        feed.click(&n.to_string(), 10 * n + 1);
    }
    let row = feed.trainer.model().table().find(42).expect("it was learned");
    let before = feed.trainer.model().row_weights(row, &mut [0.0; 2]);
    let ftrl = FtrlParams { alpha: 0.05, beta: 0.5, l1: 0.0, l2: 1.0, l21: 0.0 };
    let other = TrainParams { model: ModelParams { linear: ftrl, embedding: ftrl, ..params().model }, ..params() };
    let parameters = other.to_text();
    feed.trainer.control(&Control::Configured { parameters, fields: Vec::new() }).expect("only optimizers change");
    let after = feed.trainer.model().row_weights(row, &mut [0.0; 2]);
    assert!((after - before).abs() < 1e-6 && before.abs() > 0.1, "{before} {after}");
    assert!(feed.trainer.largest_change() < 1e-6);
    assert_eq!(*feed.trainer.params(), other);
    let shape = TrainParams { model: ModelParams { embedding_dim: 3, ..other.model.clone() }, ..other };
    let parameters = shape.to_text();
    let refused = feed.trainer.control(&Control::Configured { parameters, fields: Vec::new() });
    assert!(matches!(refused, Err(StreamError::Parameters { .. })), "{refused:?}");
}

#[test]
fn an_added_field_moves_no_score_and_is_learned_from_then_on() {
    let mlp = MlpParams { layers: vec![4, 3], ..MlpParams::default() };
    let model = ModelParams { parts: Parts::Deepfm, mlp, init_scale: 0.3, ..params().model };
    let mut feed = Feed::new(TrainParams { model, ..params() });
    for n in 0..20 {
        feed.impression(&n.to_string(), 10 * n, 1.0);
        feed.click(&n.to_string(), 10 * n + 1);
    }
    feed.impression("waits", 200, 1.0);
    let entry = |id| vec![Entry { id, x: 1.0 }];
    let score =
        |feed: &Feed, features: &Features| feed.trainer.model().score(&[features], &mut Scratch::default(), &Inline)[0];
    let before = score(&feed, &Features::new(&[entry(42)]));
    let old = feed.trainer.params().clone();
    let wider = TrainParams { model: ModelParams { fields: 2, ..old.model.clone() }, ..old.clone() };
    assert!(!wider.can_become(&old), "a field is not taken away");
    let parameters = wider.to_text();
    let control = Control::Configured { parameters, fields: Vec::new() };
    feed.trainer.control(&control).expect("a field may be added");
    let both = Features::new(&[entry(42), entry(7)]);
    assert!((score(&feed, &both) - before).abs() < 1e-6, "the new field has no weight yet");
    let dense = feed.trainer.model().dense();
    assert_eq!(dense.mlp.len(), dense.momentum.len());
    // What was held from before has one field, what comes has two.
    feed.click("waits", 201);
    let impression_id: crate::event::Id = "new".into();
    let impression =
        Impression { impression_id, event_id: None, event_time: START + 210, weight: 1.0, features: both.clone() };
    feed.event(IMPRESSIONS, Event::Impression(impression));
    feed.click("new", 211);
    let alone = score(&feed, &Features::new(&[Vec::new(), entry(7)]));
    let nothing = score(&feed, &Features::new(&[Vec::new(), Vec::new()]));
    assert!(alone > nothing, "{alone} {nothing}");
}
