//! The state as bytes: checkpoints for a restart, artefacts for servers.
//!
//! A *checkpoint* holds everything; an *artefact* holds what a server needs to score: weights, a manifest that names and
//! digests the other files, and probes that the server must reproduce.

pub mod artefact;
pub mod checkpoint;
pub mod clicks;
pub mod export;
pub mod journal;
pub mod manifest;
pub mod names;
pub mod outbox;
pub mod safetensors;
pub mod servable;
