//! The state machine: records of the log in, a trained model out.
//!
//! [`Trainer`] owns everything that a checkpoint holds: the sequencer's positions, the join, the half-filled
//! micro-batch, the model with its optimizer state, the metrics and the counters. It has no clock and does no I/O:
//! records are pushed into it, decisions about the log come as [`Control`]s, and [`Trainer::step`] consumes one record
//! of the merged order. Its state after n records is a function of those records and of the journal alone, which
//! [`Trainer::state_digest`] shows.
//!
//! Invariants: an impression is scored with the weights that the log has made when it arrives, and its score enters the
//! metrics when its label has matured, whatever was learned of it meanwhile; micro-batches are cut by counts and event
//! times, never by arrival.

mod batch;
pub mod check;
mod convert;
mod counters;
mod cut;
mod digest;
mod label;
mod ledger;
mod params;
mod shown;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::{Event, Reason, Refusal};
use crate::feature::Features;
use crate::join::{ClickIn, Emission, ImpressionIn, Join, JoinCounters, Taken, Weigh};
use crate::metric::Windows;
use crate::model::{DeepFm, Executor, Scratch};
use crate::stream::{Arrival, Control, JournalEntry, Partition, Positions, Refused, Released, Sequencer, StreamError};

pub use batch::{Batch, Pending};
pub use check::ParamsError;
pub use counters::Counters;
pub use cut::{Scope, StateCut};
pub use digest::{Restore, RestoreError, Scalars, StateDigest};
pub use ledger::{Fate, Ledger, Tally};
pub use params::{BatchParams, TrainParams};
pub use shown::{SHOWN_SCORE_BYTES, ShownScores, Unscored};

/// What the join carries of an impression until its label is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// Its number among the impressions of the merged order, from 0.
    pub number: u64,
    /// The partition it was read from.
    pub partition: Partition,
    /// Its offset there.
    pub offset: i64,
    /// Its example weight.
    pub weight: f32,
    /// Its encoded features.
    pub features: Features,
}

impl Weigh for Arc<Shown> {
    fn weight(&self) -> usize {
        size_of::<Shown>() + self.features.weight()
    }
}

/// An impression's shown score with its matured label, as it enters the metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// The impression's number in the merged order.
    pub number: u64,
    /// Its logit, corrected for negative down-sampling.
    pub logit: f64,
    /// Whether it was clicked.
    pub label: bool,
    /// Its weight in the metrics.
    pub weight: f64,
}

/// A record that was consumed.
#[derive(Debug)]
pub struct Step {
    /// Where it was read.
    pub partition: Partition,
    /// Its offset.
    pub offset: i64,
    /// Its event time, if it could be read.
    pub time: Option<i64>,
    /// The room that it took in its queue: see [`Arrival::weight`].
    pub weight: usize,
    /// What became of it.
    pub fate: Fate,
    /// Present when the record could not be read: the dead letter to send.
    pub refused: Option<Box<Refused>>,
    /// Impressions of before whose examples could not be learned with it: more letters to send.
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
    pub impression_id: Arc<str>,
}

impl Unlearned {
    /// Why, for its dead letter. The record itself is where it was read.
    pub fn refusal(&self) -> Refusal {
        let detail = format!("impression {}: learned, it would leave a weight that is not finite", self.impression_id);
        Refusal::new(Reason::NotFinite, detail)
    }
}

/// The learner: one state over one log.
#[derive(Debug)]
pub struct Trainer {
    params: TrainParams,
    sequencer: Sequencer<Arrival>,
    join: Join<Arc<Shown>>,
    batch: Batch,
    model: DeepFm,
    windows: Windows,
    shown: ShownScores,
    counters: Counters,
    ledger: Ledger,
    emissions: Vec<Emission<Arc<Shown>>>,
    scratch: Scratch,
    /// Named with the step that tried to learn them.
    unlearned: Vec<Unlearned>,
    /// Of a change of parameters, for people; not part of the state.
    largest_change: f32,
    /// Impressions that were there when the first example was learned, for people; not part of the state.
    taught_at: Option<u64>,
}

impl Trainer {
    /// A trainer that has seen nothing.
    pub fn new(params: TrainParams) -> Self {
        Self {
            sequencer: Sequencer::default(),
            join: Join::new(params.join.clone()),
            batch: Batch::default(),
            model: DeepFm::new(params.model.clone()),
            windows: Windows::new(params.window_impressions),
            shown: ShownScores::default(),
            counters: Counters::default(),
            ledger: Ledger::default(),
            emissions: Vec::new(),
            scratch: Scratch::default(),
            unlearned: Vec::new(),
            largest_change: 0.0,
            taught_at: None,
            params,
        }
    }

    /// Queues a record that was read.
    ///
    /// # Errors
    /// When the partition is not part of the log, or the offset was pushed or consumed before.
    pub fn push(&mut self, partition: Partition, arrival: Arrival) -> Result<(), StreamError> {
        let time = arrival.event_time();
        self.sequencer.push(partition, arrival.offset, time, arrival)
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
        self.sequencer.control(control)?;
        if let Some(params) = converted.filter(|params| *params != self.params) {
            self.convert(params);
        }
        Ok(())
    }

    /// Consumes the next record of the merged order; nothing while a live partition's queue is empty.
    pub fn step<E: Executor>(&mut self, executor: &E, observe: &mut dyn FnMut(Scored)) -> Option<Step> {
        let Released { partition, offset, body: arrival } = self.sequencer.pop()?;
        let (time, weight) = (arrival.event_time(), arrival.weight());
        let Arrival { hash, body, .. } = arrival;
        self.cut_batch_by_time(executor);
        self.counters.records += 1;
        let (fate, refused) = match body {
            Ok(decoded) => {
                self.counters.unknown_keys += u64::from(decoded.unknown_keys);
                self.counters.unknown_fields += u64::from(decoded.unknown_fields);
                (self.consume(partition, offset, decoded.event, executor), None)
            }
            Err(refused) => {
                *self.counters.refused.entry(refused.refusal.reason).or_default() += 1;
                (Fate::Refused, Some(refused))
            }
        };
        self.ledger.enter(partition, fate, hash);
        self.meter_matured(executor, observe);
        let unlearned = std::mem::take(&mut self.unlearned);
        Some(Step { partition, offset, time, weight, fate, refused, unlearned })
    }

    fn consume<E: Executor>(&mut self, partition: Partition, offset: i64, event: Event, executor: &E) -> Fate {
        let mut emissions = std::mem::take(&mut self.emissions);
        let fate = match event {
            Event::Impression(impression) => {
                let number = self.counters.impressions;
                self.counters.impressions += 1;
                self.counters.first_impression_time.get_or_insert(impression.event_time);
                let (weight, features) = (impression.weight, impression.features);
                let shown = Arc::new(Shown { number, partition, offset, weight, features });
                let (id, time) = (Arc::clone(&impression.impression_id), impression.event_time);
                let arrived = ImpressionIn {
                    partition,
                    offset,
                    impression_id: impression.impression_id,
                    event_id: impression.event_id,
                    time: impression.event_time,
                    payload: Arc::clone(&shown),
                };
                let taken = self.join.impression(arrived, &mut emissions);
                if taken == Taken::In {
                    self.show(&id, time, shown, executor);
                }
                taken
            }
            Event::Click(click) => {
                self.counters.clicks += 1;
                let arrived = ClickIn {
                    partition,
                    offset,
                    impression_id: click.impression_id,
                    event_id: click.event_id,
                    time: click.event_time,
                };
                self.join.click(arrived, &mut emissions)
            }
        };
        self.learn_from(emissions, executor);
        match fate {
            Taken::In => Fate::Joined,
            Taken::TooLate => Fate::TooLate,
            Taken::Duplicate => Fate::Duplicate,
            Taken::Conflicting => Fate::Conflicting,
        }
    }

    /// The live partitions that the next record waits for.
    pub fn awaited(&self) -> impl Iterator<Item = Partition> {
        self.sequencer.awaited()
    }

    /// The sequencer: queues, standings and the journal.
    pub fn sequencer(&self) -> &Sequencer<Arrival> {
        &self.sequencer
    }

    /// Forgets the records that wait: they come again, read from [`positions`](Self::positions) on.
    pub fn forget_queued(&mut self) {
        let sequencer = std::mem::take(&mut self.sequencer);
        self.sequencer = Sequencer::resume(sequencer.progress(), sequencer.journal().to_vec());
    }

    /// Puts a segment before the journal: see [`Sequencer::lengthen_journal`].
    pub fn lengthen_journal(&mut self, segment: Vec<JournalEntry>) {
        self.sequencer.lengthen_journal(segment);
    }

    /// Takes the journal segment that ends here; it belongs to the version that is cut here.
    pub fn cut_journal(&mut self) -> Vec<JournalEntry> {
        self.sequencer.cut_journal()
    }

    /// The next offset of each partition.
    pub fn positions(&self) -> Positions {
        self.sequencer.positions()
    }

    /// Records consumed since the log began.
    pub fn released(&self) -> u64 {
        self.sequencer.released()
    }

    /// The model.
    pub fn model(&self) -> &DeepFm {
        &self.model
    }

    /// Progressive metrics.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// What was counted outside the join.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What became of every record.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What the join counted.
    pub fn join_counters(&self) -> &JoinCounters {
        self.join.counters()
    }

    /// The join.
    pub fn join(&self) -> &Join<Arc<Shown>> {
        &self.join
    }

    /// Number of the first impression that was scored after an example had been learned, as far as this trainer saw it.
    pub fn taught_at(&self) -> Option<u64> {
        self.taught_at
    }

    /// The shown scores that wait for their label: of impressions whose window the log does not cover yet.
    pub fn shown_scores(&self) -> &ShownScores {
        &self.shown
    }

    /// The parameters that the trainer was made with.
    pub fn params(&self) -> &TrainParams {
        &self.params
    }

    /// Whether labels have begun to mature: the watermark has passed the first impression and its window. Before that
    /// only clicked impressions have labels, and a model of them must not be served.
    pub fn has_matured(&self) -> bool {
        match (self.counters.first_impression_time, self.join.watermark()) {
            (Some(first), Some(watermark)) => watermark > first.saturating_add(self.params.join.window_ms),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
