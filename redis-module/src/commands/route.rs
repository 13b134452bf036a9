//! FLASH.ROUTE: the key where a buyer lives.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::protocol::reply::Reply;
use flashsale_core::protocol::{ParseError, args};
use flashsale_core::sharding;

/// The name of a sharded sale has no braces: those of the shard must be the first.
pub(super) fn sale_name(name: &[u8]) -> Result<&[u8], ParseError> {
    match name.iter().any(|byte| matches!(byte, b'{' | b'}')) {
        false => Ok(name),
        true => Err(ParseError::ShardKey),
    }
}

pub(super) struct Route;

impl Definition for Route {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.ROUTE",
        flags: c"readonly fast",
        access: Access::NoKey,
        arity: 4,
        summary: c"The key of the shard where a buyer lives",
        complexity: c"O(1)",
        args: &[Arg::text(c"name"), Arg::integer(c"n"), Arg::text(c"buyer")],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let (count, buyer) = args::route(call.words)?;
        let name = sale_name(call.key_name.bytes())?;
        call.ctx.bytes(&sharding::shard_key(name, sharding::home_shard(buyer, count), count));
        Ok(())
    }
}
