//! What this node keeps of each shard that it has, beside the sale itself. All of it may be lost.

use flashsale_core::balance::{Counters, Meter, Need, RETRY_MS, Shelf};
use flashsale_core::gossip::{Letter, Word};
use flashsale_core::{Sale, Shard};
use std::collections::BTreeMap;
use std::sync::Weak;

/// A donor that says no is followed by the next one at once, but no more than so often in [`RETRY_MS`].
const ASKS_PER_WINDOW: u32 = 16;

/// Which sale it is: a later one of the same name is another.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SaleId {
    /// Without a shard's tag.
    pub name: Vec<u8>,
    pub shards: u32,
    pub edition: u64,
}

pub(super) struct OwnShard {
    pub sale: SaleId,
    pub index: u32,
    /// Dead once the key's value is another one: then all this is void.
    pub life: Weak<()>,
    /// Whether reserving is over for good.
    pub is_over: bool,
    pub skus: BTreeMap<Box<[u8]>, OwnSku>,
    /// When a refusal last had this shard looked at out of turn.
    pub hurried_ms: u64,
}

#[derive(Default)]
pub(super) struct OwnSku {
    pub counters: Counters,
    taken: u64,
    pub meter: Meter,
    /// Units of the latest request that was refused or waits; 0 once units have come.
    pub wish: u64,
    /// What the others were last told.
    pub told: Option<(Counters, bool)>,
    asked: Option<Asked>,
    pub attempt: u32,
    window_ms: u64,
    asks_in_window: u32,
    /// By receiver.
    pub grants: BTreeMap<u32, Granted>,
    /// Totals of other shards that were accepted.
    pub accepted_from: BTreeMap<u32, u64>,
}

#[derive(Clone, Copy)]
struct Asked {
    donor: u32,
    at_ms: u64,
}

/// What was granted to one shard.
#[derive(Clone, Copy, Default)]
pub(super) struct Granted {
    /// The highest total that is safe or waits to be.
    pub noted: u64,
    /// The highest total that may be told.
    pub safe: u64,
    /// What the receiver says it has accepted.
    pub settled: u64,
    pub told_ms: u64,
}

impl SaleId {
    /// The sale that a letter is about.
    pub fn of_letter(letter: &Letter<'_>) -> Self {
        Self { name: letter.sale.to_vec(), shards: letter.shards, edition: letter.edition }
    }

    /// A letter about this sale.
    pub fn letter<'a>(&'a self, word: Word<'a>) -> Letter<'a> {
        Letter { sale: &self.name, shards: self.shards, edition: self.edition, word }
    }
}

impl OwnShard {
    /// A key that was found and not looked at yet.
    pub fn unknown() -> Self {
        Self {
            sale: SaleId::default(),
            index: 0,
            life: Weak::new(),
            is_over: false,
            skus: BTreeMap::new(),
            hurried_ms: 0,
        }
    }

    /// A shard of the sale called `name`.
    pub fn of(name: Vec<u8>, sale: &Sale, life: Weak<()>) -> Self {
        let Shard { index, count } = sale.shard();
        let sale = SaleId { name, shards: count, edition: sale.edition() };
        Self { sale, index, life, ..Self::unknown() }
    }

    pub fn sku(&mut self, name: &[u8]) -> &mut OwnSku {
        if !self.skus.contains_key(name) {
            self.skus.insert(name.into(), OwnSku::default());
        }
        self.skus.entry(name.into()).or_default()
    }

    /// Looks at the sale as it is. Tells which grants are new: SKU, receiver, total.
    pub fn look(&mut self, sale: &Sale, now_ms: u64) -> Vec<(Box<[u8]>, u32, u64)> {
        self.is_over = sale.is_over(now_ms);
        let mut new = Vec::new();
        for (at, view) in sale.sku_views(now_ms).enumerate() {
            let sku = self.sku(view.name);
            let taken = view.held + view.sold;
            if taken > sku.taken && sku.told.is_some() {
                sku.meter.took(taken - sku.taken, now_ms);
            }
            sku.taken = taken;
            let before = sku.counters;
            let (available, held) = (view.available, view.held);
            sku.counters = Counters { available, held, granted: view.granted, accepted: view.accepted };
            if (before.granted, before.accepted) == (view.granted, view.accepted) {
                continue;
            }
            for (other, granted, accepted) in sale.transfer_views(at) {
                if accepted > 0 {
                    sku.accepted_from.insert(other, accepted);
                }
                let known = sku.grants.get(&other).map_or(0, |known| known.noted);
                if granted > known {
                    sku.grants.entry(other).or_default().noted = granted;
                    new.push((view.name.into(), other, granted));
                }
            }
        }
        new
    }
}

impl OwnSku {
    pub fn shelf(&mut self, shard: u32, now_ms: u64) -> Shelf {
        Shelf { shard, available: self.counters.available, need: self.meter.need(now_ms) }
    }

    /// Whether the others should hear of it: news in between are of no use to them.
    pub fn has_news(&mut self, now_ms: u64) -> bool {
        let wanted = !self.meter.need(now_ms).is_none();
        self.told != Some((self.counters, wanted))
    }

    pub fn tell(&mut self, now_ms: u64) -> (Counters, Need) {
        let need = self.meter.need(now_ms);
        self.told = Some((self.counters, !need.is_none()));
        (self.counters, need)
    }

    /// Whether another request may be sent now. One that brought nothing counts as an attempt.
    pub fn may_ask(&mut self, now_ms: u64) -> bool {
        match self.asked {
            Some(asked) if asked.at_ms + RETRY_MS > now_ms => return false,
            Some(_) => self.attempt = self.attempt.wrapping_add(1),
            None => {}
        }
        self.asked = None;
        if self.window_ms + RETRY_MS <= now_ms {
            (self.window_ms, self.asks_in_window) = (now_ms, 0);
        }
        self.asks_in_window < ASKS_PER_WINDOW
    }

    pub fn asks(&mut self, donor: u32, now_ms: u64) {
        self.asked = Some(Asked { donor, at_ms: now_ms });
        self.asks_in_window += 1;
    }

    pub fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// The donor has nothing to give. `false` if another one is asked meanwhile.
    pub fn refused_by(&mut self, donor: u32) -> bool {
        let current = self.asked.is_some_and(|asked| asked.donor == donor);
        if current {
            self.asked = None;
            self.attempt = self.attempt.wrapping_add(1);
        }
        current
    }

    /// Units have come.
    pub fn arrived(&mut self) {
        self.meter.arrived();
        (self.wish, self.asked, self.attempt) = (0, None, 0);
    }
}
