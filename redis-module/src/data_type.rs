//! The native type `flashsale`: what the server needs to keep, save, load, copy and compare a sale.

use crate::execute::Fault;
use crate::expiry::Schedule;
use crate::server::{Ctx, Io, Key, ServerString, api, digest_part};
use crate::totals::Share;
use crate::typed::NativeType;
use crate::{server, state};
use flashsale_core::Sale;
use flashsale_core::memory::Mover;
use flashsale_core::snapshot::Loader;
use redis_module::raw;
use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

/// The type's name in RDB files: nine characters, for ever.
const NAME: &CStr = c"flashsale";
/// Version of the RDB payload.
const ENCODING_VERSION: c_int = 1;
/// A planned look that is so late will not come: the key was renamed meanwhile.
const LOST_AFTER_MS: u64 = 1_000;

/// What a key of the type holds.
///
/// It is freed on whichever thread the server likes, and so it is `Send`.
pub(crate) struct Value {
    content: Content,
    /// When the schedule will look at the key at the latest; not replicated.
    scheduled_ms: u64,
    /// Whether the cluster bus was told of this shard; not replicated.
    found_by_bus: bool,
    /// An upper bound of the order stream's length, which others only shorten; not replicated.
    stream_len_bound: Option<u64>,
    /// Commands that have asked the key, each hold of an MRESERVE counted; not replicated: it tells how hot the key
    /// is on this server.
    commands: u64,
    /// What the server's totals have of this sale.
    share: Share,
    /// Dropped with the value: whether it lives on after its key was deleted or renamed.
    life: Arc<()>,
}

const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Value>();
};

enum Content {
    Ready(Sale),
    /// A rewritten append-only file is being loaded, chunk by chunk.
    Loading(Option<Loader>),
}

impl Value {
    fn new(content: Content) -> Self {
        let (share, life) = (Share::new(), Arc::new(()));
        let (scheduled_ms, found_by_bus) = (u64::MAX, false);
        Self { content, scheduled_ms, found_by_bus, stream_len_bound: None, commands: 0, share, life }
    }

    pub fn ready(sale: Sale) -> Self {
        let mut value = Self::new(Content::Ready(sale));
        value.update_share();
        value
    }

    pub fn loading(loader: Loader) -> Self {
        Self::new(Content::Loading(Some(loader)))
    }

    pub fn sale(&self) -> Result<&Sale, Fault> {
        match &self.content {
            Content::Ready(sale) => Ok(sale),
            Content::Loading(_) => Err(Fault::HalfLoaded),
        }
    }

    pub fn sale_mut(&mut self) -> Result<&mut Sale, Fault> {
        match &mut self.content {
            Content::Ready(sale) => Ok(sale),
            Content::Loading(_) => Err(Fault::HalfLoaded),
        }
    }

    /// Has the sale moved a little further, see [`Sale::defragment`].
    pub fn defragment(&mut self, cursor: u64, mover: &mut impl Mover) -> Option<u64> {
        match &mut self.content {
            Content::Ready(sale) => sale.defragment(cursor, mover),
            Content::Loading(_) => None,
        }
    }

    /// Takes the next chunk of a rewritten append-only file.
    pub fn load_chunk(&mut self, chunk: &[u8]) -> Result<(), Fault> {
        let damaged = |what: &str| Fault::Damaged(format!("FLASH._LOAD: {what}").into());
        let Content::Loading(slot) = &mut self.content else { return Err(Fault::Exists) };
        let loader = slot.as_mut().ok_or_else(|| damaged("an earlier chunk was damaged"))?;
        loader.push(chunk).map_err(|error| damaged(&error.to_string()))?;
        if loader.is_complete()
            && let Some(loader) = slot.take()
        {
            self.content = Content::Ready(loader.finish().map_err(|error| damaged(&error.to_string()))?);
        }
        Ok(())
    }

    pub fn stream_len_bound(&self) -> Option<u64> {
        self.stream_len_bound
    }

    pub fn set_stream_len(&mut self, len: u64) {
        self.stream_len_bound = Some(len);
    }

    pub fn count_entries(&mut self, entries: usize) {
        self.stream_len_bound = self.stream_len_bound.map(|bound| bound + entries as u64);
    }

    pub fn count_commands(&mut self, count: usize) {
        self.commands = self.commands.wrapping_add(count as u64);
    }

    /// Commands that have asked the key since this server has it in memory.
    pub fn commands(&self) -> u64 {
        self.commands
    }

    fn update_share(&mut self) {
        if let Content::Ready(sale) = &self.content {
            self.share.update(sale.live_holds(), sale.orders());
        }
    }

    /// Ends every step: has the key looked at when its first hold is due, if that is not planned yet.
    #[inline(always)] // on the way of every request
    pub fn schedule(&mut self, schedule: &mut Schedule, key: impl FnOnce() -> (c_int, Vec<u8>)) {
        self.update_share();
        let Content::Ready(sale) = &self.content else { return };
        let is_new_shard = sale.shard().count > 1 && schedule.has_bus && !self.found_by_bus;
        let due_ms = sale.first_sweep_ms();
        let lost = self.scheduled_ms.saturating_add(LOST_AFTER_MS) < sale.clock_ms();
        let due_ms = due_ms.filter(|&due_ms| due_ms < self.scheduled_ms || lost);
        if due_ms.is_none() && !is_new_shard {
            return;
        }
        let (db, name) = key();
        if let Some(due_ms) = due_ms {
            self.scheduled_ms = due_ms;
            schedule.add(due_ms, db, &name);
        }
        if is_new_shard {
            self.found_by_bus = true;
            schedule.found_shards.insert(name);
        }
    }

    /// Tells whether the value lives.
    pub fn life(&self) -> Weak<()> {
        Arc::downgrade(&self.life)
    }

    /// Tells whether the value lives, if a timer must know it.
    fn watch(&self) -> Option<Weak<()>> {
        let Content::Ready(sale) = &self.content else { return None };
        (sale.first_sweep_ms().is_some() || self.found_by_bus).then(|| self.life())
    }

    /// The planned look has come.
    pub fn forget_schedule(&mut self) {
        self.scheduled_ms = u64::MAX;
    }

    /// The value has another name now.
    pub fn forget_name(&mut self) {
        self.forget_schedule();
        self.found_by_bus = false;
    }
}

/// Sales in keys.
pub(crate) struct SaleKey;

impl SaleKey {
    /// The sale in an open key; `None` if the key is empty.
    pub fn of<'k>(key: &'k mut Key<'_>, data_type: NativeType<Value>) -> Result<Option<&'k mut Value>, Fault> {
        data_type.of(key)
    }

    /// The sale that must be in an open key.
    pub fn existing<'k>(key: &'k mut Key<'_>, data_type: NativeType<Value>) -> Result<&'k mut Value, Fault> {
        match data_type.of(key)? {
            Some(value) => Ok(value),
            None => Err(Fault::NoSale),
        }
    }

    /// Puts a sale into an empty key.
    pub fn put<'k>(key: &'k mut Key<'_>, data_type: NativeType<Value>, value: Value) -> Option<&'k mut Value> {
        data_type.put(key, value)
    }
}

/// Registers the type.
pub(crate) fn register(ctx: Ctx<'_>) -> Option<NativeType<Value>> {
    // SAFETY: all other callbacks may be null.
    let mut methods: raw::RedisModuleTypeMethods = unsafe { std::mem::zeroed() };
    methods.version = u64::from(raw::REDISMODULE_TYPE_METHOD_VERSION);
    methods.rdb_load = Some(rdb_load);
    methods.rdb_save = Some(rdb_save);
    methods.aof_rewrite = Some(aof_rewrite);
    methods.mem_usage2 = Some(mem_usage);
    methods.defrag = Some(crate::defrag::defrag);
    methods.digest = Some(digest);
    methods.free = Some(free);
    methods.free_effort = Some(free_effort);
    methods.unlink2 = Some(unlink);
    methods.copy2 = Some(copy);
    // SAFETY: the context is that of OnLoad; the server copies the methods, which make and take boxes of `Value`.
    unsafe {
        let raw = api!(RedisModule_CreateDataType)(ctx.raw(), NAME.as_ptr(), ENCODING_VERSION, &mut methods);
        NativeType::from_raw(raw)
    }
}

/// The sale behind a pointer that the server gives to a callback of the type.
///
/// # Safety
/// `value` came from `Box::into_raw` of a [`Value`] and has not been freed.
unsafe fn sale<'v>(value: *const c_void) -> Option<&'v Sale> {
    unsafe { value.cast::<Value>().as_ref() }.and_then(|value| value.sale().ok())
}

unsafe extern "C" fn rdb_save(io: *mut raw::RedisModuleIO, value: *mut c_void) {
    // SAFETY: the server gives a live io and a value of ours, here and in the callbacks below.
    let (Some(io), Some(sale)) = (NonNull::new(io), unsafe { sale(value) }) else { return };
    let _ = catch_unwind(AssertUnwindSafe(|| sale.snapshot(|chunk| Io(io).save(chunk))));
}

unsafe extern "C" fn rdb_load(io: *mut raw::RedisModuleIO, encoding_version: c_int) -> *mut c_void {
    let Some(io) = NonNull::new(io).map(Io) else { return std::ptr::null_mut() };
    let loaded = catch_unwind(AssertUnwindSafe(|| load(io, encoding_version)));
    match loaded {
        Ok(Ok(value)) => Box::into_raw(Box::new(value)).cast(),
        Ok(Err(why)) => {
            io.warn(&format!("flashsale: a sale cannot be loaded: {why}"));
            std::ptr::null_mut()
        }
        Err(_) => {
            io.warn("flashsale: a sale cannot be loaded: a bug stopped the loading");
            std::ptr::null_mut()
        }
    }
}

fn load(io: Io, encoding_version: c_int) -> Result<Value, String> {
    if encoding_version > ENCODING_VERSION {
        return Err(format!("its version {encoding_version} is newer than this module's {ENCODING_VERSION}"));
    }
    let seed = state::with(|state| state.seed);
    let cut_short = || "the data is cut short".to_owned();
    let header = io.load().ok_or_else(cut_short)?;
    let mut loader = Loader::new(&header, seed).map_err(|error| error.to_string())?;
    while !loader.is_complete() {
        loader.push(&io.load().ok_or_else(cut_short)?).map_err(|error| error.to_string())?;
    }
    let mut value = Value::ready(loader.finish().map_err(|error| error.to_string())?);
    if let Some((db, name)) = io.key() {
        state::with(|state| value.schedule(&mut state.schedule, || (db, name)));
    }
    Ok(value)
}

unsafe extern "C" fn aof_rewrite(io: *mut raw::RedisModuleIO, key: *mut raw::RedisModuleString, value: *mut c_void) {
    let (Some(io), Some(sale)) = (NonNull::new(io), unsafe { sale(value) }) else { return };
    if key.is_null() {
        return;
    }
    let key = unsafe { ServerString::from_raw(key) };
    let _ = catch_unwind(AssertUnwindSafe(|| sale.snapshot(|chunk| Io(io).emit_chunk(key, chunk))));
}

unsafe extern "C" fn mem_usage(
    _key: *mut raw::RedisModuleKeyOptCtx,
    value: *const c_void,
    sample_size: usize,
) -> usize {
    // The value itself, and what its sale has on the heap.
    const OWN_BYTES: usize = size_of::<Value>() + size_of::<[usize; 2]>();
    let Some(sale) = (unsafe { sale(value) }) else { return OWN_BYTES };
    catch_unwind(AssertUnwindSafe(|| sale.heap_bytes(sample_size))).unwrap_or(0) + OWN_BYTES
}

unsafe extern "C" fn digest(digest: *mut raw::RedisModuleDigest, value: *mut c_void) {
    let Some(sale) = (unsafe { sale(value) }) else { return };
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the digest is that of the running callback.
        sale.digest_parts(|part| unsafe { digest_part(digest, part) });
    }));
}

/// May run on a background thread: a [`Value`] is owned data, and of globals it touches the totals alone.
unsafe extern "C" fn free(value: *mut c_void) {
    // SAFETY: made by `Box::into_raw`, freed once.
    drop(unsafe { Box::from_raw(value.cast::<Value>()) });
}

/// How much work freeing and moving is: beyond 64 the server frees in the background, beyond 1000 (its setting
/// `active-defrag-max-scan-fields`) it moves step by step.
unsafe extern "C" fn free_effort(_key: *mut raw::RedisModuleString, value: *const c_void) -> usize {
    unsafe { sale(value) }.map_or(1, |sale| 1 + sale.heap_pieces())
}

/// The value leaves its key. If it is not freed it has been renamed or moved: the timer must find it again.
unsafe extern "C" fn unlink(_key: *mut raw::RedisModuleKeyOptCtx, value: *const c_void) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let value = unsafe { value.cast::<Value>().as_ref() };
        if let Some(life) = value.and_then(Value::watch) {
            state::try_with(|state| {
                let now_ms = state.now();
                state.search.unlinked(now_ms, life);
            });
        }
    }));
}

unsafe extern "C" fn copy(key: *mut raw::RedisModuleKeyOptCtx, value: *const c_void) -> *mut c_void {
    let Some(sale) = (unsafe { sale(value) }) else { return std::ptr::null_mut() };
    let copied = catch_unwind(AssertUnwindSafe(|| {
        let mut copy = Value::ready(duplicate(sale)?);
        // SAFETY: the context is that of the running callback.
        let (db, name) = unsafe { server::copied_to(key) };
        state::try_with(|state| copy.schedule(&mut state.schedule, || (db, name)));
        Some(copy)
    }));
    match copied {
        Ok(Some(copy)) => Box::into_raw(Box::new(copy)).cast(),
        _ => std::ptr::null_mut(),
    }
}

fn duplicate(sale: &Sale) -> Option<Sale> {
    let seed = state::with(|state| state.seed);
    let mut loader: Option<Loader> = None;
    let mut damaged = false;
    sale.snapshot(|chunk| match &mut loader {
        None => loader = Loader::new(chunk, seed).ok(),
        Some(loader) => damaged |= loader.push(chunk).is_err(),
    });
    if damaged { None } else { loader?.finish().ok() }
}
