//! The encoded features of one event, in one allocation, which those of another event may have after it: 8 bytes for a plain value.
//!
//! ```text
//! ids, 8 bytes each | weights, 4 bytes each, unless all are 1 | ends, 2 or 4 bytes each, unless every field has one entry
//! ```
//!
//! Invariants: the ends ascend, and the last one is the number of entries. Each part begins at a whole word, and is there
//! only if it says something.

use super::{Entry, FeatureId};
use crate::packed::{Reader, put_varint};

/// The encoded features of one event, grouped by field.
#[derive(Clone, Default)]
pub struct Features {
    words: Vec<u64>,
    fields: u32,
    entries: u32,
    form: Form,
}

/// What is written down beside the ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Form {
    is_weighted: bool,
    ends: Ends,
}

/// How it is written down where fields end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ends {
    /// Not at all: each field has one entry.
    #[default]
    OneEach,
    Short,
    Long,
}

/// Words of the largest room that is kept for features to come: of some hundred entries.
const KEPT_MAX: usize = 256;

/// Bytes that an entry with its weight, and an end, take in the form that [`Features::weight`] goes by.
const ENTRY_WEIGHT: usize = 16;
const END_WEIGHT: usize = 4;

impl Form {
    /// The form of features with these counts; where some field has not one entry, its ends are written down.
    fn of(entries: usize, is_weighted: bool, is_ragged: bool) -> Self {
        let ends = match u16::try_from(entries) {
            _ if !is_ragged => Ends::OneEach,
            Ok(_) => Ends::Short,
            Err(_) => Ends::Long,
        };
        Self { is_weighted, ends }
    }

    fn weight_words(self, entries: usize) -> usize {
        if self.is_weighted { entries.div_ceil(2) } else { 0 }
    }

    fn words(self, fields: usize, entries: usize) -> usize {
        let ends = match self.ends {
            Ends::OneEach => 0,
            Ends::Short => fields.div_ceil(4),
            Ends::Long => fields.div_ceil(2),
        };
        entries + self.weight_words(entries) + ends
    }
}

fn is_plain(x: f32) -> bool {
    x.to_bits() == 1.0_f32.to_bits()
}

impl Features {
    /// Features from the entries of each field.
    pub fn new(fields: &[Vec<Entry>]) -> Self {
        let pairs = (0_u16..).zip(fields).flat_map(|(field, entries)| entries.iter().map(move |entry| (field, *entry)));
        Self::from_pairs(fields.len(), &pairs.collect::<Vec<_>>())
    }

    /// Features from entries in any order, each with its field, out of `fields`. Within a field their order stays.
    pub fn from_pairs(fields: usize, pairs: &[(u16, Entry)]) -> Self {
        let mut features = Self::default();
        features.fill(fields, pairs, &mut Vec::new());
        features
    }

    /// They become what [`from_pairs`](Self::from_pairs) gives, in the room that they have. `ends` is room as well.
    pub fn fill(&mut self, fields: usize, pairs: &[(u16, Entry)], ends: &mut Vec<u32>) {
        let is_weighted = pairs.iter().any(|(_, entry)| !is_plain(entry.x));
        let is_one_each =
            pairs.len() == fields && (0..).zip(pairs).all(|(place, (field, _))| usize::from(*field) == place);
        if is_one_each && !is_weighted {
            self.words.clear();
            self.words.extend(pairs.iter().map(|(_, entry)| entry.id));
            (self.fields, self.entries, self.form) = (fields as u32, fields as u32, Form::default());
            return;
        }
        ends.clear();
        ends.resize(fields, 0);
        for (field, _) in pairs {
            ends[usize::from(*field)] += 1;
        }
        let mut end = 0;
        for count in &mut *ends {
            end += *count;
            *count = end;
        }
        self.blank(pairs.len(), is_weighted, ends);
        // From the last one on, each goes before the one that follows it in its field.
        for (field, entry) in pairs.iter().rev() {
            let place = &mut ends[usize::from(*field)];
            *place -= 1;
            self.set(*place as usize, *entry);
        }
    }

    /// Features from entries in the order of their fields, and the end of each field.
    ///
    /// # Errors
    /// When the ends do not ascend to the number of entries.
    pub(super) fn from_parts(entries: &[Entry], ends: &[u32]) -> Result<Self, &'static str> {
        let ascend = ends.windows(2).all(|pair| pair[0] <= pair[1]);
        if !ascend || ends.last().map_or(0, |end| *end as usize) != entries.len() {
            return Err("the ends of the fields are not those of the entries");
        }
        let mut features = Self::default();
        features.blank(entries.len(), entries.iter().any(|entry| !is_plain(entry.x)), ends);
        for (place, entry) in entries.iter().enumerate() {
            features.set(place, *entry);
        }
        Ok(features)
    }

    /// They become so many entries that are still to be set, of fields that end at these.
    fn blank(&mut self, entries: usize, is_weighted: bool, ends: &[u32]) {
        let is_ragged = !(1..).zip(ends).all(|(one_each, end)| *end == one_each);
        let form = Form::of(entries, is_weighted, is_ragged);
        self.reset(form, ends.len() as u32, entries as u32);
        let at = entries + form.weight_words(entries);
        match form.ends {
            Ends::OneEach => {}
            Ends::Short => {
                let shorts: &mut [u16] = bytemuck::cast_slice_mut(&mut self.words[at..]);
                shorts.iter_mut().zip(ends).for_each(|(short, end)| *short = *end as u16);
            }
            Ends::Long => bytemuck::cast_slice_mut(&mut self.words[at..])[..ends.len()].copy_from_slice(ends),
        }
    }

    /// They become zeros, as many as this form has.
    fn reset(&mut self, form: Form, fields: u32, entries: u32) {
        self.words.clear();
        self.words.resize(form.words(fields as usize, entries as usize), 0);
        (self.fields, self.entries, self.form) = (fields, entries, form);
    }

    /// Whether their room is worth keeping for others: it is that of most events, and not much.
    pub fn is_worth_keeping(&self) -> bool {
        (1..=KEPT_MAX).contains(&self.words.capacity())
    }

    fn set(&mut self, place: usize, entry: Entry) {
        self.words[place] = entry.id;
        if self.form.is_weighted {
            let weights: &mut [f32] = bytemuck::cast_slice_mut(&mut self.words[self.entries as usize..]);
            weights[place] = entry.x;
        }
    }

    /// Appends them, packed.
    pub fn pack(&self, bytes: &mut Vec<u8>) {
        let Self { words, fields, entries, form } = self;
        let ends = match form.ends {
            Ends::OneEach => 0,
            Ends::Short => 1,
            Ends::Long => 2,
        };
        put_varint(bytes, u64::from(*fields) << 3 | ends << 1 | u64::from(form.is_weighted));
        if form.ends != Ends::OneEach {
            put_varint(bytes, u64::from(*entries));
        }
        bytes.extend_from_slice(bytemuck::cast_slice(words));
    }

    /// They become the features that were packed, in the room that they have.
    ///
    /// # Panics
    /// When these are not they.
    pub fn unpack(&mut self, reader: &mut Reader<'_>) {
        let head = reader.varint();
        let ends = match head >> 1 & 3 {
            0 => Ends::OneEach,
            1 => Ends::Short,
            _ => Ends::Long,
        };
        let (form, fields) = (Form { is_weighted: head & 1 == 1, ends }, (head >> 3) as u32);
        let entries = if ends == Ends::OneEach { fields } else { reader.varint() as u32 };
        self.reset(form, fields, entries);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        bytes.copy_from_slice(reader.take(bytes.len()));
    }

    /// The same of the first `fields` fields only.
    #[must_use]
    pub fn of_first(&self, fields: usize) -> Self {
        let first: Vec<Vec<Entry>> = (0..self.fields().min(fields)).map(|field| self.field(field).collect()).collect();
        Self::new(&first)
    }

    /// What they count as where memory is bounded: 16 bytes an entry and 4 a field, more than they take. What is closed at a
    /// bound is a function of the log, so that this does not follow the form that they are held in.
    pub fn weight(&self) -> usize {
        ENTRY_WEIGHT * self.entries as usize + END_WEIGHT * self.fields as usize
    }

    /// Number of fields.
    pub fn fields(&self) -> usize {
        self.fields as usize
    }

    /// The entries of a field.
    pub fn field(&self, field: usize) -> impl ExactSizeIterator<Item = Entry> + Clone {
        assert!(field < self.fields(), "there are {} fields", self.fields);
        let start = if field == 0 { 0 } else { self.end(field - 1) };
        self.range(start as usize, self.end(field) as usize)
    }

    /// The entries of all fields, field by field.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry> + Clone {
        self.range(0, self.entries as usize)
    }

    fn range(&self, start: usize, end: usize) -> impl ExactSizeIterator<Item = Entry> + Clone {
        let (ids, weights) = (self.ids(), self.weights());
        (start..end).map(move |place| Entry { id: ids[place], x: weights.map_or(1.0, |weights| weights[place]) })
    }

    /// The ids of all entries.
    pub fn ids(&self) -> &[FeatureId] {
        &self.words[..self.entries as usize]
    }

    /// The weights of all entries; `None` if all are 1.
    pub fn weights(&self) -> Option<&[f32]> {
        let entries = self.entries as usize;
        self.form.is_weighted.then(|| &bytemuck::cast_slice(&self.words[entries..])[..entries])
    }

    /// Where each field ends in [`Self::entries`].
    pub fn ends(&self) -> impl ExactSizeIterator<Item = u32> + Clone {
        (0..self.fields()).map(|field| self.end(field))
    }

    /// Appends those ends, each with `base` added.
    pub fn append_ends(&self, base: u32, ends: &mut Vec<u32>) {
        match self.form.ends {
            Ends::OneEach => ends.extend((base..base + self.fields).map(|place| place + 1)),
            Ends::Short | Ends::Long => ends.extend(self.ends().map(|end| base + end)),
        }
    }

    #[inline]
    fn end(&self, field: usize) -> u32 {
        let at = || self.entries as usize + self.form.weight_words(self.entries as usize);
        match self.form.ends {
            Ends::OneEach => field as u32 + 1,
            Ends::Short => u32::from(bytemuck::cast_slice::<u64, u16>(&self.words[at()..])[field]),
            Ends::Long => bytemuck::cast_slice::<u64, u32>(&self.words[at()..])[field],
        }
    }
}

impl PartialEq for Features {
    fn eq(&self, other: &Self) -> bool {
        self.ends().eq(other.ends()) && self.entries().eq(other.entries())
    }
}

impl std::fmt::Debug for Features {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries((0..self.fields()).map(|field| self.field(field).collect::<Vec<_>>())).finish()
    }
}
