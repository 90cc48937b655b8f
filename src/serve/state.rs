//! What becomes of versions on a server, in words that people and monitors read.

use std::fmt;

use serde::Serialize;

/// How far a version is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum VersionState {
    /// It is known.
    Announced,
    /// Its files are being read.
    Fetching,
    /// Sizes, digests, fingerprints and shapes are right.
    Verified,
    /// Its probes were reproduced.
    Probed,
    /// Requests are answered with it.
    Serving,
    /// Requests are answered with another; some that began before still use it.
    Draining,
    /// Nobody uses it, and its memory is free.
    Retired,
    /// It is not served, for this reason.
    Failed {
        /// Where it failed.
        stage: LoadStage,
        /// What was wrong.
        reason: String,
    },
}

/// Where a version fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadStage {
    /// What announces it is not to be believed.
    Announced,
    /// Its files cannot be read.
    Fetching,
    /// Its files are not what they are said to be, or not what this server serves.
    Verifying,
    /// Its probes give other scores.
    Probing,
}

impl LoadStage {
    /// Every one, in order.
    pub const ALL: [Self; 4] = [Self::Announced, Self::Fetching, Self::Verifying, Self::Probing];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Fetching => "fetching",
            Self::Verifying => "verifying",
            Self::Probing => "probing",
        }
    }
}

impl fmt::Display for LoadStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A version, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VersionStatus {
    /// Its number.
    pub version: u64,
    /// The name of its directory: its number and the beginning of its manifest's digest.
    pub directory: String,
    /// How far it is.
    #[serde(flatten)]
    pub state: VersionState,
}
