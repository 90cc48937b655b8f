//! What a run is asked for.

use std::path::PathBuf;

use crate::publish::turning_back::Request;
use deepfm_core::checkpoint::Layer;

/// How a run goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Stop at the end offsets captured at start, instead of going on for ever.
    pub until_end: bool,
    /// What is in the state directory is given up on purpose: an empty one is no loss.
    pub is_reset: bool,
    /// A training export to go on from, when the state directory has nothing that is whole: where it is, and its layer.
    pub restored: Option<(PathBuf, Layer)>,
    /// A request to take training back that lay beside the state when this run began: it is forgotten with the first commit.
    pub asked: Option<Request>,
    /// What to do about records that the broker no longer has.
    pub on_gap: OnGap,
    /// What to do about announced versions that the state is from before.
    pub on_ahead: OnAhead,
}

/// What to do about records that the broker no longer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGap {
    /// Refuse to start.
    #[default]
    Refuse,
    /// Pass over them: journalled and counted.
    Skip,
}

/// What to do about announced versions that the state is from before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnAhead {
    /// Refuse to start.
    #[default]
    Refuse,
    /// Go on without them: they are announced again as abandoned.
    Abandon,
}
