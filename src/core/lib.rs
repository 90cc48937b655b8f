//! The core: from bytes to a trained model, as a function of the log alone. It is synchronous and deterministic, and has no
//! files, clocks, threads or environment: the manifest names no crate that has them, and `clippy.toml` forbids those of std.
//! Parallel work is handed to an [`Executor`](model::Executor) that the caller gives.
//!
//! The modules are declared in reading order, and **a module may import only modules declared above it** (a test checks this).

pub mod math;
pub mod packed;
mod order;
pub mod kernel;
pub mod feature;
pub mod event;
pub mod stream;
pub mod join;
pub mod optim;
pub mod model;
pub mod metric;
pub mod train;
pub mod version;
pub mod checkpoint;
