//! Active defragmentation: the server asks, a little at a time, for a sale to be moved to where memory is less
//! scattered.

use crate::data_type::Value;
use crate::server::api;
use flashsale_core::memory::Mover;
use redis_module::raw;
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The server as a mover: it knows which pages are sparse.
struct Server {
    /// Alive as long as the callback runs that this was made in.
    ctx: *mut raw::RedisModuleDefragCtx,
}

impl Mover for Server {
    fn relocate<T>(&mut self, buffer: Vec<T>) -> Vec<T> {
        if size_of::<T>() == 0 || buffer.capacity() == 0 {
            return buffer;
        }
        let mut buffer = ManuallyDrop::new(buffer);
        let (start, len, capacity) = (buffer.as_mut_ptr(), buffer.len(), buffer.capacity());
        // SAFETY: the buffer came from the server's allocator, which is ours too. If the server moves it, it copies
        // the bytes to a block of the same size, aligned alike, and frees the old one; if not it returns null. Either
        // way the block is owned here alone.
        unsafe {
            let moved = api!(RedisModule_DefragAlloc)(self.ctx, start.cast()).cast::<T>();
            Vec::from_raw_parts(if moved.is_null() { start } else { moved }, len, capacity)
        }
    }

    fn is_time_up(&mut self) -> bool {
        // SAFETY: the context is alive. For a small value, which is done in one go, time is never up.
        unsafe { api!(RedisModule_DefragShouldStop)(self.ctx) != 0 }
    }
}

/// The callback of the type: moves the value for as long as the server lets it, and tells whether there is more to do.
///
/// # Safety
/// Called by the server alone, on its main thread, with a live context and the place of a [`Value`] that nothing
/// borrows meanwhile.
pub(crate) unsafe extern "C" fn defrag(
    ctx: *mut raw::RedisModuleDefragCtx,
    _key: *mut raw::RedisModuleString,
    place: *mut *mut c_void,
) -> c_int {
    const OK: c_int = raw::REDISMODULE_OK as c_int;
    let more = catch_unwind(AssertUnwindSafe(|| {
        let mut cursor = 0;
        // SAFETY: context and place are alive. A box may be moved byte by byte: it has no pointers into itself.
        let value = unsafe {
            let moved = api!(RedisModule_DefragAlloc)(ctx, *place);
            if !moved.is_null() {
                *place = moved;
            }
            // Only the values that take several steps have a cursor.
            if api!(RedisModule_DefragCursorGet)(ctx, &mut cursor) != OK {
                cursor = 0;
            }
            (*place).cast::<Value>().as_mut()
        };
        let next = value?.defragment(cursor, &mut Server { ctx })?;
        // SAFETY: as above.
        (unsafe { api!(RedisModule_DefragCursorSet)(ctx, next) } == OK).then_some(())
    }));
    c_int::from(matches!(more, Ok(Some(()))))
}
