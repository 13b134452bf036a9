//! FLASH.BUYER: what a buyer has.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::protocol::{args, reply};

pub(super) struct Buyer;

impl Definition for Buyer {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.BUYER",
        flags: c"readonly fast",
        access: Access::Read,
        arity: 3,
        summary: c"What a buyer holds and has bought",
        complexity: c"O(1)",
        args: &[Arg::key(), Arg::text(c"buyer")],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let buyer = args::single_name(call.words, "buyer")?;
        call.read(|ctx, sale, now_ms| reply::buyer(ctx, &sale.buyer_view(buyer, now_ms)))
    }
}
