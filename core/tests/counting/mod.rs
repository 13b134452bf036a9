//! An allocator that counts, thread by thread, so that tests beside each other do not disturb.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What some code has allocated, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// All together.
    pub bytes: usize,
    /// At one time, beyond what was there before.
    pub peak: usize,
    /// In one piece.
    pub largest: usize,
}

impl Counted {
    /// The larger of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.max(other.bytes),
            peak: self.peak.max(other.peak),
            largest: self.largest.max(other.largest),
        }
    }
}

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// Bytes that this thread has allocated and not given back.
pub fn live() -> usize {
    LIVE.get()
}

/// What `work` allocates.
pub fn during(work: impl FnOnce()) -> Counted {
    let before = LIVE.get();
    PEAK.set(before);
    BYTES.set(0);
    LARGEST.set(0);
    work();
    Counted { bytes: BYTES.get(), peak: PEAK.get() - before, largest: LARGEST.get() }
}

/// What jemalloc, the allocator of Redis, sets aside for a size: multiples of 16, then four classes to a doubling.
fn with_slack(size: usize) -> usize {
    if size <= 128 {
        return size.next_multiple_of(16);
    }
    let step = (size - 1).next_power_of_two().max(2) / 8;
    size.next_multiple_of(step)
}

pub struct Allocator;

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let size = with_slack(layout.size());
        let live = LIVE.get().wrapping_add(size);
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
        BYTES.set(BYTES.get() + size);
        LARGEST.set(LARGEST.get().max(size));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(with_slack(layout.size())));
        // SAFETY: `pointer` came from `alloc` above, which got it from `System` for this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}
