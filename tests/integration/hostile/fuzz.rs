//! Fuzzing on stable: a target for each thing that is read from elsewhere, over bytes, and over valid documents with a few values
//! made hostile; where a digest stands in the way it is made right again. Few rounds in `./dev test`, many in `./dev torture`.
//! A failure prints the smallest input that proptest finds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use deepfm_core::checkpoint;
use deepfm_core::checkpoint::export::{self, BLOCKS};
use deepfm_core::event::{DETAIL_CHARS_MAX, Decoder, Event, EventKind, RawRecord};
use deepfm_core::model::weights::Precision;
use deepfm_core::stream::Control;
use deepfm_core::train::{Scope, TrainParams, Trainer};
use deepfm_core::version::alias::{Act, Alias, LIVE};
use deepfm_core::version::announcement::Announcement;
use deepfm_core::version::artefact::{Artefact, MANIFEST, MODEL, PROBES, verify};
use deepfm_core::version::delta::DELTA;
use deepfm_core::version::journal::{JOURNAL, read_journal};
use deepfm_core::version::known::KnownVersions;
use deepfm_core::version::link;
use deepfm_core::version::manifest::FileDigest;
use deepfm_core::version::names;
use deepfm_core::version::outbox::{Letter, Outbox};
use deepfm_stream::config::Config;
use deepfm_stream::config::kafka::Kafka;
use deepfm_stream::letters::letter::{DeadLetter, Examiner, LETTER_BYTES_MAX};
use deepfm_stream::publish::outbox::check_outbox;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::{export_files, forged, lineage};
use crate::integration::deltas::chain;
use crate::integration::import::{names as values, small_file, take_in, user};
use crate::integration::versions::{artefact, trained};
use crate::support::rounds;

/// An MLP that fuzzing has the patience to make.
const MLP_PARAMETERS_TRIED: usize = 1 << 18;

pub(super) fn few(ordinary: usize, torture: usize) -> ProptestConfig {
    let cases = u32::try_from(rounds(ordinary, torture)).expect("they are few");
    // A failure is mended or pinned by name, not by a file of seeds.
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::default() }
}

/// Values that somebody may have meant badly.
fn hostile() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(vec![
            json!(null),
            json!(true),
            json!(0),
            json!(-1),
            json!(1),
            json!(u64::MAX),
            json!(u64::MAX - 1),
            json!(i64::MAX),
            json!(i64::MIN),
            json!(1_u64 << 53),
            json!(1e308),
            json!(-1e-308),
            json!(0.5),
            json!(""),
            json!("../../etc"),
            json!("a/v/1"),
            json!("\u{0}\u{1b}[31m\u{202e}é"),
            json!("é".repeat(5000)),
            json!("0".repeat(64)),
            json!([]),
            json!({}),
            json!([[[[[[[[]]]]]]]]),
            json!(vec![4096; 16]),
            json!(vec![0; 300]),
        ]),
        any::<i64>().prop_map(|number| json!(number)),
        any::<f64>().prop_map(|number| json!(number)),
        ".{0,20}".prop_map(|text| json!(text)),
    ]
}

/// A change of a document somewhere.
#[derive(Clone, Debug)]
pub(super) enum Edit {
    Set(Index, Value),
    Remove(Index),
    Add(Index, String, Value),
    /// One place gets what stands in another.
    Copy(Index, Index),
}

pub(super) fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => (any::<Index>(), hostile()).prop_map(|(at, value)| Edit::Set(at, value)),
        1 => any::<Index>().prop_map(Edit::Remove),
        1 => (any::<Index>(), "[a-z_.]{0,8}", hostile()).prop_map(|(at, key, value)| Edit::Add(at, key, value)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Edit::Copy(from, to)),
    ];
    vec(edit, 1..4)
}

fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                pointers(inner, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            for (number, inner) in items.iter().enumerate() {
                pointers(inner, &format!("{at}/{number}"), found);
            }
        }
        _ => {}
    }
}

pub(super) fn edited(mut document: Value, edits: &[Edit]) -> Value {
    for edit in edits {
        let mut places = Vec::new();
        pointers(&document, "", &mut places);
        let place = |index: &Index| index.get(&places).clone();
        match edit {
            Edit::Set(at, value) => *document.pointer_mut(&place(at)).expect("it is there") = value.clone(),
            Edit::Copy(from, to) => {
                let value = document.pointer(&place(from)).expect("it is there").clone();
                *document.pointer_mut(&place(to)).expect("it is there") = value;
            }
            Edit::Add(at, key, value) => {
                if let Some(Value::Object(map)) = document.pointer_mut(&place(at)) {
                    map.insert(key.clone(), value.clone());
                }
            }
            Edit::Remove(at) => {
                let place = place(at);
                if let Some((parent, key)) = place.rsplit_once('/')
                    && let Some(Value::Object(map)) = document.pointer_mut(parent)
                {
                    map.remove(key);
                }
            }
        }
    }
    document
}

/// A change of bytes somewhere.
#[derive(Clone, Debug)]
pub(super) enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Number(Index, u64),
    Double(Index),
}

pub(super) fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let numbers = select(vec![0, 1, 0x7F, 0x80, 0xFFFF, u64::from(u32::MAX), i64::MAX as u64, u64::MAX, u64::MAX - 1]);
    let damage = prop_oneof![
        4 => (any::<Index>(), 1_u8..).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        1 => any::<Index>().prop_map(Damage::Cut),
        2 => (any::<Index>(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        4 => (any::<Index>(), numbers).prop_map(|(at, number)| Damage::Number(at, number)),
        1 => any::<Index>().prop_map(Damage::Double),
    ];
    vec(damage, 1..4)
}

pub(super) fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            return bytes;
        }
        match damage {
            Damage::Flip(at, bits) => {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Damage::Insert(at, more) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Number(at, number) => {
                let at = at.index(bytes.len());
                let end = bytes.len().min(at + 8);
                bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
            Damage::Double(at) => {
                let behind = bytes[at.index(bytes.len())..].to_vec();
                bytes.extend(behind);
            }
        }
    }
    bytes
}

/// Documents of the schemas' examples, of all kinds in a folder.
fn examples(folder: &str) -> Vec<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/examples").join(folder);
    let mut found = Vec::new();
    for kind in ["valid", "invalid"] {
        for entry in std::fs::read_dir(root.join(kind)).expect("the examples are there").flatten() {
            let bytes = std::fs::read(entry.path()).expect("it is readable");
            found.extend(serde_json::from_slice::<Value>(&bytes));
        }
    }
    assert!(!found.is_empty(), "{folder}");
    found
}

fn decoders() -> [Decoder; 2] {
    let fields = "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n[[fields]]\nname = \"tags\"\nkind = \"multi\"\n\
                  [[fields]]\nname = \"price\"\nkind = \"numeric\"\n";
    let flat = "[events.mapping.impression]\nfeatures = \"\"\nimpression_id = \"/a/id\"\nevent_time = \"/t\"\n";
    [fields.to_owned(), format!("{fields}{flat}")].map(|text| {
        let config = Config::parse(&text, "fuzz", []).unwrap_or_else(|errors| panic!("{errors}"));
        Decoder::new(config.field_set().expect("they are valid"), config.event_options()).expect("it is valid")
    })
}

type Headers = Vec<(String, Option<Vec<u8>>)>;

fn headers() -> impl Strategy<Value = Headers> {
    let names = select(vec!["content-type", "ce_specversion", "ce_id", "ce_source", "ce_time", "CE_ID"]);
    let name = prop_oneof![names.prop_map(str::to_owned), ".{0,9}"];
    let texts = select(vec!["application/avro", "1.0", "2026-01-01T00:00:00Z", "-262143-01-01T00:00:00Z", ""]);
    let value = prop_oneof![texts.prop_map(|text| text.as_bytes().to_vec()), vec(any::<u8>(), 0..40)];
    vec((name, proptest::option::of(value)), 0..6)
}

fn decode(payload: Option<&[u8]>, headers: &Headers, timestamp: Option<i64>) {
    let headers: Vec<(&str, Option<&[u8]>)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    let record = RawRecord { payload, headers: &headers, timestamp };
    for mut decoder in decoders() {
        for kind in [EventKind::Impression, EventKind::Click] {
            match decoder.decode(kind, &record) {
                Ok(decoded) => {
                    if let Event::Impression(impression) = &decoded.event {
                        assert_eq!(impression.features.fields(), 3);
                        assert!(impression.weight.is_finite() && impression.weight >= 0.0);
                        assert!(impression.features.entries().all(|entry| entry.x.is_finite()));
                    }
                }
                Err(refusal) => assert!(refusal.detail().chars().count() <= DETAIL_CHARS_MAX, "{}", refusal.detail()),
            }
        }
    }
}

proptest! {
    #![proptest_config(few(150, 40_000))]

    #[test]
    fn no_bytes_of_a_record_harm_the_decoder(
        payload in proptest::option::of(vec(any::<u8>(), 0..300)),
        headers in headers(),
        timestamp in proptest::option::of(any::<i64>()),
    ) {
        decode(payload.as_deref(), &headers, timestamp);
    }

    #[test]
    fn no_event_with_hostile_values_harms_the_decoder(
        at in any::<Index>(), edits in edits(), headers in headers(), timestamp in proptest::option::of(any::<i64>()),
    ) {
        static EVENTS: LazyLock<Vec<Value>> =
            LazyLock::new(|| [examples("impression"), examples("click")].concat());
        let event = edited(at.get(&EVENTS).clone(), &edits);
        let text = event.to_string();
        decode(Some(text.as_bytes()), &headers, timestamp);
        decode(Some(&[&[0, 0, 0, 0, 7], text.as_bytes()].concat()), &headers, timestamp);
    }

    #[test]
    fn no_record_of_the_versions_topic_counts_for_more_than_it_is(
        at in any::<Index>(), edits in proptest::option::of(edits()), damages in proptest::option::of(damages()),
        key in prop_oneof![
            select(vec!["ctr/v/7", "ctr/v/18446744073709551614", "ctr/a/live", "ctr/v/", "/v/7", "ctr/v/9007199254740991"])
                .prop_map(str::to_owned),
            "ctr/[va]/.{0,20}",
        ],
    ) {
        static RECORDS: LazyLock<Vec<Value>> = LazyLock::new(|| {
            let own = Announcement::of(&artefact(7, 0));
            let alias = Alias::moved(None, LIVE, &own, Act::new("worker", "it passed the gate", "2026-01-01T00:00:00Z"));
            let own = [serde_json::to_value(&own).expect("plain data"), serde_json::to_value(&alias).expect("plain data")];
            [own.to_vec(), examples("announcement"), examples("alias")].concat()
        });
        let record = edited(at.get(&RECORDS).clone(), edits.as_deref().unwrap_or_default()).to_string();
        let record = damaged(record.into_bytes(), damages.as_deref().unwrap_or_default());
        let mut versions = KnownVersions::default();
        let _ = versions.take("ctr", key.as_bytes(), Some(&record));
        assert!(versions.newest().is_none_or(|newest| (1..=names::VERSION_MAX).contains(&newest)));
        for (number, announcement) in &versions.announced {
            assert_eq!(announcement.key(), key);
            assert_eq!((*number, versions.newest()), (announcement.version, Some(*number)));
            names::check_directory(&announcement.directory, *number, &announcement.manifest_digest).expect("it is its own");
            assert!(announcement.files.keys().all(|name| names::check_file(name).is_ok()));
        }
        for (name, alias) in &versions.aliases {
            assert_eq!(Alias::key("ctr", name), key);
            names::check_directory(&alias.directory, alias.version, &alias.manifest_digest).expect("it is a version's");
        }
    }
}

static VERSION: LazyLock<Artefact> = LazyLock::new(|| artefact(7, 0));

proptest! {
    #![proptest_config(few(80, 20_000))]

    #[test]
    fn no_manifest_harms_whoever_verifies_it(edits in edits(), damages in proptest::option::of(damages())) {
        let mut files = forged(VERSION.files.clone(), |manifest| *manifest = edited(manifest.clone(), &edits));
        if let Some(damages) = damages {
            let manifest = damaged(files[MANIFEST].clone(), &damages);
            files.insert(MANIFEST.to_owned(), manifest);
        }
        // What passes is a whole version, whatever it says of its metrics.
        if let Ok(verified) = verify(&files) {
            assert!(verified.servable.is_finite() && verified.probes > 0);
        }
    }

    #[test]
    fn no_file_of_a_version_harms_whoever_verifies_it(
        name in select(vec![MODEL, PROBES, JOURNAL]), damages in damages(), rows in any::<u8>(),
    ) {
        let mut files = VERSION.files.clone();
        files.insert(name.to_owned(), damaged(files[name].clone(), &damages));
        let files = forged(files, |manifest| {
            if rows == 0 {
                manifest["rows"] = json!(1);
            }
        });
        if let Ok(verified) = verify(&files) {
            assert!(verified.servable.is_finite() && verified.servable.rows() as u64 == verified.manifest.rows);
        }
    }

    #[test]
    fn no_journal_harms_whoever_replays_it(line in any::<Index>(), edits in edits(), inner in proptest::option::of(edits())) {
        let text = String::from_utf8(VERSION.files[JOURNAL].clone()).expect("it is text");
        let (config, trainer) = trained(0);
        let configured = Control::Configured { parameters: trainer.params().to_text(), fields: config.fields.to_vec() };
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
        lines.insert(0, json!({"at": 0, "control": configured}));
        let at = line.index(lines.len());
        if let (Some(inner), Some(parameters)) = (inner, lines[at].pointer_mut("/control/configured/parameters")) {
            let params: Value = serde_json::from_str(parameters.as_str().expect("it is text")).expect("it is JSON");
            *parameters = json!(edited(params, &inner).to_string());
        } else {
            lines[at] = edited(lines[at].clone(), &edits);
        }
        let text: Vec<String> = lines.iter().map(Value::to_string).collect();
        if let Ok(entries) = read_journal(text.join("\n").as_bytes()) {
            replay(entries.into_iter().map(|entry| entry.control));
        }
    }

    #[test]
    fn no_bytes_of_a_journal_harm_whoever_reads_it(bytes in vec(any::<u8>(), 0..300), damages in damages()) {
        let _ = read_journal(&bytes);
        let _ = read_journal(&damaged(VERSION.files[JOURNAL].clone(), &damages));
    }
}

/// Makes the decisions of a journal that was found to be sound.
fn replay(controls: impl Iterator<Item = Control>) {
    let mut trainer: Option<Trainer> = None;
    for control in controls {
        if let Control::Configured { parameters, .. } = &control {
            let params = TrainParams::from_text(parameters).expect("it was checked when it was read");
            let inputs = params.model.fields * params.model.embedding_dim;
            let widest = params
                .model
                .mlp
                .layers
                .iter()
                .fold((inputs, 0), |(width, sum), outputs| (*outputs, sum + width * outputs));
            if widest.1 > MLP_PARAMETERS_TRIED {
                return;
            }
            trainer.get_or_insert_with(|| Trainer::new(params));
        }
        if let Some(trainer) = &mut trainer {
            // A decision that does not fit is refused, and changes nothing.
            let _ = trainer.control(&control);
        }
    }
    if let Some(mut trainer) = trainer {
        trainer.state_digest();
    }
}

static EXPORT: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(|| {
    let (config, mut trainer) = trained(0);
    let lineage = lineage(&config, &mut trainer);
    export_files("ctr", &checkpoint::encode(&trainer.cut(Scope::Everything), &lineage))
});

/// Reads an export as far as it can be, whatever its digests say.
fn restore(manifest: &[u8], blocks: &[u8]) {
    let Ok(manifest) = export::read_manifest(manifest) else { return };
    let Ok(layer) = export::read(&manifest, blocks) else { return };
    let Ok(lineage) = checkpoint::read_lineage(&layer) else { return };
    let _ = check_outbox(&lineage.outbox, &manifest.model);
    let Ok(params) = lineage.params() else { return };
    if let Ok((mut trainer, _)) = checkpoint::decode(params, &[layer]) {
        assert_eq!(trainer.state_digest().to_string(), manifest.state_digest);
    }
}

proptest! {
    #![proptest_config(few(80, 20_000))]

    #[test]
    fn no_export_harms_whoever_restores_it(damages in damages(), edits in proptest::option::of(edits()), in_block in any::<bool>()) {
        let whole = &EXPORT[BLOCKS];
        let blocks = if in_block { damaged_inside(whole, &damages) } else { damaged(whole.clone(), &damages) };
        let mut manifest: Value = serde_json::from_slice(&EXPORT[MANIFEST]).expect("it is JSON");
        manifest["blocks"] = serde_json::to_value(FileDigest::of(&blocks)).expect("plain data");
        restore(&serde_json::to_vec(&manifest).expect("plain data"), &blocks);
        if let Some(edits) = edits {
            restore(&serde_json::to_vec(&edited(manifest, &edits)).expect("plain data"), &blocks);
        }
    }

    #[test]
    fn no_dead_letter_harms_whoever_sends_it_again(
        at in any::<Index>(), edits in edits(), damages in proptest::option::of(damages()),
    ) {
        static LETTERS: LazyLock<Vec<Value>> = LazyLock::new(|| examples("dead_letter"));
        let document = edited(at.get(&LETTERS).clone(), &edits).to_string();
        let document = damaged(document.into_bytes(), damages.as_deref().unwrap_or_default());
        let text = String::from_utf8_lossy(&document).into_owned();
        let outbox = |key: &str| Outbox {
            versions: Vec::new(),
            letters: vec![Letter { key: key.to_owned(), document: text.clone() }],
        };
        assert!(check_outbox(&outbox("ctr/v/7"), "ctr").is_err(), "letters stand under keys of topics");
        let Ok(letter) = serde_json::from_str::<DeadLetter>(&text) else { return Ok(()) };
        assert!(check_outbox(&outbox(&letter.key()), "ctr").is_ok());
        assert!(letter.clone().fit(LETTER_BYTES_MAX).len() <= LETTER_BYTES_MAX);
        // A letter that has not all of its record is read from the topic; that is for the tests with a broker.
        let kafka = Kafka { impressions_topic: letter.topic.clone(), ..Config::default().kafka };
        let is_whole = letter.payload_base64.as_ref().map_or(0, String::len) < 4 && letter.payload_bytes == 0;
        if is_whole {
            let [decoder, _] = decoders();
            let partitions = [(letter.topic.clone(), 4)].into();
            let (held_ms, watermark, now) = (i64::MAX, Some(i64::MIN), i64::MAX);
            let mut examiner = Examiner { kafka: &kafka, decoder, held_ms, watermark, partitions, now };
            let _ = examiner.examine(&letter);
        }
    }

    #[test]
    fn no_configuration_harms_whoever_reads_it(
        damages in proptest::option::of(damages()),
        line in any::<Index>(),
        value in hostile(),
        variable in proptest::option::of(("[A-Z_]{0,20}", ".{0,20}")),
    ) {
        static TEMPLATE: LazyLock<String> = LazyLock::new(|| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/deepfm.toml");
            std::fs::read_to_string(path).expect("it is there")
        });
        let mut lines: Vec<String> = TEMPLATE.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        let keys: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains(" = ")).collect();
        let at = *line.get(&keys);
        let (key, _) = lines[at].split_once(" = ").expect("it has a value");
        lines[at] = format!("{key} = {value}");
        let text = damaged(lines.join("\n").into_bytes(), damages.as_deref().unwrap_or_default());
        let variable = variable.map(|(name, value)| (format!("DEEPFM__{name}"), value));
        if let Ok(config) = Config::parse(&String::from_utf8_lossy(&text), "fuzz", variable) {
            config.train_params().check().expect("what is loaded can be learned with");
            names::check_model(&config.model.name).expect("it is part of keys and directories");
        }
    }
}

/// Damages the content of the blocks, and leaves their frames whole.
fn damaged_inside(blocks: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut found = blocks.to_vec();
    let mut frames = Vec::new();
    let mut at = 0;
    while at < found.len() {
        let length = u32::from_le_bytes(found[at + 1..at + 5].try_into().expect("four bytes")) as usize;
        frames.push(at + 5..at + 5 + length);
        at += 5 + length;
    }
    for damage in damages {
        match damage {
            Damage::Flip(place, bits) => {
                let block = &mut found[place.get(&frames).clone()];
                let at = place.index(block.len());
                block[at] ^= bits;
            }
            Damage::Number(place, number) => {
                let block = &mut found[place.get(&frames).clone()];
                let at = place.index(block.len());
                let end = block.len().min(at + 8);
                block[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
            Damage::Cut(_) | Damage::Insert(..) | Damage::Double(_) => {}
        }
    }
    found
}

/// A full version, and a delta on it.
static CHAIN: LazyLock<[Artefact; 3]> = LazyLock::new(|| chain(Precision::F16));

proptest! {
    #![proptest_config(few(120, 20_000))]

    #[test]
    fn no_delta_harms_whoever_applies_it(
        name in select(vec![DELTA, PROBES, JOURNAL]), damages in damages(), edits in proptest::option::of(edits()),
    ) {
        let mut files = CHAIN[1].files.clone();
        files.insert(name.to_owned(), damaged(files[name].clone(), &damages));
        let mut manifest: Value = serde_json::from_slice(&files[MANIFEST]).expect("it is JSON");
        for name in [DELTA, PROBES, JOURNAL] {
            manifest["files"][name] = json!(FileDigest::of(&files[name]));
        }
        let manifest = edited(manifest, edits.as_deref().unwrap_or_default());
        files.insert(MANIFEST.to_owned(), manifest.to_string().into_bytes());
        let parent = verify(&CHAIN[0].files).expect("it is whole");
        // What passes is a whole version, whatever else its manifest says.
        if let Ok(applied) = link::verify(&files).and_then(|link| link.apply(&parent)) {
            let stated = applied.manifest.weights.expect("a delta has them");
            assert!(applied.servable.is_finite() && applied.servable.digest() == stated.digest);
        }
    }

    #[test]
    fn no_foreign_model_harms_whoever_imports_it(damages in damages()) {
        let _ = take_in(&user(""), &damaged(small_file(), &damages), &values(4));
    }
}
