//! The entries of the join become one number that does not depend on their order, and ids become hash table slots.
//!
//! The number is the sum modulo 2^128 of the XXH3-128 of each entry's bytes in postcard, kept from what changes. Both
//! hashes are fixed: nothing here differs from one process to the next.

use std::hash::{BuildHasherDefault, Hasher};

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

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
        self.buffer.clear();
        append(value, &mut self.buffer);
        xxh3_128(&self.buffer)
    }
}

/// Appends a value in postcard.
pub(super) fn append(value: &impl Serialize, buffer: &mut Vec<u8>) {
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

/// Hashes ids for hash tables. An id that is a hash already is used as it is.
pub(super) type IdHash = BuildHasherDefault<IdHasher>;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// The mark that ends a string: one id is hashed at a time, so it says nothing.
    fn write_u8(&mut self, _: u8) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = self.0.wrapping_add(hash);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
