//! Memory from the server's allocator, so that it counts in `used_memory`, `maxmemory` and eviction.

use redis_module::raw;
use std::alloc::{GlobalAlloc, Layout};

struct ServerAllocator;

#[global_allocator]
static ALLOCATOR: ServerAllocator = ServerAllocator;

/// Nothing here asks for a larger alignment than this; if it did it would be refused with null, which Rust reports as
/// a failed allocation.
const MOST_ALIGNMENT: usize = 16;
/// What every block is aligned to, whatever its size. Redis builds its own jemalloc with a quantum of 8 bytes
/// (Debian's has 16, as has malloc of the C library): there a block of 24, 40 or 56 bytes is aligned to 8.
const SURE_ALIGNMENT: usize = 8;

/// The size to ask for, so that the block is aligned as the layout demands: sizes that are multiples of 16 have
/// classes of their own, which start at multiples of 16. `None` if the alignment cannot be had.
fn size_for(align: usize, size: usize) -> Option<usize> {
    if align <= SURE_ALIGNMENT {
        Some(size)
    } else if align <= MOST_ALIGNMENT {
        Some(size.next_multiple_of(MOST_ALIGNMENT))
    } else {
        None
    }
}

// SAFETY: the server's functions follow malloc, calloc, realloc and free, never unwind, and may be called from
// any thread (lazy free does). They are set before any Rust code that allocates runs: `Export_RedisModule_Init`
// is the first call of `RedisModule_OnLoad`. Blocks they return are aligned as the layout demands,
// by the size that `size_for` asks for.
unsafe impl GlobalAlloc for ServerAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match (unsafe { raw::RedisModule_Alloc }, size_for(layout.align(), layout.size())) {
            (Some(alloc), Some(size)) => unsafe { alloc(size).cast() },
            _ => std::ptr::null_mut(),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match (unsafe { raw::RedisModule_Calloc }, size_for(layout.align(), layout.size())) {
            (Some(calloc), Some(size)) => unsafe { calloc(1, size).cast() },
            _ => std::ptr::null_mut(),
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        match (unsafe { raw::RedisModule_Realloc }, size_for(layout.align(), new_size)) {
            (Some(realloc), Some(size)) => unsafe { realloc(block.cast(), size).cast() },
            _ => std::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        if let Some(free) = unsafe { raw::RedisModule_Free } {
            unsafe { free(block.cast()) }
        }
    }
}
