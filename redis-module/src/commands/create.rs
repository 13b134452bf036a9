//! FLASH.CREATE: makes a sale, or one shard of it.

use super::metadata::ITEMS;
use super::{Access, Arg, Definition, Metadata};
use crate::execute;
use crate::execute::{Call, Fault};
use flashsale_core::protocol::reply::Reply;
use flashsale_core::protocol::{ParseError, args};
use flashsale_core::{Effect, Settings, sharding};

/// `SHARD i n`
const SHARD: Arg = Arg::group(c"shard", &[Arg::integer(c"i"), Arg::integer(c"n")]).after(c"SHARD").optional();

pub(super) struct Create;

impl Definition for Create {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.CREATE",
        flags: c"write deny-oom",
        access: Access::Insert,
        arity: -2,
        summary: c"Makes a sale, or one shard of it",
        complexity: c"O(N) with N the number of SKUs",
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
            SHARD,
            Arg::integer(c"number").after(c"EDITION").optional(),
            ITEMS.optional(),
        ],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let parsed = args::create(call.words)?;
        let key = call.key_name.bytes();
        let shard = parsed.shard.unwrap_or_default();
        if !sharding::has_stream_in_its_slot(key) {
            return Err(ParseError::KeyBraces.into());
        }
        if parsed.shard.is_some() && sharding::sibling_key(key, shard.index, shard.count) != key {
            return Err(ParseError::ShardKey.into());
        }
        let settings = parsed.change.onto(&Settings::default())?;
        let mut effects = vec![Effect::Create(settings, shard)];
        effects.extend(parsed.edition.map(Effect::Edition));
        effects.extend(parsed.items.iter().map(|item| Effect::Stock {
            sku: item.sku,
            delta: item.qty.into(),
            alloc_id: None,
            limit: None,
        }));
        execute::create(call, effects)?;
        call.ctx.ok();
        Ok(())
    }
}
