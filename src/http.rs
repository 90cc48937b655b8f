//! What the ports of this program share, the worker's admin port and the reference server's: metrics as text.

pub mod registry;
