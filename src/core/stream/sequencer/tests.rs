use super::*;
use crate::event::EventKind;

const IMPRESSIONS: Partition = Partition { kind: EventKind::Impression, number: 0 };
const MORE_IMPRESSIONS: Partition = Partition { kind: EventKind::Impression, number: 1 };
const CLICKS: Partition = Partition { kind: EventKind::Click, number: 0 };

fn started(partitions: &[Partition]) -> Sequencer<&'static str> {
    let mut sequencer = Sequencer::default();
    for &partition in partitions {
        sequencer.control(&Control::Start { partition, next_offset: 0 }).expect("a new partition starts");
    }
    sequencer
}

fn drain(sequencer: &mut Sequencer<&'static str>) -> Vec<&'static str> {
    std::iter::from_fn(|| sequencer.pop().map(|released| released.body)).collect()
}

#[test]
fn nothing_is_released_while_a_live_partition_is_empty() {
    let mut sequencer = started(&[IMPRESSIONS, CLICKS]);
    sequencer.push(IMPRESSIONS, 0, Some(10), "i0").expect("in order");
    assert_eq!(drain(&mut sequencer), Vec::<&str>::new());
    assert_eq!(sequencer.awaited().collect::<Vec<_>>(), [CLICKS]);
    sequencer.push(CLICKS, 0, Some(5), "c0").expect("in order");
    assert_eq!(drain(&mut sequencer), ["c0"]);
    sequencer.control(&Control::Idle(CLICKS)).expect("it is live and empty");
    assert_eq!(drain(&mut sequencer), ["i0"]);
}

#[test]
fn ties_go_impression_before_click_then_by_partition() {
    let mut sequencer = started(&[CLICKS, MORE_IMPRESSIONS, IMPRESSIONS]);
    sequencer.push(CLICKS, 0, Some(7), "c").expect("in order");
    sequencer.push(MORE_IMPRESSIONS, 0, Some(7), "i1").expect("in order");
    sequencer.push(IMPRESSIONS, 0, Some(7), "i0").expect("in order");
    for partition in [CLICKS, MORE_IMPRESSIONS, IMPRESSIONS] {
        sequencer.push(partition, 1, Some(9), "end").expect("in order");
    }
    assert_eq!(drain(&mut sequencer)[..3], ["i0", "i1", "c"]);
}

#[test]
fn a_refused_record_sorts_with_the_largest_time_before_it_and_moves_no_time() {
    let mut sequencer = started(&[IMPRESSIONS, CLICKS]);
    for (offset, time, body) in [(0, Some(50), "50"), (1, Some(20), "20"), (2, None, "refused")] {
        sequencer.push(IMPRESSIONS, offset, time, body).expect("in order");
    }
    sequencer.push(CLICKS, 0, Some(40), "click 40").expect("in order");
    sequencer.push(CLICKS, 1, Some(51), "click 51").expect("in order");
    sequencer.control(&Control::Ended(CLICKS)).expect("it is live");
    sequencer.control(&Control::Returned(CLICKS)).expect("it was away");
    assert_eq!(drain(&mut sequencer), ["click 40", "50", "20", "refused"]);
    assert_eq!(sequencer.largest_released(), Some(50));
}

#[test]
fn positions_speak_of_consumed_records_only_and_survive_a_restart() {
    let mut sequencer = started(&[IMPRESSIONS]);
    sequencer.push(IMPRESSIONS, 3, Some(1), "a").expect("gaps in offsets are normal");
    sequencer.push(IMPRESSIONS, 4, Some(2), "b").expect("in order");
    assert_eq!(sequencer.pop().map(|released| released.offset), Some(3));
    assert_eq!(sequencer.positions(), Positions::from([(IMPRESSIONS, 4)]));
    let mut resumed: Sequencer<&str> = Sequencer::resume(sequencer.progress(), Vec::new());
    assert_eq!(resumed.released(), 1);
    let again = resumed.push(IMPRESSIONS, 3, Some(1), "a");
    assert_eq!(again, Err(StreamError::OutOfOrder { partition: IMPRESSIONS, offset: 3, expected: 4 }));
    resumed.push(IMPRESSIONS, 4, None, "b").expect("the consumed record is not due again");
    assert_eq!(drain(&mut resumed), ["b"]);
}

#[test]
fn an_idle_partition_is_passed_over_even_when_it_has_records_until_it_returns() {
    let mut sequencer = started(&[IMPRESSIONS, CLICKS]);
    sequencer.control(&Control::Idle(CLICKS)).expect("it is live and empty");
    sequencer.push(CLICKS, 0, Some(1), "click").expect("in order");
    sequencer.push(IMPRESSIONS, 0, Some(5), "impression").expect("in order");
    assert_eq!(drain(&mut sequencer), ["impression"]);
    sequencer.control(&Control::Returned(CLICKS)).expect("it was idle");
    sequencer.push(IMPRESSIONS, 1, Some(6), "later").expect("in order");
    assert_eq!(drain(&mut sequencer), ["click"]);
    let places: Vec<u64> = sequencer.journal().iter().map(|entry| entry.at).collect();
    assert_eq!(places, [0, 0, 0, 1]);
}

#[test]
fn decisions_since_a_version_was_cut_belong_to_the_next_and_those_of_one_that_is_given_up_come_back() {
    let mut sequencer = started(&[IMPRESSIONS, CLICKS]);
    let at_the_cut = sequencer.journal().to_vec();
    sequencer.control(&Control::Idle(CLICKS)).expect("it is live");
    let all = sequencer.journal().to_vec();
    assert_eq!(sequencer.cut_journal(at_the_cut.len()), at_the_cut);
    assert_eq!(sequencer.journal(), &all[2..]);
    sequencer.lengthen_journal(at_the_cut);
    assert_eq!(sequencer.journal(), all);
}

#[test]
fn a_decision_that_does_not_fit_changes_nothing() {
    let mut sequencer = started(&[IMPRESSIONS]);
    assert_eq!(sequencer.control(&Control::Idle(CLICKS)), Err(StreamError::Unknown(CLICKS)));
    assert!(sequencer.control(&Control::Returned(IMPRESSIONS)).is_err());
    assert!(sequencer.control(&Control::Gap { partition: IMPRESSIONS, from: 2, to: 4 }).is_err());
    assert!(sequencer.control(&Control::Start { partition: IMPRESSIONS, next_offset: 0 }).is_err());
    assert_eq!(sequencer.journal().len(), 1);
    sequencer.control(&Control::Gap { partition: IMPRESSIONS, from: 0, to: 4 }).expect("it is at 0");
    assert_eq!(sequencer.positions(), Positions::from([(IMPRESSIONS, 4)]));
}

#[test]
fn a_gap_leaves_out_what_a_mirror_still_has_and_what_comes_behind_sorts_as_if_it_had_never_been() {
    // The live run never saw offsets 1 and 2 of the impressions; the replay has queued them before the gap is decided.
    let mut live = started(&[IMPRESSIONS, CLICKS]);
    let mut replay = started(&[IMPRESSIONS, CLICKS]);
    let gap = Control::Gap { partition: IMPRESSIONS, from: 1, to: 3 };
    for sequencer in [&mut live, &mut replay] {
        sequencer.push(IMPRESSIONS, 0, Some(10), "i0").expect("in order");
        sequencer.push(CLICKS, 0, Some(11), "c0").expect("in order");
    }
    assert_eq!(live.pop().map(|released| released.body), Some("i0"));
    live.control(&gap).expect("one is missing there");
    live.push(IMPRESSIONS, 3, None, "refused").expect("in order");
    live.push(IMPRESSIONS, 4, Some(12), "i4").expect("in order");
    live.push(CLICKS, 1, Some(90), "c1").expect("in order");

    for (offset, time, body) in [(1, Some(50), "i1"), (2, Some(60), "i2"), (3, None, "refused"), (4, Some(12), "i4")] {
        replay.push(IMPRESSIONS, offset, time, body).expect("in order");
    }
    replay.push(CLICKS, 1, Some(90), "c1").expect("in order");
    assert_eq!(replay.pop().map(|released| released.body), Some("i0"));
    assert_eq!(replay.queued_before(IMPRESSIONS, 3).collect::<Vec<_>>(), [&"i1", &"i2"]);
    replay.control(&gap).expect("it is at the gap");

    assert_eq!(live.gap_records(), 2);
    let order = drain(&mut live);
    assert_eq!(order, ["refused", "c0", "i4"]);
    assert_eq!(drain(&mut replay), order);
    assert_eq!(replay.progress(), live.progress());
    assert_eq!(replay.awaited().collect::<Vec<_>>(), [IMPRESSIONS]);
}

#[test]
fn a_gap_that_takes_all_that_is_queued_is_waited_behind_and_one_elsewhere_is_refused() {
    let mut sequencer = started(&[IMPRESSIONS]);
    sequencer.push(IMPRESSIONS, 0, Some(10), "i0").expect("in order");
    let elsewhere = Control::Gap { partition: IMPRESSIONS, from: 1, to: 3 };
    assert!(matches!(sequencer.control(&elsewhere), Err(StreamError::Unfit { control: "gap", .. })));
    sequencer.control(&Control::Gap { partition: IMPRESSIONS, from: 0, to: 5 }).expect("it is there");
    assert_eq!(drain(&mut sequencer), Vec::<&str>::new());
    assert_eq!(sequencer.awaited().collect::<Vec<_>>(), [IMPRESSIONS]);
    assert!(matches!(sequencer.push(IMPRESSIONS, 4, Some(11), "i4"), Err(StreamError::OutOfOrder { expected: 5, .. })));
    sequencer.push(IMPRESSIONS, 5, Some(11), "i5").expect("in order");
    assert_eq!(drain(&mut sequencer), ["i5"]);
}
