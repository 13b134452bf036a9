//! FLASH._APPLY, FLASH._LOAD and FLASH._RATE: how effects, snapshots and rate limits reach replicas and come back
//! from append-only files. Clients may not send them: what they carry was decided before.

use super::{Access, Arg, Definition, Metadata};
use crate::data_type::{SaleKey, Value};
use crate::execute::{self, Call, Fault};
use crate::{rate_type, server};
use flashsale_core::gcra::Arrival;
use flashsale_core::protocol::ParseError;
use flashsale_core::snapshot::Loader;

fn payload<'c>(call: &Call<'c, '_>) -> Result<&'c [u8], Fault> {
    if !call.ctx.flags().is_replayed() {
        return Err(Fault::ForReplication);
    }
    match call.words {
        [payload] => Ok(payload),
        _ => Err(ParseError::Arity.into()),
    }
}

pub(super) struct Apply;

impl Definition for Apply {
    const METADATA: Metadata = Metadata {
        name: c"FLASH._APPLY",
        flags: c"write",
        access: Access::Update,
        arity: 3,
        summary: c"Carries out effects that a primary has decided",
        complexity: c"O(N) with N the number of effects",
        args: &[Arg::key(), Arg::text(c"log")],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let log = payload(call)?;
        execute::apply_log(call, log)?;
        answer_ok(call);
        Ok(())
    }
}

pub(super) struct Load;

impl Definition for Load {
    const METADATA: Metadata = Metadata {
        name: c"FLASH._LOAD",
        flags: c"write",
        access: Access::Insert,
        arity: 3,
        summary: c"Loads a part of a snapshot from a rewritten append-only file",
        complexity: c"O(N) with N the number of holds in the part",
        args: &[Arg::key(), Arg::text(c"chunk")],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let chunk = payload(call)?;
        load(call, chunk)?;
        call.ctx.replicate_verbatim();
        answer_ok(call);
        Ok(())
    }
}

fn load(call: &mut Call<'_, '_>, chunk: &[u8]) -> Result<(), Fault> {
    let mut key = call.ctx.open(call.key_name, server::Access::Write);
    match SaleKey::of(&mut key, call.state.data_type)? {
        Some(value) => {
            value.load_chunk(chunk)?;
            value.schedule(&mut call.state.schedule, || (call.ctx.selected_db(), call.key_name.bytes().to_vec()));
        }
        None => {
            let loader =
                Loader::new(chunk, call.state.seed).map_err(|error| Fault::Damaged(error.to_string().into()))?;
            // A slot that is moved to a live server comes in this way, too.
            let loader = if call.ctx.flags().is_loading() { loader } else { loader.in_small_steps() };
            SaleKey::put(&mut key, call.state.data_type, Value::loading(loader));
        }
    }
    Ok(())
}

pub(super) struct Rate;

impl Definition for Rate {
    const METADATA: Metadata = Metadata {
        name: c"FLASH._RATE",
        flags: c"write",
        access: Access::Update,
        arity: 3,
        summary: c"Keeps a rate limit as a primary has left it",
        complexity: c"O(1)",
        args: &[Arg::key(), Arg::text(c"ticks")],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let ticks = std::str::from_utf8(payload(call)?).ok().and_then(|ticks| ticks.parse().ok());
        let arrival = ticks.and_then(Arrival::from_ticks);
        let arrival = arrival.ok_or_else(|| Fault::Damaged("FLASH._RATE: malformed data".into()))?;
        rate_type::ask(call.ctx, call.state, call.key_name, |_| ((), Some(arrival)))?;
        call.ctx.replicate_verbatim();
        answer_ok(call);
        Ok(())
    }
}

fn answer_ok(call: &mut Call<'_, '_>) {
    flashsale_core::protocol::reply::Reply::ok(&mut call.ctx);
}
