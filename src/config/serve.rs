//! `[serve]`: the reference server.

use std::net::{Ipv4Addr, SocketAddr};

use deepfm_core::version::arms::{self, ArmSpec};
use deepfm_core::version::names;
use serde_json::json;

use super::declare::section;
use super::document::Value;
use super::kinds::{Special, whole};
use super::operation::{LISTEN, empty_for_off};
use super::section::Section;

/// The most of anything that is counted: far beyond what a machine has.
const COUNT_MAX: u64 = 1_000_000_000_000;

const ADDRESS: Special<SocketAddr> = Special {
    read: read_address,
    words: "IP:port",
    schema: || json!({"type": "string", "pattern": "^.+:[0-9]{1,5}$"}),
};

const TARGET: Special<String> = Special {
    read: |section, key| section.checked_text(key, check_target),
    words: "an alias, \"latest\" or a number",
    schema: || json!({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}),
};

const ARMS: Special<Vec<String>> = Special {
    read: read_arms,
    words: "up to 16 of \"NAME=TARGET:SHARE\"",
    schema: || json!({"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": arms::ARMS_MAX}),
};

const FINGERPRINT: Special<String> = Special {
    read: |section, key| section.text(key),
    words: "a fingerprint, or \"\"",
    schema: || json!({"type": "string", "maxLength": 100}),
};

const CACHE: Special<String> = Special {
    read: |section, key| section.text(key),
    words: "a directory, or \"\"",
    schema: || json!({"type": "string"}),
};

const NAME: Special<String> = Special {
    read: |section, key| section.checked_text(key, check_name),
    words: "a name, or \"\"",
    schema: || json!({"type": "string", "pattern": "^([A-Za-z0-9][A-Za-z0-9._:-]{0,199})?$"}),
};

section! {
    /// The reference server, `deepfm serve`. An argument of the same name wins over a key.
    Serve in "serve" {
        /// Where it listens. It has no authentication: keep it local or private. Port 0 takes a free one.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)), ADDRESS, Free;
        /// Where it listens for gRPC, as IP:port; "" is off.
        #[serde(serialize_with = "empty_for_off")]
        grpc_listen: Option<SocketAddr> = None, LISTEN, Free;
        /// What is served: an alias of the versions topic, "latest", or a version's number.
        target: String = "live".to_owned(), TARGET, Free;
        /// Arms of a comparison in place of it, each "NAME=TARGET:SHARE"; their shares come to 1.
        arms: Vec<String> = Vec::new(), ARMS, Free;
        /// Only versions with this fingerprint of the fields are served; "" asks for none.
        require_fields: String = String::new(), FINGERPRINT, Free;
        /// Only versions with this fingerprint of the configuration are served; "" asks for none.
        require_configuration: String = String::new(), FINGERPRINT, Free;
        /// A directory for this server alone, to fetch versions into that are not on this machine: from storage.fetch_uri or
        /// storage.uri. "" fetches none.
        cache: String = String::new(), CACHE, Free;
        /// The most bytes that are fetched of a version with all that it stands on.
        fetch_bytes_max: u64 = 64 << 30, whole(1, COUNT_MAX, "a version has bytes"), Free;
        /// The most connections; others wait.
        connections_max: usize = 1024, whole(1, COUNT_MAX, "without connections nobody is served"), Free;
        /// The most requests that are read or scored at once; others are answered 503.
        concurrency_max: usize = 256, whole(1, COUNT_MAX, "without requests nobody is served"), Free;
        /// The most bytes of a request's body.
        body_bytes_max: usize = 8 << 20, whole(1, COUNT_MAX, "a request has a body"), Free;
        /// The most rows or candidates of a request.
        rows_max: usize = 10_000, whole(1, COUNT_MAX, "a request has a row"), Free;
        /// How long a request may take to arrive, and its answer to be taken.
        request_seconds_max: u64 = 10, whole(1, 3600, "it is at most an hour"), Free;
        /// How long after SIGTERM requests are taken still, while the server says that it is not ready.
        drain_seconds: u64 = 0, whole(0, 3600, "it is at most an hour"), Free;
        /// What the server calls itself when it says what it serves; two servers need two names. "" is the name of its host
        /// and its port.
        name: String = String::new(), NAME, Free;
        /// How often it says so, beside each time that it has swapped a version in; one that misses three of these is shown as
        /// silent. 0 is never.
        acknowledge_seconds: u64 = 30, whole(0, 3600, "it is at most an hour; 0 is never"), Free;
    }
}

fn read_address(section: &Section<'_>, key: &str) -> Option<SocketAddr> {
    let text = section.text(key)?;
    let address = text.parse().ok();
    if address.is_none() {
        let fix = "give an IP address and a port, such as \"127.0.0.1:8000\"";
        section.refuse(key, format!("\"{text}\" is not an address to listen at"), fix);
    }
    address
}

fn check_target(text: &str) -> Result<(), (String, String)> {
    let fix = || "give an alias such as \"live\", \"latest\", or a version's number".to_owned();
    names::check_model(text).map_err(|_| (format!("\"{text}\" is nothing to follow"), fix()))
}

fn check_name(text: &str) -> Result<(), (String, String)> {
    if text.is_empty() {
        return Ok(());
    }
    let fix = || "give letters, digits, `.`, `_`, `-` or `:`, at most 200".to_owned();
    names::check_server(text).map_err(|_| (format!("\"{text}\" cannot be the name of a server"), fix()))
}

fn read_arms(section: &Section<'_>, key: &str) -> Option<Vec<String>> {
    let fix = "give each as \"NAME=TARGET:SHARE\", such as \"control=live:0.9\"";
    let mut specs: Vec<ArmSpec> = Vec::new();
    let mut texts = Vec::new();
    for item in section.list(key, fix)? {
        let Value::Text(text) = &item.value else {
            section.refuse(key, format!("{} is no arm", item.value.describe()), fix);
            return None;
        };
        match text.parse() {
            Ok(spec) => specs.push(spec),
            Err(error) => section.refuse(key, error.to_string(), fix),
        }
        texts.push(text.clone());
    }
    if specs.len() == texts.len()
        && !specs.is_empty()
        && let Err(error) = arms::check(&specs)
    {
        section.refuse(key, error.to_string(), "give each arm a name of its own, and shares that come to 1");
    }
    Some(texts)
}
