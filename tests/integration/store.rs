//! The sled store: what was acknowledged is there after any kill, damage is seen, and one process has a directory.

mod bugs;
mod damage;
mod dice;
mod disks;
mod kills;
mod learning;
mod planned_disk;
mod power;
mod room;
mod simulated_disk;
mod simulation;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use deepfm_core::checkpoint::{Block, Layer, Section};
use deepfm_core::feature::hash;
use deepfm_core::train::Scope;
use deepfm_stream::store::{CommitStore, Saved, Store, StoreError};

use crate::support::copy_directory;

/// Bytes of a row of the tests' tables.
const ROW_BYTES: u32 = 104;

/// The layer of a commit, a function of its number: some rows of a small table, some entries of a small join.
fn layer(commit: u64, scope: Scope) -> Layer {
    let mut rows = ROW_BYTES.to_le_bytes().to_vec();
    for row in 0..=hash::hash(1, commit, 0) % 40 {
        let id = if scope == Scope::Everything { row } else { (hash::hash(2, commit, 0) % 500 + row * 7) % 500 };
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

/// What a checkpoint amounts to: blocks of the newest layer, and rows by id.
type Effective = (Vec<Block>, BTreeMap<u64, Vec<u8>>);

/// What the layers of a checkpoint amount to: the newest scalars, and the newest form of each row.
fn effective(layers: &[Layer]) -> Effective {
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
fn expected(commit: u64) -> Effective {
    effective(&(1..=commit).map(|at| layer(at, scope_of(at))).collect::<Vec<_>>())
}

fn scope_of(commit: u64) -> Scope {
    if commit == 1 { Scope::Everything } else { Scope::Changes }
}

fn load(directory: &Path) -> Result<Option<Saved>, StoreError> {
    CommitStore::open(directory)?.load()
}

fn assert_is_commit(saved: &Saved, commit: u64) {
    assert_eq!(saved.commit, commit);
    assert!(effective(&saved.layers) == expected(commit), "the layers of commit {commit}");
}

/// Opens a store and commits `commits` times.
fn filled(directory: &Path, commits: u64) {
    let mut store = CommitStore::open(directory).expect("nobody else has it");
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
    let first = CommitStore::open(directory.path()).expect("nobody else has it");
    assert!(matches!(CommitStore::open(directory.path()), Err(StoreError::Locked(_))));
    drop(first);
    CommitStore::open(directory.path()).expect("the lock ends with its holder");
}

#[test]
fn a_store_that_came_back_empty_or_old_is_refused_and_never_taken_for_a_new_one() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    filled(directory.path(), 3);
    let old = directory.path().join("old");
    copy_directory(&directory.path().join("base-1"), &old);
    let mut store = CommitStore::open(directory.path()).expect("nobody else has it");
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
