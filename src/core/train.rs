//! The state machine: records of the log in, a trained model out.
//!
//! [`Trainer`] owns everything that a checkpoint holds, in two halves: the [`Intake`] with the sequencer's positions and the
//! join, and the [`Learner`] with the half-filled micro-batch, the model with its optimizer state, the metrics and the shown
//! scores. Between them runs one ordered stream of [`Delivery`]s, and nothing goes back. Many learners may hang on one intake.
//! There is no clock and no I/O: records are pushed in, decisions about the log come as [`Control`]s, and [`Trainer::step`]
//! consumes one record of the merged order. The state after n records is a function of those records and of the journal
//! alone, which [`Trainer::state_digest`] shows.
//!
//! Invariants: an impression is scored with the weights that the log has made when it arrives, and its score enters the
//! metrics when its label has matured, whatever was learned of it meanwhile; micro-batches are cut by counts and event
//! times, never by arrival.

mod batch;
mod breaker;
pub mod check;
mod convert;
mod counters;
mod cut;
mod delivery;
mod digest;
mod intake;
mod learner;
mod ledger;
mod params;
mod published;
mod refusals;
mod shown;
mod spent;

use crate::event::{Id, Reason, Refusal};
use crate::feature::Features;
use crate::join::{Join, JoinCounters};
use crate::metric::Windows;
use crate::model::{DeepFm, Executor, Inline};
use crate::stream::{Arrival, Control, JournalEntry, Partition, Positions, Sequencer, StreamError};

pub use batch::{Batch, Pending};
pub use breaker::{Breaker, BreakerParams};
pub use check::ParamsError;
pub use counters::{Counters, IntakeCounters, LearnerCounters};
pub use cut::{Scope, StateCut};
pub use delivery::{Delivery, Item, Label, Maturity, Shown};
pub use digest::{Restore, RestoreError, Scalars, StateDigest};
pub use intake::{Consumed, Intake};
pub use learner::Learner;
pub use ledger::{Fate, Ledger, Tally};
pub use params::{BatchParams, TrainParams};
pub use shown::{SHOWN_SCORE_BYTES, ShownScores, Unscored};
pub use spent::Spent;

/// An impression's shown score with its matured label, as it enters the metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// The impression's number in the merged order.
    pub number: u64,
    /// When it was shown, in milliseconds of event time.
    pub time: i64,
    /// Its logit, corrected for negative down-sampling.
    pub logit: f64,
    /// Whether it was clicked.
    pub label: bool,
    /// Its weight in the metrics.
    pub weight: f64,
}

/// Looks on while a learner learns; it changes nothing.
pub trait Observer {
    /// An impression of this event time got its shown score from a model that had learned so many examples: a logit corrected
    /// for negative down-sampling, which may not be finite. Those that wait when the configuration changes are scored unobserved.
    fn shown(&mut self, shown: &Shown, time: i64, logit: f64, learned: u64) {
        let _ = (shown, time, logit, learned);
    }

    /// A shown score entered the metrics with its label.
    fn scored(&mut self, scored: Scored);
}

impl<F: FnMut(Scored)> Observer for F {
    fn scored(&mut self, scored: Scored) {
        self(scored);
    }
}

/// Nobody looks on.
impl Observer for () {
    fn scored(&mut self, _: Scored) {}
}

/// A record that was consumed, and what came of it.
#[derive(Debug)]
pub struct Step {
    /// The record.
    pub record: Consumed,
    /// Impressions of before whose examples could not be learned with it: letters to send.
    pub unlearned: Vec<Unlearned>,
}

/// An impression whose example would have left a gradient or weight that is not finite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlearned {
    /// The partition that it was read from.
    pub partition: Partition,
    /// Its offset there.
    pub offset: i64,
    /// Its id.
    pub impression_id: Id,
}

impl Unlearned {
    /// Why, for its dead letter. The record itself is where it was read.
    pub fn refusal(&self) -> Refusal {
        let detail = format!("impression {}: learned, it would leave a weight that is not finite", self.impression_id);
        Refusal::new(Reason::NotFinite, detail)
    }
}

/// An intake and a learner on it: one state over one log.
#[derive(Debug)]
pub struct Trainer<E = Inline> {
    intake: Intake,
    learner: Learner<E>,
    /// What the record at hand brings about, kept for its room.
    delivery: Delivery,
    /// Of a change of parameters, for people; not part of the state.
    largest_change: f32,
}

impl Trainer {
    /// A trainer that has seen nothing.
    pub fn new(params: TrainParams) -> Self {
        let join = Join::new(params.join.clone());
        let breaker = (Breaker::default(), params.breaker);
        let intake = Intake::new(Sequencer::default(), join, IntakeCounters::default(), Ledger::default(), breaker);
        Self::of(intake, Learner::new(params, Inline))
    }
}

impl<E: Executor> Trainer<E> {
    fn of(intake: Intake, learner: Learner<E>) -> Self {
        Self { intake, learner, delivery: Delivery::default(), largest_change: 0.0 }
    }

    /// The same trainer, whose learner hands its work to another executor.
    pub fn with_executor<F: Executor>(self, executor: F) -> Trainer<F> {
        let Self { intake, learner, delivery, largest_change } = self;
        Trainer { intake, learner: learner.with_executor(executor), delivery, largest_change }
    }

    /// Queues a record that was read.
    ///
    /// # Errors
    /// When the partition is not part of the log, or the offset was pushed or consumed before.
    pub fn push(&mut self, partition: Partition, arrival: Arrival) -> Result<(), StreamError> {
        let time = arrival.event_time();
        self.intake.sequencer.push(partition, arrival.offset, time, arrival)
    }

    /// Applies a decision that the log does not contain, and journals it.
    ///
    /// # Errors
    /// When it does not fit how the partition stands; nothing is changed then.
    pub fn control(&mut self, control: &Control) -> Result<(), StreamError> {
        let converted = match control {
            Control::Configured { parameters, .. } => Some(self.readable(parameters)?),
            _ => None,
        };
        self.intake.sequencer.control(control)?;
        if let Some(params) = converted.filter(|params| params != self.params()) {
            self.convert(params);
        }
        Ok(())
    }

    /// Consumes the next record of the merged order; nothing while a live partition's queue is empty.
    pub fn step(&mut self, observer: &mut dyn Observer) -> Option<Step> {
        let record = self.intake.step(&mut self.delivery)?;
        Some(Step { record, unlearned: self.hear(observer) })
    }

    /// The two halves. They may go on at once, one ahead of the other, and be together again when the learner has taken every
    /// delivery of the intake in its order: then the state is that of as many [`step`](Self::step)s.
    pub fn halves(&mut self) -> (&mut Intake, &mut Learner<E>) {
        (&mut self.intake, &mut self.learner)
    }

    /// Consumes the next record, and learns an impression at once with the label that `clicked` knows of it. Nothing while a
    /// live partition's queue is empty; else what could not be learned with it.
    pub fn step_labelled(
        &mut self,
        clicked: &dyn Fn(&str) -> bool,
        observer: &mut dyn Observer,
    ) -> Option<Vec<Unlearned>> {
        let is_there = self.intake.step_labelled(clicked, &mut self.delivery);
        is_there.then(|| self.hear(observer))
    }

    /// Lets the learner take what the record at hand brought about.
    fn hear(&mut self, observer: &mut dyn Observer) -> Vec<Unlearned> {
        let unlearned = self.learner.take(&mut self.delivery, observer);
        self.intake.take_back(self.learner.spent());
        unlearned
    }

    /// Features that nobody needs any more: see [`Intake::rooms`].
    pub fn rooms(&mut self) -> &mut Vec<Features> {
        self.intake.rooms()
    }

    /// Learns the half-filled batch: the end of a run with `step_labelled`. Gives what could not be learned of it.
    pub fn learn_rest(&mut self, observer: &mut dyn Observer) -> Vec<Unlearned> {
        self.learner.finish(observer)
    }

    /// What was read.
    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// What learns from it.
    pub fn learner(&self) -> &Learner<E> {
        &self.learner
    }

    /// The live partitions that the next record waits for.
    pub fn awaited(&self) -> impl Iterator<Item = Partition> {
        self.intake.sequencer.awaited()
    }

    /// The sequencer: queues, standings and the journal.
    pub fn sequencer(&self) -> &Sequencer<Arrival> {
        &self.intake.sequencer
    }

    /// Forgets the records that wait: they come again, read from [`positions`](Self::positions) on.
    pub fn forget_queued(&mut self) {
        let sequencer = std::mem::take(&mut self.intake.sequencer);
        self.intake.sequencer = Sequencer::resume(sequencer.progress(), sequencer.journal().to_vec());
    }

    /// Puts a segment before the journal: see [`Sequencer::lengthen_journal`].
    pub fn lengthen_journal(&mut self, segment: Vec<JournalEntry>) {
        self.intake.sequencer.lengthen_journal(segment);
    }

    /// Takes the first `entries` of the journal, which are a version's segment now.
    pub fn cut_journal(&mut self, entries: usize) -> Vec<JournalEntry> {
        self.intake.sequencer.cut_journal(entries)
    }

    /// The next offset of each partition.
    pub fn positions(&self) -> Positions {
        self.intake.sequencer.positions()
    }

    /// Records consumed since the log began.
    pub fn released(&self) -> u64 {
        self.intake.sequencer.released()
    }

    /// The model.
    pub fn model(&self) -> &DeepFm {
        &self.learner.model
    }

    /// Progressive metrics.
    pub fn windows(&self) -> &Windows {
        &self.learner.windows
    }

    /// What was counted outside the join.
    pub fn counters(&self) -> Counters {
        Counters { intake: self.intake.counters.clone(), learner: self.learner.counters.clone() }
    }

    /// Examples learned since the log began.
    pub fn learned(&self) -> u64 {
        self.learner.counters.learned
    }

    /// What became of every record.
    pub fn ledger(&self) -> &Ledger {
        &self.intake.ledger
    }

    /// What the join counted.
    pub fn join_counters(&self) -> &JoinCounters {
        self.intake.join.counters()
    }

    /// The join.
    pub fn join(&self) -> &Join<Box<Shown>> {
        &self.intake.join
    }

    /// The least number of an impression that arrives after an example was learned, as far as this trainer saw it.
    pub fn taught_at(&self) -> Option<u64> {
        self.learner.beginning.taught_at
    }

    /// The shown scores that wait for their label: of impressions whose window the log does not cover yet.
    pub fn shown_scores(&self) -> &ShownScores {
        &self.learner.shown
    }

    /// The parameters that the trainer was made with.
    pub fn params(&self) -> &TrainParams {
        &self.learner.params
    }

    /// Whether labels have begun to mature: the watermark has passed the first impression and its window. Before that
    /// only clicked impressions have labels, and a model of them must not be served.
    pub fn has_matured(&self) -> bool {
        self.intake.has_matured(self.params().join.window_ms)
    }
}

#[cfg(test)]
mod tests;
