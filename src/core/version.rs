//! Versions: what servers load, as bytes and as records of a topic; all of it pure.
//!
//! An *artefact* holds what a server needs to score: weights, a manifest that names and digests the other files, and probes
//! that the server must reproduce; that of a *delta* holds what has changed since its parent. An *announcement* says that a
//! version exists, an *alias* which one servers follow, an *acknowledgement* which one a server serves. The *outbox* is what a
//! checkpoint owes the world.

pub mod names;
pub mod bytes;
pub mod safetensors;
pub mod journal;
pub mod manifest;
pub mod servable;
pub mod row_index;
pub mod scoring;
pub mod delta;
pub mod reading;
pub mod artefact;
pub mod link;
pub mod gate;
pub mod storage_uri;
pub mod announcement;
pub mod alias;
pub mod known;
pub mod target;
pub mod acknowledgement;
pub mod arms;
pub mod fleet;
pub mod moves;
pub mod outbox;
pub mod settlement;
