//! What each buyer holds and has bought.
//!
//! Nearly every buyer of a rush has one hold. So a buyer with one hold is not stored at all: the index
//! leads to the hold, which names its buyer. A second hold makes a record with sums.

use super::index::Index;
use super::record::{ItemList, State};
use super::store::HoldStore;
use crate::heap;
use crate::memory::Mover;
use crate::sale::{Extra, Refund};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};

/// Marks an index entry that leads to a record instead of a hold.
const RECORD_BIT: u32 = 1 << 31;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeldSold {
    pub held: u64,
    pub sold: u64,
}

#[derive(Debug, Default)]
struct Buyer {
    name: Box<[u8]>,
    total: HeldSold,
    by_sku: BTreeMap<u16, HeldSold>,
    /// Live holds with their deadlines, the earliest first.
    live: BTreeSet<(u64, u32)>,
}

#[derive(Debug, Default)]
pub(crate) struct Buyers {
    index: Index,
    records: Records,
}

/// Records in chunks: one long list would be copied whole when it grows.
#[derive(Debug, Default)]
struct Records {
    chunks: Vec<Vec<Buyer>>,
    free: Vec<u32>,
}

const CHUNK_RECORDS: usize = 64;

impl Records {
    fn get(&self, record: u32) -> &Buyer {
        &self.chunks[record as usize / CHUNK_RECORDS][record as usize % CHUNK_RECORDS]
    }

    fn get_mut(&mut self, record: u32) -> &mut Buyer {
        &mut self.chunks[record as usize / CHUNK_RECORDS][record as usize % CHUNK_RECORDS]
    }

    fn insert(&mut self, buyer: Buyer) -> u32 {
        if let Some(record) = self.free.pop() {
            *self.get_mut(record) = buyer;
            return record;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK_RECORDS) {
            self.chunks.push(Vec::new());
        }
        let last = self.chunks.len() - 1;
        self.chunks[last].push(buyer);
        (last * CHUNK_RECORDS + self.chunks[last].len() - 1) as u32
    }

    fn remove(&mut self, record: u32) {
        *self.get_mut(record) = Buyer::default();
        self.free.push(record);
    }

    fn move_chunk(&mut self, at: usize, mover: &mut impl Mover) {
        self.chunks[at] = mover.relocate(std::mem::take(&mut self.chunks[at]));
        for buyer in &mut self.chunks[at] {
            buyer.name = mover.relocate(std::mem::take(&mut buyer.name).into_vec()).into_boxed_slice();
        }
    }

    /// `samples`: how many chunks stand for all, 0: each for itself.
    fn heap_bytes(&self, samples: usize) -> usize {
        let of_buyer = |buyer: &Buyer| {
            heap::buffer::<u8>(buyer.name.len())
                + heap::tree::<u16, HeldSold>(buyer.by_sku.len())
                + heap::tree::<(u64, u32), ()>(buyer.live.len())
        };
        let of_chunk = |at: usize| {
            let chunk: &Vec<Buyer> = &self.chunks[at];
            heap::buffer::<Buyer>(chunk.capacity()) + chunk.iter().map(of_buyer).sum::<usize>()
        };
        heap::sampled(self.chunks.len(), samples, of_chunk)
            + heap::buffer::<Vec<Buyer>>(self.chunks.capacity())
            + heap::buffer::<u32>(self.free.capacity())
    }
}

/// Items of an order that have not been returned.
pub(crate) fn kept_items(items: &ItemList, extra: Option<&Extra>) -> ItemList {
    left_after(items, extra.map_or(&[], |extra| &extra.returns))
}

/// Items of an order that were left after these refunds; they never take more than there is.
pub(crate) fn left_after(items: &ItemList, refunds: &[Refund]) -> ItemList {
    let mut left = items.clone();
    for &(sku, qty) in refunds.iter().flat_map(|refund| &refund.items) {
        if let Some(item) = left.iter_mut().find(|item| item.0 == sku) {
            item.1 -= qty;
        }
    }
    left
}

/// What looking for a buyer has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BuyerPlace {
    hash: u64,
    /// The index's entry, if there is one.
    entry: Option<u32>,
}

impl BuyerPlace {
    /// Whether the buyer has nothing, neither held nor sold.
    pub fn is_of_nobody(&self) -> bool {
        self.entry.is_none()
    }
}

/// What one buyer has at one time, without holds that are due then.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub total: HeldSold,
    /// How many live holds.
    pub holds: u64,
    by_sku: SmallVec<[(u16, HeldSold); 2]>,
}

impl Usage {
    fn add(&mut self, items: &[(u16, u32)], held: bool) {
        for &(sku, qty) in items {
            let at = self.by_sku.iter().position(|(known, _)| *known == sku).unwrap_or_else(|| {
                self.by_sku.push((sku, HeldSold::default()));
                self.by_sku.len() - 1
            });
            for sums in [&mut self.by_sku[at].1, &mut self.total] {
                *if held { &mut sums.held } else { &mut sums.sold } += u64::from(qty);
            }
        }
    }

    /// Leaves a live hold out.
    pub fn without(&mut self, items: &[(u16, u32)]) {
        for &(sku, qty) in items {
            self.total.held -= u64::from(qty);
            if let Some((_, sums)) = self.by_sku.iter_mut().find(|(known, _)| *known == sku) {
                sums.held -= u64::from(qty);
            }
        }
        self.holds -= 1;
    }

    /// Units of one SKU, held and sold.
    pub fn of_sku(&self, sku: u16) -> u64 {
        self.by_sku.iter().find(|(known, _)| *known == sku).map_or(0, |(_, sums)| sums.held + sums.sold)
    }
}

impl Buyers {
    /// How many buyers have anything held or sold.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Where a buyer is, or will be found.
    pub fn place(&self, store: &HoldStore, name: &[u8]) -> BuyerPlace {
        let hash = store.hash(name);
        BuyerPlace { hash, entry: self.entry_of(store, name, hash) }
    }

    fn entry(&self, store: &HoldStore, name: &[u8]) -> Option<u32> {
        self.place(store, name).entry
    }

    #[inline(always)] // on the way of every request
    fn entry_of(&self, store: &HoldStore, name: &[u8], hash: u64) -> Option<u32> {
        self.index.find(hash, |entry| self.name_of(store, entry) == name)
    }

    fn name_of<'a>(&'a self, store: &'a HoldStore, entry: u32) -> &'a [u8] {
        match entry & RECORD_BIT {
            0 => store.buyer(entry),
            _ => &self.records.get(entry & !RECORD_BIT).name,
        }
    }

    /// What the buyer has, as if everything due at `now_ms` were expired. `skus` are those of interest.
    pub fn usage(
        &self,
        store: &HoldStore,
        extras: &BTreeMap<u32, Box<Extra>>,
        place: BuyerPlace,
        now_ms: u64,
        skus: impl Iterator<Item = u16>,
    ) -> Usage {
        let mut usage = Usage::default();
        match place.entry {
            None => {}
            Some(slot) if slot & RECORD_BIT == 0 => {
                let record = store.get(slot);
                let items = store.items(slot);
                if record.state == State::Confirmed {
                    usage.add(&kept_items(&items, extras.get(&slot).map(Box::as_ref)), false);
                } else if record.time_ms() > now_ms {
                    usage.add(&items, true);
                    usage.holds = 1;
                }
            }
            Some(entry) => {
                let buyer = self.records.get(entry & !RECORD_BIT);
                usage.total = buyer.total;
                usage.holds = buyer.live.len() as u64;
                usage.by_sku = skus.map(|sku| (sku, buyer.by_sku.get(&sku).copied().unwrap_or_default())).collect();
                for &(_, slot) in buyer.live.range(..=(now_ms, u32::MAX)) {
                    usage.without(&store.items(slot));
                }
            }
        }
        usage
    }

    /// Holds of a buyer that are due, the earliest first.
    pub fn due(&self, store: &HoldStore, name: &[u8], now_ms: u64, most: usize) -> Vec<u32> {
        match self.entry(store, name) {
            None => Vec::new(),
            Some(slot) if slot & RECORD_BIT == 0 => {
                let record = store.get(slot);
                if record.is_due(now_ms) { vec![slot] } else { Vec::new() }
            }
            Some(entry) => {
                let buyer = self.records.get(entry & !RECORD_BIT);
                buyer.live.range(..=(now_ms, u32::MAX)).take(most).map(|&(_, slot)| slot).collect()
            }
        }
    }

    /// Counts a hold or an order that has just been stored. `place` is that of its buyer, looked for in this state.
    pub fn add(&mut self, store: &HoldStore, extras: &BTreeMap<u32, Box<Extra>>, slot: u32, place: BuyerPlace) {
        debug_assert_eq!(place, self.place(store, store.buyer(slot)));
        let hash = place.hash;
        match place.entry {
            None => {
                let records = &self.records;
                self.index.insert(hash, slot, |entry| hash_of(records, store, entry));
            }
            Some(entry) if entry & RECORD_BIT == 0 => {
                let mut buyer = Buyer { name: store.buyer(slot).into(), ..Buyer::default() };
                buyer.count(store, extras, entry);
                buyer.count(store, extras, slot);
                let record = self.records.insert(buyer);
                if let Some(found) = self.index.find_mut(hash, |candidate| candidate == entry) {
                    *found = record | RECORD_BIT;
                }
            }
            Some(entry) => self.records.get_mut(entry & !RECORD_BIT).count(store, extras, slot),
        }
    }

    /// Counts all live holds and orders from this slot on, as [`Buyers::add`] does one by one.
    pub fn add_all(&mut self, store: &HoldStore, extras: &BTreeMap<u32, Box<Extra>>, from: u32) {
        let counted = |&slot: &u32| matches!(store.get(slot).state, State::Held | State::Confirmed);
        let slots = (from..store.end()).filter(counted);
        let mut names = slots.map(|slot| (store.hash(store.buyer(slot)), slot)).collect();
        if self.index.len() == 0 {
            (self.index, names) = Index::build(names, |slot| store.hash(store.buyer(slot)));
        }
        for (_, slot) in names {
            self.add(store, extras, slot, self.place(store, store.buyer(slot)));
        }
        let records = &self.records;
        self.index.fit(|entry| hash_of(records, store, entry));
    }

    /// Tells whether the entry was there.
    fn remove_entry(&mut self, store: &HoldStore, name: &[u8], entry: u32) -> bool {
        let records = &self.records;
        let hash = store.hash(name);
        self.index.remove(hash, |found| found == entry, |entry| hash_of(records, store, entry)).is_some()
    }

    /// The record of the buyer of a hold; `None` if the hold alone stands for its buyer.
    fn record_of(&mut self, store: &HoldStore, slot: u32) -> Option<&mut Buyer> {
        let name = store.buyer(slot);
        let hash = store.hash(name);
        // Nearly always it does, and no name need be compared.
        if self.index.find(hash, |entry| entry == slot).is_some() {
            return None;
        }
        let entry = self.entry_of(store, name, hash)?;
        (entry & RECORD_BIT != 0).then(|| self.records.get_mut(entry & !RECORD_BIT))
    }

    /// A live hold becomes an order of `sold`, which may be less than was `held`.
    pub fn confirm(&mut self, store: &HoldStore, slot: u32, held: &[(u16, u32)], sold: &[(u16, u32)]) {
        let deadline = store.get(slot).time_ms();
        let Some(buyer) = self.record_of(store, slot) else { return };
        buyer.live.remove(&(deadline, slot));
        buyer.take(held, |sums| &mut sums.held);
        buyer.give(sold, |sums| &mut sums.sold);
    }

    /// The deadline of a live hold moves to the one that is stored now.
    pub fn move_deadline(&mut self, store: &HoldStore, slot: u32, from_ms: u64) {
        let to_ms = store.get(slot).time_ms();
        let Some(buyer) = self.record_of(store, slot) else { return };
        buyer.live.remove(&(from_ms, slot));
        buyer.live.insert((to_ms, slot));
    }

    /// Takes a live hold off its buyer: it has ended.
    pub fn remove_held(&mut self, store: &HoldStore, slot: u32) {
        let deadline = store.get(slot).time_ms();
        self.take_off(store, slot, |buyer| {
            buyer.live.remove(&(deadline, slot));
            buyer.take(&store.items(slot), |sums| &mut sums.held);
        });
    }

    /// Takes returned units off the buyer of an order; `all` if nothing of it is left.
    pub fn remove_sold(&mut self, store: &HoldStore, slot: u32, items: &[(u16, u32)], all: bool) {
        let name = store.buyer(slot);
        if self.entry(store, name) == Some(slot) && !all {
            return;
        }
        self.take_off(store, slot, |buyer| buyer.take(items, |sums| &mut sums.sold));
    }

    fn take_off(&mut self, store: &HoldStore, slot: u32, change: impl FnOnce(&mut Buyer)) {
        let name = store.buyer(slot);
        // Nearly always the hold alone stands for its buyer, and no name need be looked at.
        if self.remove_entry(store, name, slot) {
            return;
        }
        let Some(entry) = self.entry(store, name).filter(|entry| entry & RECORD_BIT != 0) else {
            debug_assert!(false, "a counted hold has a buyer");
            return;
        };
        let record = entry & !RECORD_BIT;
        let buyer = self.records.get_mut(record);
        change(buyer);
        if buyer.total == HeldSold::default() {
            self.remove_entry(store, name, entry);
            self.records.remove(record);
        }
    }

    /// How many parts [`Buyers::move_part`] can move.
    pub fn parts(&self) -> usize {
        self.index.groups() + self.records.chunks.len()
    }

    pub fn move_part(&mut self, at: usize, mover: &mut impl Mover) {
        match at.checked_sub(self.index.groups()) {
            None => self.index.move_group(at),
            Some(chunk) => self.records.move_chunk(chunk, mover),
        }
    }

    /// Bytes of heap in use, nearly: trees do not tell. `samples` as for [`crate::Sale::heap_bytes`].
    pub fn heap_bytes(&self, samples: usize) -> usize {
        self.index.heap_bytes() + self.records.heap_bytes(samples)
    }
}

fn hash_of(records: &Records, store: &HoldStore, entry: u32) -> u64 {
    match entry & RECORD_BIT {
        0 => store.hash(store.buyer(entry)),
        _ => store.hash(&records.get(entry & !RECORD_BIT).name),
    }
}

impl Buyer {
    fn count(&mut self, store: &HoldStore, extras: &BTreeMap<u32, Box<Extra>>, slot: u32) {
        let record = store.get(slot);
        let items = store.items(slot);
        if record.state == State::Held {
            self.live.insert((record.time_ms(), slot));
            self.give(&items, |sums| &mut sums.held);
        } else {
            let kept = kept_items(&items, extras.get(&slot).map(Box::as_ref));
            self.give(&kept, |sums| &mut sums.sold);
        }
    }

    fn give(&mut self, items: &[(u16, u32)], part: impl Fn(&mut HeldSold) -> &mut u64) {
        for &(sku, qty) in items {
            for sums in [self.by_sku.entry(sku).or_default(), &mut self.total] {
                *part(sums) += u64::from(qty);
            }
        }
    }

    fn take(&mut self, items: &[(u16, u32)], part: impl Fn(&mut HeldSold) -> &mut u64) {
        for &(sku, qty) in items {
            *part(&mut self.total) -= u64::from(qty);
            if let Some(sums) = self.by_sku.get_mut(&sku) {
                *part(sums) -= u64::from(qty);
                if *sums == HeldSold::default() {
                    self.by_sku.remove(&sku);
                }
            }
        }
    }
}
