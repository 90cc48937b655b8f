//! The slots of a batch in parts, each of which one thread works off: reads its rows, or adds its gradients up and does its rounds. No
//! number depends on where a part ends: what is done is done slot by slot, and gradients are added up in the order of examples.

use super::executor::{Executor, PARTS_MAX};
use super::gather::Layout;
use super::table::{LookUp, RowNumber};
use crate::feature::FeatureId;
use crate::kernel::factors::Repeats;

/// Slots that are worth a part of their own.
const SLOTS_OF_A_PART: usize = 256;

/// What an id of a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// It has a row.
    Row(RowNumber),
    /// It gets a row with this batch.
    Admitted,
    /// It is counted towards its admission.
    Counted,
    /// There is no room for it; or, before that is known, it has no row.
    Refused,
}

/// State, weights and gradients of one parameter group by slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// FTRL state z.
    pub(super) z: Vec<f32>,
    /// FTRL state n.
    pub(super) n: Vec<f32>,
    /// Weights.
    pub(super) w: Vec<f32>,
    /// Gradients, summed over the batch.
    pub(super) g: Vec<f32>,
}

/// The slots of a batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    /// What each id is.
    pub(super) rows: Vec<Slot>,
    pub(super) linear: Group,
    /// Of so many coordinates a slot as an embedding has.
    pub(super) embedding: Group,
    parts: Vec<PartScratch>,
}

/// Working memory of a part.
#[derive(Clone, Debug, Default)]
pub(super) struct PartScratch {
    pub(super) look_ups: Vec<LookUp>,
    pub(super) repeats: Repeats,
}

/// The coordinates of a part's slots, as in [`Group`].
#[derive(Debug)]
pub(super) struct Coordinates<'s> {
    pub(super) z: &'s mut [f32],
    pub(super) n: &'s mut [f32],
    pub(super) w: &'s mut [f32],
    pub(super) g: &'s mut [f32],
}

/// A range of slots.
#[derive(Debug)]
pub(super) struct Part<'s> {
    /// The first one.
    pub(super) first: usize,
    pub(super) ids: &'s [FeatureId],
    pub(super) rows: &'s mut [Slot],
    pub(super) linear: Coordinates<'s>,
    pub(super) embedding: Coordinates<'s>,
    pub(super) scratch: &'s mut PartScratch,
    /// Whether all of its state is finite after the round.
    pub(super) is_finite: bool,
}

/// Into how many parts so many slots are cut.
pub(super) fn count(executor: &impl Executor, slots: usize) -> usize {
    executor.width().min(slots / SLOTS_OF_A_PART).clamp(1, PARTS_MAX)
}

/// Into how much the work between gradients and weights is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pieces {
    /// Parts of the slots that do their rounds.
    pub(super) rounds: usize,
    /// Parts of the MLP's gradient.
    pub(super) gradients: usize,
}

impl Pieces {
    /// Those for so many threads, where the MLP's gradient can be cut or cannot. Each part of the rounds looks through all entries for
    /// those that are its own: so there are few where parts of a gradient, which takes longer, fill up the threads' time.
    pub(super) fn new(threads: usize, cuts_gradient: bool) -> Self {
        if threads == 1 || !cuts_gradient {
            return Self { rounds: threads, gradients: 1 };
        }
        let rounds = threads.div_ceil(2);
        Self { rounds, gradients: (2 * threads).min(PARTS_MAX - rounds) }
    }
}

impl Group {
    /// Makes room for so many coordinates; what they are is to be written.
    fn resize(&mut self, coordinates: usize) {
        for values in [&mut self.z, &mut self.n, &mut self.w, &mut self.g] {
            values.resize(coordinates, 0.0);
        }
    }

    /// Cuts the coordinates after each so many.
    fn cut(&mut self, coordinates: usize) -> impl Iterator<Item = Coordinates<'_>> {
        let Self { z, n, w, g } = self;
        let zn = z.chunks_mut(coordinates).zip(n.chunks_mut(coordinates));
        let wg = w.chunks_mut(coordinates).zip(g.chunks_mut(coordinates));
        zn.zip(wg).map(|((z, n), (w, g))| Coordinates { z, n, w, g })
    }
}

impl Slots {
    /// Makes room for so many slots; what they are is to be written.
    pub(super) fn resize(&mut self, slots: usize, dim: usize) {
        self.rows.resize(slots, Slot::Refused);
        self.linear.resize(slots);
        self.embedding.resize(slots * dim);
    }

    /// Cuts the slots into so many parts.
    pub(super) fn cut<'s>(
        &'s mut self,
        layout: &'s Layout,
        dim: usize,
        count: usize,
    ) -> impl Iterator<Item = Part<'s>> {
        let Self { rows, linear, embedding, parts } = self;
        parts.resize_with(parts.len().max(count), PartScratch::default);
        let slots = layout.ids.len().div_ceil(count).max(1);
        let groups = linear.cut(slots).zip(embedding.cut(slots * dim));
        let ids = layout.ids.chunks(slots).zip(rows.chunks_mut(slots));
        ids.zip(groups).zip(parts).zip(0..).map(move |(((found, groups), scratch), number)| {
            let ((ids, rows), (linear, embedding)) = (found, groups);
            Part { first: number * slots, ids, rows, linear, embedding, scratch, is_finite: true }
        })
    }
}
