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
mod slot;
pub mod weights;
pub mod table;

use serde::{Deserialize, Serialize};

use crate::feature::{FeatureId, Features, hash};
use crate::kernel;
use crate::optim::ftrl;
use ageing::Ageing as _;
use batch::{Architecture, Dense, Slot};
use candidates::Candidates;
use descent::{MlpStep, all_finite};
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

/// What of a step is computed and not the model's yet.
#[derive(Clone, Copy, Debug)]
struct DenseStep {
    bias_z: f32,
    bias_n: f32,
    mlp: MlpStep,
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
        self.gather(batch.iter().copied(), false, scratch);
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
            return Ok(self.commit(step, seconds, scratch));
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
        Ok(Learned { at_fault, ..self.commit(step, seconds, scratch) })
    }

    /// Computes everything that a batch changes into `scratch`.
    fn evaluate<E: Executor>(
        &self,
        batch: &[Example<'_>],
        divisor: f32,
        scratch: &mut Scratch,
        executor: &E,
    ) -> Result<DenseStep, NonFinite> {
        self.gather(batch.iter().map(|example| example.features), true, scratch);
        scratch.backward(&self.architecture, self.dense_weights(), batch, self.params.gradient_max, executor);
        let (bias_z, bias_n) = self.next_bias(scratch);
        self.update_slots(scratch);
        let mlp = MlpStep::of(&self.params.sgd, &self.architecture, &self.dense, divisor, scratch).ok_or(NonFinite)?;
        let groups = [&scratch.linear, &scratch.embedding];
        let finite = bias_z.is_finite()
            && bias_n.is_finite()
            && groups.iter().all(|group| all_finite(&group.z) && all_finite(&group.n));
        if finite { Ok(DenseStep { bias_z, bias_n, mlp }) } else { Err(NonFinite) }
    }

    /// Makes what was computed the model's.
    fn commit(&mut self, step: DenseStep, seconds: u32, scratch: &mut Scratch) -> Learned {
        (self.dense.bias_z, self.dense.bias_n) = (step.bias_z, step.bias_n);
        step.mlp.take(&self.architecture, &mut self.dense, scratch);
        self.write_rows(seconds, scratch)
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

    /// Reads the state of every distinct id into its slot; of one that is admitted now a new row's initial state.
    fn gather<'f>(&self, batch: impl Iterator<Item = &'f Features>, admits: bool, scratch: &mut Scratch) {
        let dim = self.params.embedding_dim;
        let Scratch { layout, linear, embedding, rows, look_ups, .. } = scratch;
        layout.fill(self.architecture.fields, batch);
        rows.clear();
        self.table.find_all(&layout.ids, look_ups, |row| rows.push(row.map_or(Slot::Refused, Slot::Row)));
        if admits {
            // A batch of more new ids than there can be rows refuses what comes last.
            let mut room = [self.params.admission.rows_max; 2];
            let more = layout.ids.len();
            for (id, slot) in layout.ids.iter().zip(rows.iter_mut()).filter(|(_, slot)| **slot == Slot::Refused) {
                *slot = if self.table.has_room(*id, more) { self.new_slot(*id, &mut room) } else { Slot::Refused };
            }
        }
        linear.resize(rows.len());
        embedding.resize(rows.len() * dim);
        for (at, (id, slot)) in layout.ids.iter().zip(rows.iter()).enumerate() {
            let (z, n) = (&mut embedding.z[at * dim..][..dim], &mut embedding.n[at * dim..][..dim]);
            if let Slot::Row(row) = *slot {
                let state = self.table.state(row);
                (linear.z[at], linear.n[at]) = (state[0], state[1 + dim]);
                kernel::rows::copy(dim, &state[1..], z);
                kernel::rows::copy(dim, &state[2 + dim..], n);
                continue;
            }
            (linear.z[at], linear.n[at]) = (0.0, 0.0);
            n.fill(0.0);
            if *slot == Slot::Admitted {
                for (lane, z) in (0..).zip(z) {
                    let w0 = hash::uniform_weight(self.params.seed, *id, lane, self.params.init_scale);
                    *z = ftrl::centred(&self.params.embedding, w0, 0.0);
                }
            } else {
                // All zeros: no weight, and nothing of the round is kept.
                z.fill(0.0);
            }
        }
        ftrl::weights(&self.params.linear, &linear.z, &linear.n, &mut linear.w);
        ftrl::weights(&self.params.embedding, &embedding.z, &embedding.n, &mut embedding.w);
        if self.params.embedding.l21 > 0.0 {
            for (z, w) in embedding.z.chunks_exact(dim).zip(embedding.w.chunks_exact_mut(dim)) {
                ftrl::shrink_group(&self.params.embedding, z, w);
            }
        }
    }

    /// What an id without a row is in this batch; `room` are the rows and the candidates that it can still add.
    fn new_slot(&self, id: FeatureId, [rows, candidates]: &mut [usize; 2]) -> Slot {
        let min_count = self.params.admission.min_count;
        let counted = if min_count > 1 { self.candidates.count(id) } else { 0 };
        let (slot, room) = match counted + 1 < min_count {
            true if counted > 0 => return Slot::Counted,
            true => (Slot::Counted, candidates),
            false => (Slot::Admitted, rows),
        };
        match room.checked_sub(1) {
            Some(left) => {
                *room = left;
                slot
            }
            None => Slot::Refused,
        }
    }

    fn next_bias(&self, scratch: &Scratch) -> (f32, f32) {
        let bound = self.params.gradient_max.map_or(f32::INFINITY, |max| max * self.dense.bias_n.sqrt().max(1.0));
        // Not `clamp`: what is not finite stays so.
        let bounded = |d: f32| if d.abs() > bound && d.is_finite() { bound.copysign(d) } else { d };
        let gradient = scratch.dlogits().iter().map(|d| f64::from(bounded(*d))).sum::<f64>() as f32;
        let (mut z, mut n) = ([self.dense.bias_z], [self.dense.bias_n]);
        ftrl::update(&self.params.bias, self.params.n_max, &[gradient], &[self.bias()], &mut z, &mut n);
        (z[0], n[0])
    }

    fn update_slots(&self, scratch: &mut Scratch) {
        let Scratch { linear, embedding, .. } = scratch;
        for (params, group) in [(&self.params.linear, linear), (&self.params.embedding, embedding)] {
            ftrl::update(params, self.params.n_max, &group.g, &group.w, &mut group.z, &mut group.n);
        }
    }

    /// Writes the slots back. Rows of before come first, so that they are not among those that make room for new ones.
    fn write_rows(&mut self, seconds: u32, scratch: &Scratch) -> Learned {
        let slots = || scratch.layout.ids.iter().zip(&scratch.rows).enumerate();
        let (mut created, mut ids_refused, mut counted) = (0, 0, Vec::new());
        for (at, (id, slot)) in slots() {
            match *slot {
                Slot::Row(row) => {
                    let w = &scratch.embedding.w[at * self.params.embedding_dim..][..self.params.embedding_dim];
                    self.table.weights_leave(row, scratch.linear.w[at], w);
                    self.write_row(row, at, seconds, scratch);
                }
                Slot::Admitted => created += 1,
                Slot::Counted if self.candidates.count(*id) == 0 => counted.push(*id),
                Slot::Counted => self.candidates.count_once(*id, seconds),
                Slot::Refused => ids_refused += 1,
            }
        }
        let rows_max = self.params.admission.rows_max;
        let rows_evicted = self.table.evict((self.table.len() + created).saturating_sub(rows_max));
        for (at, (id, _)) in slots().filter(|(_, (_, slot))| **slot == Slot::Admitted) {
            self.candidates.remove(*id);
            let row = self.table.insert(*id);
            self.write_row(row, at, seconds, scratch);
        }
        let candidates_evicted =
            self.candidates.evict((self.candidates.len() + counted.len()).saturating_sub(rows_max));
        for id in counted {
            self.candidates.count_once(id, seconds);
        }
        Learned { rows_created: created, rows_evicted, candidates_evicted, ids_refused, ..Learned::default() }
    }

    fn write_row(&mut self, row: RowNumber, slot: usize, seconds: u32, scratch: &Scratch) {
        let dim = self.params.embedding_dim;
        let (linear, embedding) = (&scratch.linear, &scratch.embedding);
        let lanes = slot * dim..(slot + 1) * dim;
        let (z, n) = (&embedding.z[lanes.clone()], &embedding.n[lanes]);
        self.table.write(row, (linear.z[slot], z), (linear.n[slot], n), seconds);
    }
}

#[cfg(test)]
mod tests;
