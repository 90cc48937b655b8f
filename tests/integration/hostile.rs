//! What comes from elsewhere: versions, exports, journals and records of topics that somebody else may have written. They are
//! refused by name, or do nothing; nothing hangs, nothing is read or made that they do not state, nothing panics.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use deepfm_core::checkpoint::export::{self, BLOCKS, Inspection};
use deepfm_core::checkpoint::{self, BLOCK_BYTES_MAX, Beside, Block, FORMAT_VERSION, Layer, Lineage, Section};
use deepfm_core::train::{Scope, Trainer};
use deepfm_core::version::alias::{Act, Alias, LIVE};
use deepfm_core::version::announcement::{Abandoned, Announcement};
use deepfm_core::version::artefact::{Artefact, MANIFEST, MODEL, PROBES, verify};
use deepfm_core::version::journal::{JOURNAL, read_journal};
use deepfm_core::version::known::KnownVersions;
use deepfm_core::version::manifest::Parent;
use deepfm_core::version::manifest::{FileDigest, sha256};
use deepfm_core::version::names;
use deepfm_core::version::outbox::{Letter, Outbox, OutboxEntry};
use deepfm_stream::artefacts::directory::{self, Directory};
use deepfm_stream::artefacts::{Artefacts as _, Journal, Shelf};
use deepfm_stream::config::Config;
use deepfm_stream::config::operation::Readers;
use deepfm_stream::publish::exports;
use serde_json::{Value, json};

use super::commands::{Place, simulated_fields};
use super::versions::{artefact, below, installed, trained};
use crate::support::broker;
use crate::support::command::run;

mod fuzz;
mod requests;

/// How long reading a small directory may take before it is taken to hang.
const PATIENCE: Duration = Duration::from_mins(1);

/// Runs on another thread, and fails when it does not come back.
fn soon<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} hangs, or has panicked"))
}

/// An error with its causes, on one line.
fn text(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The files of a version whose manifest was altered; its digests are those of the files again.
pub(super) fn forged(
    mut files: BTreeMap<String, Vec<u8>>,
    alter: impl FnOnce(&mut Value),
) -> BTreeMap<String, Vec<u8>> {
    let mut manifest: Value = serde_json::from_slice(&files[MANIFEST]).expect("it is JSON");
    for name in [MODEL, PROBES, JOURNAL] {
        manifest["files"][name] = serde_json::to_value(FileDigest::of(&files[name])).expect("plain data");
    }
    alter(&mut manifest);
    files.insert(MANIFEST.to_owned(), serde_json::to_vec(&manifest).expect("plain data"));
    files
}

/// The same with another file.
fn with_file(name: &str, content: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = artefact(7, 0).files;
    files.insert(name.to_owned(), content.to_vec());
    forged(files, |_| ())
}

fn write_version(root: &Path, files: &BTreeMap<String, Vec<u8>>) -> PathBuf {
    let manifest: Value = serde_json::from_slice(&files[MANIFEST]).expect("it is JSON");
    let number = manifest["version"].as_u64().unwrap_or_default();
    let path = root.join(names::directory(number, &sha256(&files[MANIFEST])));
    fs::create_dir_all(&path).expect("the disk takes it");
    for (name, content) in files {
        fs::write(path.join(name), content).expect("the disk takes it");
    }
    path
}

/// What a checkpoint of this trainer says beside its state.
pub(super) fn lineage(config: &Config, trainer: &mut Trainer) -> Lineage {
    Lineage {
        format: FORMAT_VERSION,
        configuration: config.canonical(),
        parameters: trainer.params().to_text(),
        next_version: 1,
        parent: None,
        journal: trainer.sequencer().journal().to_vec(),
        ledger: trainer.ledger().clone(),
        topic_ids: BTreeMap::new(),
        state_digest: trainer.state_digest(),
        outbox: Outbox::default(),
        beside: Beside { model: config.model.name.clone(), ..Beside::default() },
    }
}

/// A layer with another lineage.
fn with_lineage(layer: &Layer, lineage: &Lineage) -> Layer {
    let bytes = postcard::to_allocvec(lineage).expect("plain data");
    let blocks = bytes.chunks(BLOCK_BYTES_MAX).map(|piece| Block { section: Section::Lineage, bytes: piece.to_vec() });
    let others = layer.blocks.iter().filter(|block| block.section != Section::Lineage).cloned();
    Layer { scope: Scope::Everything, blocks: blocks.chain(others).collect() }
}

/// The files of an export.
pub(super) fn export_files(model: &str, layer: &Layer) -> BTreeMap<String, Vec<u8>> {
    let (mut blocks, mut inspection) = (Vec::new(), Inspection::default());
    for block in &layer.blocks {
        inspection.see(block);
        blocks.extend(export::frame(block));
        blocks.extend(&block.bytes);
    }
    let digest = FileDigest::of(&blocks);
    let manifest = inspection.manifest(model, "2026-01-01T00:00:00Z".to_owned(), digest).expect("the layer is whole");
    let manifest = serde_json::to_vec_pretty(&manifest).expect("plain data");
    BTreeMap::from([(MANIFEST.to_owned(), manifest), (BLOCKS.to_owned(), blocks)])
}

fn write_export(path: &Path, files: &BTreeMap<String, Vec<u8>>) -> String {
    fs::create_dir_all(path).expect("the disk takes it");
    for (name, content) in files {
        fs::write(path.join(name), content).expect("the disk takes it");
    }
    path.display().to_string()
}

/// An outbox entry of a version as a worker writes it.
fn entry_of(artefact: &Artefact) -> OutboxEntry {
    OutboxEntry { announcement: Announcement::of(artefact), goes_live: true, journal: Vec::new() }
}

#[test]
fn a_manifest_of_a_hostile_shape_is_refused_by_name() {
    let alterations: [(&str, Value, &str); 17] = [
        ("/architecture/embedding_dim", json!(0), "model.embedding_dim is 0"),
        ("/architecture/embedding_dim", json!(u64::MAX), "model.embedding_dim"),
        ("/architecture/mlp/layers", json!([1_u64 << 40, 8]), "mlp.layers"),
        ("/architecture/mlp/layers", json!([4096, 0]), "mlp.layers is 0"),
        ("/architecture/mlp/layers", json!([8, u64::MAX]), "mlp.layers is"),
        ("/architecture/mlp/layers", json!(vec![4096; 16]), "the number of the MLP's parameters is"),
        ("/architecture/mlp/dropout", json!([0.5]), "mlp.dropout"),
        ("/architecture/mlp/dropout", json!([0.5, 1.0]), "mlp.dropout is 1"),
        ("/fields", json!([]), "1 to 1024 fields"),
        ("/version", json!(0), "number of a version"),
        ("/version", json!(u64::MAX), "number of a version"),
        ("/model", json!("../ctr"), "name of a model"),
        ("/rows", json!(u64::MAX), "rows, the manifest says"),
        ("/rows", json!(3), "rows, the manifest says"),
        ("/state_digest", json!("x"), "SHA-256"),
        ("/files/model.safetensors/bytes", json!(u64::MAX), "cannot have"),
        ("/files", json!({"../../etc/passwd": {"bytes": 1, "sha256": "0".repeat(64)}}), "name of a file"),
    ];
    let whole = artefact(7, 0).files;
    verify(&forged(whole.clone(), |_| ())).expect("it is whole");
    for (pointer, value, expected) in alterations {
        let files = forged(whole.clone(), |manifest| *manifest.pointer_mut(pointer).expect("it is there") = value);
        let error = text(&verify(&files).expect_err(pointer));
        assert!(error.contains(expected), "{pointer}: {error}");
    }
}

#[test]
fn an_mlp_that_is_larger_than_its_file_is_refused_before_room_is_made_for_it() {
    let wide: Vec<Value> = (0..1024).map(|n| json!({"name": format!("f{n}"), "kind": "categorical"})).collect();
    let files = forged(artefact(7, 0).files, |manifest| {
        manifest["fields"] = json!(wide);
        manifest["architecture"]["embedding_dim"] = json!(1024);
        manifest["architecture"]["mlp"]["layers"] = json!([4096]);
    });
    let error = text(&verify(&files).expect_err("16 GiB"));
    assert!(error.contains("the number of the MLP's parameters is 4294975488"), "{error}");
}

#[test]
fn a_version_without_its_rows_its_probes_or_a_sound_journal_is_refused() {
    let journal = String::from_utf8(artefact(7, 0).files[JOURNAL].clone()).expect("it is text");
    let configured = r#"{"at":0,"control":{"configured":{"parameters":"{}","fields":[]}}}"#;
    let backwards =
        format!("{}{}", r#"{"at":5,"control":{"idle":{"kind":"click","number":0}}}"#.to_owned() + "\n", journal);
    let start = r#"{"at":0,"control":{"start":{"partition":{"kind":"click","number":-1},"next_offset":0}}}"#;
    let cases: [(&str, &[u8], &str); 6] = [
        (PROBES, b"", "probes.jsonl is empty"),
        (PROBES, b"\n\n", "probes.jsonl is empty"),
        (JOURNAL, b"garbage", "journal.jsonl does not decode"),
        (
            JOURNAL,
            configured.as_bytes(),
            "line 1 of journal.jsonl is no decision of a worker: the parameters do not decode",
        ),
        (JOURNAL, backwards.as_bytes(), "line 2 of journal.jsonl is no decision of a worker"),
        (JOURNAL, start.as_bytes(), "there is no such partition"),
    ];
    for (name, content, expected) in cases {
        let error = text(&verify(&with_file(name, content)).expect_err(expected));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn parameters_of_a_journal_that_do_not_fit_its_fields_are_refused() {
    let (config, trainer) = trained(0);
    let line = |parameters: &str, fields: &Value| {
        json!({"at": 0, "control": {"configured": {"parameters": parameters, "fields": fields}}}).to_string()
    };
    let fields = serde_json::to_value(config.fields.to_vec()).expect("plain data");
    let parameters = trainer.params().to_text();
    assert_eq!(read_journal(line(&parameters, &fields).as_bytes()).expect("it is a worker's").len(), 1);
    let fewer = read_journal(line(&parameters, &json!([fields[0]])).as_bytes()).expect_err("a field is missing");
    assert!(text(&fewer).contains("model.fields is 2, it must be from 1 to 1"), "{}", text(&fewer));
    for (from, to) in [
        (r#""embedding_dim":10"#, r#""embedding_dim":0"#),
        (r#""min":"#, r#""min":9999"#),
        (r#""layers":[64,32]"#, r#""layers":[99999999999]"#),
        (r#""window_impressions":"#, r#""window_impressions":0,"was":"#),
    ] {
        assert!(parameters.contains(from), "{from} in {parameters}");
        let error = read_journal(line(&parameters.replacen(from, to, 1), &fields).as_bytes()).expect_err(to);
        assert!(text(&error).contains("it must be"), "{}", text(&error));
    }
}

#[test]
fn what_a_manifest_does_not_name_is_not_read_and_what_it_names_is_a_file_of_that_length() {
    let root = tempfile::tempdir().expect("a directory of our own");
    let path = installed(root.path(), &artefact(7, 0));
    let fifo = |name: &str| {
        let made = std::process::Command::new("mkfifo").arg(path.join(name)).status().expect("mkfifo is there");
        assert!(made.success());
    };
    fifo("unnamed");
    symlink("/dev/zero", path.join("endless")).expect("the disk takes it");
    fs::create_dir(path.join("more")).expect("the disk takes it");
    let read = |path: &Path| {
        let path = path.to_owned();
        soon("reading a version", move || directory::verify(&path).map(|verified| verified.probes))
    };
    assert_eq!(read(&path).expect("it is whole"), 3);
    for name in [MANIFEST, MODEL, PROBES, JOURNAL] {
        let whole = fs::read(path.join(name)).expect("it is there");
        let refused = |expected: &str| {
            let error = text(&read(&path).expect_err(name));
            assert!(error.contains(expected), "{name}: {error}");
            fs::remove_file(path.join(name)).expect("it is ours");
        };
        fs::remove_file(path.join(name)).expect("it is ours");
        fifo(name);
        refused("is not a regular file");
        symlink("/dev/zero", path.join(name)).expect("the disk takes it");
        refused("is not a regular file");
        fs::write(path.join("elsewhere"), &whole).expect("the disk takes it");
        symlink(path.join("elsewhere"), path.join(name)).expect("the disk takes it");
        refused("is not a regular file");
        // As long as a disk, without taking any of it.
        fs::File::create(path.join(name)).and_then(|file| file.set_len(1 << 40)).expect("the file system has holes");
        refused("1099511627776 bytes");
        fs::write(path.join(name), &whole).expect("the disk takes it");
    }
    assert_eq!(read(&path).expect("it is whole again"), 3);
}

#[test]
fn an_export_is_read_by_its_manifest_too() {
    let root = tempfile::tempdir().expect("a directory of our own");
    let (config, mut trainer) = trained(0);
    let lineage = lineage(&config, &mut trainer);
    let layer = checkpoint::encode(&trainer.cut(Scope::Everything), &lineage);
    let files = export_files("ctr", &layer);
    let path = root.path().join("export");
    write_export(&path, &files);
    let read = |path: &Path| {
        let path = path.to_owned();
        soon("reading an export", move || exports::read(&path).map(|(manifest, _)| manifest.records))
    };
    assert_eq!(read(&path).expect("it is whole"), trainer.released());
    for name in [MANIFEST, BLOCKS] {
        fs::remove_file(path.join(name)).expect("it is ours");
        let missing = text(&read(&path).expect_err("it is missing"));
        assert!(missing.contains("is missing"), "{missing}");
        symlink("/dev/zero", path.join(name)).expect("the disk takes it");
        let error = text(&read(&path).expect_err("it is a device"));
        assert!(error.contains("is not a regular file"), "{error}");
        fs::remove_file(path.join(name)).expect("it is ours");
        fs::write(path.join(name), &files[name]).expect("the disk takes it");
    }
    let mut longer = files[BLOCKS].clone();
    longer.push(0);
    fs::write(path.join(BLOCKS), longer).expect("the disk takes it");
    let error = text(&read(&path).expect_err("it is longer"));
    assert!(error.contains("the manifest says"), "{error}");
    fs::write(path.join(BLOCKS), &files[BLOCKS]).expect("the disk takes it");
    let mut manifest: Value = serde_json::from_slice(&files[MANIFEST]).expect("it is JSON");
    manifest["records"] = json!(1);
    fs::write(path.join(MANIFEST), manifest.to_string()).expect("the disk takes it");
    let error = text(&read(&path).expect_err("it says what is not so"));
    assert!(error.contains("another state"), "{error}");
}

/// Outboxes that no worker writes, each with what is said of it.
fn crafted_outboxes(artefact: &Artefact) -> Vec<(&'static str, Outbox)> {
    let own = entry_of(artefact);
    let forge = |alter: &dyn Fn(&mut Announcement)| {
        let mut entry = own.clone();
        alter(&mut entry.announcement);
        Outbox { versions: vec![entry], letters: Vec::new() }
    };
    let letter = |key: &str, document: &str| Outbox {
        versions: Vec::new(),
        letters: vec![Letter { key: key.to_owned(), document: document.to_owned() }],
    };
    vec![
        ("is not the directory of the version", forge(&|one| "../../etc".clone_into(&mut one.directory))),
        ("is not the directory of the version", forge(&|one| one.directory.push('/'))),
        ("is not the directory of the version", forge(&|one| one.version += 1)),
        ("no SHA-256", forge(&|one| one.manifest_digest.truncate(12))),
        ("it has format 9", forge(&|one| one.format = 9)),
        ("is no name of a model", forge(&|one| "../other".clone_into(&mut one.model))),
        ("is of another model, or abandoned", forge(&|one| "other".clone_into(&mut one.model))),
        (
            "is of another model, or abandoned",
            forge(&|one| one.abandoned = Some(Abandoned { at: String::new(), parent: None })),
        ),
        (
            "is no name of a file",
            forge(&|one| {
                let probes = one.files["probes.jsonl"].clone();
                one.files.insert("../x".to_owned(), probes);
            }),
        ),
        ("dead letter under", letter("impressions/0/1", "{}")),
        ("dead letter under", letter("ctr/v/7", r#"{"model":"ctr"}"#)),
    ]
}

#[test]
fn an_export_whose_outbox_is_not_a_workers_is_refused() {
    let root = tempfile::tempdir().expect("a directory of our own");
    let (config, mut trainer) = trained(0);
    let whole = lineage(&config, &mut trainer);
    let layer = checkpoint::encode(&trainer.cut(Scope::Everything), &whole);
    let path = write_export(&root.path().join("whole"), &export_files("ctr", &layer));
    assert_eq!(run(&["artifact", "verify", &path]).code, Some(0));
    let own = Outbox { versions: vec![entry_of(&artefact(7, 0))], letters: Vec::new() };
    let own = with_lineage(&layer, &Lineage { outbox: own, ..whole.clone() });
    let path = write_export(&root.path().join("own"), &export_files("ctr", &own));
    assert_eq!(run(&["artifact", "verify", &path]).code, Some(0), "a version that waits for its announcement");
    for (at, (expected, outbox)) in crafted_outboxes(&artefact(7, 0)).into_iter().enumerate() {
        let crafted = with_lineage(&layer, &Lineage { outbox, ..whole.clone() });
        // Some cannot even be inspected: their manifest is that of the whole one, with their digest.
        let mut files = export_files("ctr", &layer);
        let blocks: Vec<u8> =
            crafted.blocks.iter().flat_map(|block| [&export::frame(block)[..], &block.bytes].concat()).collect();
        let mut manifest: Value = serde_json::from_slice(&files[MANIFEST]).expect("it is JSON");
        manifest["blocks"] = serde_json::to_value(FileDigest::of(&blocks)).expect("plain data");
        files.insert(MANIFEST.to_owned(), manifest.to_string().into_bytes());
        files.insert(BLOCKS.to_owned(), blocks);
        let path = write_export(&root.path().join(format!("crafted-{at}")), &files);
        let outcome = run(&["artifact", "verify", &path]);
        assert_eq!(outcome.code, Some(65), "{at}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{at}: {}", outcome.stderr);
    }
    for next_version in [names::VERSION_MAX + 2, u64::MAX] {
        let crafted = with_lineage(&layer, &Lineage { next_version, ..whole.clone() });
        assert!(checkpoint::read_lineage(&crafted).is_err(), "{next_version}");
    }
}

/// An export restored with a forged outbox that has the right form: the directory of a version that is there, under a digest
/// that begins like its own.
#[test]
fn a_restored_export_touches_no_directory_and_moves_no_alias() {
    let name = "a_restored_export_touches_no_directory_and_moves_no_alias";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka_with_topics("forged", 1), simulated_fields());
    let events = place.path("events").display().to_string();
    assert_eq!(run(&["events", "simulate", "--out", &events, "--count", "4000", "--rate", "200"]).code, Some(0));
    let config = place.config("forged", "");
    assert_eq!(run(&["events", "send", "--config", &config, "--events", &events]).code, Some(0));
    run(&["run", "--config", &config, "--until-end", "--json"]).json();
    let exported = run(&["artifact", "export", "--training", "--config", &config, "--json"]).json();
    let exported = exported["directory"].as_str().expect("a directory").to_owned();
    let root = place.path("forged-artefacts");
    let root = root.join("forged");
    let newest = below(&root).list(Shelf::Versions).expect("it is there").pop().expect("there is a version");
    let (number, victim) = (newest.version, root.join(&newest.directory));
    let digest = sha256(&fs::read(victim.join(MANIFEST)).expect("it is there"));
    let forged_digest = format!("{}{}", &digest[..12], "0".repeat(52));
    let listed = |what: &str| run(&["versions", "list", "--config", &config, "--json"]).json()[what].clone();
    let (versions, aliases) = (listed("versions"), listed("aliases"));
    let mut announcement = versions.as_array().expect("a list").last().expect("there is one").clone();
    announcement["manifest_digest"] = json!(forged_digest);
    let (_, layer) = exports::read(Path::new(&exported)).expect("it is whole");
    let lineage = checkpoint::read_lineage(&layer).expect("it is whole");
    announcement["directory"] = json!(names::directory(number, &forged_digest));
    let announcement: Announcement = serde_json::from_value(announcement).expect("it has the form of one");
    let entry = OutboxEntry { announcement, goes_live: true, journal: Vec::new() };
    let outbox = Outbox { versions: vec![entry.clone()], letters: Vec::new() };
    let forged = with_lineage(&layer, &Lineage { outbox, ..lineage.clone() });
    let path = write_export(&place.path("forged-export"), &export_files("forged", &forged));
    assert_eq!(run(&["artifact", "verify", &path]).code, Some(0), "it has the form of a worker's");
    let restore = ["run", "--config", &config, "--until-end", "--reset-state", "--restore", &path];
    let outcome = run(&restore);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(victim.join(MANIFEST).exists(), "the version is still there");
    assert_eq!(listed("aliases"), aliases, "no alias has moved");

    // One that leads elsewhere does not even begin.
    let outside = place.path("precious");
    fs::create_dir(&outside).expect("the disk takes it");
    let announcement = Announcement { directory: "../precious".to_owned(), ..entry.announcement };
    let outbox = Outbox { versions: vec![OutboxEntry { announcement, ..entry }], letters: Vec::new() };
    let crafted = with_lineage(&layer, &Lineage { outbox, ..lineage });
    let blocks: Vec<u8> =
        crafted.blocks.iter().flat_map(|block| [&export::frame(block)[..], &block.bytes].concat()).collect();
    let mut manifest: Value =
        serde_json::from_slice(&fs::read(Path::new(&path).join(MANIFEST)).expect("it is there")).expect("it is JSON");
    manifest["blocks"] = serde_json::to_value(FileDigest::of(&blocks)).expect("plain data");
    fs::write(Path::new(&path).join(MANIFEST), manifest.to_string()).expect("the disk takes it");
    fs::write(Path::new(&path).join(BLOCKS), blocks).expect("the disk takes it");
    let outcome = run(&restore);
    assert_eq!(outcome.code, Some(65), "{}", outcome.stderr);
    assert!(outside.exists(), "what is not ours stays");
}

/// A record of the versions topic under a key.
fn taken(records: &[(&str, String)]) -> KnownVersions {
    let mut versions = KnownVersions::default();
    for (key, record) in records {
        // What is wrong with it the caller would say.
        let _ = versions.take("ctr", key.as_bytes(), Some(record.as_bytes()));
    }
    versions
}

#[test]
fn a_record_of_the_versions_topic_counts_only_under_its_own_key() {
    let announcement = Announcement::of(&artefact(7, 0));
    let document = |alter: &dyn Fn(&mut Value)| {
        let mut document = serde_json::to_value(&announcement).expect("plain data");
        alter(&mut document);
        document.to_string()
    };
    let own = document(&|_| ());
    let versions = taken(&[("ctr/v/7", own.clone())]);
    assert_eq!((versions.announced.len(), versions.newest()), (1, Some(7)));
    for key in ["ctr/v/8", "ctr/v/07", "ctr/v/", "ctr/v/7/v/7", "ctr/a/7", "ctr2/v/7", "other/v/7", "v/7", "ctr/x/7"] {
        let versions = taken(&[(key, own.clone())]);
        assert_eq!((versions.announced.len(), versions.newest()), (0, None), "{key}");
    }
    let hostile: [&dyn Fn(&mut Value); 5] = [
        &|doc| doc["directory"] = json!("../../etc"),
        &|doc| doc["manifest_digest"] = json!("../"),
        &|doc| doc["files"]["/etc/passwd"] = json!({"bytes": 1, "sha256": "0".repeat(64)}),
        &|doc| doc["parent"] = json!({"version": u64::MAX, "manifest_digest": "0".repeat(64)}),
        &|doc| doc["format"] = json!(9),
    ];
    for (at, alter) in hostile.iter().enumerate() {
        let versions = taken(&[("ctr/v/7", document(alter))]);
        assert!(versions.announced.is_empty(), "{at}");
        assert_eq!(versions.newest(), Some(7), "its number was used all the same");
    }
}

#[test]
fn junk_under_a_large_number_uses_no_numbers_up() {
    let announcement = Announcement::of(&artefact(7, 0));
    let own = serde_json::to_string(&announcement).expect("plain data");
    for number in ["18446744073709551614", "18446744073709551615", "9007199254740991", "99999999999999999999"] {
        for junk in ["", "{}", "junk", &own, r#"{"model":"ctr","version":18446744073709551614}"#] {
            let versions = taken(&[("ctr/v/7", own.clone()), (&format!("ctr/v/{number}"), junk.to_owned())]);
            assert_eq!(versions.newest(), Some(7), "{number} {junk}");
        }
    }
    let last = r#"{"model":"ctr","version":9007199254740991}"#.to_owned();
    assert_eq!(taken(&[("ctr/v/9007199254740991", last)]).newest(), Some(names::VERSION_MAX));
}

#[test]
fn an_alias_counts_only_under_its_own_key_and_leads_to_a_version() {
    let announcement = Announcement::of(&artefact(7, 0));
    let alias =
        Alias::moved(None, LIVE, &announcement, Act::new("worker", "it passed the gate", "2026-01-01T00:00:00Z"));
    let document = |alter: &dyn Fn(&mut Value)| {
        let mut document = serde_json::to_value(&alias).expect("plain data");
        alter(&mut document);
        document.to_string()
    };
    assert_eq!(taken(&[("ctr/a/live", document(&|_| ()))]).aliases["live"].version, 7);
    for (key, record) in [
        ("ctr/a/candidate", document(&|_| ())),
        ("ctr/v/7", document(&|_| ())),
        ("ctr/a/live", document(&|doc| doc["directory"] = json!("../../etc"))),
        ("ctr/a/live", document(&|doc| doc["version"] = json!(8))),
        ("ctr/a/live", document(&|doc| doc["moves"] = json!(vec![doc["moves"][0].clone(); 1000]))),
        ("ctr/a/../live", document(&|doc| doc["alias"] = json!("../live"))),
    ] {
        assert!(taken(&[(key, record.clone())]).aliases.is_empty(), "{key} {record}");
    }
}

#[test]
fn a_directory_that_is_no_versions_is_neither_renamed_nor_removed() {
    let root = tempfile::tempdir().expect("a directory of our own");
    let versions = root.path().join("versions");
    let precious = root.path().join("precious");
    fs::create_dir_all(&versions).expect("the disk takes it");
    fs::create_dir_all(&precious).expect("the disk takes it");
    let artefacts = below(&versions);
    for name in ["../precious", "", ".", "..", "7", "7-", "7-0123456789AB", "x-0123456789ab"] {
        assert!(artefacts.remove(name).is_err(), "{name:?}");
        assert!(artefacts.install(name).is_err(), "{name:?}");
        assert!(artefacts.retire(name, Journal::Remove).is_err(), "{name:?}");
        assert!(!artefacts.is_present(name, &"0".repeat(64)), "{name:?}");
    }
    assert!(precious.exists() && versions.exists());
    let one = artefact(7, 0);
    installed(&versions, &one);
    assert!(artefacts.is_present(&one.directory(), &one.digest));
    let alike = format!("{}{}", &one.digest[..12], "0".repeat(52));
    assert!(!artefacts.is_present(&one.directory(), &alike), "its digest only begins so");
}

#[test]
fn a_checkpoint_whose_parts_have_not_the_shape_of_its_parameters_is_refused() {
    let (config, mut trainer) = trained(0);
    let whole = lineage(&config, &mut trainer);
    let layer = checkpoint::encode(&trainer.cut(Scope::Everything), &whole);
    let params = whole.params().expect("they are a trainer's");
    checkpoint::decode(params.clone(), std::slice::from_ref(&layer)).expect("it is whole");
    let mut wider = params.clone();
    wider.model.mlp.layers = vec![4096, 32];
    let error = checkpoint::decode(wider, std::slice::from_ref(&layer)).expect_err("its MLP is smaller");
    assert!(text(&error).contains("the MLP of the checkpoint"), "{}", text(&error));
    let mut fewer = params.clone();
    fewer.model.mlp.layers = Vec::new();
    assert!(checkpoint::decode(fewer, std::slice::from_ref(&layer)).is_err());
    let mut none = params.clone();
    none.model.embedding_dim = 0;
    let error = checkpoint::decode(none, std::slice::from_ref(&layer)).expect_err("no dimension");
    assert!(text(&error).contains("model.embedding_dim is 0"), "{}", text(&error));
    // Every row twice.
    let rows = layer.blocks.iter().filter(|block| block.section == Section::Rows).cloned().collect::<Vec<_>>();
    let twice = Layer { blocks: layer.blocks.iter().cloned().chain(rows).collect(), ..layer.clone() };
    let error = checkpoint::decode(params, &[twice]).expect_err("ids have one row");
    assert!(text(&error).contains("two rows or two candidates have the id"), "{}", text(&error));
    let parent = Some(Parent { version: 3, manifest_digest: "x".to_owned(), learned: 0 });
    assert!(checkpoint::read_lineage(&with_lineage(&layer, &Lineage { parent, ..whole })).is_err());
}

/// The permissions of a file or directory.
fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[test]
fn versions_are_made_for_their_readers_and_exports_for_the_owner_alone() {
    for (readers, directory, file) in
        [(Readers::Owner, 0o700, 0o600), (Readers::Group, 0o750, 0o640), (Readers::All, 0o755, 0o644)]
    {
        let root = tempfile::tempdir().expect("a directory of our own");
        let (versions, one) = (root.path().join("a/versions"), artefact(7, 0));
        let artefacts = Directory::new(versions.clone(), readers);
        artefacts.stage(&one).expect("the disk takes it");
        artefacts.install(&one.directory()).expect("it was staged");
        let path = versions.join(one.directory());
        assert_eq!([&versions, &path].map(|path| mode(path)), [directory; 2], "{readers:?}");
        assert!([MANIFEST, MODEL, PROBES, JOURNAL].iter().all(|name| mode(&path.join(name)) == file), "{readers:?}");
    }
    let root = tempfile::tempdir().expect("a directory of our own");
    let (config, mut trainer) = trained(0);
    let lineage = lineage(&config, &mut trainer);
    let layer = checkpoint::encode(&trainer.cut(Scope::Everything), &lineage);
    let exports_root = root.path().join("exports/ctr");
    let blocks = layer.blocks;
    let read = Box::new(move |take: &mut dyn FnMut(Block) -> _| blocks.into_iter().try_for_each(take));
    let (path, _) = exports::write(&exports_root, "ctr", read, &false.into()).expect("the disk takes it");
    for made in [exports_root.parent().expect("it has one"), &exports_root, &path] {
        assert_eq!(mode(made), 0o700, "{}", made.display());
    }
    assert!([MANIFEST, BLOCKS].iter().all(|name| mode(&path.join(name)) == 0o600));
    let state = root.path().join("state");
    let store = deepfm_stream::store::CommitStore::open(&state).expect("the disk takes it");
    assert_eq!(mode(&state), 0o700);
    drop(store);
}

#[test]
fn a_version_of_hostile_shape_ends_artifact_verify_with_65() {
    let root = tempfile::tempdir().expect("a directory of our own");
    let files = forged(artefact(7, 0).files, |manifest| manifest["architecture"]["embedding_dim"] = json!(0));
    let path = write_version(root.path(), &files).display().to_string();
    for command in ["verify", "inspect"] {
        let outcome = run(&["artifact", command, &path]);
        assert_eq!(outcome.code, Some(65), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("model.embedding_dim is 0"), "{}", outcome.stderr);
    }
    let config = root.path().join("c.toml");
    fs::write(&config, "[model]\nname = \"ctr\"\n[[fields]]\nname = \"user\"\nkind = \"categorical\"\n")
        .expect("the disk takes it");
    let config = config.display().to_string();
    let replay = |root: &Path| run(&["backtest", "--config", &config, "--journal", &root.display().to_string()]);
    let outcome = replay(root.path());
    assert_eq!(outcome.code, Some(65), "{}", outcome.stderr);
    let empty = tempfile::tempdir().expect("a directory of our own");
    let nothing =
        [(empty.path().to_owned(), "there is no version of model ctr"), (empty.path().join("typo"), "cannot read")];
    for (place, expected) in nothing {
        let outcome = replay(&place);
        assert_eq!(outcome.code, Some(65), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    }
    let journals: [(&[u8], &str); 3] = [
        (b"garbage\n", "journal.jsonl does not decode"),
        (br#"{"at":0,"control":{"configured":{"parameters":"{}","fields":[]}}}"#, "the parameters do not decode"),
        (b"", "does not begin with its parameters"),
    ];
    for (journal, expected) in journals {
        let root = tempfile::tempdir().expect("a directory of our own");
        write_version(root.path(), &with_file(JOURNAL, journal));
        let outcome = replay(root.path());
        assert_eq!(outcome.code, Some(65), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    }
    // Its digest is held against the manifest's.
    let root = tempfile::tempdir().expect("a directory of our own");
    let path = installed(root.path(), &artefact(7, 0));
    let mut journal = fs::read(path.join(JOURNAL)).expect("it is there");
    let at = journal.iter().position(|byte| *byte == b'0').expect("there is a number");
    journal[at] = b'1';
    fs::write(path.join(JOURNAL), journal).expect("the disk takes it");
    let outcome = replay(root.path());
    assert_eq!(outcome.code, Some(65), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("journal.jsonl has digest"), "{}", outcome.stderr);
}
