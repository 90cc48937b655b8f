//! Who works off the parts of a batch. The core cuts work into parts and reduces them in a fixed order, so the result does not
//! depend on the executor; the shell may give one that uses threads.

/// Into so many parts work is cut at most.
pub const PARTS_MAX: usize = 16;

/// Applies a job to each item, in any order, possibly at once.
pub trait Executor {
    /// How many items it works off at once: into so many parts work is cut, where that is worth it.
    fn width(&self) -> usize {
        1
    }

    /// Returns when the job was applied to every item exactly once.
    fn for_each<T: Send, F: Fn(&mut T) + Sync>(&self, items: &mut [T], job: F);
}

/// Works everything off on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl Executor for Inline {
    fn for_each<T: Send, F: Fn(&mut T) + Sync>(&self, items: &mut [T], job: F) {
        items.iter_mut().for_each(job);
    }
}

/// Parts, and what is done beside them.
const HELD_MAX: usize = PARTS_MAX + 1;

/// Items for an executor, held without allocating; how many there are.
///
/// # Panics
/// When they are more than there are parts, and one job beside them.
pub(super) fn held<T>(mut items: impl Iterator<Item = T>) -> ([Option<T>; HELD_MAX], usize) {
    let (mut held, mut count) = ([const { None }; HELD_MAX], 0);
    for (place, item) in held.iter_mut().zip(&mut items) {
        *place = Some(item);
        count += 1;
    }
    assert!(count < HELD_MAX || items.next().is_none(), "work is cut into at most {PARTS_MAX} parts");
    (held, count)
}
