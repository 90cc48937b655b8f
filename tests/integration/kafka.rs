//! The Kafka source on a real broker: order, ends, bounds, new partitions, and what can go wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use deepfm_core::event::options::{EventOptions, Mapping, Mappings, TimeUnit};
use deepfm_core::event::{Decoder, EventKind};
use deepfm_core::feature::field::{Field, FieldKind, FieldSet};
use deepfm_core::stream::{Arrival, Partition, Positions};
use deepfm_stream::config::kafka::{Kafka, Start};
use deepfm_stream::kafka::administration::{self, Action};
use deepfm_stream::kafka::{BrokerError, client};
use deepfm_stream::progress::Progress;
use deepfm_stream::source::send::{Timestamps, send_directory};
use deepfm_stream::source::topics::{KafkaLog, KafkaSource};
use deepfm_stream::source::{Ingest, Source, SourceError, SourceEvent};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::support::broker::{self, Outgoing};
use crate::support::wait_for;

fn decoder(options: EventOptions) -> Decoder {
    let fields = FieldSet::new(vec![Field { name: "user".to_owned(), kind: FieldKind::Categorical }]);
    Decoder::new(fields.expect("they are valid"), options).expect("it is valid")
}

fn ingest() -> Ingest {
    Ingest::new(decoder(EventOptions::default()), 1024, |_, _| ())
}

/// An embedded broker with both topics, each of so many partitions.
fn embedded(partitions: i32) -> (MockCluster<'static, DefaultProducerContext>, Kafka) {
    let cluster = MockCluster::new(1).expect("the embedded broker starts");
    let kafka = Kafka {
        brokers: cluster.bootstrap_servers(),
        impressions_topic: "i".to_owned(),
        clicks_topic: "c".to_owned(),
        ..deepfm_stream::config::Config::default().kafka
    };
    for topic in ["i", "c"] {
        cluster.create_topic(topic, partitions, 1).expect("the embedded broker makes topics");
    }
    (cluster, kafka)
}

/// Sends 200 impressions as a file.
fn send_two_hundred(kafka: &Kafka) {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let lines: Vec<String> = (0..200).map(impression).collect();
    std::fs::write(directory.path().join("impressions.jsonl"), lines.join("\n")).expect("the disk takes it");
    let decoder = decoder(EventOptions::default());
    send_directory(kafka, decoder, directory.path(), None, Timestamps::Sent, &Progress::default())
        .expect("the embedded broker takes them");
}

fn impression(n: usize) -> String {
    format!(r#"{{"impression_id":"i{n}","event_time":{},"features":{{"user":"u{n}"}}}}"#, 1_700_000_000_000_usize + n)
}

fn fill(broker: &broker::Broker, topic: &str, partition: i32, count: usize) {
    let records: Vec<String> = (0..count).map(impression).collect();
    let outgoing: Vec<Outgoing<'_>> =
        records.iter().map(|record| Outgoing { payload: Some(record.as_bytes()), ..Outgoing::default() }).collect();
    broker.produce(topic, partition, &outgoing);
}

/// Reads until every partition has said that it is at its end; the offsets of each, in the order of arrival.
fn read_to_the_ends(source: &mut KafkaSource, partitions: usize) -> BTreeMap<Partition, Vec<i64>> {
    let mut offsets: BTreeMap<Partition, Vec<i64>> = BTreeMap::new();
    let mut ends = Positions::new();
    wait_for("the ends of all partitions", || {
        match source.next(Duration::from_millis(20)).expect("the broker is there")? {
            SourceEvent::Records { partition, arrivals } => {
                source.consumed(partition, arrivals.iter().map(Arrival::weight).sum());
                offsets.entry(partition).or_default().extend(arrivals.iter().map(|arrival| arrival.offset));
            }
            SourceEvent::EndOfPartition { partition, next_offset } => {
                ends.insert(partition, next_offset);
            }
            SourceEvent::PartitionAdded { .. } | SourceEvent::Reconnected { .. } => {}
        }
        (ends.len() == partitions).then_some(())
    });
    offsets
}

/// Reads a log from its beginning.
pub(super) fn read_from_start(log: KafkaLog) -> KafkaSource {
    let starts = log.starts(&Start::Earliest).expect("no question is asked");
    log.read(&starts, ingest()).expect("the partitions exist")
}

/// Waits until reading fails.
pub(super) fn first_error(source: &mut KafkaSource) -> SourceError {
    wait_for("an error", || source.next(Duration::from_millis(20)).err())
}

#[test]
fn every_record_of_every_partition_arrives_once_and_in_order() {
    let Some(broker) = broker::real("every_record_of_every_partition_arrives_once_and_in_order") else { return };
    let kafka = broker.kafka_with_topics("order", 3);
    for (partition, count) in [(0, 5000), (1, 1), (2, 3000)] {
        fill(broker, &kafka.impressions_topic, partition, count);
    }
    // A small queue, so that partitions are paused and resumed many times.
    let kafka = Kafka { queue_records_max: 100, ..kafka };
    let log = KafkaLog::connect(&kafka).expect("the topics exist");
    let starts = log.starts(&Start::Earliest).expect("no question is asked");
    let mut source = log.read(&starts, ingest()).expect("the partitions exist");
    let offsets = read_to_the_ends(&mut source, 6);
    for (number, count) in [(0, 5000), (1, 1), (2, 3000)] {
        let partition = Partition { kind: EventKind::Impression, number };
        assert_eq!(offsets[&partition], (0..count).collect::<Vec<i64>>(), "{partition}");
    }
    assert_eq!(offsets.len(), 3, "clicks are empty");
}

#[test]
fn a_partition_at_its_bound_is_left_alone_until_the_core_consumes() {
    let Some(broker) = broker::real("a_partition_at_its_bound_is_left_alone_until_the_core_consumes") else { return };
    let kafka = Kafka { queue_records_max: 150, ..broker.kafka_with_topics("bound", 2) };
    fill(broker, &kafka.impressions_topic, 0, 4000);
    fill(broker, &kafka.impressions_topic, 1, 400);
    let log = KafkaLog::connect(&kafka).expect("the topics exist");
    let starts = log.starts(&Start::Earliest).expect("no question is asked");
    let mut source = log.read(&starts, ingest()).expect("the partitions exist");
    let (full, other) =
        (Partition { kind: EventKind::Impression, number: 0 }, Partition { kind: EventKind::Impression, number: 1 });
    let (mut waiting, mut passed) = (0, 0);
    wait_for("all of the partition that is consumed", || {
        if let SourceEvent::Records { partition, arrivals } =
            source.next(Duration::from_millis(20)).expect("it is there")?
        {
            if partition == full {
                waiting += arrivals.len();
            } else {
                passed += arrivals.len();
                source.consumed(other, arrivals.iter().map(Arrival::weight).sum());
            }
        }
        (passed == 400).then_some(())
    });
    assert!((100..=150).contains(&waiting), "{waiting} records wait where 150 may");
    source.consumed(full, waiting);
    wait_for("more of the partition that has room again", || {
        match source.next(Duration::from_millis(20)).expect("it is there")? {
            SourceEvent::Records { partition, .. } if partition == full => Some(()),
            _ => None,
        }
    });
}

#[test]
fn a_partition_that_is_added_while_reading_is_noticed_and_read_from_its_beginning() {
    let name = "a_partition_that_is_added_while_reading_is_noticed_and_read_from_its_beginning";
    let Some(broker) = broker::real(name) else { return };
    let kafka = Kafka { partition_refresh_seconds: 0, ..broker.kafka_with_topics("added", 1) };
    let log = KafkaLog::connect(&kafka).expect("the topics exist");
    let starts = log.starts(&Start::Earliest).expect("no question is asked");
    let mut source = log.read(&starts, ingest()).expect("the partitions exist");
    let admin: AdminClient<DefaultClientContext> = client::base(&kafka).create().expect("the settings are valid");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let more = [NewPartitions::new(&kafka.clicks_topic, 2)];
    runtime.block_on(admin.create_partitions(&more, &AdminOptions::new())).expect("the broker makes it");
    let expected = Partition { kind: EventKind::Click, number: 1 };
    wait_for("the new partition", || match source.next(Duration::from_millis(20)).expect("it is there")? {
        SourceEvent::PartitionAdded { partition, next_offset } => {
            assert_eq!((partition, next_offset), (expected, 0));
            Some(())
        }
        _ => None,
    });
    let click = br#"{"impression_id":"i1","event_time":1700000000001}"#;
    broker.produce(&kafka.clicks_topic, 1, &[Outgoing { payload: Some(click), ..Outgoing::default() }]);
    wait_for("its first record", || match source.next(Duration::from_millis(20)).expect("it is there")? {
        SourceEvent::Records { partition, arrivals } => {
            assert_eq!((partition, arrivals[0].offset), (expected, 0));
            Some(())
        }
        _ => None,
    });
}

#[test]
fn positions_that_the_broker_does_not_have_are_refused() {
    let Some(broker) = broker::real("positions_that_the_broker_does_not_have_are_refused") else { return };
    let kafka = broker.kafka_with_topics("range", 1);
    fill(broker, &kafka.impressions_topic, 0, 10);
    let log = KafkaLog::connect(&kafka).expect("the topics exist");
    let partition = Partition { kind: EventKind::Impression, number: 0 };
    log.check(&Positions::from([(partition, 10)])).expect("the end is a position");
    let beyond = log.check(&Positions::from([(partition, 11)]));
    assert!(matches!(beyond, Err(SourceError::Beyond { offset: 11, high: 10, .. })), "{beyond:?}");
    let unknown = log.check(&Positions::from([(Partition { number: 7, ..partition }, 0)]));
    assert!(matches!(unknown, Err(SourceError::Broker(BrokerError::MissingTopic { .. }))), "{unknown:?}");
}

#[test]
fn a_start_by_time_is_the_first_record_at_or_after_it() {
    let Some(broker) = broker::real("a_start_by_time_is_the_first_record_at_or_after_it") else { return };
    let kafka = broker.kafka_with_topics("time", 1);
    let payload = impression(0);
    let at = |timestamp| Outgoing { payload: Some(payload.as_bytes()), timestamp: Some(timestamp), headers: &[] };
    broker.produce(&kafka.impressions_topic, 0, &[at(1_700_000_000_000), at(1_700_000_005_000), at(1_700_000_009_000)]);
    let log = KafkaLog::connect(&kafka).expect("the topics exist");
    let starts = log.starts(&Start::At(1_700_000_004_000)).expect("the broker answers");
    assert_eq!(starts[&Partition { kind: EventKind::Impression, number: 0 }], 1);
    assert_eq!(log.starts(&Start::Latest).expect("no question is asked"), log.ends());
}

#[test]
fn topics_are_planned_and_applied_once() {
    let Some(broker) = broker::real("topics_are_planned_and_applied_once") else { return };
    let kafka = broker.kafka("plan");
    let plan = administration::plan(&kafka, 3).expect("the broker answers");
    assert!(plan.iter().all(|planned| planned.action == Action::Create), "{plan:?}");
    administration::apply(&kafka, 3, 1).expect("the broker makes them");
    let again = administration::apply(&kafka, 5, 1).expect("there is nothing to do");
    let partitions: Vec<_> = again.iter().map(|planned| planned.action.clone()).collect();
    let keep = |partitions| Action::Keep { partitions };
    assert_eq!(partitions, [keep(3), keep(3), keep(1), keep(1), keep(1)]);
}

#[test]
fn event_files_are_sent_keyed_by_impression_in_the_order_of_their_times() {
    let Some(broker) = broker::real("event_files_are_sent_keyed_by_impression_in_the_order_of_their_times") else {
        return;
    };
    let kafka = broker.kafka_with_topics("send", 1);
    let directory = tempfile::tempdir().expect("a directory of our own");
    let lines: Vec<String> = (0..50).map(impression).collect();
    std::fs::write(directory.path().join("impressions.jsonl"), lines.join("\n")).expect("the disk takes it");
    let sent = send_directory(
        &kafka,
        decoder(EventOptions::default()),
        directory.path(),
        None,
        Timestamps::Event,
        &Progress::default(),
    )
    .expect("the broker takes them");
    assert_eq!(sent, [50, 0]);
    let records = broker.read_all(&kafka.impressions_topic);
    for (n, record) in records.iter().enumerate() {
        assert_eq!(record.key, format!("i{n}").into_bytes());
        assert_eq!(record.payload, lines[n].as_bytes());
        assert_eq!(record.timestamp, Some(1_700_000_000_000 + n as i64));
    }
    assert_eq!(records.len(), 50);
}

#[test]
fn mapped_event_files_are_keyed_stamped_and_merged_by_what_the_mapping_names() {
    let Some(broker) = broker::real("mapped_event_files_are_keyed_stamped_and_merged_by_what_the_mapping_names") else {
        return;
    };
    let kafka = broker.kafka_with_topics("mapped", 1);
    let kafka = Kafka { clicks_topic: kafka.impressions_topic.clone(), ..kafka };
    let directory = tempfile::tempdir().expect("a directory of our own");
    let write = |file: &str, lines: &[&str]| {
        std::fs::write(directory.path().join(file), lines.join("\n")).expect("the disk takes it");
    };
    // Seconds within strings, a refused weight behind the id and time, and a line that says nothing.
    write(
        "impressions.jsonl",
        &[
            r#"{"req":{"id":"a"},"ts":"1700000000","features":{"user":"u"}}"#,
            r#"{"req":{"id":"b"},"ts":"1700000020","features":{"user":"u"},"weight":"heavy"}"#,
            "not JSON",
        ],
    );
    write("clicks.jsonl", &[r#"{"req":{"id":"a"},"ts":1700000010}"#, r#"{"req":{"id":"b"},"ts":1700000030}"#]);
    let mapping = Mapping {
        impression_id: Some("/req/id".to_owned()),
        event_time: Some("/ts".to_owned()),
        time_unit: TimeUnit::S,
        ..Mapping::default()
    };
    let mapping = Mappings { impression: mapping.clone(), click: mapping };
    let options = EventOptions { mapping, ..EventOptions::default() };
    let sent =
        send_directory(&kafka, decoder(options), directory.path(), None, Timestamps::Event, &Progress::default())
            .expect("the broker takes them");
    assert_eq!(sent, [3, 2]);
    let records = broker.read_all(&kafka.impressions_topic);
    let keys: Vec<&[u8]> = records.iter().map(|record| record.key.as_slice()).collect();
    assert_eq!(keys, [&b"a"[..], b"a", b"b", b"", b"b"]);
    let times: Vec<_> = records.iter().map(|record| record.timestamp.map(|time| time / 1000)).collect();
    assert_eq!(times[..3], [Some(1_700_000_000), Some(1_700_000_010), Some(1_700_000_020)]);
}

#[test]
fn an_embedded_broker_is_read_like_a_real_one() {
    let (_cluster, kafka) = embedded(2);
    send_two_hundred(&kafka);
    let log = KafkaLog::connect(&kafka).expect("the topics exist");
    let starts = log.starts(&Start::Earliest).expect("no question is asked");
    let mut source = log.read(&starts, ingest()).expect("the partitions exist");
    let offsets = read_to_the_ends(&mut source, 4);
    assert_eq!(offsets.values().map(Vec::len).sum::<usize>(), 200);
    assert!(offsets.values().all(|offsets| offsets.windows(2).all(|pair| pair[0] < pair[1])));
}

#[test]
fn brokers_that_are_lost_while_reading_end_the_run_at_the_bound() {
    let (cluster, kafka) = embedded(1);
    let kafka = Kafka { retry_max_seconds: 2, ..kafka };
    let log = KafkaLog::connect(&kafka).expect("the topics exist");
    let starts = log.starts(&Start::Earliest).expect("no question is asked");
    let mut source = log.read(&starts, ingest()).expect("the partitions exist");
    read_to_the_ends(&mut source, 2);
    drop(cluster);
    let error = wait_for("the end of the run", || source.next(Duration::from_millis(20)).err());
    assert!(matches!(error, SourceError::Broker(BrokerError::Unreachable { .. })), "{error}");
}

#[test]
fn brokers_that_were_lost_and_are_back_say_how_far_each_partition_goes_and_are_read_on() {
    let (cluster, kafka) = embedded(2);
    let send = || send_two_hundred(&kafka);
    send();
    let mut source = read_from_start(KafkaLog::connect(&kafka).expect("the topics exist"));
    let first = read_to_the_ends(&mut source, 4);
    assert_eq!(first.values().map(Vec::len).sum::<usize>(), 200);
    cluster.broker_down(1).expect("it goes down");
    // Both readers have to notice before it is back; each tells the ends of its topic afterwards.
    wait_for("a question that is not answered", || {
        source.next(Duration::from_millis(20)).expect("the bound is not reached");
        KafkaLog::connect(&Kafka { retry_max_seconds: 1, ..kafka.clone() }).err()
    });
    cluster.broker_up(1).expect("it comes up");
    let mut ends = Positions::new();
    wait_for("the ends of all partitions", || {
        if let SourceEvent::Reconnected { partition, end } =
            source.next(Duration::from_millis(20)).expect("it is back")?
        {
            ends.insert(partition, end);
        }
        (ends.len() == 4).then_some(())
    });
    let counts: Vec<i64> = ends.values().copied().collect();
    assert_eq!(counts.iter().sum::<i64>(), 200, "{ends:?}");
    send();
    let mut more = 0;
    wait_for("what was sent since", || {
        if let SourceEvent::Records { partition, arrivals } =
            source.next(Duration::from_millis(20)).expect("it is there")?
        {
            assert!(arrivals.iter().all(|arrival| arrival.offset >= ends[&partition]), "nothing is repeated");
            source.consumed(partition, arrivals.iter().map(Arrival::weight).sum());
            more += arrivals.len();
        }
        (more == 200).then_some(())
    });
}
