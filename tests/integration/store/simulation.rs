//! The store's protocol on a simulated disk: the power goes at any operation, what was not synced is lost, torn and
//! reordered, and what was acknowledged is there; with any of the planted bugs the same runs fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deepfm_core::checkpoint::{Block, Layer, Section};
use deepfm_core::train::Scope;
use deepfm_stream::store::{CommitStore, Saved, Store};

use super::bugs::Bug;
use super::dice::Dice;
use super::simulated_disk::SimulatedDisk;
use crate::support::rounds;

/// Bytes of a row here: id, a word, count, value.
const ROW_BYTES: u32 = 24;

/// A state: what the client has learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    /// Different in every step of a run, so that no two states are equal.
    step: u64,
    rows: BTreeMap<u64, u64>,
}

impl Content {
    fn layer(&self, scope: Scope, ids: &BTreeSet<u64>, dice: &mut Dice) -> Layer {
        let mut blocks = vec![Block { section: Section::Scalars, bytes: self.step.to_le_bytes().to_vec() }];
        let rows: Vec<(&u64, &u64)> =
            self.rows.iter().filter(|(id, _)| scope == Scope::Everything || ids.contains(id)).collect();
        for rows in rows.chunks(1 + dice.below(4) as usize) {
            let mut bytes = ROW_BYTES.to_le_bytes().to_vec();
            for (id, value) in rows {
                bytes.extend(id.to_le_bytes());
                bytes.extend([7, 0, 0, 0, 1, 0, 0, 0]);
                bytes.extend(value.to_le_bytes());
            }
            blocks.push(Block { section: Section::Rows, bytes });
        }
        Layer { scope, blocks }
    }

    fn of(saved: &Saved) -> Self {
        let word = |bytes: &[u8]| u64::from_le_bytes(*bytes.first_chunk().expect("eight bytes"));
        let mut content = Self::default();
        for block in saved.layers.iter().flat_map(|layer| &layer.blocks) {
            match block.section {
                Section::Scalars => content.step = word(&block.bytes),
                _ => block.bytes[4..].chunks_exact(ROW_BYTES as usize).for_each(|row| {
                    content.rows.insert(word(row), word(&row[16..]));
                }),
            }
        }
        content
    }
}

/// What is known of the states that were given to the store, the oldest first.
#[derive(Default)]
struct History {
    given: Vec<Content>,
    /// How many of them are surely durable.
    acknowledged: usize,
}

impl History {
    /// Takes what was found at a start; an error when it is not what may be found.
    fn take(&mut self, found: Option<&Saved>, loses: bool) -> Result<Content, String> {
        let Some(saved) = found else {
            let fresh = (self.acknowledged == 0).then(Content::default);
            self.given.clear();
            return fresh.ok_or_else(|| format!("{} acknowledged, and a fresh start", self.acknowledged));
        };
        let content = Content::of(saved);
        let at = self.given.iter().position(|given| *given == content);
        let at = at.ok_or_else(|| format!("commit {} is no state that was given", saved.commit))?;
        let is_loud = saved.fell_back.is_some();
        if let Some(why) = saved.fell_back.as_ref().filter(|_| !loses) {
            return Err(format!("fell back: {why}"));
        }
        if at + 1 < self.acknowledged && !is_loud {
            return Err(format!("{} acknowledged, {} found in silence", self.acknowledged, at + 1));
        }
        self.given.truncate(at + 1);
        self.acknowledged = at + 1;
        Ok(content)
    }
}

/// What the runs came across.
#[derive(Debug, Default)]
struct Figures {
    commits: u64,
    failed: u64,
    cuts: u64,
    cut_recoveries: u64,
    under_way: u64,
    refused: u64,
    fell_back: u64,
    merged: u64,
}

struct Run {
    dice: Dice,
    disk: SimulatedDisk,
    bug: Option<Bug>,
    /// Whether the disk may come back empty.
    loses: bool,
    history: History,
    steps: u64,
    figures: Figures,
}

impl Run {
    fn new(seed: u64, bug: Option<Bug>, loses: bool) -> Self {
        let disk = SimulatedDisk::new(seed, bug, loses);
        let (dice, history, figures) = (Dice::new(!seed), History::default(), Figures::default());
        Self { dice, disk, bug, loses, history, steps: 0, figures }
    }

    /// A start, and commits until the power goes or the process ends. `false` when the store refused, as it may.
    fn live(&mut self, commits: u64) -> Result<bool, String> {
        let deltas_max = 2 + self.dice.below(6) as usize;
        let mut store = CommitStore::on(Arc::new(self.disk.clone()), deltas_max, |_| Ok(()));
        let found = match store.load() {
            Ok(found) => found,
            Err(_) if self.disk.is_off() => {
                self.figures.cut_recoveries += 1;
                return Ok(true);
            }
            Err(_) if self.loses => {
                self.figures.refused += 1;
                return Ok(false);
            }
            Err(error) => return Err(error.to_string()),
        };
        let known = self.history.acknowledged;
        let mut content = self.history.take(found.as_ref(), self.loses)?;
        self.figures.under_way += u64::from(self.history.acknowledged > known && known > 0);
        self.figures.fell_back += u64::from(found.as_ref().is_some_and(|saved| saved.fell_back.is_some()));
        let mut last = found.map_or(0, |saved| saved.commit);
        self.disk.fail_one_in([0, 150][self.dice.below(2) as usize]);
        let mut dirty = BTreeSet::new();
        for _ in 0..commits {
            self.learn(&mut content, &mut dirty);
            let scope = store.wants();
            let layer = content.layer(scope, &dirty, &mut self.dice);
            self.history.given.push(content.clone());
            if self.bug != Some(Bug::DeltaClearedLate) {
                dirty.clear();
            }
            // Learning goes on during a commit.
            self.learn(&mut content, &mut dirty);
            if self.bug == Some(Bug::AcknowledgedBeforeCommit) {
                self.history.acknowledged = self.history.given.len();
            }
            match store.commit(&layer) {
                Ok(number) if number <= last => return Err(format!("number {number} after {last}")),
                Ok(number) => {
                    last = number;
                    self.history.acknowledged = self.history.given.len();
                    self.figures.commits += 1;
                }
                Err(_) if self.disk.is_off() => break,
                Err(_) => {
                    // The number was tried, and is not used for anything else.
                    last += 1;
                    self.figures.failed += 1;
                }
            }
            if self.bug == Some(Bug::DeltaClearedLate) {
                dirty.clear();
            }
        }
        drop(store);
        self.figures.merged = self.figures.merged.max(self.disk.newest_base());
        Ok(true)
    }

    fn learn(&mut self, content: &mut Content, dirty: &mut BTreeSet<u64>) {
        self.steps += 1;
        content.step = self.steps;
        for _ in 0..self.dice.below(8) {
            let id = self.dice.below(20);
            content.rows.insert(id, self.dice.below(u64::MAX));
            dirty.insert(id);
        }
    }

    fn whole(mut self) -> Result<Figures, String> {
        for _ in 0..6 {
            let operations = [8, 40, 400][self.dice.below(3) as usize];
            self.disk.cut_in(1 + self.dice.below(operations));
            let commits = self.dice.below(14);
            if !self.live(commits)? {
                return Ok(self.figures);
            }
            self.figures.cuts += u64::from(self.disk.is_off());
            // The power may go as well when nobody writes: a process that has ended has synced what counts.
            self.disk.come_back();
        }
        self.live(0)?;
        Ok(self.figures)
    }
}

fn all(seeds: std::ops::Range<u64>, bug: Option<Bug>, loses: bool) -> Result<Figures, String> {
    let mut sum = Figures::default();
    for seed in seeds {
        let one = Run::new(seed, bug, loses).whole().map_err(|reason| format!("seed {seed}: {reason}"))?;
        sum.commits += one.commits;
        sum.failed += one.failed;
        sum.cuts += one.cuts;
        sum.cut_recoveries += one.cut_recoveries;
        sum.under_way += one.under_way;
        sum.refused += one.refused;
        sum.fell_back += one.fell_back;
        sum.merged += one.merged;
    }
    Ok(sum)
}

#[test]
fn what_was_acknowledged_survives_any_power_cut_in_10000_simulated_runs() {
    let figures = all(0..rounds(2000, 10_000) as u64, None, false).unwrap_or_else(|reason| panic!("{reason}"));
    println!("{figures:?}");
    let runs = rounds(2000, 10_000) as u64;
    assert!(figures.cuts > runs && figures.commits > 5 * runs, "{figures:?}");
    assert!(figures.cut_recoveries > 0 && figures.under_way > 0 && figures.failed > 0, "{figures:?}");
    assert_eq!((figures.refused, figures.fell_back), (0, 0), "nothing that was synced is gone");
}

#[test]
fn a_disk_that_comes_back_empty_is_noticed_in_1000_simulated_runs() {
    let runs = rounds(100, 1000) as u64;
    let figures = all(0..runs, None, true).unwrap_or_else(|reason| panic!("{reason}"));
    println!("{figures:?}");
    assert!(figures.refused > 0 && figures.fell_back > 0, "{figures:?}");
}

#[test]
fn the_harness_catches_every_planted_bug() {
    for bug in Bug::ALL {
        let caught = all(0..rounds(2000, 4000) as u64, Some(bug), false);
        println!("{bug:?}: {caught:?}");
        assert!(caught.is_err(), "{bug:?} is not caught");
    }
}
