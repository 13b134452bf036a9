//! GRANT and ACCEPT: units move between shards by two counters that only grow (the contract's section 6).

use super::{Decision, Situation};
use crate::bounds;
use crate::command::{Accept, Grant};
use crate::effect::Effect;
use crate::outcome::{Misuse, Outcome};
use crate::sale::Sale;
use smallvec::SmallVec;
use std::borrow::Cow;

impl Sale {
    fn check_other_shard(&self, given: u32) -> Result<(), Misuse> {
        if given >= self.shard.count || given == self.shard.index {
            return Err(Misuse::NotAnotherShard { given, shards: self.shard.count });
        }
        Ok(())
    }

    pub(super) fn decide_grant<'a>(
        &self,
        grant: &Grant<'a>,
        situation: &Situation<'a>,
    ) -> Result<Decision<'a>, Misuse> {
        self.check_other_shard(grant.to)?;
        let Some(index) = self.skus.find(grant.sku) else {
            return Ok(Decision::nothing(Outcome::NoSku { sku: Cow::Borrowed(grant.sku) }));
        };
        let total = self.transfers.get(&(index, grant.to)).map_or(0, |transfer| transfer.granted);
        let available = self.skus.get(index).available;
        let after_another = grant.after.is_some_and(|after| after != total);
        let qty = if after_another { 0 } else { available.min(grant.qty.into()) };
        let outcome = Outcome::Granted {
            total: total + qty,
            available: available - qty + self.due_units_of(index, situation.now_ms),
        };
        Ok(match qty {
            0 => Decision::nothing(outcome),
            qty => Decision::one(outcome, Effect::Grant { sku: index, qty, to: grant.to }),
        })
    }

    /// A SKU that is new to this shard is made: units on their way must never be lost.
    pub(super) fn decide_accept<'a>(
        &self,
        accept: &Accept<'a>,
        situation: &Situation<'a>,
    ) -> Result<Decision<'a>, Misuse> {
        self.check_other_shard(accept.from)?;
        let known = self.skus.find(accept.sku);
        if known.is_none() && self.skus.len() >= bounds::MAX_SKUS {
            return Err(Misuse::TooManySkus);
        }
        let index = known.unwrap_or(self.skus.len() as u16);
        let accepted = self.transfers.get(&(index, accept.from)).map_or(0, |transfer| transfer.accepted);
        let available = known.map_or(0, |index| self.skus.get(index).available);
        let taken = accept.total.saturating_sub(accepted);
        let accepted_of_all = known.map_or(0, |index| self.skus.get(index).accepted);
        if taken > bounds::MAX_STOCKED.saturating_sub(accepted_of_all) {
            return Err(Misuse::TooMuchStock { stocked: accepted_of_all });
        }
        let due = known.map_or(0, |index| self.due_units_of(index, situation.now_ms));
        let outcome = Outcome::Accepted { taken, available: available + taken + due };
        if taken == 0 {
            return Ok(Decision::nothing(outcome));
        }
        let mut effects = SmallVec::new();
        if known.is_none() {
            effects.push(Effect::Stock { sku: accept.sku, delta: 0, alloc_id: None, limit: None });
        }
        effects.push(Effect::Accept { sku: index, from: accept.from, total: accept.total });
        Ok(Decision { outcome, effects })
    }
}
