//! Randomness that a seed repeats.

use deepfm_core::feature::hash;

/// Numbers out of a seed.
#[derive(Debug)]
pub(super) struct Dice {
    seed: u64,
    thrown: u64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, thrown: 0 }
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.thrown += 1;
        hash::hash(self.seed, self.thrown, 77) % bound
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
