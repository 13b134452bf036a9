//! FLASH.SHARDS: the keys of a sharded sale.

use super::route::sale_name;
use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::protocol::args;
use flashsale_core::protocol::reply::Reply;
use flashsale_core::sharding;

pub(super) struct Shards;

impl Definition for Shards {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.SHARDS",
        flags: c"readonly fast",
        access: Access::NoKey,
        arity: 3,
        summary: c"The keys of a sale of n shards",
        complexity: c"O(N) with N the number of shards",
        args: &[Arg::text(c"name"), Arg::integer(c"n")],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let count = args::shard_count(call.words)?;
        let name = sale_name(call.key_name.bytes())?;
        call.ctx.array(count as usize);
        (0..count).for_each(|index| call.ctx.bytes(&sharding::shard_key(name, index, count)));
        Ok(())
    }
}
