//! Versions: artefacts that are whole or do not exist, and what is settled after a crash.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use deepfm_core::event::options::EventOptions;
use deepfm_core::event::{Click, Decoded, Event, EventKind, Id, Impression};
use deepfm_core::feature::encoder::Encoder;
use deepfm_core::stream::{Arrival, Control, JournalEntry, Partition};
use deepfm_core::train::Trainer;
use deepfm_core::version::alias::{Act, Alias};
use deepfm_core::version::announcement::Announcement;
use deepfm_core::version::artefact::{Artefact, Cut, MODEL, PROBES, VersionCut, verify};
use deepfm_core::version::known::KnownVersions;
use deepfm_core::version::manifest::{Kind, Parent, ParentVersion};
use deepfm_core::version::outbox::OutboxEntry;
use deepfm_core::version::settlement::{VersionLoss, settle, settle_restored};
use deepfm_stream::artefacts::directory::{self, Directory};
use deepfm_stream::artefacts::{Artefacts as _, Installed, Shelf};
use deepfm_stream::config::Config;
use deepfm_stream::config::operation::Readers;
use deepfm_stream::durable;

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
    let journal = trainer.cut_journal(usize::MAX);
    let cut = Cut {
        model: "ctr",
        version,
        parent: None,
        created_at: "2026-01-01T00:00:00Z".to_owned(),
        state_digest,
        journal: &journal,
        probes: probes.to_vec(),
        fields: &fields,
        configuration: config.fingerprint(),
    };
    VersionCut::of(&trainer, cut).encode()
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
        let impression_id: Id = format!("i{n}").into();
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

/// The versions below a directory.
pub(super) fn below(root: &Path) -> Directory {
    Directory::new(root.to_owned(), Readers::Group)
}

pub(super) fn installed(root: &Path, artefact: &Artefact) -> PathBuf {
    let artefacts = below(root);
    artefacts.stage(artefact).expect("the disk takes it");
    artefacts.install(&artefact.directory()).expect("it was staged");
    root.join(artefact.directory())
}

#[test]
fn a_version_exists_only_when_it_was_installed_and_then_it_is_whole() {
    let root = tempfile::tempdir().expect("a directory of our own");
    let (artefact, artefacts) = (artefact(7, 0), below(root.path()));
    artefacts.stage(&artefact).expect("the disk takes it");
    assert!(artefacts.list(Shelf::Versions).expect("it is there").is_empty(), "a staged version is none");
    artefacts.install(&artefact.directory()).expect("it was staged");
    artefacts.install(&artefact.directory()).expect("once more does no harm");
    let versions = artefacts.list(Shelf::Versions).expect("it is there");
    let [one @ Installed { version: 7, .. }] = &versions[..] else { panic!("{versions:?}") };
    let verified = directory::verify(&artefacts.place(one)).expect("it is whole");
    assert_eq!((verified.digest, verified.probes), (artefact.digest, 3));
    assert!(verified.servable.rows() > 10 && verified.servable.is_finite());
}

#[test]
fn staged_versions_that_no_checkpoint_knows_are_removed() {
    let root = tempfile::tempdir().expect("a directory of our own");
    let (known, stray) = (artefact(1, 0), artefact(2, 0));
    let artefacts = below(root.path());
    artefacts.stage(&known).expect("the disk takes it");
    artefacts.stage(&stray).expect("the disk takes it");
    durable::sweep(root.path(), &[&known.directory()]);
    artefacts.install(&known.directory()).expect("the known one is still there");
    assert!(artefacts.install(&stray.directory()).is_err());
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
    assert!(directory::verify(&other).is_err());
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
    let entry = |artefact: &Artefact| {
        let control = Control::Idle(Partition { kind: EventKind::Click, number: 0 });
        let journal = vec![JournalEntry { at: artefact.manifest.version, control }];
        OutboxEntry { announcement: Announcement::of(artefact), goes_live: true, journal }
    };
    let known = |announced: Option<&Artefact>| {
        let announced = announced.map(|artefact| (artefact.manifest.version, Announcement::of(artefact)));
        KnownVersions { announced: announced.into_iter().collect(), ..KnownVersions::default() }
    };
    let parent = Parent { version: 5, manifest_digest: ours.digest.clone(), learned: 9 };
    let directory = ours.directory();
    let (nothing, ours_there) = (Vec::<String>::new(), vec![directory]);
    // What the topic has under the number, whether the artefact is there; what is pending, installed, removed, lost.
    let cases = [
        (None, true, 1, &ours_there, &nothing, None),
        (None, false, 0, &nothing, &nothing, Some(VersionLoss::Missing)),
        (Some(&ours), true, 0, &ours_there, &nothing, None),
        (Some(&ours), false, 0, &nothing, &nothing, None),
        (Some(&theirs), true, 0, &nothing, &ours_there, Some(VersionLoss::Overtaken)),
        (Some(&theirs), false, 0, &nothing, &nothing, Some(VersionLoss::Overtaken)),
    ];
    for (announced, is_present, pending, install, remove, loss) in cases {
        let outbox = [entry(&ours)];
        let settled = settle(&outbox, Some(&parent), &known(announced), |_| is_present);
        assert_eq!((settled.pending.len(), &settled.install, &settled.remove), (pending, install, remove));
        assert_eq!(settled.lost, loss.map(|loss| (5, loss)).into_iter().collect::<Vec<_>>());
        // What is lost is nobody's parent, and the next segment of the journal begins with its own.
        assert_eq!(settled.parent, loss.is_none().then(|| parent.clone()));
        assert_eq!(settled.journal.len(), usize::from(loss.is_some()));
        let restored = settle_restored(&outbox, Some(&parent), &known(announced));
        let is_forsaken = announced.is_none_or(|announced| announced.digest != ours.digest);
        assert_eq!(restored.lost.len(), usize::from(is_forsaken));
        assert_eq!((restored.install, restored.remove, restored.pending), (Vec::new(), Vec::new(), Vec::new()));
    }
}

#[test]
fn a_delta_that_was_not_announced_is_lost_with_its_parent_and_stands_with_it() {
    let (full, theirs) = (Announcement::of(&artefact(4, 0)), Announcement::of(&artefact(4, 1)));
    let parent_of =
        |one: &Announcement| ParentVersion { version: one.version, manifest_digest: one.manifest_digest.clone() };
    let delta = |version: u64, on: &Announcement| Announcement {
        parent: Some(parent_of(on)),
        kind: Kind::Delta,
        ..Announcement::of(&artefact(version, 0))
    };
    let five = delta(5, &full);
    let six = delta(6, &five);
    let seven = Announcement { parent: Some(parent_of(&six)), ..Announcement::of(&artefact(7, 0)) };
    let entry = |one: &Announcement| OutboxEntry { announcement: one.clone(), goes_live: true, journal: Vec::new() };
    let outbox = [&full, &five, &six, &seven].map(entry);
    let parent = Parent { version: 7, manifest_digest: seven.manifest_digest.clone(), learned: 9 };
    let found = |from: usize, announced: &[&Announcement], absent: &[u64]| {
        let announced = announced.iter().map(|one| (one.version, (*one).clone())).collect();
        let known = KnownVersions { announced, ..KnownVersions::default() };
        let settled = settle(&outbox[from..], Some(&parent), &known, |entry| !absent.contains(&entry.version()));
        let pending: Vec<u64> = settled.pending.iter().map(OutboxEntry::version).collect();
        (pending, settled.lost, settled.remove.len())
    };
    let (missing, orphaned, overtaken) = (VersionLoss::Missing, VersionLoss::Orphaned, VersionLoss::Overtaken);
    // Nothing is lost: all are announced, in order.
    assert_eq!(found(0, &[], &[]), (vec![4, 5, 6, 7], vec![], 0));
    // The base is lost, and every link on it; the full version after them stands alone.
    assert_eq!(found(0, &[], &[4]), (vec![7], vec![(6, orphaned), (5, orphaned), (4, missing)], 2));
    assert_eq!(found(0, &[&theirs], &[]), (vec![7], vec![(6, orphaned), (5, orphaned), (4, overtaken)], 3));
    // A link in the middle is lost.
    assert_eq!(found(0, &[&full], &[5]), (vec![7], vec![(6, orphaned), (5, missing)], 1));
    // The base was announced before, by this outbox or by one that is forgotten; its files need not be here.
    assert_eq!(found(0, &[&full], &[4]), (vec![5, 6, 7], vec![], 0));
    assert_eq!(found(1, &[&full], &[]), (vec![5, 6, 7], vec![], 0));
    // The topic does not have it any more, or has another of its number.
    assert_eq!(found(1, &[], &[]), (vec![7], vec![(6, orphaned), (5, orphaned)], 2));
    assert_eq!(found(1, &[&theirs], &[]), (vec![7], vec![(6, orphaned), (5, orphaned)], 2));
    // A link that is announced already is not taken back, and what stands on it is announced.
    assert_eq!(found(1, &[&five], &[]), (vec![6, 7], vec![], 0));
    // Without the full version after them, the state goes on from what is left.
    let known = KnownVersions::default();
    let newest = Parent { version: 6, manifest_digest: six.manifest_digest.clone(), learned: 9 };
    let settled = settle(&outbox[..3], Some(&newest), &known, |entry| entry.version() != 5);
    assert_eq!(settled.parent.map(|parent| parent.version), Some(4));
}

#[test]
fn of_versions_that_are_lost_one_after_the_other_the_parent_is_handed_down_and_the_journals_are_joined() {
    let announced = Announcement::of(&artefact(4, 0));
    let parent_of =
        |one: &Announcement| ParentVersion { version: one.version, manifest_digest: one.manifest_digest.clone() };
    let entry = |version: u64, before: &Announcement| {
        let control = Control::Idle(Partition { kind: EventKind::Click, number: 0 });
        let announcement = Announcement { parent: Some(parent_of(before)), ..Announcement::of(&artefact(version, 0)) };
        OutboxEntry { announcement, goes_live: true, journal: vec![JournalEntry { at: version, control }] }
    };
    let five = entry(5, &announced);
    let six = entry(6, &five.announcement);
    let parent = Parent { version: 6, manifest_digest: six.manifest_digest().to_owned(), learned: 9 };
    let learned = announced.learned;
    let known = KnownVersions { announced: [(4, announced.clone())].into(), ..KnownVersions::default() };
    let settled = settle(&[five, six], Some(&parent), &known, |_| false);
    let expected = Parent { version: 4, manifest_digest: announced.manifest_digest, learned };
    assert_eq!(settled.parent, Some(expected));
    assert_eq!(settled.journal.iter().map(|entry| entry.at).collect::<Vec<_>>(), [5, 6]);
}

#[test]
fn an_alias_carries_its_last_twenty_moves_newest_first() {
    let mut alias = None;
    for version in 1..=25 {
        let announcement = Announcement { version, ..Announcement::of(&artefact(1, 0)) };
        alias = Some(Alias::moved(
            alias.as_ref(),
            "live",
            &announcement,
            Act::new("worker", "it passed the gate", format!("t{version}")),
        ));
    }
    let alias = alias.expect("it was moved");
    assert_eq!((alias.version, alias.moves.len(), alias.moves[0].version, alias.moves[19].version), (25, 20, 25, 6));
}
