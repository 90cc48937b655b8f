//! Feature ids, and the canonical text of a value that they are taken from. Any language can compute the same ids:
//! XXH3-64 (seed 0) of the field name's length as a little-endian u32, the field name, and the value's bytes.

use std::fmt::Write;

use xxhash_rust::xxh3::xxh3_64;

use super::FeatureId;
use crate::math;

/// Bound of the buckets of numbers without edges; part of the fingerprint, since ids depend on it.
const BUCKETS_PER_E: f64 = 4.0;

/// Version of the whole scheme of ids.
pub const HASHING: &str = "xxh3-64/1";

/// The id of a value of a field.
pub fn feature_id(field: &str, value: &[u8]) -> FeatureId {
    let mut bytes = prefix(field);
    bytes.extend_from_slice(value);
    xxh3_64(&bytes)
}

/// What every id of a field begins with.
pub(super) fn prefix(field: &str) -> Vec<u8> {
    let length = u32::try_from(field.len()).expect("field names are short");
    [&length.to_le_bytes(), field.as_bytes()].concat()
}

/// Appends the canonical text of a number: the shortest decimal that reads back as the same f64, without exponent or
/// trailing `.0`; `-0` is `0`. So 21, 21.0 and "21" are one value.
pub(super) fn write_number(value: f64, out: &mut String) {
    let value = if value == 0.0 { 0.0 } else { value };
    write!(out, "{value}").expect("writing to a string cannot fail");
}

/// The bucket of a number without edges: `sign(x) · floor(4 · ln(1 + |x|))`.
pub(super) fn log_bucket(value: f64) -> i64 {
    let magnitude = (BUCKETS_PER_E * math::ln(1.0 + value.abs())).floor() as i64;
    if value < 0.0 { -magnitude } else { magnitude }
}

/// The bucket of a number between ascending edges: how many edges are at most the number.
pub(super) fn edge_bucket(edges: &[f64], value: f64) -> i64 {
    edges.partition_point(|edge| *edge <= value) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(value: f64) -> String {
        let mut out = String::new();
        write_number(value, &mut out);
        out
    }

    #[test]
    fn numbers_have_one_canonical_text() {
        let texts: Vec<String> = [21.0, -0.0, 0.1, 1e21, -2.5, 1e-7].map(canonical).to_vec();
        assert_eq!(texts, ["21", "0", "0.1", "1000000000000000000000", "-2.5", "0.0000001"]);
    }

    #[test]
    fn numbers_fall_into_logarithmic_buckets_or_between_edges() {
        let buckets: Vec<i64> = [0.0, 0.2, 1.0, -1.0, 1000.0, f64::MAX].map(log_bucket).to_vec();
        assert_eq!(buckets, [0, 0, 2, -2, 27, 2839]);
        let buckets: Vec<i64> = [-1.0, 0.0, 5.0, 9.9, 10.0].map(|x| edge_bucket(&[0.0, 10.0], x)).to_vec();
        assert_eq!(buckets, [0, 1, 1, 1, 2]);
    }
}
