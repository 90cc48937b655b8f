//! Disks that are full, slow, read-only or fail: errors and not hangs, and disk use within its bound.

use std::fs;
use std::path::Path;

use deepfm_stream::feature::hash;
use deepfm_stream::store::{SledStore, Store};
use deepfm_stream::train::Scope;

use super::{effective, load, wide};

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
