//! Disks that are full, read-only or fail: errors and not hangs, and disk use within its bound.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use deepfm_core::checkpoint::Layer;
use deepfm_core::feature::hash;
use deepfm_core::train::Scope;
use deepfm_stream::store::{CommitStore, Stage, Store, StoreError};

use super::planned_disk::{Plan, PlannedDisk, planned};
use super::{Effective, assert_is_commit, effective, filled, load, wide};
use crate::support::disk::SmallDisk;
use crate::support::{copy_directory, rounds};

/// sled hangs for 20 seconds when a failed database is dropped: everything here is far from that.
const PROMPT: Duration = Duration::from_secs(10);

/// The stated bound of disk use: three databases at worst, two kept and one being merged, the kept ones with deltas of up
/// to three times their base (or 12 MiB); sled makes half as much again of it at most.
fn bound(state: u64) -> u64 {
    14 * state + (80 << 20)
}

/// Commits a state and changes of it; what the directory took at most.
fn most_used(directory: &Path, state_rows: u64, delta_rows: u64, commits: u64) -> u64 {
    let mut store = CommitStore::open(directory).expect("nobody else has it");
    store.load().expect("it is new");
    store.commit(&wide(1, 0, state_rows, Scope::Everything)).expect("the disk takes it");
    let mut most = 0;
    for commit in 2..=commits {
        let first = hash::hash(8, commit, 0) % (state_rows - delta_rows);
        store.commit(&wide(commit, first, delta_rows, Scope::Changes)).expect("the disk takes it");
        most = most.max(size(directory));
    }
    most
}

#[test]
fn a_thousand_checkpoints_keep_disk_use_within_its_bound() {
    for (rows, delta, commits) in [(10_000, 1000, rounds(150, 1000)), (300_000, 15_000, rounds(90, 300))] {
        let directory = tempfile::tempdir().expect("a directory of our own");
        let most = most_used(directory.path(), rows, delta, commits as u64);
        let state = rows * 104;
        println!("{commits} checkpoints of {state} bytes took {most}");
        assert!(most < bound(state), "{commits} checkpoints of {state} bytes took {most}");
        // Nothing is in the files that sled does not sync.
        for name in fs::read_dir(directory.path()).expect("it is there").flatten() {
            let blobs = fs::read_dir(name.path().join("blobs")).map_or(0, Iterator::count);
            assert_eq!(blobs, 0, "{:?} has blobs", name.path());
        }
    }
}

/// Bytes of a base and as large a delta, and what their directory takes.
fn written_and_taken() -> (u64, u64) {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let mut store = CommitStore::open(directory.path()).expect("nobody else has it");
    store.load().expect("it is new");
    let layers = [(1, Scope::Everything), (2, Scope::Changes)].map(|(commit, scope)| wide(commit, 0, 300_000, scope));
    for layer in &layers {
        store.commit(layer).expect("the disk takes it");
    }
    (layers.iter().map(Layer::bytes).sum(), size(directory.path()))
}

/// Where sled is kept from its turn it takes more, but never less: so the least of a few counts.
#[test]
fn what_is_written_takes_hardly_more_than_it_is() {
    let (written, taken) = (0..3).map(|_| written_and_taken()).min().expect("there are three");
    println!("{written} bytes took {taken}");
    assert!(taken as f64 <= 1.3 * written as f64, "{written} bytes took {taken}");
}

#[test]
fn whoever_gives_up_reading_lets_go_of_the_database() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let plan = Plan::new(usize::MAX);
    let mut store = planned(directory.path(), &plan, 64, |_| Ok(()));
    store.commit(&wide(1, 0, 4000, Scope::Everything)).expect("the disk takes it");
    let given_up = store.reader().expect("there is a checkpoint")(&mut |_| Err(StoreError::GivenUp));
    assert!(matches!(given_up, Err(StoreError::GivenUp)), "{given_up:?}");
    assert_eq!(plan.handles.load(Ordering::SeqCst), 1, "the store's own");
    assert_eq!(store.wants(), Scope::Changes);
    store.commit(&wide(2, 0, 1000, Scope::Changes)).expect("nothing has failed");
    drop(store);
    assert_eq!(plan.handles.load(Ordering::SeqCst), 0);
}

#[test]
fn changes_that_find_no_room_go_with_the_next_ones_and_do_not_ask_for_room_for_everything() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let plan = Plan::new(usize::MAX);
    let mut store = planned(directory.path(), &plan, 64, |_| Ok(()));
    let mut layers = vec![wide(1, 0, 100_000, Scope::Everything)];
    store.commit(&layers[0]).expect("the disk takes it");
    // Room for what every commit must find, and for four times nothing.
    plan.available.store(16 << 20, Ordering::SeqCst);
    for commit in 2..5 {
        layers.push(wide(commit, 1000 * commit, 2000, Scope::Changes));
        let full = store.commit(layers.last().expect("it was pushed"));
        assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
        assert_eq!(store.wants(), Scope::Changes, "what changed is less than everything");
    }
    // 10 MB more is room for these changes, and for no base of 10 MB.
    plan.available.store(26 << 20, Ordering::SeqCst);
    layers.push(wide(5, 50_000, 1000, Scope::Changes));
    let number = store.commit(layers.last().expect("it was pushed")).expect("there is room for what changed");
    drop(store);
    let saved = load(directory.path()).expect("it is whole").expect("there are commits");
    assert_eq!((saved.commit, saved.fell_back), (number, None));
    assert!(effective(&saved.layers) == effective(&layers), "nothing of what found no room is lost");
}

#[test]
fn changes_that_wait_for_room_give_way_to_everything_when_they_are_as_much() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let plan = Plan::new(usize::MAX);
    let mut store = planned(directory.path(), &plan, 64, |_| Ok(()));
    store.commit(&wide(1, 0, 10_000, Scope::Everything)).expect("the disk takes it");
    plan.available.store(0, Ordering::SeqCst);
    let tries = (2..20).take_while(|commit| {
        store.commit(&wide(*commit, 0, 3000, Scope::Changes)).is_err() && store.wants() == Scope::Changes
    });
    assert_eq!(tries.count(), 3, "a base of 10,000 rows is less than 12,000 changed ones");
    plan.available.store(u64::MAX, Ordering::SeqCst);
    let whole = wide(30, 0, 10_000, Scope::Everything);
    store.commit(&whole).expect("there is room");
    assert_eq!(store.wants(), Scope::Changes);
    drop(store);
    let saved = load(directory.path()).expect("it is whole").expect("there are commits");
    assert!(effective(&saved.layers) == effective(&[whole]), "what waited is not added to everything");
}

#[test]
fn a_commit_is_not_failed_by_what_comes_after_it() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let fails = |stage| match stage {
        Stage::Removed => {
            Err(StoreError::Io { doing: "remove", path: "disk".into(), source: std::io::ErrorKind::Other.into() })
        }
        _ => Ok(()),
    };
    let mut store = CommitStore::open_with(directory.path(), 4, fails).expect("nobody else has it");
    store.load().expect("it is new");
    for commit in 1..=5 {
        let scope = store.wants();
        assert_eq!(scope == Scope::Everything, commit == 1, "commit {commit}");
        assert_eq!(store.commit(&wide(commit, 0, 2000, scope)).expect("it is durable"), commit);
    }
}

#[test]
fn witnesses_that_cannot_be_read_are_no_damage() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    filled(directory.path(), 3);
    let plan = Plan::new(usize::MAX);
    // Too many open files, an error of the device.
    for error in [24, 5] {
        plan.unreadable.store(error, Ordering::SeqCst);
        let disk = CommitStore::disk(directory.path()).expect("nobody else has it");
        let disk = PlannedDisk { disk, plan: Arc::clone(&plan) };
        let loaded = CommitStore::on(Arc::new(disk), 64, |_| Ok(())).load();
        assert!(matches!(loaded, Err(StoreError::Io { doing: "read", .. })), "{error}: {loaded:?}");
    }
    plan.unreadable.store(0, Ordering::SeqCst);
    assert_is_commit(&load(directory.path()).expect("it is whole").expect("there are commits"), 3);
}

#[test]
fn a_block_that_cannot_be_read_costs_only_the_delta_that_it_is_of_and_what_came_after() {
    let pristine = tempfile::tempdir().expect("a directory of our own");
    filled(pristine.path(), 6);
    for whole in 0..6_usize {
        let directory = tempfile::tempdir().expect("a directory of our own");
        copy_directory(pristine.path(), directory.path());
        let plan = Plan::new(usize::MAX);
        // Each layer has three blocks.
        plan.readable.store(3 * whole + whole % 3, Ordering::SeqCst);
        let disk = CommitStore::disk(directory.path()).expect("nobody else has it");
        let mut store = CommitStore::on(Arc::new(PlannedDisk { disk, plan: Arc::clone(&plan) }), 64, |_| Ok(()));
        let loaded = store.load();
        if whole == 0 {
            assert!(matches!(loaded, Err(StoreError::Damaged { .. })), "{loaded:?}");
            continue;
        }
        let saved = loaded.unwrap_or_else(|error| panic!("{whole}: {error}")).expect("there are commits");
        assert!(saved.fell_back.is_some(), "{whole}: it says that it fell back");
        assert_is_commit(&saved, whole as u64);
        plan.readable.store(usize::MAX, Ordering::SeqCst);
        let everything = wide(9, 0, 1000, Scope::Everything);
        let number = store.commit(&everything).expect("the disk takes it");
        assert!(number > 6, "{whole}: a number that was used is not used again: {number}");
        drop(store);
        let saved = load(directory.path()).expect("it is whole").expect("there are commits");
        assert_eq!((saved.commit, saved.fell_back), (number, None), "{whole}");
        assert!(effective(&saved.layers) == effective(&[everything]), "{whole}");
    }
}

#[test]
fn a_store_that_ends_does_not_wait_for_a_merge() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let merges_slowly = |stage| {
        if stage == Stage::MergeBegun {
            MERGES.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    };
    let mut store = CommitStore::open_with(directory.path(), 4, merges_slowly).expect("nobody else has it");
    store.load().expect("it is new");
    store.commit(&wide(1, 0, 300_000, Scope::Everything)).expect("the disk takes it");
    let mut commit = 1;
    while MERGES.load(Ordering::SeqCst) == 0 {
        commit += 1;
        store.commit(&wide(commit, 0, 1000, Scope::Changes)).expect("the disk takes it");
    }
    store.end_soon();
    for _ in 0..12 {
        commit += 1;
        store.commit(&wide(commit, 0, 1000, Scope::Changes)).expect("the disk takes it");
    }
    drop(store);
    assert_eq!(MERGES.load(Ordering::SeqCst), 1, "none is begun at the end");
    let saved = load(directory.path()).expect("it is whole").expect("there are commits");
    assert_eq!((saved.commit, saved.layers.len() as u64), (commit, commit), "nothing was merged");
}

/// Merges that were begun by the store of one test.
static MERGES: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_database_that_failed_is_never_written_again_and_everything_goes_into_a_fresh_one() {
    for fails_at in (1..).step_by(rounds(7, 1)).take_while(|at| *at < 140) {
        let directory = tempfile::tempdir().expect("a directory of our own");
        let start = Instant::now();
        let plan = Plan::new(fails_at);
        let disk = CommitStore::disk(directory.path()).expect("nobody else has it");
        let disk = Arc::new(PlannedDisk { disk, plan: Arc::clone(&plan) });
        let mut store = CommitStore::on(disk, 4, |_| Ok(()));
        store.load().expect("it is new");
        let (mut layers, mut failed, mut last) = (Vec::new(), 0, 0);
        for commit in 1..=20 {
            let scope = store.wants();
            let layer = wide(commit, 0, if scope == Scope::Everything { 4000 } else { 1000 }, scope);
            if scope == Scope::Everything {
                layers.clear();
            }
            match store.commit(&layer) {
                Ok(number) => {
                    assert!(number > last, "{fails_at}: {number} after {last}");
                    last = number;
                    layers.push(layer);
                }
                Err(_) => failed += 1,
            }
        }
        drop(store);
        assert!(start.elapsed() < PROMPT, "{fails_at}: took {:?}", start.elapsed());
        assert!(failed <= 1, "{fails_at}: {failed} commits failed");
        assert_eq!(plan.after_failure.load(Ordering::SeqCst), 0, "{fails_at}: a failed database was used");
        let saved = load(directory.path()).unwrap_or_else(|error| panic!("{fails_at}: {error}")).expect("commits");
        assert_eq!((saved.commit, saved.fell_back), (last, None), "{fails_at}");
        assert!(effective(&saved.layers) == effective(&layers), "{fails_at}");
    }
}

#[test]
fn a_full_disk_is_an_error_and_the_next_commit_with_room_is_whole() {
    let Some(small) = SmallDisk::mount("size=48m") else {
        println!("skipped: a full disk: mounting a small disk is not allowed here");
        return;
    };
    let root = small.path().join("state");
    let filler = small.path().join("filler");
    let start = Instant::now();
    let plan = Plan::new(usize::MAX);
    let disk = PlannedDisk { disk: CommitStore::disk(&root).expect("nobody else has it"), plan };
    let mut store = CommitStore::on(Arc::new(disk), 64, |_| Ok(()));
    store.load().expect("it is new");
    store.commit(&wide(1, 0, 10_000, Scope::Everything)).expect("there is room");
    fs::write(&filler, vec![1; 30 << 20]).expect("there is room");
    let mut commit = 1;
    while store.wants() == Scope::Changes {
        commit += 1;
        assert!(commit < 100, "the disk is never full");
        let _ = store.commit(&wide(commit, 0, 10_000, Scope::Changes));
    }
    assert!(store.commit(&wide(100, 0, 100_000, Scope::Everything)).is_err(), "there is no room for everything");
    assert!(start.elapsed() < PROMPT, "took {:?}", start.elapsed());
    fs::remove_file(&filler).expect("it is there");
    let whole = wide(101, 0, 10_000, Scope::Everything);
    let number = store.commit(&whole).expect("there is room again");
    assert_eq!(load_elsewhere(&root).expect("commits"), (number, effective(std::slice::from_ref(&whole))));
}

#[test]
fn a_read_only_disk_is_an_error_and_nothing_is_passed_over() {
    let Some(small) = SmallDisk::mount("size=48m") else {
        println!("skipped: a read-only disk: mounting a small disk is not allowed here");
        return;
    };
    filled(small.path(), 5);
    assert!(small.mount_again("remount,ro"), "nothing there is open");
    let start = Instant::now();
    assert!(matches!(load(small.path()), Err(StoreError::Io { .. })));
    assert!(start.elapsed() < PROMPT, "took {:?}", start.elapsed());
    assert!(small.mount_again("remount,rw"));
    assert_is_commit(&load(small.path()).expect("it is whole").expect("there are commits"), 5);
}

/// What a copy of a directory holds, while databases in it are still open.
fn load_elsewhere(root: &Path) -> Option<(u64, Effective)> {
    let copy = tempfile::tempdir().expect("a directory of our own");
    copy_directory(root, copy.path());
    let saved = load(copy.path()).expect("it is whole")?;
    Some((saved.commit, effective(&saved.layers)))
}

#[test]
fn deltas_are_merged_into_a_new_base() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let mut store = CommitStore::open(directory.path()).expect("nobody else has it");
    store.load().expect("it is new");
    let mut layers = vec![wide(1, 0, 100_000, Scope::Everything)];
    store.commit(&layers[0]).expect("the disk takes it");
    let mut bases = BTreeSet::new();
    for commit in 2..=60 {
        let delta = wide(commit, hash::hash(8, commit, 0) % 90_000, 20_000, Scope::Changes);
        store.commit(&delta).expect("the disk takes it");
        layers.push(delta);
        let used = size(directory.path());
        assert!(used < bound(100_000 * 104), "{used} bytes");
        bases.extend(fs::read_dir(directory.path()).expect("it is there").flatten().map(|entry| entry.file_name()));
    }
    drop(store);
    assert!(bases.len() > 6, "few merges: {bases:?}");
    let saved = load(directory.path()).expect("it is whole").expect("there are commits");
    assert_eq!((saved.commit, saved.fell_back), (60, None));
    assert!(saved.layers.len() < 40, "{} layers", saved.layers.len());
    assert!(effective(&saved.layers) == effective(&layers), "a merge changed the checkpoint");
}

pub(super) fn size(path: &Path) -> u64 {
    let entries = fs::read_dir(path).expect("it is there").flatten();
    entries
        .map(|entry| if entry.path().is_dir() { size(&entry.path()) } else { entry.metadata().map_or(0, |m| m.len()) })
        .sum()
}
