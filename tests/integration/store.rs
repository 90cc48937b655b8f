//! The sled store: what was acknowledged is there after any kill, damage is seen, and one process has a directory.

mod simulated_disk;
mod simulation;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use deepfm_stream::feature::hash;
use deepfm_stream::snapshot::checkpoint::{Block, Layer, Section};
use deepfm_stream::store::{Saved, SledStore, Stage, Store, StoreError};
use deepfm_stream::train::Scope;

use crate::support::{copy_directory, rounds};

/// Bytes of a row of the tests' tables.
const ROW_BYTES: u32 = 104;

/// Names the directory in which a child process commits.
const CHILD_DIRECTORY: &str = "DEEPFM_TEST_STORE";
/// Names the stage at which a child process ends itself, and the commit in which it does.
const CHILD_STAGE: &str = "DEEPFM_TEST_STAGE";

/// The layer of a commit, a function of its number: some rows of a small table, some entries of a small join.
fn layer(commit: u64, scope: Scope) -> Layer {
    let mut rows = ROW_BYTES.to_le_bytes().to_vec();
    for row in 0..=hash::hash(1, commit, 0) % 40 {
        let id = if scope == Scope::Everything { row } else { hash::hash(2, commit, row) % 500 };
        rows.extend(id.to_le_bytes());
        rows.extend([7, 0, 0, 0, 1, 0, 0, 0]);
        rows.extend((0..u64::from(ROW_BYTES) - 16).map(|at| hash::hash(commit, row, at / 8) as u8));
    }
    let text = |length: u64| (0..length).map(|at| hash::hash(commit, 9, at / 8) as u8).collect();
    let block = |section, bytes| Block { section, bytes };
    let blocks = vec![
        block(Section::Lineage, text(1 + commit % 300)),
        block(Section::Scalars, text(1 + hash::hash(3, commit, 0) % 50_000)),
        block(Section::Rows, rows),
    ];
    Layer { scope, blocks }
}

/// What the layers of a checkpoint amount to: the newest scalars, and the newest form of each row.
fn effective(layers: &[Layer]) -> (Vec<Block>, BTreeMap<u64, Vec<u8>>) {
    let mut rows = BTreeMap::new();
    for block in layers.iter().flat_map(|layer| &layer.blocks).filter(|block| block.section == Section::Rows) {
        for row in block.bytes[4..].chunks_exact(ROW_BYTES as usize) {
            let id = u64::from_le_bytes(*row.first_chunk().expect("a row begins with its id"));
            rows.insert(id, row.to_vec());
        }
    }
    let newest = layers.last().expect("a checkpoint has layers");
    (newest.blocks.iter().filter(|block| block.section != Section::Rows).cloned().collect(), rows)
}

/// What the first commits amount to, when the first is of everything and the others of changes.
fn expected(commit: u64) -> (Vec<Block>, BTreeMap<u64, Vec<u8>>) {
    effective(&(1..=commit).map(|at| layer(at, scope_of(at))).collect::<Vec<_>>())
}

fn scope_of(commit: u64) -> Scope {
    if commit == 1 { Scope::Everything } else { Scope::Changes }
}

fn load(directory: &Path) -> Result<Option<Saved>, StoreError> {
    SledStore::open(directory)?.load()
}

fn assert_is_commit(saved: &Saved, commit: u64) {
    assert_eq!(saved.commit, commit);
    assert!(effective(&saved.layers) == expected(commit), "the layers of commit {commit}");
}

/// Opens a store and commits `commits` times.
fn filled(directory: &Path, commits: u64) {
    let mut store = SledStore::open(directory).expect("nobody else has it");
    store.load().expect("it is new");
    for commit in 1..=commits {
        assert_eq!(store.commit(&layer(commit, scope_of(commit))).expect("the disk takes it"), commit);
    }
}

#[test]
fn the_newest_commit_is_read_back() {
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
    copy_directory(&directory.path().join("base-1"), &old);
    let mut store = SledStore::open(directory.path()).expect("nobody else has it");
    store.load().expect("it is whole");
    for commit in 4..=6 {
        store.commit(&layer(commit, scope_of(commit))).expect("the disk takes it");
    }
    drop(store);
    fs::remove_dir_all(directory.path().join("base-1")).expect("it is there");
    assert!(matches!(load(directory.path()), Err(StoreError::Damaged { .. })), "an empty store");
    copy_directory(&old, &directory.path().join("base-1"));
    assert!(matches!(load(directory.path()), Err(StoreError::Damaged { .. })), "an old store");
}

#[test]
fn a_flipped_bit_is_seen_or_harmless_and_never_another_state() {
    let pristine = tempfile::tempdir().expect("a directory of our own");
    filled(pristine.path(), 3);
    let file = fs::read(pristine.path().join("base-1/db")).expect("sled's file");
    let used = file.iter().rposition(|byte| *byte != 0).expect("it is not empty");
    let (mut seen, mut harmless) = (0, 0);
    for round in 0..rounds(60, 1000) as u64 {
        let directory = tempfile::tempdir().expect("a directory of our own");
        copy_directory(pristine.path(), directory.path());
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
        assert_eq!(store.commit(&layer(commit, scope_of(commit))).expect("the disk takes it"), commit);
        println!("acknowledged {commit}");
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the store asks what happened at each stage")]
fn end_at_stage(stage: Stage) -> Result<(), StoreError> {
    if std::env::var(CHILD_STAGE).is_ok_and(|wanted| wanted == format!("{stage:?}")) {
        std::process::abort();
    }
    Ok(())
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
    for round in 0..rounds(25, 500) as u64 {
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
        assert_eq!(store.commit(&layer(next, scope_of(next))).expect("it goes on"), next);
    }
}

/// The stage at which the store of the test below fails, counted from 1; 0 is never.
static FAILS_AT: AtomicUsize = AtomicUsize::new(0);

const STAGES: [Stage; 6] =
    [Stage::BlocksSynced, Stage::Committed, Stage::Witnessed, Stage::Removed, Stage::Merged, Stage::MergeVerified];

fn fail_at_stage(stage: Stage) -> Result<(), StoreError> {
    let failing = FAILS_AT.load(Ordering::SeqCst).checked_sub(1).map(|at| STAGES[at]);
    if failing == Some(stage) {
        let source = std::io::Error::from_raw_os_error(28);
        return Err(StoreError::Io { doing: "write", path: "disk".into(), source });
    }
    Ok(())
}

#[test]
fn after_a_failure_at_any_arrow_everything_is_committed_into_a_fresh_place() {
    for (at, stage) in (1..).zip(STAGES) {
        let directory = tempfile::tempdir().expect("a directory of our own");
        let mut store = SledStore::open_with(directory.path(), fail_at_stage).expect("nobody else has it");
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
fn a_damaged_delta_costs_only_what_came_after_the_one_below_it() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    filled(directory.path(), 5);
    let path = directory.path().join("base-1/db");
    let mut file = fs::read(&path).expect("sled's file");
    let scalars = layer(5, Scope::Changes).blocks[1].bytes.clone();
    let wanted = &scalars[..scalars.len().min(64)];
    let at = file.windows(wanted.len()).position(|window| window == wanted).expect("the delta is in the file");
    file[at] ^= 4;
    fs::write(&path, file).expect("the disk takes it");
    let mut store = SledStore::open(directory.path()).expect("nobody else has it");
    let saved = store.load().expect("there is one that is whole").expect("there are commits");
    assert!(saved.fell_back.is_some(), "it says that it fell back");
    assert_is_commit(&saved, 4);
    assert_eq!(store.wants(), Scope::Everything, "nothing is written behind damage");
    let number = store.commit(&layer(9, Scope::Everything)).expect("the disk takes it");
    assert!(number > 5, "a number that was used is not used again: {number}");
    drop(store);
    let saved = load(directory.path()).expect("it is whole").expect("there are commits");
    assert_eq!((saved.commit, saved.fell_back), (number, None));
    assert!(effective(&saved.layers) == effective(&[layer(9, Scope::Everything)]));
}

/// A layer of consecutive rows, whose content is a function of the commit.
fn wide(commit: u64, first: u64, rows: u64, scope: Scope) -> Layer {
    let mut blocks = vec![Block { section: Section::Scalars, bytes: commit.to_le_bytes().to_vec() }];
    for block in 0..rows / 1000 {
        let mut bytes = ROW_BYTES.to_le_bytes().to_vec();
        for row in 0..1000 {
            bytes.extend((first + block * 1000 + row).to_le_bytes());
            bytes.extend([commit as u8 | 1; 96]);
        }
        blocks.push(Block { section: Section::Rows, bytes });
    }
    Layer { scope, blocks }
}

#[test]
fn deltas_are_merged_into_a_new_base_and_disk_use_stays_bounded() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let mut store = SledStore::open(directory.path()).expect("nobody else has it");
    store.load().expect("it is new");
    let mut layers = vec![wide(1, 0, 100_000, Scope::Everything)];
    store.commit(&layers[0]).expect("the disk takes it");
    let mut bases = std::collections::BTreeSet::new();
    for commit in 2..=60 {
        let delta = wide(commit, hash::hash(8, commit, 0) % 90_000, 20_000, Scope::Changes);
        store.commit(&delta).expect("the disk takes it");
        layers.push(delta);
        let live = 100_000 * 104;
        assert!(size(directory.path()) < 14 * live + (16 << 20), "{} bytes for {live} live", size(directory.path()));
        bases.extend(fs::read_dir(directory.path()).expect("it is there").flatten().map(|entry| entry.file_name()));
    }
    drop(store);
    assert!(bases.len() > 6, "few merges: {bases:?}");
    let saved = load(directory.path()).expect("it is whole").expect("there are commits");
    assert_eq!((saved.commit, saved.fell_back), (60, None));
    assert!(saved.layers.len() < 40, "{} layers", saved.layers.len());
    assert!(effective(&saved.layers) == effective(&layers), "a merge changed the checkpoint");
}

fn size(path: &Path) -> u64 {
    let entries = fs::read_dir(path).expect("it is there").flatten();
    entries
        .map(|entry| if entry.path().is_dir() { size(&entry.path()) } else { entry.metadata().map_or(0, |m| m.len()) })
        .sum()
}
