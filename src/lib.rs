//! deepfm-stream keeps a click model fresh: it reads impressions and clicks from Kafka, joins them, trains a `DeepFM`
//! incrementally, checkpoints everything and publishes versions.
//!
//! This crate is the *shell*: adapters between the world and the core, [`deepfm_core`], which turns bytes into a trained
//! model. Its modules are declared in reading order, and **a module may import only modules declared above it** (a test
//! checks this).
//!
//! What is absent: a consumer group (positions live in the checkpoint, atomically with the weights), async in whatever learns
//! (tokio serves HTTP and signals only), a clock below `source`, a decision of the clock that the journal does not write
//! down, and a panic by input (what cannot be read is counted and sent on).

pub mod thread;
pub mod progress;
pub mod lines;
pub mod config;
pub mod bounded;
pub mod durable;
pub mod simulate;
pub mod kafka;
pub mod source;
pub mod drive;
pub mod letters;
pub mod store;
pub mod artefacts;
pub mod publish;
pub mod worker;
pub mod backtest;
