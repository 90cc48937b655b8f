//! What is built in: where it comes from, under which licences, and that nothing unmaintained comes in unnoticed. Without a tool of
//! its own, since building one costs continuous integration more minutes than all of these checks; advisories are not looked up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Licences under which a binary may be passed on as ours is.
const LICENCES: [&str; 11] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that nobody maintains any more, and what brings them: README's limits name them.
const UNMAINTAINED: [(&str, &str); 3] = [("fxhash", "sled"), ("instant", "sled"), ("atomic-polyfill", "postcard")];

/// Crates that are unmaintained, unsound or better done otherwise, and are not to come in.
const REFUSED: [&str; 12] = [
    "actix-web",
    "atty",
    "bincode",
    "dirs",
    "failure",
    "memmap",
    "net2",
    "proc-macro-error",
    "serde_cbor",
    "serde_yaml",
    "time",
    "yaml-rust",
];

/// Crates that are built in two incompatible versions, and what asks for the older.
const TWICE: [(&str, &str); 15] = [
    ("base64", "metrics-exporter-prometheus"),
    ("bit-set", "jsonschema, in tests"),
    ("bit-vec", "jsonschema, in tests"),
    ("crypto-common", "digest"),
    ("digest", "crc-fast of object_store"),
    ("embedded-io", "postcard"),
    ("getrandom", "jsonschema, in tests, and ring, which is not built"),
    ("hashbrown", "metrics-util"),
    ("itertools", "criterion, in benchmarks"),
    ("parking_lot", "sled"),
    ("parking_lot_core", "sled"),
    ("rand", "metrics-util"),
    ("rand_core", "metrics-util"),
    ("spin", "heapless of postcard"),
    ("syn", "macros of num_enum and tracing"),
];

fn lock_file() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).expect("it is committed")
}

/// A value of a package in the lock file.
fn value<'l>(package: &'l str, key: &str) -> Option<&'l str> {
    let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""))?;
    line.strip_suffix('"')
}

/// Whether one of the alternatives of every part of an expression is allowed.
fn is_allowed(expression: &str) -> bool {
    let alternatives = expression.replace('/', " OR ");
    let mut parts = alternatives.split(" AND ");
    parts.all(|part| {
        let part = part.trim().trim_start_matches('(').trim_end_matches(')');
        part.split(" OR ").any(|licence| LICENCES.contains(&licence.trim()))
    })
}

#[test]
fn every_dependency_comes_from_the_registry_with_its_checksum() {
    let lock = lock_file();
    for package in lock.split("[[package]]").skip(1) {
        let name = value(package, "name").expect("a package has a name");
        if [env!("CARGO_PKG_NAME"), "deepfm-core", "deepfm-capi"].contains(&name) {
            continue;
        }
        let source = value(package, "source").unwrap_or("none");
        assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name}");
        assert!(value(package, "checksum").is_some_and(|sum| sum.len() == 64), "{name} has no checksum");
        assert!(!REFUSED.contains(&name), "{name} is not to come in");
    }
}

#[test]
fn unmaintained_dependencies_are_named_in_the_readme() {
    let lock = lock_file();
    let names: BTreeSet<&str> = lock.split("[[package]]").filter_map(|package| value(package, "name")).collect();
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).expect("it is committed");
    for (name, by) in UNMAINTAINED {
        assert!(names.contains(name), "{name} is gone: take it out of README's limits");
        assert!(readme.contains(&format!("`{name}`")) && readme.contains(&format!("`{by}`")), "{name} by {by}");
    }
}

/// The packages that are built here, tests included.
fn packages() -> Vec<Value> {
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc is there");
    let rustc = String::from_utf8(rustc.stdout).expect("it is text");
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    let arguments = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.expect("cargo is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let used: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|node| node["id"].as_str())
        .collect();
    let packages = metadata["packages"].as_array().expect("a list");
    let packages: Vec<Value> =
        packages.iter().filter(|package| package["id"].as_str().is_some_and(|id| used.contains(id))).cloned().collect();
    assert!(packages.len() > 100, "{}", packages.len());
    packages
}

#[test]
fn crates_that_are_built_in_two_incompatible_versions_are_stated() {
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    for package in packages() {
        let version = package["version"].as_str().expect("a version");
        let mut parts = version.split('.');
        // Below 1 the second number is the one that breaks.
        let major = parts.next().filter(|major| *major != "0").or_else(|| parts.next()).expect("it has numbers");
        let name = package["name"].as_str().expect("a name");
        versions.entry(name.to_owned()).or_default().insert(major.to_owned());
    }
    versions.retain(|_, versions| versions.len() > 1);
    let found: Vec<&str> = versions.keys().map(String::as_str).collect();
    assert_eq!(found, TWICE.map(|(name, _)| name), "{versions:?}");
}

/// The crates that the library is built of with these features alone.
fn built_in(features: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(["--package", env!("CARGO_PKG_NAME"), "--no-default-features", "--features", features])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("it is text");
    let names = text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned);
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn who_embeds_the_library_builds_neither_the_store_nor_the_client_unless_they_ask_for_it() {
    let (bare, kafka, all) = (built_in(""), built_in("kafka"), built_in("worker"));
    assert!(bare.contains("deepfm-core") && bare.len() < 80, "{bare:?}");
    for world in ["sled", "rdkafka", "tokio", "axum", "clap", "zstd", "toml", "tikv-jemallocator"] {
        assert!(!bare.contains(world) && all.contains(world), "{world}");
    }
    assert!(kafka.contains("rdkafka") && !kafka.contains("sled") && !kafka.contains("axum"), "{kafka:?}");
    // Object storage brings no second library of TLS or cryptography.
    let storage = built_in("object-store");
    assert!(
        storage.contains("object_store") && storage.contains("native-tls") && !storage.contains("sled"),
        "{storage:?}"
    );
    for world in ["rustls", "ring", "aws-lc-rs"] {
        assert!(!all.contains(world) && !kafka.contains("object_store"), "{world}");
    }
}

#[test]
fn every_dependency_has_a_licence_that_allows_passing_a_binary_on() {
    for package in packages() {
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(is_allowed(licence), "{} is under {licence}", package["name"]);
    }
}

#[test]
fn a_licence_counts_by_all_of_its_parts() {
    for allowed in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND SSPL-1.0", "none", ""] {
        assert!(!is_allowed(refused), "{refused}");
    }
}
