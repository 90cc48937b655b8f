//! The same trainer over a bounded log, and a report of how well each impression was predicted when it was shown. The report
//! covers what has matured: an impression whose window the log does not cover is counted, and neither scored nor learned.

mod journal;
mod report;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use journal::{VersionCheck, replay_journal};
pub use report::{BacktestReport, Quality, Scores};

use crate::artefacts::ArtefactIoError;
use crate::config::Config;
use crate::drive::attendance::{Attendance, Horizon};
use crate::drive::losses::Seen;
use crate::drive::{Drive, DriveError, Pilot, Witness};
use crate::lines::Line;
use crate::progress::Progress;
use crate::source::files::LineOrder;
use crate::source::ingest::Message;
use crate::source::topics::KafkaLog;
use crate::source::watched::Watched;
use crate::source::{Ingest, Source, SourceError, SourceEvent, files};
use crate::thread::crew::Crew;
use deepfm_core::event::{Decoded, Decoder, Event, EventKind, MappingError, RawRecord, Reason};
use deepfm_core::feature::field::FieldError;
use deepfm_core::stream::{Arrival, Control, Partition, Positions, StreamError};
use deepfm_core::train::{Observer, ParamsError, Scored, Step, TrainParams, Trainer};
use deepfm_core::version::journal::JournalError;

/// The kinds of events, impressions first.
const KINDS: [EventKind; 2] = [EventKind::Impression, EventKind::Click];

/// How long files are waited for at a time.
const WAIT: Duration = Duration::from_millis(20);

/// When a backtest knows an impression's label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LabelTiming {
    /// When the join would deliver it.
    #[default]
    Windowed,
    /// At once: 1 for any click in the input, whatever its delay. For comparing learners without the label delay.
    Immediate,
}

/// A backtest cannot be run to its end.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum BacktestError {
    /// The fields are not a model's.
    #[error(transparent)]
    Fields(#[from] FieldError),
    /// The mapping cannot be used.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// Reading failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The log does not fit the state.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// A decision does not fit the log.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// An artefact cannot be read.
    #[error(transparent)]
    Artefact(#[from] ArtefactIoError),
    /// A journal cannot be read.
    #[error(transparent)]
    Segment(#[from] JournalError),
    /// A chain of versions does not say what it was learned with.
    #[error("the journal of version {version}, which has no parent, does not begin with its parameters")]
    Unconfigured { version: u64 },
    /// A journal has decisions that do not fit the log.
    #[error("the journal of version {version} is not one of this log")]
    Journal { version: u64, source: StreamError },
    /// A journal has parameters that no state can be made of.
    #[error("the journal of version {version}")]
    Params { version: u64, source: ParamsError },
    /// The journals of the versions before it are gone.
    #[error(
        "version {version} follows version {parent}, whose journal is not here: journals from before the oldest training \
         export are removed with their versions (versions.keep), and a replay begins where the log does"
    )]
    JournalsRemoved { version: u64, parent: u64 },
    /// There is nothing to be replayed, and nothing was checked.
    #[error("there is no version of model {model} in {directory}")]
    NoVersions { model: String, directory: PathBuf },
    /// The versions do not follow each other.
    #[error("version {version} follows {parent:?}, but the version before it here is {before:?}")]
    Chain {
        version: u64,
        parent: Option<u64>,
        /// The version that was replayed before it.
        before: Option<u64>,
    },
}

/// Collects the scores, and the first places of what was lost; how much that is the trainer counts.
#[derive(Debug, Default)]
struct Collector {
    scores: Scores,
    seen: Seen,
}

impl Witness for Collector {
    fn consumed(&mut self, step: Step) {
        self.seen.note_step(&step);
    }
}

impl Observer for Collector {
    fn scored(&mut self, scored: Scored) {
        self.scores.add(scored);
    }
}

/// What the clicks of a directory say when labels are immediate.
#[derive(Debug, Default)]
struct Clicked {
    /// The ids of clicked impressions.
    ids: HashSet<Box<str>>,
    /// The lines that were read, and those that were refused.
    seen: Seen,
    /// How many were refused, by reason.
    refused: BTreeMap<Reason, u64>,
}

/// The decoder that a configuration asks for.
///
/// # Errors
/// When fields or mapping cannot be used.
pub fn decoder(config: &Config) -> Result<Decoder, BacktestError> {
    Ok(Decoder::new(config.field_set()?, config.event_options())?)
}

/// A directory of event files, and how it is read.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The directory.
    pub directory: &'a Path,
    /// When a label is known.
    pub labels: LabelTiming,
    /// In which order the lines are read.
    pub order: LineOrder,
}

/// Replays a directory of event files. `progress` counts bytes.
///
/// # Errors
/// When the configuration cannot be used or the files cannot be read. Bad records are counted, not fatal.
pub fn replay_files(config: &Config, from: Files<'_>, progress: &Progress) -> Result<BacktestReport, BacktestError> {
    let start = Instant::now();
    let decoder = decoder(config)?;
    let clicked = match from.labels {
        LabelTiming::Windowed => None,
        LabelTiming::Immediate => Some(clicked_impressions(from.directory, decoder.clone(), progress)?),
    };
    let ingest = Ingest::new(decoder, 0, |_, _| ());
    // Where labels are known the clicks were read for it.
    let kinds = if clicked.is_some() { &KINDS[..1] } else { &KINDS };
    let (source, starts) = files::FileSource::open(from.directory, kinds, ingest, from.order, progress)?;
    files::warn_without_clicks(from.directory);
    let ends = starts.keys().map(|partition| (*partition, i64::MAX)).collect();
    match clicked {
        None => replay(config, source, &starts, &ends, start),
        Some(clicked) => learn_labelled(config, source, &starts, clicked, start),
    }
}

/// Replays the configured topics, from the start position to the end offsets captured now. `progress` counts records.
///
/// # Errors
/// When the configuration cannot be used or the topics cannot be read.
pub fn replay_topics(config: &Config, progress: &Progress) -> Result<BacktestReport, BacktestError> {
    let since = Instant::now();
    let ingest = Ingest::new(decoder(config)?, 0, |_, _| ());
    let log = KafkaLog::connect(&config.kafka)?;
    let (starts, ends) = (log.starts(&config.kafka.start)?, log.ends());
    let records = |(partition, end): (&Partition, &i64)| {
        let start = starts.get(partition).copied().unwrap_or_default();
        u64::try_from(end.saturating_sub(start)).unwrap_or_default()
    };
    progress.expect(ends.iter().map(records).sum());
    let open = log.open_transactions()?;
    let source = Watched::new(log.read(&starts, ingest)?, progress.clone());
    let report = replay(config, source, &starts, &ends, since)?;
    let open = open.into_iter().map(|(partition, behind)| (partition.to_string(), behind)).collect();
    Ok(BacktestReport { open_transactions: open, ..report })
}

/// Replays any source from `starts` to `ends`.
///
/// # Errors
/// When reading fails.
fn replay(
    config: &Config,
    source: impl Source,
    starts: &Positions,
    ends: &Positions,
    since: Instant,
) -> Result<BacktestReport, BacktestError> {
    let (trainer, crew) = (started(config.train_params(), starts)?, Crew::new(config.training.threads));
    let pilot = Pilot::Attendance(Attendance::new(Horizon::Captured, ends));
    let mut drive = Drive::new(trainer, crew, source, pilot)?;
    let mut collector = Collector::default();
    while !drive.turn(u64::MAX, &mut collector)?.is_done {}
    let trainer = &mut drive.trainer;
    let digest = trainer.state_digest();
    let (records, rows, counters) = (trainer.released(), trainer.model().row_count(), trainer.counters());
    let (join, ledger) = (Some(*trainer.join_counters()), Some(trainer.ledger().clone()));
    let unmatured = trainer.shown_scores().len();
    let seconds = since.elapsed().as_secs_f64();
    let taught_at = trainer.taught_at().unwrap_or(u64::MAX);
    let ending = report::Ending { digest, records, rows, unmatured, taught_at, seconds, counters, ledger, join };
    Ok(BacktestReport::new(&collector.scores, &collector.seen, ending))
}

/// Learns the impressions of a source in merged order, each at once with its final label.
fn learn_labelled(
    config: &Config,
    mut source: impl Source,
    starts: &Positions,
    clicked: Clicked,
    since: Instant,
) -> Result<BacktestReport, BacktestError> {
    let crew = Crew::new(config.training.threads);
    let mut trainer = started(config.train_params(), starts)?.with_executor(crew);
    let mut scores = Scores::default();
    let Clicked { ids, mut seen, refused } = clicked;
    let mut open = starts.len();
    while open > 0 {
        match source.next(WAIT)? {
            Some(SourceEvent::Records { partition, arrivals }) => {
                source.consumed(partition, arrivals.iter().map(Arrival::weight).sum());
                for arrival in arrivals {
                    seen.note(partition, arrival.offset, arrival.body.as_ref().err().map(|refused| &**refused));
                    trainer.push(partition, arrival)?;
                }
            }
            Some(SourceEvent::EndOfPartition { .. }) => open -= 1,
            Some(SourceEvent::PartitionAdded { .. } | SourceEvent::Reconnected { .. }) | None => {}
        }
        while let Some(unlearned) = trainer.step_labelled(&|id| ids.contains(id), &mut |scored| scores.add(scored)) {
            seen.note_unlearned(&unlearned);
        }
        source.take_back(trainer.rooms());
    }
    let unlearned = trainer.learn_rest(&mut |scored| scores.add(scored));
    seen.note_unlearned(&unlearned);
    let digest = trainer.state_digest();
    let (records, rows) = (trainer.released(), trainer.model().row_count());
    let mut counters = trainer.counters();
    // The trainer never saw the clicks.
    for (reason, count) in refused {
        *counters.intake.refused.entry(reason).or_default() += count;
    }
    let clicks = seen.of(EventKind::Click);
    counters.intake.clicks += clicks.records - clicks.refused;
    counters.intake.records += clicks.records;
    let seconds = since.elapsed().as_secs_f64();
    let (unmatured, taught_at) = (0, trainer.taught_at().unwrap_or(u64::MAX));
    let ending =
        report::Ending { digest, records, rows, unmatured, taught_at, seconds, counters, ledger: None, join: None };
    Ok(BacktestReport::new(&scores, &seen, ending))
}

/// A new trainer whose partitions start at these offsets.
///
/// # Errors
/// Never for distinct partitions.
pub fn started(params: TrainParams, starts: &Positions) -> Result<Trainer, StreamError> {
    let mut trainer = Trainer::new(params);
    for (partition, next_offset) in starts {
        let start = Control::Start { partition: *partition, next_offset: *next_offset };
        trainer.control(&start)?;
    }
    Ok(trainer)
}

/// All clicks of a directory.
fn clicked_impressions(directory: &Path, decoder: Decoder, progress: &Progress) -> Result<Clicked, BacktestError> {
    let mut clicked = Clicked::default();
    let partition = Partition { kind: EventKind::Click, number: 0 };
    let Some(mut lines) = files::open(directory, EventKind::Click, decoder.record_bytes_max(), progress)? else {
        return Ok(clicked);
    };
    let mut ingest = Ingest::new(decoder, 0, |_, _| ());
    let mut offset = 0;
    while let Some(line) = files::next_line(&mut lines)? {
        let arrival = match line {
            Line::Whole(line) if line.trim_ascii().is_empty() => None,
            Line::Whole(line) => {
                let record = RawRecord { payload: Some(line.trim_ascii()), ..RawRecord::default() };
                Some(ingest.arrival(EventKind::Click, &Message { offset, key: None, record }))
            }
            Line::Long(long) => Some(ingest.oversized(offset, &long)),
        };
        offset += 1;
        let Some(arrival) = arrival else { continue };
        clicked.seen.note(partition, arrival.offset, arrival.body.as_ref().err().map(|refused| &**refused));
        match arrival.body {
            Ok(Decoded { event: Event::Click(click), .. }) => {
                clicked.ids.insert(click.impression_id.as_str().into());
            }
            Ok(_) => {}
            Err(refused) => *clicked.refused.entry(refused.refusal.reason).or_default() += 1,
        }
    }
    Ok(clicked)
}
