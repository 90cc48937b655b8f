//! The versions topic as its writer reads it: again and again to its end, with one client, whatever becomes of topic and brokers.

use std::time::{Duration, Instant};

use deepfm_stream::config::kafka::Kafka;
use deepfm_stream::kafka::BrokerError;
use deepfm_stream::kafka::contact::Voice;
use deepfm_stream::kafka::read::TopicReader;
use deepfm_stream::publish::topic::{self, Announcer, Reading, Record};
use rdkafka::message::Message as _;

use super::gaps::recreate;
use crate::support::broker;
use crate::support::{cluster, wait_for};

/// Reads a topic on, and says the keys of what it has more.
fn keys(reader: &mut TopicReader, kafka: &Kafka) -> Result<Vec<String>, BrokerError> {
    let mut keys = Vec::new();
    reader.read_on(kafka, &kafka.versions_topic, Voice::Quiet, &mut |message| {
        keys.push(String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned());
    })?;
    Ok(keys)
}

/// Reads on until so many are shown: the broker ends a transaction some time after it has said so.
fn shown(reader: &mut TopicReader, kafka: &Kafka, count: usize) -> Vec<String> {
    let mut shown = Vec::new();
    wait_for("what was written", || {
        shown.extend(keys(reader, kafka).expect("it is there"));
        (shown.len() >= count).then_some(())
    });
    shown
}

fn record(number: u64) -> Record {
    Record::new(format!("ctr/v/{number}"), "{}".to_owned())
}

/// Writes records as a worker does, in a transaction: behind them is a mark that no reader is shown.
fn write(announcer: &Announcer, numbers: std::ops::Range<u64>) -> Vec<String> {
    announcer.write(&numbers.clone().map(record).collect::<Vec<_>>()).expect("the broker takes them");
    numbers.map(|number| format!("ctr/v/{number}")).collect()
}

#[test]
fn a_topic_that_is_read_on_shows_each_record_once_and_all_that_there_are_and_begins_again_when_it_is_made_anew() {
    let name =
        "a_topic_that_is_read_on_shows_each_record_once_and_all_that_there_are_and_begins_again_when_it_is_made_anew";
    let Some(broker) = broker::real(name) else { return };
    let kafka = broker.kafka_with_topics("read-on", 1);
    let announcer = Announcer::fence(&kafka, "ctr").expect("the broker is there");
    let mut reader = TopicReader::default();
    let (mut kept, mut made, mut shown_after) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = 1;
    for round in 0..30 {
        let count = round % 4;
        let expected = if count > 0 { write(&announcer, next..next + count) } else { Vec::new() };
        next += count;
        let start = Instant::now();
        assert_eq!(shown(&mut reader, &kafka, expected.len()), expected, "round {round}");
        if count > 0 {
            shown_after.push(start.elapsed());
        }
        let start = Instant::now();
        assert_eq!(keys(&mut reader, &kafka).expect("it is there"), [""; 0], "round {round}");
        kept.push(start.elapsed());
        // Somebody who begins in the same moment.
        let start = Instant::now();
        assert_eq!(keys(&mut TopicReader::default(), &kafka).expect("it is there").len() as u64, next - 1);
        made.push(start.elapsed());
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (kept, made, shown_after) = (median(&mut kept), median(&mut made), median(&mut shown_after));
    println!("with the client of before {kept:?}, with one that is made {made:?}; written to shown {shown_after:?}");

    // Another of its name: as long as the one before, and shorter.
    drop(announcer);
    recreate(&kafka, &kafka.versions_topic);
    topic::write(&kafka, &[record(1)]).expect("the broker takes it");
    wait_for("who begins to see it", || {
        keys(&mut TopicReader::default(), &kafka).ok().filter(|keys| *keys == ["ctr/v/1"]).map(|_| ())
    });
    assert_eq!(keys(&mut reader, &kafka).expect("it is there"), ["ctr/v/1"], "it is read from its beginning");
    assert_eq!(keys(&mut reader, &kafka).expect("it is there"), [""; 0]);
}

#[test]
fn a_topic_is_read_on_when_its_broker_was_away_and_nothing_is_shown_twice() {
    let name = "a_topic_is_read_on_when_its_broker_was_away_and_nothing_is_shown_twice";
    let Some(cluster) = cluster::of_one(name) else { return };
    let kafka = cluster.kafka_with_topics("read-away", 1);
    let announcer = Announcer::fence(&kafka, "ctr").expect("the broker is there");
    let mut reader = TopicReader::default();
    let first = write(&announcer, 1..3);
    assert_eq!(shown(&mut reader, &kafka, 2), first);
    let more = write(&announcer, 3..5);
    cluster.kill(1);
    let hasty = Kafka { retry_max_seconds: 2, ..kafka.clone() };
    let start = Instant::now();
    let error = keys(&mut reader, &hasty).expect_err("nothing listens");
    assert!(matches!(error, BrokerError::Unreachable { bound, .. } if bound == Duration::from_secs(2)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    cluster.restart(1);
    assert_eq!(shown(&mut reader, &kafka, 2), more);
    // It was away between two readings, and nobody asked.
    cluster.kill(1);
    cluster.restart(1);
    let last = write(&announcer, 5..6);
    assert_eq!(shown(&mut reader, &kafka, 1), last);
    assert_eq!(keys(&mut reader, &kafka).expect("it is there"), [""; 0]);
}

#[test]
fn a_record_is_read_past_with_what_others_have_written_before_it_was_shown() {
    let name = "a_record_is_read_past_with_what_others_have_written_before_it_was_shown";
    let Some(broker) = broker::real(name) else { return };
    let kafka = broker.kafka_with_topics("read-past", 1);
    let announcer = Announcer::fence(&kafka, "ctr").expect("the broker is there");
    let mut reading = Reading::default();
    for number in 1..=20 {
        // A number that is removed is used up, so that it shows what was read.
        let [other, own] = [2 * number - 1, 2 * number].map(|number| Record::tombstone(&format!("ctr/v/{number}")));
        topic::write(&kafka, &[other]).expect("the broker takes it");
        announcer.write(std::slice::from_ref(&own)).expect("the broker takes it");
        reading.go_on_past(&kafka, "ctr", Voice::Quiet, &own).expect("it is there");
        assert_eq!(reading.known.newest, Some(2 * number), "what was written is shown");
    }
}
