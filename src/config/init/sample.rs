//! The first lines of an event file, in bounded memory: what is on each, or why it cannot be used.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use indicatif::HumanCount;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::delays::{Delays, Shown, ShownById};
use super::profile::Profile;
use super::times::{Order, UNIT_LINES, Unit, milliseconds};
use super::weights::Weights;
use super::{InitError, Sample};
use crate::config::fields::FIELDS_MAX;
use crate::lines::{self, Lines};
use crate::progress::Progress;
use deepfm_core::event::options::TimeUnit;

/// The longest line that is parsed, in bytes: the default bound of a record.
const LINE_BYTES_MAX: usize = 1 << 20;

/// What was read of one file.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SampleTally {
    /// Lines that were read, empty ones left out.
    pub lines: u64,
    /// Lines that are events.
    pub usable: u64,
    /// Whether the file goes on after them.
    pub more: bool,
    /// Lines that are not, by reason: how many, and the number of the first.
    pub refused: BTreeMap<&'static str, (u64, u64)>,
}

impl fmt::Display for SampleTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = if self.more { "the first " } else { "" };
        write!(f, "{first}{} lines, {} usable", HumanCount(self.lines), HumanCount(self.usable))?;
        for (reason, (count, line)) in &self.refused {
            write!(f, ", {} {reason} (first on line {line})", HumanCount(*count))?;
        }
        Ok(())
    }
}

/// What the impressions' lines have.
pub(super) struct Impressions {
    pub(super) tally: SampleTally,
    pub(super) unit: Unit,
    pub(super) order: Order,
    pub(super) profiles: Vec<Profile>,
    /// How many fields were found beyond those that a model can have.
    pub(super) fields_beyond: BTreeSet<String>,
    pub(super) shown: ShownById,
    pub(super) weights: Weights,
}

/// What the clicks' lines have.
pub(super) struct Clicks {
    pub(super) tally: SampleTally,
    pub(super) unit: Unit,
    pub(super) order: Order,
    pub(super) delays: Delays,
}

/// The file of one kind of events in a directory, plain before compressed.
pub(super) fn find(dir: &Path, stem: &str) -> Option<PathBuf> {
    let candidates = [format!("{stem}.jsonl"), format!("{stem}.jsonl.zst")];
    candidates.iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

/// Reads impressions and profiles their features.
pub(super) fn read_impressions(path: &Path, sample: &Sample) -> Result<Impressions, InitError> {
    let mut profiles: Vec<Profile> = Vec::new();
    let mut index: BTreeMap<String, usize> = BTreeMap::new();
    let (mut shown, mut weights) = (ShownById::new(), Weights::default());
    let (unit, mut order, mut fields_beyond) = (read_unit(path)?, Order::default(), BTreeSet::new());
    let (chosen, _) = unit.choose();
    let tally = for_each_line(path, sample.lines, &sample.progress, |line| {
        let line: Line = parse(line)?;
        let (id, time) = line.key(chosen)?;
        let Features(features) = line.features.ok_or("missing_key")?;
        for (name, value) in features {
            if let Some(&at) = index.get(&name) {
                profiles[at].add(&value);
            } else if profiles.len() < FIELDS_MAX {
                let mut profile = Profile::new(name.clone());
                profile.add(&value);
                index.insert(name, profiles.len());
                profiles.push(profile);
            } else if fields_beyond.len() < FIELDS_MAX {
                fields_beyond.insert(name);
            }
        }
        weights.add(&line.weight);
        order.add(time);
        shown.entry(id).or_insert(Shown { time, clicked: false });
        Ok(())
    })?;
    order.settle();
    Ok(Impressions { tally, unit, order, profiles, fields_beyond, shown, weights })
}

/// Reads clicks and measures how long after its impression each came.
pub(super) fn read_clicks(path: &Path, sample: &Sample, shown: &mut ShownById) -> Result<Clicks, InitError> {
    let (unit, mut order, mut delays) = (read_unit(path)?, Order::default(), Delays::default());
    let (chosen, _) = unit.choose();
    let tally = for_each_line(path, sample.lines, &sample.progress, |line| {
        let (id, time) = parse::<Line>(line)?.key(chosen)?;
        order.add(time);
        match shown.get_mut(&id) {
            None => delays.unmatched += 1,
            Some(impression) if impression.clicked => delays.repeated += 1,
            Some(impression) => impression.clicked = delays.add(time - impression.time),
        }
        Ok(())
    })?;
    delays.sort();
    order.settle();
    Ok(Clicks { tally, unit, order, delays })
}

/// The unit of a file's times, by its first lines.
fn read_unit(path: &Path) -> Result<Unit, InitError> {
    let mut unit = Unit::default();
    for_each_line(path, UNIT_LINES, &Progress::default(), |line| {
        parse::<Line>(line)?.event_time.iter().for_each(|time| unit.vote(time));
        Ok(())
    })?;
    Ok(unit)
}

/// The parts of an event that matter here.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    impression_id: Option<Value>,
    #[serde(default)]
    event_time: Option<Value>,
    #[serde(default)]
    weight: Value,
    #[serde(default)]
    features: Option<Features>,
}

impl Line {
    /// The hash of the impression's id and the event time in milliseconds, or why there is none.
    fn key(&self, unit: TimeUnit) -> Result<(u64, i64), &'static str> {
        let id = match self.impression_id.as_ref().ok_or("missing_key")? {
            Value::String(id) if (1..=256).contains(&id.chars().count()) => xxh3_64(id.as_bytes()),
            Value::Number(id) if id.is_i64() => xxh3_64(id.to_string().as_bytes()),
            _ => return Err("mistyped"),
        };
        Ok((id, milliseconds(self.event_time.as_ref().ok_or("missing_key")?, unit)?))
    }
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, &'static str> {
    serde_json::from_slice(line).map_err(|error| if error.is_data() { "mistyped" } else { "malformed" })
}

/// Features in the order of the line, which a map of `serde_json` would lose.
struct Features(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Features {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = Features;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of features")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Features, A::Error> {
                let mut features = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    features.push(entry);
                }
                Ok(Features(features))
            }
        }
        deserializer.deserialize_map(Ordered)
    }
}

/// Hands over each of the first lines that is not empty; what it answers is counted.
fn for_each_line(
    path: &Path,
    lines_max: u64,
    progress: &Progress,
    mut job: impl FnMut(&[u8]) -> Result<(), &'static str>,
) -> Result<SampleTally, InitError> {
    let failed = |source| InitError::Read { path: path.to_owned(), source };
    let mut lines = Lines::open(path, LINE_BYTES_MAX, progress).map_err(failed)?;
    let mut tally = SampleTally::default();
    let mut number = 0;
    while let Some(line) = lines.read().map_err(failed)? {
        number += 1;
        if matches!(line, lines::Line::Whole(line) if line.trim_ascii().is_empty()) {
            continue;
        }
        if tally.lines == lines_max {
            tally.more = true;
            break;
        }
        tally.lines += 1;
        let verdict = match line {
            lines::Line::Whole(line) => job(line),
            lines::Line::Long(_) => Err("oversized"),
        };
        match verdict {
            Ok(()) => tally.usable += 1,
            Err(reason) => tally.refused.entry(reason).or_insert((0, number)).0 += 1,
        }
    }
    Ok(tally)
}
