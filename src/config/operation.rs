//! `[state]`, `[versions]`, `[exports]`, `[admin]` and `[metrics]`: where the worker keeps, publishes and shows what it learned.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::section::{Bounds, Section};

/// A day: nothing that is done regularly is done less often.
const DAY_SECONDS: u64 = 86_400;

/// Ten windows of a year, and a little.
const SILENCE_MAX_SECONDS: u64 = 11 * 366 * DAY_SECONDS;

/// The checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct State {
    /// The directory of the checkpoints, of this worker alone.
    pub dir: PathBuf,
    /// How often a checkpoint is taken.
    pub checkpoint_interval_seconds: u64,
    /// How long learning goes on while no checkpoint can be written.
    pub undurable_max_seconds: u64,
}

/// The versions that servers load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Versions {
    /// The directory of the artefacts.
    pub dir: PathBuf,
    /// How often a version is published; 0 is not by time.
    pub interval_seconds: u64,
    /// After how many learned examples a version is published; 0 is not by examples.
    pub interval_examples: u64,
    /// Raw feature rows with expected logits that travel in each version.
    pub probes: usize,
    /// While no click was read for so long by the log's time, no version goes live; 0 is never.
    pub click_silence_max_seconds: u64,
    /// How many versions are kept, the newest; 0 removes none.
    pub keep: usize,
    /// Versions that are younger are kept as well; 0 is not by age.
    pub keep_days: u64,
    /// Who may read the versions.
    pub readers: Readers,
}

impl Versions {
    /// Where the versions of a model are.
    pub fn of(&self, model: &str) -> PathBuf {
        self.dir.join(model)
    }

    /// How long clicks may be silent where nothing is said of it: ten windows, and no less than a minute.
    pub(in crate::config) fn click_silence_of(window_seconds: u64) -> u64 {
        (10 * window_seconds).max(60)
    }
}

/// Who may read a file or a directory that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Readers {
    /// The worker's own user: 0700 and 0600. State and exports are always so.
    Owner,
    /// Its group too: 0750 and 0640.
    Group,
    /// Everybody: 0755 and 0644.
    All,
}

impl Readers {
    /// The mode of a directory.
    pub fn directory_mode(self) -> u32 {
        match self {
            Self::Owner => 0o700,
            Self::Group => 0o750,
            Self::All => 0o755,
        }
    }

    /// The mode of a file.
    pub fn file_mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Group => 0o640,
            Self::All => 0o644,
        }
    }
}

/// The training exports: whole checkpoints for another machine, or for the day on which the state directory is lost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exports {
    /// The directory of the exports, which has one for each model; best on another disk than the state.
    pub dir: PathBuf,
    /// How often one is written; 0 is never.
    pub interval_seconds: u64,
    /// How many are kept, the newest.
    pub keep: usize,
}

impl Exports {
    /// Where the exports of a model are.
    pub fn of(&self, model: &str) -> PathBuf {
        self.dir.join(model)
    }
}

/// The admin port.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Admin {
    /// Where metrics and status are served; `None` is off.
    #[serde(serialize_with = "empty_for_off")]
    pub listen: Option<SocketAddr>,
}

/// The progressive metrics.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricsSection {
    /// Impressions in a window.
    pub window_impressions: u64,
    /// The share of impressions that is scored when shown.
    pub sampling_rate: f32,
}

impl State {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let why = "what was read since the last checkpoint is read again after a crash, at most a day of it";
        Self {
            dir: read_dir(section, default.dir),
            checkpoint_interval_seconds: section.whole(
                "checkpoint_interval_seconds",
                default.checkpoint_interval_seconds,
                1,
                DAY_SECONDS,
                why,
            ),
            undurable_max_seconds: section.whole(
                "undurable_max_seconds",
                default.undurable_max_seconds,
                0,
                DAY_SECONDS,
                "what was learned without a checkpoint is read again after a crash, at most a day of it",
            ),
        }
    }
}

impl Versions {
    pub(super) fn read(section: &Section<'_>, window_seconds: u64) -> Self {
        let default = Self::default();
        let time = "it is at most 30 days; 0 is not by time";
        let examples = "it is at most 10^12; 0 is not by examples";
        let probes = "servers score each probe before they serve a version";
        let readers = [("owner", Readers::Owner), ("group", Readers::Group), ("all", Readers::All)];
        Self {
            dir: read_dir(section, default.dir),
            interval_seconds: section.whole("interval_seconds", default.interval_seconds, 0, 30 * DAY_SECONDS, time),
            interval_examples: section.whole(
                "interval_examples",
                default.interval_examples,
                0,
                1_000_000_000_000,
                examples,
            ),
            probes: section.count("probes", default.probes, 1, 10_000, probes),
            click_silence_max_seconds: section.whole(
                "click_silence_max_seconds",
                Self::click_silence_of(window_seconds),
                0,
                SILENCE_MAX_SECONDS,
                "it is at most ten years; 0 lets versions go live whatever clicks do",
            ),
            keep: section.count("keep", default.keep, 0, 1_000_000, "0 removes none"),
            keep_days: section.whole(
                "keep_days",
                default.keep_days,
                0,
                36_500,
                "it is at most a century; 0 is not by age",
            ),
            readers: section.choice("readers", default.readers, &readers),
        }
    }
}

impl Exports {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let time = "it is at most 30 days; 0 is never";
        let keep = "each is as large as the state";
        Self {
            dir: read_dir(section, default.dir),
            interval_seconds: section.whole("interval_seconds", default.interval_seconds, 0, 30 * DAY_SECONDS, time),
            keep: section.count("keep", default.keep, 1, 1000, keep),
        }
    }
}

impl Admin {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let Some(text) = section.text("listen") else {
            return Self::default();
        };
        if text.is_empty() {
            return Self { listen: None };
        }
        let listen = text.parse().ok();
        if listen.is_none() {
            let fix = "give an IP address and a port, such as \"127.0.0.1:9464\", or \"\" for none";
            section.refuse("listen", format!("\"{text}\" is not an address to listen at"), fix);
        }
        Self { listen }
    }
}

impl MetricsSection {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let why = "below 100 impressions a metric is noise";
        let window_impressions =
            section.whole("window_impressions", default.window_impressions, 100, 1_000_000_000, why);
        let why = "it is the share of impressions that is scored when shown";
        let sampling_rate = section.number("sampling_rate", default.sampling_rate, Bounds::SHARE, why);
        Self { window_impressions, sampling_rate }
    }
}

fn read_dir(section: &Section<'_>, default: PathBuf) -> PathBuf {
    match section.text("dir") {
        None => default,
        Some(text) => {
            if text.is_empty() {
                section.refuse("dir", "is empty", "give a directory; it is made when it is missing");
            }
            PathBuf::from(text)
        }
    }
}

#[expect(clippy::ref_option, reason = "serde's serialize_with passes the field by reference")]
fn empty_for_off<S: Serializer>(listen: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    match listen {
        Some(address) => serializer.collect_str(address),
        None => serializer.serialize_str(""),
    }
}
