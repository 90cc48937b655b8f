//! What keeps a question from its answer, for whoever asks brokers anything.

use std::time::Duration;

use rdkafka::error::KafkaError;

use super::contact::Trouble;

/// Brokers did not do what they were asked for.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum BrokerError {
    /// They did not answer within the bound.
    #[error("the brokers {brokers} did not answer within {bound:?} (kafka.retry_max_seconds): {reason}")]
    Unreachable { brokers: String, bound: Duration, reason: String },
    /// They cannot be talked to with these settings; no waiting mends it.
    #[error("{0}")]
    Misconfigured(Trouble),
    /// The user lacks a right.
    #[error("{user} may not {operation} {what}: the brokers' access rules (ACLs) do not allow it")]
    Denied {
        /// Whom the brokers take this client for.
        user: String,
        /// The operation, as Kafka's tools name it.
        operation: &'static str,
        /// Of what: a topic, a transactional id.
        what: String,
    },
    /// A topic cannot be used as it is.
    #[error("topic {topic}: {problem}")]
    Unfit { topic: String, problem: String },
    /// A topic does not exist.
    #[error("topic {topic} does not exist; `deepfm topics apply --config FILE` creates it")]
    MissingTopic { topic: String },
    /// The system has no room for what administration runs on.
    #[error("the system lets no runtime be made")]
    Runtime(#[source] std::io::Error),
    /// The client gave up.
    #[error("the Kafka client cannot go on")]
    Client(#[from] KafkaError),
}
