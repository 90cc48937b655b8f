//! The one keyed hash of the core, by which everything that looks random is a function of the log: initial weights,
//! negative sampling, dropout masks. Defined bit for bit in the golden vectors (`sampling_*.json`).

use std::hash::BuildHasher;
use std::sync::LazyLock;

use xxhash_rust::xxh3::xxh3_64_with_secret;

/// The odd constant of `splitmix64` (2^64 over the golden ratio).
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finalizer of `splitmix64` (Steele, Lea and Flood 2014), a bijection of 64-bit integers.
#[inline]
pub const fn mix64(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The hash of `(seed, key, lane)`, all arithmetic modulo 2^64.
#[inline]
pub const fn hash(seed: u64, key: u64, lane: u64) -> u64 {
    let keyed = mix64(key ^ mix64(seed.wrapping_add(GAMMA)));
    mix64(keyed.wrapping_add(lane.wrapping_add(1).wrapping_mul(GAMMA)))
}

/// A number in the open interval (0, 1) with 24 bits, from the hash of `(seed, key, 0)`.
#[inline]
pub fn unit(seed: u64, key: u64) -> f64 {
    ((hash(seed, key, 0) >> 40) as f64 + 0.5) / f64::from(1_u32 << 24)
}

/// A weight uniform in `(-scale, scale)`, independent of the order in which weights are created.
#[inline]
pub fn uniform_weight(seed: u64, key: u64, lane: u64, scale: f32) -> f32 {
    let m = (hash(seed, key, lane) >> 40) as i64;
    let signed = 2 * m + 1 - (1 << 24);
    scale * (signed as f32 / (1_u32 << 24) as f32)
}

/// Hashes keys for tables that nothing iterates: keyed anew in each process, so that nobody can aim many ids at one slot.
#[expect(clippy::disallowed_types, reason = "of a key's place only, which nothing that is learned depends on")]
pub type SlotHash = std::hash::RandomState;

/// A table that nothing iterates.
#[expect(clippy::disallowed_types, reason = "looked up, never iterated")]
pub type SlotMap<K, V> = std::collections::HashMap<K, V, SlotHash>;

/// A set that nothing iterates.
#[expect(clippy::disallowed_types, reason = "looked up, never iterated")]
pub type SlotSet<K> = std::collections::HashSet<K, SlotHash>;

/// Bytes of a secret of XXH3.
const SECRET_BYTES: usize = 192;

/// Drawn once.
static SECRET: LazyLock<[u8; SECRET_BYTES]> = LazyLock::new(|| {
    let (state, mut secret) = (SlotHash::new(), [0; SECRET_BYTES]);
    for (number, bytes) in (0_u64..).zip(secret.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&state.hash_one(number).to_ne_bytes());
    }
    secret
});

/// Hashes texts for tables that nothing iterates: XXH3-64 under a secret of the process, for the same reason.
#[derive(Clone, Copy, Debug)]
pub struct TextHash(&'static [u8; SECRET_BYTES]);

impl Default for TextHash {
    fn default() -> Self {
        Self(&SECRET)
    }
}

impl TextHash {
    /// The hash of a text.
    #[inline]
    pub fn of(self, text: &[u8]) -> u64 {
        xxh3_64_with_secret(text, self.0)
    }
}
