//! Holds whose deadline has passed are expired for every command at once, whether or not a sweep ran.
//!
//! A command does not have to end all of them: it ends those that matter for its own answer (the hold it
//! names, those of its buyer, as many as it needs units of) and a few more, so that work stays bounded
//! however many fall due at one instant. A timer ends the rest. Only a command that wants the units of more
//! holds than it may end is told that they are held, until now: it is to come again.

use crate::command::{Command, Item};
use crate::effect::Effect;
use crate::sale::Sale;
use std::collections::BTreeSet;

/// What each command ends beyond its own needs, so that a busy sale needs no timer.
const FEW: usize = 16;
/// Most holds that one command ends for the units it wants. If it wants more, it is told to come again at once.
const FOR_UNITS: usize = 512;
/// Most holds of a limited buyer that one command ends; the others are left out of its sums.
const OF_ONE_BUYER: usize = 64;

/// Due holds, with their ids copied out of the sale. Good until the sale changes.
#[derive(Clone, Debug, Default)]
pub struct DueIds {
    slots: Vec<u32>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl DueIds {
    fn of(sale: &Sale, slots: impl IntoIterator<Item = u32>) -> Self {
        let mut due = Self::default();
        for slot in slots {
            due.bytes.extend_from_slice(sale.holds.id(slot));
            due.ends.push(due.bytes.len());
            due.slots.push(slot);
        }
        due
    }

    pub(crate) fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether nothing is due.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(crate) fn effect(&self) -> Option<Effect<'_>> {
        if self.is_empty() {
            return None;
        }
        let mut start = 0;
        let ids = self.ends.iter().map(|&end| &self.bytes[std::mem::replace(&mut start, end)..end]).collect();
        Some(Effect::Expire { ids })
    }
}

impl Sale {
    /// At most `most` due holds, for EXPIRE and for timers.
    pub fn due(&self, now_ms: u64, most: usize) -> DueIds {
        if self.deadlines.none_due(now_ms) {
            return DueIds::default();
        }
        DueIds::of(self, self.deadlines.all_due(&self.holds, now_ms).take(most))
    }

    /// The due holds that must be ended before the command is decided.
    pub fn due_for(&self, command: &Command<'_>, now_ms: u64) -> DueIds {
        if self.deadlines.none_due(now_ms) {
            return DueIds::default();
        }
        let mut picked = Picked { sale: self, now_ms, slots: BTreeSet::new() };
        match command {
            Command::Reserve(reserve) => {
                picked.hold(reserve.id);
                picked.hold(reserve.replace);
                picked.request(reserve.buyer, &reserve.items);
            }
            Command::Order(order) => {
                picked.hold(order.id);
                picked.request(order.buyer, &order.items);
            }
            Command::Confirm(confirm) => {
                picked.hold(Some(confirm.id));
                if confirm.late {
                    picked.late(confirm.id);
                }
            }
            Command::Release(release) => picked.hold(Some(release.id)),
            Command::Extend { id, .. } => picked.hold(Some(id)),
            Command::Stock(stock) if stock.delta < 0 => picked.units(stock.sku, stock.delta.unsigned_abs()),
            Command::Grant(grant) => picked.units(grant.sku, grant.qty.into()),
            _ => {}
        }
        picked.slots.extend(self.deadlines.all_due(&self.holds, now_ms).take(FEW));
        DueIds::of(self, picked.slots)
    }
}

struct Picked<'s> {
    sale: &'s Sale,
    now_ms: u64,
    slots: BTreeSet<u32>,
}

impl Picked<'_> {
    fn hold(&mut self, id: Option<&[u8]>) {
        let Some(slot) = id.and_then(|id| self.sale.holds.find(id)) else { return };
        if self.sale.holds.get(slot).is_due(self.now_ms) {
            self.slots.insert(slot);
        }
    }

    fn request(&mut self, buyer: &[u8], items: &[Item<'_>]) {
        self.slots.extend(self.sale.buyers.due(&self.sale.holds, buyer, self.now_ms, OF_ONE_BUYER));
        for item in items {
            self.units(item.sku, item.qty.into());
        }
    }

    /// A LATE confirm takes the units of its hold again, as a new request would.
    fn late(&mut self, id: &[u8]) {
        let Some(slot) = self.sale.holds.find(id) else { return };
        let content = self.sale.holds.content(slot);
        if content.buyer.is_empty() {
            return;
        }
        self.slots.extend(self.sale.buyers.due(&self.sale.holds, content.buyer, self.now_ms, OF_ONE_BUYER));
        for &(sku, qty) in &content.items {
            self.units(&self.sale.skus.get(sku).name, qty.into());
        }
    }

    /// Picks until `needed` units of the SKU are available, or nothing of it is due any more, or it is enough.
    fn units(&mut self, sku: &[u8], needed: u64) {
        let Some(index) = self.sale.skus.find(sku) else { return };
        let units_of = |slot: u32| {
            let items = self.sale.holds.items(slot);
            items.iter().find(|item| item.0 == index).map_or(0, |item| u64::from(item.1))
        };
        let mut available = self.sale.skus.get(index).available;
        available += self.slots.iter().map(|&slot| units_of(slot)).sum::<u64>();
        for slot in self.sale.deadlines.due_of_sku(&self.sale.holds, index, self.now_ms) {
            if available >= needed || self.slots.len() >= FOR_UNITS {
                return;
            }
            if self.slots.insert(slot) {
                available += units_of(slot);
            }
        }
    }
}
