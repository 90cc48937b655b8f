//! Damage on the disk: it is seen, or harmless, and never another state in silence.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use deepfm_core::checkpoint::{Block, Layer, Section};
use deepfm_core::feature::hash;
use deepfm_core::train::Scope;
use deepfm_stream::store::{CommitStore, Disk as _, Stage, Store, StoreError};

use super::{Effective, assert_is_commit, effective, expected, filled, layer, load, scope_of, wide};
use crate::support::{copy_directory, rounds};

/// How damage was met.
#[derive(Debug, Default)]
struct Figures {
    harmless: AtomicUsize,
    fell_back: AtomicUsize,
    refused: AtomicUsize,
}

/// A directory of commits, and what each of them amounts to.
struct Pristine {
    directory: tempfile::TempDir,
    commits: Vec<Effective>,
}

impl Pristine {
    fn new(layers: &[Layer]) -> Self {
        let directory = tempfile::tempdir().expect("a directory of our own");
        let mut store = CommitStore::open(directory.path()).expect("nobody else has it");
        store.load().expect("it is new");
        for layer in layers {
            store.commit(layer).expect("the disk takes it");
        }
        let commits = (1..=layers.len()).map(|end| effective(&layers[..end])).collect();
        Self { directory, commits }
    }

    /// The files with something in them, as their names, and where that ends.
    fn files(&self) -> Vec<(PathBuf, usize)> {
        let mut left = vec![self.directory.path().to_owned()];
        let mut found = Vec::new();
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).expect("it is there").flatten() {
                if entry.path().is_dir() {
                    left.push(entry.path());
                } else {
                    let bytes = fs::read(entry.path()).expect("it is there");
                    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                    found.push((entry.path().strip_prefix(self.directory.path()).expect("it is below").into(), used));
                }
            }
        }
        found.sort();
        found
    }

    /// Loads a copy in which a file was damaged.
    fn try_with(&self, name: &Path, damage: impl Fn(&mut Vec<u8>), what: &str, figures: &Figures) {
        let directory = tempfile::tempdir().expect("a directory of our own");
        copy_directory(self.directory.path(), directory.path());
        let path = directory.path().join(name);
        let mut bytes = fs::read(&path).expect("it is there");
        damage(&mut bytes);
        fs::write(&path, bytes).expect("the disk takes it");
        let file = name.display();
        let met = match load(directory.path()) {
            Ok(None) => panic!("{what} of {file}: taken for a new store"),
            Ok(Some(saved)) => {
                let expected = &self.commits[saved.commit as usize - 1];
                assert!(effective(&saved.layers) == *expected, "{what} of {file}: commit {} changed", saved.commit);
                if saved.fell_back.is_some() {
                    &figures.fell_back
                } else {
                    let newest = self.commits.len() as u64;
                    assert_eq!(saved.commit, newest, "{what} of {file}: older in silence");
                    &figures.harmless
                }
            }
            Err(_) => &figures.refused,
        };
        met.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn every_byte_of_a_small_checkpoint_may_rot() {
    let small = |commit: u64, scope| {
        let mut rows = 24_u32.to_le_bytes().to_vec();
        rows.extend([commit as u8; 24]);
        let blocks = [(Section::Lineage, vec![commit as u8; 9]), (Section::Scalars, vec![3; 7]), (Section::Rows, rows)];
        Layer { scope, blocks: blocks.map(|(section, bytes)| Block { section, bytes }).to_vec() }
    };
    let layers = [small(1, Scope::Everything), small(2, Scope::Changes), small(3, Scope::Changes)];
    let pristine = Pristine::new(&layers);
    let places: Vec<(PathBuf, usize)> =
        pristine.files().iter().flat_map(|(name, used)| (0..*used).map(move |at| (name.clone(), at))).collect();
    let step = rounds(places.len() / 150, 1);
    let chosen: Vec<&(PathBuf, usize)> = places.iter().step_by(step).collect();
    let figures = Figures::default();
    std::thread::scope(|scope| {
        for half in chosen.chunks(chosen.len().div_ceil(2)) {
            let (pristine, figures) = (&pristine, &figures);
            scope.spawn(move || {
                for (name, at) in half {
                    let bit = hash::hash(14, *at as u64, 0) % 8;
                    pristine.try_with(
                        name,
                        |bytes| bytes[*at] ^= 1 << bit,
                        &format!("bit {bit} of byte {at}"),
                        figures,
                    );
                }
            });
        }
    });
    println!("{} of {} bytes: {figures:?}", chosen.len(), places.len());
    assert!(figures.fell_back.into_inner() + figures.refused.into_inner() > 5);
}

#[test]
fn flips_and_truncations_of_a_large_checkpoint_are_seen_or_harmless() {
    let mut layers = vec![wide(1, 0, 50_000, Scope::Everything)];
    layers.extend((2..=5).map(|commit| wide(commit, 10_000 * (commit - 2), 5000, Scope::Changes)));
    let pristine = Pristine::new(&layers);
    let files = pristine.files();
    let figures = Figures::default();
    for round in 0..rounds(40, 1000) as u64 {
        // Mostly the database, now and then one of the small files.
        let other = &files[(hash::hash(15, round, 0) % files.len() as u64) as usize];
        let largest = files.iter().max_by_key(|(_, used)| *used).expect("there are files");
        let (name, used) = if round % 8 == 7 { other } else { largest };
        let at = (hash::hash(15, round, 1) % (*used as u64).max(1)) as usize;
        let what = format!("round {round}, byte {at}");
        if round % 4 == 3 {
            pristine.try_with(name, |bytes| bytes.truncate(at), &what, &figures);
        } else {
            pristine.try_with(name, |bytes| bytes[at] ^= 1 << (round % 8), &what, &figures);
        }
    }
    println!("{figures:?}");
    assert!(figures.fell_back.into_inner() + figures.refused.into_inner() > 5);
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
    let mut store = CommitStore::open(directory.path()).expect("nobody else has it");
    let saved = store.load().expect("there is one that is whole").expect("there are commits");
    assert!(saved.fell_back.is_some(), "it says that it fell back");
    let (read, mut blocks) = (store.reader().expect("what was fallen back to can be exported"), Vec::new());
    let taken = read(&mut |block| {
        blocks.push(block);
        Ok(())
    });
    taken.expect("it is whole");
    assert!(effective(&[Layer { scope: Scope::Everything, blocks }]) == expected(4), "the export of it");
    assert_is_commit(&saved, 4);
    assert_eq!(store.wants(), Scope::Everything, "nothing is written behind damage");
    let number = store.commit(&layer(9, Scope::Everything)).expect("the disk takes it");
    assert!(number > 5, "a number that was used is not used again: {number}");
    drop(store);
    let saved = load(directory.path()).expect("it is whole").expect("there are commits");
    assert_eq!((saved.commit, saved.fell_back), (number, None));
    assert!(effective(&saved.layers) == effective(&[layer(9, Scope::Everything)]));
}

/// Flips a bit of a block of a commit, where sled's own checksums do not see it.
fn damage_block(root: &Path, name: &str, commit: u64) {
    let database = CommitStore::disk(root).expect("nobody else has it").open(name).expect("it is whole");
    let mut blocks = Vec::new();
    let scanned = database.scan(&commit.to_be_bytes(), &mut |key, value| {
        blocks.push((key.to_vec(), value));
        ControlFlow::Continue(())
    });
    scanned.expect("it is whole");
    blocks.truncate(1);
    blocks[0].1[0] ^= 4;
    database.insert(&blocks).and_then(|()| database.sync()).expect("the disk takes it");
}

#[test]
fn a_damaged_commit_that_nobody_was_told_of_costs_nothing_that_was_acknowledged() {
    static SWITCHED: AtomicUsize = AtomicUsize::new(0);
    let fails = |stage| match stage {
        Stage::Switched => {
            SWITCHED.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        // Durable in its new database; the witness will not hear of it.
        Stage::Committed if SWITCHED.load(Ordering::Relaxed) > 0 => Err(StoreError::NoBase),
        _ => Ok(()),
    };
    let directory = tempfile::tempdir().expect("a directory of our own");
    let mut store = CommitStore::open_with(directory.path(), 3, fails).expect("nobody else has it");
    store.load().expect("it is new");
    let mut commit = 1;
    while store.commit(&layer(commit, scope_of(commit))).is_ok() {
        commit += 1;
        assert!(commit < 1000, "no merge");
    }
    drop(store);
    let whole = tempfile::tempdir().expect("a directory of our own");
    copy_directory(directory.path(), whole.path());
    let saved = load(whole.path()).expect("it is whole").expect("there are commits");
    assert_eq!((saved.commit, saved.fell_back), (commit, None), "it was durable");
    damage_block(directory.path(), "base-2", commit);
    let saved = load(directory.path()).expect("what was acknowledged is whole").expect("there are commits");
    assert_eq!(saved.commit, commit - 1);
    assert_is_commit(&saved, commit - 1);
}

#[test]
fn a_newest_database_that_is_gone_is_never_passed_over_in_silence() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let mut store = CommitStore::open_with(directory.path(), 3, |_| Ok(())).expect("nobody else has it");
    store.load().expect("it is new");
    let mut commit = 0;
    let has = |name: &str| directory.path().join(name).exists();
    let knows = |name: &str| {
        let files =
            ["HEAD.a", "HEAD.b"].map(|file| fs::read_to_string(directory.path().join(file)).unwrap_or_default());
        files.iter().any(|text| text.contains(&format!("\"directory\":\"{name}\"")))
    };
    while !knows("base-2") {
        commit += 1;
        assert!(commit < 1000, "no merge");
        store.commit(&layer(commit, scope_of(commit))).expect("the disk takes it");
    }
    drop(store);
    assert!(has("base-1") && has("base-2"));
    fs::remove_dir_all(directory.path().join("base-2")).expect("it is there");
    for start in 0..2 {
        let saved = load(directory.path()).expect("the one before is whole").expect("there are commits");
        assert!(saved.fell_back.is_some() && saved.commit < commit, "start {start}: {:?}", saved.fell_back);
    }
}

#[test]
fn a_first_witness_that_was_cut_short_does_not_lock_the_store() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    filled(directory.path(), 1);
    let witness = directory.path().join("HEAD.b");
    fs::write(&witness, "{\"written\":1").expect("the disk takes it");
    let saved = load(directory.path()).expect("nothing is lost").expect("the commit was durable before");
    assert_is_commit(&saved, 1);
    fs::write(&witness, "{\"written\":1").expect("the disk takes it");
    fs::remove_dir_all(directory.path().join("base-1")).expect("it is there");
    let error = load(directory.path()).expect_err("a witness, and nothing that it speaks of");
    let text = error.to_string();
    assert!(text.contains("`--restore EXPORT`") && text.contains("`--reset-state`"), "{text}");
}

#[test]
fn what_a_commit_that_was_cut_short_left_is_not_read_as_part_of_the_next() {
    let directory = tempfile::tempdir().expect("a directory of our own");
    filled(directory.path(), 1);
    let fails = |stage| match stage {
        Stage::BlocksSynced => Err(StoreError::NoBase),
        _ => Ok(()),
    };
    let mut store = CommitStore::open_with(directory.path(), 9, fails).expect("nobody else has it");
    store.load().expect("it is whole");
    store.commit(&wide(2, 0, 9000, Scope::Changes)).expect_err("it is cut short");
    drop(store);
    let mut store = CommitStore::open(directory.path()).expect("nobody else has it");
    store.load().expect("it is whole");
    assert_eq!(store.commit(&layer(2, Scope::Changes)).expect("the disk takes it"), 2);
    drop(store);
    assert_is_commit(&load(directory.path()).expect("it is whole").expect("there are commits"), 2);
}
