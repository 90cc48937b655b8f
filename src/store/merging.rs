//! A new base, merged on a thread of its own from the old base and its deltas while deltas go on being committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use super::StoreError;
use super::database::{Database, Head, LayerHead};
use super::disk::{Aside, Disk};
use super::stage::{AtStage, Stage};
use deepfm_core::checkpoint::{Block, BlockPlace, Merge};
use deepfm_core::train::Scope;

/// Deltas are merged when they take this share of their base: a merge writes all of it, …
const DELTAS_SHARE: f64 = 2.0;

/// … or, past this many bytes, …
const DELTAS_LARGE: u64 = 1 << 30;

/// … this share, since a start holds all of them in memory; …
const DELTAS_SHARE_LARGE: f64 = 0.5;

/// … and at least this many bytes, …
const DELTAS_MIN: u64 = 8 << 20;

/// … or when there are this many, ordinarily.
pub(super) const DELTAS_MAX: usize = 256;

/// So many times the deltas at which a merge begins make it overdue.
const OVERDUE: f64 = 1.5;

/// A merge under way.
pub(super) struct Merging {
    pub(super) name: String,
    /// Bytes of the layers that it merges.
    pub(super) bytes: u64,
    aside: Box<dyn Aside>,
    is_given_up: Arc<AtomicBool>,
    result: Receiver<Result<Merged, StoreError>>,
}

/// A new base that was read back, in a database of its own that has no head yet.
pub(super) struct Merged {
    pub(super) name: String,
    pub(super) database: Database,
    pub(super) base: LayerHead,
}

/// Whether the deltas of a head have grown enough.
pub(super) fn is_due(head: &Head, deltas_max: usize) -> bool {
    have_grown(head, deltas_max, 1.0)
}

/// Whether they have grown so much during a merge that the next commit waits for it: what bounds the use of the disk, while there is
/// room for going over to what was merged.
pub(super) fn is_overdue(head: &Head, deltas_max: usize) -> bool {
    have_grown(head, deltas_max, OVERDUE)
}

fn have_grown(head: &Head, deltas_max: usize, times: f64) -> bool {
    let Some((base, deltas)) = head.layers.split_first() else {
        return false;
    };
    let bytes = deltas.iter().map(|delta| delta.bytes).sum::<u64>() as f64;
    let base = base.bytes as f64;
    let bytes_max = (DELTAS_SHARE * base).min((DELTAS_SHARE_LARGE * base).max(DELTAS_LARGE as f64));
    deltas.len() as f64 >= times * deltas_max as f64 || bytes > times * bytes_max.max(DELTAS_MIN as f64)
}

impl Merging {
    /// Begins to merge what `head` names into a fresh database.
    pub(super) fn start(disk: &Arc<dyn Disk>, name: String, head: Head, old: Database, at_stage: AtStage) -> Self {
        let (sender, result) = channel();
        let (into, on, bytes) = (name.clone(), Arc::clone(disk), head.bytes());
        let is_given_up = Arc::new(AtomicBool::new(false));
        let given_up = Arc::clone(&is_given_up);
        let work = move || {
            // Nobody waits for the result of a merge that was given up.
            let _ = sender.send(merge(into, &*on, &head, old, &given_up, at_stage));
        };
        Self { name, bytes, aside: disk.aside(Box::new(work)), is_given_up, result }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.aside.is_finished()
    }

    /// Waits for the merge.
    pub(super) fn finish(self) -> Result<Merged, StoreError> {
        let Self { name, aside, result, .. } = self;
        let panicked = || StoreError::Damaged { path: name.into(), reason: "merging panicked".into() };
        if aside.wait() { result.try_recv().unwrap_or_else(|_| Err(panicked())) } else { Err(panicked()) }
    }
}

impl Merging {
    /// Ends the merge within a block or two. Its database is of no use: it goes with the next removal.
    pub(super) fn give_up(self) {
        self.is_given_up.store(true, Ordering::Release);
        if let Err(error) = self.finish() {
            tracing::debug!("a merge of checkpoints was given up: {error}");
        }
    }
}

/// Reads the layers of a head as one, block by block.
pub(super) fn read_merged(
    from: &mut Database,
    head: &Head,
    take: &mut dyn FnMut(Block) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let path = from.path().to_owned();
    let unreadable = |error| StoreError::Damaged { path: path.clone(), reason: format!("merging: {error}") };
    let mut merge = Merge::default();
    for (depth, layer) in head.layers.iter().rev().enumerate() {
        let place = BlockPlace { depth, scope: layer.scope };
        from.read_blocks(layer, |block| {
            merge.take(place, block).map_err(unreadable)?.into_iter().try_for_each(&mut *take)
        })?;
    }
    merge.finish().map_err(unreadable)?.into_iter().try_for_each(take)
}

fn merge(
    name: String,
    disk: &dyn Disk,
    head: &Head,
    mut old: Database,
    is_given_up: &AtomicBool,
    at_stage: AtStage,
) -> Result<Merged, StoreError> {
    let start = Instant::now();
    let go_on = || if is_given_up.load(Ordering::Acquire) { Err(StoreError::GivenUp) } else { Ok(()) };
    at_stage(Stage::MergeBegun)?;
    let mut database = Database::open(disk, &name)?;
    let mut writer = database.begin(head.commit(), Scope::Everything)?;
    read_merged(&mut old, head, &mut |merged| go_on().and_then(|()| database.put(&mut writer, &merged)))?;
    go_on()?;
    let base = database.end(writer)?;
    at_stage(Stage::Merged)?;
    database.read_blocks(&base, |_| go_on())?;
    at_stage(Stage::MergeVerified)?;
    tracing::info!(
        "merged {} layers into {name}, {} MB, in {:.1?}",
        head.layers.len(),
        base.bytes / 1_000_000,
        start.elapsed()
    );
    Ok(Merged { name, database, base })
}
