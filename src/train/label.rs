//! From a labelled impression to a learned example: sampling, the micro-batch, the learning step, the metrics.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::batch::{Metered, Pending};
use super::{Scored, Shown, Trainer};
use crate::event::Event;
use crate::feature::hash;
use crate::join::{Emission, EmissionKind};
use crate::model::{Example, Executor, Importance, SHARDS};
use crate::stream::{Arrival, Released};

/// Key of the hash that decides which negatives are kept, apart from the model's own seed.
const SAMPLING_LANE: u64 = 0x5A4D_504C;

/// One shard of the table is swept for what has expired after as many batches.
const SWEEP_BATCHES: u64 = 4;

/// Up to so many rows and candidates all shards are swept at once.
const SWEPT_WHOLE: usize = 10_000;

impl Trainer {
    /// Puts what the join emitted into micro-batches, and learns each that is full.
    pub(super) fn learn_from<E: Executor>(
        &mut self,
        mut emissions: Vec<Emission<Arc<Shown>>>,
        executor: &E,
        observe: &mut dyn FnMut(Scored),
    ) {
        for emission in emissions.drain(..) {
            if let Some(pending) = self.pending(emission, observe) {
                self.learn_later(pending, executor, observe);
            }
        }
        self.emissions = emissions;
    }

    /// Learns the next record at once if it is an impression, with the label that `clicked` knows of it: the order and
    /// the labels of `backtest --labels immediate`. Clicks and refused records are passed over.
    /// Nothing while a live partition's queue is empty.
    pub fn step_labelled<E: Executor>(
        &mut self,
        clicked: &dyn Fn(&str) -> bool,
        executor: &E,
        observe: &mut dyn FnMut(Scored),
    ) -> Option<()> {
        let Released { body: Arrival { body, .. }, .. } = self.sequencer.pop()?;
        self.cut_batch_by_time(executor, observe);
        self.counters.records += 1;
        match body {
            Ok(decoded) => {
                if let Event::Impression(impression) = decoded.event {
                    let number = self.counters.impressions;
                    self.counters.impressions += 1;
                    let label = clicked(&impression.impression_id);
                    let shown = Shown { number, weight: impression.weight, features: impression.features };
                    let kind = if label { EmissionKind::Positive } else { EmissionKind::Negative };
                    let pending = self.labelled(kind, impression.impression_id, Arc::new(shown));
                    if let Some(pending) = pending {
                        self.learn_later(pending, executor, observe);
                    }
                }
            }
            Err(refused) => *self.counters.refused.entry(refused.refusal.reason).or_default() += 1,
        }
        Some(())
    }

    /// Learns the half-filled batch: the end of a run with `step_labelled`.
    pub fn learn_rest<E: Executor>(&mut self, executor: &E, observe: &mut dyn FnMut(Scored)) {
        self.learn_batch(executor, observe);
    }

    /// Cuts the half-filled batch if the log's time has moved past its span.
    pub(super) fn cut_batch_by_time<E: Executor>(&mut self, executor: &E, observe: &mut dyn FnMut(Scored)) {
        if let (Some(since), Some(now)) = (self.batch.since, self.sequencer.largest_released())
            && now.saturating_sub(since) >= self.params.batch.span_ms
        {
            self.learn_batch(executor, observe);
        }
    }

    fn pending(&mut self, emission: Emission<Arc<Shown>>, observe: &mut dyn FnMut(Scored)) -> Option<Pending> {
        let shown = emission.payload;
        match emission.kind {
            EmissionKind::FakePositive | EmissionKind::Matured => {
                let clicked = emission.kind == EmissionKind::FakePositive;
                self.meter_first_score(shown.number, clicked, observe);
            }
            EmissionKind::Unlabelled => self.first_scores.forget(shown.number),
            _ => {}
        }
        self.labelled(emission.kind, emission.impression_id, shown)
    }

    fn meter_first_score(&mut self, number: u64, clicked: bool, observe: &mut dyn FnMut(Scored)) {
        let in_batch = self.batch.pending.iter().any(|pending| pending.shown.number == number);
        if let Some(pair) = self.first_scores.label(number, clicked, in_batch) {
            self.meter(Scored { number, logit: pair.logit, label: pair.label, weight: pair.weight }, observe);
        }
    }

    fn labelled(&mut self, kind: EmissionKind, impression_id: Arc<str>, shown: Arc<Shown>) -> Option<Pending> {
        let rate = self.params.negative_sampling_rate;
        let kept = rate >= 1.0 || hash::unit(SAMPLING_LANE, xxh3_64(impression_id.as_bytes())) < rate;
        let (label, importance, metered) = match kind {
            EmissionKind::Positive => (true, Importance::None, Metered::Now { factor: 1.0 }),
            EmissionKind::Negative if !kept => {
                self.counters.sampled_out += 1;
                return None;
            }
            EmissionKind::Negative => (false, Importance::None, Metered::Now { factor: 1.0 / rate }),
            // A negative that sampling left out was never learned: there is nothing to retract.
            EmissionKind::Correction if kept => (true, Importance::LateCorrection, Metered::Never),
            EmissionKind::Correction => (true, Importance::None, Metered::Never),
            EmissionKind::FakeNegative => (false, Importance::FakeNegative, Metered::AtMaturity),
            EmissionKind::FakePositive => (true, Importance::FakePositive, Metered::Never),
            EmissionKind::Matured | EmissionKind::Unlabelled => return None,
        };
        let number = self.counters.examples;
        self.counters.examples += 1;
        Some(Pending { impression_id, shown, label, importance, metered, number })
    }

    fn learn_later<E: Executor>(&mut self, pending: Pending, executor: &E, observe: &mut dyn FnMut(Scored)) {
        if self.batch.pending.is_empty() {
            self.batch.since = self.sequencer.largest_released();
        }
        self.batch.pending.push(pending);
        if self.batch.pending.len() >= self.params.batch.size(self.counters.learned) {
            self.learn_batch(executor, observe);
        }
    }

    /// Scores and learns the half-filled batch; does nothing when it is empty.
    pub(super) fn learn_batch<E: Executor>(&mut self, executor: &E, observe: &mut dyn FnMut(Scored)) {
        let pending = std::mem::take(&mut self.batch.pending);
        self.batch.since = None;
        if pending.is_empty() {
            return;
        }
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
            self.counters.batches += 1;
            self.counters.learned += pending.len() as u64;
            self.counters.ids_refused += learned.ids_refused as u64;
            self.meter_batch(&pending, observe);
            self.sweep();
        } else {
            self.counters.batches_refused += 1;
            self.counters.examples_refused += pending.len() as u64;
            for refused in &pending {
                self.join.forsake(&refused.impression_id);
                self.first_scores.forget(refused.shown.number);
            }
        }
        self.batch.pending = pending;
        self.batch.pending.clear();
    }

    /// Removes what was not learned for long from one shard of the table, or from all of a small one: each comes round every
    /// `SWEEP_BATCHES · SHARDS` batches. Which ids are in a shard, and which batch it is, the log decides.
    fn sweep(&mut self) {
        let expire_after = i64::from(self.params.model.admission.expire_after_seconds);
        let (batches, watermark) = (self.counters.batches, self.join.watermark());
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

    fn meter_batch(&mut self, pending: &[Pending], observe: &mut dyn FnMut(Scored)) {
        let offset = self.params.logit_offset();
        for (index, example) in pending.iter().enumerate() {
            let logit = f64::from(self.scratch.logits()[index]) + offset;
            let (number, weight) = (example.shown.number, f64::from(example.shown.weight));
            match example.metered {
                Metered::Now { factor } => {
                    self.meter(Scored { number, logit, label: example.label, weight: weight * factor }, observe);
                }
                Metered::AtMaturity => {
                    if let Some(pair) = self.first_scores.score(number, logit, weight) {
                        let (weight, label) = (pair.weight, pair.label);
                        self.meter(Scored { number, logit: pair.logit, label, weight }, observe);
                    }
                }
                Metered::Never => {}
            }
        }
    }

    fn meter(&mut self, scored: Scored, observe: &mut dyn FnMut(Scored)) {
        self.windows.add(scored.logit, scored.label, scored.weight);
        observe(scored);
    }
}
