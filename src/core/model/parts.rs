//! The slots of a batch in parts, each of which one thread works off: reads its rows, adds its gradients up, does its rounds. No
//! number depends on where a part ends: what is done is done slot by slot, and gradients are added up in the order of examples.

use super::batch::{Chunk, Group, Scratch, Slot};
use super::executor::{Executor, PARTS_MAX};
use super::gather::Layout;
use super::table::LookUp;
use crate::feature::FeatureId;
use crate::kernel::factors::Repeats;

/// Slots that are worth a part of their own.
const SLOTS_OF_A_PART: usize = 256;

/// Working memory of a part.
#[derive(Clone, Debug, Default)]
pub(super) struct PartScratch {
    pub(super) look_ups: Vec<LookUp>,
    pub(super) repeats: Repeats,
}

/// The coordinates of a part's slots in one parameter group, as in [`Group`].
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
    pub(super) slots: &'s mut [Slot],
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

impl Group {
    /// Cuts the coordinates after each so many.
    fn cut(&mut self, coordinates: usize) -> impl Iterator<Item = Coordinates<'_>> {
        let Self { z, n, w, g } = self;
        let zn = z.chunks_mut(coordinates).zip(n.chunks_mut(coordinates));
        let wg = w.chunks_mut(coordinates).zip(g.chunks_mut(coordinates));
        zn.zip(wg).map(|((z, n), (w, g))| Coordinates { z, n, w, g })
    }
}

impl Scratch {
    /// Cuts the slots into parts, beside what all of them read.
    pub(super) fn cut_slots(
        &mut self,
        dim: usize,
        count: usize,
    ) -> (impl Iterator<Item = Part<'_>>, &Layout, &[Chunk]) {
        let Self { layout, linear, embedding, rows, parts, chunks, .. } = self;
        let layout = &*layout;
        parts.resize_with(parts.len().max(count), PartScratch::default);
        let slots = layout.ids.len().div_ceil(count).max(1);
        let groups = linear.cut(slots).zip(embedding.cut(slots * dim));
        let found = layout.ids.chunks(slots).zip(rows.chunks_mut(slots));
        let cut = found.zip(groups).zip(parts).zip(0..).map(move |(((found, groups), scratch), number)| {
            let ((ids, slots_of), (linear, embedding)) = (found, groups);
            Part { first: number * slots, ids, slots: slots_of, linear, embedding, scratch, is_finite: true }
        });
        (cut, layout, chunks)
    }
}
