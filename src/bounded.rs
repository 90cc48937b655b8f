//! Files of directories that come from elsewhere, read with a bound known beforehand.
//!
//! What is read is a regular file itself: a link may lead anywhere, a pipe never ends, a device has no length.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

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
    let (file, found) = open(path, length)?;
    let mut content = Vec::new();
    let room = usize::try_from(found).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    content.try_reserve_exact(room).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // It may be written to meanwhile.
    file.take(found).read_to_end(&mut content)?;
    if content.len() == room { Ok(content) } else { Err(ReadError::Length(content.len() as u64)) }
}

/// Opens a regular file of this length, and says which that is.
///
/// # Errors
/// When it is not there, not a regular file, of another length, or cannot be opened.
pub fn open(path: &Path, length: Length) -> Result<(File, u64), ReadError> {
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
    if is_allowed { Ok((file, found)) } else { Err(ReadError::Length(found)) }
}

fn missing(error: io::Error) -> ReadError {
    if error.kind() == io::ErrorKind::NotFound { ReadError::Missing } else { ReadError::Io(error) }
}
