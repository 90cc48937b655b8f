//! `deepfm serve`: the reference server as a process: what to follow, where to listen, signals, exit codes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deepfm_stream::config::Config;
use deepfm_stream::config::serve::Serve;
use deepfm_stream::serve::http::arms::{ArmSpec, Arms, ONLY, check};
use deepfm_stream::serve::http::{HttpServer, ServeLimits, metrics};
use deepfm_stream::serve::{
    AcknowledgementBoard, Acknowledger, FollowOptions, RemoteOptions, Required, Server, Target, WatchedArm,
};

use super::config;
use super::failure::{Exit, Failure, OrExit};

/// Follow the published versions of a model and score requests over HTTP: the Open Inference Protocol v2 and POST /v1/rank. With a
/// configuration the versions topic is followed; with --versions a directory, without Kafka. SIGTERM stops taking requests, finishes
/// those that have begun and exits 0.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration file: model, versions.dir and the sections kafka, storage and serve are read; arguments win over the
    /// latter.
    #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG", required_unless_present = "versions")]
    config: Option<PathBuf>,
    /// Follow this directory of versions, such as versions/clicks, instead of a topic.
    #[arg(long, value_name = "DIR", requires = "model", conflicts_with = "config")]
    versions: Option<PathBuf>,
    /// The model's name, with --versions.
    #[arg(long, value_name = "NAME", requires = "versions")]
    model: Option<String>,
    /// Fetch what is not on this machine from object storage (`storage.fetch_uri`, `storage.uri`) into this directory, which is for
    /// this server alone.
    #[arg(long, value_name = "DIR", requires = "config")]
    cache: Option<String>,
    /// The most bytes that are fetched of a version with all that it stands on [default: 68719476736]
    #[arg(long, value_name = "N", requires = "config", value_parser = clap::value_parser!(u64).range(1..))]
    fetch_bytes_max: Option<u64>,
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
    /// Where to listen. There is no authentication: keep it local or private. Port 0 takes a free one [default: 127.0.0.1:8000]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Where to listen for gRPC; it is off unless given. Port 0 takes a free one.
    #[arg(long, value_name = "IP:PORT")]
    grpc_listen: Option<SocketAddr>,
    /// The most connections; others wait [default: 1024]
    #[arg(long, value_name = "N", value_parser = positive)]
    connections_max: Option<usize>,
    /// The most requests that are read or scored at once; others are answered 503 [default: 256]
    #[arg(long, value_name = "N", value_parser = positive)]
    concurrency_max: Option<usize>,
    /// The most bytes of a request's body [default: 8388608]
    #[arg(long, value_name = "N", value_parser = positive)]
    body_bytes_max: Option<usize>,
    /// The most rows or candidates of a request [default: 10000]
    #[arg(long, value_name = "N", value_parser = positive)]
    rows_max: Option<usize>,
    /// How long a request may take to arrive [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    request_seconds_max: Option<u64>,
    /// How long after SIGTERM requests are taken still, while the server says that it is not ready [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=3600))]
    drain_seconds: Option<u64>,
    /// What the server calls itself when it says what it serves [default: its host and port]
    #[arg(long, value_name = "NAME", requires = "config")]
    name: Option<String>,
    /// How often it says so, beside each swap; 0 is never [default: 30]
    #[arg(long, value_name = "N", requires = "config", value_parser = clap::value_parser!(u64).range(0..=3600))]
    acknowledge_seconds: Option<u64>,
}

/// The most that a semaphore counts is far beyond what a machine has.
fn positive(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| (1..=1 << 40).contains(number));
    number.ok_or_else(|| "it is a number from 1".to_owned())
}

impl Args {
    /// The section of the configuration, with what was given here in place of its keys.
    fn over(&self, config: Option<&Config>) -> Serve {
        let section = config.map_or_else(
            // A directory has no aliases.
            || Serve { target: Target::Latest.to_string(), ..Serve::default() },
            |config| config.serve.clone(),
        );
        let arms = match (self.arms.as_slice(), &self.target) {
            ([], None) => section.arms,
            ([], Some(_)) => Vec::new(),
            (arms, _) => arms.to_vec(),
        };
        Serve {
            listen: self.listen.unwrap_or(section.listen),
            grpc_listen: self.grpc_listen.or(section.grpc_listen),
            target: self.target.clone().unwrap_or(section.target),
            arms,
            require_fields: self.require_fields.clone().unwrap_or(section.require_fields),
            require_configuration: self.require_configuration.clone().unwrap_or(section.require_configuration),
            cache: self.cache.clone().unwrap_or(section.cache),
            fetch_bytes_max: self.fetch_bytes_max.unwrap_or(section.fetch_bytes_max),
            connections_max: self.connections_max.unwrap_or(section.connections_max),
            concurrency_max: self.concurrency_max.unwrap_or(section.concurrency_max),
            body_bytes_max: self.body_bytes_max.unwrap_or(section.body_bytes_max),
            rows_max: self.rows_max.unwrap_or(section.rows_max),
            request_seconds_max: self.request_seconds_max.unwrap_or(section.request_seconds_max),
            drain_seconds: self.drain_seconds.unwrap_or(section.drain_seconds),
            name: self.name.clone().unwrap_or(section.name),
            acknowledge_seconds: self.acknowledge_seconds.unwrap_or(section.acknowledge_seconds),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let config = args.config.as_deref().map(config::load).transpose()?;
    let settings = args.over(config.as_ref());
    let model =
        config.as_ref().map_or_else(|| args.model.clone().unwrap_or_default(), |config| config.model.name.clone());
    let registry = metrics::install(&model);
    let (mut arms, mut watched) = (Vec::new(), Vec::new());
    for spec in specs(&settings)? {
        let server = follow(args, &settings, config.as_ref(), &model, &spec)?;
        watched.push(WatchedArm { arm: spec.name.clone(), target: spec.target.to_string(), watch: server.watch() });
        arms.push((spec, server));
    }
    let limits = ServeLimits {
        connections_max: settings.connections_max,
        concurrency_max: settings.concurrency_max,
        body_bytes_max: settings.body_bytes_max,
        request_max: Duration::from_secs(settings.request_seconds_max),
    };
    let board = AcknowledgementBoard::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().or_exit(Exit::Software)?;
    runtime.block_on(async {
        let (listen, grpc) = (settings.listen, settings.grpc_listen);
        let server = HttpServer::bind(listen, grpc, &model, Arms::new(arms), limits, registry, board.clone()).await;
        let places = grpc.map_or_else(|| listen.to_string(), |grpc| format!("{listen} and, for gRPC, {grpc}"));
        let server = server.or_exit_with(Exit::Configuration, format!("cannot listen at {places}"))?;
        let address = server.address().or_exit(Exit::Software)?;
        tracing::info!("serving model {model} at http://{address}");
        if let Some(grpc) = server.grpc_address().or_exit(Exit::Software)? {
            tracing::info!("and by gRPC at {grpc}");
        }
        let acknowledger = acknowledge(&settings, config.as_ref(), address, watched, board)?;
        server.serve(asked_to_stop(), Duration::from_secs(settings.drain_seconds)).await;
        tracing::info!("every request that had begun is answered");
        drop(acknowledger);
        Ok(())
    })
}

/// Tells others what is served, unless there is no topic for it or nobody wants to know.
fn acknowledge(
    settings: &Serve,
    config: Option<&Config>,
    address: SocketAddr,
    arms: Vec<WatchedArm>,
    board: AcknowledgementBoard,
) -> Result<Option<Acknowledger>, Failure> {
    let Some(config) = config.filter(|_| settings.acknowledge_seconds > 0) else { return Ok(None) };
    let name = if settings.name.is_empty() { format!("{}:{}", host(), address.port()) } else { settings.name.clone() };
    let beat = settings.acknowledge_seconds;
    let started = Acknowledger::start(&config.kafka, &config.model.name, &name, beat, arms, board);
    started.map(Some).or_exit(Exit::Usage)
}

/// The name of this host, as far as it has one that a record's key can have.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' };
    let name: String = name.trim().chars().take(100).map(plain).collect();
    if name.starts_with(|letter: char| letter.is_ascii_alphanumeric()) { name } else { "server".to_owned() }
}

/// The arms that are asked for; one, where none is.
fn specs(settings: &Serve) -> Result<Vec<ArmSpec>, Failure> {
    if settings.arms.is_empty() {
        let Ok(target) = settings.target.parse();
        return Ok(vec![ArmSpec { name: ONLY.to_owned(), target, share: 1.0 }]);
    }
    let parsed: Result<Vec<ArmSpec>, _> = settings.arms.iter().map(|arm| arm.parse()).collect();
    let specs = parsed.or_exit(Exit::Usage)?;
    check(&specs).or_exit(Exit::Usage)?;
    Ok(specs)
}

fn follow(
    args: &Args,
    settings: &Serve,
    config: Option<&Config>,
    model: &str,
    spec: &ArmSpec,
) -> Result<Server, Failure> {
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    let required =
        Required { fields: given(&settings.require_fields), configuration: given(&settings.require_configuration) };
    let options = FollowOptions {
        target: spec.target.clone(),
        required,
        rows_max: settings.rows_max,
        ..FollowOptions::new(model)
    };
    match (config, &args.versions) {
        (Some(config), _) => {
            // Two arms may follow one target: each fetches for itself.
            let arm = (!settings.arms.is_empty()).then(|| format!("arm-{}", spec.name));
            let remote = given(&settings.cache).map(|cache| RemoteOptions {
                storage: config.storage.clone(),
                cache: Path::new(&cache).join(arm.unwrap_or_default()),
                fetch_bytes_max: settings.fetch_bytes_max,
            });
            let options = FollowOptions { bounds: config.event_options().bounds(), remote, ..options };
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
