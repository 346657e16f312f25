//! An allocator that counts, so that tests can state that a piece of work takes nothing from the heap.
//!
//! A test binary that has this module (`#[path = "../support/counting.rs"] mod counting;`) runs on it: the system's
//! allocator, plus two counts. The current thread's is exact whatever else runs. The process's takes in what engines and
//! lanes do on their threads, and every other test that runs meanwhile: a test that needs it exact is alone in its binary.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was asked of the heap. A block that grows or shrinks in place counts as one of its new size; blocks that are
/// given back are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many blocks.
    pub blocks: u64,
    /// How many bytes they have.
    pub bytes: u64,
}

impl Sub for Count {
    type Output = Count;
    fn sub(self, before: Count) -> Count {
        Count { blocks: self.blocks - before.blocks, bytes: self.bytes - before.bytes }
    }
}

/// Runs `work` and counts what this thread asks for meanwhile.
// Not every binary that includes this file counts by thread.
#[allow(dead_code)]
pub fn by_this_thread<T>(work: impl FnOnce() -> T) -> (T, Count) {
    let before = HERE.get();
    let result = work();
    (result, HERE.get() - before)
}

/// Runs `work` and counts what all threads ask for meanwhile.
pub fn by_the_process<T>(work: impl FnOnce() -> T) -> (T, Count) {
    let all = || Count { blocks: BLOCKS.load(Ordering::SeqCst), bytes: BYTES.load(Ordering::SeqCst) };
    let before = all();
    let result = work();
    (result, all() - before)
}

thread_local! {
    static HERE: Cell<Count> = const { Cell::new(Count { blocks: 0, bytes: 0 }) };
}
static BLOCKS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Counts a block; on a thread that is ending and has no count any more, for the process alone.
fn note(bytes: usize) {
    let bytes = bytes as u64;
    BLOCKS.fetch_add(1, Ordering::SeqCst);
    BYTES.fetch_add(bytes, Ordering::SeqCst);
    let _ = HERE.try_with(|here| {
        let Count { blocks, bytes: before } = here.get();
        here.set(Count { blocks: blocks + 1, bytes: before + bytes });
    });
}

// SAFETY: every call goes to the system's allocator unchanged, with its result; counting neither allocates nor unwinds.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(new_size);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}
