//! A batch, laid out for arithmetic: every distinct feature id gets a *slot*, and the entries of all examples refer to
//! slots. A row is read once into its slot and written once from it, however often its id occurs in the batch.

use super::slot::SlotKey;
use crate::feature::{FeatureId, Features};
use crate::kernel::factors::Entries;

/// Which slot each entry of a batch refers to.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The distinct ids, by slot.
    pub ids: Vec<FeatureId>,
    /// `(slot, x)` of each entry, example by example, field by field.
    pub entries: Vec<(u32, f32)>,
    /// Where field f of example e ends in `entries`: at `ends[e * fields + f]`.
    pub ends: Vec<u32>,
    /// Fields of an example.
    pub fields: usize,
    /// One more than the slot of the id that is there, by open addressing; 0 is nobody's.
    places: Vec<u32>,
    key: SlotKey,
}

/// Places for so many ids: a power of two, of which more than half stay empty.
fn places_for(ids: usize) -> usize {
    (2 * ids + 1).next_power_of_two()
}

impl Layout {
    /// Lays a batch out; the memory of the last one is used again.
    ///
    /// # Panics
    /// When a batch has 2^32 entries, or an example more fields than the model. One with fewer is from before fields were added: they are empty.
    pub fn fill<'f>(&mut self, fields: usize, batch: impl Iterator<Item = &'f Features> + Clone) {
        self.ids.clear();
        self.entries.clear();
        self.ends.clear();
        let entries: usize = batch.clone().map(|features| features.ids().len()).sum();
        assert!(u32::try_from(entries).is_ok(), "a batch has fewer than 2^32 entries");
        self.places.clear();
        self.places.resize(places_for(entries), 0);
        self.entries.reserve(entries);
        self.fields = fields;
        for features in batch {
            assert!(features.fields() <= fields, "the encoder has no more fields than the model");
            let base = self.entries.len() as u32;
            match features.weights() {
                None => self.append(features.ids().iter().map(|id| (*id, 1.0))),
                Some(weights) => self.append(features.ids().iter().copied().zip(weights.iter().copied())),
            }
            self.ends.extend(features.ends().map(|end| base + end));
            self.ends.resize(self.ends.len() + fields - features.fields(), self.entries.len() as u32);
        }
    }

    /// Number of examples.
    pub fn examples(&self) -> usize {
        self.ends.len().checked_div(self.fields).unwrap_or(0)
    }

    /// The entries of examples side by side, whose field vectors have this width.
    pub fn chunk(&self, example: usize, examples: usize, dim: usize) -> Entries<'_> {
        let at = example * self.fields;
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        let ends = &self.ends[at..at + examples * self.fields];
        Entries { entries: &self.entries, start, ends, fields: self.fields, dim }
    }

    fn append(&mut self, entries: impl Iterator<Item = (FeatureId, f32)>) {
        for (id, x) in entries {
            let slot = self.slot(id);
            self.entries.push((slot, x));
        }
    }

    #[inline]
    fn slot(&mut self, id: FeatureId) -> u32 {
        let mask = self.places.len() - 1;
        let mut place = self.key.hash(id) as usize & mask;
        loop {
            let slot = self.places[place].wrapping_sub(1);
            match self.ids.get(slot as usize) {
                Some(other) if *other == id => return slot,
                Some(_) => place = (place + 1) & mask,
                None => break,
            }
        }
        self.ids.push(id);
        self.places[place] = self.ids.len() as u32;
        self.ids.len() as u32 - 1
    }
}
