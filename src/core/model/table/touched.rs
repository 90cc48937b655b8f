//! Which rows were touched since something was last taken: a bit a row, and a list.

use super::RowNumber;

/// A set of rows that is filled one by one and emptied at once. The bits say what is in it. Invariant: every row whose bit
/// is set is listed; a row that was taken out singly may still be.
#[derive(Debug, Default)]
pub(super) struct Touched {
    bits: Vec<u64>,
    rows: Vec<RowNumber>,
}

impl Touched {
    /// Makes room for rows below this number.
    pub(super) fn grow(&mut self, rows: usize) {
        self.bits.resize(rows.div_ceil(64), 0);
    }

    /// Adds a row; says whether it was new.
    #[inline]
    pub(super) fn mark(&mut self, row: RowNumber) -> bool {
        let (word, bit) = (row as usize / 64, 1 << (row % 64));
        let is_new = self.bits[word] & bit == 0;
        if is_new {
            self.bits[word] |= bit;
            self.rows.push(row);
        }
        is_new
    }

    /// Takes a row out; says whether it was in.
    #[inline]
    pub(super) fn unmark(&mut self, row: RowNumber) -> bool {
        let (word, bit) = (row as usize / 64, 1 << (row % 64));
        let was_in = self.bits[word] & bit != 0;
        self.bits[word] &= !bit;
        was_in
    }

    /// Takes all rows out, in the order in which they came.
    pub(super) fn take(&mut self) -> Vec<RowNumber> {
        let mut rows = std::mem::take(&mut self.rows);
        rows.retain(|row| self.unmark(*row));
        rows
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> usize {
        8 * self.bits.len() + 4 * self.rows.capacity()
    }
}
