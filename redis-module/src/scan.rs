//! Looking at all keys of a database, a few at a time.

use crate::server::{Access, Ctx, Key, ServerString, api};
use redis_module::raw;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Where a scan of a database stands.
pub(crate) struct ScanCursor(*mut raw::RedisModuleScanCursor);

impl ScanCursor {
    pub fn new() -> Self {
        // SAFETY: takes nothing.
        Self(unsafe { api!(RedisModule_ScanCursorCreate)() })
    }
}

impl Drop for ScanCursor {
    fn drop(&mut self) {
        // SAFETY: made by `new`, dropped once.
        unsafe { api!(RedisModule_ScanCursorDestroy)(self.0) }
    }
}

impl Ctx<'_> {
    /// Looks at a few keys of the selected database, which `look` must not change. `false` at the end.
    pub fn scan(self, cursor: &mut ScanCursor, mut look: impl FnMut(ServerString<'_>, &Key<'_>)) -> bool {
        /// # Safety
        /// Called by the server alone during the call below, with `look` as data.
        unsafe extern "C" fn on_key<F: FnMut(ServerString<'_>, &Key<'_>)>(
            ctx: *mut raw::RedisModuleCtx,
            name: *mut raw::RedisModuleString,
            key: *mut raw::RedisModuleKey,
            look: *mut c_void,
        ) {
            // SAFETY: all of them live until this returns.
            let (ctx, name) = unsafe { (Ctx::from_raw(ctx), ServerString::from_raw(name)) };
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let look = unsafe { look.cast::<F>().as_mut() };
                let Some(look) = look else { return };
                if key.is_null() {
                    look(name, &ctx.open(name, Access::Read));
                } else {
                    // SAFETY: the server closes it after this.
                    let key = unsafe { Key::lent(key) };
                    look(name, &key);
                }
            }));
        }
        fn callback<F: FnMut(ServerString<'_>, &Key<'_>)>(_: &F) -> raw::RedisModuleScanCB {
            Some(on_key::<F>)
        }
        let on_key = callback(&look);
        let data = std::ptr::from_mut(&mut look).cast::<c_void>();
        // SAFETY: context and cursor are alive; the data is what the callback expects, for the time of the call.
        unsafe { api!(RedisModule_Scan)(self.raw(), cursor.0, on_key, data) != 0 }
    }
}
