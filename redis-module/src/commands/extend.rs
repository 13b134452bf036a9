//! FLASH.EXTEND: moves the deadline of a hold.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::Command;
use flashsale_core::protocol::args;

pub(super) struct Extend;

impl Definition for Extend {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.EXTEND",
        flags: c"write fast",
        access: Access::Update,
        arity: 4,
        summary: c"Moves the deadline of a hold to now + ms, at most MAXHOLD after it began",
        complexity: c"O(1)",
        args: &[Arg::key(), Arg::text(c"id"), Arg::integer(c"ms")],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let (id, ms) = args::extend(call.words)?;
        call.run(&Command::Extend { id, ms })
    }
}
