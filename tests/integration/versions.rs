//! Versions: artefacts that are whole or do not exist, and what is settled after a crash.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use deepfm_core::event::options::EventOptions;
use deepfm_core::event::{Click, Decoded, Event, EventKind, Impression};
use deepfm_core::feature::encoder::Encoder;
use deepfm_core::stream::{Arrival, Control, Partition};
use deepfm_core::train::Trainer;
use deepfm_core::version::announcement::{Alias, Announcement};
use deepfm_core::version::artefact::{Artefact, Cut, MODEL, PROBES, verify};
use deepfm_core::version::outbox::OutboxEntry;
use deepfm_stream::config::Config;
use deepfm_stream::config::operation::Readers;
use deepfm_stream::publish::artefacts::{self, Installed};
use deepfm_stream::publish::settle::{Settlement, settlement};

const IMPRESSIONS: Partition = Partition { kind: EventKind::Impression, number: 0 };
const CLICKS: Partition = Partition { kind: EventKind::Click, number: 0 };

fn config() -> Config {
    let text = "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n[[fields]]\nname = \"tags\"\nkind = \"multi\"\n\
                [join]\nattribution_window_seconds = 1\n[training]\nnegative_sampling_rate = 0.5\n";
    Config::parse(text, "test", []).expect("it is valid")
}

/// A version of a model that has learned from 300 impressions.
pub(super) fn artefact(version: u64, seed: u64) -> Artefact {
    let probes = [r#"{"user":"u1","tags":{"a1":0.5}}"#.to_owned(), r#"{"user":"unseen"}"#.to_owned()];
    learned(&config(), version, row(seed), &probes)
}

/// Such a model before it is cut, with its configuration.
pub(super) fn trained(seed: u64) -> (Config, Trainer) {
    let config = config();
    let trainer = trainer(&config, row(seed));
    (config, trainer)
}

fn row(seed: u64) -> impl Fn(u64) -> String {
    move |n| format!(r#"{{"user":"u{}","tags":["a{}","b{}"]}}"#, n % 7, n % 3, (n + seed) % 5)
}

/// A version of a model that has learned from 300 impressions with these features, every fifth of them clicked.
pub(super) fn learned(config: &Config, version: u64, row: impl Fn(u64) -> String, probes: &[String]) -> Artefact {
    let fields = config.field_set().expect("the fields are valid");
    let mut trainer = trainer(config, row);
    let state_digest = trainer.state_digest();
    let journal = trainer.cut_journal();
    let cut = Cut {
        model: "ctr",
        version,
        parent: None,
        created_at: "2026-01-01T00:00:00Z".to_owned(),
        state_digest,
        journal: &journal,
        probes,
        fields: &fields,
        configuration: config.fingerprint(),
    };
    Artefact::cut(&trainer, &cut)
}

/// A trainer of a configuration that has learned from 300 impressions with these features, every fifth of them clicked.
pub(super) fn trainer(config: &Config, row: impl Fn(u64) -> String) -> Trainer {
    let fields = config.field_set().expect("the fields are valid");
    let encoder = Encoder::new(fields, EventOptions::default().bounds());
    let mut trainer = Trainer::new(config.train_params());
    for partition in [IMPRESSIONS, CLICKS] {
        trainer.control(&Control::Start { partition, next_offset: 0 }).expect("it is new");
    }
    for n in 0..300_i64 {
        let impression_id: std::sync::Arc<str> = format!("i{n}").into();
        let features = encoder.encode_json(&row(n as u64)).expect("it is valid");
        let time = 1_700_000_000_000 + 100 * n;
        let shown = Impression {
            impression_id: impression_id.clone(),
            event_id: None,
            event_time: time,
            weight: 1.0,
            features,
        };
        let click = Click { impression_id, event_id: None, event_time: time + 50 };
        let body = |event| Ok(Decoded { event, unknown_keys: 0, unknown_fields: 0 });
        trainer
            .push(IMPRESSIONS, Arrival { offset: n, hash: 0, body: body(Event::Impression(shown)) })
            .expect("in order");
        if n % 5 == 0 {
            trainer.push(CLICKS, Arrival { offset: n, hash: 0, body: body(Event::Click(click)) }).expect("in order");
        }
        while trainer.step(&mut ()).is_some() {}
    }
    trainer
}

pub(super) fn installed(root: &Path, artefact: &Artefact) -> PathBuf {
    artefacts::stage(root, artefact, Readers::Group).expect("the disk takes it");
    artefacts::install(root, &artefact.directory()).expect("it was staged");
    root.join(artefact.directory())
}

#[test]
fn a_version_exists_only_when_it_was_installed_and_then_it_is_whole() {
    let root = tempfile::tempdir().expect("a directory of our own");
    let artefact = artefact(7, 0);
    artefacts::stage(root.path(), &artefact, Readers::Group).expect("the disk takes it");
    assert!(artefacts::list(root.path()).expect("it is there").is_empty(), "a staged version is none");
    artefacts::install(root.path(), &artefact.directory()).expect("it was staged");
    artefacts::install(root.path(), &artefact.directory()).expect("once more does no harm");
    let versions = artefacts::list(root.path()).expect("it is there");
    let [Installed { version: 7, path, .. }] = &versions[..] else { panic!("{versions:?}") };
    let verified = artefacts::verify(path).expect("it is whole");
    assert_eq!((verified.digest, verified.probes), (artefact.digest, 3));
    assert!(verified.servable.rows() > 10 && verified.servable.is_finite());
}

#[test]
fn staged_versions_that_no_checkpoint_knows_are_removed() {
    let root = tempfile::tempdir().expect("a directory of our own");
    let (known, stray) = (artefact(1, 0), artefact(2, 0));
    artefacts::stage(root.path(), &known, Readers::Group).expect("the disk takes it");
    artefacts::stage(root.path(), &stray, Readers::Group).expect("the disk takes it");
    artefacts::remove_stray(root.path(), &[&known.directory()]);
    artefacts::install(root.path(), &known.directory()).expect("the known one is still there");
    assert!(artefacts::install(root.path(), &stray.directory()).is_err());
}

#[test]
fn every_flipped_byte_of_an_artefact_is_found() {
    let artefact = artefact(3, 0);
    let whole: BTreeMap<String, Vec<u8>> = artefact.files;
    verify(&whole).expect("it is whole");
    for (name, content) in &whole {
        let step = (content.len() / 97).max(1);
        for at in (0..content.len()).step_by(step) {
            let mut damaged = whole.clone();
            damaged.get_mut(name).expect("it is there")[at] ^= 0x10;
            if name == "manifest.json" {
                // The manifest is not digested by itself; its directory's name is its digest.
                let read = verify(&damaged);
                assert!(read.is_err() || read.is_ok_and(|read| read.digest != artefact.digest), "{name} byte {at}");
            } else {
                assert!(verify(&damaged).is_err(), "{name} byte {at}");
            }
        }
        let mut missing = whole.clone();
        missing.remove(name);
        assert!(verify(&missing).is_err(), "{name} is missing");
    }
}

#[test]
fn a_directory_named_after_another_content_is_refused() {
    let root = tempfile::tempdir().expect("a directory of our own");
    let path = installed(root.path(), &artefact(7, 0));
    let other = root.path().join("7-000000000000");
    fs::rename(&path, &other).expect("it is ours");
    assert!(artefacts::verify(&other).is_err());
}

#[test]
fn a_probe_that_is_not_reproduced_is_an_error() {
    let (mut one, other) = (artefact(1, 0), artefact(1, 1));
    let probes = String::from_utf8(one.files[PROBES].clone()).expect("it is text");
    assert_ne!(one.files[MODEL], other.files[MODEL]);
    let lines: Vec<String> = probes.lines().map(|line| line.replace("\"logit\":", "\"logit\":5e3,\"was\":")).collect();
    let altered = lines.join("\n").into_bytes();
    let mut manifest = one.manifest.clone();
    let digest = deepfm_core::version::manifest::FileDigest::of(&altered);
    manifest.files.insert(PROBES.to_owned(), digest);
    one.files.insert(PROBES.to_owned(), altered);
    one.files.insert("manifest.json".to_owned(), manifest.to_bytes());
    let error = verify(&one.files).expect_err("the logits are others").to_string();
    assert!(error.contains("probe 0"), "{error}");
}

#[test]
fn artefacts_are_a_function_of_the_state() {
    assert_eq!(artefact(4, 0).files, artefact(4, 0).files);
    assert_ne!(artefact(4, 0).digest, artefact(4, 1).digest);
}

#[test]
fn an_outbox_is_settled_by_what_the_topic_holds_under_its_number() {
    let (ours, theirs) = (artefact(5, 0), artefact(5, 1));
    let announcement = Announcement::of(&ours);
    let entry = OutboxEntry {
        version: 5,
        manifest_digest: ours.digest.clone(),
        directory: ours.directory(),
        key: announcement.key(),
        announcement: String::new(),
        goes_live: true,
        journal: Vec::new(),
    };
    assert_eq!(settlement(&entry, None), Settlement::Announce);
    assert_eq!(settlement(&entry, Some(&announcement)), Settlement::Done);
    assert_eq!(settlement(&entry, Some(&Announcement::of(&theirs))), Settlement::Drop);
}

#[test]
fn an_alias_carries_its_last_twenty_moves_newest_first() {
    let mut alias = None;
    for version in 1..=25 {
        let announcement = Announcement { version, ..Announcement::of(&artefact(1, 0)) };
        alias = Some(Alias::moved(alias.as_ref(), "live", &announcement, format!("t{version}")));
    }
    let alias = alias.expect("it was moved");
    assert_eq!((alias.version, alias.moves.len(), alias.moves[0].version, alias.moves[19].version), (25, 20, 25, 6));
}
