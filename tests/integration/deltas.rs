//! Deltas: chains of them give what the full versions of the same numbers have, to the byte, whatever the log and the disk do
//! in between; and whatever is no link of the chain is refused. A worker publishes them, and its commands show and apply them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use deepfm_core::checkpoint::{self, Layer};
use deepfm_core::event::options::EventOptions;
use deepfm_core::event::{Click, Decoded, Event, EventKind, Id, Impression};
use deepfm_core::feature::encoder::Encoder;
use deepfm_core::feature::field::FieldSet;
use deepfm_core::feature::hash::mix64;
use deepfm_core::model::weights::Precision;
use deepfm_core::stream::{Arrival, Control, Partition};
use deepfm_core::train::{Scope, Trainer};
use deepfm_core::version::artefact::{Artefact, ArtefactError, Cut, MANIFEST, MODEL, Verified, VersionCut, verify};
use deepfm_core::version::delta::{DELTA, DeltaError};
use deepfm_core::version::link;
use deepfm_core::version::manifest::{FileDigest, Kind, Manifest, ParentVersion};
use deepfm_core::version::safetensors::{self, Tensor};
use deepfm_stream::config::Config;
use deepfm_stream::worker::chain::{Chain, ChainBounds};

use super::hostile::lineage;
use super::live::{Live, announcements};
use crate::support::broker;
use crate::support::command::{installed, run};

const IMPRESSIONS: Partition = Partition { kind: EventKind::Impression, number: 0 };
const FULL: Kind = Kind::Full;
const DELTA_ON: Kind = Kind::Delta;
const CLICKS: Partition = Partition { kind: EventKind::Click, number: 0 };

/// What is done to a manifest.
type Alter = fn(&mut Manifest);

type Files = BTreeMap<String, Vec<u8>>;

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = mix64(self.0.wrapping_add(0x9e37_79b9_7f4a_7c15));
        self.0 % sides
    }
}

/// Everything that makes rows come and go: admission, expiry, a small table, penalties that zero weights.
fn config() -> Config {
    let text = "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n[[fields]]\nname = \"tags\"\nkind = \"multi\"\n\
                [model]\nname = \"ctr\"\nembedding_dim = 3\nadmission_min_count = 2\nexpire_after_seconds = 20\n\
                rows_max = 60\n[model.mlp]\nlayers = [4]\n[optimizer.linear]\nl1 = 0.02\n\
                [optimizer.embedding]\nl1 = 0.001\nl21 = 0.01\n[optimizer.mlp]\nmomentum = 0.5\n\
                [join]\nattribution_window_seconds = 1\n[training]\nbatch_min = 1\n";
    Config::parse(text, "deltas", []).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A worker's part that makes versions, with its log.
struct Maker {
    config: Config,
    fields: FieldSet,
    encoder: Encoder,
    trainer: Trainer,
    chain: Chain,
    /// The next impression's number, and its time.
    at: (i64, i64),
    version: u64,
    parent: Option<ParentVersion>,
    precision: Precision,
}

impl Maker {
    fn new(bounds: ChainBounds) -> Self {
        let config = config();
        let fields = config.field_set().expect("the fields are valid");
        let encoder = Encoder::new(fields.clone(), EventOptions::default().bounds());
        let mut trainer = Trainer::new(config.train_params());
        for partition in [IMPRESSIONS, CLICKS] {
            trainer.control(&Control::Start { partition, next_offset: 0 }).expect("it is new");
        }
        let at = (0, 1_700_000_000_000);
        Self {
            config,
            fields,
            encoder,
            trainer,
            chain: Chain::new(bounds),
            at,
            version: 0,
            parent: None,
            precision: bounds.precision,
        }
    }

    /// Learns from so many impressions, a third of them clicked.
    fn learn(&mut self, count: u64, dice: &mut Dice) {
        for _ in 0..count {
            let (n, time) = self.at;
            self.at = (n + 1, time + 100);
            let (user, tag) = (n as u64 / 20 + dice.roll(30), dice.roll(50));
            let features = format!(r#"{{"user":"u{user}","tags":["a{tag}","b{}"]}}"#, tag % 7);
            let impression_id: Id = format!("i{n}").into();
            let features = self.encoder.encode_json(&features).expect("it is valid");
            let click = Click { impression_id: impression_id.clone(), event_id: None, event_time: time + 50 };
            let shown = Impression { impression_id, event_id: None, event_time: time, weight: 1.0, features };
            let arrival = |event| {
                let decoded = Decoded { event, unknown_keys: 0, unknown_fields: 0 };
                Arrival { offset: n, hash: 0, body: Ok(decoded) }
            };
            self.trainer.push(IMPRESSIONS, arrival(Event::Impression(shown))).expect("in order");
            // Offsets may have gaps, and every impression's click gets its own.
            if n % 3 == 0 {
                self.trainer.push(CLICKS, arrival(Event::Click(click))).expect("in order");
            }
            while self.trainer.step(&mut ()).is_some() {}
        }
    }

    fn cut<T>(&mut self, cut: impl FnOnce(&mut Chain, &mut Trainer, Cut<'_>) -> T) -> T {
        let state_digest = self.trainer.state_digest();
        let journal = self.trainer.sequencer().journal().to_vec();
        let fields = self.fields.clone();
        let parts = Cut {
            model: "ctr",
            version: self.version + 1,
            parent: self.parent.clone(),
            created_at: "2026-01-01T00:00:00Z".to_owned(),
            state_digest,
            journal: &journal,
            probes: (0..4).map(|n| format!(r#"{{"user":"u{}","tags":["a{n}"]}}"#, self.at.0 / 20 + n)).collect(),
            fields: &fields,
            configuration: self.config.fingerprint(),
        };
        cut(&mut self.chain, &mut self.trainer, parts)
    }

    /// The full version of the next number, as it would be.
    fn full(&mut self) -> Artefact {
        let precision = self.precision;
        self.cut(|_, trainer, cut| VersionCut::of(trainer, cut).in_precision(precision)).encode()
    }

    /// The next version, full or delta.
    fn publish(&mut self) -> Artefact {
        let artefact = self.cut(Chain::cut).encode();
        self.chain.staged(artefact.base.clone());
        self.version += 1;
        self.parent = Some(artefact.base.version.clone());
        artefact
    }

    /// The next version is cut, and the disk does not take it.
    fn fail_to_publish(&mut self) {
        drop(self.cut(Chain::cut).encode());
        self.chain.failed(&mut self.trainer);
    }

    fn checkpoint(&mut self) -> (Layer, (i64, i64)) {
        let lineage = lineage(&self.config, &mut self.trainer);
        // What is copied for a checkpoint of its own is no matter of versions.
        let cut = self.trainer.cut(Scope::Everything);
        (checkpoint::encode(&cut, &lineage), self.at)
    }

    /// Another process goes on from a checkpoint.
    fn restart(&mut self, (layer, at): &(Layer, (i64, i64)), bounds: ChainBounds) {
        let decoded = checkpoint::decode(self.config.train_params(), std::slice::from_ref(layer));
        self.trainer = decoded.expect("it was written here").0;
        self.chain = Chain::new(bounds);
        self.at = *at;
    }
}

/// What a server has, given the next version.
fn follow(server: Option<Verified>, artefact: &Artefact) -> Verified {
    match artefact.manifest.kind {
        Kind::Full => verify(&artefact.files).expect("it is whole"),
        Kind::Delta => {
            let link = link::verify(&artefact.files).expect("it is whole");
            link.apply(&server.expect("a chain begins with a full version")).expect("it is the next link")
        }
    }
}

fn weights(version: &Verified) -> Vec<u8> {
    safetensors::write(&version.servable.tensors())
}

#[test]
fn two_hundred_deltas_with_expiry_admission_eviction_failures_restarts_and_crashes_give_the_bytes_of_full_versions() {
    for (seed, precision) in [(1, Precision::F32), (2, Precision::F16)] {
        println!("seed {seed}");
        let bounds = ChainBounds { full_every: 12, delta_ratio_max: 1.0, precision };
        let (mut dice, mut maker) = (Dice(seed), Maker::new(bounds));
        let mut saved = maker.checkpoint();
        let mut server = None;
        let (mut deltas, mut removed, mut fulls, mut failures, mut restarts, mut crashes) = (0, 0, 0, 0, 0, 0);
        while deltas < 200 {
            maker.learn(dice.roll(12), &mut dice);
            if dice.roll(15) == 0 {
                maker.at.1 += 30_000;
            }
            match dice.roll(30) {
                0 => {
                    crashes += 1;
                    maker.restart(&saved, bounds);
                    // Another log from here on, as numbers go on: what comes has another content.
                    maker.learn(1 + dice.roll(5), &mut dice);
                }
                1 => {
                    restarts += 1;
                    saved = maker.checkpoint();
                    maker.restart(&saved, bounds);
                }
                2..=5 => saved = maker.checkpoint(),
                6..=9 => {
                    failures += 1;
                    maker.fail_to_publish();
                    maker.learn(dice.roll(6), &mut dice);
                }
                _ => {}
            }
            let full = maker.full();
            let artefact = maker.publish();
            let stated = artefact.manifest.weights.clone().expect("this format has it");
            assert_eq!(Some(stated.digest), full.manifest.weights.map(|weights| weights.digest));
            match artefact.manifest.kind {
                Kind::Full => fulls += 1,
                Kind::Delta => {
                    deltas += 1;
                    removed += stated.removed;
                    assert!((1..12).contains(&stated.chain));
                }
            }
            let served = follow(server, &artefact);
            assert!(weights(&served) == full.files[MODEL], "version {}", artefact.manifest.version);
            assert_eq!(served.servable.digest(), stated.digest);
            server = Some(served);
        }
        println!("{fulls} full, {removed} removed, {failures} failures, {restarts} restarts, {crashes} crashes");
        assert!(fulls > 15 && removed > 100 && failures > 20 && restarts > 3 && crashes > 3);
    }
}

#[test]
fn a_delta_is_applied_to_its_parent_alone() {
    let bounds = ChainBounds { full_every: 100, delta_ratio_max: 1.0, precision: Precision::F32 };
    let (mut dice, mut maker) = (Dice(7), Maker::new(bounds));
    let mut next = |count| {
        maker.learn(count, &mut dice);
        maker.publish()
    };
    let artefacts: Vec<Artefact> = [60, 5, 5, 5].into_iter().map(&mut next).collect();
    let [one, two, three, four] = &artefacts[..] else { panic!("four were made") };
    let (first, link_of) = (follow(None, one), |artefact: &Artefact| link::verify(&artefact.files).expect("whole"));
    let refused = |artefact: &Artefact, at: &Verified| match link_of(artefact).apply(at) {
        Err(ArtefactError::Delta(error)) => error,
        other => panic!("{other:?}"),
    };
    // A gap, and the wrong order: what is missing is named.
    assert_eq!(refused(three, &first), DeltaError::Gap { version: 3, parent: 2, at: 1 });
    assert_eq!(refused(four, &first), DeltaError::Gap { version: 4, parent: 3, at: 1 });
    let second = follow(Some(follow(None, one)), two);
    let third = link_of(three).apply(&second).expect("it is the next");
    // A duplicate, and one that comes late.
    assert_eq!(refused(three, &third), DeltaError::Passed { version: 3, parent: 2, at: 3 });
    assert_eq!(refused(two, &third), DeltaError::Passed { version: 2, parent: 1, at: 3 });
    // A parent of the same number and another content.
    let mut other = Maker::new(bounds);
    other.learn(61, &mut Dice(8));
    let other = follow(None, &other.publish());
    let DeltaError::OtherParent { version: 2, parent: 1, expected, found } = refused(two, &other) else {
        panic!("the parent is another");
    };
    assert_eq!((expected, found), (first.digest.clone(), other.digest.clone()));
    // The right parent, and another place in the chain than that gives: it would shift the bound on every chain behind it.
    let displaced = forged(four.files.clone(), |manifest| manifest.weights.as_mut().expect("there").chain = 9);
    let displaced = link::verify(&displaced).expect("alone it is whole").apply(&third);
    assert!(matches!(displaced, Err(ArtefactError::Place { found: 9, expected: 3 })), "{displaced:?}");
    // The refusals have changed nothing: the chain goes on.
    let fourth = link_of(four).apply(&third).expect("it is the next");
    assert_eq!(fourth.manifest.version, 4);
    assert!(verify(&four.files).is_err_and(|error| matches!(error, ArtefactError::IsDelta(4))));
    assert!(link::verify(&one.files).is_err_and(|error| matches!(error, ArtefactError::IsFull(1))));
}

/// The files with their digests in the manifest again, after it was altered.
fn forged(mut files: Files, alter: impl FnOnce(&mut Manifest)) -> Files {
    let mut manifest: Manifest = serde_json::from_slice(&files[MANIFEST]).expect("it is a manifest");
    for (name, digest) in &mut manifest.files {
        *digest = FileDigest::of(&files[name]);
    }
    alter(&mut manifest);
    files.insert(MANIFEST.to_owned(), manifest.to_bytes());
    files
}

/// A full version, and two deltas on it.
pub(super) fn chain(precision: Precision) -> [Artefact; 3] {
    let (mut dice, mut maker) =
        (Dice(9), Maker::new(ChainBounds { full_every: 100, delta_ratio_max: 10.0, precision }));
    [80, 40, 40].map(|count| {
        maker.learn(count, &mut dice);
        if count == 40 {
            maker.at.1 += 30_000;
            maker.learn(300, &mut dice);
        }
        maker.publish()
    })
}

#[test]
fn swapped_altered_and_damaged_deltas_are_refused_and_none_panics() {
    let [one, two, three] = chain(Precision::F32);
    let first = follow(None, &one);
    assert!(two.manifest.weights.as_ref().is_some_and(|weights| weights.removed > 0), "something has expired");
    // The weights of the next link under this one's manifest.
    let mut swapped = two.files.clone();
    swapped.insert(DELTA.to_owned(), three.files[DELTA].clone());
    assert!(matches!(link::verify(&swapped), Err(ArtefactError::Digest { .. })));
    // The same with the digests of the files made to fit: the digest of the weights is another.
    let stated = three.manifest.weights.clone().expect("it has them");
    let swapped = forged(swapped, |manifest| {
        let weights = manifest.weights.as_mut().expect("it has them");
        (weights.rows, weights.removed) = (stated.rows, stated.removed);
    });
    let error = link::verify(&swapped).expect("alone it is whole").apply(&first).expect_err("it is another");
    assert!(matches!(error, ArtefactError::Delta(DeltaError::Digest { .. })), "{error}");
    let cases: [(&str, Alter); 6] = [
        ("deltas from", |manifest| manifest.weights.as_mut().expect("there").chain = 0),
        ("deltas from", |manifest| manifest.weights.as_mut().expect("there").chain = u32::MAX),
        ("no digest", |manifest| manifest.weights = None),
        ("needs a parent", |manifest| manifest.parent = None),
        ("needs a parent", |manifest| manifest.parent.as_mut().expect("there").version = 2),
        ("a digest", |manifest| manifest.format = 2),
    ];
    for (expected, alter) in cases {
        let error = link::verify(&forged(two.files.clone(), alter)).expect_err("it is refused");
        let text =
            format!("{error} {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default());
        assert!(text.contains(expected), "{text}");
    }
    // Every byte of the weights with a bit flipped, though its digest fits: refused, or another version's weights.
    let expected = weights(&link::verify(&two.files).expect("whole").apply(&first).expect("the next"));
    let (bytes, mut harmless) = (&two.files[DELTA], 0);
    for at in 0..bytes.len() {
        let mut damaged = two.files.clone();
        damaged.get_mut(DELTA).expect("it is there")[at] ^= 0x10;
        let damaged = forged(damaged, |_| ());
        // What is said beside the tensors means nothing, nor does the removal of an id that never had a row.
        if let Ok(applied) = link::verify(&damaged).and_then(|link| link.apply(&first)) {
            assert!(weights(&applied) == expected, "byte {at}");
            harmless += 1;
        }
    }
    assert!(harmless < bytes.len() / 10, "{harmless} of {} bytes", bytes.len());
    for end in (0..bytes.len()).step_by(7) {
        let mut damaged = two.files.clone();
        damaged.get_mut(DELTA).expect("it is there").truncate(end);
        assert!(link::verify(&forged(damaged, |_| ())).is_err(), "cut at {end}");
    }
}

#[test]
fn rows_in_16_bits_are_real_halves_whose_bound_is_stated_and_held() {
    let [exact, _, _] = chain(Precision::F32);
    let [half, delta, _] = chain(Precision::F16);
    let (whole, served) = (follow(None, &exact), follow(None, &half));
    let tensors = |version: &Verified, name: &str| -> Vec<f32> {
        let tensors = version.servable.tensors();
        let (_, _, tensor) = tensors.iter().find(|(found, _, _)| found == name).expect("it is there");
        match tensor {
            Tensor::F32(values) | Tensor::F16(values) => values.to_vec(),
            Tensor::U64(_) => panic!("{name} is of reals"),
        }
    };
    for name in ["linear", "embeddings"] {
        let (whole, served) = (tensors(&whole, name), tensors(&served, name));
        let mut moved = 0;
        for (whole, served) in whole.iter().zip(&served) {
            let bound = (whole.abs() * Precision::F16.weight_error()).max(2.0_f32.powi(-25));
            assert!((whole - served).abs() <= bound, "{name}: {served} for {whole}");
            moved += usize::from(whole != served);
        }
        assert!(whole.len() == served.len() && moved > 0, "{name}: nothing was rounded");
    }
    let header = String::from_utf8_lossy(&half.files[MODEL]).into_owned();
    assert!(header.contains(r#""embeddings":{"dtype":"F16""#) && header.contains(r#""bias":{"dtype":"F32""#));
    assert!(half.files[MODEL].len() < exact.files[MODEL].len());
    let stated = half.manifest.weights.clone().expect("it has them");
    assert!(stated.rounding > 0.0 && stated.rounding < 1e-3, "{}", stated.rounding);
    assert_eq!(exact.manifest.weights.as_ref().map(|weights| weights.rounding), Some(0.0));
    // A bound that the probes do not keep, or none, is refused; so is another precision than the file's.
    let cases: [(&str, Alter); 4] = [
        ("further than the bound", |manifest| manifest.weights.as_mut().expect("there").rounding /= 2.0),
        ("must be finite", |manifest| manifest.weights.as_mut().expect("there").rounding = -1.0),
        ("0 in 32 bits", |manifest| manifest.weights.as_mut().expect("there").precision = Precision::F32),
        ("in F16, the manifest says F32", |manifest| {
            let weights = manifest.weights.as_mut().expect("there");
            (weights.precision, weights.rounding) = (Precision::F32, 0.0);
        }),
    ];
    for (expected, alter) in cases {
        let error = verify(&forged(half.files.clone(), alter)).expect_err("it is refused");
        let text =
            format!("{error} {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default());
        assert!(text.contains(expected), "{text}");
    }
    // A delta goes on in its chain's precision.
    let link = link::verify(&delta.files).expect("it is whole");
    assert!(matches!(link.apply(&follow(None, &exact)), Err(ArtefactError::Delta(DeltaError::OtherParent { .. }))));
    let link = link::verify(&delta.files).expect("it is whole");
    let digested = whole.digested();
    assert!(matches!(link.delta.apply(digested, stated.digest), Err(DeltaError::Shape)));
}

#[test]
fn a_removed_id_out_of_order_or_changed_as_well_is_refused() {
    let [_, two, _] = chain(Precision::F32);
    let bytes = &two.files[DELTA];
    let header = u64::from_le_bytes(*bytes.first_chunk().expect("a header")) as usize;
    let document: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).expect("it is JSON");
    let place = |name: &str| {
        let offset = document[name]["data_offsets"][0].as_u64().expect("an offset") as usize;
        8 + header + offset
    };
    let stated = two.manifest.weights.clone().expect("it has them");
    let ids = |name: &str, count: u64| -> Vec<u64> {
        let ids = bytes[place(name)..].chunks_exact(8).take(count as usize);
        ids.map(|id| u64::from_le_bytes(id.try_into().expect("eight bytes"))).collect()
    };
    let (changed, removed) = (ids("feature_ids", stated.rows), ids("removed_ids", stated.removed));
    let with = |name: &str, row: usize, id: u64| {
        let (mut files, at) = (two.files.clone(), place(name) + 8 * row);
        files.get_mut(DELTA).expect("it is there")[at..at + 8].copy_from_slice(&id.to_le_bytes());
        link::verify(&forged(files, |_| ())).expect_err("it is refused").to_string()
    };
    assert!(with("removed_ids", 0, u64::MAX).contains("removed ids do not ascend"));
    assert!(with("removed_ids", 1, removed[0]).contains("removed ids do not ascend"));
    assert!(with("feature_ids", 0, u64::MAX).contains("feature ids do not ascend"));
    // A changed id among the removed ones, where it leaves their order.
    let mut fitting = changed.iter().filter_map(|id| {
        let row = removed.partition_point(|other| other < id);
        let is_between = removed.get(row + 1).is_none_or(|next| id < next);
        (row < removed.len() && is_between).then_some((row, *id))
    });
    let (row, id) = fitting.next().expect("one fits");
    assert!(with("removed_ids", row, id).contains("changed and removed"));
}

#[test]
fn a_version_is_full_when_much_has_changed_and_when_the_chain_is_long_enough() {
    let kinds = |bounds: ChainBounds, counts: &[u64]| {
        let (mut dice, mut maker) = (Dice(3), Maker::new(bounds));
        maker.learn(100, &mut dice);
        let mut kinds = vec![maker.publish().manifest.kind];
        for count in counts {
            maker.learn(*count, &mut dice);
            kinds.push(maker.publish().manifest.kind);
        }
        kinds
    };
    let every = |full_every| ChainBounds { full_every, delta_ratio_max: 1.0, precision: Precision::F32 };
    assert_eq!(kinds(every(3), &[1; 6]), [FULL, DELTA_ON, DELTA_ON, FULL, DELTA_ON, DELTA_ON, FULL]);
    assert_eq!(kinds(every(1), &[1; 3]), [FULL; 4]);
    let small = ChainBounds { full_every: 100, delta_ratio_max: 0.4, precision: Precision::F32 };
    assert_eq!(kinds(small, &[1, 200, 1]), [FULL, DELTA_ON, FULL, DELTA_ON]);
}

#[test]
fn a_worker_publishes_deltas_between_full_versions_and_begins_each_run_with_a_full_one() {
    let name = "a_worker_publishes_deltas_between_full_versions_and_begins_each_run_with_a_full_one";
    let Some(broker) = broker::real(name) else { return };
    let mut live = Live::new(broker, "deltas", 1, "");
    let text = fs::read_to_string(&live.config).expect("it was written");
    // Every version that may be a delta is one; what is small enough is another test's.
    let often =
        text.replace("interval_examples = 3000", "interval_examples = 1\nfull_every = 4\ndelta_ratio_max = 1.0");
    fs::write(&live.config, often.replace("[model]\n", "[model]\nmlp.layers = []\n")).expect("the disk takes it");
    live.send(1);
    let mut worker = live.worker();
    live.wait_for_announced(&mut worker, 6);
    live.stop(worker);
    let made = live.announced();
    let mut worker = live.worker();
    live.wait_for_announced(&mut worker, made + 3);
    live.stop(worker);
    live.end_traffic();
    let announced = announcements(broker, &live.place.kafka.versions_topic);
    let kinds: BTreeMap<u64, &str> = announced
        .iter()
        .map(|one| (one["version"].as_u64().expect("a number"), one["kind"].as_str().expect("a kind")))
        .collect();
    let full: Vec<u64> = kinds.iter().filter(|(_, kind)| **kind == "full").map(|(version, _)| *version).collect();
    assert_eq!(kinds.len(), announced.iter().map(|one| one["version"].to_string()).collect::<BTreeSet<_>>().len());
    assert!(full[0] == 1 && full.len() >= 2 && kinds.len() > full.len(), "{kinds:?}");
    assert!(full.windows(2).all(|pair| pair[1] - pair[0] <= 4), "{kinds:?}");
    let listed = run(&["versions", "list", "--config", &live.config]).stdout;
    assert_eq!(listed.matches("delta").count(), kinds.len() - full.len(), "{listed}");
    // Each is whole, and each delta is applied to the chain beside it.
    let paths = installed(&live.artefacts());
    for path in &paths {
        let path = path.display().to_string();
        let document = &run(&["artifact", "verify", &path, "--json"]).json()[0];
        if document["kind"] == "delta" {
            assert_eq!(document["is_applied"], true, "{document}");
            let out = live.place.path("whole.safetensors").display().to_string();
            assert_eq!(run(&["artifact", "materialize", &path, "--out", &out]).code, Some(0));
            assert_eq!(run(&["artifact", "materialize", &path, "--out", &out]).code, Some(74), "it is there already");
            fs::remove_file(&out).expect("it was written");
        }
    }
    // Without what it stands on, a delta can be checked and not applied.
    let delta = paths.iter().find(|path| path.join(DELTA).exists()).expect("there are some");
    let alone = live.place.path("alone").join(delta.file_name().expect("it has a name"));
    fs::create_dir_all(&alone).expect("the disk takes it");
    for file in fs::read_dir(delta).expect("it is there").flatten() {
        fs::copy(file.path(), alone.join(file.file_name())).expect("the disk takes it");
    }
    let alone = alone.display().to_string();
    let verified = run(&["artifact", "verify", &alone]);
    assert!(verified.code == Some(0) && verified.stdout.contains("not applied"), "{}", verified.stdout);
    let out = live.place.path("none.safetensors").display().to_string();
    let refused = run(&["artifact", "materialize", &alone, "--out", &out]);
    assert!(refused.code == Some(65) && refused.stderr.contains("is not beside it"), "{}", refused.stderr);
    let inspected = run(&["artifact", "inspect", &alone]).json();
    assert_eq!((&inspected["kind"], inspected["tensors"][1]["name"].as_str()), (&"delta".into(), Some("removed_ids")));
    live.check();
}
