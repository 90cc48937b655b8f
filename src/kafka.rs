//! Brokers, for whoever talks to them: clients and their settings, questions and what keeps their answers, small topics
//! read whole, producing, administration. Of events it knows nothing: the log of them is [`source`](crate::source)'s.

pub mod administration;
pub mod ask;
pub mod client;
pub mod contact;
mod error;
pub(crate) mod headers;
pub(crate) mod known_end;
pub mod metadata;
pub mod produce;
pub mod read;
mod topic_id;

pub use error::BrokerError;
