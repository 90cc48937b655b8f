//! Files of directories that come from elsewhere, read with a bound known beforehand; and files of ours, for those alone that
//! may see them.
//!
//! What is read is a regular file itself: a link may lead anywhere, a pipe never ends, a device has no length.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::umask;

use crate::config::operation::Readers;

/// A file that is not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there.
    #[error("it is missing")]
    Missing,
    /// It is a link, a pipe, a device or a directory.
    #[error("it is not a regular file")]
    NotRegular,
    /// It is longer or shorter than it may be.
    #[error("it has {0} bytes")]
    Length(u64),
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How long a file may be.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// So many bytes, no more and no less.
    Exactly(u64),
    /// At most so many bytes.
    AtMost(u64),
}

/// Reads a regular file of this length.
///
/// # Errors
/// When it is not there, not a regular file, of another length, or cannot be read.
pub fn read(path: &Path, length: Length) -> Result<Vec<u8>, ReadError> {
    // Asked before it is opened, since opening a device may do something, and after, since it may have become another.
    if !fs::symlink_metadata(path).map_err(missing)?.is_file() {
        return Err(ReadError::NotRegular);
    }
    // Opening a pipe waits for its writer, unless it is asked not to.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path).map_err(missing)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::NotRegular);
    }
    let found = metadata.len();
    let is_allowed = match length {
        Length::Exactly(bytes) => found == bytes,
        Length::AtMost(bytes) => found <= bytes,
    };
    if !is_allowed {
        return Err(ReadError::Length(found));
    }
    let mut content = Vec::new();
    let room = usize::try_from(found).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    content.try_reserve_exact(room).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // It may be written to meanwhile.
    file.take(found).read_to_end(&mut content)?;
    if content.len() == room { Ok(content) } else { Err(ReadError::Length(content.len() as u64)) }
}

fn missing(error: io::Error) -> ReadError {
    if error.kind() == io::ErrorKind::NotFound { ReadError::Missing } else { ReadError::Io(error) }
}

/// From now on this process makes files and directories for their owner alone, unless it gives them to others: also those that
/// libraries make, in a directory that was made by somebody else.
pub fn keep_to_owner() {
    let others = Mode::RWXG | Mode::RWXO;
    let before = umask(others);
    umask(before | others);
}

/// Makes a directory that is not there yet. What the process's umask took away is given back.
///
/// # Errors
/// When it is there, or cannot be made.
pub fn make_directory(readers: Readers, path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(readers.directory_mode()).create(path)?;
    open_up(readers, path, readers.directory_mode())
}

/// Makes a directory and those above it where they are missing; one that is there stays as it is.
///
/// # Errors
/// When one cannot be made.
pub fn make_directories(readers: Readers, path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_directories(readers, parent)?;
    }
    match make_directory(readers, path) {
        // Somebody else has made it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// Makes a file that is not there yet: nothing is written through a link.
///
/// # Errors
/// When it is there, or cannot be made.
pub fn make_file(readers: Readers, path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(readers.file_mode()).open(path)?;
    open_up(readers, path, readers.file_mode())?;
    Ok(file)
}

fn open_up(readers: Readers, path: &Path, mode: u32) -> io::Result<()> {
    match readers {
        Readers::Owner => Ok(()),
        Readers::Group | Readers::All => fs::set_permissions(path, Permissions::from_mode(mode)),
    }
}
