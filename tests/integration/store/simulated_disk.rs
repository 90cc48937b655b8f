//! A disk in memory that is unkind within the rules: what was not synced is lost, torn or reordered when the power goes,
//! an error of a sync may have lost anything, and opening that was cut short leaves something behind.
//!
//! It can also do what a store with a bug would have done to it ([`Bug`]), so that the harness can be tested.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deepfm_stream::store::{Aside, Disk, Engine, StoreError, Take};

use super::bugs::Bug;
use super::dice::Dice;

#[derive(Clone, Debug)]
enum Change {
    Put(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    Head(Vec<u8>),
}

#[derive(Clone, Debug, Default)]
struct Content {
    blocks: BTreeMap<Vec<u8>, Vec<u8>>,
    head: Option<Vec<u8>>,
}

impl Content {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(key, value) => {
                self.blocks.insert(key.clone(), value.clone());
            }
            Change::Remove(key) => {
                self.blocks.remove(key);
            }
            Change::Head(head) => self.head = Some(head.clone()),
        }
    }
}

#[derive(Debug, Default)]
struct SimulatedDatabase {
    /// What is read.
    cached: Content,
    durable: Content,
    /// What the next sync makes durable.
    pending: Vec<Change>,
    /// What a sync that failed may have lost.
    doubtful: Vec<Change>,
    /// Whether an opening was cut short.
    is_half_open: bool,
    /// Blocks that went wrong on their way, as they were meant.
    meant: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Default)]
struct SimulatedFile {
    durable: Option<Vec<u8>>,
    cached: Vec<u8>,
    is_named: bool,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    bug: Option<Bug>,
    databases: BTreeMap<String, SimulatedDatabase>,
    files: BTreeMap<String, SimulatedFile>,
    /// Databases whose removal is not durable.
    removed: BTreeMap<String, SimulatedDatabase>,
    operations: u64,
    /// The operation at which the power goes.
    cut_at: u64,
    /// One in so many operations fails; 0 is none.
    fails_one_in: u64,
    /// Whether databases with unsynced changes may come back empty, as sled sometimes does.
    empties: bool,
    /// A head whose sync waits for the witness.
    deferred: Option<String>,
}

/// The disk, and the hand of the test on it.
#[derive(Clone, Debug)]
pub(super) struct SimulatedDisk(Arc<Mutex<State>>);

impl SimulatedDisk {
    pub(super) fn new(seed: u64, bug: Option<Bug>, empties: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            dice: Dice::new(seed),
            bug,
            databases: BTreeMap::new(),
            files: BTreeMap::new(),
            removed: BTreeMap::new(),
            operations: 0,
            cut_at: u64::MAX,
            fails_one_in: 0,
            empties,
            deferred: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the power go `operations` later.
    pub(super) fn cut_in(&self, operations: u64) {
        let mut state = self.state();
        state.cut_at = state.operations + operations;
    }

    pub(super) fn fail_one_in(&self, operations: u64) {
        self.state().fails_one_in = operations;
    }

    pub(super) fn is_off(&self) -> bool {
        let state = self.state();
        state.operations >= state.cut_at
    }

    /// The number of the newest database.
    pub(super) fn newest_base(&self) -> u64 {
        let state = self.state();
        let numbers = state.databases.keys().filter_map(|name| name.strip_prefix("base-")?.parse().ok());
        numbers.max().unwrap_or(0)
    }

    /// Brings the power back: what was synced is there, of the rest whatever the dice leave.
    pub(super) fn come_back(&self) {
        let mut state = self.state();
        state.cut_at = u64::MAX;
        state.fails_one_in = 0;
        state.deferred = None;
        let State { dice, databases, files, removed, empties, .. } = &mut *state;
        for (name, mut database) in std::mem::take(removed) {
            match dice.below(3) {
                0 => drop(databases.insert(name, database)),
                1 => {
                    database.durable = Content::default();
                    database.pending.clear();
                    database.doubtful.clear();
                    databases.insert(name, database);
                }
                _ => {}
            }
        }
        for database in databases.values_mut() {
            survive(database, dice, *empties);
        }
        files.retain(|_, file| file.is_named || !dice.one_in(2));
        for file in files.values_mut() {
            tear(file, dice);
        }
    }
}

/// Leaves of what was not synced nothing, the beginning, or any part, torn here and there.
fn survive(database: &mut SimulatedDatabase, dice: &mut Dice, empties: bool) {
    let mut unsynced = std::mem::take(&mut database.doubtful);
    unsynced.append(&mut database.pending);
    if empties && !unsynced.is_empty() && dice.one_in(6) {
        database.durable = Content::default();
        unsynced.clear();
    }
    let (kind, kept) = (dice.below(3), dice.below(unsynced.len() as u64 + 1) as usize);
    for (at, mut change) in unsynced.into_iter().enumerate() {
        let stays = match kind {
            0 => false,
            1 => at < kept,
            _ => dice.one_in(2),
        };
        if let Change::Put(_, value) = &mut change
            && dice.one_in(8)
        {
            value.truncate(dice.below(value.len() as u64 + 1) as usize);
        }
        if stays {
            database.durable.apply(&change);
        }
    }
    database.cached = database.durable.clone();
    database.meant.clear();
}

fn tear(file: &mut SimulatedFile, dice: &mut Dice) {
    let old = file.durable.clone().unwrap_or_default();
    if file.durable.as_ref() != Some(&file.cached) {
        let new = std::mem::take(&mut file.cached);
        let at = dice.below(new.len() as u64 + 1) as usize;
        file.cached = match dice.below(4) {
            0 => old,
            1 => new,
            2 => new[..at].to_vec(),
            _ => new[..at].iter().chain(old.iter().skip(at)).copied().collect(),
        };
    }
    file.durable = Some(file.cached.clone());
    file.is_named = true;
}

fn failure(doing: &'static str) -> StoreError {
    StoreError::Io { doing, path: "disk".into(), source: io::Error::from_raw_os_error(5) }
}

impl State {
    /// Counts an operation; an error when the power goes or has gone, or the operation fails.
    fn operate(&mut self, doing: &'static str) -> Result<(), StoreError> {
        self.operations += 1;
        let fails = self.fails_one_in > 0 && self.dice.one_in(self.fails_one_in);
        if self.operations >= self.cut_at || fails { Err(failure(doing)) } else { Ok(()) }
    }

    fn database(&mut self, name: &str) -> Result<&mut SimulatedDatabase, StoreError> {
        self.databases.get_mut(name).ok_or_else(|| failure("find"))
    }

    fn change(&mut self, name: &str, change: Change) -> Result<(), StoreError> {
        let was_off = self.operations >= self.cut_at;
        let done = self.operate("change");
        // An operation that fails, or that the power ends, may still have been done.
        let is_done = done.is_ok() || (!was_off && self.dice.one_in(2));
        let database = self.database(name)?;
        if is_done {
            database.cached.apply(&change);
            database.pending.push(change);
        }
        done
    }

    fn make_durable(&mut self, name: &str) -> Result<(), StoreError> {
        let database = self.database(name)?;
        for change in std::mem::take(&mut database.pending) {
            database.durable.apply(&change);
        }
        Ok(())
    }

    fn sync_database(&mut self, name: &str) -> Result<(), StoreError> {
        let bug = self.bug;
        let done = self.operate("sync");
        let is_off = self.operations >= self.cut_at;
        let database = self.database(name)?;
        let has_head = database.pending.iter().any(|change| matches!(change, Change::Head(_)));
        match done {
            Err(_) if !is_off => {
                database.doubtful.append(&mut database.pending);
                if bug == Some(Bug::SyncErrorIgnored) { Ok(()) } else { done }
            }
            Err(_) => done,
            Ok(()) if bug == Some(Bug::BlocksNotSynced) && !has_head => Ok(()),
            Ok(()) if bug == Some(Bug::HeadNotSynced) && has_head => Ok(()),
            Ok(()) if bug == Some(Bug::WitnessBeforeCommit) && has_head => {
                self.deferred = Some(name.to_owned());
                Ok(())
            }
            Ok(()) => self.make_durable(name),
        }
    }

    /// What the bugs around a rotation do when the head of a database moves.
    fn sabotage_rotation(&mut self, name: &str) -> Result<(), StoreError> {
        let bug = self.bug;
        let database = self.database(name)?;
        if database.cached.head.is_some() {
            return Ok(());
        }
        if bug == Some(Bug::DeltaLostAtRotation) {
            let keys = database.cached.blocks.keys();
            let mut commits: Vec<[u8; 8]> = keys.filter_map(|key| key.first_chunk().copied()).collect();
            commits.dedup();
            if let [_, lost, _, ..] = commits[..] {
                database.cached.blocks.retain(|key, _| !key.starts_with(&lost));
                database.durable.blocks.retain(|key, _| !key.starts_with(&lost));
            }
        }
        if bug == Some(Bug::OldBaseRemovedEarly) {
            self.databases.retain(|other, _| other == name);
        }
        Ok(())
    }
}

impl Disk for SimulatedDisk {
    fn path(&self, name: &str) -> PathBuf {
        name.into()
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let state = self.state();
        let mut names: Vec<String> = state.databases.keys().cloned().collect();
        if state.bug == Some(Bug::StaleBasePreferred) && names.len() > 1 {
            let newest = names.iter().max_by_key(|name| (name.len(), (*name).clone())).cloned();
            names.retain(|name| Some(name) != newest.as_ref());
        }
        if state.bug != Some(Bug::WitnessNotRead) {
            names.extend(state.files.keys().cloned());
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let state = self.state();
        let file = state.files.get(name).filter(|_| state.bug != Some(Bug::WitnessNotRead));
        file.map(|file| file.cached.clone()).ok_or_else(|| io::Error::from_raw_os_error(2))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.operations >= state.cut_at {
            return Err(failure("write"));
        }
        let done = state.operate("write");
        let kept = if done.is_ok() { bytes.len() } else { state.dice.below(bytes.len() as u64) as usize };
        state.files.entry(name.to_owned()).or_default().cached = bytes[..kept].to_vec();
        done
    }

    fn sync(&self, name: &str) -> Result<(), StoreError> {
        let mut state = self.state();
        state.operate("sync")?;
        if state.bug != Some(Bug::WitnessNotSynced) {
            let file = state.files.get_mut(name).ok_or_else(|| failure("find"))?;
            file.durable = Some(file.cached.clone());
        }
        Ok(())
    }

    fn sync_names(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        state.operate("sync")?;
        state.files.values_mut().for_each(|file| file.is_named = true);
        state.removed.clear();
        match state.deferred.take() {
            Some(name) => state.make_durable(&name),
            None => Ok(()),
        }
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let mut state = self.state();
        state.operate("remove")?;
        state.files.remove(name);
        if let Some(database) = state.databases.remove(name) {
            state.removed.insert(name.to_owned(), database);
        }
        Ok(())
    }

    fn available(&self) -> Result<u64, StoreError> {
        let mut state = self.state();
        Ok(if state.fails_one_in > 0 && state.dice.one_in(100) { 0 } else { u64::MAX })
    }

    fn remove_leftovers(&self, name: &str) -> Result<(), StoreError> {
        let mut state = self.state();
        state.operate("remove")?;
        if state.bug != Some(Bug::GuardSkipped)
            && let Some(database) = state.databases.get_mut(name)
        {
            database.is_half_open = false;
        }
        Ok(())
    }

    fn open(&self, name: &str) -> Result<Box<dyn Engine>, StoreError> {
        let mut state = self.state();
        let opened = state.operate("open");
        if let Some(database) = state.databases.get_mut(name) {
            if database.is_half_open {
                return Err(failure("open"));
            }
            database.is_half_open = opened.is_err();
            opened?;
        } else {
            opened?;
            // Making a database syncs the names.
            state.removed.clear();
            state.databases.insert(name.to_owned(), SimulatedDatabase::default());
        }
        Ok(Box::new(Handle { disk: self.clone(), name: name.to_owned() }))
    }

    fn aside(&self, work: Box<dyn FnOnce() + Send>) -> Box<dyn Aside> {
        let mut state = self.state();
        let due = state.operations + state.dice.below(60);
        Box::new(Later { disk: self.clone(), due, work: Mutex::new(Some(work)) })
    }
}

/// Work that is done all at once, at a moment of the dice.
struct Later {
    disk: SimulatedDisk,
    due: u64,
    work: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Later {
    fn run(&self) {
        let work = self.work.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(work) = work {
            work();
        }
    }
}

impl Aside for Later {
    fn is_finished(&self) -> bool {
        let is_due = self.disk.state().operations >= self.due;
        if is_due {
            self.run();
        }
        is_due
    }

    fn wait(self: Box<Self>) -> bool {
        self.run();
        true
    }
}

struct Handle {
    disk: SimulatedDisk,
    name: String,
}

impl Handle {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut state = self.disk.state();
        let mut written = value.to_vec();
        let database = state.database(&self.name)?;
        let is_of_base = database.cached.blocks.keys().next().is_none_or(|first| first[..8] == key[..8]);
        if database.cached.head.is_none() && is_of_base && state.dice.one_in(400) {
            written[0] ^= 1;
            state.database(&self.name)?.meant.insert(key.to_vec(), value.to_vec());
        }
        state.change(&self.name, Change::Put(key.to_vec(), written))
    }
}

impl Engine for Handle {
    fn head(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.disk.state().database(&self.name)?.cached.head.clone())
    }

    fn scan(&self, prefix: &[u8], take: Take<'_>) -> Result<(), StoreError> {
        let mut state = self.disk.state();
        let trusts = state.bug == Some(Bug::MergeNotReadBack);
        let SimulatedDatabase { cached, meant, .. } = state.database(&self.name)?;
        let found: Vec<(Vec<u8>, Vec<u8>)> = cached
            .blocks
            .range(prefix.to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), meant.get(key).filter(|_| trusts).unwrap_or(value).clone()))
            .collect();
        // Whoever takes a block may write to this disk.
        drop(state);
        // Whether there was an end before the last is the taker's affair.
        let _ = found.into_iter().try_for_each(|(key, value)| take(&key, value));
        Ok(())
    }

    fn insert(&self, blocks: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreError> {
        blocks.iter().try_for_each(|(key, value)| self.put(key, value))
    }

    fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        let mut state = self.disk.state();
        if state.bug == Some(Bug::NumberReusedOverLeftovers) {
            return Ok(());
        }
        state.change(&self.name, Change::Remove(key.to_vec()))
    }

    fn move_head(&self, from: Option<&[u8]>, to: &[u8]) -> Result<bool, StoreError> {
        let mut state = self.disk.state();
        if state.database(&self.name)?.cached.head.as_deref() != from {
            return Ok(false);
        }
        state.sabotage_rotation(&self.name)?;
        state.change(&self.name, Change::Head(to.to_vec()))?;
        Ok(true)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.disk.state().sync_database(&self.name)
    }

    fn another(&self) -> Box<dyn Engine> {
        Box::new(Self { disk: self.disk.clone(), name: self.name.clone() })
    }
}
