//! Rankings that fit a made-up version: 10 fields of context, and 100 candidates of 10 fields, 16 KB of JSON.

use deepfm_core::feature::hash::mix64;

use super::made::{FIELDS, name, value};

/// Fields of the model, the first, that are the context's.
pub(crate) const CONTEXT_FIELDS: usize = 10;

const CANDIDATES: usize = 100;

/// Bodies of rankings, of values that all have a row among so many.
pub(crate) fn rankings(rows: usize, count: u64) -> Vec<String> {
    let values = (rows / FIELDS) as u64;
    let object = |fields: std::ops::Range<usize>, seed: u64| {
        let pair = |field: usize| format!("\"{}\":\"{}\"", name(field), value(mix64(seed + field as u64) % values));
        format!("{{{}}}", fields.map(pair).collect::<Vec<_>>().join(","))
    };
    let ranking = |number: u64| {
        let candidates: Vec<String> = (0..CANDIDATES as u64)
            .map(|candidate| object(CONTEXT_FIELDS..FIELDS, number << 32 | candidate << 16))
            .collect();
        let context = object(0..CONTEXT_FIELDS, number << 32 | 1 << 31);
        format!("{{\"context\":{context},\"candidates\":[{}]}}", candidates.join(","))
    };
    (0..count).map(ranking).collect()
}
