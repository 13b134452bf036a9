//! What the world is told of a change: keyspace notifications and the state channel.

use crate::server::{Ctx, ServerString};
use flashsale_core::facts::{EntryKind, SkuChange};
use flashsale_core::sharding::hash_tag;
use flashsale_core::{Facts, Sale};
use std::ffi::CStr;

/// What will be told of a step. What it needs of the key is gathered before anybody is told, for another module that
/// listens may do what it likes to the key.
pub(crate) struct News<'f> {
    facts: &'f Facts,
    /// Which SKUs have sold out or come back: messages for the state channel.
    messages: Vec<Vec<u8>>,
}

impl<'f> News<'f> {
    /// The key's events, and which SKUs have sold out or come back.
    #[inline]
    pub fn of(sale: &Sale, facts: &'f Facts) -> Self {
        // Hardly a step in a thousand changes what is sold out.
        let messages = if facts.sku_changes.is_empty() { Vec::new() } else { messages(sale, &facts.sku_changes) };
        Self { facts, messages }
    }

    /// Tells subscribers. Nothing of the key may be used afterwards.
    #[inline]
    pub fn tell(&self, ctx: Ctx<'_>, key: ServerString<'_>) {
        self.facts.kinds.iter().filter_map(|kind| event(*kind)).for_each(|event| ctx.notify(event, key));
        if !self.messages.is_empty() {
            self.tell_of_skus(ctx, key);
        }
    }

    fn tell_of_skus(&self, ctx: Ctx<'_>, key: ServerString<'_>) {
        for (change, message) in self.facts.sku_changes.iter().zip(&self.messages) {
            ctx.notify(if change.sold_out { c"flash.soldout" } else { c"flash.available" }, key);
            // A sharded channel reaches only the nodes of its own slot, which is the key's if they share a hash tag.
            let same_slot = hash_tag(key.bytes()).is_some();
            ctx.publish(&[key.bytes(), b":state"].concat(), message, same_slot);
        }
    }
}

/// For the state channel.
fn messages(sale: &Sale, changes: &[SkuChange]) -> Vec<Vec<u8>> {
    let message = |change: &SkuChange| {
        let word = if change.sold_out { "soldout" } else { "available" };
        let version = change.version.to_string();
        [word.as_bytes(), b" ", change.sku(sale), b" ", version.as_bytes()].concat()
    };
    changes.iter().map(message).collect()
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
