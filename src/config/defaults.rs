//! Every default, in one place. `deploy/deepfm.toml` shows them to users; a test holds the two equal.
//!
//! They are meant for a stranger's data, from ten thousand rows to billions: FTRL's per-coordinate rates need no
//! schedule, and micro-batches start small because large ones learn late on a young model.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::event::options::{EventOptions, Mappings};
use crate::join::params::LatePolicy;
use crate::model::params::{Activation, Parts};
use crate::optim::params::{FtrlParams, SgdParams};

use super::events::Events;
use super::join::{Emit, Join, Labels};
use super::kafka::{Kafka, Start};
use super::model::{Mlp, Model, Optimizer};
use super::operation::{Admin, Exports, Metrics, State, Versions};
use super::training::Training;

impl Default for Model {
    fn default() -> Self {
        Self {
            name: "clicks".to_owned(),
            embedding_dim: 10,
            seed: 1,
            init_scale: 0.02,
            parts: Parts::Deepfm,
            rows_max: 50_000_000,
            admission_min_count: 1,
            expire_after_seconds: 0,
            mlp: Mlp::default(),
        }
    }
}

impl Default for Mlp {
    fn default() -> Self {
        Self { layers: vec![64, 32], activation: Activation::Relu, dropout: Vec::new() }
    }
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            bias: FtrlParams { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 0.0, l21: 0.0 },
            linear: FtrlParams { alpha: 0.05, beta: 1.0, l1: 0.0, l2: 1.0, l21: 0.0 },
            embedding: FtrlParams { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 1.0, l21: 0.0 },
            mlp: SgdParams { learning_rate: 0.05, momentum: 0.0, l2: 0.0, clip_norm: 10.0 },
        }
    }
}

impl Default for Training {
    fn default() -> Self {
        Self {
            batch_min: 8,
            batch_max: 256,
            batch_growth_examples: 12_500,
            batch_span_ms: 500,
            negative_sampling_rate: 1.0,
            n_max: None,
        }
    }
}

impl Default for Join {
    fn default() -> Self {
        Self {
            attribution_window_seconds: 1800,
            lateness_seconds: 0,
            retention_seconds: 1800,
            labels: Labels::Window,
            emit: Emit::AtClick,
            late_clicks: LatePolicy::Correct,
            open_impressions_max: 2_000_000,
            waiting_clicks_max: 200_000,
            remembered_max: 4_000_000,
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        let limits = EventOptions::default();
        Self {
            future_max_seconds: limits.future_max_seconds,
            record_bytes_max: limits.record_bytes_max,
            features_max: limits.features_max,
            dead_letter_bytes_max: 65_536,
            mapping: Mappings::default(),
        }
    }
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            brokers: "localhost:9092".to_owned(),
            impressions_topic: "impressions".to_owned(),
            clicks_topic: "clicks".to_owned(),
            versions_topic: "deepfm-versions".to_owned(),
            dead_letter_topic: "deepfm-dead-letters".to_owned(),
            start: Start::Earliest,
            idle_after_ms: 1000,
            retry_max_seconds: 60,
            partition_refresh_seconds: 30,
            queue_records_max: 50_000,
            properties: BTreeMap::new(),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self { dir: PathBuf::from("state"), checkpoint_interval_seconds: 60, undurable_max_seconds: 600 }
    }
}

impl Default for Versions {
    fn default() -> Self {
        Self { dir: PathBuf::from("versions"), interval_seconds: 300, interval_examples: 0, probes: 16 }
    }
}

impl Default for Exports {
    fn default() -> Self {
        Self { dir: PathBuf::from("exports"), interval_seconds: 3600, keep: 2 }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464))) }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { window_impressions: 10_000 }
    }
}
