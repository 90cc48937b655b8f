//! The form in which an impression is held: its id, its state and its packed payload in one record.
//!
//! ```text
//! state, u8 | length of the id | id | the click, if clicked | weight and hash of the payload, and the payload, if there is one
//! ```
//!
//! A click is its time, then the length of its event id and one, or 0 without. Lengths, weights and times are varints. Only
//! this process reads what is held; a checkpoint has a form of its own.

use crate::packed::{Reader, put_long, put_signed, put_varint};

use super::state::{Attributed, ImpressionState};

/// A payload as it is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed<'a> {
    /// Its hash, so that a change of state need not serialise it again.
    pub(super) hash: u128,
    /// What it counts as where memory is bounded.
    pub(super) weight: usize,
    pub(super) bytes: &'a [u8],
}

const OPEN: u8 = 0;
const CLICKED: u8 = 1;
const FAKED: u8 = 2;
const NEGATIVE_WITH_PAYLOAD: u8 = 3;
const NEGATIVE: u8 = 4;
const POSITIVE: u8 = 5;
const CORRECTED: u8 = 6;
const UNLABELLED: u8 = 7;

fn tag<P>(state: &ImpressionState<P>) -> u8 {
    match state {
        ImpressionState::Open(_) => OPEN,
        ImpressionState::Clicked(..) => CLICKED,
        ImpressionState::Faked(_) => FAKED,
        ImpressionState::Negative(Some(_)) => NEGATIVE_WITH_PAYLOAD,
        ImpressionState::Negative(None) => NEGATIVE,
        ImpressionState::Positive => POSITIVE,
        ImpressionState::Corrected => CORRECTED,
        ImpressionState::Unlabelled => UNLABELLED,
    }
}

/// Appends a record.
pub(super) fn write(record: &mut Vec<u8>, id: &str, state: &ImpressionState<Packed<'_>>) {
    record.push(tag(state));
    put_text(record, id);
    if let ImpressionState::Clicked(_, click) = state {
        put_signed(record, click.time);
        put_varint(record, click.event_id.as_ref().map_or(0, |id| id.len() as u64 + 1));
        record.extend_from_slice(click.event_id.as_ref().map_or(&[], |id| id.as_bytes()));
    }
    if let Some(Packed { hash, weight, bytes }) = state.payload() {
        put_varint(record, *weight as u64);
        record.extend(hash.to_ne_bytes());
        record.extend_from_slice(bytes);
    }
}

/// The bytes of the id in a record.
pub(super) fn id(record: &[u8]) -> &[u8] {
    let mut reader = Reader(&record[1..]);
    let length = reader.varint() as usize;
    reader.take(length)
}

/// The id and the state in a record.
pub(super) fn read(record: &[u8]) -> (&str, ImpressionState<Packed<'_>>) {
    let mut reader = Reader(&record[1..]);
    let length = reader.varint() as usize;
    let id = text(reader.take(length));
    let state = match record[0] {
        OPEN => ImpressionState::Open(payload(reader)),
        CLICKED => {
            let time = reader.signed();
            let event_id = (reader.varint() as usize).checked_sub(1).map(|length| text(reader.take(length)).into());
            ImpressionState::Clicked(payload(reader), Attributed { time, event_id })
        }
        FAKED => ImpressionState::Faked(payload(reader)),
        NEGATIVE_WITH_PAYLOAD => ImpressionState::Negative(Some(payload(reader))),
        NEGATIVE => ImpressionState::Negative(None),
        POSITIVE => ImpressionState::Positive,
        CORRECTED => ImpressionState::Corrected,
        UNLABELLED => ImpressionState::Unlabelled,
        other => unreachable!("no state is written as {other}"),
    };
    (id, state)
}

/// How another state of a record is written over the one that is there, if nothing else of it changes: as its first byte. A
/// click that is there stays the one that counts, and a payload stays what it is.
pub(super) fn over(record: &[u8], state: &ImpressionState<Packed<'_>>) -> Option<u8> {
    let has_payload_alone = |tag| matches!(tag, OPEN | FAKED | NEGATIVE_WITH_PAYLOAD);
    let (before, after) = (record[0], tag(state));
    (before == after || has_payload_alone(before) && has_payload_alone(after)).then_some(after)
}

/// Appends what is hashed of an impression: the form below, into which the payload enters by its own hash.
pub(super) fn write_hashed(bytes: &mut Vec<u8>, id: &str, time: i64, state: &ImpressionState<Packed<'_>>) {
    write_entry(bytes, (id, time, state), |payload, bytes| put_long(bytes, payload.hash));
}

/// Appends an impression as a [`JoinEntry`](super::JoinEntry) stands in postcard: a 0, the id, the time and the state.
pub(super) fn write_entry<P>(
    bytes: &mut Vec<u8>,
    (id, time, state): (&str, i64, &ImpressionState<P>),
    write: impl FnOnce(&P, &mut Vec<u8>),
) {
    bytes.push(0);
    put_text(bytes, id);
    put_signed(bytes, time);
    bytes.push(match state {
        ImpressionState::Open(_) => 0,
        ImpressionState::Clicked(..) => 1,
        ImpressionState::Faked(_) => 2,
        ImpressionState::Negative(_) => 3,
        ImpressionState::Positive => 4,
        ImpressionState::Corrected => 5,
        ImpressionState::Unlabelled => 6,
    });
    if let ImpressionState::Negative(payload) = state {
        bytes.push(u8::from(payload.is_some()));
    }
    if let Some(payload) = state.payload() {
        write(payload, bytes);
    }
    if let ImpressionState::Clicked(_, click) = state {
        put_signed(bytes, click.time);
        bytes.push(u8::from(click.event_id.is_some()));
        if let Some(event_id) = &click.event_id {
            put_text(bytes, event_id);
        }
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_varint(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("it was a text when it was written")
}

fn payload(mut reader: Reader<'_>) -> Packed<'_> {
    let weight = reader.varint() as usize;
    Packed { hash: u128::from_ne_bytes(reader.array()), weight, bytes: reader.0 }
}
