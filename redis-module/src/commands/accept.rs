//! FLASH.ACCEPT: credits units that another shard has granted.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::Command;
use flashsale_core::protocol::args;

pub(super) struct Accept;

impl Definition for Accept {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.ACCEPT",
        flags: c"write deny-oom fast",
        access: Access::Update,
        arity: 7,
        summary: c"Credits units that another shard of the sale has granted",
        complexity: c"O(1)",
        args: &[
            Arg::key(),
            Arg::text(c"sku"),
            Arg::integer(c"shard").after(c"FROM"),
            Arg::integer(c"total").after(c"TOTAL"),
        ],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let parsed = args::accept(call.words)?;
        call.run(&Command::Accept(parsed))
    }
}
