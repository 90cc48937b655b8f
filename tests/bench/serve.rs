//! `POST /v1/rank` of `deepfm serve` beside an ASGI application around ONNX Runtime (`asgi.py`): one model, the same bodies, one
//! core for either server and another for who asks, in turns. The CPU time that a request takes is told besides: it hardly depends on
//! what else the machine does. Run by `./dev bench serve`, which installs what the application needs.
//!
//! Nothing is timed before both give the same scores.

mod cores;
mod cpu;
mod made;
mod peer;
mod process;
mod rankings;
mod served;

use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use deepfm_stream::serve::{FollowOptions, Server, Target};
use peer::{CONNECTIONS, Peer, command, difference};
use process::Process;
use rankings::{CONTEXT_FIELDS, rankings};

const ROWS: usize = 1_000_000;
const BODIES: u64 = 500;

/// How often each server is asked, and how long at a time.
const ROUNDS: usize = 10;
const ROUND: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_secs(2);

/// The most by which probabilities may differ.
const AGREEMENT: f64 = 1e-4;

/// What starts a server on the first core; who asks is on the second.
const ON_FIRST_CORE: [&str; 3] = ["taskset", "-c", "0"];

fn main() {
    let Some(python) = std::env::var_os("DEEPFM_BENCH_PYTHON").map(PathBuf::from) else {
        println!("serve: run by `./dev bench serve`, which installs them");
        return;
    };
    cores::pin("1");
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory of our own");
    let (files, manifest) = made::version(ROWS);
    let version = made::install(root.path(), &files, &manifest, None, 1);
    let bodies = rankings(ROWS, BODIES);
    println!(
        "a ranking has {} bytes; {ROWS} rows; {CONNECTIONS} connections; each server on one core",
        bodies[0].len()
    );

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/asgi.py");
    let application = || {
        let mut command = command(&ON_FIRST_CORE, &python.to_string_lossy());
        command.arg(&script).arg(&version).arg(CONTEXT_FIELDS.to_string());
        command
    };
    let peers =
        [("deepfm serve", Peer::deepfm(root.path(), &ON_FIRST_CORE)), ("ASGI, ONNX Runtime", asgi(application()))];
    let differences = bodies.iter().map(|body| difference(&peers[0].1.scores(body), &peers[1].1.scores(body)));
    let most = differences.fold(0.0, f64::max);
    assert!(most <= AGREEMENT, "scores differ by {most}");
    println!("scores of {BODIES} rankings agree to {most:.1e}");

    let mut times = [Vec::new(), Vec::new()];
    let before = [0, 1].map(|peer: usize| {
        peers[peer].1.ask(&bodies, WARM_UP);
        peers[peer].1.cpu()
    });
    for round in 1..=ROUNDS {
        for ((name, peer), times) in peers.iter().zip(&mut times) {
            let found = peer.ask(&bodies, ROUND);
            println!("round {round}: {name}: {}", Figures::of(&found, ROUND));
            times.extend(found);
        }
    }
    let cpu = [0, 1].map(|peer: usize| (peers[peer].1.cpu() - before[peer]) / times[peer].len() as f64);
    let [ours, theirs] = times.map(|mut times| {
        times.sort_unstable();
        Figures::of(&times, ROUND * ROUNDS as u32)
    });
    drop(peers);
    let (own, other) = (in_process(root.path(), &bodies), in_process_python(application(), root.path(), &bodies));
    println!("\n{:<30}{:>12}{:>10}{:>10}{:>14}", "", "requests/s", "p50", "p99", "CPU each");
    for ((name, figures), cpu) in [("deepfm serve", &ours), ("ASGI, ONNX Runtime", &theirs)].into_iter().zip(cpu) {
        let Figures { rate, p50, p99 } = figures;
        println!("{name:<30}{rate:>12.0}{p50:>10.2?}{p99:>10.2?}{:>14.2?}", Duration::from_secs_f64(cpu));
    }
    println!("{:<30}{own:>12.0}", "deepfm in process");
    println!("{:<30}{other:>12.0}", "the application without HTTP");
    println!(
        "\ndeepfm serve over ASGI: {:.2} times the requests a second, {:.2} of the p50, {:.2} of the p99, {:.2} of the CPU",
        ours.rate / theirs.rate,
        ours.p50.as_secs_f64() / theirs.p50.as_secs_f64(),
        ours.p99.as_secs_f64() / theirs.p99.as_secs_f64(),
        cpu[0] / cpu[1],
    );
    println!("in process: {:.2} times ASGI, {:.2} times the application without HTTP", own / theirs.rate, own / other);
}

/// The application behind HTTP; it prints its address first of all.
fn asgi(mut application: Command) -> Peer {
    let mut process = Process::start(application.stdout(Stdio::piped()));
    let mut line = String::new();
    let read = BufReader::new(process.0.stdout.take().expect("it is piped")).read_line(&mut line);
    read.expect("it is text");
    Peer::at(process, line.trim().parse().expect("it says where it is"))
}

/// What a server has done.
struct Figures {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

impl Figures {
    /// Of ascending times.
    fn of(times: &[Duration], within: Duration) -> Self {
        let rate = times.len() as f64 / within.as_secs_f64();
        Self { rate, p50: times[times.len() / 2], p99: times[times.len() * 99 / 100] }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rate, p50, p99 } = self;
        write!(f, "{rate:.0} a second, p50 {p50:.2?}, p99 {p99:.2?}")
    }
}

/// Rankings a second of a scorer in this process, on the core of who asked.
fn in_process(versions: &Path, bodies: &[String]) -> f64 {
    let options = FollowOptions { target: Target::Latest, ..FollowOptions::new("bench") };
    let server = Server::follow_directory(versions, options).expect("it can be followed so");
    while server.model().is_none() {
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let mut scorer = server.scorer();
    let mut rank_for = |duration: Duration| {
        let (start, mut ranked) = (Instant::now(), 0_u32);
        while start.elapsed() < duration {
            let body = &bodies[ranked as usize % bodies.len()];
            let scores = scorer.rank_body(body.as_bytes()).expect("it is valid");
            black_box(scores.probabilities().sum::<f64>());
            ranked += 1;
        }
        f64::from(ranked) / start.elapsed().as_secs_f64()
    };
    rank_for(WARM_UP);
    rank_for(ROUND)
}

/// The same of the application, without HTTP.
fn in_process_python(mut application: Command, root: &Path, bodies: &[String]) -> f64 {
    let lines = root.join("bodies");
    std::fs::write(&lines, bodies.join("\n")).expect("the disk takes it");
    application.args(["--in-process", &ROUND.as_secs().to_string()]);
    let output = application.stdin(File::open(&lines).expect("it is there")).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().unwrap_or_else(|_| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}
