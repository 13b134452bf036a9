//! What buyers want in each shard, told by how its counters change between two looks.

use std::collections::HashMap;

use bytes::Bytes;
use flashsale_core::balance::{Meter, Need};

use super::plan::Step;
use crate::operate::ShardInfo;

/// Demand by SKU and shard.
#[derive(Default)]
pub struct Demand {
    shelves: HashMap<(Bytes, u32), Shelf>,
}

#[derive(Default)]
struct Shelf {
    meter: Meter,
    /// Units held or sold, and units asked for in vain, at the last look.
    taken: u64,
    missed: u64,
    was_seen: bool,
    /// Requests to other shards that brought nothing since units last came.
    attempts: u32,
}

impl Demand {
    /// Takes in a look at all shards. Tells whether anything was bought, asked for in vain, or came back.
    pub fn see(&mut self, infos: &[Option<ShardInfo>], now_ms: u64) -> bool {
        let mut is_busy = false;
        for (shard, info) in (0..).zip(infos) {
            let Some(info) = info else { continue };
            for (sku, counters) in &info.skus {
                let shelf = self.shelves.entry((sku.clone(), shard)).or_default();
                let taken = counters.held + counters.sold;
                if shelf.was_seen {
                    is_busy |= shelf.taken != taken || shelf.missed != counters.missed;
                    // Holds that ended in between hide as many that began: less is seen than there was.
                    shelf.meter.took(taken.saturating_sub(shelf.taken), now_ms);
                    let missed = counters.missed.saturating_sub(shelf.missed);
                    if missed > 0 {
                        shelf.meter.took(missed, now_ms);
                        shelf.meter.wanted(counters.missed_last, now_ms);
                    }
                }
                (shelf.taken, shelf.missed, shelf.was_seen) = (taken, counters.missed, true);
            }
        }
        is_busy
    }

    /// What is wanted of a SKU in a shard.
    pub fn need(&mut self, sku: &Bytes, shard: u32, now_ms: u64) -> Need {
        self.shelves.get_mut(&(sku.clone(), shard)).map(|shelf| shelf.meter.need(now_ms)).unwrap_or_default()
    }

    /// How often a shard has asked in vain.
    pub fn attempts(&self, sku: &Bytes, shard: u32) -> u32 {
        self.shelves.get(&(sku.clone(), shard)).map_or(0, |shelf| shelf.attempts)
    }

    /// A step has brought so many units.
    pub fn brought(&mut self, step: &Step, units: u64) {
        if let Some(shelf) = self.shelves.get_mut(&(step.sku.clone(), step.pair.to)) {
            if units > 0 {
                shelf.attempts = 0;
                shelf.meter.arrived();
            } else {
                shelf.attempts = shelf.attempts.wrapping_add(1);
            }
        }
    }

    /// A shard would ask, and nobody gives.
    pub fn refused(&mut self, sku: &Bytes, shard: u32) {
        if let Some(shelf) = self.shelves.get_mut(&(sku.clone(), shard)) {
            shelf.attempts = shelf.attempts.wrapping_add(1);
        }
    }
}
