//! A consumer may not go on by itself after its broker was away: a partition then has records that do not come. Whoever
//! waits for it would wait for ever, so a consumer that is caught at it is replaced by a new one at our positions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::{Assigned, KNOCK};
use crate::kafka::client;
use crate::kafka::contact::Contact;
use crate::source::SourceError;
use crate::thread::aside;
use deepfm_core::stream::Partition;

/// How long a partition may be quiet before it is asked whether it has records.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// The longest that is waited for a consumer that replaced another: each gets twice the time of the one before it, since on
/// a slow line a fetch just takes long, and a new consumer begins it anew.
const PATIENCE_MAX: Duration = Duration::from_mins(10);

/// The silence of a partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet {
    since: Instant,
    patience: Duration,
    /// The partition's end when its consumer was replaced: the new one has to bring records, or say that there are none.
    suspected: Option<i64>,
    /// Nothing that can be read lies before this offset: transaction markers do, for instance.
    empty_before: i64,
}

impl Quiet {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, patience: QUIET_MAX, suspected: None, empty_before: 0 }
    }

    /// Records came, or may come from now on.
    pub(super) fn broken(&mut self, now: Instant) {
        *self = Self { since: now, patience: QUIET_MAX, suspected: None, ..*self };
    }

    /// The brokers were away: the silence counts from now on.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.since = now;
    }

    /// The consumer says that there are no more records now.
    pub(super) fn at_end(&mut self, now: Instant) {
        self.empty_before = self.suspected.take().unwrap_or(self.empty_before);
        (self.since, self.patience) = (now, QUIET_MAX);
    }

    fn is_long(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= self.patience
    }

    /// The broker says where the partition ends: whether there are records that do not come.
    fn is_stall(&mut self, next_offset: i64, high: i64, now: Instant) -> bool {
        self.since = now;
        let is_stall = high > next_offset.max(self.empty_before);
        if is_stall {
            self.suspected = Some(high);
            self.patience = (2 * self.patience).min(PATIENCE_MAX);
        }
        is_stall
    }
}

impl Assigned {
    /// Asks partitions that have been quiet for long whether they have records, and replaces the consumer if one does.
    pub(super) fn check_stalls(&mut self, now: Instant) -> Result<(), SourceError> {
        let Self { reader, lanes, .. } = self;
        let mut stalled = None;
        for (number, lane) in lanes.iter_mut().filter(|(_, lane)| !lane.is_paused && lane.quiet.is_long(now)) {
            let Ok((_, high)) = reader.consumer.fetch_watermarks(reader.topic(), *number, KNOCK) else {
                // The brokers are lost: that is for others to judge. The next look is a while off.
                lane.quiet.since = now;
                break;
            };
            if lane.quiet.is_stall(lane.next_offset, high, now) {
                stalled = Some((Partition { kind: reader.kind, number: *number }, lane.next_offset, high));
            }
        }
        let Some((partition, next_offset, high)) = stalled else {
            return Ok(());
        };
        tracing::warn!(
            "{partition} has records from {next_offset} to {high}, but none came for a while: \
             going on with a new consumer"
        );
        metrics::counter!("deepfm_consumers_replaced_total").increment(1);
        self.replace_consumer()?;
        self.tell_ends()
    }

    /// A new consumer at the positions of the old one.
    fn replace_consumer(&mut self) -> Result<(), SourceError> {
        let Self { reader, lanes, .. } = self;
        let consumer: BaseConsumer<Contact> = client::consumer(&reader.kafka).create_with_context(Contact::default())?;
        let (mut assignment, mut paused) = (TopicPartitionList::new(), TopicPartitionList::new());
        for (number, lane) in lanes.iter() {
            assignment.add_partition_offset(reader.topic(), *number, Offset::Offset(lane.next_offset))?;
            if lane.is_paused {
                paused.add_partition(reader.topic(), *number);
            }
        }
        consumer.assign(&assignment)?;
        if paused.count() > 0 {
            consumer.pause(&paused)?;
        }
        let old = std::mem::replace(&mut reader.consumer, Arc::new(consumer));
        // It may hang in its farewell to a broker; nobody needs to wait for that.
        aside("farewell", move || drop(old));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::{Receiver, channel};

    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

    use super::super::{Reader, TELL};
    use super::*;
    use crate::config::Config;
    use crate::config::kafka::Kafka;
    use crate::source::{Ingest, SourceEvent};
    use deepfm_core::event::options::EventOptions;
    use deepfm_core::event::{Decoder, EventKind};
    use deepfm_core::feature::field::{Field, FieldKind, FieldSet};

    #[test]
    fn only_records_that_do_not_come_are_a_stall() {
        let start = Instant::now();
        let late = start + QUIET_MAX;
        let mut quiet = Quiet::new(start);
        assert!(!quiet.is_long(late.checked_sub(Duration::from_millis(1)).expect("later than the start")));
        assert!(quiet.is_long(late));
        assert!(!quiet.is_stall(7, 7, late), "it is at its end");
        assert!(!quiet.is_long(late), "it was just asked");
        assert!(quiet.is_stall(7, 9, late));
        assert!(!quiet.is_long(late + QUIET_MAX), "the next consumer gets more time");
        assert!(quiet.is_long(late + 2 * QUIET_MAX));
        // The new consumer finds the end where the old one did: markers, nothing that can be read.
        quiet.at_end(late);
        assert!(!quiet.is_stall(7, 9, late));
        assert!(quiet.is_stall(7, 10, late), "there is something new");
        quiet.broken(late);
        quiet.at_end(late);
        assert!(quiet.is_stall(8, 10, late), "records that came prove nothing about those behind them");
    }

    fn send(kafka: &Kafka, numbers: std::ops::Range<usize>) {
        let producer: ThreadedProducer<DefaultProducerContext> = client::producer(kafka).create().expect("valid");
        for number in numbers {
            let payload = format!(r#"{{"impression_id":"i{number}","event_time":1700000000000,"features":{{}}}}"#);
            let record: BaseRecord<'_, [u8], _> =
                BaseRecord::to(&kafka.impressions_topic).partition(0).payload(&payload);
            producer.send(record).map_err(|(error, _)| error).expect("there is room");
        }
        producer.flush(Duration::from_secs(30)).expect("the broker takes them");
    }

    type Said = Receiver<Result<SourceEvent, SourceError>>;

    /// Offsets that a reader hands over, until there are `count`.
    fn read(assigned: &mut Assigned, said: &Said, offsets: &mut Vec<i64>, count: usize) {
        let start = Instant::now();
        while offsets.len() < count {
            assert!(start.elapsed() < Duration::from_mins(1), "{} of {count} came", offsets.len());
            assigned.turn().expect("the broker is there");
            for event in said.try_iter() {
                if let SourceEvent::Records { arrivals, .. } = event.expect("it is there") {
                    offsets.extend(arrivals.iter().map(|arrival| arrival.offset));
                }
            }
        }
    }

    #[test]
    fn a_replaced_consumer_goes_on_without_losing_or_repeating_a_record() {
        let cluster = MockCluster::new(1).expect("the embedded broker starts");
        let brokers = cluster.bootstrap_servers();
        let kafka = Kafka { brokers, queue_records_max: 100_000, ..Config::default().kafka };
        cluster.create_topic(&kafka.impressions_topic, 1, 1).expect("it makes topics");
        let fields = FieldSet::new(vec![Field { name: "user".to_owned(), kind: FieldKind::Categorical }]);
        let decoder = Decoder::new(fields.expect("they are valid"), EventOptions::default()).expect("it is valid");
        let consumer = client::consumer(&kafka).create_with_context(Contact::default()).expect("valid settings");
        let (sender, said) = channel();
        let reader = Reader {
            consumer: Arc::new(consumer),
            kind: EventKind::Impression,
            kafka: kafka.clone(),
            ingest: Ingest::new(decoder, 0, |_, _| ()),
            sender,
            waiting: Arc::new(Mutex::default()),
            stop: Arc::new(AtomicBool::new(false)),
            ids: std::collections::BTreeMap::new(),
            ends: crate::source::topics::Ends::default(),
            link: crate::source::link::Link::default(),
        };
        let starts = [(Partition { kind: EventKind::Impression, number: 0 }, 0)].into_iter().collect();
        let mut assigned = reader.assign(&starts, &starts).expect("the partition is there");
        let mut offsets = Vec::new();
        send(&kafka, 0..1000);
        read(&mut assigned, &said, &mut offsets, 700);
        assigned.told -= TELL;
        assigned.note_ends();
        let ends = assigned.reader.ends.lock().expect("nothing panics").clone();
        assert_eq!(ends.into_values().collect::<Vec<_>>(), [1000], "lag is told by what the fetches brought");
        let later = || Instant::now() + QUIET_MAX;
        let before = Arc::as_ptr(&assigned.reader.consumer);
        // What the client holds and has not handed over is a stall for whoever looks only at positions.
        if offsets.len() < 1000 {
            assigned.check_stalls(later()).expect("the broker answers");
            assert_ne!(Arc::as_ptr(&assigned.reader.consumer), before);
        }
        read(&mut assigned, &said, &mut offsets, 1000);
        assigned.replace_consumer().expect("the broker is there");
        send(&kafka, 1000..1500);
        read(&mut assigned, &said, &mut offsets, 1500);
        assert_eq!(offsets, (0..1500).collect::<Vec<i64>>());
    }
}
