//! Raw feature rows for a version's probes: a server that loads the version must reproduce its logits on them, through
//! its own copy of the encoder. Taken where records are decoded, since the core keeps no raw values. Versions are read by
//! many: what is not a configured field (an address, a name) does not go into them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use super::census::Census;
use crate::config::Config;
use crate::source::Ingest;
use deepfm_core::event::options::Mapping;
use deepfm_core::event::{Decoder, Event};
use deepfm_core::feature::field::FieldSet;

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
    fields: Arc<BTreeSet<String>>,
    rows: Arc<Mutex<VecDeque<String>>>,
    seen: u64,
}

impl Probes {
    /// An empty collection of at most `capacity` rows of these fields; impressions are read with the mapping.
    pub fn new(capacity: usize, mapping: &Mapping, fields: &FieldSet) -> Self {
        let fields = fields.as_slice().iter().map(|field| field.name.clone()).collect();
        let pointer = mapping.features.clone().unwrap_or_else(|| "/features".to_owned());
        Self { capacity, pointer, fields: Arc::new(fields), rows: Arc::default(), seen: 0 }
    }

    /// Records on their way in, of which these probes and the census of fields are shown what could be decoded.
    pub fn observing(mut self, config: &Config, decoder: Decoder, mut census: Census) -> Ingest {
        Ingest::new(decoder, config.events.dead_letter_bytes_max, move |event, document| {
            census.observe(event);
            if matches!(event, Event::Impression(_)) {
                self.observe(document);
            }
        })
    }

    /// Looks at the document of an impression that could be decoded, and keeps its features now and then.
    pub fn observe(&mut self, document: &[u8]) {
        let sampled = self.seen < self.capacity as u64 || self.seen.is_multiple_of(SPARSITY);
        self.seen += 1;
        if self.capacity == 0 || !sampled {
            return;
        }
        let features = serde_json::from_slice(document).ok().and_then(|document: Value| {
            let features = document.pointer(&self.pointer)?.as_object()?.iter();
            let kept = features.filter(|(name, _)| self.fields.contains(*name));
            let kept: Map<String, Value> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
            Some(Value::Object(kept).to_string())
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use deepfm_core::feature::field::{Field, FieldKind};

    fn probes(mapping: &Mapping) -> Probes {
        let field = |name: &str| Field { name: name.to_owned(), kind: FieldKind::Categorical };
        let fields = FieldSet::new(vec![field("user"), field("price")]).expect("they are different");
        Probes::new(8, mapping, &fields)
    }

    #[test]
    fn probes_have_the_configured_fields_and_nothing_else() {
        let mut nested = probes(&Mapping::default());
        nested
            .observe(br#"{"impression_id":"i","email":"a@b.c","features":{"user":"u","email":"a@b.c","price":3.50}}"#);
        assert_eq!(nested.rows(), [r#"{"price":3.5,"user":"u"}"#]);
        let mut flat = probes(&Mapping { features: Some(String::new()), ..Mapping::default() });
        flat.observe(br#"{"impression_id":"i","email":"a@b.c","user":"u"}"#);
        assert_eq!(flat.rows(), [r#"{"user":"u"}"#]);
    }
}
