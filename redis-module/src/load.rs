//! Loading the module: types, commands, events, the timer.

use crate::server::{Ctx, api};
use crate::{cluster_bus, commands, config, data_type, expiry, info, rate_type, server, state};
use redis_module::raw;
use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

const NAME: &std::ffi::CStr = c"flashsale";

const OK: c_int = raw::REDISMODULE_OK as c_int;
const REFUSED: c_int = raw::REDISMODULE_ERR as c_int;

/// Called by the server when it loads the module.
///
/// # Safety
/// Called by the server alone, once, on its main thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn RedisModule_OnLoad(
    raw: *mut raw::RedisModuleCtx,
    _argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    // SAFETY: this must come first: it sets the pointers of the API, and with them the allocator.
    let initialised = unsafe {
        raw::Export_RedisModule_Init(raw, NAME.as_ptr().cast::<c_char>(), version(), raw::REDISMODULE_APIVER_1 as c_int)
    };
    if initialised != OK {
        return REFUSED;
    }
    // SAFETY: the context lives until this returns.
    let ctx = unsafe { Ctx::from_raw(raw) };
    if argc > 0 {
        ctx.warn(
            "flashsale: the module takes no arguments: leave them out of loadmodule, and give settings as \
             flashsale.NAME in redis.conf, by CONFIG SET, or by MODULE LOADEX ... CONFIG",
        );
        return REFUSED;
    }
    let loaded = catch_unwind(AssertUnwindSafe(|| load(ctx)));
    if loaded.unwrap_or(false) { OK } else { REFUSED }
}

/// 1.2.3 as 10203, as `MODULE LIST` shows it.
fn version() -> c_int {
    let part = |text: &str| text.parse::<c_int>().unwrap_or(0);
    part(env!("CARGO_PKG_VERSION_MAJOR")) * 10_000
        + part(env!("CARGO_PKG_VERSION_MINOR")) * 100
        + part(env!("CARGO_PKG_VERSION_PATCH"))
}

fn load(ctx: Ctx<'_>) -> bool {
    silence_panics();
    // Damaged dumps are refused, not fatal; and only real changes wake WATCH and client tracking.
    let options = raw::REDISMODULE_OPTIONS_HANDLE_IO_ERRORS | raw::REDISMODULE_OPTION_NO_IMPLICIT_SIGNAL_MODIFIED;
    // SAFETY: the context is that of OnLoad.
    unsafe { api!(RedisModule_SetModuleOptions)(ctx.raw(), options as c_int) };
    let (Some(data_type), Some(rate_type)) = (data_type::register(ctx), rate_type::register(ctx)) else {
        ctx.warn("flashsale: the server refuses a data type: is another module using flashsale or flashrate?");
        return false;
    };
    state::with(|state| {
        (state.data_type, state.rate_type) = (data_type, rate_type);
        let seed: [u8; 16] = server::random_bytes();
        let (left, right) = seed.split_at(8);
        let number = |half: &[u8]| half.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        state.seed = [number(left), number(right)];
        state.ids.reincarnate();
        state.obeys = ctx.flags().is_replica() || ctx.flags().is_loading();
    });
    if !commands::register(ctx) {
        ctx.warn("flashsale: the server refuses a command: is another module using FLASH.*?");
        return false;
    }
    if !config::register(ctx) {
        ctx.warn(
            "flashsale: the server refuses a setting: CONFIG GET flashsale.* shows them once the module is loaded",
        );
        return false;
    }
    if !info::register(ctx) {
        ctx.warn("flashsale: the server refuses the INFO section");
        return false;
    }
    subscribe(ctx);
    expiry::start(ctx);
    cluster_bus::start(ctx);
    true
}

/// A panic is caught where the server calls us; its message belongs to the server's log, once.
fn silence_panics() {
    std::panic::set_hook(Box::new(|panic| eprintln!("flashsale: bug: {panic}")));
}

/// An event in the first version of its data, which every server gives on demand.
fn event(id: u64) -> raw::RedisModuleEvent {
    raw::RedisModuleEvent { id, dataver: 1 }
}

fn subscribe(ctx: Ctx<'_>) {
    // SAFETY: the context is that of OnLoad, the events are the API's own.
    unsafe {
        let subscribe = api!(RedisModule_SubscribeToServerEvent);
        subscribe(ctx.raw(), event(raw::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED), Some(on_role_change));
        subscribe(ctx.raw(), event(raw::REDISMODULE_EVENT_SWAPDB), Some(on_swap_db));
        subscribe(ctx.raw(), event(raw::REDISMODULE_EVENT_LOADING), Some(on_loading));
    }
}

/// A promoted replica makes ids of its own.
unsafe extern "C" fn on_role_change(
    raw: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    role: u64,
    _data: *mut c_void,
) {
    // SAFETY: the context of a callback of the server, on the main thread.
    let ctx = unsafe { Ctx::from_raw(raw) };
    state::try_with(|state| {
        state.bus.forget(&mut state.schedule.found_shards);
        if role == raw::REDISMODULE_EVENT_REPLROLECHANGED_NOW_MASTER {
            state.ids.reincarnate();
        }
        state.obeys = role != raw::REDISMODULE_EVENT_REPLROLECHANGED_NOW_MASTER || ctx.flags().is_loading();
    });
}

/// A file or what a primary sends is being loaded, or has been.
unsafe extern "C" fn on_loading(
    raw: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    subevent: u64,
    _data: *mut c_void,
) {
    const OVER: [u64; 2] = [raw::REDISMODULE_SUBEVENT_LOADING_ENDED, raw::REDISMODULE_SUBEVENT_LOADING_FAILED];
    // SAFETY: as above.
    let ctx = unsafe { Ctx::from_raw(raw) };
    state::try_with(|state| state.obeys = !OVER.contains(&subevent) || ctx.flags().is_replica());
}

unsafe extern "C" fn on_swap_db(
    _ctx: *mut raw::RedisModuleCtx,
    _event: raw::RedisModuleEvent,
    _subevent: u64,
    data: *mut c_void,
) {
    // SAFETY: the event's data is this structure.
    let Some(info) = (unsafe { data.cast::<raw::RedisModuleSwapDbInfo>().as_ref() }) else { return };
    state::try_with(|state| state.schedule.swap_dbs(info.dbnum_first, info.dbnum_second));
}
