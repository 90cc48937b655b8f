use proptest::prelude::*;

use super::*;
use crate::feature::{Entry, hash};
use crate::model::params::{AdmissionParams, MlpParams, Parts};
use crate::optim::params::{FtrlParams, SgdParams};

const FTRL: FtrlParams = FtrlParams { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 0.0, l21: 0.0 };

fn params(admission: AdmissionParams) -> ModelParams {
    ModelParams {
        fields: 2,
        embedding_dim: 3,
        init_scale: 0.2,
        mlp: MlpParams { layers: vec![4], ..MlpParams::default() },
        bias: FTRL,
        linear: FTRL,
        embedding: FTRL,
        sgd: SgdParams { learning_rate: 0.05, momentum: 0.0, l2: 0.0, clip_norm: 10.0 },
        gradient_max: Some(1.0),
        admission,
        ..ModelParams::default()
    }
}

fn features(one: &[(u64, f32)], two: &[(u64, f32)]) -> Features {
    let entries = |pairs: &[(u64, f32)]| pairs.iter().map(|(id, x)| Entry { id: *id, x: *x }).collect();
    Features::new(&[entries(one), entries(two)])
}

fn example(features: &Features, label: f32, number: u64) -> Example<'_> {
    Example { features, label, weight: 1.0, importance: Importance::None, number }
}

fn learn(model: &mut DeepFm, batch: &[Example<'_>], seconds: u32) -> Result<Learned, NonFinite> {
    model.learn(batch, batch.len() as f32, seconds, &mut Scratch::default(), &Inline)
}

/// A model of two ids that were learned often.
fn mature(gradient_max: Option<f32>) -> DeepFm {
    let mut model = DeepFm::new(ModelParams { gradient_max, ..params(AdmissionParams::default()) });
    let features = features(&[(1, 1.0)], &[(2, 1.0)]);
    for n in 0..400 {
        let label = if hash::unit(5, n) < 0.3 { 1.0 } else { 0.0 };
        learn(&mut model, &[example(&features, label, n)], 0).expect("finite");
    }
    model
}

/// The sums of squared gradients of the bias and of a row.
fn sums(model: &DeepFm, id: u64) -> Vec<f32> {
    let row = model.table().find(id).expect("it was learned");
    let n = &model.table().state(row)[1 + model.params().embedding_dim..];
    [&[model.dense.bias_n], n].concat()
}

/// How much the sums of the two ids grow by one example at most: n' over the larger of n and 1.
fn growth(gradient_max: Option<f32>, features: &Features, weight: f32) -> f32 {
    let mut model = mature(gradient_max);
    let before = [sums(&model, 1), sums(&model, 2)].concat();
    learn(&mut model, &[Example { weight, ..example(features, 1.0, 400) }], 0).expect("finite");
    let after = [sums(&model, 1), sums(&model, 2)].concat();
    before.iter().zip(after).map(|(before, after)| after / before.max(1.0)).fold(0.0, f32::max)
}

#[test]
fn one_weight_of_a_million_does_not_cut_the_learning_rate_of_the_rows_it_shares() {
    let poison = features(&[(1, 1.0), (3, 1e6)], &[(2, 1.0)]);
    assert!(growth(None, &poison, 1.0) > 1e4, "without the bound it does");
    assert!(growth(Some(1.0), &poison, 1.0) < 2.01);
}

#[test]
fn an_example_of_weight_a_million_no_more_than_doubles_a_sum_of_squares_nor_does_a_value_repeated_a_thousand_times() {
    let plain = features(&[(1, 1.0)], &[(2, 1.0)]);
    assert!(growth(None, &plain, 1e6) > 1e4, "without the bound it does");
    assert!(growth(Some(1.0), &plain, 1e6) < 2.01);
    let repeated = features(&[(1, 1.0); 1000], &[(2, 1.0)]);
    assert!(growth(None, &repeated, 1.0) > 1e3, "without the bound it does");
    assert!(growth(Some(1.0), &repeated, 1.0) < 2.01);
}

#[test]
fn a_bound_that_nothing_reaches_changes_no_bit() {
    let digests = [None, Some(1e9)].map(|bound| mature(bound).rows_digest());
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn an_example_that_is_not_finite_is_left_out_and_the_others_are_learned_as_if_it_were_not_there() {
    let sound = [features(&[(1, 1.0)], &[(2, 1.0)]), features(&[(1, 0.5)], &[(4, 1.0)])];
    let bad = features(&[(1, f32::MAX), (5, f32::MAX)], &[(2, f32::MAX)]);
    let (mut model, mut other) = (mature(Some(1.0)), mature(Some(1.0)));
    let batch = [example(&sound[0], 1.0, 400), example(&bad, 0.0, 401), example(&sound[1], 0.0, 402)];
    let mut scratch = Scratch::default();
    let learned = model.learn(&batch, 3.0, 9, &mut scratch, &Inline).expect("two are finite");
    assert_eq!((learned.at_fault, scratch.logits().len()), (vec![1], 2));
    other.learn(&[batch[0], batch[2]], 3.0, 9, &mut scratch, &Inline).expect("finite");
    assert_eq!((model.rows_digest(), model.dense()), (other.rows_digest(), other.dense()));
    assert_eq!(model.table().find(5), None);
    let before = (model.rows_digest(), model.dense());
    assert_eq!(learn(&mut model, &[batch[1], batch[1]], 9), Err(NonFinite), "nothing could be learned");
    assert_eq!((model.rows_digest(), model.dense()), before);
}

/// Batches of new ids and of some that were seen before, as a log has them.
fn batch_features(n: u64) -> Vec<Features> {
    let id = |lane| hash::mix64(hash::hash(1, n, lane) % (200 + 20 * n));
    (0..8).map(|lane| features(&[(id(2 * lane), 1.0)], &[(id(2 * lane + 1), 1.0)])).collect()
}

fn learn_log(model: &mut DeepFm, batches: std::ops::Range<u64>) -> Learned {
    let mut all = Learned::default();
    for n in batches {
        let features = batch_features(n);
        let batch: Vec<Example<'_>> = features.iter().map(|f| example(f, (n % 2) as f32, n)).collect();
        let learned = learn(model, &batch, n as u32).expect("finite");
        let admission = model.params().admission;
        assert!(model.row_count() <= admission.rows_max && model.candidates().len() <= admission.rows_max);
        all.rows_created += learned.rows_created;
        all.rows_evicted += learned.rows_evicted;
        all.candidates_evicted += learned.candidates_evicted;
        all.ids_refused += learned.ids_refused;
    }
    all
}

#[test]
fn a_full_table_keeps_learning_new_ids_and_the_rows_unseen_the_longest_go() {
    let mut model = DeepFm::new(params(AdmissionParams { rows_max: 100, ..AdmissionParams::default() }));
    let learned = learn_log(&mut model, 0..300);
    assert_eq!(model.row_count(), 100);
    assert_eq!(learned.rows_created - learned.rows_evicted, 100);
    assert!(learned.rows_evicted > 1000 && learned.ids_refused == 0, "{learned:?}");
    let newest = batch_features(299);
    let ids = newest.iter().flat_map(|features| features.ids().iter().copied());
    assert!(ids.into_iter().all(|id| model.table().find(id).is_some()), "what was learned last is there");
    let oldest = model.table().numbers().map(|row| model.table().head(row).last_seen).min();
    assert!(oldest > Some(285), "100 rows are those of some seven batches: {oldest:?}");
}

#[test]
fn a_batch_of_more_new_ids_than_there_can_be_rows_refuses_the_rest_and_counts_them() {
    let mut model = DeepFm::new(params(AdmissionParams { rows_max: 10, ..AdmissionParams::default() }));
    let learned = learn_log(&mut model, 0..1);
    assert_eq!((model.row_count(), learned.rows_created), (10, 10));
    assert!(learned.ids_refused > 0);
}

#[test]
fn candidates_at_their_bound_make_room_for_new_ones() {
    let admission = AdmissionParams { rows_max: 50, min_count: 2, ..AdmissionParams::default() };
    let mut model = DeepFm::new(params(admission));
    let learned = learn_log(&mut model, 0..300);
    assert!(learned.candidates_evicted > 1000 && learned.rows_evicted > 0 && learned.ids_refused == 0, "{learned:?}");
    assert_eq!(model.candidates().len(), 50);
}

#[test]
fn a_full_model_goes_on_alike_after_a_restart_from_its_base_and_deltas() {
    for rows_max in [100, 12_000] {
        let admission = AdmissionParams { rows_max, min_count: 2, ..AdmissionParams::default() };
        let mut through = DeepFm::new(params(admission));
        // Enough new ids that the larger table, looked through by shards, is full too.
        let flood = |model: &mut DeepFm, start: u64, count: u64| {
            for n in start..start + count {
                let features: Vec<Features> = (0..64)
                    .map(|k| features(&[(hash::mix64(64 * (n / 2) + k), 1.0)], &[(hash::mix64(k), 1.0)]))
                    .collect();
                let batch: Vec<Example<'_>> = features.iter().map(|f| example(f, (n % 2) as f32, n)).collect();
                learn(model, &batch, n as u32).expect("finite");
            }
        };
        flood(&mut through, 0, 400);
        let (row_bytes, candidate_bytes) = (through.row_bytes(), candidates::CANDIDATE_BYTES);
        let mut layers = vec![(through.table_mut().copy_all(), through.candidates_mut().copy_all())];
        flood(&mut through, 400, 200);
        layers.push((
            through.table_mut().copy_unsaved().expect("everything was saved before"),
            through.candidates_mut().copy_unsaved().expect("everything was saved before"),
        ));
        // The newest form of an id counts; a count of 0 is a tombstone.
        let (mut rows, mut candidates) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
        for (some_rows, some_candidates) in &layers {
            rows.extend(some_rows.chunks_exact(row_bytes).map(|row| (&row[..8], row)));
            candidates.extend(some_candidates.chunks_exact(candidate_bytes).map(|found| (&found[..8], found)));
        }
        let is_there = |bytes: &&[u8]| bytes[12..16] != [0; 4];
        let (rows, candidates) = (rows.into_values().filter(is_there), candidates.into_values().filter(is_there));
        let restored = DeepFm::restore(params(admission), through.dense(), rows, candidates);
        let mut restarted = restored.expect("ids are distinct");
        let state = |model: &mut DeepFm| (model.rows_digest(), model.candidates().digest(), model.row_count());
        assert_eq!(state(&mut restarted), state(&mut through), "{rows_max}");
        assert!(through.row_count() > rows_max * 9 / 10, "the table is full");
        flood(&mut through, 600, 200);
        flood(&mut restarted, 600, 200);
        assert_eq!(state(&mut restarted), state(&mut through), "{rows_max}");
    }
}

/// Examples of two fields over few ids, so that batches have them in common.
fn random_features(seed: u64, count: usize) -> Vec<Features> {
    let entry = |n: u64, field: u64| {
        let x =
            if hash::hash(seed, n, field).is_multiple_of(3) { hash::uniform_weight(seed, n, field, 4.0) } else { 1.0 };
        vec![Entry { id: 1 + hash::hash(seed, n, 7 + field) % 20, x }]
    };
    (0..count as u64).map(|n| Features::new(&[entry(n, 0), entry(n, 1)])).collect()
}

proptest! {
    #[test]
    fn a_step_of_the_mlp_is_that_of_its_gradient_whichever_way_it_is_taken(
        seed: u64,
        count in prop_oneof![1_usize..20, Just(128), Just(129), 60_usize..280],
        clip_norm in prop_oneof![Just(0.0_f32), Just(0.01), Just(1.0)],
        momentum in prop_oneof![Just(0.0_f32), Just(0.9)],
        l2 in prop_oneof![Just(0.0_f32), Just(0.1)],
        short in 1.0_f32..3.0,
    ) {
        let sgd = SgdParams { learning_rate: 0.5, momentum, l2, clip_norm };
        let mlp = MlpParams { layers: vec![7, 5], ..MlpParams::default() };
        let params = ModelParams { fields: 2, embedding_dim: 3, init_scale: 0.5, mlp, sgd, ..ModelParams::default() };
        let mut model = DeepFm::new(params);
        let features = random_features(seed, count);
        let examples: Vec<Example<'_>> = (0..).zip(&features).map(|(number, features)| {
            let label = f32::from(u8::from(hash::hash(seed, number, 99).is_multiple_of(4)));
            Example { features, label, weight: 1.0, importance: Importance::None, number }
        }).collect();
        let mut scratch = Scratch::default();
        // A batch that was cut short is divided by more than it has.
        let divisor = count as f32 * short;
        for _ in 0..2 {
            let before = model.dense();
            model.learn(&examples, divisor, 0, &mut scratch, &Inline).expect("finite");
            let after = model.dense();
            let gradient: Vec<f64> = scratch.mlp_gradient(model.architecture()).iter().map(|g| f64::from(*g)).collect();
            let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
            let bound = batch::mlp_gradient_bound(&scratch.chunks);
            prop_assert!(bound >= norm * (1.0 - 1e-6), "{bound} is below {norm}");
            let factor = if clip_norm > 0.0 { (f64::from(clip_norm) / (norm / f64::from(divisor))).min(1.0) } else { 1.0 };
            for (run, is_penalised) in model.architecture().mlp.runs() {
                for at in run {
                    let l2 = if is_penalised { f64::from(l2) } else { 0.0 };
                    let step = gradient[at] / f64::from(divisor) * factor + l2 * f64::from(before.mlp[at]);
                    let step = f64::from(momentum) * f64::from(before.momentum[at]) + step;
                    let expected = f64::from(before.mlp[at]) - 0.5 * step;
                    prop_assert!((f64::from(after.mlp[at]) - expected).abs() <= 2e-6, "{at}: {} {expected}", after.mlp[at]);
                }
            }
        }
    }
}

#[test]
fn a_step_beyond_every_bound_is_refused_and_changes_nothing() {
    let sgd = SgdParams { learning_rate: 1e30, momentum: 0.0, l2: 0.0, clip_norm: 0.0 };
    let params = ModelParams { fields: 2, init_scale: 0.5, sgd, ..ModelParams::default() };
    for count in [1, 20] {
        let mut model = DeepFm::new(params.clone());
        let features: Vec<Features> = (0..count)
            .map(|_| Features::new(&[vec![Entry { id: 1, x: 10.0 }], vec![Entry { id: 2, x: 10.0 }]]))
            .collect();
        let examples: Vec<Example<'_>> = (0..)
            .zip(&features)
            .map(|(number, features)| Example {
                features,
                label: 1.0,
                weight: 1e3,
                importance: Importance::None,
                number,
            })
            .collect();
        let before = model.dense();
        assert_eq!(model.learn(&examples, 1.0, 0, &mut Scratch::default(), &Inline), Err(NonFinite));
        assert_eq!(model.dense(), before);
    }
}

/// An executor that says to work so many items off at once, and does it in another order.
struct Wide(usize);

impl Executor for Wide {
    fn width(&self) -> usize {
        self.0
    }

    fn for_each<T: Send, F: Fn(&mut T) + Sync>(&self, items: &mut [T], job: F) {
        items.iter_mut().rev().for_each(job);
    }
}

#[test]
fn however_many_threads_learn_no_bit_differs() {
    let plain = ModelParams {
        mlp: MlpParams { layers: vec![5, 3], ..MlpParams::default() },
        ..params(AdmissionParams { rows_max: 4000, ..AdmissionParams::default() })
    };
    let with = |sgd| ModelParams { sgd, ..plain.clone() };
    no_bit_differs(&plain, true);
    no_bit_differs(&with(SgdParams { clip_norm: 0.01, ..plain.sgd }), false);
    no_bit_differs(&with(SgdParams { momentum: 0.9, l2: 0.1, ..plain.sgd }), false);
    no_bit_differs(&ModelParams { parts: Parts::Fm, ..plain.clone() }, false);
    no_bit_differs(&ModelParams { parts: Parts::Linear, ..plain }, false);
}

/// Learns a log with more and fewer threads, which cut the MLP's gradient or do not.
fn no_bit_differs(params: &ModelParams, cuts_gradient: bool) {
    // Enough ids for parts of their own; some are new in each batch, some go, and one field has an id twice. Of sizes that leave one
    // example, or a few, wherever they are cut.
    let sizes = [90, 33, 17, 65, 18, 66, 3, 129, 19, 49, 1, 257];
    let batches: Vec<Vec<Features>> = (0..)
        .zip(sizes)
        .map(|(batch, size): (u64, u64)| {
            let id = |example: u64, lane: u64| hash::mix64(hash::hash(batch, example, lane) % 6000);
            let entry = |example, lane| (id(example, lane), 1.0 + lane as f32 / 8.0);
            let field = |example, from| (from..from + 30).map(|lane| entry(example, lane)).collect::<Vec<_>>();
            (0..size)
                .map(|example| {
                    let mut two = field(example, 30);
                    two.push(two[0]);
                    features(&field(example, 0), &two)
                })
                .collect()
        })
        .collect();
    let learned = |executor: &dyn Fn(&mut DeepFm, &[Example<'_>], &mut Scratch) -> Learned| {
        let mut model = DeepFm::new(params.clone());
        let (mut scratch, mut all) = (Scratch::default(), Vec::new());
        for (number, batch) in batches.iter().enumerate() {
            let label = |n: usize| if hash::unit(3, n as u64) < 0.3 { 1.0 } else { 0.0 };
            let examples: Vec<_> =
                batch.iter().enumerate().map(|(n, features)| example(features, label(n), n as u64)).collect();
            let learned = executor(&mut model, &examples, &mut scratch);
            if number == 1 {
                model.table_mut().note_published(WeightRule::of(params), weights::Precision::F32);
            }
            all.push((learned, scratch.logits().to_vec()));
        }
        let changes = model.table_mut().take_changes().expect("they were noted");
        (all, model.rows_digest(), model.dense(), changes.left, changes.entered)
    };
    let learn = |executor: &Wide, model: &mut DeepFm, batch: &[Example<'_>], scratch: &mut Scratch| {
        assert!(parts::count(executor, 2 * 256) == executor.0.min(2), "parts are cut");
        let learned = model.learn(batch, batch.len() as f32, 9, scratch, executor).expect("finite");
        if batch.len() == 129 {
            assert_eq!(scratch.mlp.parts > 1, cuts_gradient && executor.0 > 1, "{} threads", executor.0);
        }
        learned
    };
    let alone =
        learned(&|model, batch, scratch| model.learn(batch, batch.len() as f32, 9, scratch, &Inline).expect("finite"));
    for width in [1, 2, 3, 7, 40] {
        let together = learned(&|model, batch, scratch| learn(&Wide(width), model, batch, scratch));
        assert!(together == alone, "{width} threads learn something else");
    }
}
