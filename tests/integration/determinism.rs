//! Log determinism on the real core: the state is a function of the log and the journal, whatever the interleaving of
//! partitions, the places of checkpoints, the executor, and the moments at which partitions were idle.

use std::collections::BTreeMap;

use deepfm_core::checkpoint::{self, Beside, BlockPlace, Layer, Lineage, Merge, Section};
use deepfm_core::event::{Click, Decoded, Decoder, Event, EventKind, Impression, RawRecord, Reason, Refusal};
use deepfm_core::feature::field::{Field, FieldKind};
use deepfm_core::feature::{Entry, Features, hash};
use deepfm_core::join::params::{JoinParams, LabelPolicy, LatePolicy};
use deepfm_core::model::params::{Activation, AdmissionParams, MlpParams, ModelParams, Parts};
use deepfm_core::model::{Executor, Inline};
use deepfm_core::optim::params::{FtrlParams, SgdParams};
use deepfm_core::stream::{Arrival, Control, JournalEntry, Partition, Refused, Script};
use deepfm_core::train::{BatchParams, BreakerParams, Scope, StateDigest, TrainParams, Trainer};
use deepfm_core::version::outbox::Outbox;
use deepfm_stream::config::Config;
use deepfm_stream::thread::crew::Crew;

use sha2::{Digest as _, Sha256};

use crate::support::{rounds, under_each_instruction_set};

const FIELDS: usize = 3;

/// A seeded stream of numbers; the seed of a failing case is in the message of its assertion.
pub(super) struct Dice {
    seed: u64,
    thrown: u64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, thrown: 0 }
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.thrown += 1;
        hash::hash(self.seed, self.thrown, 0) % bound
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// An executor that works its items off in another order, on several threads.
#[derive(Clone, Copy)]
struct Backwards;

impl Executor for Backwards {
    fn width(&self) -> usize {
        3
    }

    fn for_each<T: Send, F: Fn(&mut T) + Sync>(&self, items: &mut [T], job: F) {
        std::thread::scope(|scope| {
            for item in items.iter_mut().rev() {
                let job = &job;
                scope.spawn(move || job(item));
            }
        });
    }
}

pub(super) type Log = BTreeMap<Partition, Vec<Arrival>>;

pub(super) fn params(dice: &mut Dice) -> TrainParams {
    let ftrl = |alpha| FtrlParams { alpha, beta: 1.0, l1: 0.001, l2: 0.001, l21: 0.0 };
    let labels = [LabelPolicy::AtClick, LabelPolicy::AtMaturity, LabelPolicy::FakeNegative][dice.below(3) as usize];
    let late_clicks = if dice.one_in(2) { LatePolicy::Drop } else { LatePolicy::Correct };
    let fake = labels == LabelPolicy::FakeNegative;
    TrainParams {
        join: JoinParams {
            window_ms: 40 + dice.below(200) as i64,
            click_before_ms: dice.below(20) as i64,
            lateness_ms: dice.below(30) as i64,
            retention_ms: dice.below(200) as i64,
            labels,
            late_clicks,
            open_impressions_max: if dice.one_in(3) { 8 } else { 1000 },
            held_bytes_max: if dice.one_in(3) { 2000 } else { usize::MAX },
            waiting_clicks_max: if dice.one_in(3) { 4 } else { 1000 },
            remembered_max: if dice.one_in(3) { 16 } else { 1000 },
        },
        model: ModelParams {
            fields: FIELDS,
            embedding_dim: 4,
            seed: 7,
            init_scale: 0.1,
            parts: Parts::Deepfm,
            mlp: MlpParams {
                layers: vec![5],
                activation: Activation::Relu,
                dropout: if dice.one_in(2) { vec![0.3] } else { Vec::new() },
            },
            bias: ftrl(0.1),
            linear: ftrl(0.1),
            embedding: ftrl(0.1),
            sgd: SgdParams {
                learning_rate: 0.05,
                momentum: if dice.one_in(2) { 0.5 } else { 0.0 },
                l2: if dice.one_in(2) { 0.001 } else { 0.0 },
                clip_norm: [0.0, 0.05, 1.0][dice.below(3) as usize],
            },
            n_max: None,
            gradient_max: Some(1.0),
            admission: AdmissionParams {
                rows_max: if dice.one_in(3) { 12 } else { 1000 },
                min_count: 1 + dice.below(3) as u32,
                expire_after_seconds: u32::from(dice.one_in(2)),
            },
        },
        batch: BatchParams { min: 2, max: 70, growth_examples: 3, span_ms: 50 + dice.below(100) as i64 },
        negative_sampling_rate: if fake || dice.one_in(2) { 1.0 } else { 0.5 },
        window_impressions: 20,
        metrics_sampling_rate: if dice.one_in(2) { 1.0 } else { 0.5 },
        // Random logs are short: a few clicks are the usual rate, and a few are an outage.
        breaker: dice.one_in(2).then_some(BreakerParams { missing_clicks: 1.5, clicks_min: 3.0 }),
    }
}

fn refused() -> Box<Refused> {
    Box::new(Refused::without_record(Refusal::new(Reason::Malformed, "made so")))
}

fn features(dice: &mut Dice) -> Features {
    let field = |dice: &mut Dice, f: u64| -> Vec<Entry> {
        (0..dice.below(3)).map(|_| Entry { id: 100 * f + dice.below(9), x: 1.0 }).collect()
    };
    Features::new(&(0..FIELDS as u64).map(|f| field(dice, f)).collect::<Vec<_>>())
}

/// Impressions and clicks over one to three partitions each, roughly in time order, with ties, jumps back, duplicates,
/// refused records and gaps in the offsets.
pub(super) fn random_log(dice: &mut Dice) -> Log {
    let impressions = 1 + dice.below(3);
    let clicks = 1 + dice.below(3);
    let mut log: Log = (0..impressions)
        .map(|number| (EventKind::Impression, number))
        .chain((0..clicks).map(|number| (EventKind::Click, number)))
        .map(|(kind, number)| (Partition { kind, number: number as i32 }, Vec::new()))
        .collect();
    let mut time = 1_700_000_000_000_i64;
    for n in 0..20 + dice.below(150) {
        time += if dice.one_in(30) { 1500 } else { [0, 0, 3, 10, 90][dice.below(5) as usize] };
        let event_time = time - if dice.one_in(8) { dice.below(60) as i64 } else { 0 };
        let is_click = n > 3 && dice.one_in(3);
        let subject = if is_click { dice.below(n + 2) } else { n };
        let impression_id = format!("i{subject}").into();
        let event_id = dice.one_in(3).then(|| format!("e{}", dice.below(n + 1)).into());
        let event = if is_click {
            Event::Click(Click { impression_id, event_id, event_time })
        } else {
            Event::Impression(Impression { impression_id, event_id, event_time, weight: 1.0, features: features(dice) })
        };
        let number = dice.below(if is_click { clicks } else { impressions }) as i32;
        let kind = if is_click { EventKind::Click } else { EventKind::Impression };
        let lane = log.get_mut(&Partition { kind, number }).expect("all partitions are there");
        let offset = lane.last().map_or(0, |last: &Arrival| last.offset + 1) + dice.below(2) as i64;
        let body =
            if dice.one_in(25) { Err(refused()) } else { Ok(Decoded { event, unknown_keys: 0, unknown_fields: 0 }) };
        lane.push(Arrival { offset, hash: hash::hash(dice.seed, n, 1), body });
    }
    log
}

pub(super) fn started(params: &TrainParams, log: &Log) -> Trainer {
    let mut trainer = Trainer::new(params.clone());
    for partition in log.keys() {
        let start = Control::Start { partition: *partition, next_offset: 0 };
        trainer.control(&start).expect("a new partition starts");
    }
    trainer
}

fn consume_all<E: Executor>(trainer: &mut Trainer<E>) {
    while trainer.step(&mut ()).is_some() {}
}

/// Ends the partitions that are waited for and have nothing left, as a bounded run does.
pub(super) fn end_exhausted<E: Executor>(trainer: &mut Trainer<E>, left: &Log) {
    loop {
        consume_all(trainer);
        let exhausted = trainer.awaited().find(|partition| left[partition].is_empty());
        let Some(partition) = exhausted else { return };
        trainer.control(&Control::Ended(partition)).expect("it is live");
    }
}

/// The whole log pushed partition by partition, then consumed.
fn plain_run(params: &TrainParams, log: &Log) -> StateDigest {
    plainly_trained(params, log).state_digest()
}

pub(super) fn plainly_trained(params: &TrainParams, log: &Log) -> Trainer {
    plainly_trained_by(Inline, params, log)
}

fn plainly_trained_by<E: Executor>(executor: E, params: &TrainParams, log: &Log) -> Trainer<E> {
    let mut trainer = started(params, log).with_executor(executor);
    for (partition, arrivals) in log {
        for arrival in arrivals {
            trainer.push(*partition, arrival.clone()).expect("in order");
        }
    }
    let left = log.keys().map(|partition| (*partition, Vec::new())).collect();
    end_exhausted(&mut trainer, &left);
    trainer
}

pub(super) fn lineage<E: Executor>(trainer: &Trainer<E>, state_digest: StateDigest) -> Lineage {
    Lineage {
        format: checkpoint::FORMAT_VERSION,
        configuration: String::new(),
        parameters: String::new(),
        next_version: 1,
        parent: None,
        journal: trainer.sequencer().journal().to_vec(),
        ledger: trainer.ledger().clone(),
        topic_ids: BTreeMap::new(),
        state_digest,
        outbox: Outbox::default(),
        beside: Beside::default(),
    }
}

/// Adds a checkpoint of what changed, or of everything when there is none yet.
fn take_checkpoint<E: Executor>(trainer: &mut Trainer<E>, layers: &mut Vec<Layer>) -> Lineage {
    let cut = trainer.cut(if layers.is_empty() { Scope::Everything } else { Scope::Changes });
    let lineage = lineage(trainer, cut.digest);
    layers.push(checkpoint::encode(&cut, &lineage));
    lineage
}

/// The layers merged into one, as the store does it.
fn merged(layers: &[Layer]) -> Layer {
    let (mut merge, mut blocks) = (Merge::default(), Vec::new());
    for (depth, layer) in layers.iter().rev().enumerate() {
        for block in &layer.blocks {
            let place = BlockPlace { depth, scope: layer.scope };
            blocks.extend(merge.take(place, block.clone()).expect("what was written is read"));
        }
    }
    blocks.extend(merge.finish().expect("what was written is read"));
    Layer { scope: Scope::Everything, blocks }
}

/// Takes the state through its checkpoints; what was queued is read again, as after a crash.
fn restarted(params: &TrainParams, layers: &[Layer], expected: &Lineage, log: &Log, left: &mut Log) -> Trainer {
    let (restored, read) = checkpoint::decode(params.clone(), layers).expect("what was written is read");
    assert_eq!(read, *expected);
    let positions = restored.positions();
    for (partition, arrivals) in log {
        let unread = arrivals.iter().filter(|arrival| arrival.offset >= positions[partition]).cloned().collect();
        left.insert(*partition, unread);
    }
    restored
}

/// The log in a random interleaving with checkpoints at random places.
fn disturbed_run<E: Executor + Copy>(params: &TrainParams, log: &Log, dice: &mut Dice, executor: E) -> StateDigest {
    let mut trainer = started(params, log).with_executor(executor);
    let mut left = log.clone();
    let mut layers = Vec::new();
    let partitions: Vec<Partition> = log.keys().copied().collect();
    while left.values().any(|arrivals| !arrivals.is_empty()) {
        let partition = partitions[dice.below(partitions.len() as u64) as usize];
        let lane = left.get_mut(&partition).expect("all partitions are there");
        let count = (dice.below(6) as usize).min(lane.len());
        for arrival in lane.drain(..count) {
            trainer.push(partition, arrival).expect("in order");
        }
        for _ in 0..dice.below(8) {
            trainer.step(&mut ());
        }
        if dice.one_in(4) {
            end_exhausted(&mut trainer, &left);
        }
        if dice.one_in(8) {
            let lineage = take_checkpoint(&mut trainer, &mut layers);
            if dice.one_in(4) {
                layers = vec![merged(&layers)];
            }
            if dice.one_in(2) {
                trainer = restarted(params, &layers, &lineage, log, &mut left).with_executor(executor);
            }
        }
    }
    end_exhausted(&mut trainer, &left);
    trainer.state_digest()
}

#[test]
fn the_state_is_a_function_of_the_log_in_1000_random_logs_interleavings_checkpoints_executors_and_instruction_sets() {
    let mut digests = std::collections::BTreeSet::new();
    for seed in 0..rounds(1000, 10_000) as u64 {
        let mut dice = Dice::new(seed);
        let params = params(&mut dice);
        let log = random_log(&mut dice);
        let expected = plain_run(&params, &log);
        digests.insert(expected.to_string());
        let inline = disturbed_run(&params, &log, &mut dice, Inline);
        assert_eq!(inline, expected, "seed {seed}: another interleaving gave another state");
        if seed % 10 == 0 {
            let parallel = disturbed_run(&params, &log, &mut dice, Backwards);
            assert_eq!(parallel, expected, "seed {seed}: another executor gave another state");
        }
        if seed % 10 == 5 {
            under_each_instruction_set(|set| {
                let found = disturbed_run(&params, &log, &mut dice, Inline);
                assert_eq!(found, expected, "seed {seed}: {} gave another state", set.name());
            });
        }
    }
    assert!(digests.len() > 990, "different logs must give different states: only {}", digests.len());
}

/// Six fields, and how labels are emitted; the default settings otherwise.
fn config(labels: &str) -> Config {
    let fields: String = ["user", "item", "place"]
        .map(|name| format!("[[fields]]\nname = \"{name}\"\nkind = \"categorical\"\n"))
        .concat();
    let more = "[[fields]]\nname = \"price\"\nkind = \"numeric\"\n[[fields]]\nname = \"tags\"\nkind = \"multi\"\n";
    let join = format!("[join]\nattribution_window_seconds = 60\n{labels}\n");
    Config::parse(&format!("{fields}{more}{join}"), "fixed", []).expect("it is valid")
}

/// Impressions with some tags, and a click on some, as JSON through the decoder.
fn decoded_log(config: &Config, impressions: u64, tags: impl Fn(&mut Dice) -> String) -> Log {
    let decoder = Decoder::new(config.field_set().expect("they are valid"), config.event_options());
    let mut decoder = decoder.expect("the mapping is sound");
    let mut dice = Dice::new(20_261_126);
    let mut log: Log =
        [EventKind::Impression, EventKind::Click].map(|kind| (Partition { kind, number: 0 }, Vec::new())).into();
    for n in 0..impressions {
        let (user, item, place) = (dice.below(200), dice.below(60), dice.below(4));
        let time = 1_700_000_000_000 + 250 * n as i64;
        let price = dice.below(100_000) as f64 / 64.0;
        let impression = format!(
            r#"{{"impression_id":"i{n}","event_time":{time},"features":{{"user":"u{user}","item":"i{item}","place":{place},"price":{price},"tags":{{{}}}}}}}"#,
            tags(&mut dice)
        );
        let clicked = dice.below(10) < 1 + 4 * u64::from((user + item) % 5 == 0);
        let click = format!(r#"{{"impression_id":"i{n}","event_time":{}}}"#, time + 100 + dice.below(90_000) as i64);
        for (kind, json) in [(EventKind::Impression, Some(impression)), (EventKind::Click, clicked.then_some(click))] {
            let Some(json) = json else { continue };
            let record = RawRecord { payload: Some(json.as_bytes()), ..RawRecord::default() };
            let lane = log.get_mut(&Partition { kind, number: 0 }).expect("it is there");
            let body = Ok(decoder.decode(kind, &record).expect("it is sound"));
            lane.push(Arrival { offset: lane.len() as i64, hash: hash::hash(n, 0, 0), body });
        }
    }
    log
}

/// 3,000 impressions, learned at the default settings.
fn trained_at_the_defaults(labels: &str) -> Trainer {
    let config = config(labels);
    let tags = |dice: &mut Dice| format!(r#""a{}":0.5,"b{}":2"#, dice.below(30), dice.below(5));
    plainly_trained(&config.train_params(), &decoded_log(&config, 3_000, tags))
}

/// 1,500 impressions of many ids, learned in batches that are cut for threads, with every kind of step.
fn trained_in_large_batches<E: Executor>(executor: E) -> Trainer<E> {
    let config = config("emit = \"at_maturity\"");
    let tags = |dice: &mut Dice| {
        let tags: BTreeMap<u64, u64> = (0..30).map(|_| (dice.below(3_000), 1 + dice.below(4))).collect();
        tags.iter().map(|(tag, weight)| format!(r#""t{tag}":{weight}"#)).collect::<Vec<_>>().join(",")
    };
    let mut params = config.train_params();
    params.batch = BatchParams { min: 65, max: 131, growth_examples: 3, span_ms: 1 << 40 };
    params.model.sgd.clip_norm = 0.05;
    params.model.mlp.dropout = vec![0.2; params.model.mlp.layers.len()];
    params.model.admission.min_count = 2;
    params.model.admission.rows_max = 2_500;
    plainly_trained_by(executor, &params, &decoded_log(&config, 1_500, tags))
}

#[test]
fn however_many_threads_learn_the_state_is_the_same() {
    let mut alone = trained_in_large_batches(Inline);
    let counters = alone.counters().learner.clone();
    assert!(counters.rows_evicted > 100 && counters.learned / counters.batches > 64, "{counters:?}");
    let expected = alone.state_digest();
    for threads in 1..=4 {
        assert_eq!(trained_in_large_batches(Crew::new(threads)).state_digest(), expected, "{threads} threads");
    }
    assert_eq!(trained_in_large_batches(Backwards).state_digest(), expected);
}

/// What was learned, and what it scored: weights with their optimizer state, ids on their way to a row, scores, metrics. Nothing
/// of the form in which a checkpoint has it.
fn learned(trainer: &mut Trainer) -> [u8; 32] {
    let cut = trainer.cut(Scope::Everything);
    let scalars = trainer.scalars();
    let mut hasher = Sha256::new();
    for (bytes, length) in [(&cut.rows, cut.row_bytes), (&cut.candidates, 16), (&cut.shown_scores, 28)] {
        let mut entries: Vec<&[u8]> = bytes.chunks(length).collect();
        entries.sort_unstable();
        hasher.update(entries.concat());
    }
    hasher.update(serde_json::to_vec(&(scalars.dense, scalars.windows)).expect("plain data"));
    hasher.finalize().into()
}

/// What the logs of these tests made of the state when the digests were written down. They are those of every processor; who
/// changes them changes what users' replays give.
#[test]
fn fixed_logs_give_the_committed_digests_under_each_instruction_set() {
    under_each_instruction_set(|set| {
        let committed = include_str!("../fixtures/digests.txt").trim_end();
        assert_eq!(fixed_digests(), committed, "under {}", set.name());
    });
}

fn fixed_digests() -> String {
    let (mut random, mut random_learned) = (Sha256::new(), Sha256::new());
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let params = params(&mut dice);
        let log = random_log(&mut dice);
        let mut trainer = plainly_trained(&params, &log);
        random.update(trainer.state_digest().0);
        random_learned.update(learned(&mut trainer));
        let (digest, ..) = idling_run(&params, &log, &mut dice);
        random.update(digest.0);
    }
    let mut found = vec![
        format!("random state {}", hex::encode(random.finalize())),
        format!("random learned {}", hex::encode(random_learned.finalize())),
    ];
    for labels in ["emit = \"at_maturity\"", "emit = \"at_click\"", "labels = \"fake_negative\""] {
        let mut trainer = trained_at_the_defaults(labels);
        found.push(format!("{labels} state {}", trainer.state_digest()));
        found.push(format!("{labels} learned {}", hex::encode(learned(&mut trainer))));
    }
    let mut trainer = trained_in_large_batches(Inline);
    found.push(format!("large batches state {}", trainer.state_digest()));
    found.push(format!("large batches learned {}", hex::encode(learned(&mut trainer))));
    found.join("\n")
}

#[test]
fn the_random_logs_reach_every_bound_of_the_table() {
    let (mut expired, mut forgotten, mut evicted, mut waiting) = (0, 0, 0, 0);
    for seed in 0..100 {
        let mut dice = Dice::new(seed);
        let params = params(&mut dice);
        let trainer = plainly_trained(&params, &random_log(&mut dice));
        expired += trainer.counters().learner.rows_expired;
        forgotten += trainer.counters().learner.candidates_expired;
        evicted += trainer.counters().learner.rows_evicted + trainer.counters().learner.candidates_evicted;
        waiting += trainer.model().candidates().len();
        assert!(trainer.model().row_count() <= params.model.admission.rows_max);
        assert!(trainer.model().candidates().len() <= params.model.admission.rows_max);
    }
    assert!(
        expired > 100 && forgotten > 10 && evicted > 100 && waiting > 100,
        "{expired} {forgotten} {evicted} {waiting}"
    );
}

/// A merge that does not wait: whatever has arrived is consumed at once.
fn run_without_waiting(params: &TrainParams, log: &Log, dice: &mut Dice) -> StateDigest {
    let mut trainer = started(params, log);
    let mut left = log.clone();
    let partitions: Vec<Partition> = log.keys().copied().collect();
    while left.values().any(|arrivals| !arrivals.is_empty()) {
        let partition = partitions[dice.below(partitions.len() as u64) as usize];
        let Some(lane) = left.get_mut(&partition).filter(|lane| !lane.is_empty()) else {
            continue;
        };
        trainer.push(partition, lane.remove(0)).expect("in order");
        // What the sequencer's wait prevents: every partition that is waited for is passed over.
        let awaited: Vec<Partition> = trainer.awaited().collect();
        for silent in &awaited {
            trainer.control(&Control::Idle(*silent)).expect("it is live");
        }
        trainer.step(&mut ());
        for silent in awaited {
            trainer.control(&Control::Returned(silent)).expect("it was idle");
        }
    }
    end_exhausted(&mut trainer, &left);
    trainer.state_digest()
}

#[test]
fn without_the_sequencers_wait_the_interleaving_shows_in_the_state() {
    let differing = (0..50)
        .filter(|&seed| {
            let mut dice = Dice::new(seed);
            let params = params(&mut dice);
            let log = random_log(&mut dice);
            run_without_waiting(&params, &log, &mut dice) != plain_run(&params, &log)
        })
        .count();
    assert!(differing > 40, "only {differing} of 50 states differed");
}

/// A restart that finds the next records of a partition gone. What was queued is read again.
fn lose_some(trainer: &mut Trainer, log: &Log, left: &mut Log, dice: &mut Dice) {
    let mut layers = Vec::new();
    let lineage = take_checkpoint(trainer, &mut layers);
    *trainer = restarted(&trainer.params().clone(), &layers, &lineage, log, left);
    let positions: Vec<(Partition, i64)> = trainer.positions().into_iter().collect();
    let (partition, from) = positions[dice.below(positions.len() as u64) as usize];
    let to = from + 1 + dice.below(5) as i64;
    let gap = Control::Gap { partition, from, to };
    trainer.control(&gap).expect("it is there");
    left.get_mut(&partition).expect("all partitions are there").retain(|arrival| arrival.offset >= to);
}

/// A live run in which partitions fall idle and return, and records are lost, at random; gives the digest and the journal that explains it.
fn idling_run(params: &TrainParams, log: &Log, dice: &mut Dice) -> (StateDigest, u64, Vec<JournalEntry>) {
    let mut trainer = started(params, log);
    let mut left = log.clone();
    let partitions: Vec<Partition> = log.keys().copied().collect();
    let mut idle: Vec<Partition> = Vec::new();
    for _ in 0..400 {
        let partition = partitions[dice.below(partitions.len() as u64) as usize];
        let lane = left.get_mut(&partition).expect("all partitions are there");
        if !lane.is_empty() {
            if let Some(place) = idle.iter().position(|other| *other == partition) {
                idle.remove(place);
                trainer.control(&Control::Returned(partition)).expect("it was idle");
            }
            trainer.push(partition, lane.remove(0)).expect("in order");
        }
        trainer.step(&mut ());
        if dice.one_in(80) {
            lose_some(&mut trainer, log, &mut left, dice);
        }
        if dice.one_in(100) {
            // A restart with another configuration.
            let mut other = trainer.params().clone();
            other.model.linear.alpha *= 0.5;
            other.model.embedding.l2 += 0.25;
            other.model.admission.min_count = 1;
            other.join.retention_ms += 20;
            other.batch.min += 1;
            let name = |number| Field { name: format!("f{number}"), kind: FieldKind::Categorical };
            let fields = (0..other.model.fields).map(name).collect();
            let control = Control::Configured { parameters: other.to_text(), fields };
            trainer.control(&control).expect("a state can go on with it");
        }
        let silent = trainer.awaited().next();
        if let Some(silent) = silent.filter(|_| dice.one_in(5)) {
            trainer.control(&Control::Idle(silent)).expect("it is live");
            idle.push(silent);
        }
    }
    let digest = trainer.state_digest();
    (digest, trainer.released(), trainer.cut_journal(usize::MAX))
}

/// The same records in the order of the journal alone.
fn replayed_run(params: &TrainParams, log: &Log, until: u64, journal: Vec<JournalEntry>) -> StateDigest {
    let mut trainer = Trainer::new(params.clone());
    let mut script = Script::new(journal);
    let mut pushed = false;
    loop {
        while let Some(control) = script.due(trainer.released()) {
            trainer.control(&control).expect("the journal fits the log");
        }
        if !pushed {
            for (partition, next_offset) in trainer.positions() {
                for arrival in log[&partition].iter().filter(|arrival| arrival.offset >= next_offset) {
                    trainer.push(partition, arrival.clone()).expect("in order");
                }
            }
            pushed = true;
        }
        if trainer.released() == until {
            return trainer.state_digest();
        }
        trainer.step(&mut ()).expect("the journal says what is not waited for");
    }
}

#[test]
fn a_replay_with_the_journal_reproduces_runs_in_which_partitions_were_idle_and_records_lost() {
    let (mut idled, mut lost) = (0, 0);
    for seed in 0..rounds(200, 5000) as u64 {
        let mut dice = Dice::new(10_000 + seed);
        let params = params(&mut dice);
        let log = random_log(&mut dice);
        let (digest, until, journal) = idling_run(&params, &log, &mut dice);
        idled += usize::from(journal.iter().any(|entry| matches!(entry.control, Control::Idle(_))));
        lost += usize::from(journal.iter().any(|entry| matches!(entry.control, Control::Gap { .. })));
        assert_eq!(replayed_run(&params, &log, until, journal), digest, "seed {seed}");
    }
    assert!(idled > 100, "only {idled} runs had idle partitions");
    assert!(lost > 100, "only {lost} runs lost records");
}

#[test]
fn one_record_fewer_gives_another_digest() {
    for seed in 0..50 {
        let mut dice = Dice::new(seed);
        let params = params(&mut dice);
        let log = random_log(&mut dice);
        let whole = plain_run(&params, &log);
        let mut shorter = log.clone();
        let partitions: Vec<Partition> = log.iter().filter(|(_, lane)| !lane.is_empty()).map(|(p, _)| *p).collect();
        let partition = partitions[dice.below(partitions.len() as u64) as usize];
        let lane = shorter.get_mut(&partition).expect("it is there");
        lane.remove(dice.below(lane.len() as u64) as usize);
        assert_ne!(plain_run(&params, &shorter), whole, "seed {seed}");
    }
}

#[test]
fn every_byte_of_a_checkpoint_counts_for_the_digest() {
    let mut dice = Dice::new(77);
    let params = params(&mut dice);
    let log = random_log(&mut dice);
    let mut trainer = started(&params, &log);
    for (partition, arrivals) in &log {
        for arrival in &arrivals[..arrivals.len() / 2] {
            trainer.push(*partition, arrival.clone()).expect("in order");
        }
    }
    consume_all(&mut trainer);
    let mut layers = Vec::new();
    take_checkpoint(&mut trainer, &mut layers);
    checkpoint::decode(params.clone(), &layers).expect("what was written is read");
    let blocks = &layers[0].blocks;
    let mut altered = 0;
    for (number, block) in blocks.iter().enumerate().filter(|(_, block)| block.section != Section::Lineage) {
        for at in 0..block.bytes.len() {
            let mut damaged = layers.clone();
            damaged[0].blocks[number].bytes[at] ^= 1;
            // Values that no encoder writes may be refused by an assertion: refused all the same.
            let read = std::panic::catch_unwind(|| checkpoint::decode(params.clone(), &damaged).is_ok());
            assert!(!matches!(read, Ok(true)), "byte {at} of block {number} ({:?}) does not count", block.section);
            altered += 1;
        }
    }
    assert!(altered > 1000, "only {altered} bytes were altered");
}
