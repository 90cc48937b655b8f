//! Sample events become a commented first configuration: the fields that were found, an attribution window from the
//! click delays that were seen, and everything else at its default.
//!
//! Only the beginning of each file is read ([`SAMPLE_LINES`]), in memory that does not grow with it. Lines that cannot
//! be used are counted and said, never fatal; without a single usable impression there is nothing to write.

mod decision;
mod delays;
mod machine;
mod number;
mod profile;
mod render;
mod sample;
mod times;
mod weights;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

use crate::progress::Progress;
use deepfm_core::event::EventKind;

pub use decision::Decision;
pub use machine::memory_bytes;
pub use sample::SampleTally;

/// How many lines of each file are looked at.
pub const SAMPLE_LINES: u64 = 200_000;

/// What a draft is made from, beside the events.
#[derive(Clone, Debug)]
pub struct Sample {
    /// How many lines of each file are looked at.
    pub lines: u64,
    /// The memory of the machine that will run the worker; unless known, nothing follows from it.
    pub memory_bytes: Option<u64>,
    /// Counts the bytes of the files that were read; fewer than expected where they go on beyond the sample.
    pub progress: Progress,
}

impl Default for Sample {
    fn default() -> Self {
        Self { lines: SAMPLE_LINES, memory_bytes: None, progress: Progress::default() }
    }
}

/// Why no configuration could be made.
#[derive(Debug, Error)]
pub enum InitError {
    /// The directory has no impressions.
    #[error("no impressions.jsonl or impressions.jsonl.zst in {}", .0.display())]
    NoFile(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Not one line is an impression.
    #[error(
        "no usable impression in {file}: {tally}. `config init` knows the standard keys only (impression_id, event_time, \
         features). For events that look different copy deploy/deepfm.toml and write into it: where they keep their \
         parts ([events.mapping.impression] and [events.mapping.click], as JSON pointers, with time_unit), what is \
         learned from ([[fields]]), and join.attribution_window_seconds. Then `deepfm config check`"
    )]
    NoImpressions {
        /// The name of the file.
        file: String,
        /// What is wrong with its lines.
        tally: SampleTally,
    },
    /// The impressions have no features to learn from.
    #[error("no usable field in the {impressions} usable impressions of {file}{}", reasons(.left_out))]
    NoFields {
        /// The name of the file.
        file: String,
        /// How many impressions were looked at.
        impressions: u64,
        /// The fields that were found, each with the reason why it is of no use.
        left_out: Vec<String>,
    },
}

fn reasons(left_out: &[String]) -> String {
    left_out.iter().flat_map(|reason| ["; ", reason]).collect()
}

/// A configuration made from sample events, and what it was made from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Draft {
    /// The text of the configuration.
    #[serde(skip)]
    pub toml: String,
    /// The lines of the impressions.
    pub impressions: SampleTally,
    /// The lines of the clicks, if there is a file of them.
    pub clicks: Option<SampleTally>,
    /// The share of the sampled impressions that were clicked.
    pub click_rate: f64,
    /// The fields, in the order in which they first appeared.
    pub fields: Vec<FoundField>,
    /// The attribution window that was chosen; `None` where there were no clicks to choose it by.
    pub attribution_window_seconds: Option<u64>,
    /// The share of the clicks seen that this window keeps.
    pub clicks_kept: Option<f64>,
    /// What was read, in lines for people.
    pub facts: Vec<String>,
    /// The keys that follow from the sample and the machine.
    pub decisions: Vec<Decision>,
}

/// A field that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FoundField {
    /// Its key in the features.
    pub name: String,
    /// The kind that was chosen; `None` where its values cannot be used.
    pub kind: Option<&'static str>,
    /// Distinct values, those of a list or object each for itself.
    pub cardinality: u64,
    /// Whether there may be more: counting stops at a bound.
    pub cardinality_is_bound: bool,
    /// The share of impressions that have it.
    pub share_present: f64,
    /// Why it was left out of the configuration, if it was.
    pub left_out: Option<String>,
    /// What was seen of it, why it has its kind, and which of its values are not learned from.
    pub comment: Vec<String>,
}

impl fmt::Display for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fact in &self.facts {
            writeln!(f, "{fact}")?;
        }
        writeln!(f, "fields:")?;
        for field in &self.fields {
            let kind = field.kind.unwrap_or("unusable");
            match &field.left_out {
                Some(reason) => writeln!(f, "  {:?}: left out: {reason}", field.name)?,
                None => writeln!(f, "  {:?}: {kind}", field.name)?,
            }
            for line in &field.comment {
                writeln!(f, "    {line}")?;
            }
        }
        writeln!(f, "keys:")?;
        for Decision { key, value, is_set, reasons } in &self.decisions {
            writeln!(f, "  {key} = {value}{}", if *is_set { "" } else { " (the default, left unset)" })?;
            for line in reasons {
                writeln!(f, "    {line}")?;
            }
        }
        write!(f, "all other keys have their defaults")
    }
}

/// Looks at the first lines of a directory's `impressions.jsonl` and `clicks.jsonl` (or `.jsonl.zst`), and writes a
/// configuration for them that [`super::load`] accepts.
///
/// # Errors
/// A file cannot be read, or no line is an impression with a field to learn from.
pub fn from_events(dir: &Path, sample: &Sample) -> Result<Draft, InitError> {
    let Some(path) = sample::find(dir, "impressions") else {
        return Err(InitError::NoFile(dir.to_owned()));
    };
    let mut impressions = sample::read_impressions(&path, sample)?;
    let file = file_name(&path);
    if impressions.tally.usable == 0 {
        return Err(InitError::NoImpressions { file, tally: impressions.tally });
    }
    let click_path = sample::find(dir, "clicks");
    let clicks =
        click_path.as_deref().map(|path| sample::read_clicks(path, sample, &mut impressions.shown)).transpose()?;
    let click_file = click_path.as_deref().map(file_name);
    let usable = impressions.tally.usable;
    let profiles = std::mem::take(&mut impressions.profiles);
    let found: Vec<profile::Found> = profiles.into_iter().map(|profile| profile.decide(usable)).collect();
    if found.iter().all(|found| found.left_out.is_some()) {
        let reason = |found: &profile::Found| Some(format!("{:?}: {}", found.name, found.left_out.as_ref()?));
        return Err(InitError::NoFields {
            file,
            impressions: usable,
            left_out: found.iter().filter_map(reason).collect(),
        });
    }
    let window = clicks.as_ref().and_then(|clicks| delays::Window::choose(&clicks.delays));
    let entries: u64 = found.iter().filter(|found| found.left_out.is_none()).map(|found| found.entries).sum();
    let files = [file.as_str(), click_file.as_deref().unwrap_or_default()];
    let mut decisions = decision::table(sample.memory_bytes);
    decisions.push(decision::embedding_rate(entries as f64 / usable as f64));
    decisions.extend(decision::join(files, &impressions, clicks.as_ref(), window.as_ref()));
    decisions.extend(decision::time_unit(EventKind::Impression, &impressions.unit));
    decisions.extend(clicks.as_ref().and_then(|clicks| decision::time_unit(EventKind::Click, &clicks.unit)));
    decisions.extend(decision::weight(&impressions.weights));
    let facts = render::facts(files, &impressions, clicks.as_ref());
    Ok(Draft {
        toml: render::render(&facts, &found, usable, &decisions),
        click_rate: render::click_rate(&impressions, clicks.as_ref()),
        fields: found.iter().map(|found| found.describe(usable)).collect(),
        attribution_window_seconds: window.as_ref().map(|window| window.seconds),
        clicks_kept: window.as_ref().map(|window| window.kept),
        impressions: impressions.tally,
        clicks: clicks.map(|clicks| clicks.tally),
        facts,
        decisions,
    })
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
