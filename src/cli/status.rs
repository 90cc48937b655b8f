//! `deepfm status`: what a worker does, by its admin port, and which server serves what, by the topic on which servers say so.

mod table;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use deepfm_core::event::plain::plain;
use deepfm_core::version::fleet::FleetRow;
use deepfm_stream::config::Config;
use deepfm_stream::config::kafka::Kafka;
use deepfm_stream::http::get::{self, GetError};
use deepfm_stream::kafka::BrokerError;
use deepfm_stream::publish::servers::{self, FleetSeen};
use deepfm_stream::publish::topic;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::failure::{Exit, Failure, OrExit as _};
use super::run::{broker_failure, topic_exit};
use super::{config, output};

/// How long brokers are asked at most: whoever wants to know what is wrong does not wait for long.
const BROKERS_SECONDS_MAX: u64 = 10;

/// The most characters that are shown of a text from outside.
const TEXT_MAX: usize = 300;

/// What the worker does, and which server serves what: how many versions it is behind what it follows, how old its version is in
/// event time, since when it serves it and when it was last heard of. Servers are shown also when the worker does not answer; the
/// exit code is 69 then.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
    config: PathBuf,
    /// Where the worker's admin port is, http://HOST:PORT [default: admin.listen]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let config = config::load(&args.config)?;
    let port = port(args, &config)?;
    let worker = port.as_ref().map(|port| get::json(port, "/status"));
    let (seen, unseen) = match Servers::read(&config) {
        Ok(seen) => (seen, None),
        Err(failure) => (Servers::unknown(&failure.words()), Some(failure)),
    };
    let now_ms = Timestamp::now().as_millisecond();
    if args.json {
        let away = worker.as_ref().and_then(|worker| worker.as_ref().err()).map(said);
        output::json(&json!({
            "url": port.as_ref().map(|port| format!("http://{port}")),
            "worker": worker.as_ref().and_then(|worker| worker.as_ref().ok()),
            "worker_away": away,
            "servers": seen.rows,
            "servers_unknown": seen.unknown,
            "passed_over": seen.passed_over,
        }))?;
    } else {
        let columns = output::columns();
        let worker = match (&port, &worker) {
            (Some(port), Some(Ok(status))) => table::worker(port, status, now_ms),
            (_, Some(Err(error))) => vec![format!("worker   {}", said(error))],
            _ => vec!["worker   not asked: admin.listen is off, or takes any port; --url says where it is".to_owned()],
        };
        let servers = match seen.unknown {
            Some(why) => vec![format!("servers  {why}")],
            None => table::servers(&seen.rows, now_ms, columns),
        };
        let passed_over = (seen.passed_over > 0)
            .then(|| format!("{} records are not what servers say, and passed over", seen.passed_over));
        let lines = worker.into_iter().chain(servers).chain(passed_over);
        output::lines(lines.map(|line| output::cut(&line, columns)))?;
    }
    let worker = worker.transpose().or_exit(Exit::Unreachable);
    worker.and(unseen.map_or(Ok(()), Err))
}

/// Where to ask the worker, if that is known.
fn port(args: &Args, config: &Config) -> Result<Option<String>, Failure> {
    if let Some(url) = &args.url {
        return get::authority(url).map(|port| Some(port.to_owned())).or_exit(Exit::Usage);
    }
    let listen = config.admin.listen.filter(|address| address.port() != 0);
    Ok(listen.map(|mut address| {
        // One that listens everywhere listens here.
        if address.ip().is_unspecified() {
            address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        address.to_string()
    }))
}

/// An error with its cause, as one line.
fn said(error: &GetError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    plain(&format!("{error}{cause}"), TEXT_MAX)
}

/// What servers say.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    pub(crate) rows: Vec<FleetRow>,
    /// Why nothing is known of them.
    unknown: Option<String>,
    passed_over: u64,
}

impl Servers {
    /// Nothing, and why.
    fn unknown(why: &str) -> Self {
        Self { unknown: Some(plain(why, TEXT_MAX)), ..Self::default() }
    }

    /// Reads what the topics say, now.
    fn read(config: &Config) -> Result<Self, Failure> {
        let kafka = Kafka {
            retry_max_seconds: config.kafka.retry_max_seconds.min(BROKERS_SECONDS_MAX),
            ..config.kafka.clone()
        };
        let model = &config.model.name;
        let mut unknown = String::new();
        let servers = || match servers::read(&kafka, model) {
            Ok(read) => Ok(Some(read)),
            Err(missing @ BrokerError::MissingTopic { .. }) => {
                unknown = missing.to_string();
                Ok(None)
            }
            Err(error) => Err(broker_failure(error)),
        };
        let versions = || topic::read(&kafka, model).map_err(|error| Failure::new(topic_exit(&error), error));
        let FleetSeen { rows, passed_over, .. } = FleetSeen::read(servers, versions)?;
        Ok(rows.map_or_else(|| Self::unknown(&unknown), |rows| Self { rows, unknown: None, passed_over }))
    }
}

/// A value of a document from elsewhere as a text for a line.
fn text(value: &Value) -> String {
    plain(&value.as_str().map_or_else(|| value.to_string(), str::to_owned), TEXT_MAX)
}
