//! A step of learning: the rows of a batch are read into slots, everything that changes is computed there, and then it is made the
//! model's. Each phase is cut into parts (see [`parts`]) for the threads that the executor has.

use super::ageing::Ageing as _;
use super::batch::{self, Chunk, Example, MlpScratch, Scratch};
use super::descent::MlpStep;
use super::executor::{Executor, Inline, held};
use super::gather::Layout;
use super::mlp::UnitPart;
use super::params::ModelParams;
use super::parts::{self, Part, Pieces, Slot, Slots};
use super::table::Written;
use super::{DeepFm, Learned, NonFinite};
use crate::feature::{FeatureId, Features, hash};
use crate::kernel;
use crate::optim::ftrl;

/// What of a step is computed and not the model's yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct DenseStep {
    bias_z: f32,
    bias_n: f32,
    mlp: MlpStep,
}

/// What is worked off at once when the gradients of examples are known.
enum Job<'s> {
    /// The MLP's step, which is not there when it would not be finite.
    Mlp(&'s mut MlpScratch, Option<MlpStep>),
    /// A part of the MLP's gradient, where the step is known.
    Gradient(UnitPart, &'s mut Vec<f32>),
    /// The rounds of a part of the slots.
    Rounds(Part<'s>),
}

impl Part<'_> {
    /// Reads the state of every row into its slot, and derives the weights. An id without a row is refused at first.
    fn read(&mut self, model: &DeepFm) {
        let (dim, table) = (model.params.embedding_dim, &model.table);
        let (linear, embedding) = (&mut self.linear, &mut self.embedding);
        table.find_all(self.ids, &mut self.scratch.look_ups, |at, row| {
            self.rows[at] = row.map_or(Slot::Refused, Slot::Row);
            let (z, n) = (&mut embedding.z[at * dim..][..dim], &mut embedding.n[at * dim..][..dim]);
            if let Some(row) = row {
                let state = table.state(row);
                (linear.z[at], linear.n[at]) = (state[0], state[1 + dim]);
                kernel::rows::copy(dim, &state[1..], z);
                kernel::rows::copy(dim, &state[2 + dim..], n);
            } else {
                // All zeros: no weight, and nothing of the round is kept.
                (linear.z[at], linear.n[at]) = (0.0, 0.0);
                z.fill(0.0);
                n.fill(0.0);
            }
        });
        ftrl::weights(&model.params.linear, linear.z, linear.n, linear.w);
        embedding_weights(&model.params, embedding.z, embedding.n, embedding.w);
    }

    /// Adds the gradients of its slots up and does their rounds.
    fn round(&mut self, model: &DeepFm, layout: &Layout, chunks: &[Chunk]) {
        let params = &model.params;
        self.add_gradients(&model.architecture, layout, chunks, params.gradient_max);
        self.is_finite = [(&params.linear, &mut self.linear), (&params.embedding, &mut self.embedding)]
            .into_iter()
            .all(|(ftrl, group)| ftrl::update(ftrl, params.n_max, group.g, group.w, group.z, group.n));
    }
}

/// The weights of embeddings side by side.
fn embedding_weights(params: &ModelParams, z: &[f32], n: &[f32], w: &mut [f32]) {
    let dim = params.embedding_dim;
    ftrl::weights(&params.embedding, z, n, w);
    if params.embedding.l21 > 0.0 {
        for (z, w) in z.chunks_exact(dim).zip(w.chunks_exact_mut(dim)) {
            ftrl::shrink_group(&params.embedding, z, w);
        }
    }
}

/// The coordinates of a slot.
fn at_slot(values: &[f32], slot: usize, dim: usize) -> &[f32] {
    &values[slot * dim..(slot + 1) * dim]
}

impl DeepFm {
    /// Computes everything that a batch changes into `scratch`.
    pub(super) fn evaluate<E: Executor>(
        &self,
        batch: &[Example<'_>],
        divisor: f32,
        scratch: &mut Scratch,
        executor: &E,
    ) -> Result<DenseStep, NonFinite> {
        self.gather(batch.iter().map(|example| example.features), true, scratch, executor);
        scratch.differentiate(&self.architecture, self.dense_weights(), batch, executor);
        let (bias_z, bias_n) = self.next_bias(scratch);
        let Scratch { layout, slots, mlp, chunks, .. } = scratch;
        let (layout, chunks) = (&*layout, &**chunks);
        let threads = parts::count(executor, layout.ids.len());
        let (sgd, dim) = (&self.params.sgd, self.params.embedding_dim);
        let foreseen = MlpStep::foreseen(sgd, divisor, chunks);
        let is_computed = matches!(foreseen, Some(MlpStep::Gradient(_))) && !self.architecture.mlp.is_empty();
        let pieces = Pieces::new(threads, is_computed);
        let rounds = slots.cut(layout, dim, pieces.rounds).map(Job::Rounds);
        let (mut jobs, count) = match foreseen {
            Some(MlpStep::Gradient(_)) => {
                held(rounds.chain(mlp.cut(pieces.gradients).map(|(part, to)| Job::Gradient(part, to))))
            }
            Some(_) => held(rounds),
            None => held(std::iter::once(Job::Mlp(mlp, None)).chain(rounds)),
        };
        let work = |job: &mut Option<Job<'_>>| match job {
            Some(Job::Mlp(mlp, step)) => {
                *step = MlpStep::of(sgd, &self.architecture, &self.dense, divisor, chunks, mlp);
            }
            Some(Job::Gradient(part, to)) => batch::add_up(&self.architecture, chunks, *part, to),
            Some(Job::Rounds(part)) => part.round(self, layout, chunks),
            None => {}
        };
        // What is not worth cutting is not worth waking anybody for.
        if threads == 1 {
            Inline.for_each(&mut jobs[..count], work);
        } else {
            executor.for_each(&mut jobs[..count], work);
        }
        let (mut mlp, mut finite) = (foreseen, bias_z.is_finite() && bias_n.is_finite());
        for job in jobs.into_iter().flatten() {
            match job {
                Job::Mlp(_, step) => mlp = step,
                Job::Gradient(..) => {}
                Job::Rounds(part) => finite &= part.is_finite,
            }
        }
        mlp.filter(|_| finite).map(|mlp| DenseStep { bias_z, bias_n, mlp }).ok_or(NonFinite)
    }

    /// Makes what was computed the model's.
    pub(super) fn commit<E: Executor>(
        &mut self,
        step: DenseStep,
        seconds: u32,
        scratch: &mut Scratch,
        executor: &E,
    ) -> Learned {
        (self.dense.bias_z, self.dense.bias_n) = (step.bias_z, step.bias_n);
        step.mlp.take(&self.architecture, &mut self.dense, &scratch.chunks, &mut scratch.mlp);
        self.write_rows(seconds, scratch, executor)
    }

    /// Reads the state of every distinct id into its slot; of one that is admitted now a new row's initial state.
    pub(super) fn gather<'f, E: Executor>(
        &self,
        batch: impl Iterator<Item = &'f Features> + Clone,
        admits: bool,
        scratch: &mut Scratch,
        executor: &E,
    ) {
        let dim = self.params.embedding_dim;
        scratch.layout.fill(self.architecture.fields, batch);
        let Scratch { layout, slots, .. } = &mut *scratch;
        slots.resize(layout.ids.len(), dim);
        let count = parts::count(executor, layout.ids.len());
        let (mut cut, count) = held(slots.cut(layout, dim, count));
        executor.for_each(&mut cut[..count], |part| {
            if let Some(part) = part {
                part.read(self);
            }
        });
        if admits {
            self.admit(scratch);
        }
    }

    /// Decides what ids without a row are in this batch, slot by slot, and begins the rows of those that are admitted.
    fn admit(&self, scratch: &mut Scratch) {
        let dim = self.params.embedding_dim;
        let Scratch { layout, slots: Slots { rows, embedding, .. }, .. } = scratch;
        // A batch of more new ids than there can be rows refuses what comes last.
        let mut room = [self.params.admission.rows_max; 2];
        let more = layout.ids.len();
        for (at, (id, slot)) in layout.ids.iter().zip(rows).enumerate() {
            if *slot != Slot::Refused || !self.table.has_room(*id, more) {
                continue;
            }
            *slot = self.new_slot(*id, &mut room);
            if *slot == Slot::Admitted {
                let lanes = at * dim..(at + 1) * dim;
                let z = &mut embedding.z[lanes.clone()];
                for (lane, z) in (0..).zip(&mut *z) {
                    let w0 = hash::uniform_weight(self.params.seed, *id, lane, self.params.init_scale);
                    *z = ftrl::centred(&self.params.embedding, w0, 0.0);
                }
                embedding_weights(&self.params, z, &embedding.n[lanes.clone()], &mut embedding.w[lanes]);
            }
        }
    }

    /// What an id without a row is in this batch; `room` are the rows and the candidates that it can still add.
    fn new_slot(&self, id: FeatureId, [rows, candidates]: &mut [usize; 2]) -> Slot {
        let min_count = self.params.admission.min_count;
        let counted = if min_count > 1 { self.candidates.count(id) } else { 0 };
        let (slot, room) = match counted.saturating_add(1) < min_count {
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

    /// Writes the slots back. Rows of before come first, so that they are not among those that make room for new ones.
    fn write_rows<E: Executor>(&mut self, seconds: u32, scratch: &Scratch, executor: &E) -> Learned {
        let Scratch { layout, slots: Slots { rows, linear, embedding, .. }, .. } = scratch;
        let dim = self.params.embedding_dim;
        let written = |at: usize| {
            let of_embedding = |values| at_slot(values, at, dim);
            Written {
                z: (linear.z[at], of_embedding(&embedding.z)),
                n: (linear.n[at], of_embedding(&embedding.n)),
                w: (linear.w[at], of_embedding(&embedding.w)),
            }
        };
        let known = |at: usize| match rows[at] {
            Slot::Row(row) => Some(row),
            _ => None,
        };
        self.table.write_all(rows.len(), known, written, seconds, (executor, parts::count(executor, rows.len())));
        let slots = || layout.ids.iter().zip(rows).enumerate();
        let (mut created, mut ids_refused, mut counted) = (0, 0, Vec::new());
        for (_, (id, slot)) in slots() {
            match *slot {
                Slot::Row(_) => {}
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
            let Written { z, n, .. } = written(at);
            self.table.write(row, z, n, seconds);
        }
        let candidates_evicted =
            self.candidates.evict((self.candidates.len() + counted.len()).saturating_sub(rows_max));
        for id in counted {
            self.candidates.count_once(id, seconds);
        }
        Learned { rows_created: created, rows_evicted, candidates_evicted, ids_refused, ..Learned::default() }
    }
}
