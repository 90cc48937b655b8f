//! The steps of the store between which a test may stop, fail or wait.

use super::StoreError;

/// The arrows of a commit, of a merge and of a recovery, for tests that stop, fail or wait at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The blocks are synced; nothing refers to them.
    BlocksSynced,
    /// The transaction is synced: the commit is durable.
    Committed,
    /// The witness knows of it.
    Witnessed,
    /// Databases that nothing refers to are removed.
    Removed,
    /// A merge has begun; its database is not there yet.
    MergeBegun,
    /// A merged base is synced; nothing refers to it.
    Merged,
    /// A merged base was read back.
    MergeVerified,
    /// The deltas since are in the merged base's database; nothing refers to it.
    Switched,
    /// At start: a database was opened.
    Opened,
    /// At start: the checkpoint to go on from was read; the witness is as it was.
    Found,
    /// At start: the witness knows what was found.
    Settled,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::BlocksSynced,
        Self::Committed,
        Self::Witnessed,
        Self::Removed,
        Self::MergeBegun,
        Self::Merged,
        Self::MergeVerified,
        Self::Switched,
        Self::Opened,
        Self::Found,
        Self::Settled,
    ];
}

/// What a test does at a stage; an error is taken for the disk's.
pub type AtStage = fn(Stage) -> Result<(), StoreError>;
