//! Raw feature rows for a version's probes: a server that loads the version must reproduce its logits on them, through
//! its own copy of the encoder. Taken where records are decoded, since the core keeps no raw values.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::event::options::Mapping;

/// One impression in this many gives a probe, after the first few.
const SPARSITY: u64 = 997;

/// The longest row that is kept, in bytes: rows are in every checkpoint.
const ROW_BYTES_MAX: usize = 64 << 10;

/// With fewer probes than this a version is hardly checked by them.
pub const PROBES_MIN: usize = 8;

/// The newest raw feature rows, shared between the decoding thread and the learner.
#[derive(Clone, Debug)]
pub struct Probes {
    capacity: usize,
    pointer: String,
    rows: Arc<Mutex<VecDeque<String>>>,
    seen: u64,
}

impl Probes {
    /// An empty collection of at most `capacity` rows; impressions are read with the mapping.
    pub fn new(capacity: usize, mapping: &Mapping) -> Self {
        let pointer = mapping.features.clone().unwrap_or_else(|| "/features".to_owned());
        Self { capacity, pointer, rows: Arc::default(), seen: 0 }
    }

    /// Looks at an impression that could be decoded, and keeps its features now and then.
    pub fn observe(&mut self, payload: &[u8]) {
        let sampled = self.seen < self.capacity as u64 || self.seen.is_multiple_of(SPARSITY);
        self.seen += 1;
        if self.capacity == 0 || !sampled {
            return;
        }
        // A framed document begins behind its frame.
        let document = payload.iter().position(|byte| *byte == b'{').map_or(payload, |start| &payload[start..]);
        let features = serde_json::from_slice(document)
            .ok()
            .and_then(|document: Value| document.pointer(&self.pointer).map(Value::to_string));
        if let Some(features) = features.filter(|features| features.len() <= ROW_BYTES_MAX) {
            let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
            if rows.len() == self.capacity {
                rows.pop_front();
            }
            rows.push_back(features);
        }
    }

    /// Begins with the rows of a checkpoint, the newest last.
    pub fn restore(&self, rows: Vec<String>) {
        let left_out = rows.len().saturating_sub(self.capacity);
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = rows.into_iter().skip(left_out).collect();
    }

    /// The rows kept now, as JSON objects.
    pub fn rows(&self) -> Vec<String> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
