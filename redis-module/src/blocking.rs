//! RESERVE with BLOCK: clients that wait for units which others hold or which are on their way.
//!
//! The server keeps the queue: clients that wait on a key are tried in the order in which they came, whenever
//! something in the key has changed, and before any later command. A client that still cannot be served goes
//! on waiting and does not hold up those behind it.

use crate::execute::{Answered, Call, Fault, Waiting, report_bug};
use crate::server::{Ctx, ServerString, api, must_keep_quiet};
use crate::state;
use flashsale_core::Command;
use flashsale_core::protocol::args;
use redis_module::raw;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_longlong, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Most clients that wait on one key: each change that frees units tries them all. Those who come later are
/// answered at once.
const MOST_PER_KEY: usize = 1_000;

/// How many clients wait on which key, so that waking costs nothing where nobody waits.
#[derive(Default)]
pub(crate) struct Waiters {
    by_key: BTreeMap<(c_int, Vec<u8>), usize>,
}

impl Waiters {
    /// Counts a client that will wait; `false` if there are too many.
    fn enter(&mut self, db: c_int, key: &[u8]) -> bool {
        let count = self.by_key.entry((db, key.to_vec())).or_default();
        let room = *count < MOST_PER_KEY;
        *count += usize::from(room);
        room
    }

    fn leave(&mut self, db: c_int, key: &[u8]) {
        let entry = (db, key.to_vec());
        if let Some(count) = self.by_key.get_mut(&entry) {
            *count -= 1;
            if *count == 0 {
                self.by_key.remove(&entry);
            }
        }
    }

    /// Whether anybody waits on a key.
    pub fn any(&self, db: c_int, key: &[u8]) -> bool {
        !self.by_key.is_empty() && self.by_key.contains_key(&(db, key.to_vec()))
    }

    /// Has those who wait on a key tried again, after the command that is running.
    pub fn wake(&self, ctx: Ctx<'_>, key: ServerString<'_>) {
        if self.any(ctx.selected_db(), key.bytes()) {
            ctx.signal_ready(key);
        }
    }
}

/// A request that waits: its words, kept until it is answered.
struct Request {
    db: c_int,
    key: Vec<u8>,
    words: Vec<Vec<u8>>,
}

/// Carries the command out, or has its client wait at most `ms` (0: for ever).
pub(crate) fn run_or_wait<'c>(call: &mut Call<'c, '_>, command: &Command<'c>, ms: u64) -> Result<(), Fault> {
    if call.run_as(command, Waiting::Possible)? == Answered::Yes {
        return Ok(());
    }
    let db = call.ctx.selected_db();
    let key = call.key_name.bytes();
    if !call.state.waiters.enter(db, key) {
        return call.run_as(command, Waiting::Never).map(|_| ());
    }
    let request = Request { db, key: key.to_vec(), words: call.words.iter().map(|word| word.to_vec()).collect() };
    let mut keys = [call.key_name.raw()];
    // SAFETY: the context is that of a command whose client may wait; the request is freed by `free`, once.
    unsafe {
        api!(RedisModule_BlockClientOnKeys)(
            call.ctx.raw(),
            Some(try_again),
            Some(time_is_up),
            Some(free),
            ms as c_longlong,
            keys.as_mut_ptr(),
            1,
            Box::into_raw(Box::new(request)).cast(),
        );
    }
    Ok(())
}

/// Something has changed in the key: an error status tells the server that the client goes on waiting.
unsafe extern "C" fn try_again(
    raw: *mut raw::RedisModuleCtx,
    _argv: *mut *mut raw::RedisModuleString,
    _argc: c_int,
) -> c_int {
    // SAFETY: the context of a callback of the server, here and below.
    let answered = unsafe { answer(raw, Waiting::Possible) };
    match answered {
        Answered::Yes => raw::REDISMODULE_OK as c_int,
        Answered::NotYet => raw::REDISMODULE_ERR as c_int,
    }
}

/// The time of waiting is over: the client gets the answer of this moment.
unsafe extern "C" fn time_is_up(
    raw: *mut raw::RedisModuleCtx,
    _argv: *mut *mut raw::RedisModuleString,
    _argc: c_int,
) -> c_int {
    unsafe { answer(raw, Waiting::Never) };
    raw::REDISMODULE_OK as c_int
}

/// The client has been answered, or has gone.
unsafe extern "C" fn free(_ctx: *mut raw::RedisModuleCtx, request: *mut c_void) {
    // SAFETY: made by `Box::into_raw`, freed once.
    let request = unsafe { Box::from_raw(request.cast::<Request>()) };
    state::try_with(|state| state.waiters.leave(request.db, &request.key));
}

/// # Safety
/// `raw` is the context of a callback for a client that waits here.
unsafe fn answer(raw: *mut raw::RedisModuleCtx, waiting: Waiting) -> Answered {
    let (ctx, request) = unsafe {
        let request = api!(RedisModule_GetBlockedClientPrivateData)(raw).cast::<Request>();
        (Ctx::from_raw(raw), request.as_ref())
    };
    let Some(request) = request else { return Answered::NotYet };
    if must_keep_quiet() {
        // A write would now be the server's end (its failover, its pause).
        return match waiting {
            Waiting::Possible => Answered::NotYet,
            Waiting::Never => {
                ctx.error(&Fault::Quiet.text());
                Answered::Yes
            }
        };
    }
    let run = || {
        let key = crate::server::OwnedString::new(&request.key);
        run_again(ctx, request, key.borrowed(), waiting)
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(answered)) => answered,
        Ok(Err(fault)) => {
            ctx.error(&fault.text());
            Answered::Yes
        }
        Err(_) => {
            report_bug(ctx);
            ctx.error(&Fault::Bug.text());
            Answered::Yes
        }
    }
}

fn run_again(ctx: Ctx<'_>, request: &Request, key_name: ServerString<'_>, waiting: Waiting) -> Result<Answered, Fault> {
    let words: Vec<&[u8]> = request.words.iter().map(Vec::as_slice).collect();
    let command = Command::Reserve(args::reserve(&words)?.reserve);
    state::with(|state| {
        let mut call = Call { ctx, key_name, words: &words, strings: &[], state, stream: None };
        call.run_as(&command, waiting)
    })
}
