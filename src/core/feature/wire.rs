//! Features as they are written: a list of entries, then a list of the ends of fields, whatever form they are held in. So
//! they stand in checkpoints, and so they enter digests.

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::{Entry, Features};
use crate::packed::{put_varint, write_varint};

impl Serialize for Features {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut parts = serializer.serialize_struct("Features", 2)?;
        parts.serialize_field("entries", &List(self.entries()))?;
        parts.serialize_field("ends", &List(self.ends()))?;
        parts.end()
    }
}

/// Bytes of an entry's block while it is written; it needs 14 of them at most.
const BLOCK: usize = 16;

impl Features {
    /// Appends their form in postcard: what their serialisation makes, in a fraction of the time.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        let entries = self.entries();
        put_varint(bytes, entries.len() as u64);
        let mut at = bytes.len();
        bytes.resize(at + BLOCK * entries.len(), 0);
        for Entry { id, x } in entries {
            let mut block = [0; BLOCK];
            let length = write_varint(&mut block, id);
            block[length..length + 4].copy_from_slice(&x.to_le_bytes());
            bytes[at..at + BLOCK].copy_from_slice(&block);
            at += length + 4;
        }
        bytes.truncate(at);
        put_varint(bytes, self.fields() as u64);
        self.ends().for_each(|end| put_varint(bytes, u64::from(end)));
    }
}

/// What an iterator yields, as a list.
struct List<I>(I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for List<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

/// Features as they are read, before it is known that they are any.
#[derive(serde::Deserialize)]
#[serde(rename = "Features")]
struct Parts {
    entries: Box<[Entry]>,
    ends: Box<[u32]>,
}

impl<'de> Deserialize<'de> for Features {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Parts { entries, ends } = Parts::deserialize(deserializer)?;
        Self::from_parts(&entries, &ends).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::packed::Reader;

    /// Features as they were held when their form on the wire was set.
    #[derive(Debug, serde::Serialize)]
    struct Plain {
        entries: Box<[Entry]>,
        ends: Box<[u32]>,
    }

    fn plain(fields: &[Vec<Entry>]) -> Plain {
        let ends = fields.iter().scan(0, |end, entries| {
            *end += entries.len() as u32;
            Some(*end)
        });
        Plain { ends: ends.collect(), entries: fields.concat().into() }
    }

    fn check(fields: &[Vec<Entry>]) {
        let (features, plain) = (Features::new(fields), plain(fields));
        assert_eq!(features.fields(), fields.len());
        for (field, entries) in fields.iter().enumerate() {
            assert_eq!(&features.field(field).collect::<Vec<_>>(), entries);
        }
        assert!(features.entries().eq(plain.entries.iter().copied()));
        assert!(features.ends().eq(plain.ends.iter().copied()));
        let written = postcard::to_stdvec(&features).expect("features have a form in postcard");
        assert_eq!(written, postcard::to_stdvec(&plain).expect("lists have a form in postcard"));
        let mut appended = Vec::from(*b"before");
        features.write(&mut appended);
        assert_eq!(appended.strip_prefix(b"before"), Some(written.as_slice()));
        assert_eq!(serde_json::json!(features), serde_json::json!(plain));
        let read: Features = postcard::from_bytes(&written).expect("what was written is read");
        assert_eq!(read, features);
        let shifted =
            (0_u16..).zip(fields).flat_map(|(field, entries)| entries.iter().map(move |entry| (field, *entry)));
        let mut pairs: Vec<(u16, Entry)> = shifted.collect();
        pairs.sort_by_key(|(field, _)| std::cmp::Reverse(*field));
        assert_eq!(Features::from_pairs(fields.len(), &pairs), features);
        let mut packed = Vec::new();
        features.pack(&mut packed);
        let mut reader = Reader(&packed);
        let mut unpacked = Features::new(&[vec![Entry { id: 5, x: 2.0 }; 70]]);
        unpacked.unpack(&mut reader);
        assert_eq!(unpacked, features);
        unpacked.fill(fields.len(), &pairs, &mut vec![9; 3]);
        assert_eq!(unpacked, features);
        assert!(reader.0.is_empty(), "all of it was read");
    }

    fn entry() -> impl Strategy<Value = Entry> {
        (any::<u64>(), prop_oneof![4 => Just(1.0), 1 => -9.0_f32..9.0]).prop_map(|(id, x)| Entry { id, x })
    }

    proptest! {
        #[test]
        fn whatever_they_are_their_form_on_the_wire_is_that_of_two_lists(
            fields in vec(prop_oneof![3 => vec(entry(), 1), 1 => vec(entry(), 0..4)], 0..9),
        ) {
            check(&fields);
        }
    }

    #[test]
    fn the_forms_at_their_bounds_are_those_of_two_lists() {
        let one = |x| vec![Entry { id: u64::MAX, x }];
        check(&[]);
        check(&[Vec::new()]);
        check(&[one(1.0), one(1.0), one(1.0)]);
        check(&[one(1.0), one(0.5), one(-0.0)]);
        for entries in [65_535, 65_536] {
            check(&[Vec::new(), one(1.0).repeat(entries), Vec::new()]);
        }
    }

    #[test]
    fn ends_that_are_not_those_of_the_entries_are_refused() {
        let entries = || vec![Entry { id: 1, x: 1.0 }, Entry { id: 2, x: 1.0 }].into_boxed_slice();
        for ends in [vec![], vec![1], vec![2, 1], vec![2, 3], vec![3, 2]] {
            let written = postcard::to_stdvec(&Plain { entries: entries(), ends: ends.clone().into() });
            let read: Result<Features, _> = postcard::from_bytes(&written.expect("lists have a form in postcard"));
            assert!(read.is_err(), "{ends:?}");
        }
    }
}
