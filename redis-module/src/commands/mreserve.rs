//! FLASH.MRESERVE: many independent holds in one call.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::protocol::args::{self, MreserveCall};

/// `HOLDS id buyer sku qty [id buyer sku qty ...]`
const HOLDS: Arg =
    Arg::group(c"hold", &[Arg::text(c"id"), Arg::text(c"buyer"), Arg::text(c"sku"), Arg::integer(c"qty")])
        .after(c"HOLDS")
        .multiple();

pub(super) struct Mreserve;

impl Definition for Mreserve {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.MRESERVE",
        flags: c"write deny-oom",
        access: Access::Update,
        arity: -4,
        summary: c"Makes many independent holds in one call",
        complexity: c"O(N) with N the number of holds",
        args: &[
            Arg::key(),
            Arg::integer(c"ms").after(c"TTL").optional(),
            Arg::flag(c"repeated", c"REPEATED").optional(),
            Arg::integer(c"unix-ms").after(c"NOTAFTER").optional(),
            Arg::one_of(c"batch", &[HOLDS, Arg::text(c"msgpack").after(c"PACKED")]),
        ],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let MreserveCall { holds, packed } = args::mreserve(call.words)?;
        if packed { call.run_all_packed(&holds) } else { call.run_all(&holds) }
    }
}
