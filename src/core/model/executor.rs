//! Who works off the chunks of a batch. The core cuts work into chunks of a fixed size and reduces them in order, so the
//! result does not depend on the executor; the shell may give one that uses threads.

/// Applies a job to each item, in any order, possibly at once.
pub trait Executor {
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
