//! The power goes while real sled files are written: images of the disk are made from what the files held when they were
//! last synced and what they held at the cut, page by page, and a store is started on each.
//!
//! sled on Linux syncs nothing by itself: what is durable is what the store synced, in the order of its stages.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use deepfm_stream::store::{Aside, CommitStore, Disk, Engine, Store, StoreError, Take};

use super::dice::Dice;
use super::{assert_is_commit, layer, load, scope_of};
use crate::support::rounds;

/// The unit in which the page cache is written out.
const PAGE: usize = 4096;
/// Deltas that the store here merges.
const DELTAS_MAX: usize = 4;

/// How much of what was not synced reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// None of it.
    Strict,
    /// The first changed pages.
    Partial,
    /// Any changed pages.
    Reordered,
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// All files below a directory.
fn files(root: &Path) -> Files {
    let mut found = Files::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        // A file or directory that goes away meanwhile is one that is being removed.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                left.push(entry.path());
            } else if let Ok(bytes) = fs::read(entry.path()) {
                let name = entry.path().strip_prefix(root).expect("it is below").to_owned();
                found.insert(name, bytes);
            }
        }
    }
    found.remove(Path::new("LOCK"));
    found
}

/// What the power leaves of files that were `synced` so and are `cached` so.
fn image(synced: &Files, cached: &Files, cut: Cut, dice: &mut Dice) -> Files {
    let mut image = Files::new();
    for name in synced.keys().chain(cached.keys().filter(|name| !synced.contains_key(*name))) {
        let (old, new) = (synced.get(name), cached.get(name));
        let is_there = match (old, new) {
            (Some(_), Some(_)) => true,
            // A removal, or a new name, that was not synced.
            (Some(_), None) => cut == Cut::Strict || dice.one_in(2),
            (None, _) => cut != Cut::Strict && dice.one_in(2),
        };
        if !is_there {
            continue;
        }
        let old = old.cloned().unwrap_or_default();
        let new = new.cloned().unwrap_or_else(|| old.clone());
        let page =
            |bytes: &[u8], at: usize| bytes.get(at..).map_or(vec![], |rest| rest[..rest.len().min(PAGE)].to_vec());
        let starts = (0..old.len().max(new.len())).step_by(PAGE);
        let changed: Vec<usize> = starts.filter(|at| page(&old, *at) != page(&new, *at)).collect();
        let kept = dice.below(changed.len() as u64 + 1) as usize;
        let mut bytes = old;
        for (nth, at) in changed.into_iter().enumerate() {
            let is_written = match cut {
                Cut::Strict => false,
                Cut::Partial => nth < kept,
                Cut::Reordered => dice.one_in(2),
            };
            if is_written {
                let page = page(&new, at);
                bytes.resize(bytes.len().max(at + page.len()), 0);
                bytes[at..at + page.len()].copy_from_slice(&page);
            }
        }
        image.insert(name.clone(), bytes);
    }
    image
}

/// What the test knows when the power goes.
#[derive(Debug, Default)]
struct Known {
    synced: Files,
    dice: Option<Dice>,
    acknowledged: u64,
    cuts: usize,
    /// Images that were refused, and that fell back, loudly.
    refused: usize,
    fell_back: usize,
    under_way: usize,
}

/// What was synced of the files of a state directory; lets the power go now and then.
struct Journal {
    root: PathBuf,
    known: Arc<Mutex<Known>>,
    cuts_one_in: u64,
}

/// A real disk with a journal.
struct JournaledDisk<D> {
    disk: D,
    journal: Arc<Journal>,
}

impl Journal {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a file holds for durable.
    fn record(&self, name: &str) {
        // sled's own thread may be writing: twice the same is what was there at one time.
        let mut read = fs::read(self.root.join(name)).ok();
        while let Some(bytes) = read {
            read = fs::read(self.root.join(name)).ok();
            if read.as_ref() == Some(&bytes) {
                self.known().synced.insert(name.into(), bytes);
                return;
            }
        }
    }

    /// Before something happens, and between a write and the sync of it: perhaps the power goes.
    fn maybe_cut(&self) {
        let mut known = self.known();
        let is_cut = known.dice.as_mut().is_some_and(|dice| dice.one_in(self.cuts_one_in));
        if is_cut {
            let cached = files(&self.root);
            for cut in [Cut::Strict, Cut::Partial, Cut::Reordered] {
                check(&mut known, &cached, cut);
            }
            known.cuts += 1;
        }
    }
}

/// Starts a store on an image of the disk.
fn check(known: &mut Known, cached: &Files, cut: Cut) {
    let at = format!("cut {} {cut:?}, {} acknowledged", known.cuts, known.acknowledged);
    let dice = known.dice.as_mut().expect("they were thrown");
    let directory = tempfile::tempdir().expect("a directory of our own");
    for (name, bytes) in image(&known.synced, cached, cut, dice) {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("it is below")).expect("the disk takes it");
        fs::write(path, bytes).expect("the disk takes it");
    }
    match load(directory.path()) {
        Ok(Some(saved)) if saved.fell_back.is_some() => {
            assert_eq!(cut, Cut::Reordered, "{at}: fell back: {:?}", saved.fell_back);
            assert_is_commit(&saved, saved.commit);
            known.fell_back += 1;
        }
        Ok(Some(saved)) => {
            assert!(saved.commit >= known.acknowledged, "{at}: found {}", saved.commit);
            assert!(saved.commit <= known.acknowledged + 1, "{at}: found {}", saved.commit);
            assert_is_commit(&saved, saved.commit);
            known.under_way += usize::from(saved.commit > known.acknowledged);
        }
        Ok(None) => assert_eq!(known.acknowledged, 0, "{at}: a fresh start"),
        Err(error) => {
            assert_eq!(cut, Cut::Reordered, "{at}: {error}");
            known.refused += 1;
        }
    }
}

impl<D: Disk> Disk for JournaledDisk<D> {
    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        self.disk.names()
    }

    fn read(&self, name: &str) -> std::io::Result<Vec<u8>> {
        self.disk.read(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.journal.maybe_cut();
        self.disk.write(name, bytes)
    }

    fn sync(&self, name: &str) -> Result<(), StoreError> {
        self.journal.maybe_cut();
        self.disk.sync(name)?;
        self.journal.record(name);
        Ok(())
    }

    fn sync_names(&self) -> Result<(), StoreError> {
        self.journal.maybe_cut();
        self.disk.sync_names()?;
        let there = files(&self.journal.root);
        self.journal.known().synced.retain(|name, _| there.contains_key(name));
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.journal.maybe_cut();
        self.disk.remove(name)
    }

    fn available(&self) -> Result<u64, StoreError> {
        self.disk.available()
    }

    fn remove_leftovers(&self, name: &str) -> Result<(), StoreError> {
        self.disk.remove_leftovers(name)
    }

    fn open(&self, name: &str) -> Result<Box<dyn Engine>, StoreError> {
        self.journal.maybe_cut();
        let database = self.disk.open(name)?;
        self.journal.maybe_cut();
        for file in ["db", "conf"] {
            self.journal.record(&format!("{name}/{file}"));
        }
        Ok(Box::new(Journaled { database, name: name.to_owned(), journal: Arc::clone(&self.journal) }))
    }

    fn aside(&self, work: Box<dyn FnOnce() + Send>) -> Box<dyn Aside> {
        self.disk.aside(work)
    }
}

struct Journaled {
    database: Box<dyn Engine>,
    name: String,
    journal: Arc<Journal>,
}

impl Engine for Journaled {
    fn head(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.database.head()
    }

    fn scan(&self, prefix: &[u8], take: Take<'_>) -> Result<(), StoreError> {
        self.database.scan(prefix, take)
    }

    fn insert(&self, blocks: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreError> {
        let (some, others) = blocks.split_at(blocks.len() / 2);
        self.journal.maybe_cut();
        self.database.insert(some)?;
        self.journal.maybe_cut();
        self.database.insert(others)
    }

    fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        self.database.remove(key)
    }

    fn move_head(&self, from: Option<&[u8]>, to: &[u8]) -> Result<bool, StoreError> {
        self.journal.maybe_cut();
        self.database.move_head(from, to)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.database.sync()?;
        // As if the power went after everything was written and before it was synced: the richest moment.
        self.journal.maybe_cut();
        self.journal.record(&format!("{}/db", self.name));
        Ok(())
    }

    fn another(&self) -> Box<dyn Engine> {
        let journal = Arc::clone(&self.journal);
        Box::new(Self { database: self.database.another(), name: self.name.clone(), journal })
    }
}

#[test]
fn the_power_may_go_at_any_moment_of_real_writing() {
    let cuts = rounds(20, 1000);
    let known = Arc::new(Mutex::new(Known { dice: Some(Dice::new(7)), ..Known::default() }));
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    while lock().cuts < cuts {
        let directory = tempfile::tempdir().expect("a directory of our own");
        let root = directory.path().to_owned();
        (lock().acknowledged, lock().synced) = (0, Files::new());
        let disk = CommitStore::disk(&root).expect("nobody else has it");
        let journal = Arc::new(Journal { root, known: Arc::clone(&known), cuts_one_in: rounds(30, 12) as u64 });
        let mut store = CommitStore::on(Arc::new(JournaledDisk { disk, journal }), DELTAS_MAX, |_| Ok(()));
        store.load().expect("it is new");
        for commit in 1..=40 {
            assert_eq!(store.commit(&layer(commit, scope_of(commit))).expect("the disk takes it"), commit);
            lock().acknowledged = commit;
        }
    }
    let known = lock();
    println!(
        "{} cuts: {} refused, {} fell back, {} went on with the commit under way",
        known.cuts, known.refused, known.fell_back, known.under_way
    );
}
