//! Brokers, for whoever talks to them: clients and their settings, questions and what keeps their answers, small topics
//! read whole, producing, administration. Of events it knows nothing: the log of them is [`source`](crate::source)'s.

pub mod administration;
pub mod ask;
pub mod client;
pub mod contact;
mod error;
#[cfg(feature = "worker")]
pub(crate) mod headers;
#[cfg(feature = "worker")]
pub(crate) mod known_end;
#[cfg_attr(not(feature = "worker"), expect(dead_code, reason = "only the worker asks for the ids of topics"))]
pub mod metadata;
pub mod produce;
pub mod read;
mod topic_id;

pub use error::BrokerError;
