//! The demo's view: a block of lines that stays in its place on a terminal, a line every few seconds elsewhere, nothing
//! beside the document for `--json`.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::server::Served;
use deepfm_stream::artefacts::{Artefacts, Shelf};
use deepfm_stream::simulate::BayesTally;
use deepfm_stream::worker::status::Status;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The most points of the curve, each a character.
const POINTS_MAX: usize = 32;

/// Scored impressions of a point of the curve, while there are few: with fewer chance would hide the curve.
const POINT_IMPRESSIONS: u64 = 5_000;

/// Over how long the rate of records is taken; the worker says how far it is about once a second.
const RATE_OVER: Duration = Duration::from_secs(5);

/// Versions that are listed, the newest first.
const VERSIONS_SHOWN: usize = 3;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Whether the view is a block on a terminal: then nothing else may write there.
pub(super) fn is_block(json: bool) -> bool {
    !json && std::io::stderr().is_terminal()
}

/// What is looked at in a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) status: &'a Status,
    pub(super) bayes: &'a BayesTally,
    /// What the server answers with.
    pub(super) served: Option<Served>,
    /// Since the beginning.
    pub(super) elapsed: Duration,
    /// Milliseconds since 1970.
    pub(super) now_ms: i64,
}

/// The view.
pub(super) struct View {
    out: Out,
    artefacts: Arc<dyn Artefacts>,
    metrics: Option<SocketAddr>,
    curve: Curve,
    rate: Rate,
    versions: VecDeque<Published>,
}

enum Out {
    /// One bar without a bar, of as many lines as there are names.
    Block(ProgressBar),
    /// When a line was printed last.
    Lines(Instant),
    Nothing,
}

/// A published version, as its manifest has it.
#[derive(Clone, Debug)]
struct Published {
    number: u64,
    log_loss: Option<f64>,
    watermark: Option<i64>,
    at: Duration,
}

impl View {
    pub(super) fn new(
        json: bool,
        directory: &Path,
        artefacts: Arc<dyn Artefacts>,
        metrics: Option<SocketAddr>,
    ) -> Self {
        let out = if json {
            Out::Nothing
        } else {
            eprintln!("deepfm demo: simulated traffic through an embedded broker; Ctrl-C ends it");
            eprintln!("state, versions and log are in {}\n", directory.display());
            if is_block(json) { block() } else { Out::Lines(Instant::now()) }
        };
        let (curve, rate, versions) = (Curve::default(), Rate::default(), VecDeque::new());
        Self { out, artefacts, metrics, curve, rate, versions }
    }

    pub(super) fn show(&mut self, frame: &Frame<'_>) {
        let lifetime = &frame.status.lifetime;
        self.rate.take(frame.elapsed, frame.status.records);
        self.curve.take(lifetime.examples, lifetime.log_loss);
        if let Some(version) = frame.status.version
            && self.versions.front().is_none_or(|newest| newest.number != version)
        {
            self.versions.push_front(published(&*self.artefacts, version, frame.elapsed));
            self.versions.truncate(VERSIONS_SHOWN);
        }
        let lines = self.lines(frame);
        match &mut self.out {
            Out::Block(block) => {
                block.set_message(lines.map(|(name, text)| format!("{name:>10}  {text}")).join("\n"));
            }
            Out::Lines(printed) if printed.elapsed() >= LINE_EVERY => {
                *printed = Instant::now();
                let texts: Vec<String> = lines.map(|(name, text)| format!("{name} {text}")).into();
                eprintln!("{}", texts.join(" | "));
            }
            Out::Lines(_) | Out::Nothing => {}
        }
    }

    /// Leaves the block as it was drawn last. It is not drawn again: an interrupt's `^C` has moved the cursor, and a line of
    /// the old block would stay above the new one.
    pub(super) fn finish(&self) {
        if let Out::Block(block) = &self.out {
            block.set_draw_target(ProgressDrawTarget::hidden());
            block.abandon();
            eprintln!();
        }
    }

    fn lines(&self, frame: &Frame<'_>) -> [(&'static str, String); NAMES.len()] {
        let Frame { status, bayes, served, elapsed, now_ms } = *frame;
        let (life, window, best) = (&status.lifetime, &status.window, bayes.log_loss());
        let texts = [
            format!("{:.0} records a second, {} in {} s", self.rate.per_second(), status.records, elapsed.as_secs()),
            format!("{} rows; {} impressions wait for their label", status.rows, status.open_impressions),
            format!(
                "{} lately (base rate {}, best possible {})",
                number(window.log_loss),
                number(life.base_log_loss),
                number(best)
            ),
            self.curve.text(life.base_log_loss, best),
            format!(
                "AUC {}, calibration {}, normalized entropy {}",
                number(window.auc),
                number(window.calibration),
                number(window.normalized_entropy)
            ),
            self.version_list(elapsed),
            freshness(now_ms, status.watermark, self.versions.front()),
            Served::text(served),
            self.metrics.map_or_else(|| "-".to_owned(), |address| format!("http://{address}/metrics, /status, /livez")),
        ];
        let mut texts = texts.into_iter();
        NAMES.map(|name| (name, texts.next().expect("each name has a text")))
    }

    fn version_list(&self, elapsed: Duration) -> String {
        let Some(newest) = self.versions.front() else { return "none yet".to_owned() };
        let age = elapsed.saturating_sub(newest.at).as_secs();
        let newest = format!("{} live for {age} s, {}", newest.number, number(newest.log_loss));
        let earlier = self.versions.iter().skip(1).map(|one| format!("{} {}", one.number, number(one.log_loss)));
        std::iter::once(newest).chain(earlier).collect::<Vec<_>>().join(" · ")
    }
}

/// What the lines of the block are called.
const NAMES: [&str; 9] = ["traffic", "table", "log loss", "", "quality", "versions", "freshness", "server", "metrics"];

fn block() -> Out {
    // Lines are not filled up: a terminal that shows `^C` at the end of a full line would begin another.
    let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    Out::Block(ProgressBar::new_spinner().with_style(style))
}

fn published(artefacts: &dyn Artefacts, number: u64, at: Duration) -> Published {
    let versions = artefacts.list(Shelf::Versions).unwrap_or_default();
    let version = versions.iter().find(|version| version.version == number);
    let manifest = version.and_then(|version| artefacts.manifest(version).ok()).map(|(manifest, _)| manifest);
    let log_loss = manifest.as_ref().and_then(|manifest| manifest.metrics.get("window")?["log_loss"].as_f64());
    Published { number, log_loss, watermark: manifest.and_then(|manifest| manifest.watermark), at }
}

fn freshness(now_ms: i64, watermark: Option<i64>, live: Option<&Published>) -> String {
    let Some(watermark) = watermark else { return "no label is known yet".to_owned() };
    let behind = |watermark: i64| now_ms.saturating_sub(watermark) as f64 / 1000.0;
    let worker = format!("the worker is {:.1} s behind", behind(watermark));
    match live.and_then(|live| Some((live.number, live.watermark?))) {
        Some((number, watermark)) => format!("{worker}, version {number} {:.1} s", behind(watermark)),
        None => worker,
    }
}

/// Four decimals, or a dash for what is not known yet.
pub(super) fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

/// The log loss over time: each point is the mean over as many impressions as the others.
#[derive(Debug)]
struct Curve {
    points: Vec<f64>,
    /// Impressions of a point.
    impressions: u64,
    /// Impressions and their summed loss, up to the last point.
    done: (u64, f64),
}

impl Default for Curve {
    fn default() -> Self {
        Self { points: Vec::new(), impressions: POINT_IMPRESSIONS, done: (0, 0.0) }
    }
}

impl Curve {
    /// Takes in the mean loss of all impressions so far, and adds a point when there are enough new ones.
    fn take(&mut self, impressions: u64, mean: Option<f64>) {
        let fresh = impressions.saturating_sub(self.done.0);
        let Some(sum) = mean.map(|mean| mean * impressions as f64).filter(|_| fresh >= self.impressions) else {
            return;
        };
        self.points.push((sum - self.done.1) / fresh as f64);
        self.done = (impressions, sum);
        if self.points.len() > POINTS_MAX {
            self.points = self.points.chunks(2).map(|pair| pair.iter().sum::<f64>() / pair.len() as f64).collect();
            self.impressions *= 2;
        }
    }

    /// The points as characters, from the best possible at the bottom to the base rate at the top.
    fn text(&self, base: Option<f64>, best: Option<f64>) -> String {
        const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let (Some(base), Some(best), false) = (base, best, self.points.is_empty()) else { return String::new() };
        let level = |point: &f64| {
            let share = (point - best) / (base - best).max(f64::MIN_POSITIVE);
            LEVELS[((share * LEVELS.len() as f64) as usize).min(LEVELS.len() - 1)]
        };
        let curve: String = self.points.iter().map(level).collect();
        format!("{curve}  (█ base rate, ▁ best possible)")
    }
}

/// Records a second, from what the worker said lately.
#[derive(Debug, Default)]
struct Rate {
    /// When the worker was found to have come further, and how far.
    steps: VecDeque<(Duration, u64)>,
}

impl Rate {
    fn take(&mut self, at: Duration, records: u64) {
        if self.steps.back().is_none_or(|(_, last)| *last != records) {
            self.steps.push_back((at, records));
        }
        while self.steps.len() > 2 && self.steps.front().is_some_and(|(first, _)| at.saturating_sub(*first) > RATE_OVER)
        {
            self.steps.pop_front();
        }
    }

    fn per_second(&self) -> f64 {
        let (Some((start, first)), Some((end, last))) = (self.steps.front(), self.steps.back()) else { return 0.0 };
        let seconds = end.saturating_sub(*start).as_secs_f64();
        if seconds > 0.0 { last.saturating_sub(*first) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use deepfm_core::metric::Report;
    use deepfm_stream::artefacts::directory::Directory;
    use deepfm_stream::config::operation::Readers;

    use super::*;

    /// The terminal that everything must fit.
    const COLUMNS: usize = 80;

    fn report(examples: u64, log_loss: f64) -> Report {
        let some = Some(log_loss);
        let base_log_loss = Some(0.3071);
        Report {
            examples,
            log_loss: some,
            base_log_loss,
            auc: some,
            calibration: some,
            normalized_entropy: some,
            ..Report::default()
        }
    }

    fn view() -> View {
        let versions = VecDeque::new();
        let metrics = Some(SocketAddr::from(([127, 0, 0, 1], 65_535)));
        View {
            out: Out::Nothing,
            artefacts: Arc::new(Directory::new(std::path::PathBuf::new(), Readers::Owner)),
            metrics,
            curve: Curve::default(),
            rate: Rate::default(),
            versions,
        }
    }

    #[test]
    fn every_line_of_the_block_fits_eighty_columns() {
        let (mut view, mut bayes) = (view(), BayesTally::default());
        bayes.add(0.07, false);
        let mut status = Status { rows: 9_999_999, open_impressions: 9_999_999, ..Status::default() };
        let mut lines = Vec::new();
        for second in 98_000..100_000_u64 {
            status.records = second * 9_999;
            status.version = Some(second);
            status.watermark = Some(second as i64 * 1000);
            (status.lifetime, status.window) = (report(status.records, 0.2701), report(10_000, 0.2701));
            let elapsed = Duration::from_secs(second);
            let served = Served { version: second, age_ms: Some(99_999), score: 0.0712, before: Some(0.0711) };
            let now_ms = second as i64 * 1000 + 99_999;
            let frame = Frame { status: &status, bayes: &bayes, served: Some(served), elapsed, now_ms };
            view.show(&frame);
            for version in &mut view.versions {
                (version.log_loss, version.watermark) = (Some(0.2701), Some(0));
            }
            lines = view.lines(&frame).into();
        }
        for (name, text) in lines {
            let width = format!("{name:>10}  {text}").chars().count();
            assert!(width <= COLUMNS, "{width} columns: {name} {text}");
            assert!(!text.is_empty(), "{name} is shown");
        }
    }

    #[test]
    fn the_curve_runs_between_the_base_rate_and_the_best_possible() {
        let mut curve = Curve::default();
        assert_eq!(curve.text(Some(0.3), Some(0.2)), "");
        let mut sum = 0.0;
        for (step, loss) in [0.35, 0.3, 0.25, 0.2, 0.1].into_iter().enumerate() {
            sum += loss * POINT_IMPRESSIONS as f64;
            let impressions = (step as u64 + 1) * POINT_IMPRESSIONS;
            curve.take(impressions, Some(sum / impressions as f64));
            curve.take(impressions, Some(sum / impressions as f64));
        }
        assert_eq!(curve.text(Some(0.3), Some(0.2)), "██▅▁▁  (█ base rate, ▁ best possible)");
        assert_eq!(curve.text(None, Some(0.2)), "");
    }

    #[test]
    fn a_long_curve_is_halved_and_keeps_its_shape() {
        let mut curve = Curve::default();
        let steps = 1_000_u64;
        let loss = |step: u64| if step < steps / 2 { 0.3 } else { 0.2 };
        let mut sum = 0.0;
        for step in 0..steps {
            sum += loss(step) * POINT_IMPRESSIONS as f64;
            let impressions = (step + 1) * POINT_IMPRESSIONS;
            curve.take(impressions, Some(sum / impressions as f64));
        }
        let (high, low): (Vec<f64>, Vec<f64>) = curve.points.iter().partition(|point| **point > 0.25);
        assert!(curve.points.len() > POINTS_MAX / 4 && curve.points.len() <= POINTS_MAX, "{:?}", curve.points);
        assert!(high.len().abs_diff(low.len()) <= 1, "{:?}", curve.points);
    }

    #[test]
    fn the_rate_is_not_zero_between_two_words_of_the_worker() {
        let mut rate = Rate::default();
        for frame in 0..400_u64 {
            let at = Duration::from_millis(frame * 250);
            // The worker says how far it is once in a second.
            rate.take(at, at.as_secs() * 3000);
            if frame >= 4 {
                assert!((rate.per_second() - 3000.0).abs() < 1.0, "{} at {at:?}", rate.per_second());
            }
        }
    }
}
