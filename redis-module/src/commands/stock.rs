//! FLASH.STOCK: adds or withdraws units.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::Command;
use flashsale_core::protocol::args;

pub(super) struct Stock;

impl Definition for Stock {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.STOCK",
        flags: c"write deny-oom fast",
        access: Access::Update,
        arity: -4,
        summary: c"Adds or withdraws units of a SKU; a repeated ID counts once",
        complexity: c"O(1)",
        args: &[
            Arg::key(),
            Arg::text(c"sku"),
            Arg::integer(c"delta"),
            Arg::text(c"alloc-id").after(c"ID").optional(),
            Arg::integer(c"units").after(c"LIMIT").optional(),
        ],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let parsed = args::stock(call.words)?;
        call.run(&Command::Stock(parsed))
    }
}
