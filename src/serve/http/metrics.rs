//! The server's metrics for machines: one list of what there is, and their values.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};

use super::App;
use super::arms::ArmStatus;
use crate::http::registry::MetricRegistry;
use crate::serve::state::LoadStage;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeMetric {
    /// A count since the process began.
    Counter,
    /// A value of now.
    Gauge,
    /// A distribution.
    Summary,
}
use ServeMetric::{Counter, Gauge, Summary};

/// Every metric of a server: what it is, its name and its help.
pub const METRICS: &[(ServeMetric, &str, &str)] = &[
    (Counter, "deepfm_serve_requests_total", "Requests answered, by endpoint and status"),
    (Summary, "deepfm_serve_request_seconds", "How long requests took, the arrival of their bodies included"),
    (Counter, "deepfm_serve_rows_total", "Rows and candidates scored, by arm"),
    (Counter, "deepfm_serve_unknown_fields_total", "Features of no field of the model in requests"),
    (Gauge, "deepfm_serve_in_flight", "Requests that are being read or scored"),
    (Gauge, "deepfm_serve_version", "The version served, by arm; NaN before the first"),
    (Gauge, "deepfm_serve_age_seconds", "How far the event-time watermark of the version served is behind, by arm"),
    (Counter, "deepfm_serve_loads_total", "Versions loaded, by arm"),
    (Gauge, "deepfm_serve_load_seconds", "How long the newest load took, by arm"),
    (Counter, "deepfm_serve_load_failures_total", "Versions that could not be served, by arm and stage"),
    (Gauge, "deepfm_serve_trouble", "1 while news of versions are kept away, by arm: /status says by what"),
    (Counter, "deepfm_serve_acknowledgements_total", "Times that others were told what is served"),
    (Counter, "deepfm_serve_acknowledgement_failures_total", "Times that they could not be told"),
    (Gauge, "deepfm_serve_acknowledgement_trouble", "1 while they cannot be told: /status says why"),
];

/// Installs the registry of this process.
pub fn install(model: &str) -> MetricRegistry {
    MetricRegistry::install(model, begin)
}

fn begin(registry: &MetricRegistry) {
    for (kind, name, help) in METRICS {
        match kind {
            Counter => describe_counter!(*name, *help),
            Gauge => describe_gauge!(*name, *help),
            Summary => describe_histogram!(*name, *help),
        }
    }
    counter!("deepfm_serve_unknown_fields_total").increment(0);
    registry.describe_process();
}

/// The text of all metrics, brought up to date.
pub(super) fn text(app: &App, arms: &[ArmStatus]) -> String {
    let busy = app.limits.concurrency_max - app.places.available_permits().min(app.limits.concurrency_max);
    gauge!("deepfm_serve_in_flight").set(busy as f64);
    for ArmStatus { arm, age_ms, follow, .. } in arms {
        let nan = |value: Option<f64>| value.unwrap_or(f64::NAN);
        gauge!("deepfm_serve_version", "arm" => arm.clone()).set(nan(follow.serving.map(|version| version as f64)));
        gauge!("deepfm_serve_age_seconds", "arm" => arm.clone()).set(nan(age_ms.map(|age| age as f64 / 1000.0)));
        gauge!("deepfm_serve_load_seconds", "arm" => arm.clone()).set(nan(follow.load_seconds));
        let in_trouble = follow.trouble.is_some() || follow.ended.is_some();
        gauge!("deepfm_serve_trouble", "arm" => arm.clone()).set(f64::from(u8::from(in_trouble)));
        counter!("deepfm_serve_loads_total", "arm" => arm.clone()).absolute(follow.loads);
        counter!("deepfm_serve_rows_total", "arm" => arm.clone()).increment(0);
        for stage in LoadStage::ALL {
            let count = follow.failures.get(&stage).copied().unwrap_or_default();
            counter!("deepfm_serve_load_failures_total", "arm" => arm.clone(), "stage" => stage.name()).absolute(count);
        }
    }
    let told = app.acknowledgements.read().unwrap_or_default();
    counter!("deepfm_serve_acknowledgements_total").absolute(told.written);
    counter!("deepfm_serve_acknowledgement_failures_total").absolute(told.failures);
    gauge!("deepfm_serve_acknowledgement_trouble").set(f64::from(u8::from(told.trouble.is_some())));
    app.registry.text()
}
