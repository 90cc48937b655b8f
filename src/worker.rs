//! The worker: source, trainer, store and publication, live.
//!
//! One thread learns (`run`): it takes what the reading thread has decoded, consumes it, and between two records takes
//! checkpoints and cuts versions. Announcing and serving `/status` happen on threads of their own, so that a slow broker
//! or a curious operator does not stop learning.

pub mod admin;
pub mod attendance;
pub mod census;
pub mod committer;
pub mod counts;
pub mod dead_letters;
pub mod descriptors;
pub mod drive;
pub mod error;
pub mod exporter;
pub mod exposition;
mod heart;
pub mod losses;
pub mod toll;
pub mod narrator;
mod listener;
mod observer;
pub mod options;
pub mod pace;
pub mod probes;
pub mod publisher;
pub mod resume;
pub mod run;
pub mod status;
pub mod stop;
