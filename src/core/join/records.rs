//! Records of any length, each with an event time and found by its number, packed one behind the other: memory for them is
//! asked for and given back by the segment, and a record costs its bytes, 8 for its head and 16 for its place.
//!
//! ```text
//! number, u32 | length of the bytes, u32 | the bytes
//! ```
//!
//! Records mostly go in the order in which they came, so that segments empty by themselves. Where they do not, those that
//! are left in the first segments move to the last one as soon as half of what the segments span is gone.
//!
//! Invariants: a record in use is where its slot says, and no other bytes are. `live` is the sum over the records in use,
//! `spanned` that over all records appended to segments that still have a place in the queue. `spanned` is at most twice
//! `live` and [`SPARE`]; only the last segment is appended to.

use std::collections::VecDeque;

use super::form;
use crate::order::{Keyed, Number, Slots};

/// Bytes of a segment; a longer record has one of its own.
const SEGMENT_BYTES: usize = 1 << 16;

/// Segments that are gone of which the room is kept.
const SPARES_MAX: usize = 2;

/// Bytes that may be gone however little is in use.
const SPARE: usize = 4 * SEGMENT_BYTES;

const HEAD_BYTES: usize = 8;

/// The time and the place of a record.
#[derive(Clone, Copy, Debug)]
struct Slot {
    time: i64,
    segment: u32,
    at: u32,
}

/// Where no record is.
const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Debug, Default)]
struct Segment {
    bytes: Vec<u8>,
    live: usize,
    spanned: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    slots: Slots<Slot>,
    segments: VecDeque<Segment>,
    /// The room of segments that are gone.
    spares: Vec<Vec<u8>>,
    /// The number of the first segment; they are counted modulo 2^32.
    first: u32,
    live: usize,
    spanned: usize,
}

impl Records {
    pub(super) fn insert(&mut self, time: i64, bytes: &[u8]) -> Number {
        let number = self.slots.insert(Slot { time, segment: 0, at: NOWHERE });
        self.append(number, bytes);
        number
    }

    pub(super) fn get(&self, number: Number) -> &[u8] {
        let slot = self.slots.get(number);
        let segment = &self.segments[slot.segment.wrapping_sub(self.first) as usize];
        bytes_at(&segment.bytes, slot.at as usize)
    }

    pub(super) fn get_mut(&mut self, number: Number) -> &mut [u8] {
        let slot = *self.slots.get(number);
        let segment = &mut self.segments[slot.segment.wrapping_sub(self.first) as usize];
        let length = bytes_at(&segment.bytes, slot.at as usize).len();
        &mut segment.bytes[slot.at as usize + HEAD_BYTES..][..length]
    }

    /// Gives a record other bytes.
    pub(super) fn replace(&mut self, number: Number, bytes: &[u8]) {
        self.release(number);
        self.append(number, bytes);
        self.tidy();
    }

    pub(super) fn remove(&mut self, number: Number) {
        self.release(number);
        self.slots.get_mut(number).at = NOWHERE;
        self.slots.remove(number);
        self.tidy();
    }

    fn append(&mut self, number: Number, bytes: &[u8]) {
        let size = HEAD_BYTES + bytes.len();
        let length = u32::try_from(bytes.len()).expect("a record comes from a message, and those are shorter");
        if self.segments.back().is_none_or(|last| last.bytes.capacity() - last.bytes.len() < size) {
            // Where a record that would not fit was large, much is left over.
            if let Some(last) = self.segments.back_mut()
                && last.bytes.capacity() - last.bytes.len() > SEGMENT_BYTES / 64
            {
                last.bytes.shrink_to_fit();
            }
            let mut bytes = self.spares.pop().unwrap_or_default();
            if bytes.capacity() < size.max(SEGMENT_BYTES) {
                bytes = Vec::with_capacity(size.max(SEGMENT_BYTES));
            }
            self.segments.push_back(Segment { bytes, live: 0, spanned: 0 });
        }
        let place = self.first.wrapping_add(self.segments.len() as u32 - 1);
        let last = self.segments.back_mut().expect("there is one now");
        let at = last.bytes.len() as u32;
        last.bytes.extend(number.to_le_bytes());
        last.bytes.extend(length.to_le_bytes());
        last.bytes.extend_from_slice(bytes);
        last.live += size;
        last.spanned += size;
        self.live += size;
        self.spanned += size;
        let slot = self.slots.get_mut(number);
        (slot.segment, slot.at) = (place, at);
    }

    /// The bytes of a record are in use no more; its slot still says where they were.
    fn release(&mut self, number: Number) {
        let size = HEAD_BYTES + self.get(number).len();
        let place = self.slots.get(number).segment.wrapping_sub(self.first) as usize;
        let is_last = place + 1 == self.segments.len();
        let segment = &mut self.segments[place];
        segment.live -= size;
        self.live -= size;
        if segment.live == 0 && !is_last {
            keep(&mut self.spares, std::mem::take(&mut segment.bytes));
        }
    }

    /// Lets go of segments until no more is gone than may be.
    fn tidy(&mut self) {
        while self.segments.len() > 1 && self.segments[0].live == 0 || self.spanned > 2 * self.live + SPARE {
            let Some(segment) = self.segments.pop_front() else {
                return;
            };
            let place = self.first;
            self.first = self.first.wrapping_add(1);
            self.spanned -= segment.spanned;
            self.live -= segment.live;
            if segment.live > 0 {
                self.move_all(place, &segment.bytes);
            }
            keep(&mut self.spares, segment.bytes);
        }
    }

    /// Appends all records in use of a segment that has no place in the queue any more.
    fn move_all(&mut self, place: u32, segment: &[u8]) {
        let mut at = 0;
        while let Some(head) = segment[at..].first_chunk::<4>() {
            let (number, bytes) = (u32::from_le_bytes(*head), bytes_at(segment, at));
            let slot = self.slots.get(number);
            if (slot.segment, slot.at) == (place, at as u32) {
                self.append(number, bytes);
            }
            at += HEAD_BYTES + bytes.len();
        }
    }
}

/// Keeps the room of a segment that is gone, if it is one of the usual size.
fn keep(spares: &mut Vec<Vec<u8>>, mut segment: Vec<u8>) {
    if segment.capacity() == SEGMENT_BYTES && spares.len() < SPARES_MAX {
        segment.clear();
        spares.push(segment);
    }
}

impl Keyed for Records {
    type Id<'k> = &'k [u8];

    fn time(&self, number: Number) -> i64 {
        self.slots.get(number).time
    }

    fn id(&self, number: Number) -> &[u8] {
        form::id(self.get(number))
    }
}

#[inline]
fn bytes_at(segment: &[u8], at: usize) -> &[u8] {
    let (length, rest) = segment[at + 4..].split_first_chunk::<4>().expect("a record has a head");
    &rest[..u32::from_le_bytes(*length) as usize]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What the segments take.
    fn allocated(records: &Records) -> usize {
        records.segments.iter().map(|segment| segment.bytes.capacity()).sum()
    }

    fn check(records: &Records, expected: &BTreeMap<Number, (i64, Vec<u8>)>) {
        for (number, (time, bytes)) in expected {
            assert_eq!((records.time(*number), records.get(*number)), (*time, bytes.as_slice()));
        }
        let live: usize = expected.values().map(|(_, bytes)| HEAD_BYTES + bytes.len()).sum();
        assert_eq!(records.live, live);
        assert_eq!(records.spanned, records.segments.iter().map(|segment| segment.spanned).sum::<usize>());
        assert!(records.spanned <= 2 * live + SPARE);
    }

    proptest! {
        #[test]
        fn every_record_is_where_its_number_says(
            calls in vec((0_u8..4, any::<prop::sample::Index>(), prop_oneof![9 => 0_usize..3000, 1 => 0_usize..200_000]), 1..400),
        ) {
            let (mut records, mut expected) = (Records::default(), BTreeMap::<Number, (i64, Vec<u8>)>::new());
            for (at, (call, which, length)) in calls.into_iter().enumerate() {
                let bytes = vec![at as u8; length];
                let number = (!expected.is_empty()).then(|| *which.get(&expected.keys().copied().collect::<Vec<_>>()));
                match (call, number) {
                    (2, Some(number)) => {
                        records.replace(number, &bytes);
                        expected.get_mut(&number).expect("it is there").1 = bytes;
                    }
                    (3, Some(number)) => {
                        records.remove(number);
                        expected.remove(&number);
                    }
                    _ => {
                        let number = records.insert(at as i64, &bytes);
                        prop_assert!(expected.insert(number, (at as i64, bytes)).is_none());
                    }
                }
                check(&records, &expected);
            }
        }
    }

    #[test]
    fn what_goes_in_the_order_in_which_it_came_leaves_little_behind() {
        let mut records = Records::default();
        let mut held = VecDeque::new();
        for at in 0..50_000 {
            held.push_back(records.insert(at, &[7; 200]));
            if held.len() > 5000 {
                records.remove(held.pop_front().expect("it is there"));
            }
        }
        assert!(allocated(&records) < 5000 * 208 + 3 * SEGMENT_BYTES, "{}", allocated(&records));
        assert!(records.slots.used() < 5010 && records.segments.len() < 20);
    }

    #[test]
    fn one_that_stays_keeps_nothing_of_what_came_and_went_after_it() {
        let mut records = Records::default();
        let first = records.insert(0, b"first");
        for at in 0..200_000 {
            let number = records.insert(at, &[7; 100]);
            records.remove(number);
            assert!(records.segments.len() < 8 && allocated(&records) < SPARE + 2 * SEGMENT_BYTES);
        }
        assert_eq!(records.get(first), b"first");
    }
}
