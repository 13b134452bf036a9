//! Looking at a sale: INFO, HOLD, BUYER, HOLDS.
//!
//! What is due at the time of looking is shown as expired, whether or not a sweep ran.

use crate::holds::{State, Usage};
use crate::sale::Sale;
use std::collections::BTreeSet;

/// So many unswept holds are looked at to tell how many buyers have anything.
const DUE_LOOKED_AT: usize = 1_024;

/// The counters of one SKU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkuView<'s> {
    /// Its name.
    pub name: &'s [u8],
    /// Units added less units withdrawn.
    pub stocked: u64,
    /// Units free to be reserved.
    pub available: u64,
    /// Units set aside.
    pub held: u64,
    /// Units in orders.
    pub sold: u64,
    /// Units that left for other shards.
    pub granted: u64,
    /// Units that arrived from other shards.
    pub accepted: u64,
    /// Units a buyer may have; 0 = no limit.
    pub limit: u32,
    /// Version of the sold-out state that subscribers were last told.
    pub version: u64,
    /// Units asked for in vain in this shard, since this process has the sale in memory.
    pub missed: u64,
    /// Units of the latest request among them.
    pub missed_last: u32,
}

/// One hold, order, or remembered id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldView<'s> {
    /// Its id.
    pub id: &'s [u8],
    /// For whom; empty for an id that was only released.
    pub buyer: &'s [u8],
    /// `held`, `confirmed`, `released` or `expired`.
    pub state: &'static str,
    /// SKUs and units; of an order those not returned.
    pub items: Vec<(&'s [u8], u32)>,
    /// When it began, unix ms; 0 where that is no longer known.
    pub began: u64,
    /// The deadline; of what was released or wholly returned, when that happened; unix ms.
    pub deadline: u64,
    /// The order's number; 0 if it is none.
    pub order_no: u64,
    /// The shop's reference.
    pub reference: Option<&'s [u8]>,
    /// The caller's text.
    pub meta: Option<&'s [u8]>,
}

/// What one buyer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuyerView {
    /// Units set aside.
    pub held: u64,
    /// Units bought and not returned.
    pub sold: u64,
    /// Live holds.
    pub holds: u64,
}

/// Figures of the whole sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaleView {
    /// `pending`, `open`, `paused` or `closed`.
    pub state: &'static str,
    /// Live holds.
    pub holds: u64,
    /// Orders ever confirmed.
    pub orders: u64,
    /// Buyers with anything held or bought; too many by some while more than 1,024 holds wait for a sweep.
    pub buyers: u64,
    /// The next deadline, unix ms; 0 if there is none. It has passed while a sweep is late.
    pub next_deadline: u64,
    /// How late the oldest due hold is, in ms: how far sweeping lags.
    pub expiry_lag_ms: u64,
    /// Ended ids that are still remembered.
    pub remembered: u64,
}

impl Sale {
    /// Figures of the whole sale at a time.
    pub fn view(&self, now_ms: u64) -> SaleView {
        let now_ms = self.now(now_ms);
        let state = if self.is_closed(now_ms) {
            "closed"
        } else if now_ms < self.settings.opens_at {
            "pending"
        } else if self.paused {
            "paused"
        } else {
            "open"
        };
        let earliest = self.deadlines.earliest(&self.holds);
        SaleView {
            state,
            holds: self.live_holds - self.deadlines.due_count(&self.holds, now_ms),
            orders: self.orders,
            buyers: self.buyers_with_anything(now_ms),
            next_deadline: earliest.unwrap_or(0),
            expiry_lag_ms: earliest.map_or(0, |deadline| now_ms.saturating_sub(deadline)),
            remembered: (self.ended.len() + self.tombstones.len()) as u64,
        }
    }

    /// Counters of every SKU at a time, in the order in which they were first stocked.
    pub fn sku_views(&self, now_ms: u64) -> impl Iterator<Item = SkuView<'_>> {
        let now_ms = self.now(now_ms);
        (0..self.skus.len() as u16).map(move |index| {
            let sku = self.skus.get(index);
            let due = self.due_units_of(index, now_ms);
            SkuView {
                name: &sku.name,
                stocked: sku.stocked,
                available: sku.available + due,
                held: sku.held - due,
                sold: sku.sold,
                granted: sku.granted,
                accepted: sku.accepted,
                limit: sku.limit,
                version: sku.version,
                missed: sku.missed,
                missed_last: sku.missed_last,
            }
        })
    }

    /// What shards have moved of a SKU, in the order of their numbers: other shard, units ever granted to it, its
    /// total that was last accepted. `index` counts as [`Sale::sku_views`] does.
    pub fn transfer_views(&self, index: usize) -> impl Iterator<Item = (u32, u64, u64)> + Clone {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        let of_sku = self.transfers.range((index, 0)..=(index, u32::MAX));
        of_sku.map(|(&(_, other), transfer)| (other, transfer.granted, transfer.accepted))
    }

    /// All units of a SKU ever granted to and accepted from other shards.
    pub fn moved(&self, sku: &[u8]) -> (u64, u64) {
        self.skus.find(sku).map_or((0, 0), |index| {
            let sku = self.skus.get(index);
            (sku.granted, sku.accepted)
        })
    }

    /// Whether reserving is over, at a time.
    pub fn is_over(&self, now_ms: u64) -> bool {
        self.is_closed(self.now(now_ms))
    }

    /// When the first live holds are due, at most a tick late; for timers.
    pub fn first_sweep_ms(&self) -> Option<u64> {
        self.deadlines.first_sweep_ms()
    }

    /// Live holds, also those that are due and not yet ended.
    pub fn live_holds(&self) -> u64 {
        self.live_holds
    }

    /// Orders ever confirmed.
    pub fn orders(&self) -> u64 {
        self.orders
    }

    /// Number of the latest order stream entry.
    pub fn entries(&self) -> u64 {
        self.entry_no
    }

    /// Whether an id is taken, by whatever hold, order or tombstone.
    pub fn remembers(&self, id: &[u8]) -> bool {
        self.holds.find(id).is_some()
    }

    /// A hold by its id.
    pub fn hold_view(&self, id: &[u8], now_ms: u64) -> Option<HoldView<'_>> {
        let now_ms = self.now(now_ms);
        Some(self.view_of(self.known(id, now_ms)?, now_ms))
    }

    /// Holds from a cursor on: at most `count` slots are looked at. The next cursor is 0 at the end.
    pub fn hold_views(&self, cursor: u64, count: usize, now_ms: u64) -> (u64, Vec<HoldView<'_>>) {
        let now_ms = self.now(now_ms);
        let start = u32::try_from(cursor).unwrap_or(u32::MAX).min(self.holds.end());
        let end = self.holds.end().min(start.saturating_add(u32::try_from(count).unwrap_or(u32::MAX)));
        let in_use = |&slot: &u32| self.holds.get(slot).state != State::Free && !self.is_forgotten(slot, now_ms);
        let views = (start..end).filter(in_use).map(|slot| self.view_of(slot, now_ms)).collect();
        (if end == self.holds.end() { 0 } else { end.into() }, views)
    }

    /// What a buyer has in all.
    pub(crate) fn usage_of(&self, buyer: &[u8], now_ms: u64) -> Usage {
        let place = self.buyers.place(&self.holds, buyer);
        self.buyers.usage(&self.holds, &self.extras, place, now_ms, std::iter::empty())
    }

    /// What a buyer has.
    pub fn buyer_view(&self, buyer: &[u8], now_ms: u64) -> BuyerView {
        let usage = self.usage_of(buyer, self.now(now_ms));
        BuyerView { held: usage.total.held, sold: usage.total.sold, holds: usage.holds }
    }

    fn view_of(&self, slot: u32, now_ms: u64) -> HoldView<'_> {
        let record = self.holds.get(slot);
        let content = self.holds.content(slot);
        let state = match record.state {
            State::Held if record.is_due(now_ms) => "expired",
            State::Held => "held",
            State::Confirmed | State::Returned => "confirmed",
            State::Released | State::Tombstone => "released",
            State::Expired | State::Free => "expired",
        };
        let items = match record.state {
            State::Confirmed | State::Returned => {
                crate::holds::kept_items(&content.items, self.extras.get(&slot).map(Box::as_ref))
            }
            _ => content.items.clone(),
        };
        let ended_early = matches!(record.state, State::Released | State::Returned | State::Tombstone);
        let order = matches!(record.state, State::Confirmed | State::Returned);
        HoldView {
            id: content.id,
            buyer: content.buyer,
            state,
            items: items.iter().map(|&(sku, qty)| (&*self.skus.get(sku).name, qty)).collect(),
            began: if ended_early { 0 } else { record.time_ms() - u64::from(record.life_ms) },
            deadline: record.time_ms(),
            order_no: if order { self.order_no(slot) } else { 0 },
            reference: content.reference,
            meta: content.meta,
        }
    }

    /// How many buyers have anything: without those whose last holds are due, if they are not too many.
    fn buyers_with_anything(&self, now_ms: u64) -> u64 {
        let due = self.deadlines.all_due(&self.holds, now_ms).take(DUE_LOOKED_AT);
        let names: BTreeSet<&[u8]> = due.map(|slot| self.holds.buyer(slot)).collect();
        let nothing_left = names.into_iter().filter(|name| {
            let usage = self.usage_of(name, now_ms);
            usage.total.held + usage.total.sold == 0
        });
        self.buyers.len() as u64 - nothing_left.count() as u64
    }

    /// Units of a SKU in holds that are due but not yet ended.
    pub(crate) fn due_units_of(&self, index: u16, now_ms: u64) -> u64 {
        if self.deadlines.none_due(now_ms) {
            return 0;
        }
        self.deadlines.due_units(&self.holds, index, now_ms)
    }

    /// The earliest deadline of a live hold of a SKU.
    pub(crate) fn next_deadline_of(&self, index: u16, now_ms: u64) -> Option<u64> {
        self.deadlines.earliest_of_sku_after(&self.holds, index, now_ms)
    }
}
