//! The entries of the join become one number that does not depend on their order: the sum modulo 2^128 of the XXH3-128 of
//! each entry's bytes in postcard, kept from what changes.

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

/// A sum of hashes, and the buffer that values are serialised in.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum {
    total: u128,
    buffer: Vec<u8>,
}

impl Sum {
    pub(super) fn total(&self) -> u128 {
        self.total
    }

    pub(super) fn add(&mut self, value: &impl Serialize) {
        self.total = self.total.wrapping_add(self.hash(value));
    }

    pub(super) fn remove(&mut self, value: &impl Serialize) {
        self.total = self.total.wrapping_sub(self.hash(value));
    }

    pub(super) fn hash(&mut self, value: &impl Serialize) -> u128 {
        self.hash_written(|buffer| append(value, buffer))
    }

    /// The hash of what is written.
    pub(super) fn hash_written(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> u128 {
        self.buffer.clear();
        write(&mut self.buffer);
        xxh3_128(&self.buffer)
    }

    pub(super) fn add_written(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.total = self.total.wrapping_add(self.hash_written(write));
    }

    pub(super) fn remove_written(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.total = self.total.wrapping_sub(self.hash_written(write));
    }
}

/// Appends a value in postcard.
pub(super) fn append(value: &(impl Serialize + ?Sized), buffer: &mut Vec<u8>) {
    postcard::serialize_with_flavor(value, Append(buffer)).expect("payloads have a form in postcard");
}

/// Serialises onto the end of a buffer.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
