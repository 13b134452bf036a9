//! The state of one sale, or of one shard of a sale.

use crate::bounds;
use crate::holds::{Buyers, Deadlines, Fifo, HoldStore, State};
use crate::outcome::Misuse;
use std::collections::BTreeMap;

/// What the order stream of a sale holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Events {
    /// Confirmed and returned orders.
    #[default]
    Orders,
    /// Every change of the sale.
    All,
    /// Nothing; orders are still numbered.
    None,
}

/// The settings that CREATE and ALTER give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Units a buyer may have held + sold in the sale; 0 = no limit.
    pub limit: u32,
    /// Default life of a hold in ms.
    pub hold_ms: u64,
    /// Longest total life of a hold in ms.
    pub maxhold_ms: u64,
    /// When reserving starts, unix ms; 0 = at once.
    pub opens_at: u64,
    /// When reserving ends, unix ms; 0 = never.
    pub closes_at: u64,
    /// How long ended hold ids are remembered in ms.
    pub retain_ms: u64,
    /// Length of the order stream at which reserving stops.
    pub backlog: u64,
    /// What the order stream holds.
    pub events: Events,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limit: 0,
            hold_ms: 300_000,
            maxhold_ms: 3_600_000,
            opens_at: 0,
            closes_at: 0,
            retain_ms: 86_400_000,
            backlog: 1_000_000,
            events: Events::Orders,
        }
    }
}

impl Settings {
    /// Refuses settings that contradict each other.
    pub fn check(&self) -> Result<(), Misuse> {
        if self.hold_ms > self.maxhold_ms {
            return Err(Misuse::HoldAboveMaxHold { hold_ms: self.hold_ms, maxhold_ms: self.maxhold_ms });
        }
        if self.closes_at != 0 && self.closes_at <= self.opens_at {
            return Err(Misuse::ClosesBeforeOpens { opens_at: self.opens_at, closes_at: self.closes_at });
        }
        Ok(())
    }
}

/// Which part of a sale a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Number of this shard, 0..count.
    pub index: u32,
    /// How many shards the sale has; fixed for its life.
    pub count: u32,
}

impl Default for Shard {
    /// A sale in one key.
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

/// One stock keeping unit. `stocked + accepted - granted = available + held + sold`, always.
#[derive(Clone, Debug)]
pub(crate) struct Sku {
    pub name: Box<[u8]>,
    pub stocked: u64,
    pub available: u64,
    pub held: u64,
    pub sold: u64,
    pub granted: u64,
    pub accepted: u64,
    /// Units of this SKU that a buyer may have held + sold; 0 = no limit.
    pub limit: u32,
    /// Whether the world was last told that this SKU is sold out.
    pub sold_out: bool,
    /// Rises with every change of `sold_out`.
    pub version: u64,
    /// Units that were asked for in vain here while other shards may have had some; neither kept nor replicated.
    pub missed: u64,
    /// Units of the latest such request.
    pub missed_last: u32,
}

impl Sku {
    pub fn new(name: &[u8]) -> Self {
        Self {
            name: name.into(),
            stocked: 0,
            available: 0,
            held: 0,
            sold: 0,
            granted: 0,
            accepted: 0,
            limit: 0,
            sold_out: false,
            version: 0,
            missed: 0,
            missed_last: 0,
        }
    }
}

/// SKUs in the order in which they were first stocked; a hold names them by that index.
#[derive(Debug, Default)]
pub(crate) struct Skus {
    list: Vec<Sku>,
    by_name: BTreeMap<Box<[u8]>, u16>,
}

/// Up to this many SKUs a scan is quicker than a tree.
const SCANNED_SKUS: usize = 8;

impl Skus {
    #[inline(always)] // on the way of every request
    pub fn find(&self, name: &[u8]) -> Option<u16> {
        if self.list.len() <= SCANNED_SKUS {
            return self.list.iter().position(|sku| *sku.name == *name).map(|at| at as u16);
        }
        self.by_name.get(name).copied()
    }

    /// Adds a SKU that is not there yet. The caller has checked [`bounds::MAX_SKUS`].
    pub fn push(&mut self, sku: Sku) -> u16 {
        debug_assert!(self.list.len() < bounds::MAX_SKUS && self.find(&sku.name).is_none());
        let index = self.list.len() as u16;
        self.by_name.insert(sku.name.clone(), index);
        self.list.push(sku);
        index
    }

    pub fn get(&self, index: u16) -> &Sku {
        &self.list[usize::from(index)]
    }

    pub fn get_mut(&mut self, index: u16) -> &mut Sku {
        &mut self.list[usize::from(index)]
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn capacity(&self) -> usize {
        self.list.capacity()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Sku> {
        self.list.iter()
    }
}

/// Units that two shards have moved between them, counted for ever (the contract's section 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// All units ever granted to the other shard.
    pub granted: u64,
    /// The other shard's total that was last accepted.
    pub accepted: u64,
}

/// What only few holds have, kept beside the records of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    /// The items first asked for, where UPTO took fewer.
    pub requested: Option<Box<[(u16, u32)]>>,
    /// The items of the hold, where CONFIRM took fewer.
    pub confirmed_from: Option<Box<[(u16, u32)]>>,
    /// The number of an order that was wholly returned: its record has no room for it any more.
    pub order_no: u64,
    /// Refunds of the order, in the order in which they came.
    pub returns: Vec<Refund>,
}

/// One RETURN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refund {
    pub id: Box<[u8]>,
    pub items: Box<[(u16, u32)]>,
}

/// A sale, or one shard of it.
///
/// Made by [`Sale::new`], changed by [`Sale::apply`] alone, read through [`crate::view`].
#[derive(Debug)]
pub struct Sale {
    pub(crate) settings: Settings,
    pub(crate) shard: Shard,
    /// Which sale of the name this is: shards of other editions are strangers. 0: nobody said.
    pub(crate) edition: u64,
    pub(crate) paused: bool,
    pub(crate) closed: bool,
    /// Time of the latest effect, unix ms: the clock of a key never runs backwards.
    pub(crate) clock_ms: u64,
    /// Number of the latest order stream entry.
    pub(crate) entry_no: u64,
    /// Stream ids have at least this as their time part: the stream had a later entry from elsewhere.
    pub(crate) stream_floor_ms: u64,
    pub(crate) skus: Skus,
    /// All units ever stocked or accepted.
    pub(crate) units: u64,
    /// STOCK ids that have been counted.
    pub(crate) allocations: BTreeMap<Box<[u8]>, (u16, i64)>,
    /// By SKU and other shard.
    pub(crate) transfers: BTreeMap<(u16, u32), Transfer>,
    pub(crate) holds: HoldStore,
    pub(crate) buyers: Buyers,
    pub(crate) deadlines: Deadlines,
    /// Released and expired holds and wholly returned orders, oldest first.
    pub(crate) ended: Fifo,
    /// Ids that RELEASE met before RESERVE, oldest first.
    pub(crate) tombstones: Fifo,
    pub(crate) extras: BTreeMap<u32, Box<Extra>>,
    pub(crate) live_holds: u64,
    /// Orders ever confirmed.
    pub(crate) orders: u64,
}

impl Sale {
    /// An empty sale. `seed` keys the hash of ids that strangers choose: draw it at random once per process.
    pub fn new(settings: Settings, shard: Shard, seed: [u64; 2]) -> Self {
        Self {
            settings,
            shard,
            edition: 0,
            paused: false,
            closed: false,
            clock_ms: 0,
            entry_no: 0,
            stream_floor_ms: 0,
            skus: Skus::default(),
            units: 0,
            allocations: BTreeMap::new(),
            transfers: BTreeMap::new(),
            holds: HoldStore::new(seed),
            buyers: Buyers::default(),
            deadlines: Deadlines::default(),
            ended: Fifo::default(),
            tombstones: Fifo::default(),
            extras: BTreeMap::new(),
            live_holds: 0,
            orders: 0,
        }
    }

    /// The sale's settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Which part of the sale this is.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// Tells the shards of this sale from those of an earlier one of the same name; 0 if its maker said nothing.
    pub fn edition(&self) -> u64 {
        self.edition
    }

    /// Time of the latest effect, unix ms. Commands are decided at no earlier time.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// How many released, expired or wholly returned ids are remembered at most: memory grows with the
    /// stock, never with the crowd.
    pub(crate) fn ended_cap(&self) -> usize {
        bounds::MIN_ENDED.max(usize::try_from(self.units).unwrap_or(usize::MAX).saturating_mul(2))
    }

    /// The hold or order of an id, unless it ended so long ago that it is forgotten.
    pub(crate) fn known(&self, id: &[u8], now_ms: u64) -> Option<u32> {
        let slot = self.holds.find(id)?;
        (!self.is_forgotten(slot, now_ms)).then_some(slot)
    }

    /// Whether a hold has ended so long ago that it is no longer remembered, though its record may be there.
    pub(crate) fn is_forgotten(&self, slot: u32, now_ms: u64) -> bool {
        let record = self.holds.get(slot);
        (record.state.is_ended() || record.is_due(now_ms)) && self.is_old(record.time_ms(), now_ms)
    }

    /// Whether what ended then is no longer remembered.
    pub(crate) fn is_old(&self, ended_ms: u64, now_ms: u64) -> bool {
        ended_ms.saturating_add(self.settings.retain_ms) <= now_ms
    }

    /// The number of an order, returned or not.
    pub(crate) fn order_no(&self, slot: u32) -> u64 {
        match self.holds.get(slot).state {
            State::Returned => self.extras.get(&slot).map_or(0, |extra| extra.order_no),
            _ => self.holds.get(slot).order_no(),
        }
    }
}
