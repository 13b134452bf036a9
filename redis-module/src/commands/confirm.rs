//! FLASH.CONFIRM: turns a hold into an order. Never refused for want of memory: the buyer is paying.

use super::metadata::ITEMS;
use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::Command;
use flashsale_core::protocol::args;

pub(super) struct Confirm;

impl Definition for Confirm {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.CONFIRM",
        flags: c"write fast",
        access: Access::Update,
        arity: -3,
        summary: c"Turns a hold into an order",
        complexity: c"O(N) with N the number of SKUs",
        args: &[
            Arg::key(),
            Arg::text(c"id"),
            Arg::text(c"text").after(c"REF").optional(),
            Arg::text(c"text").after(c"META").optional(),
            Arg::flag(c"late", c"LATE").optional(),
            ITEMS.optional(),
        ],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let parsed = args::confirm(call.words)?;
        call.run(&Command::Confirm(parsed))
    }
}
