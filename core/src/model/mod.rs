//! A naive model of one sale, to hold the real one against.
//!
//! Written from the contract's sections 2, 4 and 6 and its fine print, not from the code beside it: plain maps
//! and lists, no counters (every level is summed up from the holds each time it is needed), no indexes, and
//! everything due is expired before anything else is looked at. Slow, and meant to be read: each rule stands
//! where the contract's table has it. Tests of any implementation may drive it; nothing that is shipped does.
//!
//! Where the contract is silent the model follows what was decided for the product, and says so.

mod buying;
mod holds;
mod looking;
mod stocking;

use crate::Command;
use crate::command::Items;
use crate::decide::Situation;
use crate::outcome::{Misuse, Outcome};
use crate::sale::{Events, Settings, Shard};
use std::borrow::Cow;
use std::collections::BTreeMap;

pub use looking::Levels;

type Name = Vec<u8>;
/// Units by SKU, in the order in which they were asked for.
type Units = Vec<(Name, u64)>;
type Answer = Result<Outcome<'static>, Misuse>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    Confirmed,
    Released,
    Expired,
    /// Released before it was ever reserved.
    Tombstone,
}

#[derive(Clone, Debug)]
struct Hold {
    buyer: Name,
    /// What RESERVE asked for: by this a repeat is known.
    asked: Units,
    /// What was set aside; of an order what was sold.
    units: Units,
    /// Whether CONFIRM took only a part.
    partly: bool,
    state: State,
    began: u64,
    /// The deadline; of a released hold or tombstone, and of a wholly returned order, when that happened.
    time: u64,
    order_no: u64,
    reference: Option<Vec<u8>>,
    meta: Option<Vec<u8>>,
    /// Return id and units, in the order in which they came.
    returns: Vec<(Name, Units)>,
}

#[derive(Clone, Debug)]
struct Sku {
    name: Name,
    stocked: u64,
    limit: u32,
}

/// One sale, or one shard of it.
#[derive(Clone, Debug)]
pub struct Model {
    settings: Settings,
    shard: Shard,
    paused: bool,
    closed: bool,
    /// Time of the last change.
    clock: u64,
    /// Entries of the order stream, written or only counted.
    entries: u64,
    orders: u64,
    skus: Vec<Sku>,
    allocations: BTreeMap<Name, (Name, i64)>,
    /// By SKU and receiving shard.
    granted: BTreeMap<(Name, u32), u64>,
    /// By SKU and granting shard.
    accepted: BTreeMap<(Name, u32), u64>,
    holds: BTreeMap<Name, Hold>,
}

impl Model {
    /// An empty sale.
    pub fn new(settings: Settings, shard: Shard) -> Self {
        Self {
            settings,
            shard,
            paused: false,
            closed: false,
            clock: 0,
            entries: 0,
            orders: 0,
            skus: Vec::new(),
            allocations: BTreeMap::new(),
            granted: BTreeMap::new(),
            accepted: BTreeMap::new(),
            holds: BTreeMap::new(),
        }
    }

    /// What CREATE and ALTER have set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Carries out a command: expires what is due, then does what the contract says.
    pub fn run(&mut self, command: &Command<'_>, situation: &Situation<'_>) -> Answer {
        let now = self.now(situation.now_ms);
        self.expire(now);
        match command {
            Command::Alter(change) => {
                let settings = change.onto(&self.settings)?;
                if settings != self.settings {
                    self.settings = settings;
                    self.clock = now;
                }
                Ok(Outcome::Ok)
            }
            Command::Stock(stock) => self.stock(stock, now),
            Command::Reserve(reserve) => self.reserve(reserve, situation, now),
            Command::Order(order) => self.order(order, situation, now),
            Command::Confirm(confirm) => Ok(self.confirm(confirm, situation, now)),
            Command::Release(release) => Ok(self.release(release.id, now)),
            Command::Extend { id, ms } => self.extend(id, *ms, now),
            Command::Return(returned) => self.take_back(returned, now),
            Command::Pause | Command::Resume if self.closed => Err(Misuse::ClosedForGood),
            Command::Pause => Ok(self.switch(|model| &mut model.paused, true, now)),
            Command::Resume => Ok(self.switch(|model| &mut model.paused, false, now)),
            Command::Close => Ok(self.switch(|model| &mut model.closed, true, now)),
            Command::Grant(grant) => self.grant(grant, now),
            Command::Accept(accept) => self.accept(accept, now),
        }
    }

    /// The clock never runs backwards for a key.
    fn now(&self, server: u64) -> u64 {
        server.max(self.clock)
    }

    fn switch(&mut self, which: impl Fn(&mut Self) -> &mut bool, to: bool, now: u64) -> Outcome<'static> {
        if std::mem::replace(which(self), to) != to {
            self.clock = now;
        }
        Outcome::Ok
    }

    /// Invariant 5: what is due has expired. It ended at its deadline, whenever that is noticed.
    fn expire(&mut self, now: u64) {
        for hold in self.holds.values_mut().filter(|hold| hold.state == State::Held && hold.time <= now) {
            hold.state = State::Expired;
            self.clock = now;
            self.entries += u64::from(self.settings.events == Events::All);
        }
    }

    /// Counts an entry that is in the stream only with EVENTS ALL.
    fn count_event(&mut self) {
        self.entries += u64::from(self.settings.events == Events::All);
    }

    /// Counts an entry that every stream has: `confirmed` or `returned`.
    fn count_order_event(&mut self) -> u64 {
        self.entries += 1;
        self.entries
    }

    /// A hold that is remembered: RETAIN is how long ended ids are. An order is, until nothing is left of it.
    fn known(&self, id: &[u8], now: u64) -> Option<&Hold> {
        self.holds.get(id).filter(|hold| self.is_remembered(hold, now))
    }

    fn is_remembered(&self, hold: &Hold, now: u64) -> bool {
        let ended = match hold.state {
            State::Held => hold.time <= now,
            State::Confirmed => hold.left().is_empty(),
            _ => true,
        };
        !ended || hold.time + self.settings.retain_ms > now
    }

    fn sku(&self, name: &[u8]) -> Option<&Sku> {
        self.skus.iter().find(|sku| sku.name == name)
    }

    /// The sale's SKU of that name, made if there is none.
    fn sku_or_new(&mut self, name: &[u8]) -> &mut Sku {
        if self.sku(name).is_none() {
            self.skus.push(Sku { name: name.to_vec(), stocked: 0, limit: 0 });
        }
        self.skus.iter_mut().find(|sku| sku.name == name).expect("it has just been made")
    }
}

impl Hold {
    /// Units of an order that have not been returned.
    fn left(&self) -> Units {
        minus(&self.units, self.returns.iter().flat_map(|(_, units)| units))
    }

    fn confirmed(&self, id: &[u8]) -> Outcome<'static> {
        Outcome::Confirmed { id: owned(id), order_no: self.order_no }
    }

    /// How a hold that is not live has ended.
    fn end(&self, id: &[u8]) -> Outcome<'static> {
        match self.state {
            State::Confirmed => self.confirmed(id),
            State::Released | State::Tombstone => Outcome::Released,
            State::Expired => Outcome::Expired,
            State::Held => unreachable!("a live hold has not ended"),
        }
    }
}

fn owned(name: &[u8]) -> Cow<'static, [u8]> {
    Cow::Owned(name.to_vec())
}

fn units_of(items: &Items<'_>) -> Units {
    items.iter().map(|item| (item.sku.to_vec(), item.qty.into())).collect()
}

fn qty_of(units: &Units, sku: &[u8]) -> u64 {
    units.iter().filter(|(name, _)| name == sku).map(|(_, qty)| qty).sum()
}

fn minus<'u>(units: &Units, taken: impl Iterator<Item = &'u (Name, u64)>) -> Units {
    let mut left = units.clone();
    for (sku, qty) in taken {
        for item in left.iter_mut().filter(|item| item.0 == *sku) {
            item.1 -= qty;
        }
    }
    left.retain(|(_, qty)| *qty > 0);
    left
}

/// Equal whatever the order.
fn same(one: &Units, other: &Units) -> bool {
    let sorted = |units: &Units| units.iter().cloned().collect::<BTreeMap<_, _>>();
    sorted(one) == sorted(other)
}

/// Whether nothing in `part` is more than `whole` has.
fn within(part: &Units, whole: &Units) -> bool {
    part.iter().all(|(sku, qty)| *qty <= qty_of(whole, sku))
}
