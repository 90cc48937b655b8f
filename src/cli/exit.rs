//! Exit codes.

/// Exit codes, after BSD's `sysexits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Usage = 2,
    Threshold = 10,
    BadInput = 65,
    Unreachable = 69,
    Software = 70,
    Disk = 74,
    Locked = 75,
    Configuration = 78,
}
