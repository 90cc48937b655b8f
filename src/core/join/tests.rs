//! What the golden event logs do not cover: the other label policies, optional event ids, bounds, the checkpoint.

mod bounds;
mod checkpoint;
mod properties;

use super::params::{JoinParams, LabelPolicy, LatePolicy};
use super::{ClickIn, Emission, EmissionKind, ImpressionIn, ImpressionState, Join, JoinEntry, Pack, Weigh};
use crate::event::{EventKind, Id};
use crate::stream::Partition;

const IMPRESSIONS: Partition = Partition { kind: EventKind::Impression, number: 0 };
const CLICKS: Partition = Partition { kind: EventKind::Click, number: 0 };

const PARAMS: JoinParams = JoinParams {
    window_ms: 100,
    click_before_ms: 0,
    lateness_ms: 0,
    retention_ms: 1000,
    labels: LabelPolicy::AtClick,
    late_clicks: LatePolicy::Correct,
    open_impressions_max: 100,
    held_bytes_max: usize::MAX,
    waiting_clicks_max: 100,
    remembered_max: 100,
};

/// Each payload weighs ten bytes.
impl Weigh for i64 {
    fn weight(&self) -> usize {
        10
    }
}

impl Pack for i64 {
    fn pack(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.to_le_bytes());
    }

    fn unpack(bytes: &[u8], _: Option<Self>) -> Self {
        Self::from_le_bytes(bytes.try_into().expect("eight were packed"))
    }
}

/// A join, what it emitted and the next offset; impressions carry their own time as payload.
struct Run {
    join: Join<i64>,
    out: Vec<Emission<i64>>,
    offset: i64,
}

impl Run {
    fn new(params: JoinParams) -> Self {
        Self { join: Join::new(params), out: Vec::new(), offset: 0 }
    }

    fn impression(&mut self, id: &str, time: i64) {
        self.impression_event(id, time, None);
    }

    fn impression_event(&mut self, id: &str, time: i64, event_id: Option<&str>) {
        let impression = ImpressionIn {
            partition: IMPRESSIONS,
            offset: self.offset,
            impression_id: id.into(),
            event_id: event_id.map(Id::from),
            time,
            payload: &time,
        };
        self.offset += 1;
        self.join.impression(impression, &mut self.out);
    }

    fn click(&mut self, id: &str, time: i64) {
        self.click_event(id, time, None);
    }

    fn click_event(&mut self, id: &str, time: i64, event_id: Option<&str>) {
        let click = ClickIn {
            partition: CLICKS,
            offset: self.offset,
            impression_id: id.into(),
            event_id: event_id.map(Id::from),
            time,
        };
        self.offset += 1;
        self.join.click(click, &mut self.out);
    }

    /// What was emitted since the last call.
    fn said(&mut self) -> Vec<(EmissionKind, String, Option<i64>)> {
        let said = |emission: Emission<i64>| {
            assert_eq!(emission.payload, emission.impression_time, "the payload of {}", emission.impression_id);
            (emission.kind, emission.impression_id.to_string(), emission.click_time)
        };
        self.out.drain(..).map(said).collect()
    }
}

fn label(kind: EmissionKind, id: &str, click: Option<i64>) -> (EmissionKind, String, Option<i64>) {
    (kind, id.to_owned(), click)
}

#[test]
fn at_maturity_positives_wait_and_come_in_order_with_negatives() {
    let mut run = Run::new(JoinParams { labels: LabelPolicy::AtMaturity, ..PARAMS });
    run.click("b", 1010);
    run.impression("c", 1000);
    run.impression("b", 1000);
    run.impression("a", 1001);
    run.click("a", 1030);
    run.click("a", 1020);
    assert_eq!(run.said(), []);
    assert_eq!((run.join.open(), run.join.counters().extra_click), (3, 1));
    run.impression("z", 1102);
    assert_eq!(
        run.said(),
        [
            label(EmissionKind::Positive, "b", Some(1010)),
            label(EmissionKind::Negative, "c", None),
            label(EmissionKind::Positive, "a", Some(1030)),
        ]
    );
    assert_eq!(run.join.open(), 1);
}

#[test]
fn at_maturity_a_late_click_corrects_once() {
    let mut run = Run::new(JoinParams { labels: LabelPolicy::AtMaturity, ..PARAMS });
    run.impression("a", 1000);
    run.impression("z", 1200);
    run.click("a", 1050);
    run.click("a", 1051);
    let expected = [label(EmissionKind::Negative, "a", None), label(EmissionKind::Correction, "a", Some(1050))];
    assert_eq!(run.said(), expected);
    assert_eq!((run.join.counters().late_click, run.join.counters().extra_click), (1, 1));
}

#[test]
fn a_fake_negative_comes_at_once_and_the_click_makes_it_positive() {
    let mut run = Run::new(JoinParams { labels: LabelPolicy::FakeNegative, ..PARAMS });
    run.impression("a", 1000);
    assert_eq!(run.said(), [label(EmissionKind::FakeNegative, "a", None)]);
    run.click("a", 1050);
    assert_eq!(run.said(), [label(EmissionKind::FakePositive, "a", Some(1050))]);
    run.impression("z", 1200);
    assert_eq!(run.said(), [label(EmissionKind::FakeNegative, "z", None)], "a clicked impression does not mature");
}

#[test]
fn a_click_that_waited_makes_both_fake_labels_at_once() {
    let mut run = Run::new(JoinParams { labels: LabelPolicy::FakeNegative, ..PARAMS });
    run.click("a", 1050);
    run.impression("a", 1000);
    let expected = [label(EmissionKind::FakeNegative, "a", None), label(EmissionKind::FakePositive, "a", Some(1050))];
    assert_eq!(run.said(), expected);
    assert_eq!(run.join.open(), 0);
}

#[test]
fn an_unclicked_fake_negative_matures_and_a_late_click_makes_it_positive_once() {
    let mut run = Run::new(JoinParams { labels: LabelPolicy::FakeNegative, ..PARAMS });
    run.impression("a", 1000);
    run.impression("z", 1101);
    run.click("a", 1100);
    run.click("a", 1099);
    let expected = [
        label(EmissionKind::FakeNegative, "a", None),
        label(EmissionKind::FakeNegative, "z", None),
        label(EmissionKind::Matured, "a", None),
        label(EmissionKind::FakePositive, "a", Some(1100)),
    ];
    assert_eq!(run.said(), expected);
}

#[test]
fn a_dropped_late_click_is_counted_and_needs_no_payload() {
    for labels in [LabelPolicy::AtClick, LabelPolicy::AtMaturity, LabelPolicy::FakeNegative] {
        let mut run = Run::new(JoinParams { labels, late_clicks: LatePolicy::Drop, ..PARAMS });
        run.impression("a", 1000);
        run.impression("z", 1200);
        let resolved = run.join.entries().filter(|entry| {
            matches!(entry, JoinEntry::Impression { state: ImpressionState::Negative(payload), .. } if payload.is_none())
        });
        assert_eq!(resolved.count(), 1, "{labels:?}");
        run.out.clear();
        run.click("a", 1050);
        assert_eq!(run.said(), [], "{labels:?}");
        assert_eq!(run.join.counters().late_click, 1, "{labels:?}");
    }
}

#[test]
fn without_event_ids_nothing_is_a_duplicate_and_ties_go_by_offset() {
    let mut run = Run::new(PARAMS);
    run.click_event("a", 1010, Some("x"));
    run.click("a", 1010);
    run.click("a", 1010);
    let waiting = run.join.entries().filter_map(|entry| match entry {
        JoinEntry::Click { click, .. } => Some((click.event_id.as_deref().map(str::to_owned), click.offset)),
        JoinEntry::Impression { .. } | JoinEntry::EventId { .. } => None,
    });
    assert_eq!(waiting.collect::<Vec<_>>(), [(None, 1), (None, 2), (Some("x".to_owned()), 0)]);
    run.impression("a", 1000);
    assert_eq!(run.out.len(), 1);
    assert_eq!(run.out[0].click_event_id, None, "no event id sorts before any");
    assert_eq!((run.join.counters().extra_click, run.join.counters().duplicate), (2, 0));
}

#[test]
fn an_event_id_may_name_an_impression_and_a_click() {
    let mut run = Run::new(PARAMS);
    run.impression_event("a", 1000, Some("e"));
    run.click_event("a", 1010, Some("e"));
    assert_eq!(run.said(), [label(EmissionKind::Positive, "a", Some(1010))]);
    run.click_event("a", 1011, Some("e"));
    assert_eq!((run.join.counters().duplicate, run.join.remembered()), (1, 2));
}

#[test]
fn the_watermark_is_the_largest_time_less_the_lateness_whatever_partition_it_came_from() {
    let mut run = Run::new(JoinParams { lateness_ms: 50, ..PARAMS });
    run.impression("a", 1000);
    assert_eq!(run.join.watermark(), Some(950));
    run.click("a", 1020);
    assert_eq!(run.join.watermark(), Some(970), "clicks move it as well");
    run.impression("b", 900);
    assert_eq!(run.join.watermark(), Some(970), "it never goes back");
}

#[test]
fn a_click_stamped_a_little_before_its_impression_counts() {
    for labels in [LabelPolicy::AtClick, LabelPolicy::AtMaturity, LabelPolicy::FakeNegative] {
        let mut run = Run::new(JoinParams { click_before_ms: 20, labels, ..PARAMS });
        run.click("a", 980);
        run.click("b", 979);
        run.impression("a", 1000);
        run.impression("b", 1000);
        run.click("z", 1200);
        let positives: Vec<_> = run.said().into_iter().filter(|(_, _, click)| click.is_some()).collect();
        assert_eq!(positives.len(), 1, "{labels:?}");
        assert_eq!((positives[0].1.as_str(), positives[0].2), ("a", Some(980)));
        assert_eq!(run.join.counters().click_outside_window, 1, "b's is further before");
    }
}
