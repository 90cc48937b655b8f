//! Versions on their way to servers: a directory that exists only when it is complete, and an announcement on the versions
//! topic that is sent only when the directory is durable. Beside them, training exports: whole checkpoints as directories.

pub mod artefacts;
pub mod exports;
pub mod files;
pub mod outbox;
pub mod topic;
pub mod retention;
