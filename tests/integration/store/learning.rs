//! The real core over the real protocol of commits, on the simulated disk: the power goes at any operation, and in the end the
//! state and the ledger are those of a run that nothing disturbed.

use std::sync::Arc;

use deepfm_core::checkpoint;
use deepfm_core::train::{StateDigest, TrainParams, Trainer};
use deepfm_stream::store::{CommitStore, Store};

use super::simulated_disk::SimulatedDisk;
use crate::integration::determinism::{
    Dice, Log, end_exhausted, lineage, params, plainly_trained, random_log, started,
};
use crate::support::rounds;

/// Power cuts of a run; after the last the disk stays on.
const CUTS: u64 = 8;

/// A start from whatever the disk has, and learning with commits until the log ends or the power goes.
fn live(params: &TrainParams, log: &Log, disk: &SimulatedDisk, dice: &mut Dice) -> Option<Trainer> {
    let deltas_max = 2 + dice.below(6) as usize;
    let mut store = CommitStore::on(Arc::new(disk.clone()), deltas_max, |_| Ok(()));
    let found = match store.load() {
        Ok(found) => found,
        Err(_) if disk.is_off() => return None,
        Err(error) => panic!("the store refuses: {error}"),
    };
    let mut trainer = match found {
        None => started(params, log),
        Some(saved) => {
            assert_eq!(saved.fell_back, None, "nothing is damaged");
            checkpoint::decode(params.clone(), &saved.layers).expect("what was written is read").0
        }
    };
    let positions = trainer.positions();
    let unread = |partition, arrivals: &Vec<_>| {
        let arrivals: Vec<deepfm_core::stream::Arrival> = arrivals.clone();
        arrivals.into_iter().filter(|arrival| arrival.offset >= positions[partition]).collect()
    };
    let mut left: Log = log.iter().map(|(partition, arrivals)| (*partition, unread(partition, arrivals))).collect();
    loop {
        let is_last = left.values().all(Vec::is_empty);
        for (partition, lane) in &mut left {
            let count = (dice.below(6) as usize).min(lane.len());
            for arrival in lane.drain(..count) {
                trainer.push(*partition, arrival).expect("in order");
            }
        }
        for _ in 0..dice.below(12) {
            trainer.step(&mut ());
        }
        if is_last {
            end_exhausted(&mut trainer, &left);
        }
        if !is_last && !dice.one_in(3) {
            continue;
        }
        let cut = trainer.cut(store.wants());
        let layer = checkpoint::encode(&cut, &lineage(&trainer, cut.digest));
        match store.commit(&layer) {
            Ok(_) if is_last => return Some(trainer),
            Err(_) if disk.is_off() => return None,
            // A base that was not written as it was meant is found out when it is read back: the next commit is whole again.
            Ok(_) | Err(_) => {}
        }
    }
}

/// Learns a log through power cuts; how many there were, and the state in the end.
fn cut_run(params: &TrainParams, log: &Log, seed: u64, dice: &mut Dice) -> (u64, Trainer) {
    let disk = SimulatedDisk::new(seed, None, false);
    let mut cuts = 0;
    loop {
        let operations = if cuts < CUTS { [20, 60, 150][dice.below(3) as usize] } else { u64::MAX / 2 };
        disk.cut_in(1 + dice.below(operations));
        if let Some(trainer) = live(params, log, &disk, dice) {
            return (cuts, trainer);
        }
        cuts += 1;
        disk.come_back();
    }
}

#[test]
fn power_cuts_change_neither_what_is_learned_nor_the_ledger_in_1000_simulated_runs() {
    let mut all_cuts = 0;
    for seed in 0..rounds(150, 1000) as u64 {
        let mut dice = Dice::new(seed);
        let params = params(&mut dice);
        let log = random_log(&mut dice);
        let mut undisturbed = plainly_trained(&params, &log);
        let expected: StateDigest = undisturbed.state_digest();
        let (cuts, mut trainer) = cut_run(&params, &log, seed, &mut dice);
        all_cuts += cuts;
        assert_eq!(trainer.state_digest(), expected, "seed {seed}: after {cuts} cuts");
        assert_eq!(trainer.ledger(), undisturbed.ledger(), "seed {seed}: after {cuts} cuts");
        let entered: usize = log.values().map(Vec::len).sum();
        assert_eq!(trainer.counters().intake.records as usize, entered, "seed {seed}");
    }
    assert!(all_cuts > 200, "only {all_cuts} power cuts");
}
