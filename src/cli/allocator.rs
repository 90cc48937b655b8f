//! Kernel: jemalloc for the whole process, the C libraries in it too.
//!
//! Records are decoded on one thread and freed on another, and Kafka clients bring dozens of threads: glibc gives each of
//! them an arena, and what is freed there is not given back. Measured under `demo` (README, *Measured*): glibc rises without
//! end, jemalloc is flat at a third of it after a minute and a half, with an eighth less CPU for a backtest.

/// Replaces `malloc` and its kin for all code that is linked here.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What jemalloc reads at its start: few arenas, since there are few busy threads however many cores and idle threads there
/// are. The environment's `MALLOC_CONF` comes after it.
// SAFETY: jemalloc looks for a pointer to a terminated string under this name, and nothing else has it.
#[unsafe(export_name = "malloc_conf")]
static CONFIGURATION: Option<&std::ffi::c_char> = {
    const TEXT: &std::ffi::CStr = c"narenas:4";
    // SAFETY: the text is not empty and lives as long as the program; jemalloc only reads it.
    Some(unsafe { &*TEXT.as_ptr() })
};
