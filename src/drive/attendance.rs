//! Who is waited for: turns what the broker says of a partition's end, and silence, into decisions about the log.
//!
//! Every start is a *catch-up*: end offsets are captured, and a partition has ended when it was read to its captured
//! end. While any partition is behind its captured end nothing is idle by the clock. Afterwards, in a live run, a
//! partition at its end that stays silent becomes idle, once the broker has confirmed that its position is the end.
//!
//! Clock values come in as arguments; the decisions go out as [`Control`]s, which the trainer journals.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use deepfm_core::stream::{Control, Partition, Positions, Sequencer, Standing};

/// How far a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Horizon {
    /// To the end offsets captured at its start.
    Captured,
    /// For ever; silence of this length at a partition's end makes it idle.
    Live {
        /// The length of the silence.
        idle_after: Duration,
    },
}

/// What is known of a partition's end.
#[derive(Clone, Copy, Debug)]
struct Seat {
    captured_end: i64,
    /// When the broker last said that everything was read, and how far that was; nothing has arrived since.
    at_end: Option<(Instant, i64)>,
}

/// What to do about the partitions that the next record waits for.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Wait for records.
    Wait,
    /// Decide this.
    Decide(Control),
    /// Ask the broker whether the end of each is still here; then decide that it is idle.
    Confirm(Vec<Partition>),
}

/// The roll of partitions.
#[derive(Debug)]
pub struct Attendance {
    horizon: Horizon,
    seats: BTreeMap<Partition, Seat>,
}

impl Attendance {
    /// Begins a catch-up towards the captured ends.
    pub fn new(horizon: Horizon, captured_ends: &Positions) -> Self {
        let seats = captured_ends
            .iter()
            .map(|(partition, end)| (*partition, Seat { captured_end: *end, at_end: None }))
            .collect();
        Self { horizon, seats }
    }

    /// A partition was created while the run went on.
    pub fn added(&mut self, partition: Partition, captured_end: i64) {
        self.seats.insert(partition, Seat { captured_end, at_end: None });
    }

    /// Whether a record belongs to this run: a bounded run leaves alone what is past its captured ends.
    pub fn takes(&self, partition: Partition, offset: i64) -> bool {
        match self.horizon {
            Horizon::Captured => self.seats.get(&partition).is_some_and(|seat| offset < seat.captured_end),
            Horizon::Live { .. } => true,
        }
    }

    /// Records of the partition arrived.
    pub fn arrived(&mut self, partition: Partition) {
        if let Some(seat) = self.seats.get_mut(&partition) {
            seat.at_end = None;
        }
    }

    /// The broker says that the partition is read to its end, before `next_offset`.
    pub fn at_end(&mut self, partition: Partition, next_offset: i64, now: Instant) {
        if let Some(seat) = self.seats.get_mut(&partition) {
            seat.at_end = Some((now, next_offset));
        }
    }

    /// The brokers were away, and the partition has records up to `end` now: its silence begins anew, and if the others went
    /// on without it, it returns before anything else is read.
    pub fn reconnected<T>(
        &mut self,
        partition: Partition,
        end: i64,
        sequencer: &Sequencer<T>,
        now: Instant,
    ) -> Option<Control> {
        self.not_confirmed(partition, now);
        let is_behind = sequencer.positions().get(&partition).is_some_and(|next_offset| *next_offset < end);
        let returns = self.horizon != Horizon::Captured && is_behind && sequencer.is_away(partition);
        returns.then_some(Control::Returned(partition))
    }

    /// The broker did not confirm that the partition ends here: its silence begins anew.
    pub fn not_confirmed(&mut self, partition: Partition, now: Instant) {
        if let Some(seat) = self.seats.get_mut(&partition) {
            seat.at_end = seat.at_end.map(|(_, next_offset)| (now, next_offset));
        }
    }

    /// The partitions that are away but have records before their captured end: they return before anything is read.
    pub fn returning<T>(&self, sequencer: &Sequencer<T>) -> Vec<Control> {
        let positions = sequencer.positions();
        let behind = |partition: &Partition, seat: &Seat| {
            positions.get(partition).is_some_and(|next_offset| *next_offset < seat.captured_end)
        };
        self.seats
            .iter()
            .filter(|(partition, seat)| behind(partition, seat))
            .filter(|(partition, _)| sequencer.standing(**partition) == Some(Standing::Away))
            .map(|(partition, _)| Control::Returned(*partition))
            .collect()
    }

    /// Whether some partition is still behind its captured end.
    pub fn is_catching_up(&self, positions: &Positions) -> bool {
        self.seats.iter().any(|(partition, seat)| !seat.is_read(positions.get(partition).copied()))
    }

    /// Looks at the partitions that the next record waits for.
    pub fn verdict<T>(&self, sequencer: &Sequencer<T>, now: Instant) -> Verdict {
        let mut awaited = sequencer.awaited().peekable();
        if awaited.peek().is_none() {
            return Verdict::Wait;
        }
        let positions = sequencer.positions();
        let catching_up = self.is_catching_up(&positions);
        let mut silent = Vec::new();
        for partition in awaited {
            let Some(seat) = self.seats.get(&partition) else {
                continue;
            };
            let is_read = seat.is_read(positions.get(&partition).copied());
            match self.horizon {
                Horizon::Captured if is_read => return Verdict::Decide(Control::Ended(partition)),
                Horizon::Live { .. } if catching_up && is_read && seat.at_end.is_some() => {
                    return Verdict::Decide(Control::Ended(partition));
                }
                Horizon::Live { idle_after } if !catching_up => {
                    if seat.at_end.is_some_and(|(since, _)| now.saturating_duration_since(since) >= idle_after) {
                        silent.push(partition);
                    }
                }
                Horizon::Captured | Horizon::Live { .. } => {}
            }
        }
        if silent.is_empty() { Verdict::Wait } else { Verdict::Confirm(silent) }
    }

    /// Whether a bounded run is done: every partition was read to its captured end and consumed.
    pub fn is_done<T>(&self, sequencer: &Sequencer<T>) -> bool {
        self.horizon == Horizon::Captured
            && self.seats.keys().all(|partition| sequencer.standing(*partition) == Some(Standing::Away))
    }
}

impl Seat {
    /// Whether everything before the captured end was consumed (`position`) or does not exist (the broker's word).
    fn is_read(&self, position: Option<i64>) -> bool {
        position.is_some_and(|position| position >= self.captured_end)
            || self.at_end.is_some_and(|(_, next_offset)| next_offset >= self.captured_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deepfm_core::event::EventKind;

    const IMPRESSIONS: Partition = Partition { kind: EventKind::Impression, number: 0 };
    const CLICKS: Partition = Partition { kind: EventKind::Click, number: 0 };
    const IDLE_AFTER: Duration = Duration::from_secs(1);

    fn log(ends: &[(Partition, i64)]) -> (Sequencer<()>, Positions) {
        let mut sequencer = Sequencer::default();
        for (partition, _) in ends {
            sequencer.control(&Control::Start { partition: *partition, next_offset: 0 }).expect("it is new");
        }
        (sequencer, ends.iter().copied().collect())
    }

    #[test]
    fn a_bounded_run_ends_each_partition_at_its_captured_end_and_takes_nothing_after_it() {
        let (mut sequencer, ends) = log(&[(IMPRESSIONS, 1), (CLICKS, 0)]);
        let attendance = Attendance::new(Horizon::Captured, &ends);
        let now = Instant::now();
        assert!(attendance.takes(IMPRESSIONS, 0) && !attendance.takes(IMPRESSIONS, 1));
        assert_eq!(attendance.verdict(&sequencer, now), Verdict::Decide(Control::Ended(CLICKS)));
        sequencer.control(&Control::Ended(CLICKS)).expect("it is live");
        assert_eq!(attendance.verdict(&sequencer, now), Verdict::Wait);
        sequencer.push(IMPRESSIONS, 0, Some(1), ()).expect("in order");
        assert!(sequencer.pop().is_some());
        assert_eq!(attendance.verdict(&sequencer, now), Verdict::Decide(Control::Ended(IMPRESSIONS)));
        assert!(!attendance.is_done(&sequencer));
        sequencer.control(&Control::Ended(IMPRESSIONS)).expect("it is live");
        assert!(attendance.is_done(&sequencer));
    }

    #[test]
    fn records_that_do_not_exist_before_a_captured_end_are_not_waited_for() {
        let (sequencer, ends) = log(&[(CLICKS, 5)]);
        let mut attendance = Attendance::new(Horizon::Captured, &ends);
        let now = Instant::now();
        attendance.at_end(CLICKS, 4, now);
        assert_eq!(attendance.verdict(&sequencer, now), Verdict::Wait);
        attendance.at_end(CLICKS, 5, now);
        assert_eq!(attendance.verdict(&sequencer, now), Verdict::Decide(Control::Ended(CLICKS)));
    }

    #[test]
    fn nothing_is_idle_by_the_clock_while_the_worker_catches_up() {
        let (mut sequencer, ends) = log(&[(IMPRESSIONS, 1), (CLICKS, 0)]);
        let mut attendance = Attendance::new(Horizon::Live { idle_after: IDLE_AFTER }, &ends);
        let start = Instant::now();
        let later = start + 10 * IDLE_AFTER;
        assert_eq!(
            attendance.verdict(&sequencer, later),
            Verdict::Wait,
            "the broker has not said that clicks end here"
        );
        attendance.at_end(CLICKS, 0, start);
        assert_eq!(attendance.verdict(&sequencer, start), Verdict::Decide(Control::Ended(CLICKS)));
        sequencer.control(&Control::Ended(CLICKS)).expect("it is live");
        assert_eq!(attendance.verdict(&sequencer, later), Verdict::Wait, "impressions are behind their captured end");
    }

    #[test]
    fn silence_at_the_end_becomes_idle_only_after_its_time_and_the_brokers_word() {
        let (mut sequencer, ends) = log(&[(CLICKS, 1)]);
        let mut attendance = Attendance::new(Horizon::Live { idle_after: IDLE_AFTER }, &ends);
        let start = Instant::now();
        sequencer.push(CLICKS, 0, Some(1), ()).expect("in order");
        assert!(sequencer.pop().is_some());
        assert_eq!(attendance.verdict(&sequencer, start + IDLE_AFTER), Verdict::Wait);
        attendance.at_end(CLICKS, 1, start);
        assert_eq!(attendance.verdict(&sequencer, start + IDLE_AFTER / 2), Verdict::Wait);
        assert_eq!(attendance.verdict(&sequencer, start + IDLE_AFTER), Verdict::Confirm(vec![CLICKS]));
        attendance.arrived(CLICKS);
        assert_eq!(attendance.verdict(&sequencer, start + 10 * IDLE_AFTER), Verdict::Wait);
    }

    #[test]
    fn a_partition_that_is_away_returns_when_the_brokers_are_back_with_records_for_it() {
        let (mut sequencer, ends) = log(&[(IMPRESSIONS, 0), (CLICKS, 0)]);
        let mut attendance = Attendance::new(Horizon::Live { idle_after: IDLE_AFTER }, &ends);
        let start = Instant::now();
        for partition in [IMPRESSIONS, CLICKS] {
            attendance.at_end(partition, 0, start);
        }
        sequencer.control(&Control::Idle(CLICKS)).expect("it is live");
        let back = start + IDLE_AFTER;
        assert_eq!(attendance.verdict(&sequencer, back), Verdict::Confirm(vec![IMPRESSIONS]));
        assert_eq!(attendance.reconnected(IMPRESSIONS, 3, &sequencer, back), None, "it is waited for anyway");
        assert_eq!(attendance.verdict(&sequencer, back), Verdict::Wait, "but not taken for silent at once");
        assert_eq!(attendance.reconnected(CLICKS, 0, &sequencer, back), None, "it has nothing");
        assert_eq!(attendance.reconnected(CLICKS, 1, &sequencer, back), Some(Control::Returned(CLICKS)));
        let mut bounded = Attendance::new(Horizon::Captured, &ends);
        assert_eq!(bounded.reconnected(CLICKS, 1, &sequencer, back), None, "a bounded run has read all it wants");
    }

    #[test]
    fn a_partition_that_is_away_returns_when_a_new_start_finds_records_for_it() {
        let (mut sequencer, _) = log(&[(IMPRESSIONS, 0), (CLICKS, 0)]);
        for partition in [IMPRESSIONS, CLICKS] {
            sequencer.control(&Control::Ended(partition)).expect("it is live");
        }
        let attendance = Attendance::new(Horizon::Captured, &[(IMPRESSIONS, 0), (CLICKS, 3)].into_iter().collect());
        assert_eq!(attendance.returning(&sequencer), [Control::Returned(CLICKS)]);
    }
}
