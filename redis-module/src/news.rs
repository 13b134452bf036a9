//! What the world is told of a change: keyspace notifications and the state channel.

use crate::server::{Ctx, ServerString};
use flashsale_core::facts::EntryKind;
use flashsale_core::sharding::hash_tag;
use flashsale_core::{Facts, Sale};
use smallvec::SmallVec;
use std::ffi::CStr;

/// What will be told of a step: gathered before anybody is told, for another module that listens may do what it
/// likes to the key.
pub(crate) struct News {
    items: SmallVec<[Item; 2]>,
}

enum Item {
    /// A keyspace notification.
    Event(&'static CStr),
    /// For the state channel.
    Message(Vec<u8>),
}

impl News {
    /// The key's events, and which SKUs have sold out or come back.
    pub fn of(sale: &Sale, facts: &Facts) -> Self {
        let mut items: SmallVec<[Item; 2]> =
            facts.kinds.iter().filter_map(|kind| event(*kind)).map(Item::Event).collect();
        for change in &facts.sku_changes {
            let (event, word) =
                if change.sold_out { (c"flash.soldout", "soldout") } else { (c"flash.available", "available") };
            let version = change.version.to_string();
            let message = [word.as_bytes(), b" ", change.sku(sale), b" ", version.as_bytes()].concat();
            items.extend([Item::Event(event), Item::Message(message)]);
        }
        Self { items }
    }

    /// Tells subscribers. Nothing of the key may be used afterwards.
    pub fn tell(&self, ctx: Ctx<'_>, key: ServerString<'_>) {
        // A sharded channel reaches only the nodes of its own slot, which is the key's if they share a hash tag.
        let same_slot = hash_tag(key.bytes()).is_some();
        for item in &self.items {
            match item {
                Item::Event(event) => ctx.notify(event, key),
                Item::Message(message) => ctx.publish(&[key.bytes(), b":state"].concat(), message, same_slot),
            }
        }
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
