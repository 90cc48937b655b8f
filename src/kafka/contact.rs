//! What keeps a client from its brokers, in words that name the cause and the setting to look at.
//!
//! The client library tells causes through its error events, beside the questions that fail for want of an answer. Every
//! client of this program has a [`Contact`] as its context, which keeps the most telling one. Nothing of the library's own
//! log is shown beside ours, except to who asks for `debug`.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// How often what goes on is said again.
pub const SAY_AGAIN: Duration = Duration::from_mins(1);

/// How long a cause that a broker in trouble could show as well must last before it is taken for a wrong setting.
const DOUBT: Duration = Duration::from_secs(4);

/// Why a broker cannot be talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The user or password is wrong, or the mechanism is not the broker's.
    Credentials,
    /// The broker's certificate is not trusted, or it wants one from us.
    Certificate,
    /// We speak TLS, the port seems not to.
    PlainPort,
    /// We speak plain, the port seems to want TLS or SASL.
    SecuredPort,
    /// Nothing listens there.
    Refused,
    /// The host's name cannot be resolved.
    UnknownHost,
    /// Anything else.
    Other,
}

/// What a client said of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Why.
    pub cause: Cause,
    /// The broker's address.
    address: String,
    /// The client library's words.
    said: String,
}

impl Trouble {
    /// Reads an error event of the client library. That all brokers are down is no cause, and that a partition is read to
    /// its end no trouble.
    pub fn of(code: RDKafkaErrorCode, reason: &str) -> Option<Self> {
        if matches!(code, RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::PartitionEOF) {
            return None;
        }
        // `sasl_ssl://host:9093/bootstrap: What happened (after 3ms in state CONNECT)`
        let reason = reason.strip_prefix("GroupCoordinator: ").unwrap_or(reason);
        let is_name = |name: &str| name.contains([':', '/']) && !name.contains(' ');
        let (name, said) = reason.split_once(": ").filter(|(name, _)| is_name(name)).unwrap_or(("", reason));
        let name = name.rsplit("://").next().unwrap_or_default();
        let address = name.split('/').next().unwrap_or_default().to_owned();
        let said = said.rfind(" (after ").map_or(said, |at| &said[..at]).to_owned();
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let cause = match code {
            RDKafkaErrorCode::Resolve => Cause::UnknownHost,
            // A token is fetched from another service, which may be away for a while.
            RDKafkaErrorCode::Authentication if has(&["token"]) => Cause::Other,
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => Cause::Credentials,
            _ if has(&["PLAINTEXT", "wrong version number", "plaintext port", "packet length too long"]) => {
                Cause::PlainPort
            }
            _ if has(&["certificate", "verify failed", "unknown ca", "bad_certificate"]) => Cause::Certificate,
            _ if has(&["connecting to a SSL listener", "might require SASL"]) => Cause::SecuredPort,
            _ if has(&["Connection refused"]) => Cause::Refused,
            _ if has(&["Failed to resolve", "Name or service not known"]) => Cause::UnknownHost,
            _ => Cause::Other,
        };
        Some(Self { cause, address, said })
    }

    /// A port that answers in TLS to a client without it.
    pub(super) fn of_secured_port(address: &str) -> Self {
        let said = "it answers in TLS".to_owned();
        Self { cause: Cause::SecuredPort, address: address.to_owned(), said }
    }

    /// How long it must be the only cause before it is taken for a wrong setting, which no waiting mends.
    fn doubt(&self) -> Option<Duration> {
        match self.cause {
            Cause::Credentials | Cause::Certificate => Some(Duration::ZERO),
            Cause::PlainPort | Cause::SecuredPort => Some(DOUBT),
            Cause::Refused | Cause::UnknownHost | Cause::Other => None,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cause, address, said } = self;
        let address = if address.is_empty() { "a broker" } else { address };
        match cause {
            Cause::Credentials => write!(
                f,
                "{address} refuses the credentials (sasl.username, sasl.password, sasl.mechanism in \
                 [kafka.properties]): {said}"
            ),
            Cause::Certificate => write!(
                f,
                "the certificates of {address} and of this client do not fit (ssl.ca.location, \
                 ssl.certificate.location in [kafka.properties]): {said}"
            ),
            Cause::PlainPort => write!(
                f,
                "{address} does not answer in TLS, which security.protocol in [kafka.properties] asks for: {said}"
            ),
            Cause::SecuredPort => write!(
                f,
                "{address} ends plain connections: it may want TLS or SASL (security.protocol in \
                 [kafka.properties]): {said}"
            ),
            Cause::Refused => write!(f, "nothing listens at {address}: {said}"),
            Cause::UnknownHost => write!(f, "the host of {address} cannot be found: {said}"),
            Cause::Other => write!(f, "{address}: {said}"),
        }
    }
}

#[derive(Debug, Default)]
struct Heard {
    /// The newest cause, and since when it has been that.
    trouble: Option<(Instant, Trouble)>,
    /// Since when all brokers are lost.
    lost: Option<Instant>,
    /// What was said last of the errors that are no lost connections.
    said: Option<(Instant, String)>,
}

/// A client's context: hears of its troubles. Clones share what they hear.
#[derive(Clone, Debug, Default)]
pub struct Contact {
    heard: Arc<Mutex<Heard>>,
    voice: Voice,
}

/// Whether it is said that the brokers do not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Voice {
    /// It is.
    #[default]
    Aloud,
    /// Somebody else says it.
    Quiet,
}

impl Contact {
    /// One of this voice.
    pub fn of(voice: Voice) -> Self {
        Self { voice, ..Self::default() }
    }

    /// Whether what keeps an answer away is to be said.
    pub(super) fn voice(&self) -> Voice {
        self.voice
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an error event.
    fn note(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut heard = self.heard();
        let now = Instant::now();
        let Some(trouble) = Trouble::of(code, reason) else {
            heard.lost.get_or_insert(now);
            return;
        };
        let since = heard.trouble.as_ref().filter(|(_, known)| known.cause == trouble.cause).map(|(since, _)| *since);
        // A connection that just ends says less than what was known before.
        let says_more = heard.trouble.is_none() || trouble.cause != Cause::Other;
        if says_more {
            heard.trouble = Some((since.unwrap_or(now), trouble));
        }
    }

    /// What keeps the client from its brokers, as far as it was told.
    pub fn trouble(&self) -> Option<Trouble> {
        self.heard().trouble.as_ref().map(|(_, trouble)| trouble.clone())
    }

    /// The trouble that no waiting mends: a wrong setting.
    pub fn misconfigured(&self) -> Option<Trouble> {
        let heard = self.heard();
        let (since, trouble) = heard.trouble.as_ref()?;
        trouble.doubt().filter(|doubt| since.elapsed() >= *doubt).map(|_| trouble.clone())
    }

    /// Since when all brokers are lost.
    pub fn lost(&self) -> Option<Instant> {
        self.heard().lost
    }

    /// The brokers answer: what was heard before is over.
    pub fn clear(&self) {
        *self.heard() = Heard::default();
    }

    /// Says an error that is no lost connection, but not the same one again and again.
    pub fn say(&self, text: &str) {
        let mut heard = self.heard();
        let is_new = heard.said.as_ref().is_none_or(|(at, said)| said != text || at.elapsed() >= SAY_AGAIN);
        if is_new {
            tracing::warn!("kafka: {text}");
            heard.said = Some((Instant::now(), text.to_owned()));
        }
    }
}

impl ClientContext for Contact {
    fn log(&self, _: RDKafkaLogLevel, fac: &str, message: &str) {
        tracing::debug!(target: "librdkafka", "{fac}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("kafka: {error}: {reason}");
        if let Some(code) = error.rdkafka_error_code() {
            self.note(code, reason);
        }
    }
}

impl ConsumerContext for Contact {}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(code: RDKafkaErrorCode, reason: &str) -> Trouble {
        Trouble::of(code, reason).expect("it is a cause")
    }

    #[test]
    fn a_partition_that_is_read_to_its_end_is_no_trouble() {
        let said = "Fetch from broker 1 reached end of partition at offset 5 (HighwaterMark 5)";
        assert_eq!(Trouble::of(RDKafkaErrorCode::PartitionEOF, said), None);
        assert!(Trouble::of(RDKafkaErrorCode::BrokerTransportFailure, said).is_some());
    }

    #[test]
    fn each_error_of_the_client_names_its_cause_the_broker_and_the_setting() {
        let cases = [
            (
                RDKafkaErrorCode::Authentication,
                "sasl_ssl://kafka-1:9093/bootstrap: SASL authentication error: Authentication failed during \
                 authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512 (after 300ms in state \
                 AUTH_REQ)",
                Cause::Credentials,
                "kafka-1:9093 refuses the credentials (sasl.username",
            ),
            (
                RDKafkaErrorCode::SSL,
                "ssl://[::1]:9093/1: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: \
                 broker certificate could not be verified, verify that ssl.ca.location is correctly configured (after \
                 3ms in state SSL_HANDSHAKE)",
                Cause::Certificate,
                "the certificates of [::1]:9093 and of this client do not fit (ssl.ca.location",
            ),
            (
                RDKafkaErrorCode::SSL,
                "ssl://a:1/bootstrap: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener? \
                 (after 1ms in state SSL_HANDSHAKE)",
                Cause::PlainPort,
                "a:1 does not answer in TLS",
            ),
            (
                RDKafkaErrorCode::BrokerTransportFailure,
                "a:1/bootstrap: Disconnected: requesting ApiVersion: might be caused by incorrect security.protocol \
                 configuration (connecting to a SSL listener?) or broker version is < 0.10",
                Cause::SecuredPort,
                "a:1 ends plain connections",
            ),
            (
                RDKafkaErrorCode::BrokerTransportFailure,
                "GroupCoordinator: a:1: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state \
                 CONNECT)",
                Cause::Refused,
                "nothing listens at a:1: Connect to",
            ),
            (
                RDKafkaErrorCode::Resolve,
                "ssl://nowhere:9092/bootstrap: Failed to resolve 'nowhere:9092': Name or service not known (after 9ms \
                 in state CONNECT)",
                Cause::UnknownHost,
                "the host of nowhere:9092 cannot be found",
            ),
        ];
        for (code, reason, cause, words) in cases {
            let trouble = trouble(code, reason);
            assert!(trouble.to_string().starts_with(words), "{trouble}");
            assert_eq!(trouble.cause, cause, "{reason}");
            assert!(!trouble.to_string().contains("(after"), "{trouble}");
        }
    }

    #[test]
    fn a_wrong_password_is_final_at_once_and_a_connection_that_ends_afterwards_does_not_hide_it() {
        let contact = Contact::default();
        contact.note(RDKafkaErrorCode::BrokerTransportFailure, "a:1/1: Connection refused");
        assert_eq!(contact.misconfigured(), None, "a broker that is away comes back");
        contact.note(RDKafkaErrorCode::Authentication, "sasl_ssl://a:1/1: invalid credentials");
        contact.note(RDKafkaErrorCode::BrokerTransportFailure, "sasl_ssl://a:1/1: Disconnected");
        contact.note(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        assert_eq!(contact.misconfigured().map(|trouble| trouble.cause), Some(Cause::Credentials));
        assert!(contact.lost().is_some());
        contact.note(RDKafkaErrorCode::SSL, "ssl://a:1/1: connecting to a PLAINTEXT broker listener?");
        assert_eq!(contact.misconfigured(), None, "a broker that is killed looks like that for a moment");
        contact.clear();
        assert!(contact.trouble().is_none() && contact.lost().is_none());
    }
}
