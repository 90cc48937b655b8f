//! What a checkpoint takes from a trainer between two records, as a copy: learning goes on while it is written.

use serde::{Deserialize, Serialize};

use super::digest::Scalars;
use super::{StateDigest, Trainer};
use crate::model::Executor;

/// How much a checkpoint takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The whole state.
    Everything,
    /// What changed since the cut before, on top of which it is written.
    Changes,
}

/// The state at one place of the log, or what changed in it since the cut before.
#[derive(Clone, Debug, PartialEq)]
pub struct StateCut {
    /// Which of the two.
    pub scope: Scope,
    /// The digest of the whole state.
    pub digest: StateDigest,
    /// [`Scalars`] in postcard: always the whole of them.
    pub scalars: Vec<u8>,
    /// Rows of the table, each [`row_bytes`](Self::row_bytes) long.
    pub rows: Vec<u8>,
    /// Bytes of a row.
    pub row_bytes: usize,
    /// Ids that are counted towards admission, 16 bytes each: see [`crate::model::candidates`].
    pub candidates: Vec<u8>,
    /// Shown scores whose labels have not matured, [`SHOWN_SCORE_BYTES`](super::SHOWN_SCORE_BYTES) each.
    pub shown_scores: Vec<u8>,
    /// What the join holds, or how that changed: see [`crate::join::first_record`].
    pub join: Vec<u8>,
}

/// The bytes of a cut beside its scalars.
struct Copied {
    rows: Vec<u8>,
    candidates: Vec<u8>,
    shown_scores: Vec<u8>,
    join: Vec<u8>,
}

impl<E: Executor> Trainer<E> {
    /// Takes a cut. Changes can only be taken after everything was, or after the trainer was restored; before that,
    /// everything is taken whatever was asked for.
    pub fn cut(&mut self, scope: Scope) -> StateCut {
        let row_bytes = self.learner.model.row_bytes();
        let changes = match scope {
            Scope::Changes => self.changes(),
            Scope::Everything => None,
        };
        let (scope, Copied { rows, candidates, shown_scores, join }) = match changes {
            Some(changes) => (Scope::Changes, changes),
            None => (Scope::Everything, self.everything()),
        };
        // After the rows were copied, which takes them into the digest.
        let (digest, scalars) = self.digest_and_scalars();
        StateCut { scope, digest, scalars, rows, row_bytes, candidates, shown_scores, join }
    }

    fn changes(&mut self) -> Option<Copied> {
        Some(Copied {
            rows: self.learner.model.table_mut().copy_unsaved()?,
            candidates: self.learner.model.candidates_mut().copy_unsaved()?,
            shown_scores: self.learner.shown.copy_unsaved()?,
            join: self.intake.join.cut_changes()?,
        })
    }

    fn everything(&mut self) -> Copied {
        let join = self.intake.join.all_as_changes();
        self.intake.join.cut_changes();
        Copied {
            rows: self.learner.model.table_mut().copy_all(),
            candidates: self.learner.model.candidates_mut().copy_all(),
            shown_scores: self.learner.shown.copy_all(),
            join,
        }
    }

    /// Bytes that a cut of the changes would take of the log, beside the scalars.
    pub fn unsaved_bytes(&self) -> usize {
        let rows = self.learner.model.table().unsaved_len() * self.learner.model.row_bytes();
        rows + self.learner.model.candidates().unsaved_bytes()
            + self.learner.shown.unsaved_bytes()
            + self.intake.join.changes_bytes()
    }

    /// Begins to note changes: a checkpoint has everything as it is now.
    pub(super) fn note_saved(&mut self) {
        self.learner.model.table_mut().note_saved();
        self.learner.model.candidates_mut().note_saved();
        self.learner.shown.note_saved();
        self.intake.join.cut_changes();
    }
}

impl Trainer {
    /// Decodes the scalars of a cut.
    ///
    /// # Errors
    /// When the bytes are not the scalars of a cut.
    pub fn read_scalars(bytes: &[u8]) -> Result<Scalars, postcard::Error> {
        postcard::from_bytes(bytes)
    }
}
