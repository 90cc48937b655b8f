//! The learner: the intake's stream in, a trained model and its progressive metrics out. It scores what is shown, samples,
//! fills micro-batches, learns them, meters what has matured, and lets rows expire. Every time that it knows is the stream's.

use xxhash_rust::xxh3::xxh3_64;

use super::batch::Pending;
use super::delivery::{Delivery, Item, Label, Maturity, Shown};
use super::refusals::Refusals;
use super::shown::{ShownScores, UNSCORED_MAX};
use super::spent::Spent;
use super::{Batch, LearnerCounters, Observer, Scored, TrainParams, Unlearned};
use crate::event::Id;
use crate::feature::hash;
use crate::join::EmissionKind;
use crate::metric::Windows;
use crate::model::{DeepFm, Example, Executor, Importance, SHARDS, Scratch};

/// Key of the hash that decides which negatives are kept, apart from the model's own seed.
const SAMPLING_LANE: u64 = 0x5A4D_504C;

/// Key of the hash that decides which impressions are scored when shown.
const METRICS_LANE: u64 = 0x4D45_5452;

/// One shard of the table is swept for what has expired after as many batches.
const SWEEP_BATCHES: u64 = 4;

/// The most refused examples that are remembered: each checkpoint has all of them.
const REFUSALS_MAX: usize = 1 << 16;

/// Up to so many rows and candidates all shards are swept at once.
const SWEPT_WHOLE: usize = 10_000;

/// Whether an impression belongs to a sample of this rate.
fn is_sampled(lane: u64, rate: f64, impression_id: &Id) -> bool {
    rate >= 1.0 || hash::unit(lane, xxh3_64(impression_id.as_bytes())) < rate
}

/// The room of a list of examples, for a list of others: one is as large as the other, so that nothing moves.
fn emptied(mut examples: Vec<Example<'_>>) -> Vec<Example<'static>> {
    examples.clear();
    examples.into_iter().map(|_| unreachable!("there are none")).collect()
}

/// A model that learns from a stream.
#[derive(Debug)]
pub struct Learner<E> {
    pub(super) params: TrainParams,
    pub(super) model: DeepFm,
    pub(super) batch: Batch,
    pub(super) windows: Windows,
    pub(super) shown: ShownScores,
    pub(super) refusals: Refusals,
    pub(super) counters: LearnerCounters,
    /// The log's time, as the stream has it.
    pub(super) log_time: Option<i64>,
    pub(super) executor: E,
    scratch: Scratch,
    /// The examples of a batch, for their room.
    examples: Vec<Example<'static>>,
    spent: Spent,
    /// What could not be learned since it was last told.
    unlearned: Vec<Unlearned>,
    pub(super) beginning: Beginning,
}

/// When learning began, for people; not part of the state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beginning {
    /// The number that the next impression has at least.
    next_number: u64,
    /// What that was when the first example was learned.
    pub(super) taught_at: Option<u64>,
}

impl<E: Executor> Learner<E> {
    /// A learner that has seen nothing.
    pub fn new(params: TrainParams, executor: E) -> Self {
        Self {
            model: DeepFm::new(params.model.clone()),
            batch: Batch::default(),
            windows: Windows::new(params.window_impressions),
            shown: ShownScores::default(),
            refusals: Refusals::default(),
            counters: LearnerCounters::default(),
            log_time: None,
            executor,
            scratch: Scratch::default(),
            examples: Vec::new(),
            spent: Spent::default(),
            unlearned: Vec::new(),
            beginning: Beginning::default(),
            params,
        }
    }

    /// The same learner with another executor.
    pub(super) fn with_executor<F: Executor>(self, executor: F) -> Learner<F> {
        let Self { params, model, batch, windows, shown, refusals, counters, log_time, unlearned, beginning, .. } =
            self;
        let scratch = Scratch::default();
        Learner {
            params,
            model,
            batch,
            windows,
            shown,
            refusals,
            counters,
            log_time,
            executor,
            scratch,
            examples: Vec::new(),
            spent: Spent::default(),
            unlearned,
            beginning,
        }
    }

    /// The model.
    pub fn model(&self) -> &DeepFm {
        &self.model
    }

    /// Progressive metrics.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// What was counted.
    pub fn counters(&self) -> &LearnerCounters {
        &self.counters
    }

    /// The shown scores that wait for their label: of impressions whose window the log does not cover yet.
    pub fn shown_scores(&self) -> &ShownScores {
        &self.shown
    }

    /// Impressions that are not needed any more: they are the [intake's](super::Intake::take_back).
    pub fn spent(&mut self) -> &mut Spent {
        &mut self.spent
    }

    /// Takes what one record brought about; gives the impressions that could not be learned with it.
    pub fn take(&mut self, delivery: &mut Delivery, observer: &mut dyn Observer) -> Vec<Unlearned> {
        self.log_time = delivery.log_time;
        self.cut_batch_by_time(observer);
        for item in delivery.items.drain(..) {
            match item {
                Item::Shown { impression_id, time, shown } => self.show(&impression_id, time, shown, observer),
                Item::Label(label) => self.learn_from(label, observer),
                Item::Skipped(label) => self.skip(label),
            }
        }
        match delivery.maturity {
            Maturity::Watermark(watermark) => self.meter_matured(watermark, observer),
            Maturity::Known => self.meter_scored(observer),
        }
        std::mem::take(&mut self.unlearned)
    }

    /// Learns the half-filled batch and meters what it can: the end of a stream whose labels are all known. Gives what could
    /// not be learned of it.
    pub fn finish(&mut self, observer: &mut dyn Observer) -> Vec<Unlearned> {
        self.learn_batch(observer);
        self.score_shown(observer);
        self.meter_scored(observer);
        std::mem::take(&mut self.unlearned)
    }

    /// Goes on with other parameters. Weights stay as they are, up to the rounding that is given: the largest change of one.
    pub(super) fn reconfigure(&mut self, params: TrainParams) -> f32 {
        // What has arrived was shown with the weights as they were, to the last bit.
        self.score_shown(&mut ());
        let largest_change = self.model.reconfigure(&params.model);
        self.params = params;
        largest_change
    }

    /// An impression arrived: its score is that of the weights as they are now.
    fn show(&mut self, id: &Id, time: i64, shown: Box<Shown>, observer: &mut dyn Observer) {
        self.beginning.next_number = shown.number + 1;
        if !is_sampled(METRICS_LANE, self.params.metrics_sampling_rate, id) {
            self.counters.unscored += 1;
            self.spent.take(shown);
            return;
        }
        self.shown.show(time, shown);
        if self.shown.unscored().len() >= UNSCORED_MAX {
            self.score_shown(observer);
        }
    }

    /// Scores what has arrived since the last learning step, all with the weights that it arrived to.
    fn score_shown(&mut self, observer: &mut dyn Observer) {
        if self.shown.unscored().is_empty() {
            return;
        }
        let batch = self.shown.unscored().iter().map(|unscored| &unscored.shown.features);
        self.model.score_each(batch, &mut self.scratch, &self.executor);
        let offset = self.params.logit_offset();
        for (unscored, logit) in self.shown.unscored().iter().zip(self.scratch.logits()) {
            observer.shown(&unscored.shown, unscored.time, f64::from(*logit) + offset, self.counters.learned);
        }
        self.counters.scores_refused += self.shown.score(self.scratch.logits(), &mut self.spent);
    }

    /// Lets shown scores enter the metrics whose impressions' windows the watermark has passed.
    fn meter_matured(&mut self, watermark: Option<i64>, observer: &mut dyn Observer) {
        let window = self.params.join.window_ms;
        let has_matured = |time: i64| watermark.is_some_and(|watermark| watermark > time.saturating_add(window));
        if self.shown.oldest_unscored().is_some_and(has_matured) {
            self.score_shown(observer);
        }
        while let Some(scored) = self.shown.next_matured(has_matured) {
            self.meter(scored, observer);
        }
        // After that the join corrects nothing any more.
        let retention = self.params.join.retention_ms;
        self.refusals.forget(|time| has_matured(time.saturating_add(retention)));
        // Under `at_click` clicked impressions are not open any more, but wait here for the end of their window.
        while self.shown.len() > self.params.join.open_impressions_max && self.shown.forget_oldest() {
            self.counters.scores_forgotten += 1;
        }
    }

    /// Lets every impression enter the metrics that has a score: their labels were known at once.
    fn meter_scored(&mut self, observer: &mut dyn Observer) {
        while let Some(scored) = self.shown.next_matured(|_| true) {
            self.meter(scored, observer);
        }
    }

    fn meter(&mut self, scored: Scored, observer: &mut dyn Observer) {
        let scored = Scored { logit: scored.logit + self.params.logit_offset(), ..scored };
        self.windows.add(scored.logit, scored.label, scored.weight);
        observer.scored(scored);
    }

    /// Puts a label into the micro-batch, and learns that when it is full.
    fn learn_from(&mut self, label: Label, observer: &mut dyn Observer) {
        let (time, number) = (label.impression_time, label.shown.number);
        match label.kind {
            EmissionKind::Positive | EmissionKind::FakePositive => self.shown.clicked(time, number),
            EmissionKind::Unlabelled => {
                self.shown.forget(time, number);
                // Whatever their labels: of the impressions at a bound only those without a click are closed.
                self.counters.scores_forgotten += self.shown.forget_older(time, number);
            }
            EmissionKind::Negative | EmissionKind::Correction | EmissionKind::FakeNegative | EmissionKind::Matured => {}
        }
        let is_correction = matches!(label.kind, EmissionKind::Correction | EmissionKind::FakePositive);
        if is_correction && self.refusals.contains(time, number) {
            self.counters.corrections_ignored += 1;
            self.spent.take(label.shown);
        } else if let Some(pending) = self.labelled(label) {
            self.learn_later(pending, observer);
        }
    }

    fn labelled(&mut self, label: Label) -> Option<Pending> {
        let Label { kind, impression_id, impression_time, shown } = label;
        let kept = is_sampled(SAMPLING_LANE, self.params.negative_sampling_rate, &impression_id);
        let (label, importance) = match kind {
            EmissionKind::Negative if !kept => {
                self.counters.sampled_out += 1;
                self.spent.take(shown);
                return None;
            }
            EmissionKind::Negative => (false, Importance::None),
            EmissionKind::Correction if kept => (true, Importance::LateCorrection),
            // A negative that sampling left out was never learned: there is nothing to retract.
            EmissionKind::Positive | EmissionKind::Correction => (true, Importance::None),
            EmissionKind::FakeNegative => (false, Importance::FakeNegative),
            EmissionKind::FakePositive => (true, Importance::FakePositive),
            EmissionKind::Matured | EmissionKind::Unlabelled => {
                self.spent.take(shown);
                return None;
            }
        };
        let number = self.counters.examples;
        self.counters.examples += 1;
        Some(Pending { impression_id, impression_time, shown, label, importance, number })
    }

    /// Cuts the half-filled batch if the log's time has moved past its span.
    fn cut_batch_by_time(&mut self, observer: &mut dyn Observer) {
        if let (Some(since), Some(now)) = (self.batch.since, self.log_time)
            && now.saturating_sub(since) >= self.params.batch.span_ms
        {
            self.learn_batch(observer);
        }
    }

    fn learn_later(&mut self, pending: Pending, observer: &mut dyn Observer) {
        if self.batch.pending.is_empty() {
            self.batch.since = self.log_time;
        }
        self.batch.pending.push(pending);
        if self.batch.pending.len() >= self.params.batch.size(self.counters.learned) {
            self.learn_batch(observer);
        }
    }

    /// Learns the half-filled batch, after what has arrived was scored; does nothing when it is empty.
    fn learn_batch(&mut self, observer: &mut dyn Observer) {
        let mut pending = std::mem::take(&mut self.batch.pending);
        self.batch.since = None;
        if pending.is_empty() {
            return;
        }
        self.score_shown(observer);
        let divisor = self.params.batch.size(self.counters.learned) as f32;
        let seconds = self.log_time.map_or(0, |ms| u32::try_from(ms / 1000).unwrap_or(u32::MAX));
        let mut examples: Vec<Example<'_>> = std::mem::take(&mut self.examples);
        examples.extend(pending.iter().map(Pending::example));
        let learned = self.model.learn(&examples, divisor, seconds, &mut self.scratch, &self.executor);
        self.examples = emptied(examples);
        if let Ok(learned) = learned {
            for place in learned.at_fault.iter().rev() {
                let refused = pending.remove(*place);
                self.refuse_example(&refused);
                self.spent.take(refused.shown);
            }
            self.counters.batches += 1;
            self.counters.learned += pending.len() as u64;
            if self.counters.learned > 0 {
                self.beginning.taught_at.get_or_insert(self.beginning.next_number);
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
        pending.drain(..).for_each(|learned| self.spent.take(learned.shown));
        self.batch.pending = pending;
    }

    /// A label of an outage is not known: it is neither learned nor metered.
    fn skip(&mut self, label: Label) {
        let (time, number) = (label.impression_time, label.shown.number);
        self.counters.skipped += 1;
        self.shown.forget(time, number);
        self.spent.take(label.shown);
    }

    /// What was never learned is not corrected, nor metered.
    fn refuse_example(&mut self, refused: &Pending) {
        self.counters.examples_refused += 1;
        let Shown { partition, offset, number, .. } = *refused.shown;
        self.unlearned.push(Unlearned { partition, offset, impression_id: refused.impression_id.clone() });
        self.shown.forget(refused.impression_time, number);
        self.refusals.remember(refused.impression_time, number);
        self.counters.refusals_forgotten += self.refusals.hold_bound(self.params.join.remembered_max.min(REFUSALS_MAX));
    }

    /// Removes what was not learned for long from one shard of the table, or from all of a small one: each comes round every
    /// `SWEEP_BATCHES · SHARDS` batches. Which ids are in a shard, and which batch it is, the log decides.
    fn sweep(&mut self) {
        let expire_after = i64::from(self.params.model.admission.expire_after_seconds);
        let lateness = self.params.join.lateness_ms;
        // The join's watermark where there is a join; the log's time as well where labels are known at once.
        let watermark = self.log_time.map(|time| time.saturating_sub(lateness));
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
