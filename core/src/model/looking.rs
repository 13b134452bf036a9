//! What can be seen of the sale: summed up from the holds each time.

use super::{Hold, Model, Name, State, qty_of};
use crate::view::{BuyerView, HoldView};

/// The levels of one SKU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
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
}

impl Model {
    /// The sale as it is seen at a time: everything due has expired, though nothing was written.
    pub fn at(&self, server_ms: u64) -> Self {
        let mut seen = self.clone();
        let (now, clock) = (self.now(server_ms), self.clock);
        seen.expire(now);
        seen.clock = clock;
        seen
    }

    /// Levels of a SKU; invariant 1 is how `available` is found here, so it holds if nothing is ever negative.
    pub fn levels(&self, sku: &[u8]) -> Levels {
        let Some(known) = self.sku(sku) else { return Levels::default() };
        let sum = |state, units: fn(&Hold) -> Vec<(Name, u64)>| {
            let holds = self.holds.values().filter(|hold| hold.state == state);
            holds.map(|hold| qty_of(&units(hold), sku)).sum::<u64>()
        };
        let held = sum(State::Held, |hold| hold.units.clone());
        let sold = sum(State::Confirmed, Hold::left);
        let granted: u64 = self.granted.iter().filter(|((name, _), _)| name == sku).map(|(_, total)| total).sum();
        let accepted: u64 = self.accepted.iter().filter(|((name, _), _)| name == sku).map(|(_, total)| total).sum();
        let here = known.stocked + accepted;
        let available = here.checked_sub(granted).and_then(|left| left.checked_sub(held + sold));
        let available = available.expect("units were made");
        Levels { stocked: known.stocked, available, held, sold, granted, accepted, limit: known.limit }
    }

    /// SKUs in the order in which they were first stocked.
    pub fn skus(&self) -> impl Iterator<Item = &[u8]> {
        self.skus.iter().map(|sku| &sku.name[..])
    }

    /// Whether reserving has ended.
    pub(super) fn is_closed(&self, now: u64) -> bool {
        self.closed || self.settings.closes_at != 0 && now >= self.settings.closes_at
    }

    /// `pending`, `open`, `paused` or `closed`.
    pub fn state(&self, server_ms: u64) -> &'static str {
        let now = self.now(server_ms);
        match () {
            () if self.is_closed(now) => "closed",
            () if now < self.settings.opens_at => "pending",
            () if self.paused => "paused",
            () => "open",
        }
    }

    fn live(&self) -> impl Iterator<Item = &Hold> {
        self.holds.values().filter(|hold| hold.state == State::Held)
    }

    /// Live holds.
    pub fn live_holds(&self) -> u64 {
        self.live().count() as u64
    }

    /// The earliest deadline of a live hold, of any SKU or of one; 0 if there is none.
    pub fn next_deadline(&self, sku: Option<&[u8]>) -> u64 {
        let has = |hold: &&Hold| sku.is_none_or(|sku| qty_of(&hold.units, sku) > 0);
        self.live().filter(has).map(|hold| hold.time).min().unwrap_or(0)
    }

    /// Orders ever confirmed.
    pub fn orders(&self) -> u64 {
        self.orders
    }

    /// Entries of the order stream.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Ids that were ever given to a hold and may still be remembered.
    pub fn ids(&self) -> impl Iterator<Item = &[u8]> {
        self.holds.keys().map(|id| &id[..])
    }

    /// Units that a buyer has set aside and bought, of one SKU or of all.
    pub(super) fn used(&self, buyer: &[u8], sku: Option<&[u8]>) -> (u64, u64) {
        let count = |units: &[(Name, u64)]| {
            let wanted = units.iter().filter(|(name, _)| sku.is_none_or(|sku| name == sku));
            wanted.map(|(_, qty)| qty).sum::<u64>()
        };
        let mine = || self.holds.values().filter(|hold| hold.buyer == buyer);
        let held = mine().filter(|hold| hold.state == State::Held).map(|hold| count(&hold.units)).sum();
        let sold = mine().filter(|hold| hold.state == State::Confirmed).map(|hold| count(&hold.left())).sum();
        (held, sold)
    }

    /// What a buyer has.
    pub fn buyer(&self, buyer: &[u8]) -> BuyerView {
        let (held, sold) = self.used(buyer, None);
        BuyerView { held, sold, holds: self.live().filter(|hold| hold.buyer == buyer).count() as u64 }
    }

    /// How many buyers have anything.
    pub fn buyers(&self) -> u64 {
        let mut names: Vec<&Name> = self.holds.values().map(|hold| &hold.buyer).collect();
        names.sort();
        names.dedup();
        names.retain(|name| self.used(name, None) != (0, 0));
        names.len() as u64
    }

    /// A hold by its id.
    pub fn hold<'m>(&'m self, id: &'m [u8], server_ms: u64) -> Option<HoldView<'m>> {
        let hold = self.known(id, self.now(server_ms))?;
        let wholly_returned = hold.state == State::Confirmed && hold.left().is_empty();
        let stays = matches!(hold.state, State::Held | State::Confirmed | State::Expired) && !wholly_returned;
        let items = match hold.state {
            State::Confirmed => {
                hold.units.iter().map(|(sku, _)| (&sku[..], qty_of(&hold.left(), sku) as u32)).collect()
            }
            _ => hold.units.iter().map(|(sku, qty)| (&sku[..], *qty as u32)).collect(),
        };
        Some(HoldView {
            id,
            buyer: &hold.buyer,
            state: match hold.state {
                State::Held => "held",
                State::Confirmed => "confirmed",
                State::Released | State::Tombstone => "released",
                State::Expired => "expired",
            },
            items,
            began: if stays { hold.began } else { 0 },
            deadline: hold.time,
            order_no: if hold.state == State::Confirmed { hold.order_no } else { 0 },
            reference: hold.reference.as_deref(),
            meta: hold.meta.as_deref(),
        })
    }
}
