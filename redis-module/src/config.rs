//! `flashsale.*`: settings of the module in redis.conf, CONFIG SET and MODULE LOADEX.
//!
//! An unknown name in redis.conf or CONFIG SET is refused by the server. In MODULE LOADEX it makes the server unload
//! the module again, which Redis 7.0 and 8.0 and Valkey 8.1 do not survive with any module that has a data type:
//! nothing that a module can do about.

use crate::server::Ctx;
use redis_module::raw;
use std::ffi::{CStr, c_char, c_int, c_longlong, c_void};
use std::sync::atomic::{AtomicI64, Ordering};

/// A whole number that can be changed at any time.
pub(crate) struct Setting {
    name: &'static CStr,
    default: i64,
    min: i64,
    max: i64,
    value: AtomicI64,
}

impl Setting {
    const fn new(name: &'static CStr, default: i64, min: i64, max: i64) -> Self {
        Self { name, default, min, max, value: AtomicI64::new(default) }
    }

    pub fn get(&self) -> i64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// How often the schedule of due holds is looked at, in ms.
pub(crate) static SWEEP_INTERVAL_MS: Setting = Setting::new(c"sweep-interval-ms", 25, 1, 10_000);
/// Most holds that are ended in one tick, which also stops after half a millisecond (`expiry.rs`). The server's timers
/// rest a millisecond or more between ticks: the fewer ticks, the sooner a million due at once are ended.
pub(crate) static SWEEP_HOLDS_PER_TICK: Setting = Setting::new(c"sweep-holds-per-tick", 4096, 16, 100_000);
/// Most keys that are looked at in one tick.
pub(crate) static SWEEP_KEYS_PER_TICK: Setting = Setting::new(c"sweep-keys-per-tick", 128, 1, 10_000);

/// How often the shards of a cluster are looked at and told of, in ms; 0 = never.
pub(crate) static BUS_INTERVAL_MS: Setting = Setting::new(c"bus-interval-ms", 100, 0, 10_000);
/// Replicas that must have a grant before its receiver is told; 0 = all that are connected.
pub(crate) static GRANT_REPLICAS: Setting = Setting::new(c"grant-replicas", 0, 0, 100);

/// For tests: how many messages of the bus are lost and doubled, and how late each may be at most.
#[cfg(feature = "fault-injection")]
pub(crate) static BUS_LOSE_PERCENT: Setting = Setting::new(c"bus-lose-percent", 0, 0, 100);
#[cfg(feature = "fault-injection")]
pub(crate) static BUS_DOUBLE_PERCENT: Setting = Setting::new(c"bus-double-percent", 0, 0, 100);
#[cfg(feature = "fault-injection")]
pub(crate) static BUS_DELAY_MS: Setting = Setting::new(c"bus-delay-ms", 0, 0, 60_000);

static ALL: &[&Setting] = &[
    &SWEEP_INTERVAL_MS,
    &SWEEP_HOLDS_PER_TICK,
    &SWEEP_KEYS_PER_TICK,
    &BUS_INTERVAL_MS,
    &GRANT_REPLICAS,
    #[cfg(feature = "fault-injection")]
    &BUS_LOSE_PERCENT,
    #[cfg(feature = "fault-injection")]
    &BUS_DOUBLE_PERCENT,
    #[cfg(feature = "fault-injection")]
    &BUS_DELAY_MS,
];

/// Registers the settings and takes what redis.conf or MODULE LOADEX say of them. `false` if a value is refused.
pub(crate) fn register(ctx: Ctx<'_>) -> bool {
    // SAFETY: pointers of the API, set at load.
    let calls = unsafe { (raw::RedisModule_RegisterNumericConfig, raw::RedisModule_LoadConfigs) };
    let (Some(register), Some(load)) = calls else { return true };
    let flags = raw::REDISMODULE_CONFIG_DEFAULT;
    let registered = ALL.iter().all(|setting| {
        let data = std::ptr::from_ref::<Setting>(setting).cast_mut().cast::<c_void>();
        let (name, default) = (setting.name.as_ptr(), setting.default);
        // SAFETY: the context is that of OnLoad; the data is a static that the callbacks only share.
        let status = unsafe {
            register(ctx.raw(), name, default, flags, setting.min, setting.max, Some(get), Some(set), None, data)
        };
        status == raw::REDISMODULE_OK as c_int
    });
    // SAFETY: the context is that of OnLoad.
    registered && unsafe { load(ctx.raw()) } == raw::REDISMODULE_OK as c_int
}

/// # Safety
/// Called by the server alone; `data` is a [`Setting`] of [`ALL`].
unsafe extern "C" fn get(_name: *const c_char, data: *mut c_void) -> c_longlong {
    unsafe { data.cast::<Setting>().as_ref() }.map_or(0, Setting::get)
}

/// # Safety
/// As [`get`]; the server has checked that the value lies within the bounds.
unsafe extern "C" fn set(
    _name: *const c_char,
    value: c_longlong,
    data: *mut c_void,
    _error: *mut *mut raw::RedisModuleString,
) -> c_int {
    if let Some(setting) = unsafe { data.cast::<Setting>().as_ref() } {
        setting.value.store(value, Ordering::Relaxed);
    }
    raw::REDISMODULE_OK as c_int
}
