//! What was lost in the last minute, so that a worker says so while it runs. Of a kind of records, impressions or clicks, each
//! loss is a share.

use std::collections::BTreeMap;

use crate::drive::losses::{dropped_for, later};
use deepfm_core::event::EventKind;
use deepfm_core::join::JoinCounters;
use deepfm_core::stream::Partition;
use deepfm_core::train::Step;

/// The share of a kind from which a loss is worth a warning.
const MUCH: f64 = 0.1;

/// A record's partition and offset.
pub type Place = (Partition, i64);

/// A loss: records that could not be read, that the join dropped, or that came to nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Lost {
    /// Why.
    pub reason: String,
    /// Of which kind.
    pub kind: EventKind,
    /// How many.
    pub count: u64,
    /// Of how many of its kind.
    pub of: u64,
    /// Where the first was, as far as that is known.
    pub first: Option<Place>,
}

impl Lost {
    fn share(&self) -> f64 {
        self.count as f64 / self.of.max(self.count).max(1) as f64
    }

    fn as_text(&self) -> String {
        let Self { reason, kind, count, of, first } = self;
        let first =
            first.map_or_else(String::new, |(partition, offset)| format!(", first at {partition} offset {offset}"));
        format!("{count} of {of} {kind}s ({:.0} %) {reason}{first}", 100.0 * self.share())
    }
}

/// Counts the losses since it was last asked.
#[derive(Debug, Default)]
pub struct Toll {
    read: BTreeMap<EventKind, u64>,
    dropped: BTreeMap<(EventKind, &'static str), (u64, Place)>,
    join: Option<JoinCounters>,
}

impl Toll {
    /// Notes a record that was consumed.
    pub fn note(&mut self, step: &Step) {
        let refused = step.record.refused.as_ref().map(|refused| refused.refusal.reason.as_str());
        let reason = refused.or(dropped_for(step.record.fate));
        *self.read.entry(step.record.partition.kind).or_default() += 1;
        if let Some(reason) = reason {
            self.drop(reason, step.record.partition, step.record.offset);
        }
        for unlearned in &step.unlearned {
            self.drop("gradient", unlearned.partition, unlearned.offset);
        }
    }

    fn drop(&mut self, reason: &'static str, partition: Partition, offset: i64) {
        self.dropped.entry((partition.kind, reason)).or_insert((0, (partition, offset))).0 += 1;
    }

    /// What was lost since the last call, the most first. Nothing is known of the join before the first.
    pub fn take(&mut self, join: &JoinCounters) -> Vec<Lost> {
        let (read, dropped) = (std::mem::take(&mut self.read), std::mem::take(&mut self.dropped));
        let of = |kind| read.get(&kind).copied().unwrap_or_default();
        let mut lost: Vec<Lost> = dropped
            .into_iter()
            .map(|((kind, reason), (count, first))| Lost {
                reason: reason.to_owned(),
                kind,
                count,
                of: of(kind),
                first: Some(first),
            })
            .collect();
        if let Some(before) = self.join.replace(*join) {
            // Second clicks are no fault of anything.
            let counts =
                later(join).into_iter().zip(later(&before)).filter(|((_, reason, ..), _)| *reason != "extra_click");
            let since = counts.map(|((kind, reason, _, now), (.., before))| (kind, reason, now.saturating_sub(before)));
            lost.extend(since.filter(|(_, _, count)| *count > 0).map(|(kind, reason, count)| Lost {
                reason: reason.to_owned(),
                kind,
                count,
                of: of(kind),
                first: None,
            }));
        }
        lost.sort_by_key(|lost| std::cmp::Reverse(lost.count));
        lost
    }
}

/// All losses in a few words; nothing for none.
pub fn summary(lost: &[Lost]) -> Option<String> {
    let words: Vec<String> = lost.iter().map(|lost| format!("{} {}", lost.reason, lost.count)).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// What is to be said of losses that are much of their kind; nothing when none is.
pub fn warning(lost: &[Lost]) -> Option<String> {
    // A kind may be refused for many reasons, none of which is much alone.
    let of_kind = |kind| lost.iter().filter(|lost| lost.kind == kind).map(Lost::share).sum::<f64>();
    let much: Vec<String> = lost.iter().filter(|lost| of_kind(lost.kind) > MUCH).map(Lost::as_text).collect();
    (!much.is_empty()).then(|| format!("lost in the last minute: {}", much.join("; ")))
}

#[cfg(test)]
mod tests {
    use deepfm_core::event::{Reason, Refusal};
    use deepfm_core::stream::Refused;
    use deepfm_core::train::{Consumed, Fate};

    use super::*;

    fn step(kind: EventKind, offset: i64, reason: Option<Reason>) -> Step {
        let refused = reason.map(|reason| Box::new(Refused::without_record(Refusal::new(reason, "why"))));
        let fate = if refused.is_some() { Fate::Refused } else { Fate::Joined };
        let partition = Partition { kind, number: 2 };
        let record = Consumed { partition, offset, time: None, weight: 1, fate, refused };
        Step { record, unlearned: Vec::new() }
    }

    #[test]
    fn losses_of_a_minute_are_told_with_share_and_first_place_and_warned_of_when_they_are_much_of_their_kind() {
        let mut toll = Toll::default();
        assert_eq!(toll.take(&JoinCounters { orphan_expired: 7, ..JoinCounters::default() }), []);
        // Of all records it is little, of the clicks it is much.
        (0..1000).for_each(|offset| toll.note(&step(EventKind::Impression, offset, None)));
        (0..8).for_each(|offset| toll.note(&step(EventKind::Click, offset, None)));
        (8..10).for_each(|offset| toll.note(&step(EventKind::Click, offset, Some(Reason::MissingKey))));
        toll.note(&step(EventKind::Impression, 1000, Some(Reason::Malformed)));
        let lost = toll.take(&JoinCounters { orphan_expired: 10, ..JoinCounters::default() });
        assert_eq!(summary(&lost).as_deref(), Some("orphan 3, missing_key 2, malformed 1"));
        let said = "lost in the last minute: 3 of 10 clicks (30 %) orphan; \
                    2 of 10 clicks (20 %) missing_key, first at click/2 offset 8";
        assert_eq!(warning(&lost).as_deref(), Some(said));
    }

    #[test]
    fn each_minute_stands_for_itself_and_little_is_no_warning() {
        let mut toll = Toll::default();
        toll.take(&JoinCounters::default());
        toll.note(&step(EventKind::Click, 0, Some(Reason::Malformed)));
        let join = JoinCounters { closed_unlabelled: 1, ..JoinCounters::default() };
        assert_eq!(toll.take(&join).len(), 2);
        assert!(toll.take(&join).is_empty());
        (0..11).for_each(|offset| toll.note(&step(EventKind::Click, offset, None)));
        toll.note(&step(EventKind::Click, 11, Some(Reason::Malformed)));
        let lost = toll.take(&join);
        assert_eq!((summary(&lost).as_deref(), warning(&lost)), (Some("malformed 1"), None));
        assert_eq!(summary(&[]), None);
    }
}
