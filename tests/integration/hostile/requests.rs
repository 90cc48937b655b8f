//! Fuzzing of request bodies: whatever comes is answered by the reference server, with scores or with why not, and the next
//! request has its scores.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};

use deepfm_stream::http::registry::MetricRegistry;
use deepfm_stream::serve::http::arms::{ArmSpec, Arms, ONLY};
use deepfm_stream::serve::http::{HttpServer, ServeLimits};
use deepfm_stream::serve::{AcknowledgementBoard, FollowOptions, Server, Target};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::fuzz::{damaged, damages, edited, edits, few};
use crate::integration::reload::{ROWS, install, numbered};
use crate::integration::versions::artefact;
use crate::support::http::{Client, Reply};
use crate::support::wait_for;

/// A server of one version in this process, for all cases.
static ADDRESS: LazyLock<SocketAddr> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let root = tempfile::tempdir().expect("a directory of our own");
        install(root.path(), &numbered(&artefact(1, 0).files, 7));
        let options = FollowOptions { target: Target::Latest, rows_max: 100, ..FollowOptions::new("ctr") };
        let server = Server::follow_directory(root.path(), options).expect("it can be followed so");
        wait_for("the version", || server.model());
        let arm = ArmSpec { name: ONLY.to_owned(), target: Target::Latest, share: 1.0 };
        let (arms, registry) = (Arms::new(vec![(arm, server)]), MetricRegistry::of("ctr").1);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let (limits, board) = (ServeLimits::default(), AcknowledgementBoard::default());
            let server = HttpServer::bind(any, None, "ctr", arms, limits, registry, board).await.expect("a free port");
            sender.send(server.address().expect("it is bound")).expect("it is waited for");
            server.serve(std::future::pending(), std::time::Duration::ZERO).await;
        });
    });
    receiver.recv().expect("the server starts")
});

static CLIENT: LazyLock<Mutex<Client>> = LazyLock::new(|| Mutex::new(Client::connect(*ADDRESS)));

fn documents() -> Vec<Value> {
    let rows: Vec<Value> = ROWS.iter().map(|row| serde_json::from_str(row).expect("it is JSON")).collect();
    let columns = json!([
        {"name": "user", "datatype": "BYTES", "shape": [2], "data": ["u1", ""]},
        {"name": "tags", "datatype": "BYTES", "shape": [2, 2], "data": [["a1", "b2"], ["a2", ""]]},
    ]);
    vec![
        json!({"request_id": "r1", "context": {"user": "u1"}, "candidates": [{"tags": ["a1"]}, {"tags": {"b2": 0.5}}, {}]}),
        json!({"context": {}, "candidates": rows}),
        json!({"inputs": [{"name": "features", "datatype": "BYTES", "shape": [ROWS.len()], "data": ROWS}]}),
        json!({"id": "r1", "parameters": {"key": "k"}, "inputs": columns, "outputs": [{"name": "logit"}]}),
        json!({"inputs": [{"name": "user", "datatype": "INT64", "shape": [3, 1], "data": [1, -2, 3]}]}),
        json!({"inputs": [{"name": "user", "datatype": "FP32", "shape": [2], "data": [0.5, 1e30]}]}),
    ]
}

/// A whole answer in JSON: with as many finite scores as it says, or with the reason why there are none.
fn check(reply: &Reply, json_bytes: Option<usize>) {
    let answer: Value = serde_json::from_slice(&reply.body[..json_bytes.unwrap_or(reply.body.len())])
        .unwrap_or_else(|error| panic!("{error}: {} {}", reply.status, String::from_utf8_lossy(&reply.body)));
    match reply.status {
        200 => {
            assert_eq!(answer["version"].as_u64().or(answer["parameters"]["version"].as_u64()), Some(7), "{answer}");
            let scores = answer["scores"].as_array().or(answer["outputs"][0]["data"].as_array());
            assert!(scores.is_none_or(|scores| scores.iter().all(Value::is_number)), "{answer}");
        }
        400 => assert!(answer["error"].as_str().is_some_and(|reason| !reason.is_empty()), "{answer}"),
        other => panic!("{other}: {answer}"),
    }
}

fn answered(path: &str, headers: &[(&str, &str)], body: &[u8]) {
    let mut client = CLIENT.lock().unwrap_or_else(PoisonError::into_inner);
    let reply = client.request("POST", path, headers, body);
    check(&reply, reply.header("inference-header-content-length").and_then(|length| length.parse().ok()));
}

const RANK: &str = "/v1/rank";
const INFER: &str = "/v2/models/ctr/infer";
const WHOLE: &[u8] = br#"{"context":{"user":"u1"},"candidates":[{"tags":["a1"]}]}"#;

proptest! {
    #![proptest_config(few(300, 40_000))]

    #[test]
    fn no_body_of_a_request_harms_a_server(
        document in select(documents()),
        edits in proptest::option::of(edits()),
        damages in proptest::option::of(damages()),
        path in select(vec![RANK, INFER]),
    ) {
        let body = edited(document, edits.as_deref().unwrap_or_default()).to_string();
        answered(path, &[], &damaged(body.into_bytes(), damages.as_deref().unwrap_or_default()));
        answered(RANK, &[], WHOLE);
    }

    #[test]
    fn no_binary_tensor_harms_a_server(
        kind in select(vec!["BYTES", "BOOL", "INT8", "INT64", "UINT16", "UINT64", "FP32", "FP64"]),
        field in select(vec!["user", "tags", "features"]),
        shape in proptest::collection::vec(prop_oneof![0_u64..5, Just(u64::MAX)], 0..4),
        tail in proptest::collection::vec(any::<u8>(), 0..64),
        stated in proptest::option::of(0_usize..80),
        json_length in proptest::option::of(0_usize..300),
        texts in proptest::collection::vec(".{0,6}", 0..5),
        is_text in any::<bool>(),
    ) {
        let framed = texts.iter().flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat());
        let tail = if is_text { framed.collect() } else { tail };
        let size = stated.unwrap_or(tail.len());
        let json = json!({
            "inputs": [{"name": field, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": size}}],
            "parameters": {"binary_data_output": true},
        })
        .to_string();
        let length = json_length.unwrap_or(json.len()).to_string();
        let headers = [("Inference-Header-Content-Length", length.as_str())];
        answered(INFER, &headers, &[json.as_bytes(), &tail].concat());
        answered(RANK, &[], WHOLE);
    }
}
