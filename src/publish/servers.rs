//! What servers say that they serve, read from their topic.

use deepfm_core::event::DETAIL_CHARS_MAX;
use deepfm_core::event::plain::plain;
use deepfm_core::version::fleet::Fleet;
use rdkafka::message::Message as _;

use crate::config::kafka::Kafka;
use crate::kafka::BrokerError;
use crate::kafka::read::read_to_end;

/// The most records of which each is said that it is passed over; of more it is said how many.
const SAID_MAX: u64 = 5;

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct ServersRead {
    /// What the servers of the model said last.
    pub fleet: Fleet,
    /// Records under keys of the model that are not what its servers say.
    pub passed_over: u64,
}

/// Reads the topic to its end. Records that are no acknowledgements are passed over, and said.
///
/// # Errors
/// When the topic is missing, or the brokers do not answer within the bound.
pub fn read(kafka: &Kafka, model: &str) -> Result<ServersRead, BrokerError> {
    let mut read = ServersRead::default();
    let topic = &kafka.acknowledgements_topic;
    read_to_end(kafka, topic, &mut |message| {
        let Some(key) = message.key() else { return };
        if let Err(error) = read.fleet.take(model, key, message.payload()) {
            read.passed_over += 1;
            if read.passed_over <= SAID_MAX {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                let said = plain(&format!("{:?}: {error}{cause}", String::from_utf8_lossy(key)), DETAIL_CHARS_MAX);
                tracing::warn!("the record of topic {topic} under {said}; it is passed over");
            }
        }
    })?;
    if read.passed_over > SAID_MAX {
        tracing::warn!("{} records of topic {topic} are passed over", read.passed_over);
    }
    Ok(read)
}
