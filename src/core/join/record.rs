//! What goes into the join and what comes out of it.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::digest::append;
use crate::event::Id;
use crate::stream::Partition;

/// An impression on its way into the join. Times are milliseconds of event time.
#[derive(Clone, Debug, PartialEq)]
pub struct ImpressionIn<P> {
    /// The partition it was read from.
    pub partition: Partition,
    /// Its offset there.
    pub offset: i64,
    /// The name that its clicks use.
    pub impression_id: Id,
    /// Names the record itself; a second record with it is a duplicate.
    pub event_id: Option<Id>,
    /// When it was shown.
    pub time: i64,
    /// What is learned from, opaque here.
    pub payload: P,
}

impl<P> ImpressionIn<P> {
    /// The same over its payload as it lies there.
    pub fn as_ref(&self) -> ImpressionIn<&P> {
        let Self { partition, offset, time, .. } = *self;
        let (impression_id, event_id) = (self.impression_id.clone(), self.event_id.clone());
        ImpressionIn { partition, offset, impression_id, event_id, time, payload: &self.payload }
    }
}

/// A click on its way into the join. Times are milliseconds of event time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClickIn {
    /// The partition it was read from.
    pub partition: Partition,
    /// Its offset there.
    pub offset: i64,
    /// The impression that was clicked.
    pub impression_id: Id,
    /// Names the record itself; a second record with it is a duplicate.
    pub event_id: Option<Id>,
    /// When it was clicked.
    pub time: i64,
}

/// A click that waits, in the order in which clicks are attributed and forgotten: by event time, then event id, then
/// where it was read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WaitingClick {
    /// When it was clicked, in milliseconds.
    pub time: i64,
    /// Its event id, if it has one.
    pub event_id: Option<Id>,
    /// The partition it was read from.
    pub partition: Partition,
    /// Its offset there.
    pub offset: i64,
}

/// The XXH3-128 of an event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventIdHash {
    high: u64,
    low: u64,
}

impl EventIdHash {
    pub(super) fn of(event_id: &str) -> Self {
        let hash = xxh3_128(event_id.as_bytes());
        Self { high: (hash >> 64) as u64, low: hash as u64 }
    }

    /// A hash of these halves.
    #[cfg(test)]
    pub(super) fn from_halves(high: u64, low: u64) -> Self {
        Self { high, low }
    }

    /// Its bytes, for the tables of this process.
    pub(super) fn bytes(self) -> [u8; 16] {
        (u128::from(self.high) << 64 | u128::from(self.low)).to_ne_bytes()
    }
}

/// What a payload counts as where memory is bounded, as a function of its content alone.
pub trait Weigh {
    /// Its bytes.
    fn weight(&self) -> usize;
}

/// A payload as the join holds it: packed into bytes, and made again where it goes out.
pub trait Pack: Weigh + Serialize + Sized {
    /// Appends its packed form.
    fn pack(&self, bytes: &mut Vec<u8>);

    /// The payload of that form, in the room of one that is not needed any more.
    fn unpack(bytes: &[u8], room: Option<Self>) -> Self;

    /// Appends its form in postcard, which is what is hashed of it.
    fn write(&self, bytes: &mut Vec<u8>) {
        append(self, bytes);
    }
}

/// What the join has to say about an impression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EmissionKind {
    /// It was clicked within its window: label 1.
    Positive,
    /// Its window has passed without a click: label 0.
    Negative,
    /// It was clicked within its window, but the negative had already been emitted: label 1, once.
    Correction,
    /// It was shown (label policy `fake_negative`): label 0 for now.
    FakeNegative,
    /// It was clicked after its fake negative: label 1, once.
    FakePositive,
    /// Its window has passed without a click after its fake negative: label 0 is final, nothing to learn.
    Matured,
    /// It was closed at a bound: its label will not be known, nothing to learn.
    Unlabelled,
}

/// One labelled impression.
#[derive(Clone, Debug, PartialEq)]
pub struct Emission<P> {
    /// What is said.
    pub kind: EmissionKind,
    /// Of which impression.
    pub impression_id: Id,
    /// When that was shown, in milliseconds.
    pub impression_time: i64,
    /// When it was clicked, in milliseconds; `None` for label 0.
    pub click_time: Option<i64>,
    /// The event id of that click, if it had one.
    pub click_event_id: Option<Id>,
    /// The watermark at that moment: from before the record for what the record says itself, from after it for what
    /// expires by it. `None` is minus infinity.
    pub watermark: Option<i64>,
    /// The impression's payload.
    pub payload: P,
}
