//! Damage on the disk: it is seen, or harmless, and never another state in silence.

use std::fs;

use deepfm_stream::feature::hash;
use deepfm_stream::store::{SledStore, Store};
use deepfm_stream::train::Scope;

use super::{assert_is_commit, effective, filled, layer, load};
use crate::support::{copy_directory, rounds};

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
