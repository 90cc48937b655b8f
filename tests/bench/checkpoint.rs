//! What a checkpoint costs: a table of rows under a learner of 20 one-hot fields, dimension 10, MLP 64-32.
//!
//! `cargo bench --bench checkpoint -- ROWS [DIR]`, a million rows in a temporary directory unless given. Shows time and
//! bytes against the share of rows that changed, how long learning stood still, what learning loses to checkpoints of 1 %
//! taken one after the other (a merge among them), what versions cost, full and deltas, how long a restart takes with a warm and a cold page
//! cache, what a million open impressions cost, and how much memory all of it took.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use deepfm_core::checkpoint::{self, Beside, FORMAT_VERSION, Lineage};
use deepfm_core::event::{Decoded, Event, EventKind, Impression};
use deepfm_core::feature::field::{Field, FieldKind, FieldSet};
use deepfm_core::feature::{Entry, Features, hash};
use deepfm_core::join::params::{JoinParams, LabelPolicy, LatePolicy};
use deepfm_core::model::params::ModelParams;
use deepfm_core::model::weights::Precision;
use deepfm_core::stream::{Arrival, Control, Partition};
use deepfm_core::train::{BatchParams, Ledger, Restore, Scope, StateCut, StateDigest, TrainParams, Trainer};
use deepfm_core::version::artefact::{Cut, Verified};
use deepfm_core::version::outbox::Outbox;
use deepfm_stream::artefacts::Artefacts as _;
use deepfm_stream::artefacts::directory::{self, Directory, Whole};
use deepfm_stream::config::operation::Readers;
use deepfm_stream::store::{CommitStore, Store};
use deepfm_stream::thread::give_way;
use deepfm_stream::worker::chain::{Chain, ChainBounds};

const FIELDS: u64 = 20;
const IMPRESSIONS: Partition = Partition { kind: EventKind::Impression, number: 0 };
const START_MS: i64 = 1_700_000_000_000;

fn params() -> TrainParams {
    TrainParams {
        join: JoinParams {
            window_ms: 10,
            click_before_ms: 1000,
            lateness_ms: 0,
            retention_ms: 10,
            labels: LabelPolicy::AtMaturity,
            late_clicks: LatePolicy::Correct,
            open_impressions_max: 2_000_000,
            held_bytes_max: usize::MAX,
            waiting_clicks_max: 1000,
            remembered_max: 4_000_000,
        },
        model: ModelParams { fields: FIELDS as usize, ..ModelParams::default() },
        batch: BatchParams { min: 256, max: 256, growth_examples: 1, span_ms: 500 },
        negative_sampling_rate: 1.0,
        window_impressions: 10_000,
        metrics_sampling_rate: 1.0,
        breaker: None,
    }
}

/// A trainer whose table has `rows` rows, as if read from a checkpoint.
fn filled(rows: u64, params: &TrainParams) -> Trainer {
    let mut empty = Trainer::new(params.clone());
    let start = Control::Start { partition: IMPRESSIONS, next_offset: 0 };
    empty.control(&start).expect("it is new");
    let row_bytes = empty.model().row_bytes();
    let row = |number: u64| {
        let mut row = id(number).to_le_bytes().to_vec();
        row.extend([1, 0, 0, 0, 1, 0, 0, 0]);
        row.extend(0.01_f32.to_le_bytes().repeat((row_bytes - 16) / 4));
        row
    };
    let bytes: Vec<Vec<u8>> = (0..rows).map(row).collect();
    let saved = Restore {
        scalars: empty.scalars(),
        journal: Vec::new(),
        ledger: Ledger::default(),
        rows: bytes.iter().map(Vec::as_slice),
        candidates: Vec::new(),
        shown_scores: std::iter::empty(),
        entries: Vec::new(),
    };
    Trainer::restore(params.clone(), saved).expect("rows of distinct ids")
}

/// The feature id of a row: scattered over the table.
fn id(number: u64) -> u64 {
    hash::mix64(number + 1)
}

/// Impressions whose features are drawn from `hot` scattered rows out of `rows`, which differ from round to round.
struct Traffic {
    rows: u64,
    sent: u64,
}

impl Traffic {
    fn feed(&mut self, trainer: &mut Trainer, count: u64, round: u64, hot: u64) {
        for _ in 0..count {
            let number = self.sent;
            self.sent += 1;
            let field = |f: u64| {
                let row = hash::mix64(round * 31 + hash::hash(5, number, f) % hot) % self.rows;
                vec![Entry { id: id(row), x: 1.0 }]
            };
            let features = Features::new(&(0..FIELDS).map(field).collect::<Vec<_>>());
            let impression = Impression {
                impression_id: number.to_string().into(),
                event_id: None,
                event_time: START_MS + (number / 50) as i64,
                weight: 1.0,
                features,
            };
            let decoded = Decoded { event: Event::Impression(impression), unknown_keys: 0, unknown_fields: 0 };
            trainer.push(IMPRESSIONS, Arrival { offset: number as i64, hash: 0, body: Ok(decoded) }).expect("in order");
        }
    }
}

/// Consumes what is queued; the longest single step.
fn consume(trainer: &mut Trainer) -> Duration {
    let mut longest = Duration::ZERO;
    loop {
        let start = Instant::now();
        if trainer.step(&mut ()).is_none() {
            return longest;
        }
        longest = longest.max(start.elapsed());
    }
}

fn lineage(cut: &StateCut) -> Lineage {
    Lineage {
        format: FORMAT_VERSION,
        configuration: String::new(),
        parameters: String::new(),
        next_version: 1,
        parent: None,
        journal: Vec::new(),
        ledger: Ledger::default(),
        topic_ids: BTreeMap::new(),
        state_digest: cut.digest,
        outbox: Outbox::default(),
        beside: Beside::default(),
    }
}

/// Takes a cut, encodes and commits it: how long learning stood still, how long the rest took, and bytes.
fn commit(trainer: &mut Trainer, store: &mut CommitStore) -> (Duration, Duration, u64) {
    let start = Instant::now();
    let cut = trainer.cut(store.wants());
    let pause = start.elapsed();
    let layer = checkpoint::encode(&cut, &lineage(&cut));
    store.commit(&layer).expect("the disk takes it");
    (pause, start.elapsed(), layer.bytes())
}

/// A full version and deltas on it: how long learning stands still, how long until the files are there, and how long a server
/// takes from the files to weights that are checked and reproduce the probes.
fn versions(rows: u64, trainer: &mut Trainer, traffic: &mut Traffic) {
    let directory = tempfile::tempdir().expect("a directory of our own");
    let artefacts = Directory::new(directory.path().to_owned(), Readers::Owner);
    let field = |number: u64| Field { name: format!("field{number}"), kind: FieldKind::Categorical };
    let fields = FieldSet::new((0..FIELDS).map(field).collect()).expect("they are valid");
    let mut chain = Chain::new(ChainBounds { full_every: 100, delta_ratio_max: 1.0, precision: Precision::F32 });
    let mut served: Option<Verified> = None;
    println!("version     pause ms   whole ms   apply ms      MB");
    for (round, share) in [1.0, 0.001, 0.001, 0.01, 0.01, 0.01, 0.1].into_iter().enumerate() {
        let hot = (share * rows as f64) as u64;
        if served.is_some() {
            traffic.feed(trainer, hot * 6 / FIELDS, 500 + round as u64, hot);
            consume(trainer);
        }
        let state_digest = trainer.state_digest();
        let start = Instant::now();
        let journal = trainer.sequencer().journal().to_vec();
        let cut = Cut {
            model: "bench",
            version: 1 + round as u64,
            parent: None,
            created_at: "2026-01-01T00:00:00Z".to_owned(),
            state_digest,
            journal: &journal,
            probes: (0..16).map(|probe| format!(r#"{{"field1":"{probe}"}}"#)).collect(),
            fields: &fields,
            configuration: String::new(),
        };
        let cut = chain.cut(trainer, cut);
        let pause = start.elapsed();
        let artefact = cut.encode();
        artefacts.stage(&artefact).expect("the disk takes it");
        artefacts.install(&artefact.directory()).expect("it was staged");
        let whole = start.elapsed();
        chain.staged(artefact.base.clone());
        let bytes: usize = artefact.files.values().map(Vec::len).sum();
        let start = Instant::now();
        let found = directory::verify_either(&directory.path().join(artefact.directory())).expect("it is whole");
        served = Some(match found {
            Whole::Full(verified) => *verified,
            Whole::Delta(link) => link.apply(&served.expect("a full one comes first")).expect("it is the next"),
        });
        let [pause, whole, apply] = [pause, whole, start.elapsed()].map(|time| time.as_secs_f64() * 1e3);
        let stated = artefact.manifest.weights.expect("this format has it");
        let kind = artefact.manifest.kind;
        println!("{kind:6} {:8}   {pause:8.1}   {whole:8.1}   {apply:8.1}   {:5.1}", stated.rows, bytes as f64 / 1e6);
    }
}

fn by_share(rows: u64, trainer: &mut Trainer, traffic: &mut Traffic, store: &mut CommitStore) {
    println!("changed     pause ms   whole ms      MB");
    for (round, share) in [0.001, 0.01, 0.05, 0.1].into_iter().enumerate() {
        for again in 0..3 {
            let hot = (share * rows as f64) as u64;
            traffic.feed(trainer, hot * 6 / FIELDS, 100 + 10 * round as u64 + again, hot);
            consume(trainer);
            let changed = trainer.unsaved_bytes();
            let (pause, whole, bytes) = commit(trainer, store);
            println!(
                "{:6.2} %   {:8.1}   {:8.1}   {:5.1}   ({:.1} MB of rows and join)",
                100.0 * share,
                pause.as_secs_f64() * 1e3,
                whole.as_secs_f64() * 1e3,
                bytes as f64 / 1e6,
                changed as f64 / 1e6
            );
        }
    }
}

/// Learns in rounds that change 1 % each; with a store a checkpoint is begun after each round, when none is in flight.
fn rounds(
    rows: u64,
    trainer: &mut Trainer,
    traffic: &mut Traffic,
    store: Option<CommitStore>,
    first: u64,
) -> (f64, Vec<Duration>, Option<CommitStore>) {
    const ROUNDS: u64 = 24;
    let hot = rows / 100;
    let per_round = 100_000.max(2 * hot);
    let (jobs, inbox) = mpsc::sync_channel::<StateCut>(0);
    let (done, finished) = mpsc::channel::<()>();
    let writer = store.map(|mut store| {
        std::thread::spawn(move || {
            give_way();
            for cut in inbox {
                store.commit(&checkpoint::encode(&cut, &lineage(&cut))).expect("the disk takes it");
                done.send(()).expect("it is waited for");
            }
            store
        })
    });
    let (mut pauses, mut learning, mut busy) = (Vec::new(), Duration::ZERO, false);
    for round in 0..ROUNDS {
        traffic.feed(trainer, per_round, first + round, hot);
        if writer.is_none() {
            // What was written down for a checkpoint that is not taken.
            trainer.cut(Scope::Changes);
        }
        let start = Instant::now();
        consume(trainer);
        if writer.is_some() {
            busy = busy && finished.try_recv().is_err();
            if !busy {
                let pause = Instant::now();
                let cut = trainer.cut(Scope::Changes);
                pauses.push(pause.elapsed());
                jobs.send(cut).expect("the writer waits");
                busy = true;
            }
        }
        learning += start.elapsed();
    }
    drop(jobs);
    let store = writer.map(|writer| writer.join().expect("the writer ends"));
    (ROUNDS as f64 * per_round as f64 / learning.as_secs_f64(), pauses, store)
}

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let rows: u64 = words.next().map_or(1_000_000, |word| word.parse().expect("ROWS is a number"));
    let temporary = tempfile::tempdir().expect("a directory of our own");
    let directory = words.next().map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    tracing_subscriber::fmt().compact().with_target(false).init();
    let mut store = CommitStore::open(&directory).expect("nobody else has it");
    store.load().expect("it is new");
    let mut trainer = filled(rows, &params());
    let mut traffic = Traffic { rows, sent: 0 };
    let (before, _, _) = rounds(rows, &mut trainer, &mut traffic, None, 1000);
    let start = Instant::now();
    let cut = trainer.cut(Scope::Everything);
    let pause = start.elapsed();
    store.commit(&checkpoint::encode(&cut, &lineage(&cut))).expect("the disk takes it");
    drop(cut);
    println!("{rows} rows; everything: pause {pause:.2?}, whole {:.2?}", start.elapsed());
    versions(rows, &mut trainer, &mut traffic);
    by_share(rows, &mut trainer, &mut traffic, &mut store);
    let (with, mut pauses, store) = rounds(rows, &mut trainer, &mut traffic, Some(store), 2000);
    drop(store);
    recover(&directory, &mut trainer);
    let (after, _, _) = rounds(rows, &mut trainer, &mut traffic, None, 3000);
    let plain = f64::midpoint(before, after);
    pauses.sort_unstable();
    let at = |share: f64| pauses[((pauses.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "learning: {before:.0} and {after:.0} impressions/s without, {with:.0} with {} checkpoints, ratio {:.3}",
        pauses.len(),
        with / plain
    );
    println!("pauses: median {:.1} ms, p99 {:.1} ms, longest {:.1} ms", at(0.5), at(0.99), at(1.0));
    println!("memory: {} MB at the most, of them two states for the restarts", peak_memory_mb());
    drop(trainer);
    open_impressions(rows.min(1_000_000));
}

/// A million impressions whose window is open: what they cost in a checkpoint of everything, in one of what changed, and at a
/// restart.
fn open_impressions(rows: u64) {
    const OPEN: u64 = 1_000_000;
    let directory = tempfile::tempdir().expect("a directory of our own");
    let mut params = params();
    params.join.window_ms = 1_000_000_000;
    let mut store = CommitStore::open(directory.path()).expect("nobody else has it");
    store.load().expect("it is new");
    let (mut trainer, mut traffic) = (filled(rows, &params), Traffic { rows, sent: 0 });
    for round in 0..OPEN / 100_000 {
        traffic.feed(&mut trainer, 100_000, round, rows);
        consume(&mut trainer);
    }
    assert_eq!(trainer.join().open() as u64, OPEN);
    let (pause, whole, bytes) = commit(&mut trainer, &mut store);
    println!(
        "{OPEN} open impressions, {rows} rows; everything: {pause:.2?} still, {whole:.2?}, {} MB",
        bytes / 1_000_000
    );
    traffic.feed(&mut trainer, 10_000, 100, rows);
    consume(&mut trainer);
    let (pause, whole, bytes) = commit(&mut trainer, &mut store);
    println!("10000 more; changes: {pause:.2?} still, {whole:.2?}, {:.1} MB", bytes as f64 / 1e6);
    let expected = trainer.state_digest();
    drop((trainer, store));
    restart("warm", directory.path(), &params, expected);
}

/// The most memory that the process has had, in MB; 0 where the system does not say.
fn peak_memory_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1000
}

fn recover(directory: &Path, trainer: &mut Trainer) {
    let mut store = CommitStore::open(directory).expect("it was closed");
    let expected = {
        store.load().expect("it is whole");
        let cut = trainer.cut(Scope::Changes);
        store.commit(&checkpoint::encode(&cut, &lineage(&cut))).expect("the disk takes it");
        cut.digest
    };
    drop(store);
    println!("on disk: {:.0} MB", disk(directory) as f64 / 1e6);
    restart("warm", directory, &params(), expected);
    forget(directory);
    restart("cold", directory, &params(), expected);
}

fn restart(cache: &str, directory: &Path, params: &TrainParams, expected: StateDigest) {
    let start = Instant::now();
    let mut store = CommitStore::open(directory).expect("it was closed");
    let saved = store.load().expect("it is whole").expect("there are checkpoints");
    let loaded = start.elapsed();
    let (mut restored, _) = checkpoint::decode(params.clone(), &saved.layers).expect("what was written is read");
    println!(
        "restart, {cache} page cache: {:.2?}, of it reading {loaded:.2?}, {} layers",
        start.elapsed(),
        saved.layers.len()
    );
    assert_eq!(restored.state_digest(), expected);
}

/// Has the system forget the content of all files, with GNU dd.
fn forget(path: &Path) {
    for entry in std::fs::read_dir(path).expect("it is there").flatten() {
        if entry.path().is_dir() {
            forget(&entry.path());
        } else {
            let from = format!("if={}", entry.path().display());
            let dd = Command::new("dd").args([from.as_str(), "iflag=nocache", "count=0", "status=none"]).status();
            if !dd.is_ok_and(|status| status.success()) {
                println!("dd cannot empty the page cache: what follows is warm");
            }
        }
    }
}

fn disk(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).expect("it is there").flatten();
    entries
        .map(|entry| if entry.path().is_dir() { disk(&entry.path()) } else { entry.metadata().map_or(0, |m| m.len()) })
        .sum()
}
