//! The demo's model server: the library that others link, following `live` on the versions topic, and one row that it scores
//! with each version.

use deepfm_core::version::alias::LIVE;
use deepfm_core::version::arms::ONLY as ARM;
use deepfm_stream::config::Config;
use deepfm_stream::serve::{
    AcknowledgementBoard, Acknowledger, FollowError, FollowOptions, Scorer, Server, WatchedArm,
};

/// Features that the traffic has.
const ROW: &[u8] = br#"{"user":"u1","item":"i1.0","category":"c1","device":"d1","price":1.0}"#;

/// Follows the versions of the demo.
#[derive(Debug)]
pub(super) struct DemoServer {
    /// Says what is served as long as it is there.
    _acknowledger: Acknowledger,
    server: Server,
    scorer: Scorer,
    served: Option<Served>,
}

/// A version that is served.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Served {
    pub(super) version: u64,
    /// How far its watermark is behind the clock, in milliseconds.
    pub(super) age_ms: Option<i64>,
    /// The click probability of the row.
    pub(super) score: f64,
    /// That of the version served before.
    pub(super) before: Option<f64>,
}

impl DemoServer {
    pub(super) fn start(config: &Config) -> Result<Self, FollowError> {
        let model = &config.model.name;
        let server = Server::follow_topic(&config.kafka, &config.versions.of(model), FollowOptions::new(model))?;
        let arm = WatchedArm { arm: ARM.to_owned(), target: LIVE.to_owned(), watch: server.watch() };
        let (beat, board) = (config.serve.acknowledge_seconds, AcknowledgementBoard::default());
        let acknowledger = Acknowledger::start(&config.kafka, model, "demo", beat, vec![arm], board)?;
        Ok(Self { _acknowledger: acknowledger, scorer: server.scorer(), server, served: None })
    }

    /// Scores the row with the version of the moment; nothing before the first.
    pub(super) fn look(&mut self, now_ms: i64) -> Option<Served> {
        let predictions = self.scorer.score([ROW]).ok()?;
        let (version, age_ms) = (predictions.version(), predictions.model.age_ms(now_ms));
        let score = predictions.probabilities().next()?;
        let before = match self.served {
            Some(served) if served.version == version => served.before,
            served => served.map(|served| served.score),
        };
        self.served = Some(Served { version, age_ms, score, before });
        self.served
    }

    /// Versions that were loaded.
    pub(super) fn loads(&self) -> u64 {
        self.server.status().loads
    }
}

impl Served {
    /// Which version, how fresh, and how it answers.
    pub(super) fn text(served: Option<Self>) -> String {
        let Some(Self { version, age_ms, score, before }) = served else { return "no version yet".to_owned() };
        let age = age_ms.map_or_else(String::new, |age| format!(", {:.1} s behind", age as f64 / 1000.0));
        let before = before.map_or_else(String::new, |before| format!(", {before:.4} before"));
        format!("version {version}{age}; one row scores {score:.4}{before}")
    }
}
