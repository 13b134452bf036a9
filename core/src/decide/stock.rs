//! STOCK: units come and go. There is no way to set stock: a difference can be repeated, a level cannot.

use super::{Decision, Situation};
use crate::bounds;
use crate::command::Stock;
use crate::effect::Effect;
use crate::outcome::{Field, Misuse, Outcome};
use crate::sale::Sale;

impl Sale {
    pub(super) fn decide_stock<'a>(
        &self,
        stock: &Stock<'a>,
        situation: &Situation<'a>,
    ) -> Result<Decision<'a>, Misuse> {
        let index = self.skus.find(stock.sku);
        if let Some(&(sku, delta)) = stock.alloc_id.and_then(|id| self.allocations.get(id)) {
            return Ok(Decision::nothing(match index {
                Some(index) if index == sku && delta == stock.delta => self.stocked(index, 0, situation.now_ms),
                Some(index) if index == sku => Outcome::Mismatch(Field::Delta),
                _ => Outcome::Mismatch(Field::Items),
            }));
        }
        let (available, stocked) = match index {
            Some(index) => (self.skus.get(index).available, self.skus.get(index).stocked),
            None => (0, 0),
        };
        // What was accepted from other shards leaves by GRANT alone: `stocked` is never negative.
        let available = available.min(stocked);
        if stock.delta < 0 && stock.delta.unsigned_abs() > available {
            return Ok(Decision::nothing(Outcome::BelowHeld { available }));
        }
        if index.is_none() && self.skus.len() >= bounds::MAX_SKUS {
            return Err(Misuse::TooManySkus);
        }
        if stocked.saturating_add_signed(stock.delta) > bounds::MAX_STOCKED {
            return Err(Misuse::TooMuchStock { stocked });
        }
        let Stock { sku, delta, alloc_id, limit } = *stock;
        let outcome = match index {
            Some(index) => self.stocked(index, delta, situation.now_ms),
            None => Outcome::Stocked { available: delta.unsigned_abs(), held: 0, sold: 0 },
        };
        Ok(Decision::one(outcome, Effect::Stock { sku, delta, alloc_id, limit }))
    }

    /// The counters that a SKU will have, as if all that is due were expired.
    fn stocked<'a>(&self, index: u16, delta: i64, now_ms: u64) -> Outcome<'a> {
        let sku = self.skus.get(index);
        let due = self.due_units_of(index, now_ms);
        Outcome::Stocked {
            available: (sku.available + due).saturating_add_signed(delta),
            held: sku.held - due,
            sold: sku.sold,
        }
    }
}
