//! Checkpoints in sled, by the rules that its measured faults ask for.
//!
//! ```text
//! DIR/LOCK            held by the worker
//! DIR/HEAD.a, HEAD.b  the witness, written in turn
//! DIR/base-<n>/       sled databases: a base and the deltas on it; the newest takes commits, the one before is kept
//! ```
//!
//! A commit: blocks → flush, sync → one transaction (the head must be the parent, and moves) → flush, sync: *this is
//! the commit point* → witness. When the deltas have grown, a new base is merged into a fresh database on another thread,
//! and read back; the commit that finds it ready goes there, with the deltas written since. The old database then takes no
//! more commits, and the one before it is removed. After a failure of a database its handle is left alone for good, and the
//! next commit is of everything, into a fresh one. Changes that find no room are not given to any: they wait in memory, and
//! go with the next ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::database::{Database, Head};
use super::disk::Disk;
use super::merging::{self, Merged, Merging};
use super::recovery::{self, Fault, Found};
use super::sled_disk::SledDisk;
use super::stage::{AtStage, Stage};
use super::witness::{self, Testimony, Witness};
use super::{ReadMerged, Saved, Store, StoreError};
use deepfm_core::checkpoint::Layer;
use deepfm_core::train::Scope;

/// Room that a commit must find beside what it writes, in bytes.
const HEADROOM: u64 = 16 << 20;

/// Bytes that sled takes for a byte that it is given, at most: it was seen to take 1.2, and 1.6 of a block by itself.
const SLED_FACTOR: u64 = 2;

/// The most bytes of changes that wait in memory for room on the disk; past them the next commit is of everything.
pub const UNFIT_BYTES_MAX: u64 = 1 << 30;

/// The store of a state directory.
pub struct CommitStore {
    disk: Arc<dyn Disk>,
    current: Option<Current>,
    /// What was fallen back to, to be read until the first commit.
    fallen_back: Option<Current>,
    merging: Option<Merging>,
    /// Changes that found no room, by their numbers: they go with the next ones.
    unfit: Vec<(u64, Layer)>,
    /// Whether the worker ends: nothing is merged any more.
    ends_soon: bool,
    witness: Option<Witness>,
    /// The largest number that a commit was tried under.
    tried: u64,
    /// The largest number that a database was given.
    named: u64,
    /// Whether the next commit must be of everything: a merge has failed, and not for the disk being full or the like, so that the
    /// base may be damaged, or a commit found no room whose changes do not wait for it.
    is_suspect: bool,
    at_stage: AtStage,
    /// So many deltas are merged, however small.
    deltas_max: usize,
}

/// The database that takes commits.
struct Current {
    name: String,
    database: Database,
    head: Head,
}

impl CommitStore {
    /// Opens a state directory, which is made if it is missing, and locks it.
    ///
    /// # Errors
    /// When another process has it, or it cannot be made.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_with(root, merging::DELTAS_MAX, |_| Ok(()))
    }

    /// The same, merging `deltas_max` deltas however small, and calling `at_stage` at every arrow.
    ///
    /// # Errors
    /// When another process has it, or it cannot be made.
    pub fn open_with(root: &Path, deltas_max: usize, at_stage: AtStage) -> Result<Self, StoreError> {
        Ok(Self::on(Arc::new(SledDisk::lock(root)?), deltas_max, at_stage))
    }

    /// The disk of a state directory, for tests that put something before it.
    ///
    /// # Errors
    /// When another process has it, or it cannot be made.
    #[doc(hidden)]
    pub fn disk(root: &Path) -> Result<impl Disk + 'static, StoreError> {
        SledDisk::lock(root)
    }

    /// The same on any disk, for tests.
    #[doc(hidden)]
    pub fn on(disk: Arc<dyn Disk>, deltas_max: usize, at_stage: AtStage) -> Self {
        Self {
            disk,
            current: None,
            fallen_back: None,
            merging: None,
            unfit: Vec::new(),
            ends_soon: false,
            witness: None,
            tried: 0,
            named: 0,
            is_suspect: false,
            at_stage,
            deltas_max,
        }
    }

    fn root(&self) -> PathBuf {
        self.disk.path("")
    }

    /// The databases, the newest first.
    fn bases(&self) -> Result<Vec<String>, StoreError> {
        let mut bases = self.disk.names()?;
        bases.retain(|name| witness::number(name).is_some());
        bases.sort_unstable_by_key(|name| std::cmp::Reverse(witness::number(name)));
        Ok(bases)
    }

    /// A name that no database has had, removed ones included: sled may still write into the directory of one that failed.
    fn fresh_name(&mut self) -> Result<String, StoreError> {
        let newest = newest(&self.bases()?);
        let witnessed = self
            .witness
            .as_ref()
            .map_or(0, |witness| witness::number(&witness.newest.directory).unwrap_or(0).max(witness.passed_over));
        self.named = self.named.max(newest).max(witnessed) + 1;
        Ok(format!("base-{}", self.named))
    }

    fn damaged(&self, reason: String) -> StoreError {
        StoreError::Damaged { path: self.root(), reason }
    }

    /// Writes the witness, unless it knows of the commit already.
    fn testify(&mut self, newest: Testimony) -> Result<(), StoreError> {
        let (before, other) = match &self.witness {
            Some(witness) if witness.newest == newest => return Ok(()),
            Some(witness) if witness.newest.directory == newest.directory => {
                (Some(witness.newest.clone()), witness.other.clone())
            }
            Some(witness) => (None, Some(witness.newest.clone())),
            None => (None, None),
        };
        self.write_witness(newest, before, other)
    }

    fn write_witness(
        &mut self,
        newest: Testimony,
        before: Option<Testimony>,
        other: Option<Testimony>,
    ) -> Result<(), StoreError> {
        let (written, passed_over) =
            self.witness.as_ref().map_or((0, 0), |witness| (witness.written, witness.passed_over));
        self.put_witness(Witness { written: written + 1, newest, before, other, passed_over })
    }

    fn put_witness(&mut self, witness: Witness) -> Result<(), StoreError> {
        witness::write(&*self.disk, &witness)?;
        self.witness = Some(witness);
        Ok(())
    }

    fn check_space(&self, bytes: u64) -> Result<(), StoreError> {
        let needed = SLED_FACTOR * bytes + HEADROOM;
        let available = self.disk.available()?;
        if available < needed {
            return Err(StoreError::Full { path: self.root(), available, needed });
        }
        Ok(())
    }

    /// Commits everything into a fresh database, which is read back before anything rests on it.
    fn commit_everything(&mut self, commit: u64, layer: &Layer) -> Result<Current, StoreError> {
        self.give_up_merging();
        let name = self.fresh_name()?;
        let mut database = Database::open(&*self.disk, &name)?;
        let base = database.write(commit, layer)?;
        database.read_blocks(&base, |_| Ok(()))?;
        (self.at_stage)(Stage::BlocksSynced)?;
        let head = Head { layers: vec![base] };
        database.commit(None, &head)?;
        self.is_suspect = false;
        Ok(Current { name, database, head })
    }

    /// Commits changes on top of what is there, or on top of the merged base if that is ready.
    fn commit_changes(
        &mut self,
        commit: u64,
        mut current: Current,
        unfit: &[(u64, Layer)],
        layer: &Layer,
    ) -> Result<Current, StoreError> {
        let mut parent = Some(current.head.clone());
        let waiting: u64 = unfit.iter().map(|(_, layer)| layer.bytes()).sum();
        if let Some(merging) = self.take_merging(&current.head, waiting + layer.bytes()) {
            match merging.finish() {
                Ok(merged) => {
                    current = switch(current, merged)?;
                    parent = None;
                    (self.at_stage)(Stage::Switched)?;
                }
                Err(error) => {
                    let is_damage = !error.is_of_the_world();
                    let next = if is_damage { "; the next one is of everything" } else { "" };
                    tracing::error!("checkpoints cannot be merged ({}){next}", error.text());
                    self.is_suspect |= is_damage;
                }
            }
        }
        let waiting = unfit.iter().map(|(commit, layer)| (*commit, layer));
        for (commit, layer) in waiting.chain([(commit, layer)]) {
            current.head.layers.push(current.database.write(commit, layer)?);
        }
        (self.at_stage)(Stage::BlocksSynced)?;
        current.database.commit(parent.as_ref(), &current.head)?;
        Ok(current)
    }

    /// The merge that a commit of so many bytes goes over to: one that has ended, or that the commit waits for. Where there is no
    /// room for the deltas since, it is left for a later commit.
    fn take_merging(&mut self, head: &Head, bytes: u64) -> Option<Merging> {
        let merging = self.merging.as_ref()?;
        let is_finished = merging.is_finished();
        if !is_finished && !merging::is_overdue(head, self.deltas_max) {
            return None;
        }
        let copied = head.bytes() - merging.bytes;
        let unwritten = if is_finished { 0 } else { merging.bytes };
        if let Err(full) = self.check_space(bytes + copied + unwritten) {
            tracing::warn!("merged checkpoints are not gone over to: {full}");
            return None;
        }
        self.merging.take()
    }

    fn commit_to(&mut self, layer: &Layer) -> Result<u64, StoreError> {
        let known = self.witness.as_ref().map_or(0, |witness| witness.newest.commit);
        let commit = known.max(self.tried) + 1;
        self.tried = commit;
        self.find_room(commit, layer)?;
        self.fallen_back = None;
        let unfit = std::mem::take(&mut self.unfit);
        let current = match (layer.scope, self.current.take()) {
            (Scope::Everything, _) => self.commit_everything(commit, layer)?,
            (Scope::Changes, Some(current)) => self.commit_changes(commit, current, &unfit, layer)?,
            (Scope::Changes, None) => return Err(StoreError::NoBase),
        };
        (self.at_stage)(Stage::Committed)?;
        self.testify(Testimony { commit, directory: current.name.clone(), digest: current.head.digest() })?;
        (self.at_stage)(Stage::Witnessed)?;
        self.current = Some(current);
        // The commit is durable and known, whatever becomes of this: it is tried again after the next.
        if let Err(error) = self.tidy() {
            tracing::warn!("after checkpoint {commit}: {}", error.text());
        }
        Ok(commit)
    }

    /// Holds a commit against the room that there is, or can be made. Changes that find none wait for those of the next commit,
    /// while both together are less than everything: asking for everything would ask for more room where there is not enough.
    fn find_room(&mut self, commit: u64, layer: &Layer) -> Result<(), StoreError> {
        let waiting: u64 = self.unfit.iter().map(|(_, layer)| layer.bytes()).sum();
        let bytes = layer.bytes() + if layer.scope == Scope::Changes { waiting } else { 0 };
        if self.check_space(bytes).is_ok() {
            return Ok(());
        }
        self.give_up_merging();
        self.remove_unknown();
        let Err(error) = self.check_space(bytes) else {
            return Ok(());
        };
        match (&self.current, layer.scope) {
            (Some(current), Scope::Changes) if bytes < current.head.bytes().min(UNFIT_BYTES_MAX) => {
                self.unfit.push((commit, layer.clone()));
            }
            (Some(_), _) => {
                self.unfit.clear();
                self.is_suspect = true;
            }
            (None, _) => {}
        }
        Err(error)
    }

    /// What is done after a commit: removes what is old, and sees to the next base.
    fn tidy(&mut self) -> Result<(), StoreError> {
        self.remove_unknown();
        (self.at_stage)(Stage::Removed)?;
        self.merge_if_due()
    }

    /// Begins to merge when the deltas have grown and there is room for a new base.
    fn merge_if_due(&mut self) -> Result<(), StoreError> {
        let Some(current) = &self.current else { return Ok(()) };
        if self.ends_soon || self.merging.is_some() || !merging::is_due(&current.head, self.deltas_max) {
            return Ok(());
        }
        if let Err(full) = self.check_space(current.head.bytes()) {
            tracing::warn!("checkpoints are not merged: {full}");
            return Ok(());
        }
        let (head, old) = (current.head.clone(), current.database.reader()?);
        let name = self.fresh_name()?;
        self.merging = Some(Merging::start(&self.disk, name, head, old, self.at_stage));
        Ok(())
    }

    fn give_up_merging(&mut self) {
        if let Some(merging) = self.merging.take() {
            merging.give_up();
        }
    }

    /// Removes the databases that neither the witness nor a merge speaks of, as far as that can be. What was fallen back from
    /// stays until a commit.
    fn remove_unknown(&self) {
        let Some(witness) = &self.witness else { return };
        let Witness { newest, other, passed_over, .. } = witness;
        let merging = self.merging.as_ref().map(|merging| merging.name.as_str());
        let kept = [Some(newest.directory.as_str()), other.as_ref().map(|other| other.directory.as_str()), merging];
        let stays = |name: &str| witness.has_fallen_back() && witness::number(name) <= Some(*passed_over);
        let is_unknown = |name: &&str| !kept.contains(&Some(*name)) && !stays(name);
        let is_there = |error: StoreError| tracing::warn!("what nothing refers to is still there: {}", error.text());
        let names = self.bases().map_err(is_there).unwrap_or_default();
        for name in names.iter().map(String::as_str).filter(is_unknown) {
            let _ = self.disk.remove(name).map_err(is_there);
        }
    }
}

/// The largest number of databases, the newest of which comes first.
fn newest(bases: &[String]) -> u64 {
    bases.first().and_then(|name| witness::number(name)).unwrap_or(0)
}

/// Goes over to a merged base, with the deltas that were committed since it was begun.
fn switch(mut old: Current, merged: Merged) -> Result<Current, StoreError> {
    let Merged { name, mut database, base } = merged;
    let since = base.commit;
    let mut head = Head { layers: vec![base] };
    for delta in old.head.layers.iter().filter(|layer| layer.commit > since) {
        let layer = old.database.read(delta)?;
        head.layers.push(database.write(delta.commit, &layer)?);
    }
    Ok(Current { name, database, head })
}

impl Store for CommitStore {
    fn load(&mut self) -> Result<Option<Saved>, StoreError> {
        self.witness = witness::read(&*self.disk)?;
        let names = self.disk.names()?;
        let files = names.iter().filter(|name| witness::NAMES.contains(&name.as_str())).count();
        if self.witness.is_none() && files > 1 {
            return Err(self.damaged("both witness files are damaged".to_owned()));
        }
        let bases = self.bases()?;
        let found = recovery::find(&*self.disk, &bases, self.witness.as_ref(), self.at_stage);
        let found = found.map_err(|fault| match fault {
            Fault::Damage(reason) => self.damaged(reason),
            Fault::World(error) => error,
        })?;
        let Some(Found { saved, name, database, head, tried }) = found else {
            // The first witness may be cut short; the commit that it was written for was durable before.
            return if self.witness.is_none() && files > 0 {
                Err(self.damaged("the witness is damaged, and no checkpoint was found".to_owned()))
            } else {
                Ok(None)
            };
        };
        (self.at_stage)(Stage::Found)?;
        let known = self.witness.as_ref().map_or(0, |witness| witness.newest.commit);
        self.tried = known.max(tried);
        let testimony = Testimony { commit: head.commit(), directory: name.clone(), digest: head.digest() };
        if saved.fell_back.is_none() {
            self.testify(testimony)?;
            self.current = Some(Current { name, database, head });
        } else {
            // What was fallen back to is the newest now; nothing is written behind the damage, nor comes back from there. Where an
            // earlier start has said so, what has come since is not what it fell back from.
            let is_said = |witness: &Witness| witness.has_fallen_back() && witness.newest == testimony;
            if !self.witness.as_ref().is_some_and(is_said) {
                let written = self.witness.as_ref().map_or(0, |witness| witness.written) + 1;
                let passed_over = newest(&bases);
                self.put_witness(Witness { written, newest: testimony, before: None, other: None, passed_over })?;
            }
            self.fallen_back = Some(Current { name, database, head });
        }
        (self.at_stage)(Stage::Settled)?;
        // Of those that are removed now, one may still be open here.
        self.named = newest(&bases);
        self.remove_unknown();
        Ok(Some(saved))
    }

    fn reset(&mut self) -> Result<(), StoreError> {
        self.current = None;
        self.fallen_back = None;
        self.unfit.clear();
        // The witness goes last: what a crash in between leaves is refused, and not taken for a state.
        for name in self.bases()? {
            self.disk.remove(&name)?;
        }
        self.disk.sync_names()?;
        for name in self.disk.names()? {
            if witness::NAMES.contains(&name.as_str()) {
                self.disk.remove(&name)?;
            }
        }
        self.witness = None;
        self.disk.sync_names()
    }

    fn wants(&self) -> Scope {
        if self.current.is_some() && !self.is_suspect { Scope::Changes } else { Scope::Everything }
    }

    fn commit(&mut self, layer: &Layer) -> Result<u64, StoreError> {
        self.commit_to(layer)
    }

    fn end_soon(&mut self) {
        self.ends_soon = true;
        self.give_up_merging();
    }

    fn reader(&self) -> Result<ReadMerged, StoreError> {
        let current = self.current.as_ref().or(self.fallen_back.as_ref()).ok_or(StoreError::NoBase)?;
        // Should the directory be removed by a rotation meanwhile, its files stay readable through the open handle.
        let (mut database, head) = (current.database.reader()?, current.head.clone());
        Ok(Box::new(move |take| merging::read_merged(&mut database, &head, take)))
    }
}

impl Drop for CommitStore {
    fn drop(&mut self) {
        self.end_soon();
    }
}
