//! A sale put together again from what was kept of it: by [`crate::snapshot`] as bytes, by another implementation of the
//! contract as values ([`crate::import`]).
//!
//! Nothing is trusted: here stands every check of what is kept, once. What follows from it (levels, limits, deadlines by
//! SKU, counters) is counted anew, so a sale that comes of it cannot contradict itself.

use crate::bounds;
use crate::effect::IndexedItems;
use crate::holds::{Content, NewContent, NewHold, State, kept_items};
use crate::sale::{Extra, Refund, Sale, Settings, Shard, Sku, Transfer};
use crate::wire::{Malformed, name, text, within};

/// Takes a sale in, SKU by SKU and hold by hold.
#[derive(Debug)]
pub(crate) struct Intake {
    sale: Sale,
    /// Holds below this slot are in the indexes of ids and buyers.
    indexed: u32,
}

impl Intake {
    /// Starts with a sale that has nothing yet but its numbers.
    pub fn of(sale: Sale) -> Result<Self, Malformed> {
        check_settings(&sale.settings)?;
        check_shard(sale.shard)?;
        within(sale.clock_ms, bounds::MAX_TIME_MS, "the clock is out of range")?;
        within(sale.entry_no, bounds::MAX_STOCKED, "the entry number is out of range")?;
        within(sale.stream_floor_ms, bounds::MAX_TIME_MS * 2, "a time is out of range")?;
        within(sale.orders, bounds::MAX_STOCKED, "the number of orders is out of range")?;
        Ok(Self { sale, indexed: 0 })
    }

    /// Time of the latest change of the sale, unix ms.
    pub fn clock_ms(&self) -> u64 {
        self.sale.clock_ms
    }

    /// Takes the next SKU.
    pub fn add_sku(&mut self, sku: Sku) -> Result<(), Malformed> {
        name(&sku.name)?;
        within(sku.stocked, bounds::MAX_STOCKED * 2, "stock is out of range")?;
        within(sku.limit.into(), bounds::MAX_QUANTITY.into(), "a limit is out of range")?;
        if self.sale.skus.len() >= bounds::MAX_SKUS {
            return Err(Malformed("too many SKUs"));
        } else if self.sale.skus.find(&sku.name).is_some() {
            return Err(Malformed("a SKU stands there twice"));
        }
        self.sale.units = self.sale.units.saturating_add(sku.stocked);
        self.sale.skus.push(sku);
        Ok(())
    }

    /// Takes a STOCK id that has been counted.
    pub fn add_allocation(&mut self, id: &[u8], sku: u16, delta: i64) -> Result<(), Malformed> {
        self.check_sku(sku)?;
        self.sale.allocations.insert(name(id)?.into(), (sku, delta));
        Ok(())
    }

    /// Takes what was moved between this shard and another one.
    pub fn add_transfer(&mut self, sku: u16, other: u32, transfer: Transfer) -> Result<(), Malformed> {
        self.check_sku(sku)?;
        let sale = &mut self.sale;
        if other >= sale.shard.count || other == sale.shard.index {
            return Err(Malformed("a transfer with no other shard"));
        }
        for total in [transfer.granted, transfer.accepted] {
            within(total, bounds::MAX_STOCKED, "a transfer is out of range")?;
        }
        if sale.transfers.insert((sku, other), transfer).is_some() {
            return Err(Malformed("a transfer stands there twice"));
        }
        let sku = sale.skus.get_mut(sku);
        sku.granted = sku.granted.saturating_add(transfer.granted);
        sku.accepted = sku.accepted.saturating_add(transfer.accepted);
        within(sku.accepted, bounds::MAX_STOCKED, "more was accepted than there can be")?;
        sale.units = sale.units.saturating_add(transfer.accepted);
        Ok(())
    }

    /// Takes an id that RELEASE met before RESERVE.
    pub fn add_tombstone(&mut self, id: &[u8], time_ms: u64) -> Result<(), Malformed> {
        let content = NewContent { id: name(id)?, buyer: b"", items: &[], meta: None, reference: None };
        check_time(time_ms)?;
        let sale = &mut self.sale;
        let slot = sale.holds.append(&NewHold { content: &content, state: State::Tombstone, time_ms, life_ms: 0 });
        sale.tombstones.push(&mut sale.holds, slot);
        Ok(())
    }

    /// Takes a hold; those that have ended come in the order in which they ended. If its id was there already the next
    /// [`Intake::index_new`] says so.
    pub fn add_hold(
        &mut self,
        content: &Content<'_>,
        state: State,
        (time_ms, life_ms): (u64, u64),
        order_no: u64,
        extra: Option<Extra>,
    ) -> Result<(), Malformed> {
        self.check_content(content)?;
        self.check_extra(&content.items, extra.as_ref())?;
        check_time(time_ms)?;
        let life_ms = within(life_ms, bounds::MAX_HOLD_MS.min(time_ms), "a life is out of range")? as u32;
        let sale = &mut self.sale;
        let items = &content.items;
        let left = extra.is_some().then(|| kept_items(items, extra.as_ref()));
        let kept = left.as_ref().unwrap_or(items);
        let returned = extra.as_ref().is_some_and(|extra| !extra.returns.is_empty());
        let nothing_left = kept.iter().all(|&(_, qty)| qty == 0);
        match state {
            State::Held if time_ms - u64::from(life_ms) > sale.clock_ms => {
                return Err(Malformed("a hold that begins later than now"));
            }
            State::Confirmed if nothing_left => return Err(Malformed("an order of which nothing is left")),
            State::Confirmed if order_no > sale.entry_no => {
                return Err(Malformed("an order above the latest entry"));
            }
            State::Returned if !nothing_left => return Err(Malformed("a returned order of which something is left")),
            State::Held | State::Released | State::Expired if returned => {
                return Err(Malformed("a refund of what was not sold"));
            }
            _ => {}
        }
        let slot = sale.holds.append(&NewHold { content: &content.as_new(), state, time_ms, life_ms });
        sale.holds.get_mut(slot).has_extra = extra.is_some();
        if let Some(extra) = extra {
            sale.extras.insert(slot, Box::new(extra));
        }
        match state {
            State::Held => {
                for &(sku, qty) in items {
                    sale.skus.get_mut(sku).held += u64::from(qty);
                }
                sale.live_holds += 1;
                sale.deadlines.insert(&mut sale.holds, slot, items);
            }
            State::Confirmed => {
                for &(sku, qty) in kept {
                    sale.skus.get_mut(sku).sold += u64::from(qty);
                }
                sale.holds.get_mut(slot).set_order_no(order_no);
            }
            _ => sale.ended.push(&mut sale.holds, slot),
        }
        Ok(())
    }

    /// Has the holds that came since the last time found by their ids and counted for their buyers.
    pub fn index_new(&mut self) -> Result<(), Malformed> {
        let Sale { holds, buyers, extras, .. } = &mut self.sale;
        let from = std::mem::replace(&mut self.indexed, holds.end());
        if !holds.index_ids(from) {
            return Err(Malformed("a hold stands there twice"));
        }
        buyers.add_all(holds, extras, from);
        Ok(())
    }

    /// The sale. What is neither held nor sold nor elsewhere is available.
    pub fn finish(mut self) -> Result<Sale, Malformed> {
        self.index_new()?;
        for index in 0..self.sale.skus.len() as u16 {
            let sku = self.sale.skus.get_mut(index);
            let gone = sku.granted.saturating_add(sku.held).saturating_add(sku.sold);
            let here = sku.stocked.saturating_add(sku.accepted).checked_sub(gone);
            sku.available = here.ok_or(Malformed("more units are held, sold or granted than there are"))?;
        }
        Ok(self.sale)
    }

    fn check_sku(&self, sku: u16) -> Result<(), Malformed> {
        if usize::from(sku) < self.sale.skus.len() { Ok(()) } else { Err(Malformed("an unknown SKU")) }
    }

    fn check_skus(&self, items: &[(u16, u32)]) -> Result<(), Malformed> {
        items.iter().try_for_each(|&(sku, _)| self.check_sku(sku))
    }

    fn check_content(&self, content: &Content<'_>) -> Result<(), Malformed> {
        name(content.id)?;
        name(content.buyer)?;
        text(content.meta, bounds::MAX_META_BYTES)?;
        text(content.reference, bounds::MAX_REF_BYTES)?;
        if content.items.is_empty() {
            return Err(Malformed("a hold of nothing"));
        }
        self.check_skus(&content.items)
    }

    /// Refunds add up to at most what was sold.
    fn check_extra(&self, items: &[(u16, u32)], extra: Option<&Extra>) -> Result<(), Malformed> {
        let Some(extra) = extra else { return Ok(()) };
        for list in [&extra.requested, &extra.confirmed_from].into_iter().flatten() {
            self.check_skus(list)?;
        }
        let mut left: Vec<(u16, u32)> = items.to_vec();
        for &(sku, qty) in extra.returns.iter().flat_map(|refund| &refund.items) {
            let item = left.iter_mut().find(|item| item.0 == sku);
            let item = item.ok_or(Malformed("a refund of what was not sold"))?;
            item.1 = item.1.checked_sub(qty).ok_or(Malformed("a refund of more than was sold"))?;
        }
        Ok(())
    }
}

fn check_time(time_ms: u64) -> Result<(), Malformed> {
    within(time_ms, bounds::MAX_TIME_MS + bounds::MAX_HOLD_MS, "a time is out of range").map(drop)
}

pub(crate) fn check_settings(settings: &Settings) -> Result<(), Malformed> {
    within(settings.limit.into(), bounds::MAX_QUANTITY.into(), "LIMIT is out of range")?;
    within(settings.hold_ms, bounds::MAX_HOLD_MS, "HOLD is out of range")?;
    within(settings.maxhold_ms, bounds::MAX_HOLD_MS, "MAXHOLD is out of range")?;
    within(settings.opens_at, bounds::MAX_TIME_MS, "OPENS is out of range")?;
    within(settings.closes_at, bounds::MAX_TIME_MS, "CLOSES is out of range")?;
    within(settings.retain_ms, bounds::MAX_RETAIN_MS, "RETAIN is out of range")?;
    settings.check().map_err(|_| Malformed("the settings contradict each other"))
}

pub(crate) fn check_shard(shard: Shard) -> Result<(), Malformed> {
    within(shard.count.into(), bounds::MAX_SHARDS.into(), "the number of shards is out of range")?;
    if shard.index < shard.count { Ok(()) } else { Err(Malformed("the shard is not one of the sale's")) }
}

/// Adds to the refunds of an order.
pub(crate) fn add_refund(extra: &mut Extra, id: &[u8], items: IndexedItems) -> Result<(), Malformed> {
    if extra.returns.len() >= bounds::MAX_RETURNS {
        return Err(Malformed("too many refunds"));
    }
    extra.returns.push(Refund { id: name(id)?.into(), items: items.as_slice().into() });
    Ok(())
}

/// Adds to items: distinct SKUs, each with at least one unit.
pub(crate) fn add_item(items: &mut IndexedItems, sku: u16, qty: u32) -> Result<(), Malformed> {
    if items.len() >= bounds::MAX_ITEMS {
        return Err(Malformed("too many items"));
    }
    within(qty.into(), bounds::MAX_QUANTITY.into(), "a quantity is out of range")?;
    if qty == 0 || items.iter().any(|&(known, _)| known == sku) {
        return Err(Malformed("items are not distinct SKUs with units"));
    }
    items.push((sku, qty));
    Ok(())
}
