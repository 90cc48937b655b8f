//! Serving in process: look-ups, rankings, and reloads of a version of a million rows while rankings go on. Needs no feature:
//! `cargo bench --bench serving --no-default-features`.
//!
//! A ranking has 10 fields of context, and 100 candidates of 10 fields: 16 KB of JSON. All of it runs on one core beside the thread
//! that follows versions.

mod made;
mod rankings;

use std::hint::black_box;
use std::time::{Duration, Instant};

use deepfm_core::feature::hash::mix64;
use deepfm_core::version::row_index::RowIndex;
use deepfm_stream::serve::{FollowOptions, Server, Target};
use made::{install, version};
use rankings::rankings;

const ROWS: usize = 1_000_000;
const REQUESTS: usize = 20_000;
const RELOAD: Duration = Duration::from_millis(500);

/// Look-ups of ids of which four in five have a row.
fn look_ups(ids: &[u64]) {
    let start = Instant::now();
    let linear = vec![0.5; ids.len()];
    let index = RowIndex::new(ids, &linear).expect("they are few");
    let built = start.elapsed();
    let asked: Vec<u64> =
        (0..1_000_000_u64).map(|n| if n % 5 == 0 { mix64(n) } else { ids[mix64(n) as usize % ids.len()] }).collect();
    let time = |find: &dyn Fn(u64) -> Option<usize>| {
        let best = (0..5).map(|_| {
            let start = Instant::now();
            black_box(asked.iter().filter_map(|id| find(*id)).sum::<usize>());
            start.elapsed()
        });
        best.min().unwrap_or_default().as_nanos() as f64 / asked.len() as f64
    };
    let (indexed, binary) = (
        time(&|id| index.find(ids, &linear, id).map(|(row, _)| row as usize)),
        time(&|id| ids.binary_search(&id).ok()),
    );
    println!("look-up among {} rows: {indexed:.0} ns, binary search {binary:.0} ns", ids.len());
    println!("index: {:.1} bytes a row, built in {built:.1?}", index.weight() as f64 / ids.len() as f64);
}

/// Ranks on and on; how many a second, and the 50th and 99th percentile.
fn rank(server: &Server, bodies: &[String], label: &str) -> Duration {
    let mut scorer = server.scorer();
    let mut times = Vec::with_capacity(REQUESTS);
    let start = Instant::now();
    for number in 0..REQUESTS {
        let begun = Instant::now();
        let ranked = scorer.rank_body(bodies[number % bodies.len()].as_bytes()).expect("it is valid");
        black_box(ranked.probabilities().sum::<f64>());
        times.push(begun.elapsed());
    }
    let rate = REQUESTS as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    let (p50, p99) = (times[REQUESTS / 2], times[REQUESTS * 99 / 100]);
    println!("rankings {label}: {rate:.0} a second, p50 {p50:.1?}, p99 {p99:.1?}");
    p99
}

fn main() {
    look_ups(&made::ids(ROWS));
    let (files, manifest) = version(ROWS);
    let root = tempfile::tempdir().expect("a directory of our own");
    let first = install(root.path(), &files, &manifest, None, 1);
    let options = FollowOptions { target: Target::Latest, ..FollowOptions::new("bench") };
    let server = Server::follow_directory(root.path(), options).expect("it can be followed so");
    while server.model().is_none() {
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let bodies = rankings(ROWS, 500);
    println!("a ranking has {} bytes", bodies[0].len());
    rank(&server, &bodies, "at first");
    let quiet = rank(&server, &bodies, "without reloads");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let mut loads = Vec::new();
    let busy = std::thread::scope(|scope| {
        let reloading = scope.spawn(|| {
            let mut number = 1;
            while !is_over.load(std::sync::atomic::Ordering::Acquire) {
                number += 1;
                let shown = Instant::now();
                install(root.path(), &files, &manifest, Some(&first), number);
                while server.status().serving != Some(number) {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                loads.push(shown.elapsed());
                std::thread::park_timeout(RELOAD);
            }
        });
        let busy = rank(&server, &bodies, "with reloads");
        is_over.store(true, std::sync::atomic::Ordering::Release);
        reloading.join().expect("they are loaded");
        busy
    });
    loads.sort_unstable();
    let (half, most) = (loads[loads.len() / 2], loads[loads.len() - 1]);
    println!("{} reloads, shown to serving: half within {half:.0?}, all within {most:.0?}", loads.len());
    println!("p99 with reloads over without: {:.2}", busy.as_secs_f64() / quiet.as_secs_f64());
}
