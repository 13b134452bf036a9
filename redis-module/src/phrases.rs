//! The words that answers begin with, as replies that the server itself has made once: it copies a reply out whole,
//! where it writes a string in three pieces.

use crate::server::{Ctx, api};
use flashsale_core::protocol::reply::Status;
use redis_module::raw;
use std::ffi::c_char;
use std::ptr::NonNull;
use std::sync::OnceLock;

/// A reply of the server to `ECHO word`. It is kept for as long as the module, which is never unloaded.
struct Phrase(NonNull<raw::RedisModuleCallReply>);

// SAFETY: it is made and used on the server's main thread alone, where every `Ctx` is; statics must say so of all
// threads.
unsafe impl Send for Phrase {}
unsafe impl Sync for Phrase {}

/// By status; `None` if the server would not make it.
static PHRASES: [OnceLock<Option<Phrase>>; Status::COUNT] = [const { OnceLock::new() }; Status::COUNT];

/// Answers with the word of a status. `false` if the server has no reply for it.
pub(crate) fn answer(ctx: Ctx<'_>, status: Status) -> bool {
    let Some(phrase) = PHRASES[status as usize].get_or_init(|| make(ctx, status.word())) else { return false };
    // SAFETY: the context is that of a command or its reply. The reply is the server's own, was never freed, and is
    // only read; it is RESP2, which clients of either protocol take.
    unsafe { api!(RedisModule_ReplyWithCallReply)(ctx.raw(), phrase.0.as_ptr()) == raw::REDISMODULE_OK as i32 }
}

fn make(ctx: Ctx<'_>, word: &str) -> Option<Phrase> {
    // SAFETY: the format names a buffer with its length. What comes back is ours to free, or null; with no automatic
    // memory in the context nobody else frees it.
    unsafe {
        let reply = api!(RedisModule_Call)(
            ctx.raw(),
            c"ECHO".as_ptr(),
            c"b".as_ptr(),
            word.as_ptr().cast::<c_char>(),
            word.len(),
        );
        let reply = NonNull::new(reply)?;
        if api!(RedisModule_CallReplyType)(reply.as_ptr()) == raw::REDISMODULE_REPLY_STRING as i32 {
            return Some(Phrase(reply));
        }
        api!(RedisModule_FreeCallReply)(reply.as_ptr());
        None
    }
}
