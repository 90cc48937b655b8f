//! What the ports of this program share, the worker's admin port and the reference server's: metrics as text; and how a
//! command asks one of them.

#[cfg(feature = "worker")]
pub mod get;
pub mod registry;
