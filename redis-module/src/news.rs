//! What the world is told of a change: keyspace notifications and the state channel.

use crate::server::{Ctx, ServerString};
use flashsale_core::facts::EntryKind;
use flashsale_core::{Facts, Sale};
use std::ffi::CStr;

/// Tells subscribers of the key's events, and of SKUs that have sold out or come back.
pub(crate) fn tell(ctx: Ctx<'_>, key: ServerString<'_>, sale: &Sale, facts: &Facts) {
    for kind in &facts.kinds {
        if let Some(event) = event(*kind) {
            ctx.notify(event, key);
        }
    }
    for change in &facts.sku_changes {
        let (event, word) =
            if change.sold_out { (c"flash.soldout", "soldout") } else { (c"flash.available", "available") };
        ctx.notify(event, key);
        let channel = [key.bytes(), b":state"].concat();
        let version = change.version.to_string();
        let message = [word.as_bytes(), b" ", change.sku(sale), b" ", version.as_bytes()].concat();
        ctx.publish(&channel, &message);
    }
}

fn event(kind: EntryKind) -> Option<&'static CStr> {
    Some(match kind {
        EntryKind::Confirmed => c"flash.confirmed",
        EntryKind::Returned => c"flash.returned",
        EntryKind::Held => c"flash.reserved",
        EntryKind::Released => c"flash.released",
        EntryKind::Expired => c"flash.expired",
        EntryKind::Stocked => c"flash.stocked",
        EntryKind::Granted | EntryKind::Accepted => return None,
    })
}
