//! `DeepFM` (Guo et al. 2017): a linear part, a factorization machine and an MLP over one embedding table, learned one
//! micro-batch at a time.
//!
//! `logit = bias + Σ w·x + FM(e_0 … e_{F-1}) + MLP(e_0 ‖ … ‖ e_{F-1})`, where `e_f` is the weighted sum of the embeddings
//! of field f's entries. A step gathers the rows of a batch into slots, evaluates, and writes everything back at once or
//! not at all:
//!
//! * all examples of a batch are scored with the weights from before it;
//! * an example that would leave a non-finite value anywhere is left out, and the others are learned;
//! * no example moves a row further than the bound that the parameters give, so that none can spoil its learning rate.

pub mod batch;
pub mod candidates;
pub mod executor;
pub mod gather;
pub mod loss;
pub mod mlp;
mod ageing;
mod descent;
pub mod params;
mod parts;
pub(crate) mod slot;
mod step;
pub mod weights;
pub mod table;

use serde::{Deserialize, Serialize};

use crate::feature::{FeatureId, Features};
use crate::optim::ftrl;
use ageing::Ageing as _;
use batch::{Architecture, Dense};
use candidates::Candidates;
use params::ModelParams;
use table::{RowNumber, Table};
use weights::WeightRule;

pub use batch::{Example, Scratch};
pub use executor::{Executor, Inline};
pub use loss::Importance;

/// Parts of the table that are swept one at a time.
pub const SHARDS: usize = ageing::SHARDS;

/// Bias, MLP and their optimizer state: everything but the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DenseState {
    /// FTRL state z of the bias.
    pub bias_z: f32,
    /// FTRL state n of the bias.
    pub bias_n: f32,
    /// The MLP's parameters, flat (see [`mlp::MlpShape`]).
    pub mlp: Vec<f32>,
    /// Momentum of each of them.
    pub momentum: Vec<f32>,
}

/// What a step did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learned {
    /// Rows that the step created.
    pub rows_created: usize,
    /// Rows that made room.
    pub rows_evicted: usize,
    /// Ids counted towards admission that made room.
    pub candidates_evicted: usize,
    /// New ids for which there is no room, although all that were there before made room: the batch has more than fit.
    pub ids_refused: usize,
    /// Places in the batch, ascending, of the examples that were left out: a gradient, state or weight would not have been
    /// finite.
    pub at_fault: Vec<usize>,
}

/// Not one example of a batch could be learned without leaving a gradient, state or weight that is not finite: nothing was
/// changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("every example of the batch has a non-finite gradient or weight")]
pub struct NonFinite;

/// What a model is restored from is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Two rows, or two candidates, have one id.
    #[error("two rows or two candidates have the id {0}")]
    RepeatedId(FeatureId),
    /// More rows than one shard can have: ids were made up for it.
    #[error("too many rows are in the shard of the id {0}")]
    Crowded(FeatureId),
    /// A row has a state that is not finite, which no learning leaves.
    #[error("the row of the id {0} has a state that is not finite")]
    NotFinite(FeatureId),
}

/// The model with its optimizer state.
#[derive(Debug)]
pub struct DeepFm {
    params: ModelParams,
    architecture: Architecture,
    table: Table,
    candidates: Candidates,
    dense: DenseState,
}

impl DeepFm {
    /// A model that has learned nothing: no rows, zero bias, an MLP of hashed weights.
    pub fn new(params: ModelParams) -> Self {
        let architecture = Architecture::new(&params);
        let mlp = architecture.mlp.initial();
        let dense = DenseState { bias_z: 0.0, bias_n: 0.0, momentum: vec![0.0; mlp.len()], mlp };
        Self { table: Table::new(params.embedding_dim), candidates: Candidates::default(), architecture, dense, params }
    }

    /// A model from its parts, each row and each candidate as its bytes.
    ///
    /// # Errors
    /// When two rows, or two candidates, have one id, or one shard has too many rows.
    pub fn restore<'r>(
        params: ModelParams,
        dense: DenseState,
        rows: impl IntoIterator<Item = &'r [u8]>,
        candidates: impl IntoIterator<Item = &'r [u8]>,
    ) -> Result<Self, RowError> {
        let mut model = Self { dense, ..Self::new(params) };
        rows.into_iter().try_for_each(|row| model.table.restore(row))?;
        candidates.into_iter().try_for_each(|candidate| model.candidates.restore(candidate))?;
        Ok(model)
    }

    /// Scores a batch with the weights as they are, `[batch]` logits.
    pub fn score<'s, E: Executor>(&self, batch: &[&Features], scratch: &'s mut Scratch, executor: &E) -> &'s [f32] {
        self.score_each(batch.iter().copied(), scratch, executor)
    }

    /// The same of features that are not in a list.
    pub fn score_each<'s, 'f, E: Executor>(
        &self,
        batch: impl ExactSizeIterator<Item = &'f Features> + Clone,
        scratch: &'s mut Scratch,
        executor: &E,
    ) -> &'s [f32] {
        self.gather(batch, false, scratch, executor);
        scratch.forward(&self.architecture, self.dense_weights(), executor);
        scratch.logits()
    }

    /// Learns from a batch: one FTRL round for each touched row and the bias with the summed gradient, one SGD step for the
    /// MLP with the summed gradient over `divisor`. `seconds` is the event time that touched rows note. Examples that would
    /// leave a gradient, state or weight that is not finite are left out, and the others learned as if those were not there.
    /// The training logits of what was learned are in `scratch` afterwards.
    ///
    /// # Errors
    /// When not one example can be learned; nothing is changed then.
    pub fn learn<E: Executor>(
        &mut self,
        batch: &[Example<'_>],
        divisor: f32,
        seconds: u32,
        scratch: &mut Scratch,
        executor: &E,
    ) -> Result<Learned, NonFinite> {
        if let Ok(step) = self.evaluate(batch, divisor, scratch, executor) {
            return Ok(self.commit(step, seconds, scratch, executor));
        }
        let (mut at_fault, mut sound) = (Vec::new(), Vec::new());
        for (place, example) in batch.iter().enumerate() {
            match self.evaluate(&[*example], divisor, scratch, executor) {
                Ok(_) => sound.push(*example),
                Err(NonFinite) => at_fault.push(place),
            }
        }
        if sound.is_empty() {
            return Err(NonFinite);
        }
        let step = self.evaluate(&sound, divisor, scratch, executor)?;
        Ok(Learned { at_fault, ..self.commit(step, seconds, scratch, executor) })
    }

    /// Everything but the table.
    pub fn dense(&self) -> DenseState {
        self.dense.clone()
    }

    /// The weight of the bias.
    pub fn bias(&self) -> f32 {
        ftrl::weight(&self.params.bias, self.dense.bias_z, self.dense.bias_n)
    }

    /// The parameters that the model was made with.
    pub fn params(&self) -> &ModelParams {
        &self.params
    }

    /// Shapes of its parts.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Number of rows of the table.
    pub fn row_count(&self) -> usize {
        self.table.len()
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.table.row_bytes()
    }

    /// The table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Every row as its bytes.
    pub fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.table.rows()
    }

    /// Ids that are counted and not admitted yet.
    pub fn candidates(&self) -> &Candidates {
        &self.candidates
    }

    /// The same, for a checkpoint to take them.
    pub fn candidates_mut(&mut self) -> &mut Candidates {
        &mut self.candidates
    }

    /// Goes on with other optimizers and bounds, and with more fields: the MLP gets zero columns for them. Otherwise the
    /// shape stays. Where the parameters of an FTRL group change, z is solved
    /// for the weights that there are, so that none jumps when it is touched next. Returns the largest change of a weight:
    /// rounding.
    pub fn reconfigure(&mut self, params: &ModelParams) -> f32 {
        let old = self.params.clone();
        let ModelParams { fields, bias, linear, embedding, sgd, n_max, gradient_max, admission, .. } = params.clone();
        self.params =
            ModelParams { fields, bias, linear, embedding, sgd, n_max, gradient_max, admission, ..old.clone() };
        let architecture = Architecture::new(&self.params);
        if sgd.momentum == 0.0 {
            // It is not kept then, and must not come back from before.
            self.dense.momentum.fill(0.0);
        }
        for values in [&mut self.dense.mlp, &mut self.dense.momentum] {
            *values = self.architecture.mlp.widened(values, &architecture.mlp);
        }
        self.architecture = architecture;
        self.table.forget_published();
        let mut largest = 0.0_f32;
        let mut solve = |from, to, z: f32, n: f32| {
            let w = ftrl::weight(from, z, n);
            let solved = ftrl::solve(to, w, n);
            largest = largest.max((ftrl::weight(to, solved, n) - w).abs());
            solved
        };
        if old.bias != bias {
            self.dense.bias_z = solve(&old.bias, &bias, self.dense.bias_z, self.dense.bias_n);
        }
        if old.linear != linear || old.embedding != embedding {
            let coordinates = 1 + old.embedding_dim;
            let rows: Vec<RowNumber> = self.table.numbers().collect();
            for row in rows {
                let mut z: Vec<f32> = self.table.state(row)[..coordinates].to_vec();
                let n = &self.table.state(row)[coordinates..];
                z[0] = if old.linear == linear { z[0] } else { solve(&old.linear, &linear, z[0], n[0]) };
                if old.embedding != embedding {
                    for (z, n) in z[1..].iter_mut().zip(&n[1..]) {
                        *z = solve(&old.embedding, &embedding, *z, *n);
                    }
                }
                self.table.replace_z(row, &z);
            }
        }
        largest
    }

    /// Removes rows and candidates of one shard in [`SHARDS`] that were not learned since a time; says how many of each.
    pub fn sweep(&mut self, shard: usize, before_seconds: u32) -> (usize, usize) {
        (self.table.sweep(shard, before_seconds), self.candidates.sweep(shard, before_seconds))
    }

    /// The table, for a checkpoint to take its rows.
    pub fn table_mut(&mut self) -> &mut Table {
        &mut self.table
    }

    /// Sum modulo 2^128 of the XXH3-128 of every row.
    pub fn rows_digest(&mut self) -> u128 {
        self.table.digest()
    }

    /// Writes the embedding of an id to `v` (`[dim]`) and returns its linear weight; zeros for an id without a row.
    pub fn weights(&self, id: FeatureId, v: &mut [f32]) -> f32 {
        match self.table.find(id) {
            Some(row) => self.row_weights(row, v),
            None => 0.0,
        }
    }

    /// The same for a row by its number.
    pub fn row_weights(&self, row: RowNumber, v: &mut [f32]) -> f32 {
        WeightRule::of(&self.params).weights(self.table.state(row), v)
    }

    fn dense_weights(&self) -> Dense<'_> {
        Dense { bias: self.bias(), mlp: &self.dense.mlp }
    }
}

#[cfg(test)]
mod tests;
