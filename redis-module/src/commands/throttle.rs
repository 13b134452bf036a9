//! FLASH.THROTTLE: a rate limit that several proxies share, with the outcomes of CL.THROTTLE.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use crate::rate_type;
use flashsale_core::protocol::throttle;

pub(super) struct Throttle;

impl Definition for Throttle {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.THROTTLE",
        flags: c"write deny-oom fast",
        access: Access::Update,
        arity: -5,
        summary: c"Asks a shared rate limit for some of its quota",
        complexity: c"O(1)",
        args: &[
            Arg::key(),
            Arg::integer(c"burst"),
            Arg::integer(c"count"),
            Arg::integer(c"period"),
            Arg::integer(c"quantity").optional(),
        ],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let asked = throttle::throttle(call.words)?;
        let now_ms = call.state.now();
        let ask = |known| asked.quota.ask(known, asked.quantity, now_ms);
        let (verdict, kept) = rate_type::ask(call.ctx, call.state, call.key_name, ask)?;
        if let Some(arrival) = kept {
            call.ctx.replicate_rate(call.key_name, &arrival.ticks().to_string());
        }
        throttle::verdict(&mut call.ctx, &verdict);
        Ok(())
    }
}
