//! Impressions and clicks become labelled impressions.
//!
//! The two come in any order, more than once, late or never. The join holds impressions until the watermark has passed
//! their attribution window and says what their label is; it holds clicks until their impression comes. The exact rules
//! are those of the golden vectors (`tests/fixtures/golden`, section 6 of their description), to which this adds two
//! more [label policies](LabelPolicy), event ids that are optional, and bounds.
//!
//! Every record goes the same way: it is admitted or dropped against the watermark from before it, it changes what is
//! held, it moves the watermark, then all that the watermark has passed matures or is forgotten, the oldest first.
//!
//! Invariants. The join is a function of its calls: no clock, no order of a hash table. An impression yields at most
//! one label 0 and one label 1 while it is held. All that is held is bounded: by the retention, and by count. The sum
//! over all entries (`entries_sum`) is kept from what changes, and a restored join goes on exactly as the saved one.

mod changes;
mod checkpoint;
mod counters;
mod digest;
mod form;
mod held;
mod memory;
pub mod params;
mod record;
mod records;
mod state;
#[cfg(test)]
mod tests;
mod waiting;
mod watermark;

use crate::event::{EventKind, Id};

pub use changes::{ChangeRecord, first_record};
pub use checkpoint::{JoinEntry, JoinRestoreError, JoinScalars};
pub use counters::JoinCounters;
pub use record::{ClickIn, Emission, EmissionKind, EventIdHash, ImpressionIn, Pack, WaitingClick, Weigh};
pub use state::{Attributed, ImpressionState};

use held::HeldImpressions;
use memory::{Memory, Remembered};
use params::{JoinParams, LabelPolicy};
use state::{ClickEffect, Label};
use waiting::WaitingClicks;
use watermark::Watermark;

/// The join of impressions and clicks, over a payload `P` that it carries from an impression to its label.
#[derive(Clone, Debug)]
pub struct Join<P> {
    params: JoinParams,
    watermark: Watermark,
    held: HeldImpressions<P>,
    waiting: WaitingClicks,
    impression_events: Memory,
    click_events: Memory,
    counters: JoinCounters,
    /// Payloads that nobody needs any more, for their room.
    rooms: Vec<P>,
    /// A payload on its way out.
    packed: Vec<u8>,
}

/// Whether the join took a record in, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It did.
    In,
    /// The watermark had passed its window and retention.
    TooLate,
    /// Its event id is remembered.
    Duplicate,
    /// Its impression id is held already.
    Conflicting,
}

impl<P: Weigh> Join<P> {
    /// An empty join.
    pub fn new(params: JoinParams) -> Self {
        Self {
            watermark: Watermark::new(params.lateness_ms),
            params,
            held: HeldImpressions::new(),
            waiting: WaitingClicks::default(),
            impression_events: Memory::new(EventKind::Impression),
            click_events: Memory::new(EventKind::Click),
            counters: JoinCounters::default(),
            rooms: Vec::new(),
            packed: Vec::new(),
        }
    }

    /// Goes on with other parameters: what is held is judged by them from the next record on. Labels and lateness stay as
    /// they are.
    pub fn reconfigure(&mut self, params: &JoinParams) {
        let JoinParams { lateness_ms, labels, .. } = self.params;
        self.params = JoinParams { lateness_ms, labels, ..params.clone() };
    }

    /// The watermark, in milliseconds; `None` is minus infinity.
    pub fn watermark(&self) -> Option<i64> {
        self.watermark.value()
    }

    /// What became of everything so far.
    pub fn counters(&self) -> &JoinCounters {
        &self.counters
    }

    /// The number of impressions whose window has not passed and that are not resolved.
    pub fn open(&self) -> usize {
        self.held.open_len()
    }

    /// The number of impressions held, open or resolved.
    pub fn retained(&self) -> usize {
        self.held.len()
    }

    /// Bytes of the payloads held: of open impressions, and of resolved ones that a late click may still correct.
    pub fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Payloads that nobody needs any more; those that come out have their room.
    pub fn rooms(&mut self) -> &mut Vec<P> {
        &mut self.rooms
    }

    /// The number of clicks that wait for their impression.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The number of event ids remembered, of both kinds.
    pub fn remembered(&self) -> usize {
        self.impression_events.len() + self.click_events.len()
    }

    /// Drops what is too late or a duplicate, and remembers the event id of what is not.
    fn admit(&mut self, kind: EventKind, time: i64, event_id: Option<&str>) -> Taken {
        if self.watermark.passed(self.forgotten_after(time)) {
            self.counters.too_late += 1;
            return Taken::TooLate;
        }
        let memory = match kind {
            EventKind::Impression => &mut self.impression_events,
            EventKind::Click => &mut self.click_events,
        };
        if event_id.is_some_and(|id| memory.remember(time, id) == Remembered::Before) {
            self.counters.duplicate += 1;
            return Taken::Duplicate;
        }
        Taken::In
    }

    /// Takes the clicks that wait for an impression; the earliest in its window is the one that counts.
    fn take_waiting(&mut self, impression_id: &str, time: i64) -> Option<Attributed> {
        let mut attributed = None;
        for WaitingClick { time: click_time, event_id, .. } in self.waiting.take(impression_id) {
            if !self.in_window(time, click_time) {
                self.counters.click_outside_window += 1;
            } else if attributed.is_some() {
                self.counters.extra_click += 1;
            } else {
                attributed = Some(Attributed { time: click_time, event_id });
            }
        }
        attributed
    }

    /// Forgets what the retention says. Open impressions have matured by then.
    fn forget(&mut self) {
        while self.held.oldest_resolved().is_some_and(|time| self.is_forgotten(time)) {
            self.held.forget_oldest_resolved();
        }
        while self.waiting.oldest().is_some_and(|time| self.is_forgotten(time)) {
            self.waiting.forget_oldest();
            self.counters.orphan_expired += 1;
        }
        while self.impression_events.oldest().is_some_and(|time| self.is_forgotten(time)) {
            self.impression_events.forget_oldest();
        }
        while self.click_events.oldest().is_some_and(|time| self.is_forgotten(time)) {
            self.click_events.forget_oldest();
        }
    }

    /// Forgets the oldest of what there is too much of, as if its retention had passed.
    fn hold_bounds(&mut self) {
        while self.held.resolved_len() > self.params.remembered_max {
            self.held.forget_oldest_resolved();
            self.counters.forgotten_impressions += 1;
        }
        while self.waiting.len() > self.params.waiting_clicks_max {
            self.waiting.forget_oldest();
            self.counters.forgotten_waiting += 1;
        }
        for memory in [&mut self.impression_events, &mut self.click_events] {
            while memory.len() > self.params.remembered_max {
                memory.forget_oldest();
                self.counters.forgotten_event_ids += 1;
            }
        }
    }

    fn emit(&mut self, (impression_id, impression_time): (Id, i64), label: Label<P>, out: &mut Vec<Emission<P>>) {
        let Label { kind, click, payload } = label;
        self.counters.count_emission(kind);
        out.push(Emission {
            kind,
            impression_id,
            impression_time,
            click_time: click.as_ref().map(|click| click.time),
            click_event_id: click.and_then(|click| click.event_id),
            watermark: self.watermark.value(),
            payload,
        });
    }

    fn in_window(&self, impression_time: i64, click_time: i64) -> bool {
        let first = impression_time.saturating_sub(self.params.click_before_ms);
        (first..=self.matures_after(impression_time)).contains(&click_time)
    }

    /// The last millisecond of an impression's window.
    pub(crate) fn matures_after(&self, time: i64) -> i64 {
        time.saturating_add(self.params.window_ms)
    }

    fn forgotten_after(&self, time: i64) -> i64 {
        self.matures_after(time).saturating_add(self.params.retention_ms)
    }

    fn is_forgotten(&self, time: i64) -> bool {
        self.watermark.passed(self.forgotten_after(time))
    }
}

impl<P: Pack> Join<P> {
    /// Takes an impression in, and appends what follows from it to `out`; says whether it was taken.
    pub fn impression(&mut self, impression: ImpressionIn<&P>, out: &mut Vec<Emission<P>>) -> Taken {
        self.counters.received_impressions += 1;
        let time = impression.time;
        let mut taken = self.admit(EventKind::Impression, time, impression.event_id.as_deref());
        if taken == Taken::In {
            taken = self.take_impression(impression, out);
        }
        self.watermark.observe(time);
        self.expire(out);
        taken
    }

    /// Takes a click in, and appends what follows from it to `out`; says whether it was taken.
    pub fn click(&mut self, click: ClickIn, out: &mut Vec<Emission<P>>) -> Taken {
        self.counters.received_clicks += 1;
        let time = click.time;
        let taken = self.admit(EventKind::Click, time, click.event_id.as_deref());
        if taken == Taken::In {
            self.take_click(click, out);
        }
        self.watermark.observe(time);
        self.expire(out);
        taken
    }

    /// Moves the watermark past everything, as if the log had gone on for ever without a record: all that is held matures
    /// and is forgotten, and all records after it are too late. No run does this, since it would label what the log does
    /// not: it is for judging a join by itself.
    pub fn flush(&mut self, out: &mut Vec<Emission<P>>) {
        self.watermark.flush();
        self.expire(out);
    }

    fn take_impression(&mut self, impression: ImpressionIn<&P>, out: &mut Vec<Emission<P>>) -> Taken {
        let ImpressionIn { impression_id: id, time, payload, .. } = impression;
        if self.held.find(&id).is_some() {
            self.counters.conflicting_impression += 1;
            return Taken::Conflicting;
        }
        if self.watermark.passed(time) {
            self.counters.late_impression += 1;
        }
        let click = self.take_waiting(&id, time);
        let label = |kind, click, payload| Label { kind, click, payload };
        let state = match (self.params.labels, click) {
            (LabelPolicy::AtClick | LabelPolicy::AtMaturity, None) => ImpressionState::Open(payload),
            (LabelPolicy::AtMaturity, Some(click)) => ImpressionState::Clicked(payload, click),
            (LabelPolicy::AtClick, click) => {
                let payload = self.copied(payload);
                self.emit((id.clone(), time), label(EmissionKind::Positive, click, payload), out);
                ImpressionState::Positive
            }
            (LabelPolicy::FakeNegative, click) => {
                let first = label(EmissionKind::FakeNegative, None, self.copied(payload));
                self.emit((id.clone(), time), first, out);
                if click.is_some() {
                    let payload = self.copied(payload);
                    self.emit((id.clone(), time), label(EmissionKind::FakePositive, click, payload), out);
                    ImpressionState::Positive
                } else {
                    ImpressionState::Faked(payload)
                }
            }
        };
        if let Some(bytes) = state.payload().filter(|_| state.is_open()).map(|payload| payload.weight()) {
            self.make_room(bytes, out);
        }
        self.held.insert(time, &id, state);
        Taken::In
    }

    /// A payload that goes out while it is held.
    pub(crate) fn copied(&mut self, payload: &P) -> P {
        self.packed.clear();
        payload.pack(&mut self.packed);
        P::unpack(&self.packed, self.rooms.pop())
    }

    fn take_click(&mut self, click: ClickIn, out: &mut Vec<Emission<P>>) {
        let ClickIn { partition, offset, impression_id: id, event_id, time } = click;
        let Some(number) = self.held.find(&id) else {
            self.waiting.insert(id, WaitingClick { time, event_id, partition, offset });
            return;
        };
        let impression_time = self.held.time(number);
        if !self.in_window(impression_time, time) {
            self.counters.click_outside_window += 1;
            return;
        }
        let JoinParams { labels, late_clicks, .. } = self.params;
        let click = Attributed { time, event_id };
        let effect = self.held.update(number, |state| {
            let (state, effect) = state.clicked(click, labels, late_clicks);
            (state, effect.map(|payload| P::unpack(payload.bytes, self.rooms.pop())))
        });
        match effect {
            ClickEffect::HeldBack => {}
            ClickEffect::Label(label) => self.emit((id, impression_time), label, out),
            ClickEffect::Late(label) => {
                self.counters.late_click += 1;
                if let Some(label) = label {
                    self.emit((id, impression_time), label, out);
                }
            }
            ClickEffect::Extra => self.counters.extra_click += 1,
            ClickEffect::Unlabelled => self.counters.unlabelled_click += 1,
        }
    }

    /// Makes room for one more open impression, of a payload of so many bytes: what is only remembered goes before what is
    /// open.
    fn make_room(&mut self, bytes: usize, out: &mut Vec<Emission<P>>) {
        while self.held.open_len() >= self.params.open_impressions_max {
            self.close_oldest_open(out);
        }
        while self.held.bytes() > 0 && self.held.bytes().saturating_add(bytes) > self.params.held_bytes_max {
            // Forgetting frees memory only while some resolved impression has its payload.
            if self.held.resolved_bytes() > 0 {
                self.held.forget_oldest_resolved();
                self.counters.forgotten_impressions += 1;
            } else {
                self.close_oldest_open(out);
            }
        }
    }

    fn close_oldest_open(&mut self, out: &mut Vec<Emission<P>>) {
        let Some((time, number)) = self.held.oldest_open() else {
            return;
        };
        let (payload, was_clicked) = self.held.update(number, |state| {
            let was_clicked = matches!(state, ImpressionState::Clicked(..));
            let payload = state.payload().map(|payload| P::unpack(payload.bytes, self.rooms.pop()));
            (ImpressionState::Unlabelled, (payload, was_clicked))
        });
        self.counters.closed_unlabelled += 1;
        self.counters.unlabelled_click += u64::from(was_clicked);
        if let Some(payload) = payload {
            let id = self.held.id(number);
            self.emit((id, time), Label { kind: EmissionKind::Unlabelled, click: None, payload }, out);
        }
    }

    /// Matures and forgets what the watermark has passed.
    fn expire(&mut self, out: &mut Vec<Emission<P>>) {
        let late = self.params.late_clicks;
        while let Some((time, number)) = self.held.oldest_open()
            && self.watermark.passed(self.matures_after(time))
        {
            let label = self.held.update(number, |state| {
                let (state, label) = state.matured(late);
                (state, label.map(|label| label.map(|payload| P::unpack(payload.bytes, self.rooms.pop()))))
            });
            if let Some(label) = label {
                let id = self.held.id(number);
                self.emit((id, time), label, out);
            }
        }
        self.forget();
        self.hold_bounds();
    }
}
