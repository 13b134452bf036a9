//! FLASH.RETURN: units of an order go back to stock.

use super::metadata::ITEMS;
use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::Command;
use flashsale_core::protocol::args;

pub(super) struct Return;

impl Definition for Return {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.RETURN",
        flags: c"write fast",
        access: Access::Update,
        arity: -4,
        summary: c"Takes units of an order back into stock",
        complexity: c"O(N) with N the number of SKUs",
        args: &[Arg::key(), Arg::text(c"id"), Arg::text(c"return-id"), ITEMS.optional()],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let parsed = args::returned(call.words)?;
        call.run(&Command::Return(parsed))
    }
}
