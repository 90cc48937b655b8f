//! `[state]`, `[versions]`, `[exports]`, `[admin]` and `[metrics]`: where the worker keeps, publishes and shows what it learned.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use deepfm_core::model::weights::Precision;
use deepfm_core::version::manifest::CHAIN_MAX;
use serde::{Serialize, Serializer};
use serde_json::json;

use super::declare::{Readable, section};
use super::keys::Bounds;
use super::kinds::{Choice, DIR, Special, number, whole};
use super::section::Section;

/// A day: nothing that is done regularly is done less often.
const DAY_SECONDS: u64 = 86_400;

/// Ten windows of a year, and a little.
const SILENCE_MAX_SECONDS: u64 = 11 * 366 * DAY_SECONDS;

const READERS: Choice<Readers> = Choice(&[("owner", Readers::Owner), ("group", Readers::Group), ("all", Readers::All)]);

const WEIGHTS: Choice<Precision> = Choice(&[("f32", Precision::F32), ("f16", Precision::F16)]);

pub(super) const LISTEN: Special<Option<SocketAddr>> = Special {
    read: read_listen,
    words: "IP:port, or \"\"",
    schema: || json!({"type": "string", "pattern": "^(.+:[0-9]{1,5})?$"}),
};

section! {
    /// The checkpoints.
    State in "state" {
        /// The directory of the checkpoints, for this worker alone. It is locked while the worker runs.
        dir: PathBuf = PathBuf::from("state"), DIR, Free;
        /// How often a checkpoint is taken. More often means less to read again after a crash, and more writing; it costs
        /// what changed since the one before.
        checkpoint_interval_seconds: u64 = 60,
            whole(1, DAY_SECONDS, "what was read since the last checkpoint is read again after a crash, at most a day of it"),
            Free;
        /// How long learning goes on while no checkpoint can be written, on a full disk for instance; then the worker ends. 0
        /// is at the first failure.
        undurable_max_seconds: u64 = 600,
            whole(0, DAY_SECONDS, "what was learned without a checkpoint is read again after a crash, at most a day of it"),
            Free;
    }
}

section! {
    /// The versions that servers load.
    Versions in "versions" {
        /// The directory of the versions.
        dir: PathBuf = PathBuf::from("versions"), DIR, Free;
        /// A version is published at this interval, and after as many learned examples, whichever comes first. 0 is off. More
        /// often is fresher.
        interval_seconds: u64 = 300, whole(0, 30 * DAY_SECONDS, "it is at most 30 days; 0 is not by time"), Free;
        /// After how many learned examples a version is published; 0 is not by examples.
        interval_examples: u64 = 0, whole(0, 1_000_000_000_000, "it is at most 10^12; 0 is not by examples"), Free;
        /// One version in so many is full, at least, and each run's first is; those between are deltas: what has changed since
        /// the version before. 1 makes every version full.
        full_every: u32 = 16,
            whole(1, CHAIN_MAX, "a server that comes late reads a full version and every delta since"), Free;
        /// The largest a delta may be, as a share of the full version: where more has changed, a full one is made instead.
        delta_ratio_max: f32 = 0.3, number(Bounds::SHARE, "it is a share of the size of a full version"), Free;
        /// In how many bits the weights of rows are published: "f32", or "f16" for half the size. Rounding moves a weight by at
        /// most 1/2048 of itself; each version says by how much it has moved the scores of its probes. What is learned has
        /// 32 bits in any case.
        weights: Precision = Precision::F32, WEIGHTS, Free;
        /// Raw feature rows with expected scores that travel in each version; servers reproduce them before they swap.
        probes: usize = 16, whole(1, 10_000, "servers score each probe before they serve a version"), Free;
        /// While no click was read for so long by the log's own time, although impressions come, no version goes live: a
        /// model that learns through an outage of clicks learns that nobody clicks. 0 is never. Ten windows, and no less than
        /// 60, unless given.
        click_silence_max_seconds: u64 = Self::click_silence_of(1800),
            whole(0, SILENCE_MAX_SECONDS, "it is at most ten years; 0 lets versions go live whatever clicks do"),
            Free, Follows;
        /// How many versions are kept, the newest; 0 removes none. One that an alias points at is kept in any case, and so
        /// are the journals since the oldest training export.
        keep: usize = 24, whole(0, 1_000_000, "0 removes none"), Free;
        /// Versions that are younger than this are kept as well; 0 is not by age.
        keep_days: u64 = 0, whole(0, 36_500, "it is at most a century; 0 is not by age"), Free;
        /// Who may read the versions that are made: "owner" (0700 and 0600), "group" (0750 and 0640) or "all" (0755 and
        /// 0644). State and exports are the owner's alone. A directory that is there already keeps its mode.
        readers: Readers = Readers::Group, READERS, Free;
    }
}

section! {
    /// The training exports: whole checkpoints for another machine, or for the day on which the state directory is lost
    /// (`deepfm run --restore`).
    Exports in "exports" {
        /// The directory of the exports, which has one for each model. Best on another disk than the state, or a mount that
        /// is backed up.
        dir: PathBuf = PathBuf::from("exports"), DIR, Free;
        /// How often one is written; 0 is never. What the topics keep must reach back to the newest export.
        interval_seconds: u64 = 3600, whole(0, 30 * DAY_SECONDS, "it is at most 30 days; 0 is never"), Free;
        /// How many are kept, the newest. Each is as large as the state.
        keep: usize = 2, whole(1, 1000, "each is as large as the state"), Free;
    }
}

section! {
    /// The admin port.
    Admin in "admin" {
        /// Where /metrics, /livez and /status answer, as IP:port; "" is off. It has no authentication: keep it local or
        /// private.
        #[serde(serialize_with = "empty_for_off")]
        listen: Option<SocketAddr> = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464))), LISTEN, Free;
    }
}

section! {
    /// The progressive metrics.
    MetricsSection in "metrics" {
        /// Impressions in a window of the progressive metrics. Smaller windows react sooner and are noisier.
        window_impressions: u64 = 10_000,
            whole(100, 1_000_000_000, "below 100 impressions a metric is noise"), Refused;
        /// The share of impressions that is scored when it is shown, chosen by a hash of the impression: metrics are of
        /// these. Scoring costs two fifths of learning, or more.
        sampling_rate: f32 = 1.0,
            number(Bounds::SHARE, "it is the share of impressions that is scored when shown"),
            Refused;
    }
}

impl Versions {
    pub(super) fn read(section: &Section<'_>, window_seconds: u64) -> Self {
        let mut versions = Self::read_keys(section);
        if section.node("click_silence_max_seconds").is_none() {
            versions.click_silence_max_seconds = Self::click_silence_of(window_seconds);
        }
        versions
    }

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

impl Exports {
    /// Where the exports of a model are.
    pub fn of(&self, model: &str) -> PathBuf {
        self.dir.join(model)
    }
}

/// An address, or nothing for none.
#[expect(clippy::option_option, reason = "that a port is off may be given, and is not the same as nothing given")]
fn read_listen(section: &Section<'_>, key: &str) -> Option<Option<SocketAddr>> {
    let text = section.text(key)?;
    let listen = text.parse().ok();
    if listen.is_none() && !text.is_empty() {
        let fix = "give an IP address and a port, such as \"127.0.0.1:9464\", or \"\" for none";
        section.refuse(key, format!("\"{text}\" is not an address to listen at"), fix);
    }
    Some(listen)
}

#[expect(clippy::ref_option, reason = "serde's serialize_with passes the field by reference")]
pub(super) fn empty_for_off<S: Serializer>(listen: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    match listen {
        Some(address) => serializer.collect_str(address),
        None => serializer.serialize_str(""),
    }
}
