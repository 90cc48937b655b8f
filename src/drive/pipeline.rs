//! The intake and the learner at once: while the learner hears what some records brought about, the intake takes the next ones
//! in, on a thread beside it. It shows in no number: deliveries are heard in the order of their records, nothing goes back, and at
//! the end of a run every record that was taken in has been heard.

use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::available_parallelism;

use super::Witness;
use crate::thread::crew::Crew;
use deepfm_core::model::Executor;
use deepfm_core::train::{Consumed, Delivery, Intake, Learner, Spent, Step, Trainer};

/// Records that are handed over at once: some hundred microseconds of learning.
const RECORDS_OF_A_LOT: usize = 64;

/// So many lots are between the two, or in their hands.
const LOTS: usize = 6;

/// Records from which a thread beside is worth waking.
const RECORDS_MIN: usize = 4 * RECORDS_OF_A_LOT;

/// Bytes of records that could not be read after which the intake goes no further ahead: each becomes a letter, and who takes
/// letters says only after it has them that it is full. A letter may be six times as long as what it is about: so JSON writes some
/// characters.
const REFUSED_BYTES_MAX: usize = 1 << 20;

/// Items of a delivery whose room is kept: most records bring about one or two, and one may let all open impressions mature.
const ITEMS_KEPT: usize = 64;

/// Takes records through both halves of a trainer.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// The intake's thread, if there is another core for it.
    company: Option<Crew>,
    /// Lots in nobody's hands.
    spare: Vec<Lot>,
}

/// Records that were consumed, and what each brought about.
#[derive(Debug, Default)]
struct Lot {
    records: Vec<Consumed>,
    /// Of the records; behind them what is kept for its room.
    deliveries: Vec<Delivery>,
    /// What the learner needs no more, for the intake.
    spent: Spent,
}

impl Lot {
    /// Consumes records until `count` are or there are none, or until so many bytes are of records that could not be read, which are
    /// counted down.
    fn fill(&mut self, intake: &mut Intake, count: usize, refusable: &mut usize) {
        self.deliveries.resize_with(self.deliveries.len().max(count), Delivery::default);
        self.records.clear();
        intake.take_back(&mut self.spent);
        for delivery in self.deliveries.iter_mut().take(count) {
            let Some(record) = intake.step(delivery) else { return };
            *refusable = refusable.saturating_sub(record.refused.as_ref().map_or(0, |refused| refused.bytes()));
            self.records.push(record);
            if *refusable == 0 {
                return;
            }
        }
    }
}

/// Who is told of records.
struct Listener<'l> {
    witness: &'l mut dyn Witness,
    /// Hears of each record that has left its queue.
    left: &'l mut dyn FnMut(&Consumed),
}

impl Listener<'_> {
    fn hear(&mut self, step: Step) {
        (self.left)(&step.record);
        self.witness.consumed(step);
    }
}

/// Hears one lot after the other until there will be no more; says of how many records. From when the witness is full on no more are
/// asked for.
fn hear_all<E: Executor>(
    learner: &mut Learner<E>,
    mut listener: Listener<'_>,
    filled: &Receiver<Lot>,
    emptied: SyncSender<Lot>,
) -> usize {
    let (mut heard, mut emptied) = (0, Some(emptied));
    for mut lot in filled {
        heard += lot.records.len();
        for (record, delivery) in lot.records.drain(..).zip(&mut lot.deliveries) {
            let unlearned = learner.take(delivery, listener.witness);
            delivery.items.shrink_to(ITEMS_KEPT);
            listener.hear(Step { record, unlearned });
        }
        lot.spent.append(learner.spent());
        if listener.witness.is_full() {
            emptied = None;
        }
        if let Some(emptied) = &emptied {
            // The intake may have ended; then nobody needs it.
            let _ = emptied.send(lot);
        }
    }
    heard
}

/// Fills lots until `count` records are consumed, there are none, or no more are asked for.
fn take_in(intake: &mut Intake, count: usize, emptied: &mut Receiver<Lot>, filled: &SyncSender<Lot>) {
    let (mut left, mut refusable) = (count, REFUSED_BYTES_MAX);
    while left > 0 && refusable > 0 {
        let Ok(mut lot) = emptied.recv() else { return };
        let due = left.min(RECORDS_OF_A_LOT);
        lot.fill(intake, due, &mut refusable);
        let taken = lot.records.len();
        left -= taken;
        if filled.send(lot).is_err() || taken < due {
            return;
        }
    }
}

impl Pipeline {
    pub(super) fn new() -> Self {
        let has_room = available_parallelism().is_ok_and(|cores| cores > NonZero::<usize>::MIN);
        Self { company: has_room.then(Self::company), spare: Vec::new() }
    }

    fn company() -> Crew {
        Crew::named("intake", 2)
    }

    /// Consumes at most `count` records, fewer when the sequencer waits or the witness is full; says how many. `left` hears of each
    /// that has left its queue.
    pub(super) fn run<E: Executor>(
        &mut self,
        trainer: &mut Trainer<E>,
        count: usize,
        witness: &mut dyn Witness,
        left: &mut dyn FnMut(&Consumed),
    ) -> usize {
        if let Some(company) = &self.company
            && count.min(trainer.sequencer().queued_in_all()) >= RECORDS_MIN
            && !witness.is_full()
        {
            return run_beside(company, &mut self.spare, trainer, count, Listener { witness, left });
        }
        let mut listener = Listener { witness, left };
        let mut consumed = 0;
        while consumed < count && !listener.witness.is_full() {
            let Some(step) = trainer.step(listener.witness) else { break };
            listener.hear(step);
            consumed += 1;
        }
        consumed
    }
}

fn run_beside<E: Executor>(
    company: &Crew,
    spare: &mut Vec<Lot>,
    trainer: &mut Trainer<E>,
    count: usize,
    listener: Listener<'_>,
) -> usize {
    let (intake, learner) = trainer.halves();
    let (to_learner, filled) = sync_channel(LOTS);
    let (to_intake, mut emptied) = sync_channel(LOTS);
    spare.resize_with(LOTS, Lot::default);
    for lot in spare.drain(..) {
        let _ = to_intake.send(lot);
    }
    let lots = &mut emptied;
    let taking = move || take_in(intake, count, lots, &to_learner);
    let heard = company.beside(taking, || hear_all(learner, listener, &filled, to_intake));
    spare.extend(emptied.try_iter());
    heard
}

#[cfg(test)]
mod tests;
