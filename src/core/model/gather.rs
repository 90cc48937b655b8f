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

/// Places for so many ids: a power of two, of which three quarters stay empty. A place that is taken costs more than the room.
fn places_for(ids: usize) -> usize {
    (4 * ids + 1).next_power_of_two()
}

/// Numbers the ids of a batch in the order in which they come first.
struct Numbering<'s> {
    places: &'s mut [u32],
    ids: &'s mut [FeatureId],
    key: SlotKey,
    /// How many there are.
    count: usize,
}

impl Numbering<'_> {
    #[inline]
    fn slot(&mut self, id: FeatureId) -> u32 {
        let mask = self.places.len() - 1;
        let mut place = self.key.hash(id) as usize & mask;
        loop {
            match self.places[place] {
                0 => break,
                next if self.ids[next as usize - 1] == id => return next - 1,
                _ => place = (place + 1) & mask,
            }
        }
        self.ids[self.count] = id;
        self.count += 1;
        self.places[place] = self.count as u32;
        self.count as u32 - 1
    }
}

impl Layout {
    /// Lays a batch out; the memory of the last one is used again.
    ///
    /// # Panics
    /// When a batch has 2^32 entries, or an example more fields than the model. One with fewer is from before fields were added: they are empty.
    pub fn fill<'f>(&mut self, fields: usize, batch: impl Iterator<Item = &'f Features> + Clone) {
        let entries: usize = batch.clone().map(|features| features.ids().len()).sum();
        assert!(u32::try_from(entries).is_ok(), "a batch has fewer than 2^32 entries");
        self.places.clear();
        self.places.resize(places_for(entries), 0);
        // As many as there can be; what they are is to be written.
        self.ids.resize(entries, 0);
        self.entries.resize(entries, (0, 0.0));
        self.ends.clear();
        self.fields = fields;
        let mut slots = Numbering { places: &mut self.places, ids: &mut self.ids, key: self.key, count: 0 };
        let (mut base, mut rest) = (0, self.entries.as_mut_slice());
        for features in batch {
            assert!(features.fields() <= fields, "the encoder has no more fields than the model");
            let ids = features.ids();
            let (entries, behind) = rest.split_at_mut(ids.len());
            match features.weights() {
                None => entries.iter_mut().zip(ids).for_each(|(entry, id)| *entry = (slots.slot(*id), 1.0)),
                Some(weights) => {
                    let weighted = ids.iter().zip(weights);
                    entries.iter_mut().zip(weighted).for_each(|(entry, (id, x))| *entry = (slots.slot(*id), *x));
                }
            }
            features.append_ends(base, &mut self.ends);
            (base, rest) = (base + ids.len() as u32, behind);
            self.ends.resize(self.ends.len() + fields - features.fields(), base);
        }
        let count = slots.count;
        self.ids.truncate(count);
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
}
