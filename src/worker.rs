//! The worker: source, trainer, store and publication, live.
//!
//! | thread | who starts it | what feeds it | its bound | its panic | what it can hold up |
//! |---|---|---|---|---|---|
//! | the learner (`run`) | the command | the readers | a turn of 2,048 records | ends the process | everything |
//! | `impressions-reading`, `clicks-reading` | `source::topics` | the brokers | `kafka.queue_records_max` a partition | ends the run, 70 | the learner |
//! | `intake` | [`crate::drive`], where there is a second core | the learner | 6 lots of 64 records ahead of it | is the learner's | the learner |
//! | `learning` | `start` | the learner | `training.threads` less one, who are waited for | is the learner's | the learner |
//! | `ends-asking` | `source::topics` | the learner | 64 questions, a second each | ends the run, 70 | who goes idle |
//! | `farewell` | a reader whose client hangs; the end of a run | nothing | ends by itself | is its own | the end, for 20 s |
//! | `writing` | [`committer`] | a cut of the state or of a version | one of them | ends the run, 70 | the next checkpoint or version |
//! | `merging`, `opening` | `store` | a commit, a start | one merge; an opening is waited for | is damage, and said | the second merge after |
//! | `exporting` | [`exporter`] | a commit | one export | is said | nothing |
//! | `announcing` | [`publisher`] | an installed version, which goes to object storage first | 8 versions | ends the run, 70 | the next version |
//! | `letters` | [`crate::letters`] | a durable commit | 4 batches, 16 MiB of letters | ends the run, 70 | input, at its bound |
//! | `heart` | `heart` | the clock | an hour of a start | is its own | nothing |
//! | tokio's one | the command | signals, HTTP | 32 connections | is its own | nothing |
//!
//! Of a worker, that is: the demo starts one for its traffic, a terminal one for its progress. All but tokio's are started by [`crate::thread`]. An outcome is taken by the learner between two records.

pub mod admin;
pub mod census;
pub mod chain;
pub mod committer;
pub mod counts;
pub mod descriptors;
pub mod error;
pub mod exporter;
pub mod exposition;
mod gatekeeper;
mod heart;
pub mod toll;
pub mod narrator;
mod listener;
mod observer;
pub mod options;
pub mod pace;
pub mod probes;
pub mod publication;
pub mod publisher;
pub mod resume;
pub mod run;
mod shelf;
mod start;
pub mod status;
pub mod stop;
pub mod uploader;
