//! What servers say that they serve, read from their topic, and held against the versions that were announced by then.

use deepfm_core::event::DETAIL_CHARS_MAX;
use deepfm_core::event::plain::plain;
use deepfm_core::version::fleet::{Fleet, FleetRow};
use deepfm_core::version::known::KnownVersions;
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

/// What the topics of versions and of servers say together.
#[derive(Clone, Debug)]
pub struct FleetSeen {
    /// The versions.
    pub versions: KnownVersions,
    /// What each arm of each server serves; nothing where that is not known.
    pub rows: Option<Vec<FleetRow>>,
    /// Records of servers that were passed over.
    pub passed_over: u64,
}

impl FleetSeen {
    /// Reads what servers say, and then the versions: what a server serves was announced before it said so. The other way round one
    /// that is announced between the two would be nobody's.
    ///
    /// # Errors
    /// Those of the two.
    pub fn read<E>(
        servers: impl FnOnce() -> Result<Option<ServersRead>, E>,
        versions: impl FnOnce() -> Result<KnownVersions, E>,
    ) -> Result<Self, E> {
        let servers = servers()?;
        let versions = versions()?;
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let rows = servers.as_ref().map(|servers| servers.fleet.rows(&versions, now_ms));
        Ok(Self { versions, rows, passed_over: servers.map_or(0, |servers| servers.passed_over) })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use deepfm_core::version::acknowledgement::{AcknowledgedArm, Acknowledgement, ServedVersion, written};
    use deepfm_core::version::announcement::Announcement;

    use super::*;

    fn announced(versions: u64) -> KnownVersions {
        let text = include_str!("../../schemas/examples/announcement/valid/abandoned.json");
        let one: Announcement = serde_json::from_str(text).expect("it is an announcement");
        let announced = (1..=versions).map(|version| (version, Announcement { version, ..one.clone() })).collect();
        KnownVersions { announced, newest: Some(versions), ..KnownVersions::default() }
    }

    fn serving(version: u64) -> ServersRead {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let serving = ServedVersion {
            version,
            manifest_digest: announced(version).announced[&version].manifest_digest.clone(),
            watermark: None,
            probes_digest: "0".repeat(64),
            loaded_at: written(now_ms),
            load_seconds: 0.1,
        };
        let arms = vec![AcknowledgedArm { arm: "a".into(), target: "latest".into(), serving: Some(serving) }];
        let said = Acknowledgement::new("ctr", "s", now_ms, 30, arms);
        let mut read = ServersRead::default();
        let key = Acknowledgement::key(&said.model, &said.server);
        read.fleet.take(&said.model, key.as_bytes(), Some(said.to_json().as_bytes())).expect("it is one");
        read
    }

    #[test]
    fn a_version_that_is_announced_and_served_between_the_two_topics_is_not_foreign() {
        // Each look at a topic is a version later than the one before, and the server serves the newest.
        let newest = Cell::new(1);
        let look = || newest.replace(newest.get() + 1);
        let seen = FleetSeen::read(|| Ok::<_, Infallible>(Some(serving(look()))), || Ok(announced(look())));
        let Ok(FleetSeen { versions, rows: Some(rows), .. }) = seen else { panic!("both are there") };
        assert_eq!((rows.len(), rows[0].version, versions.newest), (1, Some(1), Some(2)));
        assert_eq!(rows[0].flags, [], "it was announced before it was served");
    }
}
