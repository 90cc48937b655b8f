//! Shown scores: what a server without delay would have answered when each impression arrived, kept until its label has
//! matured. Then score and label enter the metrics together, whatever the label policy learned meanwhile.
//!
//! Weights change only when a batch is learned, so impressions that arrived since the last learning step have no score
//! yet: they are scored together just before the next one, with the weights that they arrived to.
//!
//! Invariants: an impression is either unscored or scored, or it is not waited for (its label has matured, it was closed
//! unlabelled or refused). Unscored ones are in the order of their numbers, and at most [`UNSCORED_MAX`]. The digest over the
//! scored ones is the sum modulo 2^128 of the XXH3-128 of each one's bytes, kept from what changes.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::spent::Spent;
use super::{Scored, Shown};
use crate::order::{Keyed, Number, Order, Slots};

/// Bytes of a shown score in a checkpoint: number, logit, flags, event time, weight. Flags are 0 for one that is gone.
pub const SHOWN_SCORE_BYTES: usize = 28;

/// Impressions that are scored together at the latest.
pub(super) const UNSCORED_MAX: usize = 256;

const PRESENT: u32 = 1;
const CLICKED: u32 = 2;

/// An impression that arrived since the last learning step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unscored {
    /// Its event time, in milliseconds.
    pub time: i64,
    /// Whether it has been clicked already.
    pub clicked: bool,
    /// What was shown.
    pub shown: Box<Shown>,
}

impl Keyed for Slots<(Key, Waiting)> {
    type Id<'k> = u64;

    fn time(&self, number: Number) -> i64 {
        self.get(number).0.0
    }

    fn id(&self, number: Number) -> u64 {
        self.get(number).0.1
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Waiting {
    logit: f32,
    weight: f32,
    clicked: bool,
}

/// Shown scores that no state has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shown score of impression number {0} is listed twice, out of order, or not finite")]
pub struct BadShownScore(u64);

/// Event time and number: the order in which labels mature.
type Key = (i64, u64);

/// The shown scores whose labels have not matured.
#[derive(Debug, Default)]
pub struct ShownScores {
    unscored: Vec<Unscored>,
    /// The least event time among the unscored.
    oldest_unscored: Option<i64>,
    scored: Slots<(Key, Waiting)>,
    order: Order,
    sum: u128,
    /// What changed since the last copy; nothing is noted before the first one.
    changes: Option<Vec<u8>>,
}

fn bytes((time, number): Key, waiting: Option<Waiting>) -> [u8; SHOWN_SCORE_BYTES] {
    let Waiting { logit, weight, clicked } = waiting.unwrap_or(Waiting { logit: 0.0, weight: 0.0, clicked: false });
    let flags = if waiting.is_some() { PRESENT | if clicked { CLICKED } else { 0 } } else { 0 };
    let mut bytes = [0; SHOWN_SCORE_BYTES];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..12].copy_from_slice(&logit.to_le_bytes());
    bytes[12..16].copy_from_slice(&flags.to_le_bytes());
    bytes[16..24].copy_from_slice(&time.to_le_bytes());
    bytes[24..].copy_from_slice(&weight.to_le_bytes());
    bytes
}

fn read(bytes: &[u8; SHOWN_SCORE_BYTES]) -> (Key, Waiting) {
    let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    let long = |at: usize| u64::from(u32::from_le_bytes(word(at))) | u64::from(u32::from_le_bytes(word(at + 4))) << 32;
    let (logit, weight) = (f32::from_le_bytes(word(8)), f32::from_le_bytes(word(24)));
    let clicked = u32::from_le_bytes(word(12)) & CLICKED != 0;
    ((long(16).cast_signed(), long(0)), Waiting { logit, weight, clicked })
}

impl ShownScores {
    /// How many wait for their label, scored or not.
    pub fn len(&self) -> usize {
        self.unscored.len() + self.order.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The unscored ones, in the order of their numbers.
    pub fn unscored(&self) -> &[Unscored] {
        &self.unscored
    }

    /// An impression arrived.
    pub(super) fn show(&mut self, time: i64, shown: Box<Shown>) {
        self.oldest_unscored = Some(self.oldest_unscored.map_or(time, |oldest| oldest.min(time)));
        self.unscored.push(Unscored { time, clicked: false, shown });
    }

    /// The least event time among those without a score.
    pub(super) fn oldest_unscored(&self) -> Option<i64> {
        self.oldest_unscored
    }

    /// Gives the unscored ones their logits, in their order; says how many are not finite and are not waited for any more.
    /// `spent` takes the impressions.
    pub(super) fn score(&mut self, logits: &[f32], spent: &mut Spent) -> u64 {
        let mut refused = 0;
        let mut unscored = std::mem::take(&mut self.unscored);
        for (Unscored { time, clicked, shown }, logit) in unscored.drain(..).zip(logits) {
            if logit.is_finite() {
                self.insert((time, shown.number), Waiting { logit: *logit, weight: shown.weight, clicked });
            } else {
                refused += 1;
            }
            spent.take(shown);
        }
        (self.unscored, self.oldest_unscored) = (unscored, None);
        refused
    }

    /// The impression was clicked within its window. Nothing if it is not waited for.
    pub(super) fn clicked(&mut self, time: i64, number: u64) {
        if let Ok(at) = self.place(number) {
            self.unscored[at].clicked = true;
        } else if let Some(place) = self.order.get((time, number), &self.scored) {
            let (key, before) = *self.scored.get(place);
            let after = Waiting { clicked: true, ..before };
            self.scored.get_mut(place).1 = after;
            self.changed(key, Some(before), None);
            self.changed(key, None, Some(after));
        }
    }

    /// The impression will have no label.
    pub(super) fn forget(&mut self, time: i64, number: u64) {
        if let Ok(at) = self.place(number) {
            self.unscored.remove(at);
            self.oldest_unscored = self.unscored.iter().map(|unscored| unscored.time).min();
        } else {
            self.remove((time, number));
        }
    }

    /// Forgets all that are older than this impression; says how many.
    pub(super) fn forget_older(&mut self, time: i64, number: u64) -> u64 {
        let before = self.len();
        self.unscored.retain(|unscored| (unscored.time, unscored.shown.number) > (time, number));
        self.oldest_unscored = self.unscored.iter().map(|unscored| unscored.time).min();
        while self.oldest().is_some_and(|key| key < (time, number)) && self.forget_oldest() {}
        (before - self.len()) as u64
    }

    /// Forgets the oldest scored one; says whether there was one.
    pub(super) fn forget_oldest(&mut self) -> bool {
        self.pop_oldest().is_some()
    }

    fn oldest(&self) -> Option<Key> {
        self.order.first().map(|(_, place)| self.scored.get(place).0)
    }

    fn pop_oldest(&mut self) -> Option<(Key, Waiting)> {
        let place = self.order.pop_first(&self.scored)?;
        Some(self.leave(place))
    }

    /// The oldest scored one, if its label has matured.
    pub(super) fn next_matured(&mut self, has_matured: impl FnOnce(i64) -> bool) -> Option<Scored> {
        self.oldest().filter(|key| has_matured(key.0))?;
        let (key, Waiting { logit, weight, clicked }) = self.pop_oldest()?;
        Some(Scored { number: key.1, time: key.0, logit: f64::from(logit), label: clicked, weight: f64::from(weight) })
    }

    fn place(&self, number: u64) -> Result<usize, usize> {
        self.unscored.binary_search_by_key(&number, |unscored| unscored.shown.number)
    }

    fn insert(&mut self, key: Key, waiting: Waiting) {
        let place = self.scored.insert((key, waiting));
        self.order.insert(place, &self.scored);
        self.changed(key, None, Some(waiting));
    }

    fn remove(&mut self, key: Key) {
        if let Some(place) = self.order.get(key, &self.scored) {
            self.order.remove(place, &self.scored);
            self.leave(place);
        }
    }

    /// One that is not in the order any more is gone.
    fn leave(&mut self, place: Number) -> (Key, Waiting) {
        let (key, waiting) = *self.scored.get(place);
        self.scored.remove(place);
        self.changed(key, Some(waiting), None);
        (key, waiting)
    }

    fn changed(&mut self, key: Key, before: Option<Waiting>, after: Option<Waiting>) {
        let hash = |waiting: Option<Waiting>| waiting.map_or(0, |waiting| xxh3_128(&bytes(key, Some(waiting))));
        self.sum = self.sum.wrapping_sub(hash(before)).wrapping_add(hash(after));
        self.note(&bytes(key, after));
    }

    fn note(&mut self, bytes: &[u8; SHOWN_SCORE_BYTES]) {
        if let Some(changes) = &mut self.changes {
            changes.extend(bytes);
        }
    }

    /// The digest of the scored ones.
    pub fn digest(&self) -> u128 {
        self.sum
    }

    /// What changed of the scored ones since the last call or since [`copy_all`](Self::copy_all), in the order in which it
    /// did. `None` when neither was called before.
    pub(super) fn copy_unsaved(&mut self) -> Option<Vec<u8>> {
        self.changes.as_mut().map(std::mem::take)
    }

    /// All scored ones; begins to note what changes.
    pub(super) fn copy_all(&mut self) -> Vec<u8> {
        self.note_saved();
        let scored = self.order.iter().map(|place| *self.scored.get(place));
        scored.flat_map(|(key, waiting)| bytes(key, Some(waiting))).collect()
    }

    /// Begins to note what changes: a checkpoint has everything as it is now.
    pub(super) fn note_saved(&mut self) {
        self.changes = Some(Vec::new());
    }

    /// Bytes noted since the last copy.
    pub fn unsaved_bytes(&self) -> usize {
        self.changes.as_ref().map_or(0, Vec::len)
    }

    /// The shown scores of a checkpoint: the unscored ones, and the scored ones as their bytes.
    ///
    /// # Errors
    /// When one is there twice or has a logit or weight that is not finite, or the unscored ones are not in the order of their
    /// numbers.
    ///
    /// # Panics
    /// When a slice has not the length of a shown score.
    pub(super) fn restore<'r>(
        unscored: Vec<Unscored>,
        scored: impl IntoIterator<Item = &'r [u8]>,
    ) -> Result<Self, BadShownScore> {
        let unordered = unscored.windows(2).find(|pair| pair[0].shown.number >= pair[1].shown.number);
        if let Some(pair) = unordered {
            return Err(BadShownScore(pair[1].shown.number));
        }
        let oldest_unscored = unscored.iter().map(|unscored| unscored.time).min();
        let mut scores = Self { unscored, oldest_unscored, ..Self::default() };
        for bytes in scored {
            let (key, waiting) = read(bytes.try_into().expect("a shown score has a fixed length"));
            // Of the bytes as they are: what no state writes shows in the digest.
            scores.sum = scores.sum.wrapping_add(xxh3_128(bytes));
            let is_finite = waiting.logit.is_finite() && waiting.weight.is_finite();
            if !is_finite || scores.order.get(key, &scores.scored).is_some() {
                return Err(BadShownScore(key.1));
            }
            let place = scores.scored.insert((key, waiting));
            scores.order.insert(place, &scores.scored);
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_score_reads_back_from_its_bytes() {
        let key = (i64::MIN + 77, u64::MAX - 5);
        for clicked in [false, true] {
            let waiting = Waiting { logit: -1.5e-3, weight: 0.25, clicked };
            assert_eq!(read(&bytes(key, Some(waiting))), (key, waiting));
        }
    }

    #[test]
    fn a_shown_score_that_is_not_finite_is_not_taken_back() {
        let restored = |logit, weight| {
            let bytes = bytes((5, 1), Some(Waiting { logit, weight, clicked: false }));
            ShownScores::restore(Vec::new(), [bytes.as_slice()]).map(|scores| scores.len())
        };
        assert_eq!(restored(0.5, 1.0), Ok(1));
        for faulty in [f32::NAN, f32::INFINITY] {
            assert_eq!(restored(faulty, 1.0), Err(BadShownScore(1)));
            assert_eq!(restored(0.5, faulty), Err(BadShownScore(1)));
        }
    }
}
