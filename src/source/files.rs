//! A directory of event files as a log: `impressions.jsonl` is partition 0 of impressions, `clicks.jsonl` partition 0 of
//! clicks (none if it is missing), each also as `.jsonl.zst`. A record's offset is its line's number from 0, in the order
//! in which lines are read; empty lines are passed over. Each file is read and decoded on a thread of its own, which is told for
//! how much there is room.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ingest::{Ingest, Message};
use super::rooms::Rooms;
use super::{Confirmation, Source, SourceError, SourceEvent, sorting, thread_name};
use crate::lines::{Line, Lines};
use crate::progress::Progress;
use crate::thread::{Hand, HandEnded};
use deepfm_core::event::{Decoder, EventKind, RawRecord};
use deepfm_core::feature::Features;
use deepfm_core::stream::{Arrival, Partition, Positions};

/// Room in a queue that is filled at a time: see [`Arrival::weight`](deepfm_core::stream::Arrival::weight).
const HANDFUL: usize = 512;

/// Room that the records of a file may take while they wait for the core.
const WAITING_MAX: usize = 8 * HANDFUL;

/// Handfuls that are being read at a time.
const READ_AHEAD: usize = 4;

/// A file as its reading thread has it.
struct EventFile {
    partition: Partition,
    lines: Lines,
    ingest: Ingest,
    progress: Progress,
    next_offset: i64,
    /// The latest event time so far.
    latest: i64,
}

/// A file as the core has it.
struct Reading {
    partition: Partition,
    /// Each job is a handful.
    hand: Hand<(), Result<SourceEvent, SourceError>>,
    waiting: usize,
    /// The end was reached, and said.
    ended: bool,
}

/// In which order the lines of a file are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineOrder {
    /// As they stand.
    #[default]
    AsTheyStand,
    /// Sorted by event time first.
    ByTime,
}

/// The reader of a directory.
pub struct FileSource {
    files: VecDeque<Reading>,
    rooms: Rooms,
}

/// Opens one event file of a directory, plain or compressed; `None` when there is neither. Lines of up to `bytes_max` bytes
/// are held.
///
/// # Errors
/// When the file exists but cannot be opened.
pub fn open(
    directory: &Path,
    kind: EventKind,
    bytes_max: usize,
    progress: &Progress,
) -> Result<Option<Lines>, SourceError> {
    let paths = ["jsonl", "jsonl.zst"].map(|extension| directory.join(format!("{kind}s.{extension}")));
    let Some(path) = paths.into_iter().find(|path| path.exists()) else {
        return Ok(None);
    };
    Lines::open(&path, bytes_max, progress).map(Some).map_err(failed(&path))
}

/// Says so when a directory has no file of clicks: then no impression is clicked, and nothing can be learned.
pub fn warn_without_clicks(directory: &Path) {
    let path = directory.join("clicks.jsonl");
    if !path.exists() && !directory.join("clicks.jsonl.zst").exists() {
        tracing::warn!(
            "there is neither {0} nor {0}.zst: no impression of {1} is clicked",
            path.display(),
            directory.display()
        );
    }
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> SourceError + use<> {
    let path: PathBuf = path.to_owned();
    move |source| SourceError::File { path, source }
}

/// The next line of a file.
///
/// # Errors
/// When the file cannot be read on.
pub fn next_line(lines: &mut Lines) -> Result<Option<Line<'_>>, SourceError> {
    let failed = failed(lines.path());
    lines.read().map_err(failed)
}

impl FileSource {
    /// Opens the files of some kinds in a directory. Gives the source, and the positions from which its partitions are read, to their end.
    ///
    /// # Errors
    /// When there are no impressions, or a file cannot be opened or sorted.
    pub fn open(
        directory: &Path,
        kinds: &[EventKind],
        ingest: Ingest,
        order: LineOrder,
        progress: &Progress,
    ) -> Result<(Self, Positions), SourceError> {
        let mut files = VecDeque::new();
        let mut decoder = ingest.decoder().clone();
        let rooms = ingest.rooms().clone();
        let clicks = (EventKind::Click, ingest.unobserved());
        let wanted = |(kind, _): &(EventKind, Ingest)| kinds.contains(kind);
        for (kind, ingest) in [(EventKind::Impression, ingest), clicks].into_iter().filter(wanted) {
            let mut file = open(directory, kind, ingest.record_bytes_max(), progress)?;
            if order == LineOrder::ByTime {
                file = file.map(|file| sorted(kind, file, &mut decoder, progress)).transpose()?;
            }
            match file {
                Some(lines) => {
                    let (partition, progress) = (Partition { kind, number: 0 }, progress.clone());
                    let file = EventFile { partition, lines, ingest, progress, next_offset: 0, latest: i64::MIN };
                    files.push_back(file.read_aside());
                }
                None if kind == EventKind::Impression => return Err(SourceError::NoEvents(directory.to_owned())),
                None => {}
            }
        }
        let positions = files.iter().map(|file| (file.partition, 0)).collect();
        Ok((Self { files, rooms }, positions))
    }
}

/// The lines of a file by their event times. What does not fit in memory goes to the system's temporary directory.
fn sorted(kind: EventKind, lines: Lines, decoder: &mut Decoder, progress: &Progress) -> Result<Lines, SourceError> {
    let time = |line: &[u8]| {
        let record = RawRecord { payload: Some(line), ..RawRecord::default() };
        decoder.decode(kind, &record).ok().map(|decoded| decoded.event.event_time())
    };
    let directory = std::env::temp_dir();
    let (path, bytes_max) = (lines.path().to_owned(), lines.bytes_max());
    match sorting::sorted(lines, time, &directory, progress) {
        Ok(sorted) => Ok(Lines::over(path, Box::new(sorted), bytes_max)),
        Err(error) => {
            let text = format!("sorting by way of {}: {error}", directory.display());
            Err(SourceError::File { path, source: std::io::Error::new(error.kind(), text) })
        }
    }
}

impl EventFile {
    /// Reads it on a thread of its own.
    fn read_aside(mut self) -> Reading {
        let partition = self.partition;
        let work = move |(), tell: &mut dyn FnMut(Result<SourceEvent, SourceError>)| {
            tell(self.read());
            ControlFlow::Continue(())
        };
        let hand = Hand::start(thread_name(partition.kind), READ_AHEAD, work, |panicked| Err(panicked.into()));
        Reading { partition, hand, waiting: 0, ended: false }
    }

    /// Reads and decodes a handful.
    fn read(&mut self) -> Result<SourceEvent, SourceError> {
        let (mut arrivals, mut weight) = (Vec::with_capacity(HANDFUL), 0);
        if self.partition.kind == EventKind::Impression {
            self.ingest.fetch_rooms();
        }
        while weight < HANDFUL {
            let Some(line) = next_line(&mut self.lines)? else { break };
            let offset = self.next_offset;
            self.next_offset += 1;
            let arrival = match line {
                Line::Whole(line) if line.trim_ascii().is_empty() => continue,
                Line::Whole(line) => {
                    let record = RawRecord { payload: Some(line.trim_ascii()), ..RawRecord::default() };
                    self.ingest.arrival(self.partition.kind, &Message { offset, key: None, record })
                }
                Line::Long(long) => self.ingest.oversized(offset, &long),
            };
            if let Some(time) = arrival.event_time() {
                if time < self.latest {
                    self.progress.goes_back(self.partition.kind, self.latest.abs_diff(time));
                }
                self.latest = self.latest.max(time);
            }
            weight += arrival.weight();
            arrivals.push(arrival);
        }
        let partition = self.partition;
        // A file does not grow: its end is the end for good.
        let end = SourceEvent::EndOfPartition { partition, next_offset: i64::MAX };
        Ok(if arrivals.is_empty() { end } else { SourceEvent::Records { partition, arrivals } })
    }
}

impl Reading {
    /// Lets so much be read as there is room for.
    fn ask(&mut self) {
        let has_room = |this: &Self| this.waiting + this.hand.in_flight() * HANDFUL < WAITING_MAX;
        while !self.ended && self.hand.has_room() && has_room(self) {
            self.hand.give(());
        }
    }

    /// What was read next, if it comes within `wait` and was not asked for beyond the end.
    fn take(&mut self, wait: Duration) -> Result<Option<SourceEvent>, SourceError> {
        if self.ended || self.hand.in_flight() == 0 {
            return Ok(None);
        }
        let outcome = self.hand.take_within(wait).map_err(|HandEnded(_)| SourceError::Ended)?;
        let Some(event) = outcome.transpose()? else { return Ok(None) };
        match &event {
            SourceEvent::Records { arrivals, .. } => {
                self.waiting += arrivals.iter().map(Arrival::weight).sum::<usize>();
            }
            _ => self.ended = true,
        }
        // While the core has this, the next is read.
        self.ask();
        Ok(Some(event))
    }
}

impl Source for FileSource {
    fn next(&mut self, wait: Duration) -> Result<Option<SourceEvent>, SourceError> {
        self.files.iter_mut().for_each(Reading::ask);
        // In turn, so that no file runs ahead of the other by more than it must; whichever has something comes first. Where none has,
        // each is waited for.
        for wait in [Duration::ZERO, wait / self.files.len().max(1) as u32] {
            for _ in 0..self.files.len() {
                self.files.rotate_left(1);
                let Some(file) = self.files.front_mut() else { break };
                if let Some(event) = file.take(wait)? {
                    return Ok(Some(event));
                }
            }
        }
        Ok(None)
    }

    fn consumed(&mut self, partition: Partition, weight: usize) {
        if let Some(file) = self.files.iter_mut().find(|file| file.partition == partition) {
            file.waiting -= weight;
        }
    }

    fn take_back(&mut self, features: &mut Vec<Features>) {
        self.rooms.take_back(features);
    }

    fn confirm_end(&mut self, _: Partition, _: i64) -> Result<Confirmation, SourceError> {
        Ok(Confirmation::Confirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deepfm_core::event::Decoder;
    use deepfm_core::event::options::EventOptions;
    use deepfm_core::feature::field::{Field, FieldKind, FieldSet};
    use deepfm_core::stream::record_hash;

    fn source(lines: &str) -> FileSource {
        let directory = tempfile::tempdir().expect("a directory of our own");
        std::fs::write(directory.path().join("impressions.jsonl"), lines).expect("the disk takes it");
        let fields = FieldSet::new(vec![Field {
            name: "tags".to_owned(),
            kind: FieldKind::Multi { weights: deepfm_core::feature::field::Weights::default() },
        }]);
        let options = EventOptions { record_bytes_max: 100_000, ..EventOptions::default() };
        let decoder = Decoder::new(fields.expect("they are valid"), options).expect("it is valid");
        let ingest = Ingest::new(decoder, 65_536, |_, _| ());
        FileSource::open(
            directory.path(),
            &[EventKind::Impression, EventKind::Click],
            ingest,
            LineOrder::AsTheyStand,
            &Progress::default(),
        )
        .expect("it is there")
        .0
    }

    /// What the source gives until it wants room, with the room that it takes.
    fn read(source: &mut FileSource) -> (Vec<Arrival>, usize) {
        let mut arrivals = Vec::new();
        while let Some(SourceEvent::Records { arrivals: more, .. }) =
            source.next(Duration::from_mins(1)).expect("it reads")
        {
            arrivals.extend(more);
        }
        let weight = arrivals.iter().map(Arrival::weight).sum();
        (arrivals, weight)
    }

    #[test]
    fn records_of_a_file_wait_by_their_bytes_and_leave_as_much_room_when_they_go() {
        // Refused ones hold 64 KiB each, and wide ones as much.
        let broken = format!("{{{}\n", "x".repeat(70_000));
        let tags = vec!["\"t\""; 4000].join(",");
        let wide =
            format!("{{\"impression_id\":\"i\",\"event_time\":1700000000000,\"features\":{{\"tags\":[{tags}]}}}}\n");
        for line in [broken, wide] {
            let mut source = source(&line.repeat(400));
            let partition = Partition { kind: EventKind::Impression, number: 0 };
            let mut total = 0;
            while total < 400 {
                let (arrivals, weight) = read(&mut source);
                assert!((60..=80).contains(&arrivals.len()) || total + arrivals.len() == 400, "{}", arrivals.len());
                assert!(weight <= WAITING_MAX + HANDFUL + 100, "{weight}");
                total += arrivals.len();
                // One by one, as the core does it.
                for arrival in &arrivals {
                    source.consumed(partition, arrival.weight());
                }
            }
            assert_eq!(total, 400);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_as_its_record_would_be() {
        let long = "y".repeat(300_000);
        let (arrivals, _) = read(&mut source(&format!("{long}\n\n{{}}\n")));
        assert_eq!((arrivals[0].offset, arrivals[1].offset), (0, 2), "blank lines have numbers, and are no records");
        assert_eq!(arrivals[0].hash, record_hash(0, Some(long.as_bytes())));
        let refused = arrivals[0].body.as_ref().expect_err("it is too long");
        assert_eq!(refused.refusal.to_string(), "oversized: 300000 bytes, at most 100000 are read");
        assert_eq!((refused.payload_bytes, refused.payload.as_ref().map(Vec::len)), (300_000, Some(65_536)));
        assert!(refused.payload_sha256.is_some());
    }
}
