//! `INFO flashsale`: what all sales of this server come to.

use crate::server::{Ctx, api};
use crate::totals::{BUGS, HOLDS, ORDERS, RATES, SALES};
use crate::{server, state};
use redis_module::raw;
use std::ffi::{CStr, CString, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Has the server ask for the section.
pub(crate) fn register(ctx: Ctx<'_>) -> bool {
    // SAFETY: the context is that of OnLoad.
    unsafe { api!(RedisModule_RegisterInfoFunc)(ctx.raw(), Some(tell)) == raw::REDISMODULE_OK as c_int }
}

/// # Safety
/// Called by the server alone, with a live context; on its main thread, or, for the report of a crash, on the
/// thread that crashed: then everything is left out that might be in an unknown state.
unsafe extern "C" fn tell(info: *mut raw::RedisModuleInfoCtx, for_crash_report: c_int) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the context lives until the callback returns; an empty name is the module's own.
        if unsafe { api!(RedisModule_InfoAddSection)(info, c"".as_ptr()) } != raw::REDISMODULE_OK as c_int {
            return;
        }
        number(info, c"sales", SALES.get());
        number(info, c"holds", HOLDS.get());
        number(info, c"orders", ORDERS.get());
        number(info, c"rate_keys", RATES.get());
        number(info, c"bugs_caught", BUGS.get());
        if for_crash_report == 0 {
            state::try_with(|state| {
                let backlog = state.schedule.backlog(server::clock_ms());
                number(info, c"due_keys", backlog.keys as u64);
                number(info, c"expiry_lag_ms", backlog.lag_ms);
                number(info, c"expired_by_timer", state.schedule.ended());
                let counts = state.bus.counts();
                number(info, c"bus_shards", state.bus.shards() as u64);
                number(info, c"bus_messages_sent", counts.messages_sent);
                number(info, c"bus_bytes_sent", counts.bytes_sent);
                number(info, c"bus_messages_received", counts.messages_received);
                number(info, c"bus_bytes_received", counts.bytes_received);
                number(info, c"bus_messages_dropped", counts.dropped);
                number(info, c"bus_requests", counts.asked);
                number(info, c"bus_units_granted", counts.granted);
                number(info, c"bus_units_accepted", counts.accepted);
                number(info, c"bus_grants_unacknowledged", state.bus.pending() as u64);
                text(info, c"incarnation", &state.ids.incarnation());
            });
        }
    }));
}

fn number(info: *mut raw::RedisModuleInfoCtx, name: &CStr, value: u64) {
    // SAFETY: the context is that of the running callback; the server copies the name.
    unsafe { api!(RedisModule_InfoAddFieldULongLong)(info, name.as_ptr(), value) };
}

fn text(info: *mut raw::RedisModuleInfoCtx, name: &CStr, value: &str) {
    let value = CString::new(value).unwrap_or_default();
    // SAFETY: as above.
    unsafe { api!(RedisModule_InfoAddFieldCString)(info, name.as_ptr(), value.as_ptr()) };
}
