//! Numbered places for values of one size, in pages: memory is asked for by the page, and a number stays what it is.
//!
//! Places that are free stay, for as many values as there were at once.

/// Places in a page: what is allocated of them at a time.
const PAGE: usize = 1024;

/// The number of a value, for as long as it is there.
pub(crate) type Number = u32;

/// Values by their numbers.
#[derive(Clone, Debug)]
pub(crate) struct Slots<T> {
    pages: Vec<Box<[T]>>,
    free: Vec<Number>,
    /// Places that were ever in use.
    used: u32,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), free: Vec::new(), used: 0 }
    }
}

impl<T: Copy> Slots<T> {
    /// Gives a value a number.
    pub(crate) fn insert(&mut self, value: T) -> Number {
        let number = self.free.pop().unwrap_or_else(|| {
            if (self.used as usize).is_multiple_of(PAGE) {
                self.pages.push(vec![value; PAGE].into());
            }
            self.used = self.used.checked_add(1).expect("memory ends before numbers do");
            self.used - 1
        });
        *self.get_mut(number) = value;
        number
    }

    /// The value of a number that is in use.
    #[inline]
    pub(crate) fn get(&self, number: Number) -> &T {
        &self.pages[number as usize / PAGE][number as usize % PAGE]
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, number: Number) -> &mut T {
        &mut self.pages[number as usize / PAGE][number as usize % PAGE]
    }

    /// The number is free for another value.
    pub(crate) fn remove(&mut self, number: Number) {
        self.free.push(number);
    }

    /// Places that were ever in use.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u32 {
        self.used
    }
}
