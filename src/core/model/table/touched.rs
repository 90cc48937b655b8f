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

/// The rows of a shard that each subscriber has not taken. Invariant: whose bit is set is listed; a row that was taken out
/// singly may still be.
#[derive(Debug, Default)]
pub(super) struct Touched([Set; 3]);

/// A set of rows that is filled one by one and emptied at once: a bit a row, and a list. The bits say what is in it.
#[derive(Debug, Default)]
struct Set {
    bits: Vec<u64>,
    rows: Vec<u32>,
}

impl Touched {
    /// Makes room for rows below this number.
    pub(super) fn grow(&mut self, rows: usize) {
        for set in &mut self.0 {
            set.bits.resize(rows.div_ceil(64), 0);
        }
    }

    /// Adds a row; says whether it was new to the subscriber.
    #[inline]
    pub(super) fn mark(&mut self, subscriber: Subscriber, row: u32) -> bool {
        let set = &mut self.0[subscriber as usize];
        let (word, bit) = (row as usize / 64, 1 << (row % 64));
        let is_new = set.bits[word] & bit == 0;
        if is_new {
            if set.rows.len() == set.rows.capacity() {
                set.make_room();
            }
            set.bits[word] |= bit;
            set.rows.push(row);
        }
        is_new
    }

    /// Takes a row out; says whether it was in.
    #[inline]
    pub(super) fn unmark(&mut self, subscriber: Subscriber, row: u32) -> bool {
        self.0[subscriber as usize].unmark(row)
    }

    /// Takes all rows out, in the order in which they came.
    pub(super) fn take(&mut self, subscriber: Subscriber) -> Vec<u32> {
        let set = &mut self.0[subscriber as usize];
        let mut rows = std::mem::take(&mut set.rows);
        rows.retain(|row| set.unmark(*row));
        rows
    }

    /// About how many a subscriber has not taken.
    pub(super) fn len(&self, subscriber: Subscriber) -> usize {
        self.0[subscriber as usize].rows.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|set| 8 * set.bits.capacity() + 4 * set.rows.capacity()).sum()
    }
}

impl Set {
    /// Makes room in a full list: first by dropping what was taken out, so that rows which come and go make it no longer.
    #[cold]
    fn make_room(&mut self) {
        let mut rows = std::mem::take(&mut self.rows);
        rows.retain(|row| self.unmark(*row));
        for row in &rows {
            self.bits[*row as usize / 64] |= 1 << (row % 64);
        }
        rows.reserve(rows.len().max(1));
        self.rows = rows;
    }

    fn unmark(&mut self, row: u32) -> bool {
        let (word, bit) = (row as usize / 64, 1 << (row % 64));
        let was_in = self.bits[word] & bit != 0;
        self.bits[word] &= !bit;
        was_in
    }
}
