//! Fields, feature ids and encoded features: how a value of an event becomes a row of the embedding table.
//!
//! Training, backtests and serving share this code; [`field::FieldSet::fingerprint`] names what it was told, and travels
//! in every version.

pub mod encoder;
pub mod field;
pub mod hash;
pub mod id;
pub mod value;

use serde::{Deserialize, Serialize};

/// A feature id: the XXH3-64 of a field and a value.
pub type FeatureId = u64;

/// One value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its feature id.
    pub id: FeatureId,
    /// Its weight; 1 for a plain value.
    pub x: f32,
}

/// The encoded features of one event, grouped by field.
///
/// Invariant: `ends` ascend, and the last one is the number of entries; so also when they are read back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct Features {
    entries: Box<[Entry]>,
    ends: Box<[u32]>,
}

/// Features as they are read, before it is known that they are any.
#[derive(Deserialize)]
struct Parts {
    entries: Box<[Entry]>,
    ends: Box<[u32]>,
}

impl TryFrom<Parts> for Features {
    type Error = &'static str;

    fn try_from(Parts { entries, ends }: Parts) -> Result<Self, Self::Error> {
        let ascend = ends.windows(2).all(|pair| pair[0] <= pair[1]);
        if ascend && ends.last().map_or(0, |end| *end as usize) == entries.len() {
            return Ok(Self { entries, ends });
        }
        Err("the ends of the fields are not those of the entries")
    }
}

impl Features {
    /// Features from the entries of each field.
    pub fn new(fields: &[Vec<Entry>]) -> Self {
        let ends = fields.iter().scan(0, |end, entries| {
            *end += entries.len() as u32;
            Some(*end)
        });
        Self { ends: ends.collect(), entries: fields.concat().into() }
    }

    /// Features from entries in any order, each with its field, out of `fields`. Within a field their order stays.
    pub fn from_pairs(fields: usize, pairs: &[(u16, Entry)]) -> Self {
        let mut ends = vec![0_u32; fields];
        for (field, _) in pairs {
            ends[usize::from(*field)] += 1;
        }
        let mut end = 0;
        let mut next = Vec::with_capacity(fields);
        for count in &mut ends {
            next.push(end as usize);
            end += *count;
            *count = end;
        }
        let mut entries = vec![Entry { id: 0, x: 0.0 }; pairs.len()];
        for (field, entry) in pairs {
            let at = &mut next[usize::from(*field)];
            entries[*at] = *entry;
            *at += 1;
        }
        Self { entries: entries.into(), ends: ends.into() }
    }

    /// The same of the first `fields` fields only.
    #[must_use]
    pub fn of_first(&self, fields: usize) -> Self {
        let first: Vec<Vec<Entry>> = (0..self.fields().min(fields)).map(|field| self.field(field).to_vec()).collect();
        Self::new(&first)
    }

    /// Bytes that they take on the heap.
    pub fn weight(&self) -> usize {
        size_of_val(&*self.entries) + size_of_val(&*self.ends)
    }

    /// Number of fields.
    pub fn fields(&self) -> usize {
        self.ends.len()
    }

    /// The entries of a field.
    pub fn field(&self, field: usize) -> &[Entry] {
        let start = if field == 0 { 0 } else { self.ends[field - 1] };
        &self.entries[start as usize..self.ends[field] as usize]
    }

    /// The entries of all fields, field by field.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The ids of all entries.
    pub fn ids(&self) -> impl Iterator<Item = FeatureId> {
        self.entries.iter().map(|entry| entry.id)
    }

    /// Where each field ends in [`Self::entries`].
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }
}
