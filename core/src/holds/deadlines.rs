//! When live holds are due.
//!
//! Each SKU has a queue of its own, so that a buyer who needs units of one SKU can be given what has just
//! fallen due without looking at the rest; a hold of several SKUs stands in one shared queue. A queue is a
//! tree of short ticks, each a list that runs through the records: inserting, cancelling and expiring cost
//! about the same, and nothing cascades.

use super::NONE;
use super::store::HoldStore;
use crate::heap;
use std::cell::Cell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// Width of a tick: lists stay short at the highest rates, trees small at the longest lives.
const TICK_MS: u64 = 16;

/// Which queue a hold stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum QueueName {
    /// All its units are of this SKU.
    Sku(u16),
    /// It has units of several SKUs.
    Bundles,
}

impl QueueName {
    pub fn of(items: &[(u16, u32)]) -> Self {
        match items {
            [(sku, _)] => Self::Sku(*sku),
            _ => Self::Bundles,
        }
    }
}

/// Marks that the earliest deadline of a tick must be looked for.
const UNKNOWN: u8 = u8::MAX;

/// Holds whose deadlines lie in the same few milliseconds. Deadlines are kept as offsets from its beginning.
#[derive(Debug)]
struct Tick {
    head: u32,
    count: u32,
    units: u64,
    earliest: Cell<u8>,
    /// How many have the earliest deadline: while any is left it need not be looked for anew.
    at_earliest: Cell<u32>,
    /// None is later than this.
    latest: u8,
}

impl Tick {
    fn new() -> Self {
        Self { head: NONE, count: 0, units: 0, earliest: Cell::new(UNKNOWN), at_earliest: Cell::new(0), latest: 0 }
    }

    fn count_in(&mut self, offset: u8, units: u64) {
        let first = self.count == 0;
        self.count += 1;
        self.units += units;
        self.latest = self.latest.max(offset);
        let earliest = self.earliest.get();
        if first || earliest != UNKNOWN && offset < earliest {
            self.earliest.set(offset);
            self.at_earliest.set(1);
        } else if offset == earliest {
            self.at_earliest.set(self.at_earliest.get() + 1);
        }
    }

    fn count_out(&mut self, offset: u8, units: u64) {
        self.count -= 1;
        self.units -= units;
        if self.earliest.get() == offset {
            self.at_earliest.set(self.at_earliest.get() - 1);
            if self.at_earliest.get() == 0 {
                self.earliest.set(UNKNOWN);
            }
        }
    }

    /// The earliest deadline, as an offset.
    fn earliest(&self, store: &HoldStore) -> u8 {
        if self.earliest.get() == UNKNOWN {
            let offsets = || list(store, self.head).map(|slot| offset_of(store.get(slot).time_ms()));
            let earliest = offsets().min().unwrap_or(0);
            self.at_earliest.set(offsets().filter(|&offset| offset == earliest).count() as u32);
            self.earliest.set(earliest);
        }
        self.earliest.get()
    }

    /// How many of its holds are due, when this tick (`tick`) is not beyond `now_ms`.
    fn dueness(&self, store: &HoldStore, tick: u64, now_ms: u64) -> Dueness {
        let now_offset = offset_of(now_ms);
        if tick < now_ms / TICK_MS || self.latest <= now_offset {
            Dueness::All
        } else if self.earliest(store) > now_offset {
            Dueness::None
        } else {
            Dueness::Some
        }
    }

    /// Its due holds, without a look at the others where that can be told.
    fn due<'a>(&self, store: &'a HoldStore, tick: u64, now_ms: u64) -> impl Iterator<Item = u32> + use<'a> {
        let dueness = self.dueness(store, tick, now_ms);
        let head = if dueness == Dueness::None { NONE } else { self.head };
        list(store, head).filter(move |&slot| dueness == Dueness::All || store.get(slot).time_ms() <= now_ms)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dueness {
    None,
    Some,
    All,
}

#[derive(Debug, Default)]
struct Queue {
    ticks: BTreeMap<u64, Tick>,
    /// The first of them: every insertion asks for it.
    first: Option<u64>,
}

impl Queue {
    fn due<'a>(&'a self, store: &'a HoldStore, now_ms: u64) -> impl Iterator<Item = u32> + 'a {
        self.ticks.range(..=now_ms / TICK_MS).flat_map(move |(&tick, entry)| entry.due(store, tick, now_ms))
    }

    /// Holds and units that are due.
    fn due_sums(&self, store: &HoldStore, now_ms: u64) -> (u64, u64) {
        let mut sums = (0, 0);
        for (&tick, entry) in self.ticks.range(..=now_ms / TICK_MS) {
            if entry.dueness(store, tick, now_ms) == Dueness::All {
                sums = (sums.0 + u64::from(entry.count), sums.1 + entry.units);
                continue;
            }
            for slot in entry.due(store, tick, now_ms) {
                sums = (sums.0 + 1, sums.1 + units(&store.items(slot)));
            }
        }
        sums
    }

    /// The earliest deadline after `now_ms`.
    fn earliest_after(&self, store: &HoldStore, now_ms: u64) -> Option<u64> {
        self.ticks.range(now_ms / TICK_MS..).find_map(|(&tick, entry)| {
            let earliest = tick * TICK_MS + u64::from(entry.earliest(store));
            if earliest > now_ms {
                return Some(earliest);
            }
            list(store, entry.head).map(|slot| store.get(slot).time_ms()).filter(|&deadline| deadline > now_ms).min()
        })
    }
}

/// The units of one SKU in the bundles of one tick.
#[derive(Debug, Default)]
struct Share {
    bundles: u32,
    units: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    skus: Vec<Queue>,
    bundles: Queue,
    /// Which ticks of the bundles have units of which SKU, and how many: whoever wants units of one SKU need
    /// not look at bundles without it.
    shares: BTreeMap<(u16, u64), Share>,
    /// The first tick of every queue that has one.
    order: BTreeSet<(u64, QueueName)>,
    /// The first of all: every command asks for it.
    first: Option<u64>,
}

impl Deadlines {
    fn queue(&self, name: QueueName) -> Option<&Queue> {
        match name {
            QueueName::Sku(sku) => self.skus.get(usize::from(sku)),
            QueueName::Bundles => Some(&self.bundles),
        }
    }

    fn queue_mut(&mut self, name: QueueName) -> &mut Queue {
        match name {
            QueueName::Sku(sku) => {
                let sku = usize::from(sku);
                if self.skus.len() <= sku {
                    self.skus.resize_with(sku + 1, Queue::default);
                }
                &mut self.skus[sku]
            }
            QueueName::Bundles => &mut self.bundles,
        }
    }

    /// Hangs a held record in at its deadline.
    pub fn insert(&mut self, store: &mut HoldStore, slot: u32, items: &[(u16, u32)]) {
        let name = QueueName::of(items);
        let record = store.get_mut(slot);
        let deadline = record.time_ms();
        let tick = deadline / TICK_MS;
        let queue = self.queue_mut(name);
        let first = queue.first;
        queue.first = Some(first.map_or(tick, |first| first.min(tick)));
        // Holds of one length come in the order of their deadlines.
        let entry = match queue.ticks.last_entry() {
            Some(last) if *last.key() == tick => last.into_mut(),
            _ => queue.ticks.entry(tick).or_insert_with(Tick::new),
        };
        let next = entry.head;
        entry.head = slot;
        entry.count_in(offset_of(deadline), units(items));
        record.set_prev(NONE);
        record.set_next(next);
        if next != NONE {
            store.get_mut(next).set_prev(slot);
        }
        if first.is_none_or(|first| tick < first) {
            self.reorder(name, first, Some(tick));
        }
        if name == QueueName::Bundles {
            for &(sku, qty) in items {
                let share = self.shares.entry((sku, tick)).or_default();
                share.bundles += 1;
                share.units += u64::from(qty);
            }
        }
    }

    /// Takes a held record out, before its deadline or its items change.
    pub fn remove(&mut self, store: &mut HoldStore, slot: u32, items: &[(u16, u32)]) {
        let name = QueueName::of(items);
        let deadline = store.get(slot).time_ms();
        let tick = deadline / TICK_MS;
        let (prev, next) = store.get(slot).links();
        if prev != NONE {
            store.get_mut(prev).set_next(next);
        }
        if next != NONE {
            store.get_mut(next).set_prev(prev);
        }
        store.get_mut(slot).unlink();
        let queue = self.queue_mut(name);
        let Some(entry) = queue.ticks.get_mut(&tick) else {
            debug_assert!(false, "a held record stands in the tick of its deadline");
            return;
        };
        entry.count_out(offset_of(deadline), units(items));
        if prev == NONE {
            entry.head = next;
        }
        if entry.head == NONE {
            queue.ticks.remove(&tick);
            if queue.first == Some(tick) {
                queue.first = queue.ticks.first_key_value().map(|(&tick, _)| tick);
                let first = queue.first;
                self.reorder(name, Some(tick), first);
            }
        }
        if name == QueueName::Bundles {
            self.remove_shares(tick, items);
        }
    }

    fn remove_shares(&mut self, tick: u64, items: &[(u16, u32)]) {
        for &(sku, qty) in items {
            if let Entry::Occupied(mut share) = self.shares.entry((sku, tick)) {
                share.get_mut().bundles -= 1;
                share.get_mut().units -= u64::from(qty);
                if share.get().bundles == 0 {
                    share.remove();
                }
            }
        }
    }

    fn reorder(&mut self, name: QueueName, from: Option<u64>, to: Option<u64>) {
        if let Some(from) = from {
            self.order.remove(&(from, name));
        }
        if let Some(to) = to {
            self.order.insert((to, name));
        }
        self.first = self.order.first().map(|&(tick, _)| tick);
    }

    /// Whether nothing at all can be due: the one look that every command takes.
    pub fn none_due(&self, now_ms: u64) -> bool {
        self.first.is_none_or(|tick| tick * TICK_MS > now_ms)
    }

    /// When all of the first tick is due.
    pub fn first_sweep_ms(&self) -> Option<u64> {
        self.first.map(|tick| (tick + 1) * TICK_MS)
    }

    /// Due holds of all queues, those with the earliest tick first.
    pub fn all_due<'a>(&'a self, store: &'a HoldStore, now_ms: u64) -> impl Iterator<Item = u32> + 'a {
        let queues = self.order.iter().take_while(move |(tick, _)| tick * TICK_MS <= now_ms);
        queues.filter_map(|&(_, name)| self.queue(name)).flat_map(move |queue| queue.due(store, now_ms))
    }

    /// How many holds are due.
    pub fn due_count(&self, store: &HoldStore, now_ms: u64) -> u64 {
        let queues = self.order.iter().take_while(|(tick, _)| tick * TICK_MS <= now_ms);
        queues.filter_map(|&(_, name)| self.queue(name)).map(|queue| queue.due_sums(store, now_ms).0).sum()
    }

    /// Due holds that have units of a SKU: first those of that SKU alone, in no order within a tick.
    pub fn due_of_sku<'a>(&'a self, store: &'a HoldStore, sku: u16, now_ms: u64) -> impl Iterator<Item = u32> + 'a {
        let alone = self.queue(QueueName::Sku(sku)).into_iter().flat_map(move |queue| queue.due(store, now_ms));
        let shares = self.shares.range((sku, 0)..=(sku, now_ms / TICK_MS));
        let bundled = shares.flat_map(move |(&(_, tick), _)| {
            let entry = self.bundles.ticks.get(&tick);
            entry.into_iter().flat_map(move |entry| entry.due(store, tick, now_ms))
        });
        alone.chain(bundled.filter(move |&slot| store.items(slot).iter().any(|item| item.0 == sku)))
    }

    /// Due units of a SKU, counted tick by tick.
    pub fn due_units(&self, store: &HoldStore, sku: u16, now_ms: u64) -> u64 {
        let alone = self.queue(QueueName::Sku(sku)).map_or(0, |queue| queue.due_sums(store, now_ms).1);
        let shares = self.shares.range((sku, 0)..=(sku, now_ms / TICK_MS));
        let bundled = shares.map(|(&(_, tick), share)| {
            let Some(entry) = self.bundles.ticks.get(&tick) else { return 0 };
            if entry.dueness(store, tick, now_ms) == Dueness::All {
                return share.units;
            }
            let due = entry.due(store, tick, now_ms).map(|slot| units_of(sku, &store.items(slot)));
            due.sum::<u64>()
        });
        alone + bundled.sum::<u64>()
    }

    /// The earliest deadline after `now_ms` of a hold that has units of a SKU.
    pub fn earliest_of_sku_after(&self, store: &HoldStore, sku: u16, now_ms: u64) -> Option<u64> {
        let alone = self.queue(QueueName::Sku(sku)).and_then(|queue| queue.earliest_after(store, now_ms));
        let mut shares = self.shares.range((sku, now_ms / TICK_MS)..=(sku, u64::MAX));
        let bundled = shares.find_map(|(&(_, tick), _)| {
            let entry = self.bundles.ticks.get(&tick)?;
            let of_sku = list(store, entry.head).filter(|&slot| units_of(sku, &store.items(slot)) > 0);
            of_sku.map(|slot| store.get(slot).time_ms()).filter(|&deadline| deadline > now_ms).min()
        });
        [alone, bundled].into_iter().flatten().min()
    }

    /// How many holds hang in all queues.
    pub fn count(&self, store: &HoldStore) -> u64 {
        let queues = self.skus.iter().chain([&self.bundles]);
        let ticks = queues.flat_map(|queue| queue.ticks.values());
        ticks.map(|tick| list(store, tick.head).count() as u64).sum()
    }

    /// The earliest deadline of all, due or not.
    pub fn earliest(&self, store: &HoldStore) -> Option<u64> {
        let &(first, _) = self.order.first()?;
        let same_tick = self.order.iter().take_while(|&&(tick, _)| tick == first);
        let entries = same_tick.filter_map(|&(tick, name)| self.queue(name)?.ticks.get(&tick));
        entries.map(|entry| first * TICK_MS + u64::from(entry.earliest(store))).min()
    }

    /// Bytes of heap in use, nearly: trees do not tell.
    pub fn heap_bytes(&self) -> usize {
        let queues = self.skus.iter().chain([&self.bundles]);
        queues.map(|queue| heap::tree::<u64, Tick>(queue.ticks.len())).sum::<usize>()
            + heap::buffer::<Queue>(self.skus.capacity())
            + heap::tree::<(u64, QueueName), ()>(self.order.len())
            + heap::tree::<(u16, u64), Share>(self.shares.len())
    }
}

fn offset_of(time_ms: u64) -> u8 {
    (time_ms % TICK_MS) as u8
}

fn units(items: &[(u16, u32)]) -> u64 {
    items.iter().map(|&(_, qty)| u64::from(qty)).sum()
}

fn units_of(sku: u16, items: &[(u16, u32)]) -> u64 {
    items.iter().find(|item| item.0 == sku).map_or(0, |item| u64::from(item.1))
}

fn list(store: &HoldStore, head: u32) -> impl Iterator<Item = u32> + '_ {
    std::iter::successors((head != NONE).then_some(head), |&slot| {
        let (_, next) = store.get(slot).links();
        (next != NONE).then_some(next)
    })
}
