//! One small fixture of every format that was ever written, under `tests/fixtures/formats`, named by its number: it is read, and
//! written again the same, or refused by that number. A format that changes without its number does not read, or does not write,
//! its fixture.
//!
//! A new number needs a new fixture: `DEEPFM_WRITE_FIXTURES=1 cargo test --test integration formats::` writes those of the numbers
//! that this program writes, and leaves the others as they are. A number that was released is never written again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use deepfm_core::checkpoint::export::{self, BLOCKS, Inspection};
use deepfm_core::checkpoint::{self, Block, FORMAT_VERSION, Layer, Lineage, Section};
use deepfm_core::event::EventKind;
use deepfm_core::model::weights::Precision;
use deepfm_core::stream::{Control, JournalEntry, Partition};
use deepfm_core::train::Scope;
use deepfm_core::version::alias::{Act, Alias, LIVE};
use deepfm_core::version::announcement::{self, Announcement};
use deepfm_core::version::artefact::{self, Artefact, MANIFEST, MODEL};
use deepfm_core::version::delta::DELTA;
use deepfm_core::version::journal::{JOURNAL, read_journal};
use deepfm_core::version::link;
use deepfm_core::version::manifest::Parent;
use deepfm_core::version::manifest::{self, sha256};
use deepfm_core::version::outbox::{Letter, Outbox, OutboxEntry};
use deepfm_core::version::safetensors;
use deepfm_stream::config::Config;
use serde_json::{Value, json};

use super::deltas::chain;
use super::hostile::{export_files, lineage};
use super::versions::{learned, trainer};

type Files = BTreeMap<String, Vec<u8>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats")
}

/// Formats that are not written any more, and are read.
const READ: [&str; 2] = ["artefact-2", "journal-2"];

/// A model that is small enough to be committed, with one field of every kind.
fn config() -> Config {
    let text = "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n[[fields]]\nname = \"tags\"\nkind = \"multi\"\n\
                [[fields]]\nname = \"price\"\nkind = \"numeric\"\nedges = [1, 5]\n\
                [model]\nname = \"ctr\"\nembedding_dim = 2\nadmission_min_count = 2\n[model.mlp]\nlayers = [3]\n\
                [optimizer.mlp]\nmomentum = 0.5\n[join]\nattribution_window_seconds = 1\nlate_clicks = \"correct\"\n\
                retention_seconds = 2\n[training]\nnegative_sampling_rate = 0.5\n";
    Config::parse(text, "formats", []).unwrap_or_else(|errors| panic!("{errors}"))
}

fn row(n: u64) -> String {
    // Some users are seen once, and wait for their admission.
    let user = if n.is_multiple_of(13) { 1000 + n } else { n % 5 };
    format!(r#"{{"user":"u{user}","tags":{{"a{}":0.5,"b":1}},"price":{}}}"#, n % 11, n % 7)
}

fn version() -> Artefact {
    learned(&config(), 7, row, &[row(1), row(2)])
}

fn entry() -> OutboxEntry {
    let version = version();
    OutboxEntry { announcement: Announcement::of(&version), goes_live: true, journal: decisions() }
}

/// One of every decision.
fn decisions() -> Vec<JournalEntry> {
    let partition = Partition { kind: EventKind::Click, number: 3 };
    let config = config();
    let controls = [
        Control::Configured { parameters: config.train_params().to_text(), fields: config.fields.to_vec() },
        Control::Start { partition, next_offset: 5 },
        Control::Added { partition, next_offset: 0 },
        Control::Idle(partition),
        Control::Ended(partition),
        Control::Returned(partition),
        Control::Gap { partition, from: 7, to: 9 },
    ];
    (0..).zip(controls).map(|(at, control)| JournalEntry { at, control }).collect()
}

fn journal_lines(entries: &[JournalEntry]) -> Vec<u8> {
    let lines: Vec<String> = entries.iter().map(|entry| serde_json::to_string(entry).expect("plain data")).collect();
    (lines.join("\n") + "\n").into_bytes()
}

/// A checkpoint's layer with something in every part of it.
fn layer() -> Layer {
    let config = config();
    let mut trainer = trainer(&config, row);
    let full = Lineage {
        next_version: 8,
        parent: Some(Parent { version: 6, manifest_digest: sha256(b"6"), learned: 100 }),
        journal: decisions(),
        topic_ids: BTreeMap::from([("clicks".to_owned(), "AAAAAAAAAAAAAAAAAAAAAQ".to_owned())]),
        outbox: Outbox {
            versions: vec![entry()],
            letters: vec![Letter {
                key: "clicks/0/1234".to_owned(),
                document: fs::read_to_string(
                    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/examples/dead_letter/valid/tombstone.json"),
                )
                .expect("the example is there"),
            }],
        },
        ..lineage(&config, &mut trainer)
    };
    checkpoint::encode(&trainer.cut(Scope::Everything), &full)
}

fn frames(layer: &Layer) -> Vec<u8> {
    layer.blocks.iter().flat_map(|block| [&export::frame(block)[..], &block.bytes].concat()).collect()
}

fn layer_of(frames: &[u8]) -> Layer {
    let (mut blocks, mut rest) = (Vec::new(), frames);
    while let Some(([section, length @ ..], behind)) = rest.split_first_chunk::<5>() {
        let (bytes, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        blocks.push(Block { section: Section::of(*section).expect("there is such a section"), bytes: bytes.to_vec() });
        rest = behind;
    }
    Layer { scope: Scope::Everything, blocks }
}

/// The alias record, the announcement and the journal of every decision: what else is written in the artefact's format.
fn records() -> Files {
    let announcement = Announcement::of(&version());
    let alias =
        Alias::moved(None, LIVE, &announcement, Act::new("worker", "it passed the gate", "2026-01-01T00:00:00Z"));
    let text = |value: &Value| (serde_json::to_string_pretty(value).expect("plain data") + "\n").into_bytes();
    BTreeMap::from([
        ("announcement.json".to_owned(), text(&json!(announcement))),
        ("alias.json".to_owned(), text(&json!(alias))),
    ])
}

/// What this program writes, by name and number.
fn written() -> BTreeMap<String, Files> {
    let (artefacts, records_format) = (manifest::FORMAT, announcement::FORMAT);
    BTreeMap::from([
        (format!("artefact-{artefacts}"), version().files),
        (format!("delta-{artefacts}"), chain(Precision::F32)[1].files.clone()),
        (format!("checkpoint-{FORMAT_VERSION}"), BTreeMap::from([("layer.blocks".to_owned(), frames(&layer()))])),
        (format!("export-{}-{FORMAT_VERSION}", export::FORMAT), export_files("ctr", &layer())),
        (format!("journal-{artefacts}"), BTreeMap::from([(JOURNAL.to_owned(), journal_lines(&decisions()))])),
        (format!("records-{records_format}"), records()),
    ])
}

fn committed() -> BTreeMap<String, Files> {
    let mut found = BTreeMap::new();
    for directory in fs::read_dir(root()).into_iter().flatten().flatten() {
        let files = fs::read_dir(directory.path()).expect("it is a directory").flatten();
        let read = |entry: fs::DirEntry| {
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("it is readable"))
        };
        found.insert(directory.file_name().to_string_lossy().into_owned(), files.map(read).collect());
    }
    found
}

/// Blocks whose records may come in any order are compared by their records.
fn canonical(layer: &Layer) -> BTreeMap<u8, BTreeSet<Vec<u8>>> {
    let mut sections: BTreeMap<u8, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for Block { section, bytes } in &layer.blocks {
        let records = sections.entry(*section as u8).or_default();
        match section {
            Section::Lineage | Section::Scalars | Section::Join => {
                records.insert(bytes.clone());
            }
            Section::Rows | Section::Candidates | Section::ShownScores => {
                let (length, rows) = bytes.split_first_chunk::<4>().expect("it begins with a length");
                records.extend(rows.chunks(u32::from_le_bytes(*length) as usize).map(<[u8]>::to_vec));
            }
        }
    }
    sections
}

/// Reads a layer, and sees it written again.
fn check_layer(name: &str, layer: &Layer) {
    let lineage = checkpoint::read_lineage(layer).unwrap_or_else(|error| panic!("{name}: {error}"));
    let params = lineage.params().unwrap_or_else(|error| panic!("{name}: {error}"));
    let decoded = checkpoint::decode(params, std::slice::from_ref(layer));
    let (mut trainer, lineage) = decoded.unwrap_or_else(|error| panic!("{name}: {error}"));
    let again = checkpoint::encode(&trainer.cut(Scope::Everything), &lineage);
    assert!(canonical(&again) == canonical(layer), "{name} is written another way: its number must change");
    let sections: BTreeSet<u8> = layer.blocks.iter().map(|block| block.section as u8).collect();
    assert!(
        Section::ALL.iter().all(|section| sections.contains(&(*section as u8))),
        "{name} has only sections {sections:?}"
    );
}

fn check_read(name: &str, files: &Files) {
    match name.split('-').next().expect("it has a kind") {
        "artefact" => {
            let verified = artefact::verify(files).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(verified.manifest.to_bytes() == files[MANIFEST], "{name} is written another way");
            let weights = safetensors::write(&verified.servable.tensors());
            assert!(weights == files[MODEL], "{name} is written another way");
        }
        "delta" => {
            let link = link::verify(files).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(link.manifest.to_bytes() == files[MANIFEST], "{name} is written another way");
            assert!(link.delta.changed() > 0 && link.delta.removed() > 0, "{name} has a part that is empty");
            assert!(safetensors::write(&link.delta.tensors()) == files[DELTA], "{name} is written another way");
        }
        "checkpoint" => check_layer(name, &layer_of(&files["layer.blocks"])),
        "export" => {
            let manifest = export::read_manifest(&files[MANIFEST]).unwrap_or_else(|error| panic!("{name}: {error}"));
            let layer = export::read(&manifest, &files[BLOCKS]).unwrap_or_else(|error| panic!("{name}: {error}"));
            let text = serde_json::to_vec_pretty(&manifest).expect("plain data");
            assert!(text == files[MANIFEST], "{name} is written another way");
            check_layer(name, &layer);
            let mut inspection = Inspection::default();
            layer.blocks.iter().for_each(|block| inspection.see(block));
            let again = inspection.manifest(&manifest.model, manifest.created_at.clone(), manifest.blocks.clone());
            assert_eq!(again.expect("it was read"), manifest);
        }
        "journal" => {
            let entries = read_journal(&files[JOURNAL]).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(journal_lines(&entries) == files[JOURNAL], "{name} is written another way");
        }
        "records" => {
            let record = &files["announcement.json"];
            let read = Announcement::read("ctr/v/7", record).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(json!(read), serde_json::from_slice::<Value>(record).expect("it is JSON"), "{name}");
            let record = &files["alias.json"];
            let read = Alias::read("ctr/a/live", record).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(json!(read), serde_json::from_slice::<Value>(record).expect("it is JSON"), "{name}");
        }
        _ => panic!("{name} is of no known kind"),
    }
}

/// What is said of a fixture whose number is not this program's.
fn refusal(name: &str, files: &Files) -> String {
    match name.split('-').next().expect("it has a kind") {
        "artefact" => artefact::verify(files).expect_err(name).to_string(),
        "delta" => link::verify(files).expect_err(name).to_string(),
        "checkpoint" => checkpoint::read_lineage(&layer_of(&files["layer.blocks"])).expect_err(name).to_string(),
        "export" => export::read_manifest(&files[MANIFEST]).expect_err(name).to_string(),
        // A segment is as its version's manifest says, and is not read without it.
        "journal" => format!("format {}", name.trim_start_matches("journal-")),
        "records" => Announcement::read("ctr/v/7", &files["announcement.json"]).expect_err(name).to_string(),
        _ => panic!("{name} is of no known kind"),
    }
}

#[test]
fn every_format_that_was_ever_written_is_read_or_refused_by_its_number() {
    let written = written();
    if std::env::var("DEEPFM_WRITE_FIXTURES").as_deref() == Ok("1") {
        for (name, files) in &written {
            let directory = root().join(name);
            fs::create_dir_all(&directory).expect("the disk takes it");
            for (file, content) in files {
                fs::write(directory.join(file), content).expect("the disk takes it");
            }
        }
    }
    let committed = committed();
    for name in written.keys() {
        assert!(
            committed.contains_key(name),
            "{name} has no fixture: DEEPFM_WRITE_FIXTURES=1 cargo test --test integration formats:: writes it"
        );
    }
    for (name, files) in &committed {
        if written.contains_key(name) {
            check_read(name, files);
            assert!(written[name].keys().eq(files.keys()), "{name} has other files now: its number must change");
        } else if READ.contains(&name.as_str()) {
            check_read(name, files);
        } else {
            let numbers = name.split('-').skip(1);
            let said = refusal(name, files);
            assert!(numbers.clone().all(|number| said.contains(number)), "{name}: {said}");
        }
    }
}

#[test]
fn a_format_of_another_number_is_refused_by_that_number() {
    let written = written();
    for (name, files) in &written {
        let mut files = files.clone();
        let later = |bytes: &[u8], key: &str| {
            let mut document: Value = serde_json::from_slice(bytes).expect("it is JSON");
            document[key] = json!(99);
            // Another form has other keys.
            document["added"] = json!({});
            document.to_string().into_bytes()
        };
        let expected = match name.split('-').next().expect("it has a kind") {
            "artefact" | "delta" => {
                files.insert(MANIFEST.to_owned(), later(&files[MANIFEST], "format"));
                "format 99"
            }
            "export" => {
                files.insert(MANIFEST.to_owned(), later(&files[MANIFEST], "checkpoint_format"));
                "checkpoints of format 99"
            }
            "records" => {
                files.insert("announcement.json".to_owned(), later(&files["announcement.json"], "format"));
                "format 99"
            }
            "checkpoint" => {
                let mut layer = layer();
                let first = layer.blocks.iter_mut().find(|block| block.section == Section::Lineage);
                first.expect("a layer has a lineage").bytes[0] = 99;
                files.insert("layer.blocks".to_owned(), frames(&layer));
                "format 99"
            }
            _ => continue,
        };
        let said = refusal(name, &files);
        assert!(said.contains(expected), "{name}: {said}");
    }
}
