//! Processes that end at any moment, and arrows that fail or take long: what was acknowledged is there.

use std::io::{BufRead, BufReader, Error};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use deepfm_core::feature::hash;
use deepfm_core::train::Scope;
use deepfm_stream::store::{CommitStore, Stage, Store, StoreError};

use super::{assert_is_commit, effective, filled, layer, load, scope_of, wide};
use crate::support::rounds;

/// Names the directory in which a child process works.
const CHILD_DIRECTORY: &str = "DEEPFM_TEST_STORE";
/// What a child process does there: `commit`, or `open` again and again.
const CHILD_WORK: &str = "DEEPFM_TEST_WORK";
/// Names the stage at which a child process ends itself, …
const CHILD_STAGE: &str = "DEEPFM_TEST_STAGE";
/// … and at which passing of it, counted from 1.
const CHILD_PASSING: &str = "DEEPFM_TEST_PASSING";

/// Deltas that the stores here merge, so that merges are frequent.
const DELTAS_MAX: usize = 4;

/// How often the stage at which the child ends was passed.
static PASSED: AtomicU64 = AtomicU64::new(0);

/// What a child process does until it is ended. Does nothing in an ordinary test run.
#[test]
fn child_works_until_it_is_ended() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let open = || CommitStore::open_with(Path::new(&directory), DELTAS_MAX, end_at_stage).expect("nobody else has it");
    let newest =
        |store: &mut CommitStore| store.load().expect("what is there is whole").map_or(0, |saved| saved.commit);
    if std::env::var(CHILD_WORK).is_ok_and(|work| work == "open") {
        for _ in 0..100_000 {
            println!("acknowledged {}", newest(&mut open()));
        }
        return;
    }
    let mut store = open();
    let mut commit = newest(&mut store);
    println!("acknowledged {commit}");
    let is_staged = std::env::var(CHILD_STAGE).is_ok_and(|stage| !stage.is_empty());
    for _ in 0..if is_staged { 40 } else { 100_000 } {
        commit += 1;
        assert_eq!(store.commit(&layer(commit, scope_of(commit))).expect("the disk takes it"), commit);
        println!("acknowledged {commit}");
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the store asks what happened at each stage")]
fn end_at_stage(stage: Stage) -> Result<(), StoreError> {
    if std::env::var(CHILD_STAGE).is_ok_and(|wanted| wanted == format!("{stage:?}")) {
        let passing = std::env::var(CHILD_PASSING).ok().and_then(|passing| passing.parse().ok()).unwrap_or(1);
        if PASSED.fetch_add(1, Ordering::SeqCst) + 1 == passing {
            std::process::abort();
        }
    }
    Ok(())
}

fn child(directory: &Path, work: &str, stage: &str, passing: u64) -> Child {
    Command::new(std::env::current_exe().expect("this test binary"))
        .args(["integration::store::kills::child_works_until_it_is_ended", "--exact", "--nocapture"])
        .env(CHILD_DIRECTORY, directory)
        .env(CHILD_WORK, work)
        .env(CHILD_STAGE, stage)
        .env(CHILD_PASSING, passing.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test binary starts")
}

/// Reads acknowledgements until `enough` of them were seen or the child has ended; the last one.
fn acknowledged(child: &mut Child, enough: u64) -> Option<u64> {
    let output = child.stdout.take().expect("it is piped");
    let numbers = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.rsplit_once("acknowledged ").and_then(|(_, number)| number.trim().parse().ok()));
    numbers.take(1 + enough as usize).last()
}

/// Checks what a directory holds after a child in it has ended; the number of the newest commit.
fn assert_holds(directory: &Path, last: u64, round: &str) -> u64 {
    let found = load(directory).unwrap_or_else(|error| panic!("{round}: {error}"));
    let Some(saved) = found else {
        assert_eq!(last, 0, "{round}: a fresh start");
        return 0;
    };
    assert_eq!(saved.fell_back, None, "{round}");
    assert!(saved.commit >= last, "{round}: acknowledged {last}, found {}", saved.commit);
    assert_is_commit(&saved, saved.commit);
    saved.commit
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill_at_any_moment() {
    let mut directory = tempfile::tempdir().expect("a directory of our own");
    let (mut newest, mut most) = (0, 0);
    for round in 0..rounds(25, 500) as u64 {
        if round % 50 == 0 {
            (directory, newest) = (tempfile::tempdir().expect("a directory of our own"), 0);
        }
        let mut child = child(directory.path(), "commit", "", 0);
        let last = acknowledged(&mut child, hash::hash(5, round, 0) % 12).expect("it says where it begins");
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
        assert!(last >= newest, "round {round}: acknowledged {newest}, then {last}");
        newest = assert_holds(directory.path(), last, &format!("round {round}"));
        most = most.max(newest);
    }
    assert!(most > 50, "at most {most} commits in a directory");
}

#[test]
fn a_crash_at_every_arrow_leaves_the_old_state_or_the_new_one() {
    for stage in Stage::ALL {
        for passing in 1..=2 {
            let at = format!("{stage:?}, passing {passing}");
            let directory = tempfile::tempdir().expect("a directory of our own");
            filled(directory.path(), 3);
            let mut child = child(directory.path(), "commit", &format!("{stage:?}"), passing);
            let last = acknowledged(&mut child, 100).unwrap_or(3);
            let is_at_start = matches!(stage, Stage::Opened | Stage::Found | Stage::Settled);
            // A start passes its stages once.
            assert_eq!(child.wait().expect("it ends").success(), is_at_start && passing == 2, "{at}");
            let found = assert_holds(directory.path(), last, &at);
            assert!(found <= last + 1, "{at}: {last} acknowledged, {found} found");
            match stage {
                Stage::BlocksSynced | Stage::Switched => assert_eq!(found, last, "{at}: not committed"),
                Stage::Committed | Stage::Witnessed | Stage::Removed => assert_eq!(found, last + 1, "{at}: committed"),
                _ => {}
            }
            let mut store = CommitStore::open(directory.path()).expect("nobody else has it");
            store.load().expect("it is whole");
            let next = found + 1;
            assert_eq!(store.commit(&layer(next, scope_of(next))).expect("it goes on"), next, "{at}");
        }
    }
}

#[test]
fn a_thousand_kills_at_random_arrows_lose_nothing() {
    let mut directory = tempfile::tempdir().expect("a directory of our own");
    let (mut newest, mut commits, mut ended) = (0, 0, 0);
    for round in 0..rounds(40, 1000) as u64 {
        if round % 50 == 0 {
            (directory, newest) = (tempfile::tempdir().expect("a directory of our own"), 0);
        }
        let stage = Stage::ALL[(hash::hash(11, round, 0) % Stage::ALL.len() as u64) as usize];
        let passing = 1 + hash::hash(11, round, 1) % 6;
        let at = format!("round {round}, {stage:?}, passing {passing}");
        let mut child = child(directory.path(), "commit", &format!("{stage:?}"), passing);
        let last = acknowledged(&mut child, 1000).unwrap_or(newest);
        ended += u64::from(child.wait().expect("it ends").success());
        assert!(last >= newest, "{at}: acknowledged {newest}, then {last}");
        let found = assert_holds(directory.path(), last, &at);
        commits += found - newest;
        newest = found;
    }
    println!("{commits} commits, {ended} children came to their end");
    assert!(commits > 100, "only {commits} commits in all rounds");
}

#[test]
fn kills_while_opening_leave_a_store_that_opens() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let mut newest = 0;
    for round in 0..rounds(20, 500) as u64 {
        if round % 10 == 0 {
            let mut store = CommitStore::open_with(directory.path(), 40, |_| Ok(())).expect("nobody else has it");
            store.load().unwrap_or_else(|error| panic!("round {round}: {error}"));
            for _ in 0..20 {
                newest += 1;
                store.commit(&layer(newest, scope_of(newest))).expect("the disk takes it");
            }
        }
        let mut child = child(directory.path(), "open", "", 0);
        let last = acknowledged(&mut child, hash::hash(12, round, 0) % 4);
        // Opening takes a few thousand microseconds: the kill comes somewhere within.
        let mut spun = round;
        for _ in 0..hash::hash(12, round, 1) % 4_000_000 {
            spun = std::hint::black_box(hash::hash(spun, 0, 0));
        }
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
        assert_eq!(last, Some(newest), "round {round}");
        assert_eq!(assert_holds(directory.path(), newest, &format!("round {round}")), newest, "round {round}");
    }
}

/// The stage at which the stores of the tests below fail or wait, counted from 1; 0 is never.
static FAILS_AT: AtomicUsize = AtomicUsize::new(0);
static WAITS_AT: AtomicUsize = AtomicUsize::new(0);
/// Held by the test that sets them.
static ARROWS: Mutex<()> = Mutex::new(());

/// Stages that were passed.
static PROGRESS: AtomicUsize = AtomicUsize::new(0);

fn fail_or_wait_at_stage(stage: Stage) -> Result<(), StoreError> {
    PROGRESS.fetch_add(1, Ordering::SeqCst);
    let is_at =
        |chosen: &AtomicUsize| chosen.load(Ordering::SeqCst).checked_sub(1).is_some_and(|at| Stage::ALL[at] == stage);
    if is_at(&WAITS_AT) {
        // Until the other thread has passed a few stages, if there is one that goes on.
        let until = PROGRESS.load(Ordering::SeqCst) + 6;
        (0..2000).take_while(|_| PROGRESS.load(Ordering::SeqCst) < until).for_each(|_| std::thread::yield_now());
    }
    if is_at(&FAILS_AT) {
        // That there is no room speaks against no merge: there the device fails.
        let is_merging = matches!(stage, Stage::MergeBegun | Stage::Merged | Stage::MergeVerified);
        let source = Error::from_raw_os_error(if is_merging { 5 } else { 28 });
        return Err(StoreError::Io { doing: "write", path: "disk".into(), source });
    }
    Ok(())
}

#[test]
fn after_a_failure_at_any_arrow_everything_is_committed_into_a_fresh_place() {
    let _guard = ARROWS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // At a start there is no commit; and what is removed after one fails none.
    let others = [Stage::Opened, Stage::Found, Stage::Settled, Stage::Removed];
    for (at, stage) in (1..).zip(Stage::ALL).filter(|(_, stage)| !others.contains(stage)) {
        let directory = tempfile::tempdir().expect("a directory of our own");
        let mut store =
            CommitStore::open_with(directory.path(), 256, fail_or_wait_at_stage).expect("nobody else has it");
        store.load().expect("it is new");
        let mut layers = vec![wide(1, 0, 90_000, Scope::Everything)];
        store.commit(&layers[0]).expect("the disk takes it");
        FAILS_AT.store(at, Ordering::SeqCst);
        let mut commit = 2;
        // Deltas large enough to be merged, until the failure has shown.
        while store.wants() == Scope::Changes {
            assert!(commit < 200, "{stage:?}: nothing failed");
            let delta = wide(commit, 0, 20_000, Scope::Changes);
            if store.commit(&delta).is_ok() {
                layers.push(delta);
            }
            commit += 1;
        }
        FAILS_AT.store(0, Ordering::SeqCst);
        store.commit(&layers[0]).unwrap_or_else(|error| panic!("{stage:?}: everything is taken: {error}"));
        let last = wide(commit, 500, 1000, Scope::Changes);
        let number = store.commit(&last).expect("changes are taken again");
        drop(store);
        let saved = load(directory.path()).expect("it is whole").expect("there are commits");
        assert_eq!((saved.commit, saved.fell_back), (number, None), "{stage:?}");
        assert!(effective(&saved.layers) == effective(&[layers[0].clone(), last]), "{stage:?}");
    }
}

#[test]
fn a_start_that_fails_at_any_arrow_passes_nothing_over() {
    let _guard = ARROWS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (at, stage) in (1..).zip(Stage::ALL) {
        let directory = tempfile::tempdir().expect("a directory of our own");
        filled(directory.path(), 9);
        let mut store =
            CommitStore::open_with(directory.path(), DELTAS_MAX, fail_or_wait_at_stage).expect("nobody else has it");
        FAILS_AT.store(at, Ordering::SeqCst);
        let loaded = store.load();
        FAILS_AT.store(0, Ordering::SeqCst);
        drop(store);
        let is_at_start = matches!(stage, Stage::Opened | Stage::Found | Stage::Settled);
        assert_eq!(loaded.is_err(), is_at_start, "{stage:?}: {loaded:?}");
        assert_eq!(assert_holds(directory.path(), 9, &format!("{stage:?}")), 9);
    }
}

#[test]
fn an_arrow_that_takes_long_changes_nothing() {
    let _guard = ARROWS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (at, stage) in (1..).zip(Stage::ALL) {
        let directory = tempfile::tempdir().expect("a directory of our own");
        WAITS_AT.store(at, Ordering::SeqCst);
        for life in 0..2 {
            let mut store = CommitStore::open_with(directory.path(), DELTAS_MAX, fail_or_wait_at_stage).expect("ours");
            let found = store.load().unwrap_or_else(|error| panic!("{stage:?}: {error}"));
            let known = found.map_or(0, |saved| saved.commit);
            assert_eq!(known, life * 12, "{stage:?}");
            for commit in known + 1..=known + 12 {
                let number = store.commit(&layer(commit, scope_of(commit)));
                assert_eq!(number.unwrap_or_else(|error| panic!("{stage:?}: {error}")), commit);
            }
        }
        WAITS_AT.store(0, Ordering::SeqCst);
        assert_eq!(assert_holds(directory.path(), 24, &format!("{stage:?}")), 24);
    }
}
