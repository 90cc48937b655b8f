//! Every default, in one place. `deploy/deepfm.toml` shows them to users; a test holds the two equal.
//!
//! They are meant for a stranger's data, from ten thousand rows to billions: FTRL's per-coordinate rates need no
//! schedule, and micro-batches start small because large ones learn late on a young model.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use deepfm_core::event::options::{EventOptions, Mappings};
use deepfm_core::join::params::LatePolicy;
use deepfm_core::model::params::{Activation, Parts};
use deepfm_core::optim::params::{FtrlParams, SgdParams};

use super::events::Events;
use super::join::{Emit, JoinSection, Labels};
use super::kafka::{Kafka, Start};
use super::model::{Mlp, Model, Optimizer, linear_alpha};
use super::operation::{Admin, Exports, MetricsSection, Readers, State, Versions};
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
            linear: FtrlParams { alpha: linear_alpha(Parts::Deepfm), beta: 1.0, l1: 0.0, l2: 1.0, l21: 0.0 },
            embedding: FtrlParams { alpha: 0.07, beta: 1.0, l1: 0.0, l2: 8.0, l21: 0.0 },
            mlp: SgdParams { learning_rate: 0.05, momentum: 0.0, l2: 0.0, clip_norm: 10.0 },
        }
    }
}

/// The alpha of embeddings that `config init` sets for impressions of so many feature entries, those of lists counted
/// each for itself. One example moves its own logit by about alpha times their number, so the best alpha falls with it;
/// beyond the two bounds nothing was measured.
pub fn embedding_alpha(entries: f64) -> f32 {
    let alpha = if entries > 0.0 { (1.5 / entries).clamp(0.03, 0.25) } else { 0.07 };
    ((alpha * 1000.0).round() / 1000.0) as f32
}

impl Default for Training {
    fn default() -> Self {
        Self {
            batch_min: 4,
            batch_max: 256,
            batch_growth_examples: 12_500,
            batch_span_ms: 500,
            negative_sampling_rate: 1.0,
            n_max: None,
            gradient_max: Some(1.0),
        }
    }
}

impl Default for JoinSection {
    fn default() -> Self {
        Self {
            attribution_window_seconds: 1800,
            click_before_ms: 1000,
            lateness_seconds: 0,
            retention_seconds: 1800,
            labels: Labels::Window,
            emit: Emit::AtMaturity,
            late_clicks: LatePolicy::Correct,
            open_impressions_max: 2_000_000,
            held_bytes_max: 4_000_000_000,
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
            weight_max: limits.weight_max as f32,
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
        Self {
            dir: PathBuf::from("versions"),
            interval_seconds: 300,
            interval_examples: 0,
            probes: 16,
            click_silence_max_seconds: Self::click_silence_of(JoinSection::default().attribution_window_seconds),
            keep: 24,
            keep_days: 0,
            readers: Readers::Group,
        }
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

impl Default for MetricsSection {
    fn default() -> Self {
        Self { window_impressions: 10_000, sampling_rate: 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embeddings_rate_falls_with_the_entries_of_an_impression() {
        assert_eq!([1.0, 6.0, 10.0, 20.0, 33.0, 400.0].map(embedding_alpha), [0.25, 0.25, 0.15, 0.075, 0.045, 0.03]);
        assert_eq!(embedding_alpha(0.0), Optimizer::default().embedding.alpha);
    }
}
