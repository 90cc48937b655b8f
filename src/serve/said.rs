//! What became of a server's acknowledgements, for its status and its metrics.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// How telling others what is served goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AcknowledgementStatus {
    /// The server's name.
    pub server: String,
    /// The topic.
    pub topic: String,
    /// Records that the brokers have.
    pub written: u64,
    /// When the newest of them was made, RFC 3339.
    pub written_at: Option<String>,
    /// Times that one could not be written.
    pub failures: u64,
    /// Why none can be written now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Shared between who tells and who shows it. It has nothing where nobody is told.
#[derive(Clone, Debug, Default)]
pub struct AcknowledgementBoard(Arc<Mutex<Option<AcknowledgementStatus>>>);

impl AcknowledgementBoard {
    /// How it goes.
    pub fn read(&self) -> Option<AcknowledgementStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "without Kafka nobody is told"))]
    pub(super) fn note(&self, change: impl FnOnce(&mut AcknowledgementStatus)) {
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default());
    }
}
