//! The versions of a running worker, from being due to being announced: a state machine without I/O and clock. A version is due,
//! cut and staged, installed after the commit that knows of it, announced, and forgotten by the commit after that:
//!
//! ```text
//! due → staged ──commit──→ installed ──announced──→ forgotten
//!   ↑ failed: tried again     └ owed to the world from being cut until it is announced
//! ```

use std::time::{Duration, Instant};

use super::pace::Pace;
use super::publisher::OUTBOX_MAX;
use super::resume::Ancestry;
use deepfm_core::version::manifest::Parent;
use deepfm_core::version::outbox::OutboxEntry;

/// How often versions and checkpoints are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// Between checkpoints.
    pub checkpoint: Duration,
    /// Between versions; zero is never by time.
    pub version: Duration,
    /// Examples between versions; 0 is never by examples.
    pub version_examples: u64,
}

/// What of the learner decides whether a version is due.
#[derive(Clone, Copy, Debug)]
pub struct Progressed {
    /// Examples learned since the log began.
    pub examples: u64,
    /// Whether labels have begun to mature.
    pub has_matured: bool,
    /// Whether clicks have stalled: nothing is published until they come again.
    pub is_paused: bool,
}

/// The versions of a worker.
#[derive(Debug)]
pub struct Publication {
    intervals: Intervals,
    ancestry: Ancestry,
    /// Versions that are owed to the world, by rising number.
    owed: Vec<OutboxEntry>,
    /// Those of them that wait for the commit that makes them durable.
    staged: Vec<OutboxEntry>,
    /// Versions cut by this run.
    cut: Vec<u64>,
    pace: Pace,
}

impl Publication {
    /// Goes on from where a start left off; `owed` was durable before.
    pub fn new(intervals: Intervals, ancestry: Ancestry, owed: Vec<OutboxEntry>, now: Instant) -> Self {
        Self { intervals, ancestry, owed, staged: Vec::new(), cut: Vec::new(), pace: Pace::new(now) }
    }

    /// Where the next version comes from.
    pub fn ancestry(&self) -> &Ancestry {
        &self.ancestry
    }

    /// What is owed to the world: what a checkpoint that is taken now has to know.
    pub fn owed(&self) -> &[OutboxEntry] {
        &self.owed
    }

    /// What is to be installed once the commit that is begun now is durable.
    pub fn staged(&self) -> &[OutboxEntry] {
        &self.staged
    }

    /// Versions cut by this run.
    pub fn cut(&self) -> &[u64] {
        &self.cut
    }

    fn learned_before(&self) -> u64 {
        self.ancestry.parent.as_ref().map_or(0, |parent| parent.learned)
    }

    /// Whether there is anything that the newest version does not have.
    pub fn has_learned_since(&self, examples: u64) -> bool {
        examples > self.learned_before()
    }

    /// A version is due by time or by examples, when there is something new and labels have begun to mature; not while a commit
    /// is in flight, nor while the world has not taken those that it is owed.
    pub fn is_version_due(&self, now: Instant, learned: Progressed, is_committing: bool) -> bool {
        let is_held = is_committing || self.owed.len() >= OUTBOX_MAX;
        if is_held || learned.is_paused || !learned.has_matured || !self.has_learned_since(learned.examples) {
            return false;
        }
        let Intervals { version, version_examples, .. } = self.intervals;
        let since = learned.examples - self.learned_before();
        self.pace.is_version_due(now, version, version_examples > 0 && since >= version_examples)
    }

    /// A checkpoint is due by time, or when much has changed; not while one is in flight.
    pub fn is_checkpoint_due(&self, now: Instant, has_changed_much: bool, is_committing: bool) -> bool {
        !is_committing && self.pace.is_checkpoint_due(now, self.intervals.checkpoint, has_changed_much)
    }

    /// A version was cut and staged after so many examples.
    pub fn version_cut(&mut self, entry: OutboxEntry, examples: u64, now: Instant) {
        let (version, manifest_digest) = (entry.version(), entry.manifest_digest().to_owned());
        self.ancestry.parent = Some(Parent { version, manifest_digest, learned: examples });
        self.ancestry.next_version = version + 1;
        self.owed.push(entry.clone());
        self.staged.push(entry);
        self.cut.push(version);
        self.pace.version_cut(now);
    }

    /// A version could not be written: nothing of it was published, and its number is used by the next try.
    pub fn version_failed(&mut self, now: Instant) {
        self.pace.version_failed(now);
    }

    /// A checkpoint was begun.
    pub fn checkpoint_begun(&mut self, now: Instant) {
        self.pace.checkpoint_begun(now);
    }

    /// A checkpoint is durable, and these of its versions are installed.
    pub fn checkpoint_done(&mut self, installed: &[OutboxEntry]) {
        self.pace.checkpoint_done();
        self.staged.retain(|staged| installed.iter().all(|entry| entry.version() != staged.version()));
    }

    /// A checkpoint could not be written.
    pub fn checkpoint_failed(&mut self, now: Instant) {
        self.pace.checkpoint_failed(now);
    }

    /// A version was announced.
    pub fn announced(&mut self, version: u64) {
        self.owed.retain(|entry| entry.version() != version);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use deepfm_core::version::announcement::Announcement;

    use super::*;

    const INTERVALS: Intervals =
        Intervals { checkpoint: Duration::from_secs(10), version: Duration::from_secs(100), version_examples: 500 };

    fn entry(version: u64) -> OutboxEntry {
        let document = include_str!("../../schemas/examples/announcement/valid/first.json");
        let announcement: Announcement = serde_json::from_str(document).expect("the example is valid");
        OutboxEntry { announcement: Announcement { version, ..announcement }, goes_live: true, journal: Vec::new() }
    }

    fn publication(now: Instant) -> Publication {
        let ancestry = Ancestry { next_version: 7, parent: None, topic_ids: BTreeMap::new() };
        Publication::new(INTERVALS, ancestry, Vec::new(), now)
    }

    fn matured(examples: u64) -> Progressed {
        Progressed { examples, has_matured: true, is_paused: false }
    }

    #[test]
    fn a_version_is_due_by_time_or_examples_when_something_matured_was_learned() {
        let start = Instant::now();
        let mut publication = publication(start);
        let later = start + INTERVALS.version;
        assert!(publication.is_version_due(later, matured(1), false));
        assert!(!publication.is_version_due(later, matured(0), false), "nothing was learned");
        assert!(!publication.is_version_due(later, Progressed { has_matured: false, ..matured(1) }, false));
        assert!(!publication.is_version_due(later, Progressed { is_paused: true, ..matured(1) }, false));
        assert!(!publication.is_version_due(later, matured(1), true), "a commit is in flight");
        assert!(!publication.is_version_due(start, matured(499), false));
        assert!(publication.is_version_due(start, matured(500), false));
        publication.version_cut(entry(7), 500, start);
        assert_eq!((publication.ancestry().next_version, publication.cut()), (8, &[7][..]));
        assert!(!publication.is_version_due(start, matured(999), false), "the examples count from the version");
        assert!(publication.is_version_due(start, matured(1000), false));
        assert!(!publication.has_learned_since(500));
    }

    #[test]
    fn a_version_is_owed_from_being_cut_to_being_announced_and_staged_until_it_is_installed() {
        let now = Instant::now();
        let mut publication = publication(now);
        publication.version_cut(entry(7), 1, now);
        publication.version_cut(entry(8), 2, now);
        assert_eq!((publication.owed().len(), publication.staged().len()), (2, 2));
        publication.checkpoint_done(&[entry(7)]);
        assert_eq!(publication.staged().iter().map(OutboxEntry::version).collect::<Vec<_>>(), [8]);
        publication.announced(7);
        assert_eq!(publication.owed().iter().map(OutboxEntry::version).collect::<Vec<_>>(), [8]);
        publication.checkpoint_done(&[entry(8)]);
        publication.announced(8);
        assert!(publication.owed().is_empty() && publication.staged().is_empty());
    }

    #[test]
    fn at_the_bound_of_the_outbox_no_version_is_due_until_one_is_announced() {
        let now = Instant::now();
        let mut publication = publication(now);
        for version in 7..7 + OUTBOX_MAX as u64 {
            publication.version_cut(entry(version), version, now);
        }
        let later = now + INTERVALS.version;
        assert!(!publication.is_version_due(later, matured(10_000), false));
        publication.announced(7);
        assert!(publication.is_version_due(later, matured(10_000), false));
    }

    #[test]
    fn a_version_that_fails_is_in_no_checkpoints_way_and_is_tried_again() {
        let now = Instant::now();
        let mut publication = publication(now);
        let later = now + INTERVALS.version;
        publication.version_failed(later);
        assert!(!publication.is_version_due(later, matured(1), false));
        assert!(publication.is_checkpoint_due(later, false, false));
        assert!(!publication.is_checkpoint_due(later, false, true));
        assert!(publication.is_version_due(later + Duration::from_mins(1), matured(1), false));
        publication.checkpoint_failed(later);
        assert!(!publication.is_version_due(later + Duration::from_mins(1), matured(1), false), "it would need one");
    }
}
