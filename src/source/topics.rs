//! The topics that a configuration needs, against those that the cluster has. Topics are created, never altered or
//! deleted.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::KafkaError;
use serde::Serialize;

use super::client::Quiet;
use super::kafka::ask;
use super::{SourceError, client};
use crate::config::kafka::Kafka;

/// How long the cluster may take to create a topic.
const CREATE: Duration = Duration::from_secs(30);

/// A topic that the configuration needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// Its name.
    pub topic: String,
    /// What it is for.
    pub purpose: &'static str,
    /// Partitions it is created with.
    pub partitions: i32,
    /// Whether only the newest record of each key is kept.
    pub compacted: bool,
}

/// What is to be done about a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It exists.
    Keep {
        /// With this many partitions.
        partitions: usize,
    },
    /// It is missing.
    Create,
    /// It exists, but not as it must be; that is for its owner to mend.
    Mend {
        /// What is wrong.
        problem: String,
    },
}

/// A topic with what is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// The topic.
    #[serde(flatten)]
    pub wanted: Wanted,
    /// What is to be done.
    pub action: Action,
}

/// The topics of a configuration; event topics get `partitions`.
pub fn wanted(kafka: &Kafka, partitions: i32) -> Vec<Wanted> {
    let topic = |topic: &str, purpose, partitions, compacted| Wanted {
        topic: topic.to_owned(),
        purpose,
        partitions,
        compacted,
    };
    vec![
        topic(&kafka.impressions_topic, "impressions", partitions, false),
        topic(&kafka.clicks_topic, "clicks", partitions, false),
        topic(&kafka.versions_topic, "announcements of versions", 1, true),
        topic(&kafka.dead_letter_topic, "records that could not be read", 1, false),
    ]
}

/// Compares the cluster with what is wanted.
///
/// # Errors
/// When the brokers do not answer within the bound.
pub fn plan(kafka: &Kafka, partitions: i32) -> Result<Vec<Planned>, SourceError> {
    let admin: AdminClient<Quiet> = client::base(kafka).create_with_context(Quiet)?;
    let metadata = ask(kafka, || admin.inner().fetch_metadata(None, Duration::from_secs(5)))?;
    let action = |wanted: &Wanted| {
        let found = metadata.topics().iter().find(|topic| topic.name() == wanted.topic && topic.error().is_none());
        match found.map(|topic| topic.partitions().len()) {
            None | Some(0) => Action::Create,
            Some(partitions) if wanted.compacted && partitions != 1 => Action::Mend {
                problem: format!("it has {partitions} partitions; versions need exactly one, for their order"),
            },
            Some(partitions) => Action::Keep { partitions },
        }
    };
    Ok(wanted(kafka, partitions).into_iter().map(|wanted| Planned { action: action(&wanted), wanted }).collect())
}

/// Creates what is missing. Returns the plan that was carried out.
///
/// # Errors
/// When the brokers do not answer, or refuse to create a topic.
pub fn apply(kafka: &Kafka, partitions: i32, replication: i32) -> Result<Vec<Planned>, SourceError> {
    let plan = plan(kafka, partitions)?;
    let admin: AdminClient<Quiet> = client::base(kafka).create_with_context(Quiet)?;
    let missing: Vec<NewTopic<'_>> = plan
        .iter()
        .filter(|planned| planned.action == Action::Create)
        .map(|planned| {
            let Wanted { topic, partitions, compacted, .. } = &planned.wanted;
            let new = NewTopic::new(topic, *partitions, TopicReplication::Fixed(replication));
            if *compacted { new.set("cleanup.policy", "compact") } else { new }
        })
        .collect();
    if missing.is_empty() {
        return Ok(plan);
    }
    let options = AdminOptions::new().operation_timeout(Some(CREATE)).request_timeout(Some(CREATE));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| SourceError::File { path: "runtime".into(), source })?;
    for created in runtime.block_on(admin.create_topics(&missing, &options))? {
        created.map_err(|(_, code)| SourceError::Client(KafkaError::AdminOp(code)))?;
    }
    Ok(plan)
}
