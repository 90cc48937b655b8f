//! What the intake says and the learner hears: one ordered stream, a delivery for each record of the merged order. Nothing
//! goes back the other way.

use serde::{Deserialize, Serialize};

use crate::event::{EventKind, Id};
use crate::feature::Features;
use crate::join::{Emission, EmissionKind, Pack, Weigh};
use crate::packed::{Reader, put_signed, put_varint};
use crate::stream::Partition;

/// What is known of an impression for as long as it may be learned from.
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

impl Shown {
    /// It is put into the place of another, whose features come out; into a new place if there is none.
    pub(super) fn placed(self, room: Option<Box<Self>>) -> (Box<Self>, Features) {
        match room {
            Some(mut room) => {
                let before = std::mem::replace(&mut *room, self);
                (room, before.features)
            }
            None => (Box::new(self), Features::default()),
        }
    }
}

/// What a shown impression counts as beside its features where memory is bounded.
const SHOWN_WEIGHT: usize = 64;

impl Weigh for Box<Shown> {
    fn weight(&self) -> usize {
        SHOWN_WEIGHT + self.features.weight()
    }
}

/// One byte says what most have in common: the kind of the topic, and a weight of 1.
const IS_CLICK_TOPIC: u8 = 1;
const IS_WEIGHTED: u8 = 2;

impl Pack for Box<Shown> {
    fn pack(&self, bytes: &mut Vec<u8>) {
        let Shown { number, partition, offset, weight, features } = &**self;
        let is_weighted = weight.to_bits() != 1.0_f32.to_bits();
        let of_topic = if partition.kind == EventKind::Click { IS_CLICK_TOPIC } else { 0 };
        bytes.push(of_topic | if is_weighted { IS_WEIGHTED } else { 0 });
        if is_weighted {
            bytes.extend(weight.to_ne_bytes());
        }
        put_varint(bytes, *number);
        put_signed(bytes, i64::from(partition.number));
        put_signed(bytes, *offset);
        features.pack(bytes);
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        let Shown { number, partition, offset, weight, features } = &**self;
        put_varint(bytes, *number);
        bytes.push(partition.kind as u8);
        put_signed(bytes, i64::from(partition.number));
        put_signed(bytes, *offset);
        bytes.extend(weight.to_le_bytes());
        features.write(bytes);
    }

    fn unpack(bytes: &[u8], mut room: Option<Self>) -> Self {
        let mut reader = Reader(bytes);
        let [flags] = reader.array();
        let weight = if flags & IS_WEIGHTED == 0 { 1.0 } else { f32::from_ne_bytes(reader.array()) };
        let number = reader.varint();
        let kind = if flags & IS_CLICK_TOPIC == 0 { EventKind::Impression } else { EventKind::Click };
        let partition = Partition { kind, number: reader.signed() as i32 };
        let offset = reader.signed();
        let mut features = room.as_mut().map(|room| std::mem::take(&mut room.features)).unwrap_or_default();
        features.unpack(&mut reader);
        Shown { number, partition, offset, weight, features }.placed(room).0
    }
}

/// One thing that a record brings about.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// An impression arrived, and its label is waited for.
    Shown {
        /// Its id.
        impression_id: Id,
        /// Its event time, in milliseconds.
        time: i64,
        /// The impression.
        shown: Box<Shown>,
    },
    /// A label became known, was corrected, or never will be known.
    Label(Label),
    /// A label is not learned, nor metered: it is of an outage of clicks.
    Skipped(Label),
}

/// What became known of an impression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// What.
    pub kind: EmissionKind,
    /// Its id.
    pub impression_id: Id,
    /// When it was shown, in milliseconds.
    pub impression_time: i64,
    /// What was shown.
    pub shown: Box<Shown>,
}

impl From<Emission<Box<Shown>>> for Label {
    fn from(emission: Emission<Box<Shown>>) -> Self {
        let Emission { kind, impression_id, impression_time, payload: shown, .. } = emission;
        Self { kind, impression_id, impression_time, shown }
    }
}

/// Which labels have matured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maturity {
    /// Those of impressions whose window has passed by the watermark; `None` is minus infinity.
    Watermark(Option<i64>),
    /// All of them: each label came with its impression.
    Known,
}

/// What one record brings about, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The log's time: the largest event time released, this record's included, in milliseconds. It comes before the items.
    pub log_time: Option<i64>,
    /// The items.
    pub items: Vec<Item>,
    /// Which labels have matured, after the items.
    pub maturity: Maturity,
}

impl Default for Delivery {
    fn default() -> Self {
        Self { log_time: None, items: Vec::new(), maturity: Maturity::Watermark(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::Entry;

    #[test]
    fn a_shown_impression_is_packed_and_written_as_it_is() {
        for (kind, number, offset, weight) in [
            (EventKind::Impression, 0, 0, 1.0),
            (EventKind::Click, i32::MIN, i64::MIN, -0.0),
            (EventKind::Impression, i32::MAX, i64::MAX, 2.5),
            (EventKind::Click, -1, -1, 1.0),
        ] {
            for fields in
                [vec![], vec![vec![Entry { id: 7, x: 1.0 }]; 3], vec![vec![], vec![Entry { id: 9, x: 0.5 }; 2]]]
            {
                let partition = Partition { kind, number };
                let features = Features::new(&fields);
                let shown = Box::new(Shown { number: offset.cast_unsigned(), partition, offset, weight, features });
                let (mut packed, mut written) = (Vec::new(), Vec::new());
                shown.pack(&mut packed);
                let rooms = [None, Some(shown.clone())];
                let [unpacked, in_room] = rooms.map(|room| <Box<Shown>>::unpack(&packed, room));
                assert_eq!(unpacked, in_room);
                assert_eq!((&unpacked, unpacked.weight.to_bits()), (&shown, weight.to_bits()));
                shown.write(&mut written);
                assert_eq!(written, postcard::to_stdvec(&shown).expect("it has a form in postcard"));
            }
        }
    }
}
