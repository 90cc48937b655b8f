//! A hand: a vital thread that works jobs off in their order and says what has become of each. It holds a bounded number of
//! jobs; who gives it more has not looked.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::vital::{self, Panicked};

/// The thread of a hand has ended, and what it still had will not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {0} thread has ended")]
pub struct HandEnded(pub &'static str);

/// Gives jobs to a thread, and takes what has become of them.
pub struct Hand<J, O> {
    name: &'static str,
    jobs: Option<SyncSender<J>>,
    outcomes: Receiver<O>,
    thread: Option<JoinHandle<()>>,
    capacity: usize,
    in_flight: usize,
}

impl<J, O> fmt::Debug for Hand<J, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} thread, {} of {} jobs in flight", self.name, self.in_flight, self.capacity)
    }
}

impl<J: Send + 'static, O: Send + 'static> Hand<J, O> {
    /// Starts a thread that holds at most `capacity` jobs. `work` does one, tells its outcome once, and says whether to go on.
    /// A panic becomes an outcome by `last_words`.
    pub fn start(
        name: &'static str,
        capacity: usize,
        mut work: impl FnMut(J, &mut dyn FnMut(O)) -> ControlFlow<()> + Send + 'static,
        last_words: impl FnOnce(Panicked) -> O + Send + 'static,
    ) -> Self {
        let (jobs, inbox) = sync_channel::<J>(capacity);
        // Two more: what is said at the end of a thread, after or instead of an outcome.
        let (outbox, outcomes) = sync_channel::<O>(capacity + 2);
        let body = move |outbox: &SyncSender<O>| {
            for job in inbox {
                vital::failpoint(name);
                let mut is_heard = true;
                let mut tell = |outcome| is_heard = outbox.send(outcome).is_ok();
                // The receiver may be gone already; then nobody wants to know.
                if work(job, &mut tell).is_break() || !is_heard {
                    return;
                }
            }
        };
        let thread = vital::spawn(name, outbox, body, last_words);
        Self { name, jobs: Some(jobs), outcomes, thread: Some(thread), capacity, in_flight: 0 }
    }

    /// Jobs whose outcome was not taken.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether it takes another job.
    pub fn has_room(&self) -> bool {
        self.in_flight < self.capacity
    }

    /// Gives it a job, for which it must have room.
    pub fn give(&mut self, job: J) {
        assert!(self.has_room(), "{self:?}");
        self.in_flight += 1;
        if let Some(jobs) = &self.jobs {
            // A thread that has ended is noticed by whoever waits for the outcome.
            let _ = jobs.send(job);
        }
    }

    /// An outcome, if there is one.
    pub fn try_take(&mut self) -> Option<O> {
        let outcome = self.outcomes.try_recv().ok()?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Some(outcome)
    }

    /// An outcome, if there is one within `patience`.
    ///
    /// # Errors
    /// When the thread has ended without one.
    pub fn take_within(&mut self, patience: Duration) -> Result<Option<O>, HandEnded> {
        match self.outcomes.recv_timeout(patience) {
            Ok(outcome) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                Ok(Some(outcome))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(HandEnded(self.name)),
        }
    }
}

impl<J, O> Hand<J, O> {
    /// Takes no more jobs, and waits until those that it has are done. For hands whose jobs end soon, whatever hangs.
    pub fn join(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the {} thread has panicked", self.name);
        }
    }
}

impl<J, O> Drop for Hand<J, O> {
    fn drop(&mut self) {
        // A thread with a job may never come back from a disk or broker that hangs: unless all outcomes are known it is left
        // alone.
        if self.in_flight == 0 {
            self.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_mins(1);

    #[test]
    fn jobs_are_worked_off_in_their_order_and_no_more_are_held_than_there_is_room_for() {
        let work = |job: u32, tell: &mut dyn FnMut(Result<u32, Panicked>)| {
            tell(Ok(job * 2));
            ControlFlow::Continue(())
        };
        let mut hand = Hand::start("testing", 2, work, Err);
        hand.give(1);
        hand.give(2);
        assert!(!hand.has_room());
        assert_eq!(hand.take_within(SOON), Ok(Some(Ok(2))));
        hand.give(3);
        assert_eq!(hand.take_within(SOON), Ok(Some(Ok(4))));
        assert_eq!(hand.take_within(SOON), Ok(Some(Ok(6))));
        assert_eq!((hand.in_flight(), hand.try_take()), (0, None));
    }

    #[test]
    fn a_panic_is_the_outcome_of_its_job_and_what_follows_is_never_done() {
        let work = |job: u32, tell: &mut dyn FnMut(Result<u32, Panicked>)| {
            assert!(job < 2, "at {job}");
            tell(Ok(job));
            ControlFlow::Continue(())
        };
        let mut hand = Hand::start("testing", 3, work, Err);
        (1..=3).for_each(|job| hand.give(job));
        assert_eq!(hand.take_within(SOON), Ok(Some(Ok(1))));
        let panicked = Panicked { thread: "testing", message: "at 2".to_owned() };
        assert_eq!(hand.take_within(SOON), Ok(Some(Err(panicked))));
        assert_eq!(hand.take_within(SOON), Err(HandEnded("testing")));
    }
}
