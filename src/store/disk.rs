//! What the protocol of commits asks of a disk: a few databases, the small files beside them, and when they are durable.
//!
//! The store runs the same on [`super::sled_disk`], which is sled and files, and on the simulated disk of the tests, which
//! forgets, tears and reorders what was not synced.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::thread::JoinHandle;

use super::StoreError;

/// A state directory. What is written may be lost until it is synced.
pub trait Disk: Send + Sync {
    /// Where something is, for messages.
    fn path(&self, name: &str) -> PathBuf;

    /// The names of all databases and files.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn names(&self) -> Result<Vec<String>, StoreError>;

    /// Reads a file.
    ///
    /// # Errors
    /// When it is not there, or cannot be read.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Writes a file, over what is there.
    ///
    /// # Errors
    /// When the disk does not take it.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// Makes a file durable.
    ///
    /// # Errors
    /// When the disk does not take it.
    fn sync(&self, name: &str) -> Result<(), StoreError>;

    /// Makes names that are new or gone durable.
    ///
    /// # Errors
    /// When the disk does not take it.
    fn sync_names(&self) -> Result<(), StoreError>;

    /// Removes a database or a file.
    ///
    /// # Errors
    /// When it is not there, or cannot be removed.
    fn remove(&self, name: &str) -> Result<(), StoreError>;

    /// Bytes free.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn available(&self) -> Result<u64, StoreError>;

    /// Removes what a kill during an earlier opening of a database has left and would keep it from opening.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn remove_leftovers(&self, name: &str) -> Result<(), StoreError>;

    /// Opens a database, or makes one.
    ///
    /// # Errors
    /// When it does not open.
    fn open(&self, name: &str) -> Result<Box<dyn Engine>, StoreError>;

    /// Begins work beside the commits.
    fn aside(&self, work: Box<dyn FnOnce() + Send>) -> Box<dyn Aside>;
}

/// What takes blocks, each as its key and value, until it has enough. Why it wants no more is its own affair: the database is
/// as good as before.
pub type Take<'t> = &'t mut dyn FnMut(&[u8], Vec<u8>) -> ControlFlow<()>;

/// A database: blocks under ordered keys, and a head. What is written may be lost, in any order, until it is synced.
pub trait Engine: Send {
    /// The head, if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    fn head(&self) -> Result<Option<Vec<u8>>, StoreError>;

    /// Gives the blocks whose keys begin with `prefix`, in order, as keys and values, until `take` breaks.
    ///
    /// # Errors
    /// When they cannot be read.
    fn scan(&self, prefix: &[u8], take: Take<'_>) -> Result<(), StoreError>;

    /// Writes blocks, as keys and values, by ascending keys.
    ///
    /// # Errors
    /// When the disk does not take them; some may have been written.
    fn insert(&self, blocks: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreError>;

    /// Removes a block.
    ///
    /// # Errors
    /// When the disk does not take it.
    fn remove(&self, key: &[u8]) -> Result<(), StoreError>;

    /// Moves the head, as one step, if it is `from`; whether it was.
    ///
    /// # Errors
    /// When the disk does not take it.
    fn move_head(&self, from: Option<&[u8]>, to: &[u8]) -> Result<bool, StoreError>;

    /// Waits until everything written is durable.
    ///
    /// # Errors
    /// When the disk does not take it; what was written may then be lost, whatever a later call says.
    fn sync(&self) -> Result<(), StoreError>;

    /// Another handle on the same database.
    fn another(&self) -> Box<dyn Engine>;
}

/// Work beside the commits.
pub trait Aside: Send {
    /// Whether it has ended.
    fn is_finished(&self) -> bool;

    /// Waits for its end; whether it did not panic.
    fn wait(self: Box<Self>) -> bool;
}

impl Aside for JoinHandle<()> {
    fn is_finished(&self) -> bool {
        Self::is_finished(self)
    }

    fn wait(self: Box<Self>) -> bool {
        self.join().is_ok()
    }
}
