//! The server's module API, in safe clothes.
//!
//! Everything here runs on the server's main thread, inside a callback of the server: a [`Ctx`] exists only
//! there. Function pointers that every supported server has are called outright; those that came after
//! Redis 7.0 are asked for with [`Option`].

mod io;

use crate::phrases;
use flashsale_core::protocol::reply::{self, Reply, Status};
use redis_module::raw;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_longlong, c_void};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;

/// A function of the API that every supported server has: Redis 7.0 and Valkey 7.2 do. The pointers are set
/// once, by `Export_RedisModule_Init`, before any callback can run; to read and call them is the caller's `unsafe`.
macro_rules! api {
    ($name:ident) => {
        raw::$name.expect(concat!(stringify!($name), " is in every supported server"))
    };
}
pub(crate) use api;
pub(crate) use io::{Io, copied_to, digest_part};

/// The context of a callback of the server.
#[derive(Clone, Copy)]
pub(crate) struct Ctx<'c> {
    raw: *mut raw::RedisModuleCtx,
    _callback: PhantomData<&'c ()>,
}

/// A string that the server keeps alive for the callback.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct ServerString<'c> {
    raw: *mut raw::RedisModuleString,
    _callback: PhantomData<&'c ()>,
}

impl<'c> ServerString<'c> {
    /// # Safety
    /// `raw` is a string of the server that lives as long as `'c`.
    pub unsafe fn from_raw(raw: *mut raw::RedisModuleString) -> Self {
        Self { raw, _callback: PhantomData }
    }

    pub fn raw(self) -> *mut raw::RedisModuleString {
        self.raw
    }

    /// The same string once more, for longer: the server counts its owners.
    pub fn share(self) -> OwnedString {
        // SAFETY: the string is alive, and belongs to no context that frees it by itself.
        unsafe { api!(RedisModule_RetainString)(std::ptr::null_mut(), self.raw) };
        OwnedString { raw: self.raw }
    }

    pub fn bytes(self) -> &'c [u8] {
        let mut len = 0;
        // SAFETY: the string lives for 'c, and the server does not change it meanwhile.
        unsafe {
            let start = api!(RedisModule_StringPtrLen)(self.raw, &mut len);
            std::slice::from_raw_parts(start.cast(), len)
        }
    }
}

impl AsRef<[u8]> for ServerString<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

/// A string that we own or share, freed or given back when dropped.
#[repr(transparent)]
pub(crate) struct OwnedString {
    raw: *mut raw::RedisModuleString,
}

impl OwnedString {
    pub fn new(bytes: &[u8]) -> Self {
        // SAFETY: a null context makes a string that we own alone; the bytes are copied.
        let raw = unsafe {
            api!(RedisModule_CreateString)(std::ptr::null_mut(), bytes.as_ptr().cast::<c_char>(), bytes.len())
        };
        Self { raw }
    }

    pub fn borrowed(&self) -> ServerString<'_> {
        ServerString { raw: self.raw, _callback: PhantomData }
    }
}

impl Drop for OwnedString {
    fn drop(&mut self) {
        // SAFETY: made by `new` or shared, dropped once.
        unsafe { api!(RedisModule_FreeString)(std::ptr::null_mut(), self.raw) }
    }
}

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Empty,
    Stream,
    /// A value of this or another module.
    Module,
    Other,
}

/// An open key, closed when dropped.
pub(crate) struct Key<'c> {
    raw: *mut raw::RedisModuleKey,
    _callback: PhantomData<&'c ()>,
}

impl Key<'_> {
    /// A key that somebody else has opened and will close.
    ///
    /// # Safety
    /// `raw` stays open for as long as what is returned is used.
    pub unsafe fn lent(raw: *mut raw::RedisModuleKey) -> ManuallyDrop<Self> {
        ManuallyDrop::new(Self { raw, _callback: PhantomData })
    }

    pub fn kind(&self) -> KeyKind {
        // SAFETY: the key is open (or null, an empty key opened for reading, which the server allows).
        match unsafe { api!(RedisModule_KeyType)(self.raw) } as isize {
            raw::REDISMODULE_KEYTYPE_EMPTY => KeyKind::Empty,
            raw::REDISMODULE_KEYTYPE_STREAM => KeyKind::Stream,
            raw::REDISMODULE_KEYTYPE_MODULE => KeyKind::Module,
            _ => KeyKind::Other,
        }
    }

    /// The module value, with the type it has; both null if the key is empty or holds something else.
    pub fn value(&self) -> (*mut raw::RedisModuleType, *mut c_void) {
        // SAFETY: the key is open (or null, which the server allows).
        unsafe { (api!(RedisModule_ModuleTypeGetType)(self.raw), api!(RedisModule_ModuleTypeGetValue)(self.raw)) }
    }

    /// Puts a value into an empty key that is open for writing. The key owns it from then on.
    ///
    /// # Safety
    /// `value` is what the callbacks of `data_type` expect, and owned by nobody else.
    pub unsafe fn set_value(&self, data_type: *mut raw::RedisModuleType, value: *mut c_void) -> bool {
        let status = unsafe { api!(RedisModule_ModuleTypeSetValue)(self.raw, data_type, value) };
        status == raw::REDISMODULE_OK as c_int
    }

    /// The key, which is open for writing and not empty, goes away at this time, unix ms.
    pub fn expire_at(&self, ms: u64) {
        // SAFETY: the key is open.
        unsafe { api!(RedisModule_SetAbsExpire)(self.raw, ms as raw::mstime_t) };
    }

    /// Length of the stream in the key; 0 if it is empty.
    pub fn len(&self) -> u64 {
        // SAFETY: the key is open, or null, which counts as empty.
        unsafe { api!(RedisModule_ValueLength)(self.raw) as u64 }
    }

    /// Adds an entry to the stream in the key, which is open for writing. `false` if the stream has a later one.
    /// `fields` are names and values in turn.
    pub fn stream_add(&self, id: (u64, u64), fields: &[OwnedString]) -> bool {
        let mut id = raw::RedisModuleStreamID { ms: id.0, seq: id.1 };
        let (strings, pairs) = (fields.as_ptr().cast::<*mut raw::RedisModuleString>(), (fields.len() / 2) as i64);
        // SAFETY: the key is open for writing. An OwnedString is laid out as its pointer; the server only reads the
        // list, and copies what it keeps of the strings.
        let status = unsafe { api!(RedisModule_StreamAdd)(self.raw, 0, &mut id, strings.cast_mut(), pairs) };
        status == raw::REDISMODULE_OK as c_int
    }
}

impl Drop for Key<'_> {
    fn drop(&mut self) {
        // SAFETY: opened by `Ctx::open`, closed once; null is allowed.
        unsafe { api!(RedisModule_CloseKey)(self.raw) }
    }
}

/// How a key is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The server's state as a callback sees it.
#[derive(Clone, Copy)]
pub(crate) struct Flags(c_int);

impl Flags {
    fn has(self, flag: u32) -> bool {
        self.0 & flag as c_int != 0
    }

    pub fn is_replica(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_SLAVE)
    }

    pub fn is_cluster(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_CLUSTER)
    }

    pub fn is_loading(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_LOADING)
    }

    /// Whether the client cannot be made to wait: it is in a transaction or a script, or says so itself.
    pub fn denies_waiting(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_DENY_BLOCKING)
            || self.has(raw::REDISMODULE_CTX_FLAGS_MULTI)
            || self.has(raw::REDISMODULE_CTX_FLAGS_LUA)
    }

    /// Whether the command comes from the primary or the append-only file, not from a client.
    pub fn is_replayed(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_REPLICATED) || self.is_loading()
    }
}

impl<'c> Ctx<'c> {
    /// # Safety
    /// `raw` is the context of a callback that is running for at least `'c`, on the main thread.
    pub unsafe fn from_raw(raw: *mut raw::RedisModuleCtx) -> Self {
        Self { raw, _callback: PhantomData }
    }

    pub fn raw(self) -> *mut raw::RedisModuleCtx {
        self.raw
    }

    pub fn open(self, name: ServerString<'_>, access: Access) -> Key<'c> {
        let mode = match access {
            Access::Read => raw::REDISMODULE_READ,
            Access::Write => raw::REDISMODULE_READ | raw::REDISMODULE_WRITE,
        };
        // SAFETY: context and name are alive.
        let raw = unsafe { api!(RedisModule_OpenKey)(self.raw, name.raw, mode as c_int) };
        Key { raw, _callback: PhantomData }
    }

    pub fn flags(self) -> Flags {
        // SAFETY: the context is alive.
        Flags(unsafe { api!(RedisModule_GetContextFlags)(self.raw) })
    }

    pub fn selected_db(self) -> c_int {
        // SAFETY: the context is alive.
        unsafe { api!(RedisModule_GetSelectedDb)(self.raw) }
    }

    pub fn select_db(self, db: c_int) -> bool {
        // SAFETY: the context is alive; an unknown number is refused by the server.
        unsafe { api!(RedisModule_SelectDb)(self.raw, db) == raw::REDISMODULE_OK as c_int }
    }

    /// The latest id, time and sequence, that the stream in a key ever gave to an entry, be it still there or
    /// not. `None` if there is no stream.
    pub fn last_stream_id(self, key: ServerString<'_>) -> Option<(u64, u64)> {
        const LAST: &[u8] = b"last-generated-id";
        // SAFETY: the format names a C string and a string of the server. Replies are checked for null; parts
        // of one live until it is freed.
        unsafe {
            let (name, format) = (c"XINFO".as_ptr(), c"cs".as_ptr());
            let reply = api!(RedisModule_Call)(self.raw, name, format, c"STREAM".as_ptr(), key.raw);
            if reply.is_null() {
                return None;
            }
            let texts = 0..api!(RedisModule_CallReplyLength)(reply);
            let mut texts = texts.map(|at| text_of(api!(RedisModule_CallReplyArrayElement)(reply, at)));
            let found = texts.find(|text| *text == Some(LAST)).and_then(|_| texts.next().flatten());
            let id = found.and_then(|id| {
                let (ms, seq) = str::from_utf8(id).ok()?.split_once('-')?;
                Some((ms.parse().ok()?, seq.parse().ok()?))
            });
            api!(RedisModule_FreeCallReply)(reply);
            id
        }
    }

    /// Sends `FLASH._APPLY key log` to replicas and the append-only file.
    pub fn replicate_effects(self, key: ServerString<'_>, log: &[u8]) {
        // SAFETY: the format names a string of the server and a buffer with its length, both alive.
        unsafe {
            api!(RedisModule_Replicate)(
                self.raw,
                c"FLASH._APPLY".as_ptr(),
                c"sb".as_ptr(),
                key.raw,
                log.as_ptr().cast::<c_char>(),
                log.len(),
            );
        }
    }

    /// Sends `FLASH._RATE key ticks` to replicas and the append-only file.
    pub fn replicate_rate(self, key: ServerString<'_>, ticks: &str) {
        // SAFETY: as above.
        unsafe {
            api!(RedisModule_Replicate)(
                self.raw,
                c"FLASH._RATE".as_ptr(),
                c"sb".as_ptr(),
                key.raw,
                ticks.as_ptr().cast::<c_char>(),
                ticks.len(),
            );
        }
    }

    pub fn replicate_verbatim(self) {
        // SAFETY: the context is that of a command.
        unsafe { api!(RedisModule_ReplicateVerbatim)(self.raw) };
    }

    /// Tells WATCH and client tracking that a key has changed.
    pub fn signal_modified(self, key: ServerString<'_>) {
        // SAFETY: context and name are alive.
        unsafe { api!(RedisModule_SignalModifiedKey)(self.raw, key.raw) };
    }

    /// Has clients that wait on the key tried again.
    pub fn signal_ready(self, key: ServerString<'_>) {
        // SAFETY: context and name are alive.
        unsafe { api!(RedisModule_SignalKeyAsReady)(self.raw, key.raw) };
    }

    pub fn notify(self, event: &CStr, key: ServerString<'_>) {
        // SAFETY: context, event and name are alive.
        unsafe {
            api!(RedisModule_NotifyKeyspaceEvent)(self.raw, raw::REDISMODULE_NOTIFY_MODULE, event.as_ptr(), key.raw)
        };
    }

    /// Publishes; in a cluster to the sharded channel if `sharded`, else to all nodes.
    pub fn publish(self, channel: &[u8], message: &[u8], sharded: bool) {
        let (channel, message) = (OwnedString::new(channel), OwnedString::new(message));
        // SAFETY: context and strings are alive.
        unsafe {
            let publish = if sharded && self.flags().is_cluster() {
                api!(RedisModule_PublishMessageShard)
            } else {
                api!(RedisModule_PublishMessage)
            };
            publish(self.raw, channel.raw, message.raw);
        }
    }

    pub fn error(self, text: &str) {
        // A NUL would cut the text short, a line break would break the protocol: neither is ever in it.
        let text = CString::new(text.replace(['\0', '\r', '\n'], " ")).unwrap_or_default();
        // SAFETY: the text is a C string and copied.
        unsafe { api!(RedisModule_ReplyWithError)(self.raw, text.as_ptr()) };
    }

    pub fn wrong_arity(self) {
        // SAFETY: the context is that of a command.
        unsafe { api!(RedisModule_WrongArity)(self.raw) };
    }

    /// Writes a warning to the server's log. The text is never a format: a `%` in it is harmless.
    pub fn warn(self, text: &str) {
        let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
        // SAFETY: the format takes one C string.
        unsafe { api!(RedisModule_Log)(self.raw, c"warning".as_ptr(), c"%s".as_ptr(), text.as_ptr()) };
    }

    /// Calls back once, after `ms`.
    pub fn start_timer(self, ms: i64, callback: unsafe extern "C" fn(*mut raw::RedisModuleCtx, *mut c_void)) {
        // SAFETY: the callback needs no data.
        unsafe { api!(RedisModule_CreateTimer)(self.raw, ms, Some(callback), std::ptr::null_mut()) };
    }
}

/// The text of a reply, if it is one.
///
/// # Safety
/// `reply` is null or a part of a reply that lives for `'r`.
pub(crate) unsafe fn text_of<'r>(reply: *mut raw::RedisModuleCallReply) -> Option<&'r [u8]> {
    unsafe {
        if reply.is_null() || api!(RedisModule_CallReplyType)(reply) != raw::REDISMODULE_REPLY_STRING as c_int {
            return None;
        }
        let mut len = 0;
        let start = api!(RedisModule_CallReplyStringPtr)(reply, &mut len);
        (!start.is_null()).then(|| std::slice::from_raw_parts(start.cast(), len))
    }
}

/// The server's clock in unix milliseconds.
pub(crate) fn clock_ms() -> u64 {
    // SAFETY: takes nothing.
    unsafe { api!(RedisModule_Milliseconds)() as u64 }
}

/// Whether writes that no client asked for must wait: the server is failing over, paused or shutting down.
pub(crate) fn must_keep_quiet() -> bool {
    // SAFETY: takes nothing; asked for because servers before 7.2 may lack it.
    unsafe { raw::RedisModule_AvoidReplicaTraffic.is_some_and(|avoid| avoid() != 0) }
}

pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // SAFETY: the buffer is as long as said.
    unsafe { api!(RedisModule_GetRandomBytes)(bytes.as_mut_ptr(), N) };
    bytes
}

impl Reply for Ctx<'_> {
    fn array(&mut self, len: usize) {
        // SAFETY: here and below the context is that of a command or its reply.
        unsafe { api!(RedisModule_ReplyWithArray)(self.raw, len as c_long) };
    }

    fn map(&mut self, len: usize) {
        unsafe { api!(RedisModule_ReplyWithMap)(self.raw, len as c_long) };
    }

    fn ok(&mut self) {
        unsafe { api!(RedisModule_ReplyWithSimpleString)(self.raw, c"OK".as_ptr()) };
    }

    fn bytes(&mut self, bytes: &[u8]) {
        unsafe { api!(RedisModule_ReplyWithStringBuffer)(self.raw, bytes.as_ptr().cast::<c_char>(), bytes.len()) };
    }

    fn status(&mut self, status: Status) {
        if !phrases::answer(*self, status) {
            self.bytes(status.word().as_bytes());
        }
    }

    fn refusal(&mut self, status: Status, sku: &[u8]) {
        if !phrases::answer_refusal(*self, status, sku) {
            reply::pair(self, status, sku);
        }
    }

    fn integer(&mut self, number: i64) {
        unsafe { api!(RedisModule_ReplyWithLongLong)(self.raw, number as c_longlong) };
    }

    fn null(&mut self) {
        unsafe { api!(RedisModule_ReplyWithNull)(self.raw) };
    }

    fn error(&mut self, text: &str) {
        Ctx::error(*self, text);
    }
}
