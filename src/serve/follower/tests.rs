use super::*;
use deepfm_core::version::names;

fn digest(content: u64) -> String {
    format!("{content:012x}{}", "0".repeat(52))
}

fn of(version: u64, announced: AnnouncedAs) -> Offer {
    let directory = names::directory(version, &announced.manifest_digest);
    Offer { version, directory, announced: Some(announced) }
}

fn offer(version: u64, content: u64) -> Offer {
    let announced = AnnouncedAs {
        manifest_digest: digest(content),
        parent: None,
        kind: None,
        epoch: None,
        is_passed_over: false,
        uri: None,
    };
    self::of(version, announced)
}

fn with(version: u64, alter: impl FnOnce(&mut AnnouncedAs)) -> Offer {
    let mut offer = offer(version, version);
    alter(offer.announced.as_mut().expect("it is announced"));
    offer
}

fn pointer(version: u64) -> Notice {
    let Offer { directory, .. } = offer(version, version);
    Notice::Pointed(Some(Pointer { version, directory, manifest_digest: digest(version) }))
}

fn following(target: Target, offers: &[Offer]) -> Follower {
    let mut follower = Follower::new(target);
    for offer in offers {
        follower.notice(Notice::Offered(offer.clone()));
    }
    follower.notice(Notice::CaughtUp);
    follower
}

/// Loads what is to be loaded until nothing is; the numbers served.
fn load_all(follower: &mut Follower, now: Instant) -> Vec<u64> {
    let mut served = Vec::new();
    while let Some(offer) = follower.next(now) {
        follower.progressed(VersionState::Verified);
        follower.progressed(VersionState::Probed);
        follower.swapped();
        served.push(offer.version);
    }
    served
}

fn fail(follower: &mut Follower, now: Instant, is_transient: bool) -> u64 {
    let offer = follower.next(now).expect("it is wanted");
    let failure = LoadFailure { is_transient, ..LoadFailure::new(LoadStage::Fetching, "gone".to_owned()) };
    follower.failed(failure, now);
    offer.version
}

fn state(follower: &Follower, directory: &str) -> VersionState {
    let statuses = follower.statuses();
    statuses.iter().find(|status| status.directory == directory).expect("it is known").state.clone()
}

#[test]
fn nothing_is_loaded_before_everything_that_was_there_is_known() {
    let mut follower = Follower::new(Target::Latest);
    let now = Instant::now();
    follower.notice(Notice::Offered(offer(1, 1)));
    assert_eq!(follower.next(now), None);
    follower.notice(Notice::Offered(offer(2, 2)));
    follower.notice(Notice::CaughtUp);
    assert_eq!(load_all(&mut follower, now), [2], "the one in between is never loaded");
}

#[test]
fn an_alias_leads_forward_and_back_and_the_newest_goes_forward_only() {
    let now = Instant::now();
    let offers = [offer(1, 1), offer(2, 2), offer(3, 3)];
    let mut alias = following(Target::default(), &offers);
    assert_eq!(load_all(&mut alias, now), [0; 0], "it points nowhere");
    for version in [2, 3, 1] {
        alias.notice(pointer(version));
        assert_eq!(load_all(&mut alias, now), [version]);
    }
    assert_eq!(state(&alias, &offers[2].directory), VersionState::Draining);
    alias.retired(&offers[2].directory);
    assert_eq!(state(&alias, &offers[2].directory), VersionState::Retired);
    let mut latest = following(Target::Latest, &offers);
    assert_eq!(load_all(&mut latest, now), [3]);
    latest.notice(Notice::Withdrawn(3));
    assert_eq!(load_all(&mut latest, now), [0; 0], "what was removed is served on");
    latest.notice(Notice::Offered(offer(4, 4)));
    assert_eq!(load_all(&mut latest, now), [4]);
    let mut pinned = following(Target::Pinned(2), &offers);
    assert_eq!(load_all(&mut pinned, now), [2]);
}

#[test]
fn an_alias_is_followed_where_the_announcement_has_gone_and_before_it_comes() {
    let now = Instant::now();
    let mut follower = following(Target::default(), &[]);
    follower.notice(pointer(7));
    assert_eq!(load_all(&mut follower, now), [7]);
    follower.notice(Notice::Offered(offer(7, 7)));
    assert_eq!(load_all(&mut follower, now), [0; 0], "it is served already");
}

#[test]
fn the_newest_that_was_held_back_or_abandoned_is_passed_over() {
    let passed_over = with(3, |announced| announced.is_passed_over = true);
    let mut follower = following(Target::Latest, &[offer(2, 2), passed_over]);
    assert_eq!(load_all(&mut follower, Instant::now()), [2]);
}

#[test]
fn a_version_that_fails_is_not_tried_again_until_it_changes_and_the_one_before_serves_on() {
    let now = Instant::now();
    let mut follower = following(Target::Latest, &[offer(1, 1)]);
    load_all(&mut follower, now);
    follower.notice(Notice::Offered(offer(2, 2)));
    assert_eq!(fail(&mut follower, now, false), 2);
    let later = now + Duration::from_hours(1);
    assert_eq!((follower.next(later), follower.serving(), follower.retry_at()), (None, Some(1), None));
    follower.notice(Notice::Offered(offer(2, 2)));
    assert_eq!(follower.next(later), None, "the same record again says nothing new");
    assert_eq!(follower.given_up(), [offer(2, 2).directory]);
    follower.forgive(&offer(2, 2).directory);
    assert_eq!(load_all(&mut follower, later), [2]);
}

#[test]
fn files_that_cannot_be_read_are_tried_again_after_a_while_that_doubles() {
    let mut now = Instant::now();
    let mut follower = following(Target::Latest, &[offer(2, 2)]);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        fail(&mut follower, now, true);
        assert_eq!(follower.next(now), None);
        let at = follower.retry_at().expect("it is tried again");
        pauses.push((at - now).as_millis());
        now = at;
    }
    assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    assert_eq!(load_all(&mut follower, now), [2]);
    assert_eq!(follower.retry_at(), None);
}

#[test]
fn where_nothing_is_served_an_older_version_is_better_than_none() {
    let now = Instant::now();
    let mut follower = following(Target::Latest, &[offer(1, 1), offer(2, 2)]);
    assert_eq!(fail(&mut follower, now, false), 2);
    assert_eq!(load_all(&mut follower, now), [1]);
}

#[test]
fn another_content_under_a_known_number_is_refused_by_whatever_way_it_comes() {
    let now = Instant::now();
    let mut follower = following(Target::Latest, &[offer(1, 1), offer(2, 2)]);
    load_all(&mut follower, now);
    let zombie = offer(2, 99);
    follower.notice(Notice::Offered(zombie.clone()));
    assert_eq!(follower.next(now), None);
    assert!(matches!(state(&follower, &zombie.directory), VersionState::Failed { stage: LoadStage::Announced, .. }));
    assert_eq!(state(&follower, &offer(2, 2).directory), VersionState::Serving);
    // An alias to it.
    let mut follower = following(Target::default(), &[offer(2, 2)]);
    let Offer { directory, .. } = zombie.clone();
    let pointed = Pointer { version: 2, directory, manifest_digest: digest(99) };
    follower.notice(Notice::Pointed(Some(pointed)));
    assert_eq!(follower.next(now), None);
    assert!(matches!(state(&follower, &zombie.directory), VersionState::Failed { stage: LoadStage::Announced, .. }));
    // With epochs the later writer's word counts.
    let of_epoch = |content, epoch| {
        let announced = AnnouncedAs {
            manifest_digest: digest(content),
            parent: None,
            kind: None,
            epoch: Some(epoch),
            is_passed_over: false,
            uri: None,
        };
        self::of(3, announced)
    };
    let mut follower = following(Target::Latest, &[of_epoch(98, 1), of_epoch(3, 2), of_epoch(97, 1)]);
    assert_eq!(follower.next(now).map(|offer| offer.directory), Some(offer(3, 3).directory));
}

#[test]
fn a_version_of_a_parent_that_is_not_the_topics_is_refused() {
    let now = Instant::now();
    let parent = |version, content| Some(ParentVersion { version, manifest_digest: digest(content) });
    for (of, is_refused) in [(parent(1, 1), false), (parent(1, 99), true), (parent(2, 2), true), (parent(9, 9), true)] {
        let child = with(2, |announced| announced.parent.clone_from(&of));
        // The parent may be announced again later, as abandoned for instance.
        for offers in [[offer(1, 1), child.clone()], [child.clone(), offer(1, 1)]] {
            let mut follower = following(Target::Latest, &offers);
            let served = load_all(&mut follower, now);
            assert_eq!(served, [if is_refused { 1 } else { 2 }], "{of:?}");
        }
    }
}

#[test]
fn a_newer_version_of_an_older_writer_is_refused_and_a_rollback_to_one_is_not() {
    let now = Instant::now();
    let epoch = |version, epoch| with(version, |announced| announced.epoch = Some(epoch));
    let mut follower = following(Target::default(), &[epoch(1, 1), epoch(2, 2), epoch(3, 1)]);
    follower.notice(pointer(2));
    assert_eq!(load_all(&mut follower, now), [2]);
    follower.notice(pointer(3));
    assert_eq!(load_all(&mut follower, now), [0; 0]);
    assert_eq!(follower.serving(), Some(2));
    follower.notice(pointer(1));
    assert_eq!(load_all(&mut follower, now), [1]);
}

#[test]
fn what_is_remembered_is_bounded() {
    let now = Instant::now();
    let mut follower = following(Target::Latest, &[]);
    for version in 1..=2 * OFFERS_MAX as u64 {
        follower.notice(Notice::Offered(offer(version, version)));
        if version % 7 == 0 {
            fail(&mut follower, now, false);
        }
    }
    assert_eq!(follower.offers.len(), OFFERS_MAX);
    assert!(follower.standings.len() <= STATES_MAX && follower.statuses().len() <= STATES_MAX + SHOWN_MAX);
}

#[test]
fn the_version_pinned_and_the_version_served_are_never_forgotten() {
    let now = Instant::now();
    let most = 2 * OFFERS_MAX as u64;
    let all: Vec<Offer> = (1..=most).map(|version| offer(version, version)).collect();
    assert_eq!(load_all(&mut following(Target::Pinned(3), &all), now), [3]);
    let mut alias = following(Target::default(), &all[..1]);
    alias.notice(pointer(1));
    load_all(&mut alias, now);
    for offer in &all {
        alias.notice(Notice::Offered(offer.clone()));
    }
    assert!(alias.offers.contains_key(&1) && alias.offers.len() == OFFERS_MAX);
    alias.notice(Notice::Offered(offer(1, 99)));
    assert!(matches!(state(&alias, &offer(1, 99).directory), VersionState::Failed { .. }), "it is known who has 1");
}

#[test]
fn a_retry_of_what_is_not_wanted_any_more_is_not_waited_for() {
    let now = Instant::now();
    let mut follower = following(Target::Latest, &[offer(2, 2)]);
    fail(&mut follower, now, true);
    assert!(follower.retry_at().is_some());
    follower.notice(Notice::Begun);
    assert_eq!(follower.retry_at(), None, "nothing is tried before everything is known");
    follower.notice(Notice::Offered(offer(2, 2)));
    follower.notice(Notice::CaughtUp);
    fail(&mut follower, now, true);
    follower.notice(Notice::Offered(offer(3, 3)));
    assert_eq!(load_all(&mut follower, now), [3]);
    assert_eq!(follower.retry_at(), None);
}

#[test]
fn a_hundred_versions_that_fail_come_to_an_end_and_the_next_good_one_is_served() {
    let now = Instant::now();
    let all: Vec<Offer> = (1..=100).map(|version| offer(version, version)).collect();
    let mut follower = following(Target::Latest, &all);
    let mut tried = Vec::new();
    while let Some(offer) = follower.next(now) {
        follower.failed(LoadFailure::new(LoadStage::Verifying, "bad".to_owned()), now);
        tried.push(offer.version);
        assert!(tried.len() <= 100, "none is tried twice: {tried:?}");
    }
    assert_eq!(tried, (69..=100).rev().collect::<Vec<u64>>(), "the newest");
    // What is said of others does not make it forget these.
    for version in 200..300 {
        let directory = offer(version, version).directory;
        follower.notice(Notice::Disbelieved { version, directory, reason: "two of them".to_owned() });
    }
    assert_eq!(follower.next(now), None);
    follower.notice(Notice::Offered(offer(101, 101)));
    assert_eq!(load_all(&mut follower, now), [101]);
}

#[test]
fn however_many_are_held_back_by_their_manifests_the_newest_that_is_not_is_served() {
    let now = Instant::now();
    let all: Vec<Offer> = (1..=100)
        .map(|version| Offer { version, directory: offer(version, version).directory, announced: None })
        .collect();
    let mut follower = following(Target::Latest, &all);
    for version in (2..=100).rev() {
        assert_eq!(follower.next(now).map(|offer| offer.version), Some(version));
        let reason = "it was held back".to_owned();
        let failure = LoadFailure { is_held: true, ..LoadFailure::new(LoadStage::Verifying, reason) };
        follower.failed(failure, now);
    }
    assert_eq!(load_all(&mut follower, now), [1]);
    assert_eq!(follower.next(now), None);
    assert_eq!(follower.given_up(), [""; 0], "nothing is looked at again");
    for version in 2..=100 {
        follower.notice(Notice::Withdrawn(version));
    }
    assert!(follower.held.is_empty());
}

#[test]
fn under_an_alias_the_newest_full_version_stands_in_for_a_delta_that_cannot_be_made() {
    let now = Instant::now();
    let kind = |version, kind| with(version, |announced| announced.kind = Some(kind));
    let mut abandoned = kind(4, Kind::Full);
    abandoned.announced.as_mut().expect("it is announced").is_passed_over = true;
    let offers = [
        kind(2, Kind::Full),
        kind(3, Kind::Full),
        abandoned,
        kind(5, Kind::Delta),
        kind(6, Kind::Delta),
        kind(7, Kind::Full),
    ];
    let mut follower = following(Target::default(), &offers);
    follower.notice(pointer(6));
    assert_eq!(fail(&mut follower, now, false), 6);
    assert_eq!(load_all(&mut follower, now), [3]);
    follower.forgive(&offer(6, 6).directory);
    assert_eq!(load_all(&mut follower, now), [6], "it is what the alias says, once it can be made");
    // Where something is served it is served on, and a full version has no stand-in.
    follower.notice(pointer(5));
    assert_eq!(fail(&mut follower, now, false), 5);
    assert_eq!((follower.next(now), follower.serving()), (None, Some(6)));
    let mut follower = following(Target::default(), &offers);
    follower.notice(pointer(7));
    assert_eq!(fail(&mut follower, now, false), 7);
    assert_eq!(follower.next(now), None);
}

#[test]
fn a_topic_that_was_recreated_counts_epochs_anew() {
    let now = Instant::now();
    let epoch = |version, epoch| with(version, |announced| announced.epoch = Some(epoch));
    let mut follower = following(Target::Latest, &[epoch(5, 9)]);
    assert_eq!(load_all(&mut follower, now), [5]);
    // Read again, as after a consumer that could not go on: the epoch counts as before.
    follower.notice(Notice::Begun);
    for notice in [Notice::Offered(epoch(5, 9)), Notice::Offered(epoch(6, 1)), Notice::CaughtUp] {
        follower.notice(notice);
    }
    assert_eq!(load_all(&mut follower, now), [0; 0]);
    follower.notice(Notice::Begun);
    for notice in [Notice::Offered(epoch(6, 1)), Notice::CaughtUp] {
        follower.notice(notice);
    }
    assert_eq!(load_all(&mut follower, now), [6]);
}

#[test]
fn a_topic_that_begins_anew_is_read_anew_and_the_version_served_stays() {
    let now = Instant::now();
    let mut follower = following(Target::default(), &[offer(5, 5)]);
    follower.notice(pointer(5));
    load_all(&mut follower, now);
    follower.notice(Notice::Begun);
    follower.notice(Notice::Offered(offer(5, 50)));
    follower.notice(pointer(6));
    assert_eq!((follower.next(now), follower.serving()), (None, Some(5)));
    follower.notice(Notice::CaughtUp);
    assert_eq!(load_all(&mut follower, now), [6]);
}

#[test]
fn one_that_is_fetched_in_several_tries_comes_before_newer_ones_and_after_who_points_back() {
    let now = Instant::now();
    let unfinished = || LoadFailure {
        is_transient: true,
        is_unfinished: true,
        ..LoadFailure::new(LoadStage::Fetching, "the rest is fetched next".to_owned())
    };
    let next = |follower: &mut Follower| follower.next(now).map(|offer| offer.version);
    let mut follower = following(Target::Latest, &[offer(1, 1)]);
    assert_eq!(load_all(&mut follower, now), [1]);
    follower.notice(Notice::Offered(offer(2, 2)));
    for newer in 3..6 {
        assert_eq!(next(&mut follower), Some(2), "it goes on while newer ones come");
        assert_eq!(state(&follower, &offer(2, 2).directory), VersionState::Fetching);
        follower.failed(unfinished(), now);
        follower.notice(Notice::Offered(offer(newer, newer)));
    }
    assert_eq!(load_all(&mut follower, now), [2, 5]);

    // An alias that is moved back.
    let point = |follower: &mut Follower, version: u64| {
        let Offer { directory, announced, .. } = offer(version, version);
        let manifest_digest = announced.expect("it is announced").manifest_digest;
        follower.notice(Notice::Pointed(Some(Pointer { version, directory, manifest_digest })));
    };
    let all: Vec<Offer> = (1..=5).map(|version| offer(version, version)).collect();
    let mut follower = following(Target::Alias("live".to_owned()), &all);
    point(&mut follower, 3);
    assert_eq!(load_all(&mut follower, now), [3]);
    point(&mut follower, 4);
    assert_eq!(next(&mut follower), Some(4));
    follower.failed(unfinished(), now);
    point(&mut follower, 2);
    assert_eq!(load_all(&mut follower, now), [2]);
}
