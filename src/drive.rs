//! The loop that live runs, bounded runs and backtests share: take what has arrived, decide who is waited for, consume.

pub mod attendance;
pub mod losses;
mod pipeline;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::source::{Confirmation, Source, SourceError, SourceEvent};
use crate::thread::crew::Crew;
use attendance::{Attendance, Verdict};
use deepfm_core::model::Executor;
use deepfm_core::stream::{Arrival, Control, Partition, Script, StreamError};
use deepfm_core::train::{Consumed, Observer, Step, Trainer};
use pipeline::Pipeline;

/// Records consumed between two looks at what has arrived.
const STEPS_PER_TURN: usize = 2048;

/// How long a turn waits for records when there is nothing to consume. Bounds the delay of decisions by the clock.
const WAIT: Duration = Duration::from_millis(20);

/// Who decides what the log does not.
#[derive(Debug)]
pub enum Pilot {
    /// The clock and the broker, as the run goes.
    Attendance(Attendance),
    /// The journal of an earlier run.
    Script(Script),
}

/// A run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// Reading failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A record or decision does not fit the state: the source broke its order, or the journal is of another log.
    #[error("the log does not fit the state")]
    Stream(#[from] StreamError),
    /// A journal asks for records that the log does not have.
    #[error("the journal waits for {0}, but the log has nothing more there")]
    LogEnds(Partition),
    /// A journal leaves nothing to be read, before as many records as its version has seen.
    #[error("the journal leaves no partition to be read after {0} records, and its version has seen more")]
    JournalEnds(u64),
}

/// What a turn did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Records consumed.
    pub consumed: usize,
    /// Whether a bounded run has consumed everything.
    pub is_done: bool,
}

/// Where the records and scores of a turn go.
pub trait Witness: Observer {
    /// A record was consumed.
    fn consumed(&mut self, step: Step);

    /// Whether nothing more is to be consumed in this turn.
    fn is_full(&self) -> bool {
        false
    }
}

/// A trainer on a source.
#[derive(Debug)]
pub struct Drive<S> {
    /// The state.
    pub trainer: Trainer<Crew>,
    source: S,
    pilot: Pilot,
    pipeline: Pipeline,
    /// Records of partitions that a script adds later. Bounded by the source's queues, since none is consumed.
    early: BTreeMap<Partition, Vec<Arrival>>,
    /// Partitions that the source has read to their end.
    at_end: BTreeSet<Partition>,
    /// Where partitions go on after a gap of a script: a mirror may still have what is missing.
    resumed_at: BTreeMap<Partition, i64>,
}

impl<S: Source> Drive<S> {
    /// Puts a trainer, whose batches the crew learns, on a source that reads from the trainer's positions.
    ///
    /// # Errors
    /// When a partition that has to return cannot.
    pub fn new<E: Executor>(trainer: Trainer<E>, crew: Crew, source: S, pilot: Pilot) -> Result<Self, DriveError> {
        let mut drive = Self {
            trainer: trainer.with_executor(crew),
            source,
            pilot,
            pipeline: Pipeline::new(),
            early: BTreeMap::new(),
            at_end: BTreeSet::new(),
            resumed_at: BTreeMap::new(),
        };
        if let Pilot::Attendance(attendance) = &drive.pilot {
            for control in attendance.returning(drive.trainer.sequencer()) {
                drive.trainer.control(&control)?;
            }
        }
        Ok(drive)
    }

    /// Where the records come from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Repeats a segment of a journal: consumes until `until` records of the merged order, and makes every decision of the
    /// segment in its place.
    ///
    /// # Errors
    /// When the source fails, or the journal is not of this log.
    pub fn replay(&mut self, segment: Script, until: u64, witness: &mut dyn Witness) -> Result<(), DriveError> {
        self.pilot = Pilot::Script(segment);
        while self.trainer.released() < until {
            self.turn(until, witness)?;
        }
        self.follow_script()
    }

    /// Takes what has arrived and consumes what is due, at most until `until` records of the merged order.
    ///
    /// # Errors
    /// When the source fails, or gives what does not fit the state.
    pub fn turn(&mut self, until: u64, witness: &mut dyn Witness) -> Result<Turn, DriveError> {
        let mut consumed = 0;
        self.take_arrivals(Duration::ZERO)?;
        loop {
            consumed += self.consume(STEPS_PER_TURN - consumed, until, witness)?;
            if consumed == STEPS_PER_TURN || self.trainer.released() >= until || witness.is_full() {
                break;
            }
            if !self.decide()? {
                if consumed == 0 && !self.is_done() {
                    self.take_arrivals(WAIT)?;
                }
                break;
            }
        }
        Ok(Turn { consumed, is_done: self.is_done() })
    }

    /// Whether everything that was there at the start is consumed.
    pub fn is_caught_up(&self) -> bool {
        match &self.pilot {
            Pilot::Attendance(attendance) => !attendance.is_catching_up(&self.trainer.positions()),
            Pilot::Script(_) => false,
        }
    }

    fn is_done(&self) -> bool {
        match &self.pilot {
            Pilot::Attendance(attendance) => attendance.is_done(self.trainer.sequencer()),
            Pilot::Script(_) => false,
        }
    }

    fn take_arrivals(&mut self, wait: Duration) -> Result<(), DriveError> {
        let mut wait = wait;
        while let Some(event) = self.source.next(wait)? {
            wait = Duration::ZERO;
            self.take(event)?;
        }
        Ok(())
    }

    fn take(&mut self, event: SourceEvent) -> Result<(), DriveError> {
        let trainer = &mut self.trainer;
        match event {
            SourceEvent::Records { partition, arrivals } => {
                self.at_end.remove(&partition);
                if let Pilot::Attendance(attendance) = &mut self.pilot {
                    attendance.arrived(partition);
                }
                for arrival in arrivals {
                    match &mut self.pilot {
                        Pilot::Attendance(attendance) if !attendance.takes(partition, arrival.offset) => {
                            attendance.at_end(partition, arrival.offset, Instant::now());
                            continue;
                        }
                        Pilot::Attendance(_) if trainer.sequencer().is_away(partition) => {
                            trainer.control(&Control::Returned(partition))?;
                        }
                        Pilot::Script(_) if trainer.sequencer().standing(partition).is_none() => {
                            self.early.entry(partition).or_default().push(arrival);
                            continue;
                        }
                        Pilot::Script(_) if self.resumed_at.get(&partition).is_some_and(|at| arrival.offset < *at) => {
                            self.source.consumed(partition, arrival.weight());
                            continue;
                        }
                        Pilot::Attendance(_) | Pilot::Script(_) => {}
                    }
                    trainer.push(partition, arrival)?;
                }
            }
            SourceEvent::EndOfPartition { partition, next_offset } => {
                self.at_end.insert(partition);
                if let Pilot::Attendance(attendance) = &mut self.pilot {
                    attendance.at_end(partition, next_offset, Instant::now());
                }
            }
            SourceEvent::Reconnected { partition, end } => {
                if let Pilot::Attendance(attendance) = &mut self.pilot
                    && let Some(returned) = attendance.reconnected(partition, end, trainer.sequencer(), Instant::now())
                {
                    trainer.control(&returned)?;
                }
            }
            SourceEvent::PartitionAdded { partition, next_offset } => {
                if let Pilot::Attendance(attendance) = &mut self.pilot {
                    attendance.added(partition, next_offset);
                    trainer.control(&Control::Added { partition, next_offset })?;
                }
            }
        }
        Ok(())
    }

    fn consume(&mut self, steps: usize, until: u64, witness: &mut dyn Witness) -> Result<usize, DriveError> {
        let mut consumed = 0;
        while consumed < steps && self.trainer.released() < until && !witness.is_full() {
            self.follow_script()?;
            let next = match &self.pilot {
                Pilot::Script(script) => script.next_at(),
                Pilot::Attendance(_) => None,
            };
            let due = next.unwrap_or(until).min(until) - self.trainer.released();
            let count = usize::try_from(due).unwrap_or(usize::MAX).min(steps - consumed);
            let Self { trainer, source, pipeline, .. } = self;
            let mut left = |record: &Consumed| source.consumed(record.partition, record.weight);
            let done = pipeline.run(trainer, count, witness, &mut left);
            source.take_back(trainer.rooms());
            if done == 0 {
                break;
            }
            consumed += done;
        }
        Ok(consumed)
    }

    /// Applies the decisions that a script has here.
    fn follow_script(&mut self) -> Result<(), DriveError> {
        let Pilot::Script(script) = &mut self.pilot else {
            return Ok(());
        };
        while let Some(control) = script.due(self.trainer.released()) {
            let joined = match control {
                Control::Start { partition, .. } | Control::Added { partition, .. } => Some(partition),
                Control::Gap { partition, to, .. } => {
                    let left_out = self.trainer.sequencer().queued_before(partition, to).map(Arrival::weight).sum();
                    self.source.consumed(partition, left_out);
                    self.resumed_at.insert(partition, to);
                    None
                }
                _ => None,
            };
            self.trainer.control(&control)?;
            if let Some(partition) = joined {
                for arrival in self.early.remove(&partition).unwrap_or_default() {
                    self.trainer.push(partition, arrival)?;
                }
            }
        }
        Ok(())
    }

    /// Makes one decision about a partition that is waited for, if one is due.
    fn decide(&mut self) -> Result<bool, DriveError> {
        let Pilot::Attendance(attendance) = &mut self.pilot else {
            let mut awaited = self.trainer.awaited().peekable();
            // Nothing could be consumed and nobody is waited for: nothing will ever come.
            if awaited.peek().is_none() {
                return Err(DriveError::JournalEnds(self.trainer.released()));
            }
            let missing = awaited.find(|partition| self.at_end.contains(partition));
            return missing.map_or(Ok(false), |partition| Err(DriveError::LogEnds(partition)));
        };
        let control = match attendance.verdict(self.trainer.sequencer(), Instant::now()) {
            Verdict::Wait => return Ok(false),
            Verdict::Decide(control) => control,
            Verdict::Confirm(silent) => {
                let positions = self.trainer.positions();
                let mut has_decided = false;
                for partition in silent {
                    match self.source.confirm_end(partition, positions[&partition])? {
                        Confirmation::Pending => {}
                        Confirmation::Denied => attendance.not_confirmed(partition, Instant::now()),
                        Confirmation::Confirmed => {
                            self.trainer.control(&Control::Idle(partition))?;
                            has_decided = true;
                        }
                    }
                }
                return Ok(has_decided);
            }
        };
        self.trainer.control(&control)?;
        Ok(true)
    }
}
