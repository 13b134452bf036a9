//! FLASH.GRANT: debits units that another shard may then accept.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::Command;
use flashsale_core::protocol::args;

pub(super) struct Grant;

impl Definition for Grant {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.GRANT",
        flags: c"write fast",
        access: Access::Update,
        arity: -6,
        summary: c"Debits units that another shard of the sale may then accept",
        complexity: c"O(1)",
        args: &[
            Arg::key(),
            Arg::text(c"sku"),
            Arg::integer(c"qty"),
            Arg::integer(c"shard").after(c"TO"),
            Arg::integer(c"total").after(c"AFTER").optional(),
        ],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let parsed = args::grant(call.words)?;
        call.run(&Command::Grant(parsed))
    }
}
