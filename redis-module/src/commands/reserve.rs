//! FLASH.RESERVE: sets units aside for a buyer until a deadline.

use super::metadata::ITEMS;
use super::{Access, Arg, Definition, Metadata};
use crate::blocking;
use crate::execute::{Call, Fault, Waiting};
use flashsale_core::Command;
use flashsale_core::protocol::args;

pub(super) struct Reserve;

impl Definition for Reserve {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.RESERVE",
        flags: c"write deny-oom fast",
        access: Access::Update,
        arity: -7,
        summary: c"Sets units aside for a buyer until a deadline",
        complexity: c"O(N) with N the number of SKUs",
        args: &[
            Arg::key(),
            Arg::text(c"id"),
            Arg::text(c"buyer"),
            Arg::integer(c"ms").after(c"TTL").optional(),
            Arg::flag(c"upto", c"UPTO").optional(),
            Arg::flag(c"repeated", c"REPEATED").optional(),
            Arg::text(c"hold-id").after(c"REPLACE").optional(),
            Arg::integer(c"unix-ms").after(c"NOTAFTER").optional(),
            Arg::integer(c"ms").after(c"BLOCK").optional(),
            Arg::text(c"text").after(c"META").optional(),
            ITEMS,
        ],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let parsed = args::reserve(call.words)?;
        let command = Command::Reserve(parsed.reserve);
        match parsed.block_ms {
            Some(ms) if !call.ctx.flags().denies_waiting() => blocking::run_or_wait(call, &command, ms),
            Some(_) => call.run_as(&command, Waiting::Never).map(|_| ()),
            None => call.run(&command),
        }
    }
}
