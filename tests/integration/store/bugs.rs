//! Bugs that can be planted: the simulated disk does what a store with the bug would have done to it.

/// Bugs that stores have had, as the disk sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The blocks of a commit are not synced before the head moves.
    BlocksNotSynced,
    /// The head is not synced before the witness is written.
    HeadNotSynced,
    /// The witness is not synced.
    WitnessNotSynced,
    /// The witness is durable before the commit is: the offset before the data.
    WitnessBeforeCommit,
    /// A commit is acknowledged, and its versions published, before it is made.
    AcknowledgedBeforeCommit,
    /// The set of touched rows is cleared when a commit ends instead of when it was cut.
    DeltaClearedLate,
    /// What a kill during opening has left is not removed.
    GuardSkipped,
    /// The old base is removed before the new one is durable.
    OldBaseRemovedEarly,
    /// A delta that was committed during a merge does not go over to the merged base.
    DeltaLostAtRotation,
    /// A merged base is not read back.
    MergeNotReadBack,
    /// A commit number is used again over what is left of its first use.
    NumberReusedOverLeftovers,
    /// The older base is preferred at the start.
    StaleBasePreferred,
    /// An error of a sync is ignored: the next sync is believed.
    SyncErrorIgnored,
    /// The witness is not looked at.
    WitnessNotRead,
}

impl Bug {
    pub(super) const ALL: [Self; 14] = [
        Self::BlocksNotSynced,
        Self::HeadNotSynced,
        Self::WitnessNotSynced,
        Self::WitnessBeforeCommit,
        Self::AcknowledgedBeforeCommit,
        Self::DeltaClearedLate,
        Self::GuardSkipped,
        Self::OldBaseRemovedEarly,
        Self::DeltaLostAtRotation,
        Self::MergeNotReadBack,
        Self::NumberReusedOverLeftovers,
        Self::StaleBasePreferred,
        Self::SyncErrorIgnored,
        Self::WitnessNotRead,
    ];
}
