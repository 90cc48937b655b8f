//! A directory of event files as a log: `impressions.jsonl` is partition 0 of impressions, `clicks.jsonl` partition 0 of
//! clicks (none if it is missing), each also as `.jsonl.zst`. A record's offset is its line's number from 0, in the order
//! in which lines are read; empty lines are passed over.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ingest::{Ingest, Message};
use super::{Confirmation, Source, SourceError, SourceEvent, sorting};
use crate::event::{Decoder, EventKind, RawRecord};
use crate::progress::{Counted, Progress};
use crate::stream::{Partition, Positions};

/// Lines read at a time.
const LINES: usize = 512;

/// Records of a file that may wait for the core.
const WAITING_MAX: usize = 8 * LINES;

struct EventFile {
    partition: Partition,
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    next_offset: i64,
    waiting: usize,
    /// The latest event time so far.
    latest: i64,
    /// The end was reached, and said.
    ended: bool,
    line: Vec<u8>,
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
    files: VecDeque<EventFile>,
    ingest: Ingest,
    progress: Progress,
}

/// The path of an event file, and its lines decompressed.
pub type OpenFile = (PathBuf, Box<dyn BufRead + Send>);

/// Opens one event file of a directory, plain or compressed; `None` when there is neither.
///
/// # Errors
/// When the file exists but cannot be opened.
pub fn open(directory: &Path, kind: EventKind, progress: &Progress) -> Result<Option<OpenFile>, SourceError> {
    let plain = directory.join(format!("{kind}s.jsonl"));
    let compressed = directory.join(format!("{kind}s.jsonl.zst"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SourceError::File { path, source }
    };
    let counted = |path: &Path| {
        let file = File::open(path)?;
        progress.expect(file.metadata()?.len());
        Ok(Counted::new(file, progress.clone()))
    };
    if plain.exists() {
        let file = counted(&plain).map_err(failed(&plain))?;
        return Ok(Some((plain, Box::new(BufReader::with_capacity(1 << 18, file)))));
    }
    if compressed.exists() {
        let file = counted(&compressed).map_err(failed(&compressed))?;
        let reader = zstd::Decoder::new(file).map_err(failed(&compressed))?;
        return Ok(Some((compressed, Box::new(BufReader::with_capacity(1 << 18, reader)))));
    }
    Ok(None)
}

impl FileSource {
    /// Opens a directory. Gives the source, and the positions from which its partitions are read, to their end.
    ///
    /// # Errors
    /// When there are no impressions, or a file cannot be opened or sorted.
    pub fn open(
        directory: &Path,
        ingest: Ingest,
        order: LineOrder,
        progress: &Progress,
    ) -> Result<(Self, Positions), SourceError> {
        let mut files = VecDeque::new();
        let mut decoder = ingest.decoder().clone();
        for kind in [EventKind::Impression, EventKind::Click] {
            let mut file = open(directory, kind, progress)?;
            if order == LineOrder::ByTime {
                file = file.map(|file| sorted(kind, file, &mut decoder, progress)).transpose()?;
            }
            match file {
                Some((path, reader)) => files.push_back(EventFile {
                    partition: Partition { kind, number: 0 },
                    path,
                    reader,
                    next_offset: 0,
                    waiting: 0,
                    latest: i64::MIN,
                    ended: false,
                    line: Vec::new(),
                }),
                None if kind == EventKind::Impression => return Err(SourceError::NoEvents(directory.to_owned())),
                None => {}
            }
        }
        let positions = files.iter().map(|file| (file.partition, 0)).collect();
        Ok((Self { files, ingest, progress: progress.clone() }, positions))
    }
}

/// The lines of a file by their event times. What does not fit in memory goes to the system's temporary directory.
fn sorted(
    kind: EventKind,
    (path, reader): OpenFile,
    decoder: &mut Decoder,
    progress: &Progress,
) -> Result<OpenFile, SourceError> {
    let time = |line: &[u8]| {
        let record = RawRecord { payload: Some(line), ..RawRecord::default() };
        decoder.decode(kind, &record).ok().map(|decoded| decoded.event.event_time())
    };
    let directory = std::env::temp_dir();
    match sorting::sorted(reader, time, &directory, progress) {
        Ok(sorted) => Ok((path, Box::new(sorted))),
        Err(error) => {
            let text = format!("sorting by way of {}: {error}", directory.display());
            Err(SourceError::File { path, source: std::io::Error::new(error.kind(), text) })
        }
    }
}

impl EventFile {
    fn read(&mut self, ingest: &mut Ingest, progress: &Progress) -> Result<SourceEvent, SourceError> {
        let mut arrivals = Vec::with_capacity(LINES);
        while arrivals.len() < LINES {
            self.line.clear();
            let read = self.reader.read_until(b'\n', &mut self.line);
            let read = read.map_err(|source| SourceError::File { path: self.path.clone(), source })?;
            if read == 0 {
                break;
            }
            let offset = self.next_offset;
            self.next_offset += 1;
            let line = self.line.trim_ascii();
            if !line.is_empty() {
                let record = RawRecord { payload: Some(line), ..RawRecord::default() };
                let arrival = ingest.arrival(self.partition.kind, &Message { offset, key: None, record });
                if let Some(time) = arrival.event_time() {
                    if time < self.latest {
                        progress.goes_back(self.partition.kind, self.latest.abs_diff(time));
                    }
                    self.latest = self.latest.max(time);
                }
                arrivals.push(arrival);
            }
        }
        self.waiting += arrivals.len();
        let partition = self.partition;
        // A file does not grow: its end is the end for good.
        let end = SourceEvent::EndOfPartition { partition, next_offset: i64::MAX };
        Ok(if arrivals.is_empty() { end } else { SourceEvent::Records { partition, arrivals } })
    }
}

impl Source for FileSource {
    fn next(&mut self, _: Duration) -> Result<Option<SourceEvent>, SourceError> {
        // In turn, so that no file runs ahead of the other by more than it must.
        for _ in 0..self.files.len() {
            self.files.rotate_left(1);
            let Some(file) = self.files.front_mut() else { break };
            if file.waiting < WAITING_MAX && !file.ended {
                let event = file.read(&mut self.ingest, &self.progress)?;
                file.ended = matches!(event, SourceEvent::EndOfPartition { .. });
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn consumed(&mut self, partition: Partition, records: usize) {
        if let Some(file) = self.files.iter_mut().find(|file| file.partition == partition) {
            file.waiting -= records;
        }
    }

    fn confirm_end(&mut self, _: Partition, _: i64) -> Result<Confirmation, SourceError> {
        Ok(Confirmation::Confirmed)
    }
}
