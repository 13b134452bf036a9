//! FLASH.HOLDS: lists holds, a page at a time.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::protocol::reply::Reply;
use flashsale_core::protocol::{args, reply};

pub(super) struct Holds;

impl Definition for Holds {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.HOLDS",
        flags: c"readonly",
        access: Access::Read,
        arity: -3,
        summary: c"Lists holds, orders and remembered ids, a page at a time",
        complexity: c"O(N) with N the COUNT",
        args: &[
            Arg::key(),
            Arg::integer(c"cursor"),
            Arg::text(c"state").after(c"STATE").optional(),
            Arg::integer(c"n").after(c"COUNT").optional(),
        ],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let query = args::holds(call.words)?;
        call.read(|ctx, sale, now_ms| {
            let (cursor, mut holds) = sale.hold_views(query.cursor, query.count, now_ms);
            holds.retain(|hold| query.state.is_none_or(|state| hold.state == state));
            ctx.array(2);
            ctx.bytes(cursor.to_string().as_bytes());
            ctx.array(holds.len());
            holds.iter().for_each(|hold| reply::hold(ctx, hold));
        })
    }
}
