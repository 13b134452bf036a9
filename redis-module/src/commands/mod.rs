//! The commands: one file each, with what the server and `COMMAND DOCS` are told of it.

mod accept;
mod alter;
mod audit;
mod buyer;
mod confirm;
mod create;
mod expire;
mod extend;
mod grant;
mod hold;
mod holds;
mod info;
mod metadata;
mod mreserve;
mod order;
mod release;
mod replay;
mod reserve;
mod returned;
mod route;
mod shards;
mod stock;
mod switches;
mod throttle;

use crate::execute::{Call, Fault, report_bug};
use crate::server::{Ctx, ServerString};
use crate::state;
use flashsale_core::protocol::ParseError;
use metadata::{Access, Arg, Metadata};
use redis_module::raw;
use smallvec::SmallVec;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A command of the module.
trait Definition {
    const METADATA: Metadata;

    /// Carries the command out and answers, or says why not.
    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault>;
}

/// Registers every command. `false` if the server refuses one.
pub(crate) fn register(ctx: Ctx<'_>) -> bool {
    metadata::add_category(ctx);
    one::<create::Create>(ctx)
        && one::<alter::Alter>(ctx)
        && one::<stock::Stock>(ctx)
        && one::<reserve::Reserve>(ctx)
        && one::<mreserve::Mreserve>(ctx)
        && one::<order::Order>(ctx)
        && one::<confirm::Confirm>(ctx)
        && one::<release::Release>(ctx)
        && one::<extend::Extend>(ctx)
        && one::<returned::Return>(ctx)
        && one::<expire::Expire>(ctx)
        && one::<switches::Pause>(ctx)
        && one::<switches::Resume>(ctx)
        && one::<switches::Close>(ctx)
        && one::<info::Info>(ctx)
        && one::<hold::Hold>(ctx)
        && one::<buyer::Buyer>(ctx)
        && one::<holds::Holds>(ctx)
        && one::<audit::Audit>(ctx)
        && one::<shards::Shards>(ctx)
        && one::<route::Route>(ctx)
        && one::<grant::Grant>(ctx)
        && one::<accept::Accept>(ctx)
        && one::<replay::Apply>(ctx)
        && one::<replay::Load>(ctx)
        && one::<throttle::Throttle>(ctx)
        && one::<replay::Rate>(ctx)
}

fn one<D: Definition>(ctx: Ctx<'_>) -> bool {
    metadata::register(ctx, &D::METADATA, entry::<D>)
}

const FEW_WORDS: usize = 12;

/// What the server calls. No panic leaves it: a bug answers an error, and the server lives on.
///
/// # Safety
/// Called by the server alone, with the words of one command.
unsafe extern "C" fn entry<D: Definition>(
    raw: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    // SAFETY: the context and the words live until this returns. A ServerString is laid out as its pointer.
    let ctx = unsafe { Ctx::from_raw(raw) };
    let words = unsafe { std::slice::from_raw_parts(argv.cast::<ServerString<'_>>(), argc as usize) };
    if catch_unwind(AssertUnwindSafe(|| dispatch::<D>(ctx, words))).is_err() {
        report_bug(ctx);
        ctx.error(&Fault::Bug.text());
    }
    raw::REDISMODULE_OK as c_int
}

fn dispatch<'c, D: Definition>(ctx: Ctx<'c>, words: &[ServerString<'c>]) {
    let [_, key_name, strings @ ..] = words else { return ctx.wrong_arity() };
    // Nearly all commands have few words: those are listed on the stack.
    let mut words = SmallVec::<[&[u8]; FEW_WORDS]>::new();
    words.extend(strings.iter().map(|string| string.bytes()));
    let (key_name, words) = (*key_name, &words[..]);
    let called = state::with(|state| D::call(&mut Call { ctx, key_name, words, strings, state, stream: None }));
    match called {
        Ok(()) => {}
        Err(Fault::Words(error)) if *error == ParseError::Arity => ctx.wrong_arity(),
        Err(fault) => ctx.error(&fault.text()),
    }
}
