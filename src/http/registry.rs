//! The metrics of this process, in Prometheus' text form. Every series has the label `model`.

use std::sync::{Arc, OnceLock};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_process::Collector;

/// The metrics of this process and one model.
#[derive(Clone)]
pub struct MetricRegistry {
    handle: PrometheusHandle,
    process: Arc<OnceLock<Collector>>,
}

impl std::fmt::Debug for MetricRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricRegistry").finish_non_exhaustive()
    }
}

impl MetricRegistry {
    /// A registry, and the recorder that fills it.
    pub fn of(model: &str) -> (PrometheusRecorder, Self) {
        let recorder = PrometheusBuilder::new().add_global_label("model", model).build_recorder();
        let handle = recorder.handle();
        (recorder, Self { handle, process: Arc::default() })
    }

    /// Installs the registry of this process; `begin` is called once it records. A second call in one process gives a registry that
    /// stays empty, since metrics go to the first.
    pub fn install(model: &str, begin: impl FnOnce(&Self)) -> Self {
        let (recorder, registry) = Self::of(model);
        if metrics::set_global_recorder(recorder).is_ok() {
            begin(&registry);
        }
        registry
    }

    /// Describes the metrics of the process.
    pub fn describe_process(&self) {
        self.process.get_or_init(Collector::default).describe();
    }

    /// Puts what was recorded into its summaries, of which only the newest is kept. To be called regularly: every sample stays in
    /// memory until this is done or somebody asks for the text.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The text of all metrics, with those of the process brought up to date.
    pub fn text(&self) -> String {
        self.process.get_or_init(Collector::default).collect();
        self.handle.render()
    }
}
