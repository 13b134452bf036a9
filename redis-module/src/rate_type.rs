//! The native type `flashrate`: the state of one rate limit, which is one instant.
//!
//! A key of the type lives until its bucket is full again, by the server's own expiry: nothing has to be known of
//! a full bucket.

use crate::execute::Fault;
use crate::server::{Access, Ctx, Io, ServerString, api, digest_part};
use crate::state::State;
use crate::totals::{Counted, RATES};
use crate::typed::NativeType;
use flashsale_core::gcra::Arrival;
use redis_module::raw;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::NonNull;

/// The type's name in RDB files: nine characters, for ever.
const NAME: &CStr = c"flashrate";
/// Version of the RDB payload.
const ENCODING_VERSION: c_int = 1;

/// What a key of the type holds.
pub(crate) struct Rate {
    arrival: Arrival,
    _counted: Counted,
}

impl Rate {
    fn new(arrival: Arrival) -> Self {
        Self { arrival, _counted: Counted::new(&RATES) }
    }
}

/// Asks the limit in a key, an empty key too, and keeps the new instant there if the answer brings one. Tells the
/// answer, and what was kept.
pub(crate) fn ask<V>(
    ctx: Ctx<'_>,
    state: &State,
    name: ServerString<'_>,
    ask: impl FnOnce(Option<Arrival>) -> (V, Option<Arrival>),
) -> Result<(V, Option<Arrival>), Fault> {
    let mut key = ctx.open(name, Access::Write);
    let known = state.rate_type.of(&mut key)?;
    let (answer, arrival) = ask(known.as_ref().map(|rate| rate.arrival));
    let Some(arrival) = arrival else { return Ok((answer, None)) };
    match known {
        Some(rate) => rate.arrival = arrival,
        None => {
            let put = state.rate_type.put(&mut key, Rate::new(arrival));
            put.ok_or_else(|| Fault::Damaged("the key cannot be written".into()))?;
        }
    }
    key.expire_at(arrival.full_at_ms());
    ctx.signal_modified(name);
    Ok((answer, Some(arrival)))
}

/// Registers the type.
pub(crate) fn register(ctx: Ctx<'_>) -> Option<NativeType<Rate>> {
    // SAFETY: callbacks that are not set may be null.
    let mut methods: raw::RedisModuleTypeMethods = unsafe { std::mem::zeroed() };
    methods.version = u64::from(raw::REDISMODULE_TYPE_METHOD_VERSION);
    methods.rdb_load = Some(rdb_load);
    methods.rdb_save = Some(rdb_save);
    methods.aof_rewrite = Some(aof_rewrite);
    methods.mem_usage = Some(mem_usage);
    methods.digest = Some(digest);
    methods.free = Some(free);
    methods.copy = Some(copy);
    // SAFETY: the context is that of OnLoad; the server copies the methods, which make and take boxes of `Rate`.
    unsafe {
        let raw = api!(RedisModule_CreateDataType)(ctx.raw(), NAME.as_ptr(), ENCODING_VERSION, &mut methods);
        NativeType::from_raw(raw)
    }
}

/// The instant behind a pointer that the server gives to a callback of the type.
///
/// # Safety
/// `value` came from `Box::into_raw` of a [`Rate`] and has not been freed.
unsafe fn arrival(value: *const c_void) -> Option<Arrival> {
    unsafe { value.cast::<Rate>().as_ref() }.map(|rate| rate.arrival)
}

// SAFETY of all callbacks below: the server alone calls them, with a live io, digest or key name and a value of
// this type.

unsafe extern "C" fn rdb_save(io: *mut raw::RedisModuleIO, value: *mut c_void) {
    let (Some(io), Some(arrival)) = (NonNull::new(io), unsafe { arrival(value) }) else { return };
    Io(io).save(&arrival.ticks().to_le_bytes());
}

unsafe extern "C" fn rdb_load(io: *mut raw::RedisModuleIO, encoding_version: c_int) -> *mut c_void {
    let Some(io) = NonNull::new(io).map(Io) else { return std::ptr::null_mut() };
    let refuse = |why: &str| {
        io.warn(&format!("flashsale: a rate limit cannot be loaded: {why}"));
        std::ptr::null_mut()
    };
    if encoding_version > ENCODING_VERSION {
        return refuse("it was written by a newer version of the module");
    }
    let bytes = io.load().and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    match bytes.map(u128::from_le_bytes).and_then(Arrival::from_ticks) {
        Some(arrival) => Box::into_raw(Box::new(Rate::new(arrival))).cast(),
        None => refuse("malformed data"),
    }
}

/// The time to live is the server's own: it writes PEXPIREAT after this.
unsafe extern "C" fn aof_rewrite(io: *mut raw::RedisModuleIO, key: *mut raw::RedisModuleString, value: *mut c_void) {
    let (Some(io), Some(arrival)) = (NonNull::new(io), unsafe { arrival(value) }) else { return };
    if !key.is_null() {
        Io(io).emit_rate(unsafe { ServerString::from_raw(key) }, &arrival.ticks().to_string());
    }
}

unsafe extern "C" fn mem_usage(_value: *const c_void) -> usize {
    size_of::<Rate>()
}

unsafe extern "C" fn digest(digest: *mut raw::RedisModuleDigest, value: *mut c_void) {
    let Some(arrival) = (unsafe { arrival(value) }) else { return };
    unsafe { digest_part(digest, &arrival.ticks().to_le_bytes()) };
}

unsafe extern "C" fn free(value: *mut c_void) {
    // SAFETY: made by `Box::into_raw`, freed once.
    drop(unsafe { Box::from_raw(value.cast::<Rate>()) });
}

unsafe extern "C" fn copy(
    _from: *mut raw::RedisModuleString,
    _to: *mut raw::RedisModuleString,
    value: *const c_void,
) -> *mut c_void {
    match unsafe { arrival(value) } {
        Some(arrival) => Box::into_raw(Box::new(Rate::new(arrival))).cast(),
        None => std::ptr::null_mut(),
    }
}
