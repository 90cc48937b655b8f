//! Where versions lie on this machine: in the directory of whoever writes them, or in the cache of what was fetched.

use std::path::{Path, PathBuf};

/// The directories that have versions, the first to be looked into first.
#[derive(Clone, Debug)]
pub(super) struct Places(Vec<PathBuf>);

impl Places {
    pub(super) fn new(first: PathBuf) -> Self {
        Self(vec![first])
    }

    /// The same, with another to look into last.
    #[cfg(feature = "object-store")]
    pub(super) fn and(mut self, other: PathBuf) -> Self {
        self.0.push(other);
        self
    }

    /// Where a version of this directory's name is; where it would be, if it is nowhere.
    pub(super) fn of(&self, directory: &str) -> PathBuf {
        self.found(directory).unwrap_or_else(|| self.first().join(directory))
    }

    /// Where a version of this directory's name is.
    pub(super) fn found(&self, directory: &str) -> Option<PathBuf> {
        self.0.iter().map(|root| root.join(directory)).find(|place| place.is_dir())
    }

    fn first(&self) -> &Path {
        &self.0[0]
    }
}
