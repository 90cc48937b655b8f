//! deepfm-stream keeps a click model fresh: it reads impressions and clicks from Kafka, joins them, trains a `DeepFM`
//! incrementally, checkpoints everything and publishes versions.
//!
//! The modules below are declared in reading order, and **a module may import only modules declared above it** (a test
//! checks this). The first half is the *core*: a deterministic, synchronous state machine without clock, I/O, async,
//! threads or hash-order dependence. The second half is the *shell*: adapters between that core and the world.

// The core: from bytes to a trained model, as a function of the log alone.
pub mod math;
pub mod feature;
pub mod event;
pub mod stream;
pub mod join;
pub mod optim;
pub mod model;
pub mod metric;
pub mod train;
pub mod snapshot;

// The shell: progress, configuration, Kafka, files, sled, HTTP, and the programs made of them.
pub mod progress;
pub mod lines;
pub mod config;
pub mod simulate;
pub mod source;
pub mod store;
pub mod publish;
pub mod worker;
pub mod backtest;
