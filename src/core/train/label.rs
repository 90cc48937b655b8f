//! From an impression to its shown score and its learned example: scoring, sampling, the micro-batch, the learning step,
//! the metrics.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::batch::Pending;
use super::shown::UNSCORED_MAX;
use super::{Scored, Shown, Trainer, Unlearned};
use crate::event::Event;
use crate::feature::{Features, hash};
use crate::join::{Emission, EmissionKind};
use crate::model::{Example, Executor, Importance, SHARDS};
use crate::stream::{Arrival, Released};

/// Key of the hash that decides which negatives are kept, apart from the model's own seed.
const SAMPLING_LANE: u64 = 0x5A4D_504C;

/// Key of the hash that decides which impressions are scored when shown.
const METRICS_LANE: u64 = 0x4D45_5452;

/// One shard of the table is swept for what has expired after as many batches.
const SWEEP_BATCHES: u64 = 4;

/// Up to so many rows and candidates all shards are swept at once.
const SWEPT_WHOLE: usize = 10_000;

/// Whether an impression belongs to a sample of this rate.
fn is_sampled(lane: u64, rate: f64, impression_id: &str) -> bool {
    rate >= 1.0 || hash::unit(lane, xxh3_64(impression_id.as_bytes())) < rate
}

impl Trainer {
    /// An impression arrived: its score is that of the weights as they are now.
    pub(super) fn show<E: Executor>(&mut self, id: &str, time: i64, shown: Arc<Shown>, executor: &E) {
        if !is_sampled(METRICS_LANE, self.params.metrics_sampling_rate, id) {
            self.counters.unscored += 1;
            return;
        }
        self.shown.show(time, shown);
        if self.shown.unscored().len() >= UNSCORED_MAX {
            self.score_shown(executor);
        }
    }

    /// Scores what has arrived since the last learning step, all with the weights that it arrived to.
    pub(super) fn score_shown<E: Executor>(&mut self, executor: &E) {
        if self.shown.unscored().is_empty() {
            return;
        }
        let batch: Vec<&Features> = self.shown.unscored().iter().map(|unscored| &unscored.shown.features).collect();
        self.model.score(&batch, &mut self.scratch, executor);
        self.counters.scores_refused += self.shown.score(self.scratch.logits());
    }

    /// Lets shown scores enter the metrics whose impressions' windows the watermark has passed.
    pub(super) fn meter_matured<E: Executor>(&mut self, executor: &E, observe: &mut dyn FnMut(Scored)) {
        let (window, watermark) = (self.params.join.window_ms, self.join.watermark());
        let has_matured = |time: i64| watermark.is_some_and(|watermark| watermark > time.saturating_add(window));
        if self.shown.oldest_unscored().is_some_and(has_matured) {
            self.score_shown(executor);
        }
        while let Some(scored) = self.shown.next_matured(has_matured) {
            self.meter(scored, observe);
        }
        // Under `at_click` clicked impressions are not open any more, but wait here for the end of their window.
        while self.shown.len() > self.params.join.open_impressions_max && self.shown.forget_oldest() {
            self.counters.scores_forgotten += 1;
        }
    }

    /// Lets every impression enter the metrics that has a score: their labels were known at once.
    fn meter_scored(&mut self, observe: &mut dyn FnMut(Scored)) {
        while let Some(scored) = self.shown.next_matured(|_| true) {
            self.meter(scored, observe);
        }
    }

    fn meter(&mut self, scored: Scored, observe: &mut dyn FnMut(Scored)) {
        let scored = Scored { logit: scored.logit + self.params.logit_offset(), ..scored };
        self.windows.add(scored.logit, scored.label, scored.weight);
        observe(scored);
    }

    /// Puts what the join emitted into micro-batches, and learns each that is full.
    pub(super) fn learn_from<E: Executor>(&mut self, mut emissions: Vec<Emission<Arc<Shown>>>, executor: &E) {
        for emission in emissions.drain(..) {
            let (time, number) = (emission.impression_time, emission.payload.number);
            match emission.kind {
                EmissionKind::Positive | EmissionKind::FakePositive => self.shown.clicked(time, number),
                EmissionKind::Unlabelled => {
                    self.shown.forget(time, number);
                    // Whatever their labels: of the impressions at a bound only those without a click are closed.
                    self.counters.scores_forgotten += self.shown.forget_older(time, number);
                }
                EmissionKind::Negative
                | EmissionKind::Correction
                | EmissionKind::FakeNegative
                | EmissionKind::Matured => {}
            }
            if let Some(pending) = self.labelled(emission.kind, emission.impression_id, time, emission.payload) {
                self.learn_later(pending, executor);
            }
        }
        self.emissions = emissions;
    }

    /// Learns the next record at once if it is an impression, with the label that `clicked` knows of it: the order and
    /// the labels of `backtest --labels immediate`. Clicks and refused records are passed over.
    /// Nothing while a live partition's queue is empty; else what could not be learned with it.
    pub fn step_labelled<E: Executor>(
        &mut self,
        clicked: &dyn Fn(&str) -> bool,
        executor: &E,
        observe: &mut dyn FnMut(Scored),
    ) -> Option<Vec<Unlearned>> {
        let Released { partition, offset, body: Arrival { body, .. } } = self.sequencer.pop()?;
        self.cut_batch_by_time(executor);
        self.counters.records += 1;
        match body {
            Ok(decoded) => {
                if let Event::Impression(impression) = decoded.event {
                    let number = self.counters.impressions;
                    self.counters.impressions += 1;
                    let (id, time) = (impression.impression_id, impression.event_time);
                    let (weight, features) = (impression.weight, impression.features);
                    let shown = Arc::new(Shown { number, partition, offset, weight, features });
                    self.show(&id, time, Arc::clone(&shown), executor);
                    let kind = if clicked(&id) { EmissionKind::Positive } else { EmissionKind::Negative };
                    if kind == EmissionKind::Positive {
                        self.shown.clicked(time, number);
                    }
                    if let Some(pending) = self.labelled(kind, id, time, shown) {
                        self.learn_later(pending, executor);
                    }
                }
            }
            Err(refused) => *self.counters.refused.entry(refused.refusal.reason).or_default() += 1,
        }
        self.meter_scored(observe);
        Some(std::mem::take(&mut self.unlearned))
    }

    /// Learns the half-filled batch: the end of a run with `step_labelled`. Gives what could not be learned of it.
    pub fn learn_rest<E: Executor>(&mut self, executor: &E, observe: &mut dyn FnMut(Scored)) -> Vec<Unlearned> {
        self.learn_batch(executor);
        self.score_shown(executor);
        self.meter_scored(observe);
        std::mem::take(&mut self.unlearned)
    }

    /// Cuts the half-filled batch if the log's time has moved past its span.
    pub(super) fn cut_batch_by_time<E: Executor>(&mut self, executor: &E) {
        if let (Some(since), Some(now)) = (self.batch.since, self.sequencer.largest_released())
            && now.saturating_sub(since) >= self.params.batch.span_ms
        {
            self.learn_batch(executor);
        }
    }

    fn labelled(
        &mut self,
        kind: EmissionKind,
        impression_id: Arc<str>,
        impression_time: i64,
        shown: Arc<Shown>,
    ) -> Option<Pending> {
        let kept = is_sampled(SAMPLING_LANE, self.params.negative_sampling_rate, &impression_id);
        let (label, importance) = match kind {
            EmissionKind::Negative if !kept => {
                self.counters.sampled_out += 1;
                return None;
            }
            EmissionKind::Negative => (false, Importance::None),
            EmissionKind::Correction if kept => (true, Importance::LateCorrection),
            // A negative that sampling left out was never learned: there is nothing to retract.
            EmissionKind::Positive | EmissionKind::Correction => (true, Importance::None),
            EmissionKind::FakeNegative => (false, Importance::FakeNegative),
            EmissionKind::FakePositive => (true, Importance::FakePositive),
            EmissionKind::Matured | EmissionKind::Unlabelled => return None,
        };
        let number = self.counters.examples;
        self.counters.examples += 1;
        Some(Pending { impression_id, impression_time, shown, label, importance, number })
    }

    fn learn_later<E: Executor>(&mut self, pending: Pending, executor: &E) {
        if self.batch.pending.is_empty() {
            self.batch.since = self.sequencer.largest_released();
        }
        self.batch.pending.push(pending);
        if self.batch.pending.len() >= self.params.batch.size(self.counters.learned) {
            self.learn_batch(executor);
        }
    }

    /// Learns the half-filled batch, after what has arrived was scored; does nothing when it is empty.
    fn learn_batch<E: Executor>(&mut self, executor: &E) {
        let mut pending = std::mem::take(&mut self.batch.pending);
        self.batch.since = None;
        if pending.is_empty() {
            return;
        }
        self.score_shown(executor);
        let divisor = self.params.batch.size(self.counters.learned) as f32;
        let seconds = self.sequencer.largest_released().map_or(0, |ms| u32::try_from(ms / 1000).unwrap_or(u32::MAX));
        let examples: Vec<Example<'_>> = pending
            .iter()
            .map(|pending| Example {
                features: &pending.shown.features,
                label: if pending.label { 1.0 } else { 0.0 },
                weight: pending.shown.weight,
                importance: pending.importance,
                number: pending.number,
            })
            .collect();
        let learned = self.model.learn(&examples, divisor, seconds, &mut self.scratch, executor);
        drop(examples);
        if let Ok(learned) = learned {
            for place in learned.at_fault.iter().rev() {
                let refused = pending.remove(*place);
                self.refuse_example(&refused);
            }
            self.counters.batches += 1;
            self.counters.learned += pending.len() as u64;
            if !pending.is_empty() {
                self.taught_at.get_or_insert(self.counters.impressions);
            }
            self.counters.ids_refused += learned.ids_refused as u64;
            self.counters.rows_evicted += learned.rows_evicted as u64;
            self.counters.candidates_evicted += learned.candidates_evicted as u64;
            self.sweep();
        } else {
            self.counters.batches_refused += 1;
            for refused in &pending {
                self.refuse_example(refused);
            }
        }
        self.batch.pending = pending;
        self.batch.pending.clear();
    }

    /// What was never learned is not corrected, nor metered.
    fn refuse_example(&mut self, refused: &Pending) {
        self.counters.examples_refused += 1;
        let Shown { partition, offset, .. } = *refused.shown;
        self.unlearned.push(Unlearned { partition, offset, impression_id: Arc::clone(&refused.impression_id) });
        self.join.forsake(&refused.impression_id);
        self.shown.forget(refused.impression_time, refused.shown.number);
    }

    /// Removes what was not learned for long from one shard of the table, or from all of a small one: each comes round every
    /// `SWEEP_BATCHES · SHARDS` batches. Which ids are in a shard, and which batch it is, the log decides.
    fn sweep(&mut self) {
        let expire_after = i64::from(self.params.model.admission.expire_after_seconds);
        let lateness = self.params.join.lateness_ms;
        // The join's watermark where there is a join; the log's time as well where labels are known at once.
        let watermark = self.sequencer.largest_released().map(|time| time.saturating_sub(lateness));
        let batches = self.counters.batches;
        if let Some(watermark) = watermark.filter(|_| expire_after > 0 && batches.is_multiple_of(SWEEP_BATCHES)) {
            let before = u32::try_from((watermark / 1000 - expire_after).max(0)).unwrap_or(u32::MAX);
            let due = (batches / SWEEP_BATCHES) as usize % SHARDS;
            let is_small = self.model.row_count() + self.model.candidates().len() <= SWEPT_WHOLE;
            for shard in if is_small { 0..SHARDS } else { due..due + 1 } {
                let (rows, candidates) = self.model.sweep(shard, before);
                self.counters.rows_expired += rows as u64;
                self.counters.candidates_expired += candidates as u64;
            }
        }
    }
}
