//! When live holds are due.
//!
//! Each SKU has a queue of its own, so that a buyer who needs units of one SKU can be given what has just
//! fallen due without looking at the rest; a hold of several SKUs stands in one shared queue. A queue is a
//! tree of short ticks, each a list that runs through the records: inserting, cancelling and expiring cost
//! about the same, and nothing cascades.

use super::NONE;
use super::store::HoldStore;
use std::cell::Cell;
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

#[derive(Debug)]
struct Tick {
    head: u32,
    units: u64,
    /// The earliest deadline in the list; 0 while it must be looked for.
    earliest: Cell<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    ticks: BTreeMap<u64, Tick>,
}

impl Queue {
    fn first_tick(&self) -> Option<u64> {
        self.ticks.first_key_value().map(|(&tick, _)| tick)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    skus: Vec<Queue>,
    bundles: Queue,
    /// The first tick of every queue that has one.
    order: BTreeSet<(u64, QueueName)>,
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
        let deadline = store.get(slot).time_ms();
        let tick = deadline / TICK_MS;
        let queue = self.queue_mut(name);
        let first = queue.first_tick();
        let entry = queue.ticks.entry(tick).or_insert(Tick { head: NONE, units: 0, earliest: Cell::new(deadline) });
        let next = entry.head;
        entry.head = slot;
        entry.units += units(items);
        if entry.earliest.get() > deadline {
            entry.earliest.set(deadline);
        }
        let record = store.get_mut(slot);
        record.set_prev(NONE);
        record.set_next(next);
        if next != NONE {
            store.get_mut(next).set_prev(slot);
        }
        if first.is_none_or(|first| tick < first) {
            self.reorder(name, first, Some(tick));
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
        entry.units -= units(items);
        if prev == NONE {
            entry.head = next;
        }
        if entry.earliest.get() == deadline {
            entry.earliest.set(0);
        }
        if entry.head == NONE {
            let was_first = queue.first_tick() == Some(tick);
            queue.ticks.remove(&tick);
            if was_first {
                let first = queue.first_tick();
                self.reorder(name, Some(tick), first);
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
    }

    /// Whether nothing at all can be due: the one look that every command takes.
    pub fn none_due(&self, now_ms: u64) -> bool {
        self.order.first().is_none_or(|&(tick, _)| tick * TICK_MS > now_ms)
    }

    /// When all of the first tick is due.
    pub fn first_sweep_ms(&self) -> Option<u64> {
        self.order.first().map(|&(tick, _)| (tick + 1) * TICK_MS)
    }

    /// Due holds of one queue, in no order within a tick.
    pub fn due<'a>(&'a self, store: &'a HoldStore, name: QueueName, now_ms: u64) -> impl Iterator<Item = u32> + 'a {
        let ticks = self.queue(name).into_iter().flat_map(move |queue| queue.ticks.range(..=now_ms / TICK_MS));
        ticks.flat_map(move |(_, tick)| list(store, tick.head)).filter(move |&slot| store.get(slot).time_ms() <= now_ms)
    }

    /// Due holds of all queues, those with the earliest tick first.
    pub fn all_due<'a>(&'a self, store: &'a HoldStore, now_ms: u64) -> impl Iterator<Item = u32> + 'a {
        self.order
            .iter()
            .take_while(move |(tick, _)| tick * TICK_MS <= now_ms)
            .flat_map(move |&(_, name)| self.due(store, name, now_ms))
    }

    /// Due units in the queue of one SKU, counted tick by tick. Bundles are not in it.
    pub fn due_units(&self, store: &HoldStore, sku: u16, now_ms: u64) -> u64 {
        let Some(queue) = self.queue(QueueName::Sku(sku)) else { return 0 };
        let now_tick = now_ms / TICK_MS;
        let whole: u64 = queue.ticks.range(..now_tick).map(|(_, tick)| tick.units).sum();
        let partial: u64 = queue
            .ticks
            .get(&now_tick)
            .into_iter()
            .flat_map(|tick| list(store, tick.head))
            .filter(|&slot| store.get(slot).time_ms() <= now_ms)
            .map(|slot| units(&store.items(slot)))
            .sum();
        whole + partial
    }

    /// How many holds hang in all queues.
    pub fn count(&self, store: &HoldStore) -> u64 {
        let queues = self.skus.iter().chain([&self.bundles]);
        let ticks = queues.flat_map(|queue| queue.ticks.values());
        ticks.map(|tick| list(store, tick.head).count() as u64).sum()
    }

    /// Slots of the bundles queue, earliest tick first.
    pub fn bundles<'a>(&'a self, store: &'a HoldStore) -> impl Iterator<Item = u32> + 'a {
        self.bundles.ticks.values().flat_map(move |tick| list(store, tick.head))
    }

    /// The earliest deadline of one queue after `now_ms`.
    pub fn earliest_after(&self, store: &HoldStore, name: QueueName, now_ms: u64) -> Option<u64> {
        let queue = self.queue(name)?;
        queue.ticks.range(now_ms / TICK_MS..).find_map(|(_, tick)| {
            let known = tick.earliest.get();
            if known > now_ms {
                return Some(known);
            }
            let deadlines = || list(store, tick.head).map(|slot| store.get(slot).time_ms());
            if let Some(earliest) = deadlines().min() {
                tick.earliest.set(earliest);
            }
            deadlines().filter(|&deadline| deadline > now_ms).min()
        })
    }

    /// The earliest deadline of all, due or not.
    pub fn earliest(&self, store: &HoldStore) -> Option<u64> {
        let &(first, _) = self.order.first()?;
        self.order
            .iter()
            .take_while(|&&(tick, _)| tick == first)
            .filter_map(|&(tick, name)| {
                let tick = self.queue(name)?.ticks.get(&tick)?;
                match tick.earliest.get() {
                    0 => list(store, tick.head).map(|slot| store.get(slot).time_ms()).min(),
                    known => Some(known),
                }
            })
            .min()
    }

    /// Bytes of heap in use, nearly: trees do not tell.
    pub fn heap_bytes(&self) -> usize {
        const BYTES_PER_TICK: usize = 48;
        let queues = self.skus.iter().chain([&self.bundles]);
        queues.map(|queue| queue.ticks.len() * BYTES_PER_TICK).sum::<usize>()
            + self.skus.capacity() * size_of::<Queue>()
            + self.order.len() * BYTES_PER_TICK
    }
}

fn units(items: &[(u16, u32)]) -> u64 {
    items.iter().map(|&(_, qty)| u64::from(qty)).sum()
}

fn list(store: &HoldStore, head: u32) -> impl Iterator<Item = u32> + '_ {
    std::iter::successors((head != NONE).then_some(head), |&slot| {
        let (_, next) = store.get(slot).links();
        (next != NONE).then_some(next)
    })
}

/// Whether two deadlines stand in the same tick, where order is not kept.
pub(crate) fn same_tick(one: u64, other: u64) -> bool {
    one / TICK_MS == other / TICK_MS
}
