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
//!
//! By features: `worker` (the default) is all of it. Without it there is [`serve`], which scores with published versions:
//! with `kafka` it follows their topic, with none (`default-features = false`) a directory; `object-store` fetches what is not
//! here from object storage, `server` adds the HTTP side.

pub mod thread;
#[cfg(feature = "kafka")]
pub mod progress;
#[cfg(feature = "kafka")]
pub mod lines;
#[cfg(feature = "kafka")]
pub mod config;
pub mod bounded;
#[cfg(feature = "object-store")]
pub mod durable;
#[cfg(feature = "object-store")]
pub mod remote;
#[cfg(feature = "worker")]
pub mod simulate;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "worker")]
pub mod source;
#[cfg(feature = "worker")]
pub mod drive;
#[cfg(feature = "worker")]
pub mod letters;
#[cfg(feature = "worker")]
pub mod store;
#[cfg(feature = "worker")]
pub mod artefacts;
#[cfg(feature = "worker")]
pub mod publish;
#[cfg(feature = "server")]
pub mod http;
pub mod serve;
#[cfg(feature = "worker")]
pub mod worker;
#[cfg(feature = "worker")]
pub mod backtest;
