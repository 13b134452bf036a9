//! Memory from the server's allocator, so that it counts in `used_memory`, `maxmemory` and eviction.

use redis_module::raw;
use std::alloc::{GlobalAlloc, Layout};

struct ServerAllocator;

#[global_allocator]
static ALLOCATOR: ServerAllocator = ServerAllocator;

/// The server's allocator aligns to 16 bytes, like malloc; nothing here asks for more. A larger alignment is
/// refused with null, which Rust reports as a failed allocation.
const SERVER_ALIGNMENT: usize = 16;

fn fits(layout: Layout) -> bool {
    layout.align() <= SERVER_ALIGNMENT
}

// SAFETY: the server's functions follow malloc, calloc, realloc and free, never unwind, and may be called from
// any thread (lazy free does). They are set before any Rust code that allocates runs: `Export_RedisModule_Init`
// is the first call of `RedisModule_OnLoad`. Blocks they return are aligned as `fits` demands.
unsafe impl GlobalAlloc for ServerAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match unsafe { raw::RedisModule_Alloc } {
            Some(alloc) if fits(layout) => unsafe { alloc(layout.size()).cast() },
            _ => std::ptr::null_mut(),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match unsafe { raw::RedisModule_Calloc } {
            Some(calloc) if fits(layout) => unsafe { calloc(1, layout.size()).cast() },
            _ => std::ptr::null_mut(),
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        match unsafe { raw::RedisModule_Realloc } {
            Some(realloc) if fits(layout) => unsafe { realloc(block.cast(), new_size).cast() },
            _ => std::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        if let Some(free) = unsafe { raw::RedisModule_Free } {
            unsafe { free(block.cast()) }
        }
    }
}
