//! README: its block of commands runs as pasted, and its lines are short enough to read.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::skip;

/// What stands before each block that is run, in the order of the page.
const MARK: &str = "<!-- A test runs this block";

const LINE_MAX: usize = 120;

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("it is there")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The commands of the blocks behind the marks.
fn blocks(readme: &str) -> Vec<&str> {
    let blocks = readme.split(MARK).skip(1).map(|behind| {
        let (_, block) = behind.split_once("```sh\n").expect("a block follows the mark");
        block.split_once("```").expect("the block ends").0
    });
    blocks.collect()
}

/// The same with ports that are free, and stay so: below those that the system gives to whoever asks for any.
fn with_free_ports(block: &str) -> String {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    let mut free = (first..32_000).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    let mut port = || free.next().expect("there is one").to_string();
    block.replace("8001", &port()).replace("8002", &port())
}

/// The same with an end to what it waits for.
fn with_limits(block: &str) -> String {
    const WAITS: &str = "do sleep 0.2; done";
    assert_eq!(block.matches(WAITS).count(), 2, "it waits for two versions");
    let limited = block.replace(WAITS, "do sleep 0.2; ((SECONDS < 600)); done");
    format!("curl() {{ command curl --max-time 10 \"$@\"; }}\n{limited}")
}

#[test]
fn the_readmes_commands_run_as_pasted_from_a_build_to_a_listed_version() {
    let test = "the_readmes_commands_run_as_pasted_from_a_build_to_a_listed_version";
    for tool in ["java", "mvn", "bash"] {
        if Command::new(tool).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            skip(test, &format!("no {tool}: the local Kafka cannot be started"));
            return;
        }
    }
    // A checkout in which the build is done: `cargo` does nothing, and the binary under test is where it would be.
    let place = tempfile::tempdir().expect("a directory of our own");
    for directory in ["target/release", "tools"] {
        fs::create_dir_all(place.path().join(directory)).expect("the disk takes it");
    }
    symlink(root().join("deploy"), place.path().join("deploy")).expect("the disk takes it");
    symlink(env!("CARGO_BIN_EXE_deepfm"), place.path().join("target/release/deepfm")).expect("the disk takes it");
    symlink("/bin/true", place.path().join("tools/cargo")).expect("the disk takes it");
    let readme = readme();
    let blocks = blocks(&readme);
    assert_eq!(blocks.len(), 2, "to a listed version, and what servers do with a bad one");
    // Job control, so that `%1` is known; whatever happens, nothing is left behind.
    let script = format!(
        "set -meuo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; deploy/kafka/kafka stop --dir broker >&2' EXIT\n\
         PATH=\"$PWD/tools:$PATH\"\n{}\necho '== servers'\n{}",
        blocks[0],
        with_limits(&with_free_ports(blocks[1]))
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(place.path())
        .env_remove("DEEPFM_CONFIG")
        // Another worker on this machine may have the port.
        .env("DEEPFM__ADMIN__LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .output()
        .expect("bash is there");
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{log}");
    let (said, served) = said.split_once("== servers\n").expect("both blocks ran");
    let listed = said.lines().last().expect("the last command lists versions");
    let words: Vec<&str> = listed.split_whitespace().collect();
    assert_eq!((words.first(), words.last()), (Some(&"1"), Some(&"live")), "{said}\n{log}");
    let versions: Vec<&str> = served.split("\"version\":").skip(1).map(|rest| &rest[..1]).collect();
    assert_eq!(versions, ["1", "1", "2", "1"], "{served}\n{log}");
    assert_eq!(served.matches(" rejected").count(), 1, "{served}\n{log}");
}

#[test]
fn no_line_of_the_readme_is_longer_than_one_can_read() {
    let readme = readme();
    let is_long = |line: &&str| line.chars().count() > LINE_MAX;
    let long: Vec<&str> = readme.lines().filter(is_long).collect();
    assert!(long.is_empty(), "more than {LINE_MAX} characters:\n{}", long.join("\n"));
}

#[test]
fn a_first_demo_says_that_it_builds_before_it_builds() {
    let place = tempfile::tempdir().expect("a directory of our own");
    fs::create_dir(place.path().join("tools")).expect("the disk takes it");
    fs::copy(root().join("dev"), place.path().join("dev")).expect("the disk takes it");
    // Nothing is built or installed: what would do it does nothing, and says that all is there.
    symlink("/bin/true", place.path().join("tools/cargo")).expect("the disk takes it");
    let query = place.path().join("tools/dpkg-query");
    fs::write(&query, "#!/bin/sh\necho install ok installed\n").expect("the disk takes it");
    fs::set_permissions(&query, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let demo = || {
        let path = format!("{}:{}", place.path().join("tools").display(), std::env::var("PATH").unwrap_or_default());
        let mut demo = Command::new("bash");
        demo.args(["dev", "demo"]).current_dir(place.path()).env("PATH", path).env_remove("CARGO_TARGET_DIR");
        let output = demo.stdin(Stdio::null()).output().expect("bash is there");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(demo(), "building: a few minutes the first time, about 1.3 GB in target/\n");
    fs::create_dir_all(place.path().join("target/release")).expect("the disk takes it");
    symlink("/bin/true", place.path().join("target/release/deepfm")).expect("the disk takes it");
    assert_eq!(demo(), "");
}
