//! FLASH.ALTER: changes the settings of a live sale.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::Command;
use flashsale_core::protocol::args;

pub(super) struct Alter;

impl Definition for Alter {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.ALTER",
        flags: c"write deny-oom fast",
        access: Access::Update,
        arity: -2,
        summary: c"Changes the settings of a live sale",
        complexity: c"O(1)",
        args: &[
            Arg::key(),
            Arg::integer(c"units").after(c"LIMIT").optional(),
            Arg::integer(c"ms").after(c"HOLD").optional(),
            Arg::integer(c"ms").after(c"MAXHOLD").optional(),
            Arg::integer(c"unix-ms").after(c"OPENS").optional(),
            Arg::integer(c"unix-ms").after(c"CLOSES").optional(),
            Arg::integer(c"ms").after(c"RETAIN").optional(),
            Arg::integer(c"entries").after(c"BACKLOG").optional(),
            Arg::text(c"events").after(c"EVENTS").optional(),
        ],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let parsed = args::alter(call.words)?;
        call.run(&Command::Alter(parsed))
    }
}
