//! The Open Inference Protocol over gRPC: `inference.GRPCInferenceService`, as stock clients and `KServe` speak it. It has a port of
//! its own, and everything else in common with the REST side: arms, limits, readiness, refusals, the end.
//!
//! The messages are written by hand in [`messages`], so that no build needs a compiler of protocol buffers; `tonic` reads and
//! writes their frames. Requests are held to the bounds of [`codec`] before anything of them is made room for.

mod codec;
pub(super) mod connection;
mod infer;
mod messages;
mod service;
