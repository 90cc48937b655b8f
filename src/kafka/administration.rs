//! The topics that a configuration needs, against those that the cluster has. Topics are created, never altered or
//! deleted.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde::Serialize;

use super::ask::{ASK, ask, denied, is_denial};
use super::contact::Contact;
use super::metadata::{is_embedded, once_spread, partition_count};
use super::topic_id::{self, Operation};
use super::{BrokerError, client};
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
    /// For how long a key is kept that nobody writes any more, where that is not for ever, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forgotten_after_ms: Option<u64>,
}

/// How long a server that has fallen silent is remembered.
const SERVER_REMEMBERED_MS: u64 = 7 * 24 * 3600 * 1000;

/// How often the topic of acknowledgements begins a new file: only closed ones are compacted, and every server writes at every
/// beat.
const ACKNOWLEDGEMENTS_SEGMENT_MS: u64 = 3600 * 1000;

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
        forgotten_after_ms: None,
    };
    vec![
        topic(&kafka.impressions_topic, "impressions", partitions, false),
        topic(&kafka.clicks_topic, "clicks", partitions, false),
        topic(&kafka.versions_topic, "announcements of versions", 1, true),
        topic(&kafka.dead_letter_topic, "records that could not be read", 1, false),
        Wanted {
            forgotten_after_ms: Some(SERVER_REMEMBERED_MS),
            ..topic(&kafka.acknowledgements_topic, "what servers serve", 1, true)
        },
    ]
}

/// Compares the cluster with what is wanted.
///
/// # Errors
/// When the brokers do not answer within the bound, or cannot be talked to with these settings.
pub fn plan(kafka: &Kafka, partitions: i32) -> Result<Vec<Planned>, BrokerError> {
    let consumer: BaseConsumer<Contact> = client::consumer(kafka).create_with_context(Contact::default())?;
    let mut plan = Vec::new();
    for wanted in wanted(kafka, partitions) {
        let action = match partition_count(&consumer, kafka, &wanted.topic) {
            Ok(partitions) if wanted.compacted && partitions != 1 => {
                let problem = format!("it has {partitions} partitions; its records need exactly one, for their order");
                Action::Mend { problem }
            }
            Ok(partitions) => Action::Keep { partitions },
            Err(BrokerError::MissingTopic { .. }) => Action::Create,
            Err(error @ BrokerError::Denied { .. }) => Action::Mend { problem: error.to_string() },
            Err(error) => return Err(error),
        };
        plan.push(Planned { wanted, action });
    }
    if !is_embedded(&consumer, kafka) {
        let is_there = |planned: &&mut Planned| matches!(planned.action, Action::Keep { .. });
        for planned in plan.iter_mut().filter(|planned| planned.wanted.compacted).filter(is_there) {
            if let Some(problem) = cleanup_problem(kafka, &planned.wanted)? {
                planned.action = Action::Mend { problem };
            }
        }
    }
    Ok(plan)
}

/// Refuses topics that a worker could not work with: a missing one, one that the plan would have mended, and one that its
/// user may not read or write.
///
/// # Errors
/// The first that is refused; or when the brokers do not answer within the bound.
pub fn require(kafka: &Kafka) -> Result<(), BrokerError> {
    once_spread(|| {
        let is_used = |planned: &Planned| planned.wanted.topic != kafka.acknowledgements_topic;
        plan(kafka, 1)?.into_iter().filter(is_used).try_for_each(|Planned { wanted, action }| match action {
            Action::Keep { .. } => Ok(()),
            Action::Create => Err(BrokerError::MissingTopic { topic: wanted.topic }),
            Action::Mend { problem } => Err(BrokerError::Unfit { topic: wanted.topic, problem }),
        })
    })?;
    let consumer: BaseConsumer<Contact> = client::consumer(kafka).create_with_context(Contact::default())?;
    if is_embedded(&consumer, kafka) {
        return Ok(());
    }
    let wanted = [
        (&kafka.impressions_topic, &[Operation::Read][..]),
        (&kafka.clicks_topic, &[Operation::Read]),
        (&kafka.versions_topic, &[Operation::Read, Operation::Write]),
        (&kafka.dead_letter_topic, &[Operation::Write]),
    ];
    let topics = wanted.map(|(topic, _)| topic.as_str());
    let allowed = ask(kafka, &consumer, |patience| topic_id::operations(consumer.client(), &topics, patience))?;
    for (topic, needed) in wanted {
        let allowed = allowed.get(topic);
        let missing = needed.iter().find(|needed| allowed.is_some_and(|allowed| !allowed.contains(needed)));
        if let Some(operation) = missing {
            return Err(denied(kafka, &format!("topic {topic}"), operation.name()));
        }
    }
    Ok(())
}

/// What is wrong with how a topic of keyed records is cleaned up; nothing where the broker does not tell.
fn cleanup_problem(kafka: &Kafka, wanted: &Wanted) -> Result<Option<String>, BrokerError> {
    let admin: AdminClient<Contact> = client::base(kafka).create_with_context(Contact::default())?;
    let options = AdminOptions::new().request_timeout(Some(ASK));
    let resources = [ResourceSpecifier::Topic(&wanted.topic)];
    let described = runtime()?.block_on(admin.describe_configs(&resources, &options))?;
    let policy = described.iter().flatten().find_map(|resource| resource.get("cleanup.policy"));
    let Some(policy) = policy.and_then(|entry| entry.value.as_deref()) else {
        tracing::warn!("the brokers do not tell how topic {} is cleaned up: it must be compacted", wanted.topic);
        return Ok(None);
    };
    if wanted.forgotten_after_ms.is_some() {
        // What is kept longer, or for ever, is read all the same.
        let is_compacted = policy.split(',').any(|word| word.trim() == "compact");
        return Ok((!is_compacted).then(|| {
            format!(
                "its cleanup.policy is {policy}, it must be compact,delete: every beat of every server would be kept"
            )
        }));
    }
    Ok((policy != "compact").then(|| {
        format!(
            "its cleanup.policy is {policy}, it must be compact: old announcements, and where `live` points, would be \
             deleted by age. `kafka-configs.sh --alter --topic {} --add-config cleanup.policy=compact` mends it",
            wanted.topic
        )
    }))
}

fn runtime() -> Result<tokio::runtime::Runtime, BrokerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(BrokerError::Runtime)
}

/// Creates what is missing. Returns the plan that was carried out.
///
/// # Errors
/// When the brokers do not answer, or refuse to create a topic.
pub fn apply(kafka: &Kafka, partitions: i32, replication: i32) -> Result<Vec<Planned>, BrokerError> {
    let plan = plan(kafka, partitions)?;
    let admin: AdminClient<Contact> = client::base(kafka).create_with_context(Contact::default())?;
    let segment = ACKNOWLEDGEMENTS_SEGMENT_MS.to_string();
    let missing: Vec<(&Wanted, String)> = plan
        .iter()
        .filter(|planned| planned.action == Action::Create)
        .map(|Planned { wanted, .. }| (wanted, wanted.forgotten_after_ms.unwrap_or_default().to_string()))
        .collect();
    let missing: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|(Wanted { topic, partitions, compacted, forgotten_after_ms, .. }, after)| {
            let new = NewTopic::new(topic, *partitions, TopicReplication::Fixed(replication));
            match (compacted, forgotten_after_ms) {
                (false, _) => new,
                (true, None) => new.set("cleanup.policy", "compact"),
                (true, Some(_)) => {
                    let new = new.set("cleanup.policy", "compact,delete").set("retention.ms", after);
                    new.set("segment.ms", &segment)
                }
            }
        })
        .collect();
    if missing.is_empty() {
        return Ok(plan);
    }
    let options = AdminOptions::new().operation_timeout(Some(CREATE)).request_timeout(Some(CREATE));
    for created in runtime()?.block_on(admin.create_topics(&missing, &options))? {
        created.map_err(|(topic, code)| match code {
            _ if is_denial(code) => denied(kafka, &format!("topic {topic}"), "Create"),
            code => BrokerError::Unfit { topic, problem: format!("it was not created: {code}") },
        })?;
    }
    Ok(plan)
}
