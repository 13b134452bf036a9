//! What answers are made of again and again, as replies that the server itself has made once: it copies a reply out
//! whole, where it writes a string in three pieces.
//!
//! The words that answers begin with are kept, and the refusals of a SKU that is sold out here: those come by the
//! thousand, the same every time.

use crate::server::{Ctx, api};
use flashsale_core::protocol::reply::Status;
use redis_module::raw;
use std::ffi::{c_char, c_int};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// A reply of the server. It is kept for as long as the module, which is never unloaded: to free it would take the
/// context of the call that made it.
struct Phrase(NonNull<raw::RedisModuleCallReply>);

// SAFETY: it is made and used on the server's main thread alone, where every `Ctx` is; statics must say so of all
// threads.
unsafe impl Send for Phrase {}
unsafe impl Sync for Phrase {}

/// By status; `None` if the server would not make it.
static WORDS: [OnceLock<Option<Phrase>>; Status::COUNT] = [const { OnceLock::new() }; Status::COUNT];

/// A status and the SKU it is said of.
struct Refusal {
    status: Status,
    sku: Box<[u8]>,
    phrase: Option<Phrase>,
}

/// So many refusals are kept: as none is ever freed, they must not be as many as somebody likes.
const MOST_REFUSALS: usize = 32;
static REFUSALS: [OnceLock<Refusal>; MOST_REFUSALS] = [const { OnceLock::new() }; MOST_REFUSALS];

/// Answers with the word of a status. `false` if the server has no reply for it.
pub(crate) fn answer(ctx: Ctx<'_>, status: Status) -> bool {
    WORDS[status as usize].get_or_init(|| echo(ctx, status.word())).as_ref().is_some_and(|phrase| phrase.answer(ctx))
}

/// Answers with a status and the SKU it is said of. `false` if there is no reply for them.
pub(crate) fn answer_refusal(ctx: Ctx<'_>, status: Status, sku: &[u8]) -> bool {
    // The first place that is free is taken by a refusal that has none.
    let keep = || Refusal { status, sku: sku.into(), phrase: pair(ctx, status.word(), sku) };
    let mut kept = REFUSALS.iter().map(|place| place.get_or_init(keep));
    let found = kept.find(|kept| kept.status == status && *kept.sku == *sku);
    found.and_then(|refusal| refusal.phrase.as_ref()).is_some_and(|phrase| phrase.answer(ctx))
}

impl Phrase {
    fn answer(&self, ctx: Ctx<'_>) -> bool {
        // SAFETY: the context is that of a command or its reply. The reply is the server's own, was never freed, and
        // is only read; it is RESP2, which clients of either protocol take.
        unsafe { api!(RedisModule_ReplyWithCallReply)(ctx.raw(), self.0.as_ptr()) == raw::REDISMODULE_OK as c_int }
    }

    /// Keeps a reply, if there is one and it is of this type.
    ///
    /// # Safety
    /// `reply` is null, or a reply that nobody else frees.
    unsafe fn keep(reply: *mut raw::RedisModuleCallReply, of_type: isize) -> Option<Self> {
        let reply = NonNull::new(reply)?;
        // SAFETY: the reply lives, and is ours to free.
        unsafe {
            if api!(RedisModule_CallReplyType)(reply.as_ptr()) == of_type as c_int {
                return Some(Self(reply));
            }
            api!(RedisModule_FreeCallReply)(reply.as_ptr());
        }
        None
    }
}

/// A string.
fn echo(ctx: Ctx<'_>, word: &str) -> Option<Phrase> {
    let (name, format) = (c"ECHO".as_ptr(), c"b".as_ptr());
    // SAFETY: the format names a buffer with its length. With no automatic memory in the context the reply is ours.
    unsafe {
        let reply = api!(RedisModule_Call)(ctx.raw(), name, format, word.as_ptr().cast::<c_char>(), word.len());
        Phrase::keep(reply, raw::REDISMODULE_REPLY_STRING)
    }
}

/// An array of two strings: as MGET would take them for keys, the server tells them again.
fn pair(ctx: Ctx<'_>, word: &str, sku: &[u8]) -> Option<Phrase> {
    let (name, format) = (c"COMMAND".as_ptr(), c"ccbb".as_ptr());
    // SAFETY: the format names two C strings and two buffers with their lengths; the rest as above.
    unsafe {
        let reply = api!(RedisModule_Call)(
            ctx.raw(),
            name,
            format,
            c"GETKEYS".as_ptr(),
            c"MGET".as_ptr(),
            word.as_ptr().cast::<c_char>(),
            word.len(),
            sku.as_ptr().cast::<c_char>(),
            sku.len(),
        );
        Phrase::keep(reply, raw::REDISMODULE_REPLY_ARRAY)
    }
}
