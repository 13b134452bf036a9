//! FLASH.ORDER: reserves and confirms in one step.

use super::metadata::ITEMS;
use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::Command;
use flashsale_core::protocol::args;

pub(super) struct Order;

impl Definition for Order {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.ORDER",
        flags: c"write deny-oom fast",
        access: Access::Update,
        arity: -7,
        summary: c"Reserves and confirms in one step",
        complexity: c"O(N) with N the number of SKUs",
        args: &[
            Arg::key(),
            Arg::text(c"id"),
            Arg::text(c"buyer"),
            Arg::text(c"text").after(c"REF").optional(),
            Arg::text(c"text").after(c"META").optional(),
            ITEMS,
        ],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let parsed = args::order(call.words)?;
        call.run(&Command::Order(parsed))
    }
}
