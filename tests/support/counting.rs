//! Kernel: an allocator that counts what each thread asks of it, and what it gives back. All `unsafe` of the tests is here.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes asked for and not given back by this thread; below 0 where it gives back what others asked for.
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: usize) {
    // A thread that is ending counts no more.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
    change(bytes as i64);
}

fn change(bytes: i64) {
    let _ = BYTES.try_with(|held| held.set(held.get() + bytes));
}

// SAFETY: every call is handed on as it is to the system's allocator, which keeps the contract; counting allocates nothing,
// since the counters are plain cells that need no initialisation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        change(-(layout.size() as i64));
        // SAFETY: the caller keeps `dealloc`'s contract, and the memory is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        change(-(layout.size() as i64));
        // SAFETY: the caller keeps `realloc`'s contract, and the memory is the system's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// How often this thread allocated while `work` ran.
pub(crate) fn allocations<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = ALLOCATIONS.get();
    let result = work();
    (ALLOCATIONS.get() - before, result)
}

/// Bytes that this thread holds more of after `work` than before, its result included.
pub(crate) fn held_bytes<T>(work: impl FnOnce() -> T) -> (i64, T) {
    let before = BYTES.get();
    let result = work();
    (BYTES.get() - before, result)
}
