//! What this node has heard of the other shards of a sale.

use crate::cluster::NodeId;
use flashsale_core::balance::{Counters, FRESH_MS, Need, Peer, Shelf, is_all_sold};
use std::collections::BTreeMap;

/// The latest news of one SKU in one shard.
#[derive(Clone, Copy)]
pub(super) struct Heard {
    pub counters: Counters,
    pub need: Need,
    /// When it came, by our clock, and when it was sent, by the sender's.
    pub at_ms: u64,
    pub sent_ms: u64,
    pub sender: NodeId,
}

/// What is known of a sale.
#[derive(Default)]
pub(super) struct Book {
    /// By SKU and shard.
    skus: BTreeMap<Box<[u8]>, BTreeMap<u32, Heard>>,
    /// Which node a shard was last heard of.
    places: BTreeMap<u32, NodeId>,
}

impl Book {
    /// Takes news in, unless later news of the same sender came first.
    pub fn hear(&mut self, shard: u32, sku: &[u8], heard: Heard) {
        self.places.insert(shard, heard.sender);
        if !self.skus.contains_key(sku) {
            self.skus.insert(sku.into(), BTreeMap::new());
        }
        let Some(of_sku) = self.skus.get_mut(sku) else { return };
        let overtaken = |known: &Heard| known.sender == heard.sender && known.sent_ms > heard.sent_ms;
        if !of_sku.get(&shard).is_some_and(overtaken) {
            of_sku.insert(shard, heard);
        }
    }

    /// Where a shard is.
    pub fn place(&self, shard: u32) -> Option<NodeId> {
        self.places.get(&shard).copied()
    }

    pub fn skus(&self) -> impl Iterator<Item = &[u8]> {
        self.skus.keys().map(|sku| &**sku)
    }

    /// The other shards, for the policy.
    pub fn peers(&self, sku: &[u8], own: u32, now_ms: u64) -> Vec<Peer> {
        let others = self.skus.get(sku).into_iter().flatten().filter(|(shard, _)| **shard != own);
        let peer = |(&shard, heard): (&u32, &Heard)| Peer {
            shelf: Shelf { shard, available: heard.counters.available, need: heard.need },
            age_ms: now_ms.saturating_sub(heard.at_ms),
        };
        others.map(peer).collect()
    }

    /// The counters of all other shards, if every one of them has been heard of lately.
    fn others(&self, sku: &[u8], own: u32, shards: u32, now_ms: u64) -> Option<Vec<Counters>> {
        let of_sku = self.skus.get(sku)?;
        let fresh = |(_, heard): &(&u32, &Heard)| heard.at_ms + FRESH_MS >= now_ms;
        let others = of_sku.iter().filter(|(shard, _)| **shard != own).filter(fresh);
        let others: Vec<Counters> = others.map(|(_, heard)| heard.counters).collect();
        (others.len() + 1 == shards as usize).then_some(others)
    }

    /// Whether no unit is known to be anywhere else or on its way: `moved` is what this shard has granted and
    /// accepted.
    pub fn nothing_elsewhere(&self, sku: &[u8], own: u32, shards: u32, moved: (u64, u64), now_ms: u64) -> bool {
        let own_counters = Counters { granted: moved.0, accepted: moved.1, ..Counters::default() };
        let others = self.others(sku, own, shards, now_ms);
        others.is_some_and(|others| is_all_sold(others.into_iter().chain([own_counters])))
    }

    /// Whether all that was granted is known to have been accepted.
    pub fn nothing_in_transit(&self, sku: &[u8], own: u32, shards: u32, moved: (u64, u64), now_ms: u64) -> bool {
        let Some(others) = self.others(sku, own, shards, now_ms) else { return false };
        let sum = |own: u64, of: fn(&Counters) -> u64| {
            others.iter().map(of).fold(u128::from(own), |sum, part| sum + u128::from(part))
        };
        sum(moved.0, |counters| counters.granted) == sum(moved.1, |counters| counters.accepted)
    }
}
