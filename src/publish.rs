//! Versions on their way to servers: announced on the versions topic when they are durable, and removed when they are kept no
//! longer. Beside them, training exports: whole checkpoints as directories; and what servers say that they serve.

pub mod exports;
pub mod turning_back;
pub mod outbox;
pub mod topic;
pub mod servers;
pub mod retention;
