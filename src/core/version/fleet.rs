//! What servers say that they serve, put together and held against the versions: who serves what, how far behind, who has fallen
//! silent, and whose scores are not those of the others.
//!
//! Scoring is a function of weights and probes to the bit, on every CPU. So the servers of one content must have one digest of
//! its probes; where they have not, the digest of the most is taken for right, and where no digest has the most, none is. Silent
//! servers have no vote: what a broken one said last is remembered for longer than anybody repairs it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::acknowledgement::{AcknowledgedArm, Acknowledgement, read_time};
use super::announcement::RecordError;
use super::known::KnownVersions;
use super::target::Target;

/// The most servers that are kept in mind: whoever writes to the topic cannot fill the memory of who reads it.
pub const SERVERS_MAX: usize = 10_000;

/// How many beats a server may miss before it is silent.
pub const BEATS_MISSED_MAX: i64 = 3;

/// How far a server's clock may be ahead of the reader's before that is worth a word, in milliseconds.
pub const CLOCK_AHEAD_MAX_MS: i64 = 60_000;

/// What every server said last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    /// By the server's name.
    said: BTreeMap<String, Acknowledgement>,
}

/// Why somebody is to look at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FleetFlag {
    /// Its probes give other scores than those of most servers of the same content that are not silent.
    Differs,
    /// The content that it serves is not the one that is announced under its number, or the number is above all that ever were. A
    /// smaller one that is not announced may have been removed, and is nothing to look at.
    Foreign,
    /// It has missed more than [`BEATS_MISSED_MAX`] beats, and has not ended in order.
    Silent,
    /// Its clock is ahead of the reader's, so that its silence would go unnoticed.
    Clock,
}

impl FleetFlag {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Differs => "differs",
            Self::Foreign => "foreign",
            Self::Silent => "silent",
            Self::Clock => "clock",
        }
    }
}

/// What one arm of a server serves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FleetRow {
    /// The server.
    pub server: String,
    /// Its arm.
    pub arm: String,
    /// What the arm follows.
    pub target: String,
    /// The version that it serves; none before its first.
    pub version: Option<u64>,
    /// How many versions it is behind what it follows; below 0 where that has moved back. None where either is not known.
    pub behind: Option<i64>,
    /// How far the watermark of its version is behind the reader's clock, in milliseconds.
    pub age_ms: Option<i64>,
    /// Since when it serves it, RFC 3339.
    pub loaded_at: Option<String>,
    /// How long it took to load, in seconds.
    pub load_seconds: Option<f64>,
    /// Digest of its scores of the version's probes.
    pub probes_digest: Option<String>,
    /// How long ago it was heard of, in milliseconds by the reader's clock.
    pub heard_ms: i64,
    /// Why somebody is to look at it.
    pub flags: Vec<FleetFlag>,
}

/// A content, by number and manifest digest.
type Content<'f> = (u64, &'f str);

impl Fleet {
    /// Takes note of a record; one without payload is a server that ended. Everything of other models is passed over.
    ///
    /// # Errors
    /// When it is not what its key says, or there are too many servers: it is passed over too, and what its server said before
    /// does not count any more.
    pub fn take(&mut self, model: &str, key: &[u8], record: Option<&[u8]>) -> Result<(), RecordError> {
        let Ok(key) = std::str::from_utf8(key) else { return Ok(()) };
        let Some(server) = key.strip_prefix(model).and_then(|rest| rest.strip_prefix("/s/")) else { return Ok(()) };
        self.said.remove(server);
        let Some(record) = record else { return Ok(()) };
        let acknowledgement = Acknowledgement::read(key, record)?;
        if self.said.len() >= SERVERS_MAX {
            return Err(RecordError::Servers);
        }
        self.said.insert(server.to_owned(), acknowledgement);
        Ok(())
    }

    /// The servers that have said something.
    pub fn servers(&self) -> usize {
        self.said.len()
    }

    /// What each arm of each server serves, at a time in milliseconds since 1970. What is known of the versions is to be no older
    /// than what the servers said: they may have said it of a newer one.
    pub fn rows(&self, known: &KnownVersions, now_ms: i64) -> Vec<FleetRow> {
        let trusted = self.trusted(now_ms);
        let arms = self.said.values().flat_map(|server| server.arms.iter().map(move |arm| (server, arm)));
        arms.map(|(server, arm)| row(server, arm, known, &trusted, now_ms)).collect()
    }

    /// The digest that most servers of a content have, of those that are not silent; nothing where two have as many.
    fn trusted(&self, now_ms: i64) -> BTreeMap<Content<'_>, Option<&str>> {
        let mut servers: BTreeMap<Content<'_>, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
        for server in self.said.values().filter(|server| !is_silent(server, now_ms)) {
            for served in server.arms.iter().filter_map(|arm| arm.serving.as_ref()) {
                let digests = servers.entry((served.version, &served.manifest_digest)).or_default();
                digests.entry(&served.probes_digest).or_default().insert(&server.server);
            }
        }
        servers.into_iter().map(|(content, digests)| (content, most(&digests))).collect()
    }
}

/// The digest that the most have, if there is one.
fn most<'f>(digests: &BTreeMap<&'f str, BTreeSet<&str>>) -> Option<&'f str> {
    let most = digests.values().map(BTreeSet::len).max()?;
    let mut those = digests.iter().filter(|(_, servers)| servers.len() == most).map(|(digest, _)| *digest);
    let one = those.next()?;
    those.next().is_none().then_some(one)
}

/// How long ago a server was heard of, in milliseconds; below 0 where its clock is ahead.
fn heard_ms(server: &Acknowledgement, now_ms: i64) -> i64 {
    // The time was read when the record was.
    now_ms.saturating_sub(read_time(&server.written_at).unwrap_or(i64::MIN))
}

fn is_silent(server: &Acknowledgement, now_ms: i64) -> bool {
    heard_ms(server, now_ms) > BEATS_MISSED_MAX * 1000 * server.beat_seconds as i64
}

fn row(
    server: &Acknowledgement,
    arm: &AcknowledgedArm,
    known: &KnownVersions,
    trusted: &BTreeMap<Content<'_>, Option<&str>>,
    now_ms: i64,
) -> FleetRow {
    let served = arm.serving.as_ref();
    let version = served.map(|served| served.version);
    let mut flags = Vec::new();
    if let Some(served) = served {
        let content = (served.version, served.manifest_digest.as_str());
        // Of a content that only silent servers have, nothing is taken for right or wrong.
        if trusted.get(&content).is_some_and(|right| *right != Some(served.probes_digest.as_str())) {
            flags.push(FleetFlag::Differs);
        }
        let is_foreign = match known.announced.get(&served.version) {
            Some(announced) => announced.manifest_digest != served.manifest_digest,
            None => Some(served.version) > known.newest,
        };
        if is_foreign {
            flags.push(FleetFlag::Foreign);
        }
    }
    let heard_ms = heard_ms(server, now_ms);
    if is_silent(server, now_ms) {
        flags.push(FleetFlag::Silent);
    }
    if heard_ms < -CLOCK_AHEAD_MAX_MS {
        flags.push(FleetFlag::Clock);
    }
    FleetRow {
        server: server.server.clone(),
        arm: arm.arm.clone(),
        target: arm.target.clone(),
        version,
        behind: version.and_then(|version| behind(known, &arm.target, version)),
        age_ms: served.and_then(|served| served.watermark).map(|watermark| now_ms.saturating_sub(watermark).max(0)),
        loaded_at: served.map(|served| served.loaded_at.clone()),
        load_seconds: served.map(|served| served.load_seconds),
        probes_digest: served.map(|served| served.probes_digest.clone()),
        heard_ms: heard_ms.max(0),
        flags,
    }
}

/// How many versions are between the one that is served and the one that is followed: good ones, and at least the latter.
fn behind(known: &KnownVersions, target: &str, served: u64) -> Option<i64> {
    let Ok(target) = target.parse::<Target>();
    let aim = target.aim(known)?;
    let between = |above: u64, to: u64| {
        let passed = known.announced.range(above + 1..=to).map(|(_, one)| one);
        let good = passed.filter(|one| one.held.is_none() && one.abandoned.is_none());
        (good.count() as i64).max(1)
    };
    Some(match aim.cmp(&served) {
        std::cmp::Ordering::Equal => 0,
        std::cmp::Ordering::Greater => between(served, aim),
        std::cmp::Ordering::Less => -between(aim, served),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::acknowledgement::{ServedVersion, probes_digest, written};
    use crate::version::alias::{Act, Alias, LIVE};
    use crate::version::announcement::Announcement;

    const NOW: i64 = 1_700_000_100_000;

    fn served(version: u64, logit: f64) -> ServedVersion {
        ServedVersion {
            version,
            manifest_digest: digest(version),
            watermark: Some(NOW - 5_000),
            probes_digest: probes_digest(&[logit]),
            loaded_at: written(NOW - 4_000),
            load_seconds: 0.1,
        }
    }

    fn digest(version: u64) -> String {
        format!("{version:064}")
    }

    fn said(server: &str, target: &str, serving: Option<ServedVersion>, written_ms: i64) -> Acknowledgement {
        let arm = AcknowledgedArm { arm: "default".to_owned(), target: target.to_owned(), serving };
        Acknowledgement::new("ctr", server, written_ms, 30, vec![arm])
    }

    fn fleet(said: &[Acknowledgement]) -> Fleet {
        let mut fleet = Fleet::default();
        for one in said {
            let key = Acknowledgement::key("ctr", &one.server);
            fleet.take("ctr", key.as_bytes(), Some(one.to_json().as_bytes())).expect("it is one");
        }
        fleet
    }

    /// Versions 1 to 5, of which 3 was rejected; `live` at one of them.
    fn known(live: u64) -> KnownVersions {
        let text = include_str!("../../../schemas/examples/announcement/valid/first.json");
        let mut known = KnownVersions::default();
        for version in 1..=5 {
            let mut one: Announcement = serde_json::from_str(text).expect("it is an announcement");
            (one.version, one.manifest_digest) = (version, digest(version));
            one.held = (version == 3).then(|| "calibration".to_owned());
            known.announced.insert(version, one);
            known.newest = Some(version);
        }
        let alias = Alias::moved(None, LIVE, &known.announced[&live], Act::new("worker", "", ""));
        known.aliases.insert(LIVE.to_owned(), alias);
        known
    }

    fn flags(rows: &[FleetRow]) -> Vec<(&str, Vec<FleetFlag>)> {
        rows.iter().map(|row| (row.server.as_str(), row.flags.clone())).collect()
    }

    #[test]
    fn a_server_whose_scores_are_not_those_of_the_others_is_flagged_and_where_none_has_the_most_all_are() {
        let on = |server: &str, logit: f64| said(server, LIVE, Some(served(5, logit)), NOW);
        let rows = fleet(&[on("a", 0.5), on("b", 0.5), on("c", 0.25)]).rows(&known(5), NOW);
        assert_eq!(flags(&rows), [("a", vec![]), ("b", vec![]), ("c", vec![FleetFlag::Differs])]);
        let rows = fleet(&[on("a", 0.5), on("c", 0.25)]).rows(&known(5), NOW);
        assert!(rows.iter().all(|row| row.flags == [FleetFlag::Differs]), "{rows:?}");
        // Other contents are other scores.
        let rows = fleet(&[on("a", 0.5), said("c", LIVE, Some(served(4, 0.25)), NOW)]).rows(&known(5), NOW);
        assert!(rows.iter().all(|row| row.flags.is_empty()), "{rows:?}");
    }

    #[test]
    fn silent_servers_have_no_vote_on_which_scores_are_right() {
        let at = |server: &str, logit: f64, ago: i64| said(server, LIVE, Some(served(5, logit)), NOW - ago);
        let (silent, both) = (vec![FleetFlag::Silent], vec![FleetFlag::Differs, FleetFlag::Silent]);
        // Two that are dead, and were broken, against one that lives.
        let rows = fleet(&[at("a", 0.5, 0), at("b", 0.25, 90_001), at("c", 0.25, 90_001)]).rows(&known(5), NOW);
        assert_eq!(flags(&rows), [("a", vec![]), ("b", both.clone()), ("c", both)]);
        // A dead one does not decide between two that live, nor are the dead held against each other.
        let rows = fleet(&[at("a", 0.5, 0), at("b", 0.25, 0), at("c", 0.25, 90_001)]).rows(&known(5), NOW);
        assert!(rows.iter().all(|row| row.flags[0] == FleetFlag::Differs), "{rows:?}");
        let rows = fleet(&[at("b", 0.5, 90_001), at("c", 0.25, 90_001)]).rows(&known(5), NOW);
        assert_eq!(flags(&rows), [("b", silent.clone()), ("c", silent)]);
    }

    #[test]
    fn a_content_that_was_never_announced_is_foreign_and_one_that_was_removed_is_not() {
        let flags = |known: &KnownVersions, one: ServedVersion| {
            fleet(&[said("a", LIVE, Some(one), NOW)]).rows(known, NOW)[0].flags.clone()
        };
        let other = ServedVersion { manifest_digest: "f".repeat(64), ..served(5, 0.5) };
        assert_eq!(flags(&known(5), other), [FleetFlag::Foreign], "another content is announced under its number");
        assert_eq!(flags(&known(5), served(6, 0.5)), [FleetFlag::Foreign], "no number as large was announced");
        assert_eq!(flags(&KnownVersions::default(), served(1, 0.5)), [FleetFlag::Foreign], "none was");
        let mut fewer = known(5);
        for version in [2, 5] {
            let key = format!("ctr/v/{version}");
            fewer.take("ctr", key.as_bytes(), None).expect("a tombstone is no error");
            assert_eq!(flags(&fewer, served(version, 0.5)), [], "version {version} was removed");
        }
        let mut later = KnownVersions::default();
        later.take("ctr", b"ctr/v/7", Some(br#"{"model": "ctr", "version": 7}"#)).expect_err("of a later form");
        assert_eq!(flags(&later, served(7, 0.5)), [], "it is announced in a form that is not read here");
    }

    #[test]
    fn a_server_that_misses_its_beats_is_silent_and_one_that_ended_is_gone() {
        let at = |server: &str, ago: i64| said(server, LIVE, None, NOW - ago);
        let mut fleet = fleet(&[at("a", 90_000), at("b", 90_001), at("c", -60_001)]);
        let rows = fleet.rows(&known(5), NOW);
        let expected = [("a", vec![]), ("b", vec![FleetFlag::Silent]), ("c", vec![FleetFlag::Clock])];
        assert_eq!(flags(&rows), expected);
        assert_eq!(rows.iter().map(|row| row.heard_ms).collect::<Vec<_>>(), [90_000, 90_001, 0]);
        fleet.take("ctr", b"ctr/s/b", None).expect("a tombstone is no error");
        assert_eq!(fleet.servers(), 2);
    }

    #[test]
    fn how_far_behind_a_server_is_goes_by_what_it_follows() {
        let behind = |target: &str, version: u64, live: u64| {
            fleet(&[said("a", target, Some(served(version, 0.5)), NOW)]).rows(&known(live), NOW)[0].behind
        };
        assert_eq!(behind(LIVE, 5, 5), Some(0));
        assert_eq!(behind(LIVE, 2, 5), Some(2), "the rejected one is not missed");
        assert_eq!(behind(LIVE, 2, 3), Some(1), "unless it is what is followed");
        assert_eq!(behind(LIVE, 5, 4), Some(-1), "the alias has moved back");
        assert_eq!(behind("latest", 4, 1), Some(1));
        assert_eq!(behind("2", 2, 5), Some(0));
        assert_eq!(behind("candidate", 2, 5), None, "it points nowhere");
    }

    #[test]
    fn records_of_others_and_hostile_ones_count_for_nothing() {
        let mut fleet = fleet(&[said("a", LIVE, None, NOW)]);
        let own = said("a", LIVE, None, NOW).to_json();
        for key in [&b"ctr/v/1"[..], b"ctr2/s/a", b"other/s/a", b"\xff/s/a", b""] {
            fleet.take("ctr", key, Some(own.as_bytes())).expect("it is none of ours");
        }
        assert_eq!(fleet.servers(), 1);
        fleet.take("ctr", b"ctr/s/b", Some(own.as_bytes())).expect_err("it is another server's");
        assert_eq!(fleet.servers(), 1);
        fleet.take("ctr", b"ctr/s/a", Some(b"junk")).expect_err("it is none");
        assert_eq!(fleet.servers(), 0, "what was said before is over");
    }

    #[test]
    fn there_are_never_more_servers_than_are_kept_in_mind() {
        let mut fleet = Fleet::default();
        for number in 0..SERVERS_MAX {
            let one = said(&format!("s{number}"), LIVE, None, NOW);
            let key = Acknowledgement::key("ctr", &one.server);
            fleet.take("ctr", key.as_bytes(), Some(one.to_json().as_bytes())).expect("there is room");
        }
        let more = said("more", LIVE, None, NOW).to_json();
        assert!(matches!(fleet.take("ctr", b"ctr/s/more", Some(more.as_bytes())), Err(RecordError::Servers)));
        assert_eq!(fleet.servers(), SERVERS_MAX);
    }
}
