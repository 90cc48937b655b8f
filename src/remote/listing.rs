//! What lies in object storage of a model, and how it goes: the manifest first, so that nobody takes the rest for a version.

use std::collections::BTreeMap;

use deepfm_core::version::artefact::MANIFEST;
use deepfm_core::version::names;
use futures_util::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt as _};

use super::{Remote, RemoteError};

/// The most objects of one version that are removed in one go, or listed of one model.
const OBJECTS_MAX: usize = 1_000_000;

/// A version, or what is left or not yet there of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number.
    pub version: u64,
    /// The name of its directory.
    pub directory: String,
    /// Bytes of its objects.
    pub bytes: u64,
    /// When the newest of them was written, in seconds since 1970.
    pub modified: i64,
}

impl Remote {
    /// What lies here of a model, by number. What has not the name of a version is none of ours.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn list(&self, model: &str) -> Result<Vec<Listed>, RemoteError> {
        let mut found = BTreeMap::<(u64, String), Listed>::new();
        let below = self.prefix.clone().join(model);
        for object in self.objects(&below)? {
            let mut parts = object.location.prefix_match(&below).into_iter().flatten();
            let Some(directory) = parts.next().map(|part| part.as_ref().to_owned()) else { continue };
            let Some(version) = names::number_of_directory(&directory) else { continue };
            let modified = object.last_modified.timestamp();
            let of = |directory: &str| Listed { version, directory: directory.to_owned(), bytes: 0, modified };
            let listed = found.entry((version, directory.clone())).or_insert_with(|| of(&directory));
            listed.bytes += object.size;
            listed.modified = listed.modified.max(modified);
        }
        Ok(found.into_values().collect())
    }

    /// Removes a version: its manifest, and then what else there is.
    ///
    /// # Errors
    /// When it cannot be removed. What is left is no version any more, or all of it.
    pub fn remove(&self, model: &str, directory: &str) -> Result<(), RemoteError> {
        self.delete(&self.object(model, directory, MANIFEST))?;
        let objects = self.objects(&self.prefix.clone().join(model).join(directory))?;
        objects.iter().try_for_each(|object| self.delete(&object.location))
    }

    fn delete(&self, object: &Path) -> Result<(), RemoteError> {
        match self.wait("remove", object, self.store.delete(object)) {
            Err(RemoteError::Missing(_)) => Ok(()),
            outcome => outcome,
        }
    }

    fn objects(&self, below: &Path) -> Result<Vec<ObjectMeta>, RemoteError> {
        use futures_util::StreamExt as _;
        let listed = self.store.list(Some(below)).take(OBJECTS_MAX).try_collect();
        self.wait("list", below, listed)
    }
}
