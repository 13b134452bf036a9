//! Hot-key sharding inside Redis: the shards of a sale find each other over the cluster bus and send units to where
//! buyers want them (the contract's section 6). [`flashsale_core::balance`] is the policy, [`flashsale_core::gossip`]
//! the messages, [`flashsale_core::acks`] when a grant is safe; here is what happens when, and in [`letters`] what a
//! message brings about.
//!
//! Every node looks at the shards it has, `flashsale.bus-interval-ms` apart, and tells the other primaries what has
//! changed (`News`); once a second it tells all of it, so that silence means absence. A shard that runs low asks one
//! other shard for units:
//!
//! ```text
//! receiver                              donor
//!    | Ask qty, after = total accepted    |
//!    |----------------------------------->|  gives only if its total still is `after`: FLASH.GRANT, replicated
//!    |                                    |  waits until its replicas have acknowledged the grant
//!    |              Total t               |
//!    |<-----------------------------------|
//!    |  FLASH.ACCEPT t: takes what is new |
//!    |             Accepted t             |
//!    |----------------------------------->|  tells the total no more
//! ```
//!
//! - A lost message costs time: the receiver asks another donor after 50 ms, the donor tells its total again four
//!   times a second until it hears `Accepted`, and whoever sees that all shards together have granted more than they
//!   have accepted tells its totals anew: so a receiver that lost an acceptance in a failover gets it back. A doubled
//!   or late message finds its work done: totals are taken once, and an `Ask` with an old `after` gets none.
//! - GRANT and ACCEPT may come from clients and balancers at the same time; their totals are told like our own.
//! - A shard that comes to a node (made, loaded, migrated, promoted) sends an `Inquiry`, and all tell it what they
//!   know. Nodes are learned from the news they send, so nobody need know which node has which slot.
//! - A node acts for a shard only if the server says that the key is here, the slot its own and the cluster well
//!   ([`cluster::owns`]); it never writes on a replica, while loading, in a pause or a failover. A node that was
//!   stopped for a while first listens: it may have been replaced.
//! - Everything happens in timers. A message is kept by its callback and read in the next timer, where writes are
//!   those of any timer. A third timer does nothing but wait for acknowledgements: `REPLCONF GETACK` has to be sent
//!   alone, for within a MULTI replicas answer it too early.

mod knowledge;
mod letters;
mod links;
mod post;
mod shard;

use crate::config::{BUS_INTERVAL_MS, GRANT_REPLICAS};
use crate::data_type::SaleKey;
use crate::server::{Access, Ctx, OwnedString, must_keep_quiet};
use crate::state::{self, State};
use crate::{cluster, totals};
use flashsale_core::acks::{Acks, Pending};
use flashsale_core::gossip::Word;
use flashsale_core::{Sale, balance, sharding};
use knowledge::Book;
use links::Links;
use post::{Post, To};
use redis_module::raw;
use shard::{OwnShard, SaleId};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) use post::Counts;

/// Once in so long a node tells all it has.
const BEAT_MS: u64 = 1_000;
/// A total that was not answered is told again after this.
const TELL_AGAIN_MS: u64 = 250;
/// A node that was stopped this long may have been replaced,
const ASLEEP_MS: u64 = 1_000;
/// and does nothing for this long: as a restarted node of a cluster does.
const LISTEN_MS: u64 = 2_000;
/// Refusals have a shard looked at out of turn, but no more often than this.
const HURRY_MS: u64 = 2;
/// While replicas are slow to acknowledge, they are looked at every millisecond, and less often later on.
const PATIENT_AFTER_MS: u64 = 50;

/// What this node does for sharded sales.
#[derive(Default)]
pub(crate) struct Bus {
    /// By key.
    shards: BTreeMap<Vec<u8>, OwnShard>,
    books: BTreeMap<SaleId, Book>,
    post: Post,
    acks: Acks,
    links: Links,
    /// Whether the timers are set that run once.
    soon: bool,
    watching_acks: bool,
    ticked_ms: u64,
    beat_ms: u64,
    quiet_until_ms: u64,
}

/// Starts the timer and listens to the bus, if this is a cluster.
pub(crate) fn start(ctx: Ctx<'_>) {
    if ctx.flags().is_cluster() {
        state::with(|state| state.schedule.has_bus = true);
        cluster::receive_messages(ctx, on_message);
        ctx.start_timer(BUS_INTERVAL_MS.get().max(1), on_tick);
    }
}

/// # Safety
/// Called by the server alone.
unsafe extern "C" fn on_message(
    raw: *mut raw::RedisModuleCtx,
    sender: *const c_char,
    _kind: u8,
    content: *const u8,
    len: u32,
) {
    // SAFETY: the context and the message are those of this callback.
    let (ctx, (sender, content)) = unsafe { (Ctx::from_raw(raw), cluster::received(sender, content, len)) };
    contained(ctx, || {
        state::try_with(|state| {
            if BUS_INTERVAL_MS.get() > 0 && !ctx.flags().is_replica() && !state.bus.shards.is_empty() {
                let now_ms = state.now();
                state.bus.post.receive(sender, content, now_ms);
                state.bus.set_soon(ctx, 0);
            }
        });
    });
}

/// # Safety
/// Called by the server alone.
unsafe extern "C" fn on_tick(raw: *mut raw::RedisModuleCtx, _data: *mut c_void) {
    // SAFETY: the context of a timer callback, on the main thread.
    let ctx = unsafe { Ctx::from_raw(raw) };
    const OFF_MS: i64 = 1_000;
    let interval_ms = BUS_INTERVAL_MS.get();
    if interval_ms > 0 {
        contained(ctx, || state::with(|state| with_bus(state, |bus, state| bus.tick(ctx, state))));
    }
    ctx.start_timer(if interval_ms > 0 { interval_ms } else { OFF_MS }, on_tick);
}

/// # Safety
/// As above.
unsafe extern "C" fn on_soon(raw: *mut raw::RedisModuleCtx, _data: *mut c_void) {
    let ctx = unsafe { Ctx::from_raw(raw) };
    contained(ctx, || {
        state::with(|state| {
            state.bus.soon = false;
            with_bus(state, |bus, state| bus.work_soon(ctx, state));
        });
    });
}

/// # Safety
/// As above.
unsafe extern "C" fn on_acks(raw: *mut raw::RedisModuleCtx, _data: *mut c_void) {
    let ctx = unsafe { Ctx::from_raw(raw) };
    contained(ctx, || {
        state::with(|state| {
            state.bus.watching_acks = false;
            with_bus(state, |bus, state| bus.look_at_acks(ctx, state));
        });
    });
}

/// A bug here stops one callback; what was not told is told later.
fn contained(ctx: Ctx<'_>, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        totals::count_bug();
        ctx.warn("flashsale: a bug stopped a look at the cluster bus; please report it with the lines above");
    }
}

/// Lends the bus beside the rest of the state.
fn with_bus(state: &mut State, work: impl FnOnce(&mut Bus, &mut State)) {
    let mut bus = std::mem::take(&mut state.bus);
    work(&mut bus, state);
    state.bus = bus;
}

impl Bus {
    /// What has gone over the bus.
    pub fn counts(&self) -> &Counts {
        &self.post.counts
    }

    /// Shards of this node that take part.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Grants that wait for replicas.
    pub fn pending(&self) -> usize {
        self.acks.waiting()
    }

    /// This node has become a primary or a replica: it knows nothing any more but its keys.
    pub fn forget(&mut self, found: &mut BTreeSet<Vec<u8>>) {
        found.extend(std::mem::take(&mut self.shards).into_keys());
        let counts = std::mem::take(&mut self.post.counts);
        let (soon, watching_acks) = (self.soon, self.watching_acks);
        *self = Self { soon, watching_acks, ..Self::default() };
        self.post.counts = counts;
    }

    /// A request met too few units in a shard. Tells whether there are none elsewhere; otherwise asks for some.
    pub fn meet_shortage(
        &mut self,
        ctx: Ctx<'_>,
        key: &[u8],
        sale: &Sale,
        sku: &[u8],
        units: u64,
        now_ms: u64,
    ) -> bool {
        let Some(shard) = self.shards.get_mut(key).filter(|_| BUS_INTERVAL_MS.get() > 0) else { return false };
        let (index, count) = (shard.index, shard.sale.shards);
        let book = self.books.get(&shard.sale);
        let moved = sale.moved(sku);
        if book.is_some_and(|book| book.nothing_elsewhere(sku, index, count, moved, now_ms)) {
            return true;
        }
        let own = shard.sku(sku);
        own.meter.refused(units, now_ms);
        own.wish = units;
        if !own.is_asking() {
            let rested = shard.hurried_ms + HURRY_MS <= now_ms;
            shard.hurried_ms = if rested { now_ms } else { shard.hurried_ms };
            self.set_soon(ctx, if rested { 0 } else { HURRY_MS as i64 });
        }
        false
    }

    fn set_soon(&mut self, ctx: Ctx<'_>, ms: i64) {
        if !std::mem::replace(&mut self.soon, true) {
            ctx.start_timer(ms, on_soon);
        }
    }

    fn watch_acks(&mut self, ctx: Ctx<'_>, ms: i64) {
        if self.acks.waiting() > 0 && !std::mem::replace(&mut self.watching_acks, true) {
            ctx.start_timer(ms, on_acks);
        }
    }

    /// Whether this node may act at all now.
    fn may_act(&mut self, ctx: Ctx<'_>, now_ms: u64) -> bool {
        let late_by = now_ms.saturating_sub(self.ticked_ms + BUS_INTERVAL_MS.get() as u64);
        if self.ticked_ms > 0 && late_by > ASLEEP_MS {
            self.quiet_until_ms = now_ms + LISTEN_MS;
        }
        self.ticked_ms = now_ms;
        let flags = ctx.flags();
        let may_write = !flags.is_replica() && !flags.is_loading() && !must_keep_quiet();
        may_write && now_ms >= self.quiet_until_ms
    }

    fn tick(&mut self, ctx: Ctx<'_>, state: &mut State) {
        let now_ms = state.now();
        if !self.may_act(ctx, now_ms) {
            return;
        }
        self.take_found(state);
        if self.shards.is_empty() {
            return;
        }
        self.links.hurry();
        self.read_post(ctx, state, now_ms);
        let beat = self.beat_ms + BEAT_MS <= now_ms;
        if beat {
            self.beat_ms = now_ms;
            // Lets the acknowledgements know that there are replicas, also while nothing is granted.
            if let Some(replication) = cluster::replication(ctx) {
                self.acks.see(&replication, now_ms);
            }
        }
        let keys: Vec<Vec<u8>> = self.shards.keys().cloned().collect();
        for key in &keys {
            if self.look(ctx, state, key, now_ms) {
                self.ask(key, now_ms);
                self.tell_news(key, beat, now_ms);
                self.tell_totals(key, beat, now_ms);
                self.wake_waiters(ctx, state, key, now_ms);
            }
        }
        self.send(ctx, now_ms);
    }

    fn work_soon(&mut self, ctx: Ctx<'_>, state: &mut State) {
        let now_ms = state.now();
        if !self.may_act(ctx, now_ms) {
            return;
        }
        self.take_found(state);
        self.read_post(ctx, state, now_ms);
        let wants = |shard: &OwnShard| shard.skus.values().any(|sku| sku.wish > 0 && !sku.is_asking());
        let keys: Vec<Vec<u8>> =
            self.shards.iter().filter(|(_, shard)| wants(shard)).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            if self.look(ctx, state, key, now_ms) {
                self.ask(key, now_ms);
            }
        }
        self.send(ctx, now_ms);
    }

    /// Takes shards in that were made, loaded or moved here.
    fn take_found(&mut self, state: &mut State) {
        for key in std::mem::take(&mut state.schedule.found_shards) {
            self.shards.remove(&key);
            self.shards.insert(key, OwnShard::unknown());
        }
    }

    /// Looks at a shard. `false` if it is not here, or not this node's.
    fn look(&mut self, ctx: Ctx<'_>, state: &mut State, key: &[u8], now_ms: u64) -> bool {
        let name = OwnedString::new(key);
        let mut open = ctx.open(name.borrowed(), Access::Write);
        let Ok(Some(value)) = SaleKey::of(&mut open, state.data_type) else { return self.lose(key) };
        let life = value.life();
        let Ok(sale) = value.sale() else { return false };
        let parts = sale.shard();
        if !self.shards.get(key).is_some_and(|shard| shard.life.ptr_eq(&life)) {
            let Some(sale_name) = sharding::sale_of_shard(key, parts.index, parts.count) else { return self.lose(key) };
            if !cluster::owns(ctx, name.borrowed()) {
                return false;
            }
            let shard = OwnShard::of(sale_name.to_vec(), sale, life);
            self.books.entry(shard.sale.clone()).or_default();
            self.post.write(To::All, &shard.sale.letter(Word::Inquiry { shard: parts.index }), now_ms);
            self.shards.insert(key.to_vec(), shard);
        }
        let Some(shard) = self.shards.get_mut(key) else { return false };
        let new = shard.look(sale, now_ms);
        for (sku, receiver, total) in new {
            self.acks.wait_for(key, &sku, receiver, total);
        }
        self.watch_acks(ctx, 0);
        cluster::owns(ctx, name.borrowed())
    }

    /// The key is no shard, or gone.
    fn lose(&mut self, key: &[u8]) -> bool {
        if let Some(shard) = self.shards.remove(key)
            && !self.shards.values().any(|other| other.sale == shard.sale)
        {
            self.books.remove(&shard.sale);
        }
        false
    }

    /// Asks for units that a shard lacks.
    fn ask(&mut self, key: &[u8], now_ms: u64) {
        let Some(shard) = self.shards.get_mut(key) else { return };
        let Some(book) = self.books.get(&shard.sale) else { return };
        let index = shard.index;
        for (name, sku) in &mut shard.skus {
            let own = sku.shelf(index, now_ms);
            if own.need.is_none() {
                sku.wish = 0;
            }
            if own.need.is_none() || shard.is_over || own.available >= own.need.low_water() || !sku.may_ask(now_ms) {
                continue;
            }
            let Some(ask) = balance::ask(&own, &book.peers(name, index, now_ms), sku.attempt) else { continue };
            sku.asks(ask.donor, now_ms);
            let after = sku.accepted_from.get(&ask.donor).copied().unwrap_or(0);
            let word = Word::Ask { donor: ask.donor, sku: name, asker: own, qty: ask.qty, after };
            self.post.write(To::of(book.place(ask.donor)), &shard.sale.letter(word), now_ms);
            self.post.counts.asked += 1;
        }
    }

    /// Tells the other shards what has changed, or all of it.
    fn tell_news(&mut self, key: &[u8], all: bool, now_ms: u64) {
        let Some(shard) = self.shards.get_mut(key) else { return };
        if all && let Some(book) = self.books.get(&shard.sale) {
            // That it has none of a SKU that others have is news as well.
            for sku in book.skus() {
                shard.sku(sku);
            }
        }
        for (name, sku) in &mut shard.skus {
            if sku.has_news(now_ms) || all && !shard.is_over {
                let (counters, need) = sku.tell(now_ms);
                let word = Word::News { shard: shard.index, sku: name, counters, need };
                self.post.write(To::All, &shard.sale.letter(word), now_ms);
            }
        }
    }

    /// Tells totals again that were not answered; all of them, if some unit is still on its way.
    fn tell_totals(&mut self, key: &[u8], beat: bool, now_ms: u64) {
        let Some(shard) = self.shards.get_mut(key) else { return };
        let Some(book) = self.books.get(&shard.sale) else { return };
        let (index, count) = (shard.index, shard.sale.shards);
        for (name, sku) in shard.skus.iter_mut().filter(|(_, sku)| !sku.grants.is_empty()) {
            let moved = (sku.counters.granted, sku.counters.accepted);
            let all = beat && !book.nothing_in_transit(name, index, count, moved, now_ms);
            for (&receiver, granted) in &mut sku.grants {
                // A shard that was never heard of lives in another cluster: who moved units there brings them.
                let Some(place) = book.place(receiver) else { continue };
                let unanswered = granted.safe > granted.settled && granted.told_ms + TELL_AGAIN_MS <= now_ms;
                if granted.safe > 0 && (all || unanswered) {
                    granted.told_ms = now_ms;
                    let word = Word::Total { donor: index, receiver, sku: name, total: granted.safe };
                    self.post.write(To::Node(place), &shard.sale.letter(word), now_ms);
                }
            }
        }
    }

    /// Clients that wait for units keep their wish alive; when no unit is left anywhere they are told.
    fn wake_waiters(&mut self, ctx: Ctx<'_>, state: &State, key: &[u8], now_ms: u64) {
        let Some(shard) = self.shards.get_mut(key) else { return };
        if !state.waiters.any(ctx.selected_db(), key) {
            return;
        }
        let Some(book) = self.books.get(&shard.sale) else { return };
        let (index, count) = (shard.index, shard.sale.shards);
        let mut in_vain = false;
        for (name, sku) in shard.skus.iter_mut().filter(|(_, sku)| sku.wish > 0) {
            sku.meter.wanted(sku.wish, now_ms);
            let moved = (sku.counters.granted, sku.counters.accepted);
            in_vain |= sku.counters.held == 0 && book.nothing_elsewhere(name, index, count, moved, now_ms);
        }
        if in_vain {
            ctx.signal_ready(OwnedString::new(key).borrowed());
        }
    }

    fn send(&mut self, ctx: Ctx<'_>, now_ms: u64) {
        if self.post.send(ctx, now_ms) {
            self.set_soon(ctx, 0);
        }
    }

    /// Tells receivers of grants that the replicas have by now.
    fn look_at_acks(&mut self, ctx: Ctx<'_>, state: &mut State) {
        let now_ms = state.now();
        let may_act = self.may_act(ctx, now_ms);
        let demanded = GRANT_REPLICAS.get() as usize;
        let Some(replication) = cluster::replication(ctx).filter(|_| may_act) else {
            return self.watch_acks(ctx, PATIENT_AFTER_MS as i64);
        };
        for safe in self.acks.settle(&replication, demanded, now_ms) {
            self.tell_safe(&safe, now_ms);
        }
        self.send(ctx, now_ms);
        let Some(since_ms) = self.acks.note_waiting(now_ms) else { return };
        if self.acks.should_ask(&replication, now_ms) {
            cluster::ask_for_acknowledgements(ctx);
        }
        self.watch_acks(ctx, if since_ms + PATIENT_AFTER_MS <= now_ms { 10 } else { 1 });
    }

    fn tell_safe(&mut self, safe: &Pending, now_ms: u64) {
        let Some(shard) = self.shards.get_mut(&safe.key) else { return };
        let Some(book) = self.books.get(&shard.sale) else { return };
        let (donor, receiver) = (shard.index, safe.receiver);
        let granted = shard.sku(&safe.sku).grants.entry(receiver).or_default();
        if safe.total > granted.safe && safe.total <= granted.noted {
            (granted.safe, granted.told_ms) = (safe.total, now_ms);
            let word = Word::Total { donor, receiver, sku: &safe.sku, total: safe.total };
            self.post.write(To::of(book.place(receiver)), &shard.sale.letter(word), now_ms);
        }
    }
}
