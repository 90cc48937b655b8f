//! Where partitions end, asked on a thread of its own: a broker that answers slowly does not keep the learner waiting. At most one
//! question a partition is under way.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::config::kafka::Kafka;
use crate::kafka::contact::Contact;
use crate::source::{Confirmation, SourceError};
use crate::thread::{Hand, Panicked};
use deepfm_core::stream::Partition;

/// How long one question may take.
const ASK: Duration = Duration::from_secs(1);

/// How long an answer is good for, from when it was asked for: later there may be records that it does not know of.
const GOOD_FOR: Duration = Duration::from_secs(3);

/// The most questions that wait: who finds no room asks again.
const QUESTIONS_MAX: usize = 64;

/// How often an end that was not reached must be the same to be taken for one behind transaction markers.
const CONFIRMATIONS: u32 = 5;

/// The broker's word on a partition: the end, or that it does not tell.
type Answer = Result<(Partition, Instant, Option<i64>), Panicked>;

/// A question about a partition.
#[derive(Debug)]
struct Question {
    /// The position that it was asked for.
    position: i64,
    answer: Option<(Instant, Option<i64>)>,
}

/// The thread, and what it was asked.
pub(super) struct Questions {
    desk: Hand<Partition, Answer>,
    asked: BTreeMap<Partition, Question>,
    /// The end that each partition was last asked for, and how often it was that.
    last_high: BTreeMap<Partition, (i64, u32)>,
    stop: Arc<AtomicBool>,
}

impl Questions {
    /// Starts the thread; `ask` says where a partition ends.
    pub(super) fn start(ask: impl Fn(Partition) -> Option<i64> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move |partition: Partition, tell: &mut dyn FnMut(Answer)| {
            let now = Instant::now();
            if stopped.load(Ordering::Acquire) {
                return ControlFlow::Break(());
            }
            tell(Ok((partition, now, ask(partition))));
            ControlFlow::Continue(())
        };
        let desk = Hand::start("ends-asking", QUESTIONS_MAX, work, Err);
        Self { desk, asked: BTreeMap::new(), last_high: BTreeMap::new(), stop }
    }

    /// The same, over a client.
    pub(super) fn of(consumer: Arc<BaseConsumer<Contact>>, kafka: Kafka) -> Self {
        Self::start(move |partition| {
            let watermarks = consumer.fetch_watermarks(kafka.topic_of(partition.kind), partition.number, ASK);
            watermarks.ok().map(|(_, high)| high)
        })
    }

    /// Whether a partition ends before `position`, as far as that is known now; asks if it is not.
    ///
    /// # Errors
    /// When the thread has panicked.
    pub(super) fn confirm(&mut self, partition: Partition, position: i64) -> Result<Confirmation, SourceError> {
        while let Some(answer) = self.desk.try_take() {
            let (partition, at, end) = answer?;
            if let Some(question) = self.asked.get_mut(&partition) {
                question.answer = Some((at, end));
            }
        }
        match self.asked.get(&partition) {
            Some(Question { answer: None, .. }) => return Ok(Confirmation::Pending),
            Some(Question { position: asked, answer: Some((at, end)) }) => {
                let is_good = *asked == position && at.elapsed() < GOOD_FOR;
                let end = *end;
                self.asked.remove(&partition);
                if is_good {
                    return Ok(self.judge(partition, position, end));
                }
            }
            None => {}
        }
        if self.desk.has_room() {
            self.asked.insert(partition, Question { position, answer: None });
            self.desk.give(partition);
        }
        Ok(Confirmation::Pending)
    }

    /// Records that do not exist (transaction markers) may stand before the end: then the end has been reached as well,
    /// if it has been the same often enough that a slow fetch is not taken for silence.
    fn judge(&mut self, partition: Partition, position: i64, end: Option<i64>) -> Confirmation {
        let Some(high) = end else {
            return Confirmation::Denied;
        };
        let (last, times) = self.last_high.get(&partition).copied().unwrap_or((high, 0));
        let times = if last == high { times + 1 } else { 1 };
        self.last_high.insert(partition, (high, times));
        if position >= high || times >= CONFIRMATIONS { Confirmation::Confirmed } else { Confirmation::Denied }
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // What it is asking takes a second at most; the rest it does not ask.
        self.desk.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deepfm_core::event::EventKind;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    const CLICKS: Partition = Partition { kind: EventKind::Click, number: 0 };

    /// Asks until there is an answer.
    fn settled(ends: &mut Questions, position: i64) -> Confirmation {
        loop {
            match ends.confirm(CLICKS, position).expect("nothing panics") {
                Confirmation::Pending => std::thread::yield_now(),
                answer => return answer,
            }
        }
    }

    #[test]
    fn a_broker_that_does_not_answer_keeps_nobody_waiting_and_is_asked_once() {
        let silent = Arc::new(Mutex::new(()));
        let guard = silent.lock().expect("it is ours");
        let (waits, asked) = (Arc::clone(&silent), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        let mut ends = Questions::start(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            drop(waits.lock());
            Some(7)
        });
        for _ in 0..1000 {
            assert_eq!(ends.confirm(CLICKS, 7).expect("nothing panics"), Confirmation::Pending);
        }
        drop(guard);
        assert_eq!(settled(&mut ends, 7), Confirmation::Confirmed);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn an_answer_counts_only_for_the_position_that_it_was_asked_for() {
        let (end, asked) = (Arc::new(AtomicUsize::new(5)), Arc::new(AtomicUsize::new(0)));
        let (at, count) = (Arc::clone(&end), Arc::clone(&asked));
        let mut ends = Questions::start(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Some(at.load(Ordering::SeqCst) as i64)
        });
        assert_eq!(settled(&mut ends, 5), Confirmation::Confirmed);
        assert_eq!(settled(&mut ends, 4), Confirmation::Denied, "there is a record more");
        assert_eq!(ends.confirm(CLICKS, 4).expect("nothing panics"), Confirmation::Pending);
        end.store(6, Ordering::SeqCst);
        // The question is of position 4; whoever has come to 5 meanwhile asks anew.
        while asked.load(Ordering::SeqCst) < 3 {
            std::thread::yield_now();
        }
        assert_eq!(settled(&mut ends, 5), Confirmation::Denied);
        assert_eq!(asked.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn an_end_behind_markers_is_taken_for_one_when_it_stays_and_silence_of_the_broker_never_is() {
        let mut ends = Questions::start(|_| Some(9));
        let words: Vec<Confirmation> = (0..5).map(|_| settled(&mut ends, 8)).collect();
        assert_eq!(words[..4], [Confirmation::Denied; 4]);
        assert_eq!(words[4], Confirmation::Confirmed);
        let mut ends = Questions::start(|_| None);
        assert!((0..9).all(|_| settled(&mut ends, 8) == Confirmation::Denied));
    }
}
