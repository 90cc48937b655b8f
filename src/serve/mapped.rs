//! Kernel: a file of a version mapped into memory instead of read. All `unsafe` of serving is here.
//!
//! A version's file is never written to again once its directory has its name: it is made under another name, synced and
//! renamed, and removed as a whole, which leaves what is mapped in place until it is unmapped. Whoever cuts a file short in
//! place breaks that, and the process is ended by SIGBUS when it reads there. Directories in which versions are altered in
//! place are not to be served from.

use std::io;
use std::path::Path;

use memmap2::{Advice, Mmap};

use crate::bounded::{self, Length, ReadError};
use deepfm_core::version::bytes::Bytes;

/// Maps a regular file of so many bytes.
///
/// # Errors
/// When it is not there, not a regular file, of another length, or cannot be mapped.
pub(super) fn map(path: &Path, bytes: u64) -> Result<Bytes, ReadError> {
    let (file, _) = bounded::open(path, Length::Exactly(bytes))?;
    let length = usize::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    if length == 0 {
        return Ok(Bytes::from(Vec::new()));
    }
    // SAFETY: the mapping is read-only and private to this process, and nothing of it outlives it, since `Bytes` owns it. The
    // file is one of a version, which nobody writes to or shortens (see the module's text); what it holds was not trusted before
    // and is checked after, and values of any bits are valid where they are read as integers and floats.
    let map = unsafe { memmap2::MmapOptions::new().len(length).map(&file)? };
    prefetch(&map);
    Ok(Bytes::of(map))
}

/// All of it is digested next. A system that takes no advice reads on demand.
fn prefetch(map: &Mmap) {
    if let Err(error) = map.advise(Advice::WillNeed) {
        tracing::debug!("a mapped file is not read ahead: {error}");
    }
}
