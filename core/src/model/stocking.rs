//! STOCK, GRANT and ACCEPT.

use super::{Answer, Model, owned};
use crate::bounds;
use crate::command::{Accept, Grant, Stock};
use crate::outcome::{Field, Misuse, Outcome};

impl Model {
    /// Adds or withdraws units; the same ID counts once.
    pub(super) fn stock(&mut self, stock: &Stock<'_>, now: u64) -> Answer {
        if let Some((sku, delta)) = stock.alloc_id.and_then(|id| self.allocations.get(id)) {
            if sku != stock.sku {
                return Ok(Outcome::Mismatch(Field::Items));
            }
            return Ok(if *delta == stock.delta { self.stocked(sku) } else { Outcome::Mismatch(Field::Delta) });
        }
        let stocked = self.sku(stock.sku).map_or(0, |sku| sku.stocked);
        if stock.delta < 0 {
            // Each term of invariant 1 stays at 0 or above: what came from other shards leaves by GRANT alone.
            let available = self.levels(stock.sku).available.min(stocked);
            if stock.delta.unsigned_abs() > available {
                return Ok(Outcome::BelowHeld { available });
            }
        }
        let after = (stocked as i64 + stock.delta) as u64;
        if after > bounds::MAX_STOCKED {
            return Err(Misuse::TooMuchStock { stocked });
        }
        let sku = self.sku_or_new(stock.sku);
        sku.stocked = after;
        sku.limit = stock.limit.unwrap_or(sku.limit);
        if let Some(id) = stock.alloc_id {
            self.allocations.insert(id.to_vec(), (stock.sku.to_vec(), stock.delta));
        }
        self.clock = now;
        self.count_event();
        Ok(self.stocked(stock.sku))
    }

    fn stocked(&self, sku: &[u8]) -> Outcome<'static> {
        let levels = self.levels(sku);
        Outcome::Stocked { available: levels.available, held: levels.held, sold: levels.sold }
    }

    fn other_shard(&self, given: u32) -> Result<(), Misuse> {
        if given == self.shard.index || given >= self.shard.count {
            return Err(Misuse::NotAnotherShard { given, shards: self.shard.count });
        }
        Ok(())
    }

    /// Debits at most what is available; with AFTER only if the total still is that.
    pub(super) fn grant(&mut self, grant: &Grant<'_>, now: u64) -> Answer {
        self.other_shard(grant.to)?;
        if self.sku(grant.sku).is_none() {
            return Ok(Outcome::NoSku { sku: owned(grant.sku) });
        }
        let pair = (grant.sku.to_vec(), grant.to);
        let total = self.granted.get(&pair).copied().unwrap_or(0);
        let qty = self.levels(grant.sku).available.min(grant.qty.into());
        if qty > 0 && grant.after.is_none_or(|after| after == total) {
            self.granted.insert(pair.clone(), total + qty);
            self.clock = now;
            self.count_event();
        }
        let total = self.granted.get(&pair).copied().unwrap_or(0);
        Ok(Outcome::Granted { total, available: self.levels(grant.sku).available })
    }

    /// Credits what the total is more than all that was accepted before.
    pub(super) fn accept(&mut self, accept: &Accept<'_>, now: u64) -> Answer {
        self.other_shard(accept.from)?;
        let pair = (accept.sku.to_vec(), accept.from);
        let before = self.accepted.get(&pair).copied().unwrap_or(0);
        let taken = accept.total.saturating_sub(before);
        let accepted_of_all = self.levels(accept.sku).accepted;
        if accepted_of_all + taken > bounds::MAX_STOCKED {
            return Err(Misuse::TooMuchStock { stocked: accepted_of_all });
        }
        if taken > 0 {
            if self.sku(accept.sku).is_none() {
                self.sku_or_new(accept.sku);
                self.count_event();
            }
            self.accepted.insert(pair, accept.total);
            self.clock = now;
            self.count_event();
        }
        Ok(Outcome::Accepted { taken, available: self.levels(accept.sku).available })
    }
}
