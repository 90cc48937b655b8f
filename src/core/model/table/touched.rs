//! Which rows of a shard were touched since somebody last took them, for each who asks.

/// Who takes the touched rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscriber {
    /// The digest: its sum does not cover them.
    Digest,
    /// The next checkpoint: the last one has not their present form.
    Checkpoint,
    /// The next version: the last one has not the weights of their present form.
    Version,
}

/// The rows of a shard that each subscriber has not taken: a bit a row. There is no list of them beside it: the bits of all rows of
/// a table are looked through in less time than a few of the rows are read.
#[derive(Debug, Default)]
pub(super) struct Touched([Set; 3]);

/// A set of rows that is filled one by one and emptied at once.
#[derive(Debug, Default)]
struct Set {
    bits: Vec<u64>,
    len: usize,
}

/// The word and the bit of a row.
#[inline]
fn place(row: u32) -> (usize, u64) {
    (row as usize / 64, 1 << (row % 64))
}

impl Touched {
    /// Makes room for rows below this number.
    pub(super) fn grow(&mut self, rows: usize) {
        for set in &mut self.0 {
            let more = rows.div_ceil(64).saturating_sub(set.bits.len());
            set.bits.reserve_exact(more);
            set.bits.resize(rows.div_ceil(64), 0);
        }
    }

    /// Adds a row; says whether it was new to the subscriber.
    #[inline]
    pub(super) fn mark(&mut self, subscriber: Subscriber, row: u32) -> bool {
        let (set, (word, bit)) = (&mut self.0[subscriber as usize], place(row));
        let is_new = set.bits[word] & bit == 0;
        set.bits[word] |= bit;
        set.len += usize::from(is_new);
        is_new
    }

    /// Takes a row out; says whether it was in.
    #[inline]
    pub(super) fn unmark(&mut self, subscriber: Subscriber, row: u32) -> bool {
        let (set, (word, bit)) = (&mut self.0[subscriber as usize], place(row));
        let was_in = set.bits[word] & bit != 0;
        set.bits[word] &= !bit;
        set.len -= usize::from(was_in);
        was_in
    }

    /// Takes all rows out, by rising number.
    pub(super) fn take(&mut self, subscriber: Subscriber) -> Vec<u32> {
        let set = &mut self.0[subscriber as usize];
        let mut rows = Vec::with_capacity(std::mem::take(&mut set.len));
        for (word, bits) in set.bits.iter_mut().enumerate().filter(|(_, bits)| **bits != 0) {
            let mut bits = std::mem::take(bits);
            while bits != 0 {
                rows.push(64 * word as u32 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
        rows
    }

    /// How many a subscriber has not taken.
    pub(super) fn len(&self, subscriber: Subscriber) -> usize {
        self.0[subscriber as usize].len
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|set| 8 * set.bits.capacity()).sum()
    }
}
