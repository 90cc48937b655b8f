//! The sled store: what was acknowledged is there after any kill, damage is seen, and one process has a directory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use deepfm_stream::feature::hash;
use deepfm_stream::snapshot::checkpoint::{Block, Section};
use deepfm_stream::store::{OutboxEntry, Saved, SledStore, Stage, Store, StoreError};

/// Names the directory in which a child process commits.
const CHILD_DIRECTORY: &str = "DEEPFM_TEST_STORE";
/// Names the stage at which a child process ends itself, and the commit in which it does.
const CHILD_STAGE: &str = "DEEPFM_TEST_STAGE";

/// The blocks of a commit, a function of its number.
fn blocks(commit: u64) -> Vec<Block> {
    let sections = [Section::Lineage, Section::Scalars, Section::Rows, Section::Rows, Section::Join];
    let block = |(index, section)| {
        let length = 1 + hash::hash(1, commit, index) % 50_000;
        let bytes = (0..length).map(|at| hash::hash(commit, index, at / 8) as u8).collect();
        Block { section, bytes }
    };
    (0_u64..).zip(sections).map(block).collect()
}

fn outbox(commit: u64) -> Vec<OutboxEntry> {
    let entry = |version: u64| OutboxEntry {
        version,
        manifest_digest: format!("{version:064x}"),
        directory: format!("{version}-0"),
        key: format!("m/v/{version}"),
        announcement: "{}".to_owned(),
        goes_live: true,
    };
    (0..commit % 3).map(|at| entry(commit + at)).collect()
}

fn load(directory: &Path) -> Result<Option<Saved>, StoreError> {
    SledStore::open(directory)?.load()
}

fn assert_is_commit(saved: &Saved, commit: u64) {
    assert_eq!(saved.commit, commit);
    assert_eq!(saved.blocks, blocks(commit), "the blocks of commit {commit}");
    if saved.fell_back.is_none() {
        assert_eq!(saved.outbox, outbox(commit), "the outbox of commit {commit}");
    }
}

/// Opens a store and commits `commits` times.
fn filled(directory: &Path, commits: u64) {
    let mut store = SledStore::open(directory).expect("nobody else has it");
    store.load().expect("it is new");
    for commit in 1..=commits {
        assert_eq!(store.commit(&blocks(commit), &outbox(commit)).expect("the disk takes it"), commit);
    }
}

#[test]
fn the_newest_commit_is_read_back_with_its_outbox() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    assert_eq!(load(directory.path()).expect("it is new"), None);
    filled(directory.path(), 7);
    let saved = load(directory.path()).expect("it is whole").expect("there are commits");
    assert_is_commit(&saved, 7);
}

#[test]
fn one_process_has_a_state_directory() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let first = SledStore::open(directory.path()).expect("nobody else has it");
    assert!(matches!(SledStore::open(directory.path()), Err(StoreError::Locked(_))));
    drop(first);
    SledStore::open(directory.path()).expect("the lock ends with its holder");
}

#[test]
fn a_store_that_came_back_empty_or_old_is_refused_and_never_taken_for_a_new_one() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    filled(directory.path(), 3);
    let old = directory.path().join("old");
    copy(&directory.path().join("base-1"), &old);
    let mut store = SledStore::open(directory.path()).expect("nobody else has it");
    store.load().expect("it is whole");
    for commit in 4..=6 {
        store.commit(&blocks(commit), &outbox(commit)).expect("the disk takes it");
    }
    drop(store);
    fs::remove_dir_all(directory.path().join("base-1")).expect("it is there");
    assert!(matches!(load(directory.path()), Err(StoreError::Damaged { .. })), "an empty store");
    copy(&old, &directory.path().join("base-1"));
    assert!(matches!(load(directory.path()), Err(StoreError::Damaged { .. })), "an old store");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the disk takes it");
    for entry in fs::read_dir(from).expect("it is there").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("the disk takes it");
        }
    }
}

#[test]
fn a_flipped_bit_is_seen_or_harmless_and_never_another_state() {
    let pristine = tempfile::tempdir().expect("a directory of our own");
    filled(pristine.path(), 3);
    let file = fs::read(pristine.path().join("base-1/db")).expect("sled's file");
    let used = file.iter().rposition(|byte| *byte != 0).expect("it is not empty");
    let (mut seen, mut harmless) = (0, 0);
    for round in 0..60 {
        let directory = tempfile::tempdir().expect("a directory of our own");
        copy(pristine.path(), directory.path());
        let mut damaged = file.clone();
        let at = (hash::hash(9, round, 0) % used as u64) as usize;
        damaged[at] ^= 1 << (round % 8);
        fs::write(directory.path().join("base-1/db"), damaged).expect("the disk takes it");
        match load(directory.path()) {
            Ok(Some(saved)) => {
                // Either the damage is in room that no longer counts, or the commit before was taken, and it says so.
                assert_is_commit(&saved, if saved.fell_back.is_some() { 2 } else { 3 });
                if saved.fell_back.is_some() { seen += 1 } else { harmless += 1 }
            }
            Ok(None) => panic!("round {round}: damage at byte {at} was taken for a new store"),
            Err(_) => seen += 1,
        }
    }
    assert!(seen > 5, "{seen} seen, {harmless} harmless");
}

/// What a child process does: commits until it is ended. Does nothing in an ordinary test run.
#[test]
fn child_commits_until_it_is_ended() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let mut store = SledStore::open_with(Path::new(&directory), end_at_stage).expect("nobody else has it");
    let mut commit = store.load().expect("what is there is whole").map_or(0, |saved| saved.commit);
    println!("acknowledged {commit}");
    while commit < 100_000 {
        commit += 1;
        assert_eq!(store.commit(&blocks(commit), &outbox(commit)).expect("the disk takes it"), commit);
        println!("acknowledged {commit}");
    }
}

fn end_at_stage(stage: Stage) {
    if std::env::var(CHILD_STAGE).is_ok_and(|wanted| wanted == format!("{stage:?}")) {
        std::process::abort();
    }
}

fn child(directory: &Path, stage: &str) -> Child {
    Command::new(std::env::current_exe().expect("this test binary"))
        .args(["integration::store::child_commits_until_it_is_ended", "--exact", "--nocapture"])
        .env(CHILD_DIRECTORY, directory)
        .env(CHILD_STAGE, stage)
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

#[test]
fn what_was_acknowledged_is_there_after_a_kill_at_any_moment() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let mut newest = 0;
    for round in 0..25 {
        let mut child = child(directory.path(), "");
        let last = acknowledged(&mut child, hash::hash(5, round, 0) % 12).expect("it says where it begins");
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
        assert!(last >= newest, "round {round}: acknowledged {newest}, then {last}");
        match load(directory.path()).expect("never damaged") {
            Some(saved) => {
                // The child may have gone on after the last line that was read.
                assert!(saved.commit >= last, "round {round}: acknowledged {last}, found {}", saved.commit);
                assert_is_commit(&saved, saved.commit);
                newest = saved.commit;
            }
            None => assert_eq!(last, 0, "round {round}"),
        }
    }
    assert!(newest > 50, "only {newest} commits in all rounds");
}

#[test]
fn a_crash_at_every_arrow_of_the_commit_leaves_the_old_state_or_the_new_one() {
    for (stage, committed) in [(Stage::BlocksSynced, 4), (Stage::Committed, 5), (Stage::Witnessed, 5)] {
        let directory = tempfile::tempdir().expect("a directory of our own");
        filled(directory.path(), 4);
        let mut child = child(directory.path(), &format!("{stage:?}"));
        assert_eq!(acknowledged(&mut child, 10), Some(4), "{stage:?}: it ends within its first commit");
        child.wait().expect("it ends");
        let saved = load(directory.path()).expect("it is whole").expect("there are commits");
        assert_is_commit(&saved, committed);
        let mut store = SledStore::open(directory.path()).expect("nobody else has it");
        store.load().expect("it is whole");
        let next = committed + 1;
        assert_eq!(store.commit(&blocks(next), &outbox(next)).expect("it goes on"), next);
    }
}

#[test]
fn disk_use_stays_bounded_over_many_rewrites() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let mut store = SledStore::open(directory.path()).expect("nobody else has it");
    store.load().expect("it is new");
    let large: Vec<Block> =
        (0..80).map(|at| Block { section: Section::Rows, bytes: vec![at as u8; 120_000] }).collect();
    for _ in 0..40 {
        store.commit(&large, &[]).expect("the disk takes it");
    }
    let bytes = size(directory.path());
    let live = 80 * 120_000;
    assert!(bytes < 14 * live + (128 << 20), "{bytes} bytes on disk for {live} live");
}

fn size(path: &Path) -> u64 {
    let entries = fs::read_dir(path).expect("it is there").flatten();
    entries
        .map(|entry| if entry.path().is_dir() { size(&entry.path()) } else { entry.metadata().map_or(0, |m| m.len()) })
        .sum()
}
