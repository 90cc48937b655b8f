//! Kernel: jemalloc for the whole process, the C libraries in it too.
//!
//! Records are decoded on one thread and freed on another, and Kafka clients bring dozens of threads: glibc gives each of
//! them an arena, and what is freed there is not given back. Measured under `demo` (README, *Measured*): glibc rises without
//! end, jemalloc is flat at a third of it after a minute and a half, with an eighth less CPU for a backtest.
//!
//! Large blocks are kept for as long as small ones, some seconds: by default those of 8 MiB and more go back at once, and the next
//! version's weights, which are as long, come page by page. On a busy machine that was most of what a server took for a delta of 1 % of a
//! million rows: 112 ms, and 24 ms without.

/// Replaces `malloc` and its kin for all code that is linked here.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What jemalloc reads at its start: few arenas, since there are few busy threads however many cores and idle threads there
/// are; and no other rule for large blocks. The environment's `MALLOC_CONF` comes after it.
// SAFETY: jemalloc looks for a pointer to a terminated string under this name, and nothing else has it.
#[unsafe(export_name = "malloc_conf")]
static CONFIGURATION: Option<&std::ffi::c_char> = {
    const TEXT: &std::ffi::CStr = c"narenas:4,oversize_threshold:0";
    // SAFETY: the text is not empty and lives as long as the program; jemalloc only reads it.
    Some(unsafe { &*TEXT.as_ptr() })
};

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    /// Pages that this thread was given so far.
    fn pages() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("the system tells");
        let (_, after_name) = stat.rsplit_once(") ").expect("it has a name");
        after_name.split(' ').nth(7).and_then(|pages| pages.parse().ok()).expect("it is a number")
    }

    #[test]
    fn a_large_block_that_was_just_freed_is_given_again_without_new_pages() {
        const BYTES: usize = 40 << 20;
        drop(black_box(vec![1_u8; BYTES]));
        let before = pages();
        drop(black_box(vec![2_u8; BYTES]));
        let given = pages() - before;
        assert!(given < BYTES as u64 / 4096 / 10, "{given} pages");
    }
}
