//! Questions to the brokers: asked again until there is an answer, for as long as `kafka.retry_max_seconds`; given up at once
//! where no waiting helps, as after a wrong password. Why there is no answer is said when it is known, and then once a minute.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::BrokerError;
use super::contact::{Contact, SAY_AGAIN, Trouble, Voice};
use crate::config::kafka::Kafka;

/// How long one question to the broker may take.
pub(crate) const ASK: Duration = Duration::from_secs(5);

/// How long the first question may take: nobody waits longer to hear of a wrong port.
const FIRST: Duration = Duration::from_secs(1);

/// How long is waited for what a client has to say of an answer that did not come.
const HEAR: Duration = Duration::from_millis(10);

/// How long is waited before a question is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long anything is tried again.
pub(crate) fn retry_bound(kafka: &Kafka) -> Duration {
    Duration::from_secs(kafka.retry_max_seconds.max(1))
}

/// Who is asked, and how to hear what kept the answer.
pub(crate) struct Asked<'a> {
    kafka: &'a Kafka,
    contact: &'a Contact,
    hear: &'a dyn Fn(),
}

impl<'a> Asked<'a> {
    /// A client that hears by itself, or is polled by somebody else.
    pub(crate) fn of(kafka: &'a Kafka, contact: &'a Contact) -> Self {
        Self { kafka, contact, hear: &|| () }
    }

    /// Asks until there is an answer, at most for the bound. The question is given the time that it may take.
    pub(crate) fn ask<T>(&self, mut question: impl FnMut(Duration) -> Result<T, KafkaError>) -> Result<T, BrokerError> {
        let Self { kafka, contact, hear } = self;
        let (start, bound) = (Instant::now(), retry_bound(kafka));
        let mut patience = FIRST.min(bound);
        let mut said: Option<(Instant, String)> = None;
        loop {
            let error = match question(patience) {
                Ok(answer) => {
                    if said.is_some() {
                        let after = start.elapsed().as_secs_f64();
                        tracing::info!("the brokers {} answer after {after:.1} s", kafka.brokers);
                    }
                    contact.clear();
                    return Ok(answer);
                }
                Err(error) if is_denied(&error) || is_refused_setting(&error) => return Err(error.into()),
                Err(error) => error,
            };
            hear();
            // A port for TLS says nothing to a plain client, which hears of it only after a while.
            if contact.trouble().is_none() && !is_secured(kafka) {
                let address = kafka.brokers.split(',').find(|address| speaks_tls(address));
                if let Some(address) = address {
                    return Err(BrokerError::Misconfigured(Trouble::of_secured_port(address)));
                }
            }
            if let Some(trouble) = contact.misconfigured() {
                return Err(BrokerError::Misconfigured(trouble));
            }
            let reason = contact.trouble().map_or_else(|| error.to_string(), |trouble| trouble.to_string());
            let reason = format!("{reason}{}", hint(&kafka.brokers));
            if start.elapsed() >= bound {
                return Err(BrokerError::Unreachable { brokers: kafka.brokers.clone(), bound, reason });
            }
            let is_new = said.as_ref().is_none_or(|(at, before)| *before != reason || at.elapsed() >= SAY_AGAIN);
            if is_new && contact.voice() == Voice::Aloud {
                let tried = start.elapsed().as_secs();
                tracing::warn!(
                    "the brokers {} do not answer: {reason}; tried for {tried} s of {bound:?}",
                    kafka.brokers
                );
                said = Some((Instant::now(), reason));
            }
            patience = (2 * patience).min(ASK);
            std::thread::park_timeout(PAUSE.min(bound.saturating_sub(start.elapsed())));
        }
    }
}

/// Where an address may have come from that nobody gave: a shell that is not the one in which the variable was set.
fn hint(brokers: &str) -> &'static str {
    if brokers == Kafka::default().brokers {
        " (this is the default address: set kafka.brokers in the configuration, or DEEPFM__KAFKA__BROKERS in the environment)"
    } else {
        ""
    }
}

/// Asks a consumer that nothing is assigned to: polling it for its troubles takes nobody's records.
pub(crate) fn ask<T>(
    kafka: &Kafka,
    consumer: &BaseConsumer<Contact>,
    question: impl FnMut(Duration) -> Result<T, KafkaError>,
) -> Result<T, BrokerError> {
    let hear = || while consumer.poll(HEAR).is_some() {};
    Asked { kafka, contact: consumer.context(), hear: &hear }.ask(question)
}

/// Whether the settings ask for TLS.
fn is_secured(kafka: &Kafka) -> bool {
    let mut properties = kafka.librdkafka_properties();
    properties.any(|(name, value)| name == "security.protocol" && value.to_ascii_lowercase().ends_with("ssl"))
}

/// Whether what listens there answers a broken TLS greeting in TLS.
fn speaks_tls(address: &str) -> bool {
    /// A record of a handshake, with a greeting of no content.
    const GREETING: [u8; 9] = [0x16, 3, 1, 0, 4, 1, 0, 0, 0];
    const ALERT: u8 = 0x15;
    const HANDSHAKE: u8 = 0x16;
    let connect = || -> std::io::Result<[u8; 2]> {
        let place = address.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::NotFound)?;
        let mut stream = TcpStream::connect_timeout(&place, FIRST)?;
        stream.set_read_timeout(Some(FIRST))?;
        stream.set_write_timeout(Some(FIRST))?;
        stream.write_all(&GREETING)?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    matches!(connect(), Ok([ALERT | HANDSHAKE, 3]))
}

/// Who the brokers take this client for, as far as the settings tell.
fn user(kafka: &Kafka) -> String {
    let property =
        |wanted: &str| kafka.librdkafka_properties().find(|(name, _)| *name == wanted).map(|(_, value)| value);
    match (property("sasl.username"), property("ssl.certificate.location"), property("ssl.keystore.location")) {
        (Some(name), _, _) => format!("user {name}"),
        (None, Some(path), _) | (None, None, Some(path)) => format!("the user of the certificate {path}"),
        (None, None, None) => "an anonymous user".to_owned(),
    }
}

/// That the client's user may not do something.
pub(crate) fn denied(kafka: &Kafka, what: &str, operation: &'static str) -> BrokerError {
    BrokerError::Denied { user: user(kafka), operation, what: what.to_owned() }
}

/// The error of a question about a topic: names what the user may not do.
pub(crate) fn about_topic(kafka: &Kafka, topic: &str, operation: &'static str, error: BrokerError) -> BrokerError {
    match &error {
        BrokerError::Client(cause) if is_denied(cause) => denied(kafka, &format!("topic {topic}"), operation),
        BrokerError::Client(cause) if is_unknown_topic(cause) => BrokerError::MissingTopic { topic: topic.to_owned() },
        _ => error,
    }
}

/// Whether an error says that the user may not do what was asked.
pub(crate) fn is_denied(error: &KafkaError) -> bool {
    let code = match error {
        KafkaError::Transaction(error) => Some(error.code()),
        error => error.rdkafka_error_code(),
    };
    code.is_some_and(is_denial)
}

/// Whether a code says that the user may not do what was asked.
pub(crate) fn is_denial(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
    )
}

/// Whether an error is of the client's settings: it could not even be made.
pub fn is_refused_setting(error: &KafkaError) -> bool {
    matches!(error, KafkaError::ClientCreation(_) | KafkaError::ClientConfig(..))
}

/// Whether an error says that a topic or partition does not exist.
pub(crate) fn is_unknown_topic(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_that_nobody_configured_are_told_from_brokers_that_are_away() {
        assert!(hint("localhost:9092").contains("DEEPFM__KAFKA__BROKERS"));
        assert_eq!(hint("kafka-1:9092"), "");
    }
}
