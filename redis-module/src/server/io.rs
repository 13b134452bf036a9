//! What the callbacks of a data type are handed: a value on its way to a file or from one, to another key, to a digest.

use super::{ServerString, api};
use redis_module::raw;
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::NonNull;

/// The context while a value is saved, loaded or rewritten.
#[derive(Clone, Copy)]
pub(crate) struct Io(pub NonNull<raw::RedisModuleIO>);

impl Io {
    pub fn save(self, bytes: &[u8]) {
        // SAFETY: the io is that of a running rdb_save.
        unsafe { api!(RedisModule_SaveStringBuffer)(self.0.as_ptr(), bytes.as_ptr().cast::<c_char>(), bytes.len()) };
    }

    /// The next string, or `None` if the data ends or is damaged.
    pub fn load(self) -> Option<Vec<u8>> {
        let mut len = 0;
        // SAFETY: the io is that of a running rdb_load, with OPTIONS_HANDLE_IO_ERRORS set: an error gives null.
        // The buffer is ours to free.
        unsafe {
            let start = api!(RedisModule_LoadStringBuffer)(self.0.as_ptr(), &mut len);
            if start.is_null() {
                return None;
            }
            let bytes = std::slice::from_raw_parts(start.cast::<u8>(), len).to_vec();
            api!(RedisModule_Free)(start.cast());
            (api!(RedisModule_IsIOError)(self.0.as_ptr()) == 0).then_some(bytes)
        }
    }

    pub fn warn(self, text: &str) {
        let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
        // SAFETY: the format takes one C string.
        unsafe {
            api!(RedisModule_LogIOError)(self.0.as_ptr(), c"warning".as_ptr(), c"%s".as_ptr(), text.as_ptr());
        }
    }

    /// Database and name of the key that is loaded, where the server tells.
    pub fn key(self) -> Option<(c_int, Vec<u8>)> {
        // SAFETY: the io is that of a running callback; the name lives as long.
        unsafe {
            let name = api!(RedisModule_GetKeyNameFromIO)(self.0.as_ptr());
            if name.is_null() {
                return None;
            }
            let db = api!(RedisModule_GetDbIdFromIO)(self.0.as_ptr());
            Some((db, ServerString::from_raw(name.cast_mut()).bytes().to_vec()))
        }
    }

    /// Writes `FLASH._LOAD key chunk` to the append-only file that is being rewritten.
    pub fn emit_chunk(self, key: ServerString<'_>, chunk: &[u8]) {
        self.emit(c"FLASH._LOAD", key, chunk);
    }

    /// Writes `FLASH._RATE key ticks` to the append-only file that is being rewritten.
    pub fn emit_rate(self, key: ServerString<'_>, ticks: &str) {
        self.emit(c"FLASH._RATE", key, ticks.as_bytes());
    }

    fn emit(self, command: &CStr, key: ServerString<'_>, payload: &[u8]) {
        // SAFETY: the format names a string of the server and a buffer with its length, both alive.
        unsafe {
            api!(RedisModule_EmitAOF)(
                self.0.as_ptr(),
                command.as_ptr(),
                c"sb".as_ptr(),
                key.raw,
                payload.as_ptr().cast::<c_char>(),
                payload.len(),
            );
        }
    }
}

/// Adds a part of a value to its digest; the order of parts does not matter.
///
/// # Safety
/// `digest` is that of a digest callback that is running.
pub(crate) unsafe fn digest_part(digest: *mut raw::RedisModuleDigest, part: &[u8]) {
    unsafe {
        // The server only reads, though its signature does not say so.
        api!(RedisModule_DigestAddStringBuffer)(digest, part.as_ptr().cast::<c_char>().cast_mut(), part.len());
        api!(RedisModule_DigestEndSequence)(digest);
    }
}

/// Database and name of the key that a value is being copied to.
///
/// # Safety
/// `key` is the context of a copy callback that is running.
pub(crate) unsafe fn copied_to(key: *mut raw::RedisModuleKeyOptCtx) -> (c_int, Vec<u8>) {
    unsafe {
        let name = api!(RedisModule_GetToKeyNameFromOptCtx)(key);
        let name = if name.is_null() { Vec::new() } else { ServerString::from_raw(name.cast_mut()).bytes().to_vec() };
        (api!(RedisModule_GetToDbIdFromOptCtx)(key), name)
    }
}
