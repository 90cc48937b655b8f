//! One real Apache Kafka for the whole test process, started when first wanted. It ends with the process, however that
//! ends: the script that runs it watches a pipe that only the process holds.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deepfm_stream::config::Config;
use deepfm_stream::config::kafka::Kafka;
use deepfm_stream::kafka::administration;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

use super::raw::{self, Raw};

/// The script that runs brokers, below the root of the repository.
pub(super) const SCRIPT: &str = "deploy/kafka/kafka";

/// A cluster to test against.
pub(crate) struct Broker {
    pub(crate) bootstrap: String,
    /// Held so that its standard input stays open as long as this process lives.
    pub(super) _script: Option<Child>,
}

/// A record that was read back.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) key: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) timestamp: Option<i64>,
}

/// A record to be written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outgoing<'a> {
    pub(crate) payload: Option<&'a [u8]>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) headers: &'a [(&'a str, &'a str)],
}

/// The real broker, or a skipped test.
pub(crate) fn real(test: &str) -> Option<&'static Broker> {
    static BROKER: OnceLock<Result<Broker, String>> = OnceLock::new();
    match BROKER.get_or_init(|| start("test", 1)) {
        Ok(broker) => Some(broker),
        Err(reason) => {
            super::skip(test, reason);
            None
        }
    }
}

fn start(name: &str, brokers: usize) -> Result<Broker, String> {
    if let Ok(bootstrap) = std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
        return Ok(Broker::at(bootstrap));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = root.join("target").join(format!("kafka/{name}-{}", std::process::id()));
    let (bootstrap, script) = start_script(&directory, brokers, &[])?;
    Ok(Broker { bootstrap, _script: Some(script) })
}

/// Starts brokers that end with this process.
pub(super) fn start_script(directory: &Path, brokers: usize, more: &[&str]) -> Result<(String, Child), String> {
    for tool in ["java", "mvn"] {
        let found = Command::new(tool).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.map_err(|_| format!("no {tool}: a real Apache Kafka cannot be started"))?;
    }
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(SCRIPT))
        .args(["start", "--fresh", "--foreground", "--brokers", &brokers.to_string(), "--dir"])
        .arg(directory)
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("the script does not start: {error}"))?;
    let mut bootstrap = String::new();
    let output = script.stdout.take().ok_or("the script has no output")?;
    BufReader::new(output).read_line(&mut bootstrap).map_err(|error| error.to_string())?;
    let bootstrap = bootstrap.trim().to_owned();
    if bootstrap.is_empty() {
        return Err(format!("the broker did not start, see {}", directory.display()));
    }
    Ok((bootstrap, script))
}

/// A broker with two secured ports besides.
pub(crate) struct Secure {
    pub(crate) broker: Broker,
    directory: PathBuf,
}

/// The secured broker, or a skipped test.
pub(crate) fn secure(test: &str) -> Option<&'static Secure> {
    static BROKER: OnceLock<Result<Secure, String>> = OnceLock::new();
    let start = || {
        let name = format!("target/kafka/secure-{}", std::process::id());
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let (bootstrap, script) = start_script(&directory, 1, &["--secure"])?;
        Ok(Secure { broker: Broker { bootstrap, _script: Some(script) }, directory })
    };
    match BROKER.get_or_init(start) {
        Ok(broker) => Some(broker),
        Err(reason) => {
            super::skip(test, reason);
            None
        }
    }
}

impl Secure {
    /// The address of a port: `ssl` or `sasl_ssl`.
    pub(crate) fn port(&self, name: &str) -> String {
        let address = std::fs::read_to_string(self.directory.join(name)).expect("the script wrote it");
        address.trim().to_owned()
    }

    /// The certificate that signs the broker's.
    pub(crate) fn authority(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Lets the user `worker` do something.
    pub(crate) fn allow(&self, what: &[&str], operations: &[&str]) {
        let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(SCRIPT));
        script.args(["acls", "--dir"]).arg(&self.directory).args(["--add", "--allow-principal", "User:worker"]);
        script.args(what).args(operations.iter().flat_map(|operation| ["--operation", operation]));
        let changed = script.stdin(Stdio::null()).output().expect("the script is there");
        assert!(changed.status.success(), "{}", String::from_utf8_lossy(&changed.stdout));
    }
}

impl Broker {
    /// One that somebody else has started.
    pub(crate) fn at(bootstrap: String) -> Self {
        Self { bootstrap, _script: None }
    }

    /// A configuration of topics of this test's own, which are not made yet.
    pub(crate) fn kafka(&self, test: &str) -> Kafka {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let unique = format!("{test}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Kafka {
            brokers: self.bootstrap.clone(),
            impressions_topic: format!("{unique}-impressions"),
            clicks_topic: format!("{unique}-clicks"),
            versions_topic: format!("{unique}-versions"),
            dead_letter_topic: format!("{unique}-dead-letters"),
            acknowledgements_topic: format!("{unique}-acknowledgements"),
            retry_max_seconds: 30,
            ..Config::default().kafka
        }
    }

    /// The same, with all topics made.
    pub(crate) fn kafka_with_topics(&self, test: &str, partitions: i32) -> Kafka {
        let kafka = self.kafka(test);
        administration::apply(&kafka, partitions, 1).expect("the broker makes topics");
        kafka
    }

    /// Makes a topic with settings of its own.
    pub(crate) fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.bootstrap).create().expect("the settings are valid");
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let new = settings.iter().fold(new, |new, (key, value)| new.set(key, value));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let created = runtime.block_on(admin.create_topics([&new], &AdminOptions::new())).expect("the broker answers");
        assert!(created.iter().all(Result::is_ok), "{created:?}");
    }

    /// Writes records to a partition and waits until the broker has them.
    pub(crate) fn produce(&self, topic: &str, partition: i32, records: &[Outgoing<'_>]) {
        let producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("message.max.bytes", "20000000")
            .create()
            .expect("the settings are valid");
        for outgoing in records {
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(partition);
            if let Some(payload) = outgoing.payload {
                record = record.payload(payload);
            }
            if let Some(timestamp) = outgoing.timestamp {
                record = record.timestamp(timestamp);
            }
            let headers = outgoing
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }));
            record = record.headers(headers);
            assert!(producer.send(record).is_ok(), "the producer's queue has room");
        }
        producer.flush(Duration::from_secs(30)).expect("the broker takes the records");
    }

    /// Writes records of which every part may be any bytes, and waits until the broker has them.
    pub(crate) fn produce_raw(&self, topic: &str, partition: i32, records: &[Raw]) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("message.max.bytes", "20000000")
            .create()
            .expect("the settings are valid");
        for record in records {
            raw::produce(producer.client(), topic, partition, record);
        }
        producer.flush(Duration::from_secs(30)).expect("the broker takes the records");
    }

    /// Reads a whole topic of one partition.
    pub(crate) fn read_all(&self, topic: &str) -> Vec<Record> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", "tests")
            .set("enable.partition.eof", "true")
            .create()
            .expect("the settings are valid");
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, 0, Offset::Beginning).expect("the offset is valid");
        consumer.assign(&assignment).expect("the partition exists");
        let mut records = Vec::new();
        super::wait_for("the end of the topic", || match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                assert!(message.headers().is_none_or(|headers| headers.count() < 100));
                records.push(Record {
                    key: message.key().unwrap_or_default().to_vec(),
                    payload: message.payload().unwrap_or_default().to_vec(),
                    timestamp: message.timestamp().to_millis(),
                });
                None
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => Some(()),
            Some(Err(error)) => panic!("{topic}: {error}"),
            None => None,
        });
        records
    }
}
