//! `deepfm serve`: the reference server as a process: what to follow, where to listen, signals, exit codes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use deepfm_stream::config::Config;
use deepfm_stream::serve::http::arms::{ArmSpec, Arms, ONLY, check};
use deepfm_stream::serve::http::{HttpServer, ServeLimits, metrics};
use deepfm_stream::serve::{FollowOptions, Required, Server, Target};

use super::config;
use super::failure::{Exit, Failure, OrExit};

/// Follow the published versions of a model and score requests over HTTP: the Open Inference Protocol v2 and POST /v1/rank. With a
/// configuration the versions topic is followed; with --versions a directory, without Kafka. SIGTERM stops taking requests, finishes
/// those that have begun and exits 0.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration file: model, versions.dir and the section kafka are read.
    #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG", required_unless_present = "versions")]
    config: Option<PathBuf>,
    /// Follow this directory of versions, such as versions/clicks, instead of a topic.
    #[arg(long, value_name = "DIR", requires = "model", conflicts_with = "config")]
    versions: Option<PathBuf>,
    /// The model's name, with --versions.
    #[arg(long, value_name = "NAME", requires = "versions")]
    model: Option<String>,
    /// What to serve: an alias of the topic, `latest`, or a version's number [default: live; of a directory latest].
    #[arg(long, value_name = "TARGET", conflicts_with = "arms")]
    target: Option<String>,
    /// An arm of a comparison, NAME=TARGET:SHARE; once for each. Shares come to 1.
    #[arg(long = "arm", value_name = "ARM")]
    arms: Vec<String>,
    /// Serve only versions with this fingerprint of the fields.
    #[arg(long, value_name = "FINGERPRINT")]
    require_fields: Option<String>,
    /// Serve only versions with this fingerprint of the configuration.
    #[arg(long, value_name = "FINGERPRINT")]
    require_configuration: Option<String>,
    /// Where to listen. There is no authentication: keep it local or private. Port 0 takes a free one.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// The most connections; others wait.
    #[arg(long, value_name = "N", default_value_t = ServeLimits::default().connections_max, value_parser = positive)]
    connections_max: usize,
    /// The most requests that are read or scored at once; others are answered 503.
    #[arg(long, value_name = "N", default_value_t = ServeLimits::default().concurrency_max, value_parser = positive)]
    concurrency_max: usize,
    /// The most bytes of a request's body.
    #[arg(long, value_name = "N", default_value_t = ServeLimits::default().body_bytes_max, value_parser = positive)]
    body_bytes_max: usize,
    /// The most rows or candidates of a request.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = positive)]
    rows_max: usize,
    /// How long a request may take to arrive.
    #[arg(long, value_name = "N", default_value_t = ServeLimits::default().request_max.as_secs(), value_parser = clap::value_parser!(u64).range(1..=3600))]
    request_seconds_max: u64,
    /// How long after SIGTERM requests are taken still, while the server says that it is not ready.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3600))]
    drain_seconds: u64,
}

/// The most that a semaphore counts is far beyond what a machine has.
fn positive(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| (1..=1 << 40).contains(number));
    number.ok_or_else(|| "it is a number from 1".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let config = args.config.as_deref().map(config::load).transpose()?;
    let model =
        config.as_ref().map_or_else(|| args.model.clone().unwrap_or_default(), |config| config.model.name.clone());
    let specs = specs(args, config.is_some())?;
    let registry = metrics::install(&model);
    let mut arms = Vec::new();
    for spec in specs {
        let server = follow(args, config.as_ref(), &model, spec.target.clone())?;
        arms.push((spec, server));
    }
    let limits = ServeLimits {
        connections_max: args.connections_max,
        concurrency_max: args.concurrency_max,
        body_bytes_max: args.body_bytes_max,
        request_max: Duration::from_secs(args.request_seconds_max),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_exit(Exit::Software)?;
    runtime.block_on(async {
        let server = HttpServer::bind(args.listen, &model, Arms::new(arms), limits, registry).await;
        let server = server.or_exit_with(Exit::Configuration, format!("cannot listen at {}", args.listen))?;
        let address = server.address().or_exit(Exit::Software)?;
        tracing::info!("serving model {model} at http://{address}");
        server.serve(asked_to_stop(), Duration::from_secs(args.drain_seconds)).await;
        tracing::info!("every request that had begun is answered");
        Ok(())
    })
}

/// The arms that are asked for; one, where none is.
fn specs(args: &Args, has_topic: bool) -> Result<Vec<ArmSpec>, Failure> {
    if args.arms.is_empty() {
        let by_default = if has_topic { Target::default() } else { Target::Latest };
        let target = args.target.as_ref().and_then(|target| target.parse().ok()).unwrap_or(by_default);
        return Ok(vec![ArmSpec { name: ONLY.to_owned(), target, share: 1.0 }]);
    }
    let parsed: Result<Vec<ArmSpec>, _> = args.arms.iter().map(|arm| arm.parse()).collect();
    let specs = parsed.or_exit(Exit::Usage)?;
    check(&specs).or_exit(Exit::Usage)?;
    Ok(specs)
}

fn follow(args: &Args, config: Option<&Config>, model: &str, target: Target) -> Result<Server, Failure> {
    let required = Required { fields: args.require_fields.clone(), configuration: args.require_configuration.clone() };
    let options = FollowOptions { target, required, rows_max: args.rows_max, ..FollowOptions::new(model) };
    match (config, &args.versions) {
        (Some(config), _) => {
            let options = FollowOptions { bounds: config.event_options().bounds(), ..options };
            Server::follow_topic(&config.kafka, &config.versions.of(model), options).or_exit(Exit::Usage)
        }
        (None, Some(versions)) => Server::follow_directory(versions, options).or_exit(Exit::Usage),
        (None, None) => Err(Failure::usage(anyhow::anyhow!("give --config or --versions"))),
    }
}

/// The first signal ends the server in order, the second at once.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be listened to");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("asked to stop: finishing the requests that have begun");
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("asked a second time: exiting at once");
        std::process::exit(130);
    });
}
