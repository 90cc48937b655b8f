//! What a checkpoint holds of a trainer, and the digest over it.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::breaker::Breaker;
use super::refusals::Refusals;
use super::shown::BadShownScore;
use super::{
    Batch, Intake, IntakeCounters, Learner, LearnerCounters, Ledger, Shown, ShownScores, TrainParams, Trainer, Unscored,
};
use crate::join::{self, Join, JoinEntry, JoinScalars};
use crate::metric::Windows;
use crate::model::{DeepFm, DenseState, Executor, Inline, RowError};
use crate::stream::{JournalEntry, Sequencer, SequencerProgress};

/// SHA-256 over everything that a checkpoint holds of the log's effect, in canonical form. Rows, candidates, shown scores and join entries enter
/// as the sum modulo 2^128 of the XXH3-128 of each, so that it costs what changed. The version counter and the journal
/// are not part of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateDigest(pub [u8; 32]);

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parts of a checkpoint that no trainer can have had.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The entries of the join contradict each other.
    #[error(transparent)]
    Join(#[from] join::JoinRestoreError),
    /// Two rows or candidates have one id.
    #[error(transparent)]
    Model(#[from] RowError),
    /// Of shown scores.
    #[error(transparent)]
    ShownScores(#[from] BadShownScore),
}

/// Everything of the state but the rows of the table and the entries of the join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scalars {
    /// Positions, standings, released records.
    pub progress: SequencerProgress,
    /// Watermark and counters of the join.
    pub join: JoinScalars,
    /// The half-filled micro-batch.
    pub batch: Batch,
    /// What was read.
    pub read: IntakeCounters,
    /// The circuit breaker, with the labels that wait in it.
    pub breaker: Breaker,
    /// What was learned.
    pub counters: LearnerCounters,
    /// Progressive metrics.
    pub windows: Windows,
    /// Impressions that have no shown score yet.
    pub unscored: Vec<Unscored>,
    /// Event times and numbers of impressions of which an example was refused.
    pub refused: Vec<(i64, u64)>,
    /// Bias, MLP and their optimizer state.
    pub dense: DenseState,
}

/// The parts of a checkpoint, from which a trainer goes on.
#[derive(Debug)]
pub struct Restore<R, C, S, J> {
    /// Everything but rows and join entries.
    pub scalars: Scalars,
    /// The journal since the last version.
    pub journal: Vec<JournalEntry>,
    /// What became of every record.
    pub ledger: Ledger,
    /// The rows of the table, each as its bytes.
    pub rows: R,
    /// Ids that are counted towards admission, each as its bytes.
    pub candidates: C,
    /// Shown scores whose labels have not matured, each as its bytes.
    pub shown_scores: S,
    /// The entries of the join.
    pub entries: J,
}

impl<E: Executor> Trainer<E> {
    /// Everything of the state but rows and join entries.
    pub fn scalars(&self) -> Scalars {
        let (intake, learner) = (&self.intake, &self.learner);
        Scalars {
            progress: intake.sequencer.progress(),
            join: intake.join.scalars(),
            batch: learner.batch.clone(),
            read: intake.counters.clone(),
            breaker: intake.breaker.clone(),
            counters: learner.counters.clone(),
            windows: learner.windows.clone(),
            unscored: learner.shown.unscored().to_vec(),
            refused: learner.refusals.saved(),
            dense: learner.model.dense(),
        }
    }

    /// The digest of the state here.
    pub fn state_digest(&mut self) -> StateDigest {
        self.digest_and_scalars().0
    }

    pub(super) fn digest_and_scalars(&mut self) -> (StateDigest, Vec<u8>) {
        let scalars = postcard::to_allocvec(&self.scalars()).expect("a state without foreign types always encodes");
        let (intake, learner) = (&self.intake, &mut self.learner);
        let mut hasher = Sha256::new();
        hasher.update((scalars.len() as u64).to_le_bytes());
        hasher.update(&scalars);
        hasher.update(learner.model.rows_digest().to_le_bytes());
        hasher.update(learner.model.candidates().digest().to_le_bytes());
        hasher.update(learner.shown.digest().to_le_bytes());
        hasher.update(intake.join.entries_sum().to_le_bytes());
        (StateDigest(hasher.finalize().into()), scalars)
    }
}

impl Trainer {
    /// A trainer that goes on where the checkpoint was taken. Records that were queued then are pushed again.
    ///
    /// # Errors
    /// When the join's entries contradict each other, or two rows or candidates have one id.
    ///
    /// # Panics
    /// When a row, candidate or shown score has not its length.
    pub fn restore<'r>(
        params: TrainParams,
        saved: Restore<
            impl IntoIterator<Item = &'r [u8]>,
            impl IntoIterator<Item = &'r [u8]>,
            impl IntoIterator<Item = &'r [u8]>,
            impl IntoIterator<Item = JoinEntry<Box<Shown>>>,
        >,
    ) -> Result<Self, RestoreError> {
        let Scalars { progress, join, batch, read, breaker, counters, windows, unscored, refused, dense } =
            saved.scalars;
        let sequencer = Sequencer::resume(progress, saved.journal);
        let join = Join::restore(params.join.clone(), &join, saved.entries)?;
        let breaker = (breaker, params.breaker);
        let mut learner = Learner::new(params, Inline);
        learner.model = DeepFm::restore(learner.params.model.clone(), dense, saved.rows, saved.candidates)?;
        learner.shown = ShownScores::restore(unscored, saved.shown_scores)?;
        learner.refusals = Refusals::restore(refused);
        learner.log_time = sequencer.largest_released();
        (learner.batch, learner.counters, learner.windows) = (batch, counters, windows);
        let mut trainer = Self::of(Intake::new(sequencer, join, read, saved.ledger, breaker), learner);
        trainer.note_saved();
        Ok(trainer)
    }
}
