//! FLASH.HOLD: looks at one hold.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::protocol::reply::Reply;
use flashsale_core::protocol::{args, reply};

pub(super) struct Hold;

impl Definition for Hold {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.HOLD",
        flags: c"readonly fast",
        access: Access::Read,
        arity: 3,
        summary: c"Looks at a hold, an order, or a remembered id",
        complexity: c"O(N) with N the number of SKUs",
        args: &[Arg::key(), Arg::text(c"id")],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let id = args::single_name(call.words, "id")?;
        call.read(|ctx, sale, now_ms| match sale.hold_view(id, now_ms) {
            Some(hold) => reply::hold(ctx, &hold),
            None => ctx.null(),
        })
    }
}
