//! What of a log did not become a learned example, and why: one entry a reason, with the first place where it was seen.

use std::collections::BTreeMap;

use serde::Serialize;

use deepfm_core::event::plain::plain;
use deepfm_core::event::{DETAIL_CHARS_MAX, EventKind, Reason};
use deepfm_core::join::JoinCounters;
use deepfm_core::stream::{Partition, Refused};
use deepfm_core::train::{Consumed, Counters, Fate, LearnerCounters, Step, Unlearned};

/// A place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogPlace {
    /// The partition.
    pub partition: String,
    /// The offset; of a file the line's number, from 0.
    pub offset: i64,
}

/// What was lost for one reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// The reason, for machines.
    pub reason: String,
    /// The reason, for people.
    pub what: &'static str,
    /// How many.
    pub count: u64,
    /// Of how many.
    pub of: u64,
    /// Of what: `records`, `impressions`, `clicks`, `examples`.
    pub unit: &'static str,
    /// Where the first was, as far as this run has seen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<LogPlace>,
    /// What was found there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Records of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Read {
    /// Records, refused ones included.
    pub records: u64,
    /// Those that could not be read.
    pub refused: u64,
}

impl Read {
    /// The share of refused ones; 0 where there is nothing.
    pub fn refused_share(self) -> f64 {
        if self.records == 0 { 0.0 } else { self.refused as f64 / self.records as f64 }
    }
}

/// What a run has seen of its records while it consumed them.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// By kind.
    read: BTreeMap<EventKind, Read>,
    /// The first record refused for each reason.
    firsts: BTreeMap<Reason, (LogPlace, String)>,
    /// The first record that the join dropped, by what became of it.
    dropped: BTreeMap<Fate, LogPlace>,
    /// The first impression that could not be learned.
    unlearned: Option<LogPlace>,
}

/// Examples of one batch that are named in the log; the dead letters name all.
const NAMED_MAX: usize = 10;

impl Seen {
    /// Notes a record that a trainer consumed.
    pub fn note_step(&mut self, step: &Step) {
        let Consumed { partition, offset, fate, .. } = step.record;
        self.note(partition, offset, step.record.refused.as_deref());
        self.note_unlearned(&step.unlearned);
        if dropped_for(fate).is_some() {
            let place = || LogPlace { partition: partition.to_string(), offset };
            self.dropped.entry(fate).or_insert_with(place);
        }
    }

    /// Notes impressions that could not be learned, and names them in the log.
    pub fn note_unlearned(&mut self, unlearned: &[Unlearned]) {
        for Unlearned { partition, offset, impression_id } in unlearned.iter().take(NAMED_MAX) {
            self.unlearned.get_or_insert_with(|| LogPlace { partition: partition.to_string(), offset: *offset });
            tracing::warn!(
                "{partition} offset {offset}: impression {} was not learned: a weight would not be finite",
                plain(impression_id, DETAIL_CHARS_MAX)
            );
        }
        if unlearned.len() > NAMED_MAX {
            tracing::warn!("{} more impressions of this batch were not learned either", unlearned.len() - NAMED_MAX);
        }
    }

    /// Notes a record that was read.
    pub fn note(&mut self, partition: Partition, offset: i64, refused: Option<&Refused>) {
        let read = self.read.entry(partition.kind).or_default();
        read.records += 1;
        if let Some(refused) = refused {
            read.refused += 1;
            self.firsts.entry(refused.refusal.reason).or_insert_with(|| {
                let place = LogPlace { partition: partition.to_string(), offset };
                (place, refused.refusal.detail().to_owned())
            });
        }
    }

    /// Records of a kind.
    pub fn of(&self, kind: EventKind) -> Read {
        self.read.get(&kind).copied().unwrap_or_default()
    }
}

/// Everything that was lost, as the counters have it, in the order in which a record meets the reasons.
pub fn losses(counters: &Counters, join: Option<&JoinCounters>, gap_records: u64, seen: &Seen) -> Vec<Loss> {
    let gap = (
        "gap",
        "gone from the broker before they were read, and passed over",
        gap_records,
        counters.intake.records + gap_records,
        "records",
    );
    let mut losses = vec![loss(gap, None)];
    losses.extend(counters.intake.refused.iter().map(|(reason, count)| {
        let (first, detail) = seen.firsts.get(reason).cloned().unzip();
        Loss {
            detail,
            ..loss((reason.as_str(), "refused: cannot be read", *count, counters.intake.records, "records"), first)
        }
    }));
    if let Some(join) = join {
        losses.extend(of_join(join, [counters.intake.impressions, counters.intake.clicks], seen));
    }
    losses.extend(of_learner(counters.intake.impressions, &counters.learner, seen));
    losses.retain(|loss| loss.count > 0);
    losses
}

fn loss(
    (reason, what, count, of, unit): (&str, &'static str, u64, u64, &'static str),
    first: Option<LogPlace>,
) -> Loss {
    Loss { reason: reason.to_owned(), what, count, of, unit, first, detail: None }
}

/// What comes to nothing later than it is read: of which kind, why, why in words, and how many.
pub(crate) fn later(join: &JoinCounters) -> [(EventKind, &'static str, &'static str, u64); 7] {
    let click = |reason, what, count| (EventKind::Click, reason, what, count);
    [
        click("outside_window", "before their impression, or after its window", join.click_outside_window),
        click("extra_click", "on an impression that had its click", join.extra_click),
        click("late_click", "after the negative of their impression was final", join.late_click),
        click("orphan", "on an impression that never came, or was closed before", join.orphan_expired),
        click("forgotten", "waiting, forgotten at join.waiting_clicks_max", join.forgotten_waiting),
        click("unlabelled_click", "on an impression that is closed unlabelled", join.unlabelled_click),
        (
            EventKind::Impression,
            "unlabelled",
            "closed without a label at join.open_impressions_max or join.held_bytes_max",
            join.closed_unlabelled,
        ),
    ]
}

/// Why the join dropped a record when it was read, if it did.
pub(crate) fn dropped_for(fate: Fate) -> Option<&'static str> {
    match fate {
        Fate::TooLate => Some("too_late"),
        Fate::Duplicate => Some("duplicate"),
        Fate::Conflicting => Some("conflicting"),
        Fate::Joined | Fate::Refused => None,
    }
}

fn of_join(join: &JoinCounters, [impressions, clicks]: [u64; 2], seen: &Seen) -> Vec<Loss> {
    let both = impressions + clicks;
    let at_once = [
        (Fate::TooLate, "came after their window and retention", join.too_late, both, "records"),
        (Fate::Duplicate, "of an event id that was there before", join.duplicate, both, "records"),
        (
            Fate::Conflicting,
            "of an impression id that is held already",
            join.conflicting_impression,
            impressions,
            "impressions",
        ),
    ];
    let at_once = at_once.into_iter().filter_map(|(fate, what, count, of, unit)| {
        Some(loss((dropped_for(fate)?, what, count, of, unit), seen.dropped.get(&fate).cloned()))
    });
    let later = later(join).into_iter().map(|(kind, reason, what, count)| {
        let (of, unit) = match kind {
            EventKind::Impression => (impressions, "impressions"),
            EventKind::Click => (clicks, "clicks"),
        };
        loss((reason, what, count, of, unit), None)
    });
    at_once.chain(later).collect()
}

fn of_learner(impressions: u64, counters: &LearnerCounters, seen: &Seen) -> [Loss; 5] {
    let of_impressions = |reason, what, count| loss((reason, what, count, impressions, "impressions"), None);
    let gradient = (
        "gradient",
        "not learned: a gradient or weight was not finite",
        counters.examples_refused,
        counters.examples,
        "examples",
    );
    [
        of_impressions("click_outage", "skipped: shown while clicks had stalled", counters.skipped),
        of_impressions("sampled_out", "negatives left out by training.negative_sampling_rate", counters.sampled_out),
        loss(gradient, seen.unlearned.clone()),
        of_impressions("uncorrected", "clicked, after their example was not learned", counters.corrections_ignored),
        of_impressions(
            "unscored",
            "not in any figure: their shown score was not finite, or forgotten",
            counters.scores_refused + counters.scores_forgotten,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use deepfm_core::train::IntakeCounters;

    use super::*;
    use deepfm_core::event::Refusal;

    fn refused(reason: Reason, detail: &str) -> Refused {
        Refused::without_record(Refusal::new(reason, detail))
    }

    #[test]
    fn each_reason_is_told_once_with_the_first_place_and_what_was_not_lost_is_not_told() {
        let mut seen = Seen::default();
        let impressions = Partition { kind: EventKind::Impression, number: 3 };
        seen.note(impressions, 7, None);
        seen.note(impressions, 8, Some(&refused(Reason::Mistyped, "the first")));
        seen.note(impressions, 9, Some(&refused(Reason::Mistyped, "the second")));
        assert_eq!(seen.of(EventKind::Impression), Read { records: 3, refused: 2 });
        assert_eq!(seen.of(EventKind::Click).refused_share(), 0.0);
        let mut intake = IntakeCounters { records: 3, impressions: 1, clicks: 4, ..IntakeCounters::default() };
        intake.refused.insert(Reason::Mistyped, 2);
        let counters = Counters { intake, ..Counters::default() };
        let join = JoinCounters { orphan_expired: 1, ..JoinCounters::default() };
        let found = losses(&counters, Some(&join), 5, &seen);
        let told: Vec<_> = found.iter().map(|loss| (loss.reason.as_str(), loss.count, loss.of, loss.unit)).collect();
        assert_eq!(told, [("gap", 5, 8, "records"), ("mistyped", 2, 3, "records"), ("orphan", 1, 4, "clicks")]);
        assert_eq!(found[1].first, Some(LogPlace { partition: impressions.to_string(), offset: 8 }));
        assert_eq!(found[1].detail.as_deref(), Some("the first"));
        assert_eq!(losses(&Counters::default(), None, 0, &Seen::default()), []);
        let learner = LearnerCounters { examples: 9, examples_refused: 2, ..LearnerCounters::default() };
        let unlearned = |offset| Unlearned { partition: impressions, offset, impression_id: "i".into() };
        seen.note_unlearned(&[unlearned(11), unlearned(12)]);
        let found = losses(&Counters { learner, ..Counters::default() }, None, 0, &seen);
        let first = LogPlace { partition: impressions.to_string(), offset: 11 };
        assert_eq!((found[0].reason.as_str(), found[0].first.as_ref()), ("gradient", Some(&first)));
    }
}
