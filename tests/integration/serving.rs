//! The reference server as a process: the protocol, requests that do not fit, overload, reloads under load, and its end.

mod idle;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deepfm_stream::config::Config;
use deepfm_stream::config::kafka::Kafka;
use serde_json::{Value, json};

use super::commands::{Place, simulated_fields};
use super::reload::{Oracle, ROUNDING, ROWS, VersionFiles, broken, install, install_as, name_of, numbered, way};
use super::versions::artefact;
use crate::support::broker;
use crate::support::command::{Running, run};
use crate::support::http::{Client, Reply, address_in};
use crate::support::{python, rounds, wait_for};

/// A server of the versions in a directory of its own.
struct Served {
    root: tempfile::TempDir,
    base: VersionFiles,
    process: Running,
    address: SocketAddr,
}

impl Served {
    fn start(arguments: &[&str]) -> Self {
        Self::with(&[], arguments)
    }

    fn with(versions: &[u64], arguments: &[&str]) -> Self {
        let root = tempfile::tempdir().expect("a directory of our own");
        let base = artefact(1, 0).files;
        let directory = root.path().join("ctr");
        fs::create_dir(&directory).expect("the disk takes it");
        for version in versions {
            install(&directory, &numbered(&base, *version));
        }
        let (log, directory) = (root.path().join("log"), directory.display().to_string());
        let serve = ["serve", "--versions", &directory, "--model", "ctr", "--listen", "127.0.0.1:0"];
        let process = Running::start_logged(&[&serve, arguments].concat(), &log);
        let address = address_in(&log);
        Self { root, base, process, address }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("ctr")
    }

    fn client(&self) -> Client {
        Client::connect(self.address)
    }

    fn wait_until_ready(&self) {
        let mut client = self.client();
        wait_for("readiness", || (client.get("/v2/health/ready").status == 200).then_some(()));
    }

    fn oracle(&self, version: u64) -> Oracle {
        Oracle::of(&numbered(&self.base, version))
    }
}

fn near(found: &Value, expected: f64) -> bool {
    found.as_f64().is_some_and(|found| (found - expected).abs() <= ROUNDING * (1.0 + expected.abs()))
}

fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// The values of an output of an answer in JSON.
fn output<'a>(answer: &'a Value, name: &str) -> &'a Vec<Value> {
    let outputs = answer["outputs"].as_array().expect("it has outputs");
    let output = outputs.iter().find(|output| output["name"] == name).unwrap_or_else(|| panic!("{answer}"));
    output["data"].as_array().expect("it has data")
}

/// `ROWS` as one tensor of JSON objects.
fn rows_request() -> String {
    json!({"inputs": [{"name": "features", "datatype": "BYTES", "shape": [ROWS.len(), 1], "data": ROWS}]}).to_string()
}

/// Two rows as tensors of fields: `{"user":"u1","tags":["a1","b2"]}` and `{"tags":["a2"]}`.
const COLUMNS: &str = r#"{"id":"r7","inputs":[
    {"name":"user","datatype":"BYTES","shape":[2],"data":["u1",""]},
    {"name":"tags","datatype":"BYTES","shape":[2,2],"data":[["a1","b2"],["a2",""]]}],
    "outputs":[{"name":"logit"}]}"#;
const COLUMN_ROWS: [&str; 2] = [r#"{"user":"u1","tags":["a1","b2"]}"#, r#"{"tags":["a2"]}"#];

fn check_status_and_metrics(client: &mut Client) {
    let status = client.get("/status").json();
    assert_eq!((&status["ready"], &status["arms"][0]["serving"]), (&json!(true), &json!(7)));
    assert_eq!(status["arms"][0]["versions"][0]["state"], "serving");
    let metrics = String::from_utf8(client.get("/metrics").body).expect("it is text");
    for series in [
        "deepfm_serve_version{model=\"ctr\",arm=\"default\"} 7",
        "deepfm_serve_unknown_fields_total{model=\"ctr\"} 1",
        "deepfm_serve_requests_total{model=\"ctr\",endpoint=\"/v1/rank\",status=\"503\"} 1",
        "deepfm_serve_loads_total{model=\"ctr\",arm=\"default\"} 1",
        "process_resident_memory_bytes{model=\"ctr\"}",
    ] {
        assert!(metrics.contains(series), "{series} is not in {metrics}");
    }
}

#[test]
fn a_server_speaks_the_protocol_in_json_and_ranks() {
    let served = Served::start(&[]);
    let mut client = served.client();
    assert_eq!(client.get("/v2/health/live").status, 200);
    for path in ["/v2/health/ready", "/v2/models/ctr/ready"] {
        assert_eq!(client.get(path).status, 503, "{path}: there is no version yet");
    }
    let early = client.post("/v1/rank", r#"{"context":{},"candidates":[{}]}"#);
    assert_eq!((early.status, early.header("retry-after")), (503, Some("1")));
    assert_eq!(early.error(), "no version is served yet");
    assert_eq!(client.get("/v2/models/ctr").status, 503);
    assert_eq!(client.post("/v2/repository/index", "").json()[0]["state"], "UNAVAILABLE");
    install(&served.directory(), &numbered(&served.base, 7));
    served.wait_until_ready();

    let metadata = client.get("/v2/models/ctr").json();
    assert_eq!((&metadata["name"], &metadata["versions"]), (&json!("ctr"), &json!(["7"])));
    let names: Vec<&str> =
        metadata["inputs"].as_array().expect("a list").iter().filter_map(|input| input["name"].as_str()).collect();
    assert_eq!(names, ["user", "tags", "features"]);
    assert_eq!(client.get("/v2").json()["extensions"], json!(["binary_tensor_data", "model_repository"]));
    for path in ["/v2/models/ctr/ready", "/v2/models/ctr/versions/7/ready", "/v2/models/ctr/versions/7"] {
        assert_eq!(client.get(path).status, 200, "{path}");
    }
    let index = client.post("/v2/repository/index", r#"{"ready":true}"#).json();
    assert_eq!(index, json!([{"name": "ctr", "version": "7", "state": "READY", "reason": "arm default"}]));

    let oracle = served.oracle(7);
    for path in ["/v2/models/ctr/infer", "/v2/models/ctr/versions/7/infer"] {
        let answer = client.post(path, &rows_request()).json();
        assert_eq!((&answer["model_name"], &answer["model_version"]), (&json!("ctr"), &json!("7")));
        assert_eq!((&answer["parameters"]["version"], &answer["parameters"]["arm"]), (&json!(7), &json!("default")));
        assert!(answer["parameters"]["age_ms"].as_i64().is_some_and(|age| age > 0), "{answer}");
        for (at, logit) in oracle.logits().into_iter().enumerate() {
            assert!(near(&output(&answer, "logit")[at], logit), "{answer}");
            assert!(near(&output(&answer, "probability")[at], sigmoid(logit)), "{answer}");
        }
    }
    let answer = client.post("/v2/models/ctr/infer", COLUMNS).json();
    assert_eq!((&answer["id"], answer["outputs"].as_array().map(Vec::len)), (&json!("r7"), Some(1)));
    for (found, row) in output(&answer, "logit").iter().zip(COLUMN_ROWS) {
        assert!(near(found, oracle.logit(row)), "{answer}");
    }
    let ranked = client
        .post("/v1/rank", r#"{"context":{"user":"u1"},"candidates":[{"tags":["a1","b2"]},{"tags":"a2"},{"hue":1}]}"#)
        .json();
    assert_eq!((&ranked["model_version"], &ranked["arm"]), (&json!("7"), &json!("default")));
    assert_eq!(ranked["unknown_fields"], 1);
    for (found, row) in ranked["scores"].as_array().expect("a list").iter().zip([
        r#"{"user":"u1","tags":["a1","b2"]}"#,
        r#"{"user":"u1","tags":["a2"]}"#,
        r#"{"user":"u1"}"#,
    ]) {
        assert!(near(found, sigmoid(oracle.logit(row))), "{ranked}");
    }

    check_status_and_metrics(&mut client);
    // A version that fails makes it no less ready.
    let (name, files) = broken(&served.base, 8, "bit-flipped");
    install_as(&served.directory(), &name, &files);
    wait_for("the failure", || {
        let versions = client.get("/status").json()["arms"][0]["versions"].clone();
        versions.as_array()?.iter().find(|version| version["state"] == "failed").cloned()
    });
    assert_eq!(client.get("/v2/health/ready").status, 200);
}

/// Values of the binary extension.
fn texts(values: &[&str]) -> Vec<u8> {
    let value = |value: &&str| [&(value.len() as u32).to_le_bytes()[..], value.as_bytes()].concat();
    values.iter().flat_map(value).collect()
}

#[test]
fn a_server_takes_and_gives_binary_tensors() {
    let served = Served::with(&[7], &[]);
    served.wait_until_ready();
    let (users, tags) = (texts(&["u1", ""]), texts(&["a1", "b2", "a2", ""]));
    let json = json!({
        "inputs": [
            {"name": "user", "datatype": "BYTES", "shape": [2, 1], "parameters": {"binary_data_size": users.len()}},
            {"name": "tags", "datatype": "BYTES", "shape": [2, 2], "parameters": {"binary_data_size": tags.len()}},
        ],
        "outputs": [
            {"name": "logit", "parameters": {"binary_data": true}},
            {"name": "probability", "parameters": {"binary_data": true}},
        ],
    })
    .to_string();
    let length = json.len().to_string();
    let body = [json.as_bytes(), &users, &tags].concat();
    let mut client = served.client();
    let headers = [("Inference-Header-Content-Length", length.as_str())];
    let reply = client.request("POST", "/v2/models/ctr/infer", &headers, &body);
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    let json_length: usize =
        reply.header("inference-header-content-length").expect("it says").parse().expect("a number");
    let answer: Value = serde_json::from_slice(&reply.body[..json_length]).expect("it is JSON");
    assert_eq!(answer["outputs"][0]["parameters"]["binary_data_size"], 16);
    let values: Vec<f64> = reply.body[json_length..]
        .chunks_exact(8)
        .map(|value| f64::from_le_bytes(value.try_into().expect("eight bytes")))
        .collect();
    let logits = COLUMN_ROWS.map(|row| served.oracle(7).logit(row));
    let expected = [logits[0], logits[1], sigmoid(logits[0]), sigmoid(logits[1])];
    assert_eq!(values.len(), expected.len());
    assert!(values.iter().zip(expected).all(|(found, expected)| near(&json!(found), expected)), "{values:?}");
    // What is said of the binary part and is not so.
    for (header, tail, reason) in [
        ("99999", 0, "the header says that 99999 bytes are JSON"),
        ("x", 0, "is no number of bytes"),
        ("0", 0, "the request: EOF"),
        (length.as_str(), 3, "more binary data than the body has left"),
    ] {
        let headers = [("Inference-Header-Content-Length", header)];
        let reply = client.request("POST", "/v2/models/ctr/infer", &headers, &body[..body.len() - tail]);
        assert!(reply.status == 400 && reply.error().contains(reason), "{header}: {} {}", reply.status, reply.error());
    }
    let more = [&body[..], b"more"].concat();
    let reply = client.request("POST", "/v2/models/ctr/infer", &headers, &more);
    assert!(reply.status == 400 && reply.error().contains("4 bytes of binary data belong to no tensor"));
}

/// Each with a piece of why.
fn inferences_that_do_not_fit() -> Vec<(String, &'static str)> {
    let infer = |inputs: &str| format!(r#"{{"inputs":{inputs}}}"#);
    let tensor = |name: &str, kind: &str, shape: &str, data: &str| {
        infer(&format!(r#"[{{"name":"{name}","datatype":"{kind}","shape":{shape},"data":{data}}}]"#))
    };
    vec![
        (String::new(), "the request: EOF"),
        ("{}".to_owned(), "missing field `inputs`"),
        ("[1,2]".to_owned(), "the request:"),
        (infer("[]"), "there are no inputs"),
        (tensor("hue", "BYTES", "[1]", r#"["x"]"#), "there is no input \"hue\""),
        (tensor("user", "FP16", "[1]", "[1]"), "datatype \"FP16\", which is not taken"),
        (tensor("user", "BYTES", "[]", "[]"), "shape [], not [N] or [N, k]"),
        (tensor("user", "BYTES", "[1,1,1]", r#"["x"]"#), "not [N] or [N, k]"),
        (tensor("user", "BYTES", "[-1]", r#"["x"]"#), "invalid value: integer `-1`"),
        (tensor("user", "BYTES", "[2]", r#"["x"]"#), "has 1 values, its shape [2] has 2"),
        (tensor("user", "BYTES", "[3,18446744073709551615]", r#"["x"]"#), "which is too large"),
        (tensor("user", "BYTES", "[3,0]", "[]"), "shape [3, 0], which has no values"),
        (tensor("user", "BYTES", "[1]", r#"["x","y"]"#), "more values than the 1 of its shape"),
        (tensor("user", "BYTES", "[4]", r#"["x","x","x","x"]"#), "has 4 rows, more than 3"),
        (tensor("user", "BYTES", "[1,2]", r#"["x","y"]"#), "features.user is there twice"),
        (tensor("user", "BYTES", "[1]", "[1]"), "which is not of its datatype"),
        (tensor("user", "INT32", "[1]", r#"["x"]"#), "which is not of its datatype"),
        (tensor("user", "FP64", "[1]", "[NaN]"), "the request: expected value"),
        (tensor("user", "BYTES", "[1]", r#"[[["x"]]]"#), "nested too deep"),
        (tensor("user", "BYTES", "[1]", r#"{"x":1}"#), "the data of tensor"),
        (infer(r#"[{"name":"user","datatype":"BYTES","shape":[1]}]"#), "has not either data or binary_data_size"),
        (
            infer(
                r#"[{"name":"user","datatype":"BYTES","shape":[1],"data":["x"]},
                    {"name":"user","datatype":"BYTES","shape":[1],"data":["x"]}]"#,
            ),
            "is there twice",
        ),
        (
            infer(
                r#"[{"name":"user","datatype":"BYTES","shape":[1],"data":["x"]},
                    {"name":"tags","datatype":"BYTES","shape":[2],"data":["x","y"]}]"#,
            ),
            "has 1 rows, tensor \"tags\" has 2",
        ),
        (
            r#"{"inputs":[{"name":"user","datatype":"BYTES","shape":[1],"data":["x"]}],"outputs":[{"name":"rank"}]}"#
                .to_owned(),
            "there is no output \"rank\"",
        ),
        (
            r#"{"inputs":[{"name":"user","datatype":"BYTES","shape":[1],"data":["x"]}],
                "outputs":[{"name":"logit"},{"name":"probability"},{"name":"logit"}]}"#
                .to_owned(),
            "output \"logit\" is there twice",
        ),
        (
            infer(&format!("[{}]", [r#"{"name":"user","datatype":"BYTES","shape":[1],"data":["x"]}"#; 4].join(","))),
            "there are 4 inputs, the model takes 3 at most",
        ),
        (tensor("features", "BYTES", "[1,2]", r#"["{}","{}"]"#), "not [N] or [N, 1]"),
        (tensor("features", "INT8", "[1]", "[1]"), "no text of a JSON object"),
        (tensor("features", "BYTES", "[1]", r#"["{"]"#), "row 0: EOF"),
        (tensor("features", "BYTES", "[2]", r#"["{}","{\"user\":[]}"]"#), "row 1: features.user: expected"),
    ]
}

#[test]
fn every_request_that_does_not_fit_has_a_status_and_a_reason_and_the_connection_goes_on() {
    let served = Served::with(&[7], &["--rows-max", "3", "--body-bytes-max", "4096"]);
    served.wait_until_ready();
    let mut client = served.client();
    for (body, reason) in inferences_that_do_not_fit() {
        let reply = client.post("/v2/models/ctr/infer", &body);
        assert!(reply.status == 400 && reply.error().contains(reason), "{body}: {} {}", reply.status, reply.error());
    }
    for (body, reason) in [
        ("", "EOF"),
        (r#"{"context":{}}"#, "there are no candidates"),
        (r#"{"context":{},"candidates":[{},{},{},{}]}"#, "more than 3 rows"),
        (r#"{"context":{"user":"a"},"candidates":[{"user":"b"}]}"#, "is in the context and in candidate 0"),
        (r#"{"context":{},"candidates":[{"tags":{"a":1e99}}]}"#, "candidate 0: features.tags: a weight"),
    ] {
        let reply = client.post("/v1/rank", body);
        assert!(reply.status == 400 && reply.error().contains(reason), "{body}: {} {}", reply.status, reply.error());
    }
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/rank", 405),
        ("POST", "/v2/models/ctr", 405),
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/ctr/versions/8/infer", 404),
        ("GET", "/v2/models/ctr/versions/07", 404),
        ("GET", "/v2/models/%ff/ready", 400),
    ] {
        let reply = client.request(method, path, &[], b"");
        assert_eq!(reply.status, status, "{method} {path}");
    }
    let gzip = client.request("POST", "/v1/rank", &[("Content-Encoding", "gzip")], b"x");
    assert!(gzip.status == 415 && gzip.error().contains("\"gzip\" is not taken"));
    // The connection that had all that is still there, and scores.
    let mut client = served.client();
    assert_eq!(client.post("/v1/rank", r#"{"context":{},"candidates":[{},{},{}]}"#).status, 200);
    // Too long, by what is stated and by what comes.
    let reply = client.request("POST", "/v1/rank", &[], &[b' '; 4097]);
    assert!(reply.status == 413 && reply.error().contains("more than 4096 bytes"), "{}", reply.status);
    let mut client = served.client();
    client.send(b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(&[&b"2000\r\n"[..], &[b' '; 0x2000], b"\r\n0\r\n\r\n"].concat());
    assert_eq!(client.reply().status, 413);
}

/// Whether a request is being answered, by what the server says of itself.
fn in_flight(client: &mut Client) -> bool {
    let metrics = String::from_utf8(client.get("/metrics").body).expect("it is text");
    metrics.lines().any(|line| line == r#"deepfm_serve_in_flight{model="ctr"} 1"#)
}

#[test]
fn a_body_that_comes_by_half_holds_one_place_until_it_is_whole_or_ends() {
    // The time of a request is far above any stall of a loaded machine: what is half sent must still be waiting.
    let served = Served::with(&[7], &["--concurrency-max", "1", "--request-seconds-max", "300"]);
    served.wait_until_ready();
    let body = r#"{"context":{},"candidates":[{}]}"#;
    let mut other = served.client();
    let mut half = served.client();
    let rest = half.begin("/v1/rank", body);
    // Who asks before the half has its place may take it, and the half is what is refused then.
    wait_for("the half to have its place", || in_flight(&mut other).then_some(()));
    let busy = other.post("/v1/rank", body);
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("1")));
    assert!(busy.error().contains("1 requests are being answered already"), "{}", busy.error());
    assert_eq!(other.get("/v2/health/ready").status, 200, "health needs no place");
    half.send(rest);
    assert_eq!(half.reply().status, 200);
    wait_for("the place to be free again", || (other.post("/v1/rank", body).status == 200).then_some(()));
    // And one that ends early.
    let mut half = served.client();
    half.begin("/v1/rank", body);
    half.finish();
    assert!(half.is_closed() || half.reply().status == 400);
    wait_for("the place to be free again", || (other.post("/v1/rank", body).status == 200).then_some(()));
}

#[test]
fn a_body_that_comes_by_half_is_given_up_in_time() {
    let served = Served::with(&[7], &["--concurrency-max", "1", "--request-seconds-max", "1"]);
    served.wait_until_ready();
    let body = r#"{"context":{},"candidates":[{}]}"#;
    let mut half = served.client();
    half.begin("/v1/rank", body);
    let late = half.reply();
    assert!(late.status == 408 && late.error().contains("within 1 s"), "{}", late.status);
    assert!(half.is_closed());
    let mut other = served.client();
    wait_for("the place to be free again", || (other.post("/v1/rank", body).status == 200).then_some(()));
}

#[test]
fn a_server_that_is_asked_to_end_finishes_what_has_begun_and_exits_0() {
    let served = Served::with(&[7], &["--drain-seconds", "1"]);
    served.wait_until_ready();
    let body = r#"{"context":{},"candidates":[{}]}"#;
    let (mut begun, mut watching) = (served.client(), served.client());
    assert_eq!(watching.get("/v2/health/ready").status, 200);
    let rest = begun.begin("/v1/rank", body);
    served.process.signal("-TERM");
    wait_for("unreadiness", || (watching.get("/v2/health/ready").status == 503).then_some(()));
    assert_eq!(watching.post("/v1/rank", body).status, 200, "while it drains it answers");
    let address = served.address;
    wait_for("no connection to be taken", || std::net::TcpStream::connect(address).is_err().then_some(()));
    begun.send(rest);
    assert_eq!(begun.reply().status, 200);
    assert_eq!(served.process.wait().code, Some(0));
}

#[test]
fn a_key_meets_one_arm_and_arms_have_their_shares() {
    let served = Served::with(&[1, 2], &["--arm", "old=1:0.25", "--arm", "new=latest:0.75"]);
    served.wait_until_ready();
    let mut client = served.client();
    let arm_of = |reply: &Reply| {
        let answer = reply.json();
        let about = if answer["parameters"].is_object() { &answer["parameters"] } else { &answer };
        let (arm, version) = (about["arm"].as_str().expect("it names its arm").to_owned(), &about["version"]);
        assert_eq!(*version, json!(if arm == "old" { 1 } else { 2 }));
        arm
    };
    let mut old = 0;
    for key in 0..400 {
        let body = format!(r#"{{"request_id":"r{key}","context":{{}},"candidates":[{{}}]}}"#);
        let arm = arm_of(&client.post("/v1/rank", &body));
        let by_header = [("X-Deepfm-Key", format!("r{key}"))];
        let headers = by_header.each_ref().map(|(name, value)| (*name, value.as_str()));
        let other = client.request("POST", "/v1/rank", &headers, br#"{"context":{},"candidates":[]}"#);
        let infer = format!(
            r#"{{"parameters":{{"key":"r{key}"}},"inputs":[{{"name":"user","datatype":"BYTES","shape":[1],"data":["u"]}}]}}"#
        );
        let inferred = client.post("/v2/models/ctr/infer", &infer);
        assert_eq!((arm_of(&other), arm_of(&inferred)), (arm.clone(), arm.clone()), "r{key}");
        old += u32::from(arm == "old");
    }
    assert!((60..140).contains(&old), "{old} of 400 met an arm with a quarter");
    let both = client.get("/v2/models/ctr").json();
    assert_eq!(both["versions"], json!(["1", "2"]));
    assert_eq!(arm_of(&client.post("/v2/models/ctr/versions/1/infer", &rows_request())), "old");
    let usage = |arms: &[&str]| {
        let directory = served.directory().display().to_string();
        let serve = ["serve", "--versions", &directory, "--model", "ctr", "--listen", "127.0.0.1:0"];
        run(&[&serve, arms].concat())
    };
    // Where both serve one version, the key's arm is named.
    let same = Served::with(&[1], &["--arm", "old=1:0.25", "--arm", "new=latest:0.75"]);
    same.wait_until_ready();
    let mut client = same.client();
    for key in 0..20 {
        let key = format!("r{key}");
        let mut named = |path: &str| {
            let reply = client.request("POST", path, &[("X-Deepfm-Key", &key)], rows_request().as_bytes());
            reply.json()["parameters"]["arm"].clone()
        };
        assert_eq!(named("/v2/models/ctr/versions/1/infer"), named("/v2/models/ctr/infer"), "{key}");
    }
    for arms in [&["--arm", "a=1:0.5"][..], &["--arm", "a=1"], &["--target", "live"]] {
        assert_eq!(usage(arms).code, Some(2), "{arms:?}");
    }
}

#[test]
fn a_server_follows_what_a_worker_publishes_to_the_topic() {
    let name = "a_server_follows_what_a_worker_publishes_to_the_topic";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka_with_topics("served", 1), simulated_fields());
    let events = place.path("events").display().to_string();
    assert_eq!(run(&["events", "simulate", "--out", &events, "--count", "4000", "--rate", "200"]).code, Some(0));
    let config = place.config("served", "");
    assert_eq!(run(&["events", "send", "--config", &config, "--events", &events]).code, Some(0));
    let summary = run(&["run", "--config", &config, "--until-end", "--json"]).json();
    let newest = summary["versions"].as_array().and_then(|versions| versions.last()).expect("one was cut").clone();
    let log = place.path("log");
    let target = newest.to_string();
    let serve = ["serve", "--config", &config, "--listen", "127.0.0.1:0", "--target", &target];
    let process = Running::start_logged(&serve, &log);
    let address = address_in(&log);
    let mut client = Client::connect(address);
    wait_for("readiness", || (client.get("/v2/health/ready").status == 200).then_some(()));
    let answer =
        client.post("/v1/rank", r#"{"context":{"user":"u1"},"candidates":[{"item":"i1"},{"item":"i2"}]}"#).json();
    assert_eq!((&answer["version"], &answer["unknown_fields"]), (&newest, &json!(0)));
    let scores = answer["scores"].as_array().expect("a list");
    assert!(scores.len() == 2 && scores.iter().all(|score| score.as_f64().is_some_and(|p| p > 0.0 && p < 1.0)));
    assert_eq!(process.terminate().code, Some(0));
}

#[test]
fn the_configuration_says_what_arguments_do_not() {
    // Nobody is there: a server waits for its brokers, and answers meanwhile.
    let nobody = Kafka { brokers: "127.0.0.1:1".to_owned(), ..Config::default().kafka };
    let place = Place::new(nobody, simulated_fields());
    let section = "[serve]\nlisten = \"127.0.0.1:0\"\nbody_bytes_max = 100\nname = \"configured\"\n\
                   arms = [\"old=1:0.5\", \"new=live:0.5\"]\n";
    let config = place.config("settled", section);
    let serve = |name: &str, arguments: &[&str]| {
        let log = place.path(name);
        let process = Running::start_logged(&[&["serve", "--config", &config], arguments].concat(), &log);
        let mut client = Client::connect(address_in(&log));
        let status = client.get("/status").json();
        let arms = status["arms"].as_array().expect("a list").iter();
        let arms: Vec<String> = arms.map(|arm| format!("{} {}", arm["arm"], arm["target"]).replace('"', "")).collect();
        let too_long = client.request("POST", "/v1/rank", &[], &[b' '; 200]).status;
        (process, arms, status["acknowledgements"]["server"].clone(), too_long)
    };
    let (configured, arms, name, too_long) = serve("configured", &[]);
    assert_eq!((arms, name, too_long), (vec!["old 1".to_owned(), "new live".to_owned()], json!("configured"), 413));
    assert_eq!(configured.terminate().code, Some(0));
    let arguments = ["--target", "latest", "--name", "given", "--body-bytes-max", "1000", "--acknowledge-seconds", "7"];
    let (given, arms, name, too_long) = serve("given", &arguments);
    assert_eq!((arms, name), (vec!["default latest".to_owned()], json!("given")));
    // It fits, and is no ranking; or there is no version yet.
    assert_ne!(too_long, 413);
    assert_eq!(given.terminate().code, Some(0));
    let (silent, _, name, _) = serve("silent", &["--acknowledge-seconds", "0"]);
    assert_eq!(name, Value::Null, "nobody is told");
    assert_eq!(silent.terminate().code, Some(0));
}

/// Sends at a fixed rate until told to stop; how many requests, and how many versions were seen.
fn load(address: SocketAddr, oracle: &[f64], is_over: &AtomicBool) -> (u64, u64) {
    const PERIOD: Duration = Duration::from_millis(5);
    let mut client = Client::connect(address);
    let candidates = ROWS.join(",");
    let rank = format!(r#"{{"context":{{}},"candidates":[{candidates}]}}"#);
    let (mut newest, mut seen, mut requests) = (0, 0, 0_u64);
    let mut next = Instant::now();
    while !is_over.load(Ordering::Acquire) {
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
        next += PERIOD;
        let (version, logits): (u64, Vec<f64>) = if requests.is_multiple_of(2) {
            let reply = client.post("/v1/rank", &rank);
            assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
            let answer = reply.json();
            let scores = answer["scores"].as_array().expect("a list").iter().filter_map(Value::as_f64);
            (answer["version"].as_u64().expect("a number"), scores.map(|p| (p / (1.0 - p)).ln()).collect())
        } else {
            let reply = client.post("/v2/models/ctr/infer", &rows_request());
            assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
            let answer = reply.json();
            let version = answer["model_version"].as_str().expect("a text").parse().expect("a number");
            (version, output(&answer, "logit").iter().filter_map(Value::as_f64).collect())
        };
        assert!(version >= newest, "from {newest} back to {version}");
        seen += u64::from(version > newest);
        newest = version;
        assert_eq!(logits.len(), oracle.len());
        for (found, base) in logits.iter().zip(oracle) {
            let expected = base + (version % 1000) as f64 * 0.01;
            assert!(near(&json!(found), expected), "version {version}: {found}, expected {expected}");
        }
        requests += 1;
    }
    (requests, seen)
}

/// 60 s with `DEEPFM_TORTURE=1`, else 8.
#[test]
fn reload_every_200_ms_under_load_drops_no_request_and_every_score_is_its_versions() {
    const PERIOD: Duration = Duration::from_millis(200);
    const KEPT: usize = 5;
    let served = Served::with(&[1], &[]);
    served.wait_until_ready();
    let oracle = Oracle::of(&served.base).logits();
    let is_over = AtomicBool::new(false);
    let versions = 5 * rounds(8, 60) as u64;
    std::thread::scope(|scope| {
        let clients = [(); 3].map(|()| scope.spawn(|| load(served.address, &oracle, &is_over)));
        let mut installed = Vec::new();
        let mut next = Instant::now();
        let mut bad = 0_u64;
        for number in 2..2 + versions {
            std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
            next += PERIOD;
            let (name, files) = if number.is_multiple_of(10) {
                bad += 1;
                broken(&served.base, number, way(number / 10))
            } else {
                let files = numbered(&served.base, number);
                (name_of(&files), files)
            };
            installed.push(install_as(&served.directory(), &name, &files));
            if installed.len() > KEPT {
                fs::remove_dir_all(installed.remove(0)).expect("it is ours");
            }
        }
        is_over.store(true, Ordering::Release);
        for client in clients {
            let (requests, seen) = client.join().expect("every answer was right");
            println!("{requests} requests, {seen} versions seen, {bad} of {versions} broken");
            assert!(requests > 100 && seen > versions / 2, "{requests} requests, {seen} of {versions} versions seen");
        }
    });
}

#[test]
fn the_stock_python_client_scores_in_json_and_binary() {
    let name = "the_stock_python_client_scores_in_json_and_binary";
    let packages = ["tritonclient[http]>=2.50", "numpy>=1.24"];
    let Some(python) = python::with(name, "tritonclient", &packages, "import tritonclient.http") else { return };
    let served = Served::with(&[7], &[]);
    served.wait_until_ready();
    let oracle = served.oracle(7);
    let expected: Vec<f64> = COLUMN_ROWS.iter().map(|row| oracle.logit(row)).collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/serving/client.py");
    let output = Command::new(python)
        .arg(script)
        .arg(served.address.to_string())
        .arg(json!({"rows": COLUMN_ROWS, "logits": expected, "version": "7"}).to_string())
        .output()
        .expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok 8");
}

/// The address of the port of gRPC, which a server says in its log.
fn grpc_address_in(log: &Path) -> SocketAddr {
    wait_for("the address of gRPC", || {
        let said = fs::read_to_string(log).unwrap_or_default();
        let (_, address) = said.split_once("by gRPC at ")?;
        address.split_once(char::is_whitespace)?.0.parse().ok()
    })
}

/// A Python with the stock client of gRPC.
fn grpc_python(test: &str) -> Option<PathBuf> {
    // Several tests want it, and it is made once.
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let packages = ["tritonclient[grpc]>=2.50", "numpy>=1.24"];
    FOUND.get_or_init(|| python::with(test, "tritonclient-grpc", &packages, "import tritonclient.grpc")).clone()
}

const GRPC: [&str; 2] = ["--grpc-listen", "127.0.0.1:0"];

#[test]
fn the_stock_grpc_client_scores_and_every_request_that_does_not_fit_has_a_status_and_a_reason() {
    let name = "the_stock_grpc_client_scores_and_every_request_that_does_not_fit_has_a_status_and_a_reason";
    let Some(python) = grpc_python(name) else { return };
    let served = Served::with(&[7], &[&GRPC[..], &["--rows-max", "3", "--body-bytes-max", "100000"]].concat());
    served.wait_until_ready();
    let oracle = served.oracle(7);
    let expected: Vec<f64> = COLUMN_ROWS.iter().map(|row| oracle.logit(row)).collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/serving/grpc_client.py");
    let output = Command::new(python)
        .arg(script)
        .arg(grpc_address_in(&served.root.path().join("log")).to_string())
        .arg(json!({"rows": COLUMN_ROWS, "logits": expected, "version": "7"}).to_string())
        .output()
        .expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok 33");
    let metrics = String::from_utf8(served.client().get("/metrics").body).expect("it is text");
    for series in [
        "deepfm_serve_requests_total{model=\"ctr\",endpoint=\"grpc ModelInfer\",status=\"0\"}",
        "deepfm_serve_requests_total{model=\"ctr\",endpoint=\"grpc ModelInfer\",status=\"3\"}",
        "deepfm_serve_requests_total{model=\"ctr\",endpoint=\"grpc none\",status=\"12\"} 2",
    ] {
        assert!(metrics.contains(series), "{series} is not in {metrics}");
    }
    assert_eq!(served.process.terminate().code, Some(0));
}

/// Begins a request and sends half of it; says what becomes of it, and what a server answers meanwhile.
const HALF: &str = r#"
import sys, threading, queue
import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

channel = grpc.insecure_channel(sys.argv[1])
stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
contents = service_pb2.InferTensorContents(bytes_contents=[b"u1"])
tensor = service_pb2.ModelInferRequest.InferInputTensor(name="user", datatype="BYTES", shape=[1], contents=contents)
request = service_pb2.ModelInferRequest(model_name="ctr", inputs=[tensor])
pieces = queue.Queue()
# A stream of requests to a method of one: it is not over until it is closed.
half = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer", response_deserializer=service_pb2.ModelInferResponse.FromString)
begun = half.future(iter(pieces.get, None))
print("begun", flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "ask":
        try:
            print(stub.ModelInfer(request).model_version, flush=True)
        except grpc.RpcError as error:
            print(error.code().name, error.details(), flush=True)
    elif word == "ready":
        try:
            print(stub.ServerReady(service_pb2.ServerReadyRequest()).ready, flush=True)
        except grpc.RpcError as error:
            print(error.code().name, flush=True)
    elif word == "finish":
        pieces.put(request.SerializeToString())
        pieces.put(None)
        try:
            print(begun.result().model_version, flush=True)
        except grpc.RpcError as error:
            print(error.code().name, error.details(), flush=True)
    elif word == "fail":
        print(begun.code().name, begun.details(), flush=True)
"#;

/// A client that has begun a request.
struct Half {
    _process: Running,
    words: std::process::ChildStdin,
    said: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Half {
    fn begin(python: &Path, address: SocketAddr) -> Self {
        let (mut words, mut said) = (None, None);
        let process =
            Running::piped(Command::new(python).args(["-c", HALF, &address.to_string()]), &mut words, &mut said);
        let said = std::io::BufRead::lines(std::io::BufReader::new(said.expect("it was piped")));
        let mut half = Self { _process: process, words: words.expect("it was piped"), said };
        assert_eq!(half.next(), "begun");
        half
    }

    fn next(&mut self) -> String {
        self.said.next().expect("it answers").expect("it is text")
    }

    fn say(&mut self, word: &str) -> String {
        std::io::Write::write_all(&mut self.words, format!("{word}\n").as_bytes()).expect("it listens");
        self.next()
    }
}

#[test]
fn a_grpc_request_that_comes_by_half_holds_one_place_and_is_finished_when_the_server_ends() {
    let name = "a_grpc_request_that_comes_by_half_holds_one_place_and_is_finished_when_the_server_ends";
    let Some(python) = grpc_python(name) else { return };
    let limits = ["--concurrency-max", "1", "--request-seconds-max", "300", "--drain-seconds", "5"];
    let served = Served::with(&[7], &[&GRPC[..], &limits].concat());
    served.wait_until_ready();
    let address = grpc_address_in(&served.root.path().join("log"));
    let mut half = Half::begin(&python, address);
    let mut watching = served.client();
    wait_for("the half to have its place", || in_flight(&mut watching).then_some(()));
    assert_eq!(half.say("ask"), "UNAVAILABLE 1 requests are being answered already");
    assert_eq!(half.say("ready"), "True", "health needs no place");
    served.process.signal("-TERM");
    wait_for("unreadiness", || (watching.get("/v2/health/ready").status == 503).then_some(()));
    assert_eq!(half.say("ready"), "False", "while it drains it answers");
    wait_for("no connection to be taken", || std::net::TcpStream::connect(address).is_err().then_some(()));
    assert_eq!(half.say("finish"), "7");
    assert_eq!(served.process.wait().code, Some(0));
}

#[test]
fn a_grpc_request_that_comes_by_half_is_given_up_in_time() {
    let name = "a_grpc_request_that_comes_by_half_is_given_up_in_time";
    let Some(python) = grpc_python(name) else { return };
    let served = Served::with(&[7], &[&GRPC[..], &["--concurrency-max", "1", "--request-seconds-max", "1"]].concat());
    served.wait_until_ready();
    let mut half = Half::begin(&python, grpc_address_in(&served.root.path().join("log")));
    assert_eq!(half.say("fail"), "DEADLINE_EXCEEDED the body did not come whole within 1 s");
    wait_for("the place to be free again", || (half.say("ask") == "7").then_some(()));
}
