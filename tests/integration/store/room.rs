//! Disks with little room: nobody's databases make room for checkpoints, and merges give way to them.

use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use deepfm_core::checkpoint::Layer;
use deepfm_core::train::Scope;
use deepfm_stream::store::{CommitStore, Stage, Store};

use super::planned_disk::{Plan, failure, planned};
use super::{assert_is_commit, effective, filled, load, wide};
use crate::support::copy_directory;

/// The room that a commit of changes or everything asks for.
fn needed(layer: &Layer) -> u64 {
    2 * layer.bytes() + (16 << 20)
}

#[test]
fn what_a_checkpoint_of_everything_left_when_it_failed_makes_room_for_the_next() {
    static FAILS: AtomicBool = AtomicBool::new(false);
    let fails_once = |stage| match stage {
        Stage::BlocksSynced if FAILS.swap(false, Ordering::SeqCst) => Err(failure(5)),
        _ => Ok(()),
    };
    let directory = tempfile::tempdir().expect("a directory of our own");
    let plan = Plan::new(usize::MAX);
    let mut store = planned(directory.path(), &plan, 64, fails_once);
    let whole = wide(1, 0, 10_000, Scope::Everything);
    store.commit(&whole).expect("there is room");
    FAILS.store(true, Ordering::SeqCst);
    store.commit(&whole).expect_err("it is cut short");
    assert!(directory.path().join("base-2").exists(), "what is left of it");
    plan.available.store(needed(&whole) - 1, Ordering::SeqCst);
    let whole = wide(3, 0, 10_000, Scope::Everything);
    let number = store.commit(&whole).expect("what was left is removed");
    assert!(!directory.path().join("base-2").exists() && directory.path().join("base-3").exists());
    drop(store);
    let saved = load(directory.path()).expect("it is whole").expect("there are commits");
    assert_eq!((saved.commit, saved.fell_back), (number, None));
    assert!(effective(&saved.layers) == effective(&[whole]));
}

#[test]
fn a_merge_gives_way_to_changes_that_find_no_room() {
    static MERGED: Barrier = Barrier::new(2);
    static MERGES: AtomicUsize = AtomicUsize::new(0);
    let tells = |stage| {
        if stage == Stage::MergeVerified && MERGES.fetch_add(1, Ordering::SeqCst) == 0 {
            MERGED.wait();
        }
        Ok(())
    };
    let directory = tempfile::tempdir().expect("a directory of our own");
    let plan = Plan::new(usize::MAX);
    let mut store = planned(directory.path(), &plan, 4, tells);
    let mut layers = vec![wide(1, 0, 10_000, Scope::Everything)];
    layers.extend((2..=6).map(|commit| wide(commit, 500 * commit, 1000, Scope::Changes)));
    for layer in &layers[..5] {
        store.commit(layer).expect("there is room");
    }
    MERGED.wait();
    plan.available.store(needed(&layers[5]) - 1, Ordering::SeqCst);
    store.commit(&layers[5]).expect("the merge has given way");
    assert_eq!(store.wants(), Scope::Changes);
    assert!(!directory.path().join("base-2").exists(), "it was removed");
    drop(store);
    let saved = load(directory.path()).expect("it is whole").expect("there are commits");
    assert_eq!((saved.commit, saved.layers.len()), (6, 6), "nothing was merged");
    assert!(effective(&saved.layers) == effective(&layers));
}

#[test]
fn a_start_removes_what_a_run_that_was_killed_has_left() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    filled(directory.path(), 3);
    copy_directory(&directory.path().join("base-1"), &directory.path().join("base-2"));
    assert_is_commit(&load(directory.path()).expect("it is whole").expect("there are commits"), 3);
    assert!(directory.path().join("base-1").exists() && !directory.path().join("base-2").exists());
}

#[test]
fn what_was_fallen_back_from_stays_until_a_commit_and_is_all_that_stays() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    filled(directory.path(), 3);
    let has = |name: &str| directory.path().join(name).exists();
    let mut store = CommitStore::open(directory.path()).expect("nobody else has it");
    store.load().expect("it is whole");
    assert_eq!(store.commit(&wide(4, 0, 1000, Scope::Everything)).expect("the disk takes it"), 4);
    drop(store);
    fs::remove_dir_all(directory.path().join("base-2")).expect("it is there");
    fs::create_dir(directory.path().join("base-2")).expect("it is gone");
    let falls_back = |store: &mut CommitStore| {
        let saved = store.load().expect("the one before is whole").expect("there are commits");
        assert!(saved.fell_back.is_some());
        assert_is_commit(&saved, 3);
        assert!(has("base-1") && has("base-2"), "somebody may want to look into it");
    };
    falls_back(&mut CommitStore::open(directory.path()).expect("nobody else has it"));
    copy_directory(&directory.path().join("base-1"), &directory.path().join("base-5"));
    let mut store = CommitStore::open(directory.path()).expect("nobody else has it");
    falls_back(&mut store);
    assert!(!has("base-5"), "a commit that was cut short after the fall");
    store.commit(&wide(9, 0, 1000, Scope::Everything)).expect("the disk takes it");
    assert!(has("base-1") && !has("base-2"));
}

/// What the commits of a store hold whose merges fail with an error of the operating system.
fn scopes_beside_merges<const ERROR: i32>() -> Vec<Scope> {
    let fails = |stage| if stage == Stage::Merged { Err(failure(ERROR)) } else { Ok(()) };
    let directory = tempfile::tempdir().expect("a directory of our own");
    let mut store = CommitStore::open_with(directory.path(), 3, fails).expect("nobody else has it");
    store.load().expect("it is new");
    let commit = |commit| {
        let scope = store.wants();
        assert_eq!(store.commit(&wide(commit, 0, 2000, scope)).expect("it is durable"), commit);
        scope
    };
    (1..=12).map(commit).collect()
}

#[test]
fn a_merge_that_finds_no_room_asks_for_no_checkpoint_of_everything() {
    let is_everything = |scope: &&Scope| **scope == Scope::Everything;
    assert_eq!(scopes_beside_merges::<28>().iter().filter(is_everything).count(), 1, "the first");
    let bad = scopes_beside_merges::<5>();
    assert!(bad.iter().filter(is_everything).count() > 1, "the base may be damaged: {bad:?}");
}

#[test]
fn a_merged_base_is_not_gone_over_to_while_there_is_no_room_for_the_deltas_since() {
    static MERGED: Barrier = Barrier::new(2);
    static MERGES: AtomicUsize = AtomicUsize::new(0);
    let waits = |stage| {
        if stage == Stage::MergeVerified && MERGES.fetch_add(1, Ordering::SeqCst) == 0 {
            MERGED.wait();
        }
        Ok(())
    };
    let directory = tempfile::tempdir().expect("a directory of our own");
    let plan = Plan::new(usize::MAX);
    let mut store = planned(directory.path(), &plan, 4, waits);
    let mut layers = vec![wide(1, 0, 10_000, Scope::Everything)];
    layers.extend((2..=5).map(|commit| wide(commit, 500 * commit, 1000, Scope::Changes)));
    // Since the merge began: 20 MB. After the second of them the next commit waits for the merge.
    layers.extend((6..=7).map(|commit| wide(commit, 0, 100_000, Scope::Changes)));
    layers.extend((8..=9).map(|commit| wide(commit, 500 * commit, 1000, Scope::Changes)));
    for layer in &layers[..7] {
        store.commit(layer).expect("there is room");
    }
    MERGED.wait();
    plan.available.store(needed(&layers[7]) + (1 << 20), Ordering::SeqCst);
    store.commit(&layers[7]).expect("there is room where the others are");
    assert_eq!(store.wants(), Scope::Changes);
    plan.available.store(u64::MAX, Ordering::SeqCst);
    store.commit(&layers[8]).expect("there is room");
    drop(store);
    let saved = load(directory.path()).expect("it is whole").expect("there are commits");
    assert_eq!((saved.commit, saved.layers.len()), (9, 5), "what was merged, and the four since");
    assert!(effective(&saved.layers) == effective(&layers));
}
