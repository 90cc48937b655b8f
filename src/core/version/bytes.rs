//! Immutable bytes that many may hold: what was read of a file, or a file that the shell has mapped into memory. Tensors
//! may lie in them without being copied.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::sync::Arc;

use bytemuck::Pod;

/// Immutable bytes. A clone is the same bytes.
#[derive(Clone)]
pub struct Bytes(Arc<dyn AsRef<[u8]> + Send + Sync>);

impl Bytes {
    /// The bytes of whatever holds them: they never change as long as it lives.
    pub fn of(holder: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(holder))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::of(bytes)
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// Values that are owned, or lie in shared bytes.
#[derive(Debug)]
pub(super) enum Column<T> {
    Owned(Vec<T>),
    /// Little-endian, and aligned for `T`.
    Shared {
        bytes: Bytes,
        range: Range<usize>,
        values: PhantomData<T>,
    },
}

impl<T: Pod> Column<T> {
    /// The values in a range of the bytes, which is theirs to have: where it is not aligned they are copied.
    pub(super) fn shared(bytes: &Bytes, range: Range<usize>) -> Self {
        if bytemuck::try_cast_slice::<u8, T>(&bytes[range.clone()]).is_ok() {
            return Self::Shared { bytes: bytes.clone(), range, values: PhantomData };
        }
        let chunks = bytes[range].chunks_exact(size_of::<T>());
        Self::Owned(chunks.map(bytemuck::pod_read_unaligned).collect())
    }
}

impl<T: Pod> Deref for Column<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            Self::Shared { bytes, range, .. } => bytemuck::cast_slice(&bytes[range.clone()]),
        }
    }
}

impl<T> From<Vec<T>> for Column<T> {
    fn from(values: Vec<T>) -> Self {
        Self::Owned(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_where_they_lie_and_copied_where_they_are_not_aligned() {
        let mut bytes = vec![0; 32];
        // One of two neighbouring places is not aligned, wherever the bytes begin.
        for at in [8, 9] {
            bytes[at..at + 8].copy_from_slice(bytemuck::cast_slice(&[1.5_f32, -2.0]));
            let shared = Bytes::from(bytes.clone());
            let column = Column::<f32>::shared(&shared, at..at + 8);
            assert_eq!(*column, [1.5, -2.0]);
            let is_aligned = shared[at..].as_ptr().addr().is_multiple_of(4);
            assert_eq!(matches!(column, Column::Shared { .. }), is_aligned);
        }
    }
}
