//! RESERVE: setting units aside. The order of the checks is part of the contract.

use super::{Decision, Situation};
use crate::apply::SetAside;
use crate::command::{Item, Items, Reserve};
use crate::effect::{Effect, EffectLog, IndexedItems};
use crate::facts::Facts;
use crate::holds::{BuyerPlace, ItemList, NewContent, Place, State, Usage};
use crate::outcome::{Field, Misuse, Outcome, Taken};
use crate::sale::Sale;
use crate::sharding;
use std::borrow::Cow;
use std::cell::Cell;

/// Who asks for what, in the form that RESERVE, ORDER and a LATE confirm share.
pub(super) struct Request<'r, 'a> {
    pub buyer: &'r [u8],
    pub items: &'r [Item<'a>],
    pub up_to: bool,
    /// The items of the buyer's own live hold that this one replaces.
    pub replaced: Option<Box<ItemList>>,
    /// Where the buyer is, once that had to be looked for.
    place: Cell<Option<BuyerPlace>>,
}

/// What a request that is not refused takes.
pub(super) struct Taking<'a> {
    id: &'a [u8],
    place: Place,
    items: IndexedItems,
    deadline: u64,
    buyer_place: Option<BuyerPlace>,
    /// A live hold of the buyer is freed for it.
    replaces: bool,
}

/// How many units a buyer may still have.
struct Limits<'s> {
    sale: &'s Sale,
    /// What the buyer has. `None`: nothing, or nothing is limited.
    usage: Option<Usage>,
}

impl Limits<'_> {
    fn left(limit: u32, used: u64) -> u64 {
        match limit {
            0 => u64::MAX,
            limit => u64::from(limit).saturating_sub(used),
        }
    }

    fn left_of_sale(&self) -> u64 {
        Self::left(self.sale.settings.limit, self.usage.as_ref().map_or(0, |usage| usage.total.held + usage.total.sold))
    }

    fn left_of_sku(&self, sku: u16) -> u64 {
        Self::left(self.sale.skus.get(sku).limit, self.usage.as_ref().map_or(0, |usage| usage.of_sku(sku)))
    }
}

impl<'r, 'a> Request<'r, 'a> {
    pub fn new(buyer: &'r [u8], items: &'r [Item<'a>]) -> Self {
        Self { buyer, items, up_to: false, replaced: None, place: Cell::new(None) }
    }

    /// Where the buyer is, if that had to be looked for.
    pub fn buyer_place(&self) -> Option<BuyerPlace> {
        self.place.get()
    }

    fn replaced_units(&self, sku: u16) -> u64 {
        let items = self.replaced.iter().flat_map(|items| items.iter());
        items.filter(|item| item.0 == sku).map(|item| u64::from(item.1)).sum()
    }
}

impl Sale {
    pub(super) fn decide_reserve<'a>(
        &self,
        reserve: &Reserve<'a>,
        situation: &Situation<'a>,
    ) -> Result<Decision<'a>, Misuse> {
        Ok(match self.consider(reserve, situation)? {
            Err(answer) => Decision::nothing(answer),
            Ok(taking) => self.reserved(reserve, taking),
        })
    }

    /// Checks a request: what it takes, or the answer to one that takes nothing.
    #[inline(always)] // on the way of every request
    pub(super) fn consider<'a>(
        &self,
        reserve: &Reserve<'a>,
        situation: &Situation<'a>,
    ) -> Result<Result<Taking<'a>, Outcome<'a>>, Misuse> {
        let now_ms = situation.now_ms;
        if reserve.replace.is_some() && reserve.replace == reserve.id {
            return Err(Misuse::ReplacesItself);
        }
        let id = reserve.id.unwrap_or(situation.fresh_id);
        let place = self.holds.place(id);
        if let Some(slot) = place.slot.filter(|&slot| !self.is_forgotten(slot, now_ms)) {
            let mut answer = self.again(slot, id, reserve.buyer, &reserve.items, reserve.up_to);
            if let Outcome::Reserved { repeated, .. } = &mut answer {
                *repeated = reserve.tell_repeated;
            }
            return Ok(Err(answer));
        }
        // A retry finds its hold even if MAXHOLD has been lowered meanwhile: so this comes after.
        let life_ms = self.life(reserve.ttl_ms)?;
        let replaced = match reserve.replace.map(|older| self.replaced(older, reserve.buyer, now_ms)) {
            None => None,
            Some(Ok(replaced)) => replaced,
            Some(Err(outcome)) => return Ok(Err(outcome)),
        };
        let request = Request { up_to: reserve.up_to, replaced, ..Request::new(reserve.buyer, &reserve.items) };
        Ok(self.admit(&request, reserve.not_after, situation)?.map(|items| Taking {
            id,
            place,
            items,
            deadline: now_ms + life_ms,
            buyer_place: request.buyer_place(),
            replaces: request.replaced.is_some(),
        }))
    }

    /// What RESERVE and ORDER check of an id that is not known: place, time and backlog, then limits and units.
    #[inline(always)] // on the way of every request
    pub(super) fn admit<'a>(
        &self,
        request: &Request<'_, 'a>,
        not_after: Option<u64>,
        situation: &Situation<'_>,
    ) -> Result<Result<IndexedItems, Outcome<'a>>, Misuse> {
        if let Some(refusal) = self.refuse_place_and_time(request.buyer, situation) {
            return Ok(Err(refusal));
        }
        if not_after.is_some_and(|latest| situation.now_ms > latest) {
            return Ok(Err(Outcome::TooLate));
        }
        if situation.backlog >= self.settings.backlog {
            return Ok(Err(Outcome::Backlog));
        }
        if self.holds.is_full() {
            return Err(Misuse::SaleFull);
        }
        Ok(self.take(request, situation))
    }

    /// Carries out a request. One that its own words tell is applied as soon as it is decided, with no effect in
    /// between, for it is the one that comes by the million.
    pub(super) fn run_reserve<'a>(
        &mut self,
        reserve: &Reserve<'a>,
        situation: &Situation<'a>,
        in_words: bool,
        log: &mut EffectLog,
        facts: &mut Facts,
    ) -> Result<Outcome<'a>, Misuse> {
        let taking = match self.consider(reserve, situation)? {
            Err(answer) => return Ok(answer),
            Ok(taking) => taking,
        };
        if !in_words {
            let decision = self.reserved(reserve, taking);
            return Ok(self.carry_out(decision, situation.now_ms, log, facts));
        }
        let Taking { id, place, items, deadline, buyer_place, .. } = taking;
        debug_assert_eq!(
            (Some(&items), deadline),
            (self.indexed(&reserve.items).as_ref(), self.deadline_in_words(reserve))
        );
        log.count_words();
        let (buyer, meta) = (reserve.buyer, reserve.meta);
        let content = NewContent { id, buyer, items: &items, meta, reference: None };
        let request = SetAside { content, deadline, buyer_place };
        if let Err(problem) = self.set_aside(situation.now_ms, &request, place, facts) {
            facts.inconsistent = Some(problem);
        }
        Ok(Outcome::Reserved { id: Cow::Borrowed(id), deadline, taken: None, repeated: false })
    }

    fn life(&self, ttl_ms: Option<u64>) -> Result<u64, Misuse> {
        let maxhold_ms = self.settings.maxhold_ms;
        match ttl_ms {
            None => Ok(self.settings.hold_ms),
            Some(ms) if (1..=maxhold_ms).contains(&ms) => Ok(ms),
            Some(ms) => Err(Misuse::LifeOutOfRange { what: "TTL", ms, maxhold_ms }),
        }
    }

    fn reserved<'a>(&self, reserve: &Reserve<'a>, taking: Taking<'a>) -> Decision<'a> {
        let Taking { id, items, deadline, .. } = taking;
        let asked: IndexedItems =
            reserve.items.iter().filter_map(|item| Some((self.skus.find(item.sku)?, item.qty))).collect();
        let taken = reserve.up_to.then(|| self.taken(&items));
        let outcome = Outcome::Reserved { id: Cow::Borrowed(id), deadline, taken, repeated: false };
        let effect = Effect::Reserve {
            id,
            buyer: reserve.buyer,
            requested: (asked != items).then_some(asked),
            items,
            deadline,
            meta: reserve.meta,
        };
        let mut decision = Decision::one(outcome, effect);
        if let (Some(older), true) = (reserve.replace, taking.replaces) {
            decision.effects.insert(0, Effect::Release { id: older, reason: Some(b"replaced") });
        }
        decision
    }

    fn taken(&self, items: &[(u16, u32)]) -> Box<[Taken]> {
        items.iter().map(|&(sku, qty)| Taken { sku: self.skus.get(sku).name.clone(), qty }).collect()
    }

    /// The answer to a request whose id is known: the same as the first time, or what became of it.
    pub(super) fn again<'a>(
        &self,
        slot: u32,
        id: &'a [u8],
        buyer: &[u8],
        items: &Items<'_>,
        up_to: bool,
    ) -> Outcome<'a> {
        let record = self.holds.get(slot);
        if record.state == State::Tombstone {
            return Outcome::Released;
        }
        if let Some(field) = self.differs(slot, buyer, items) {
            return Outcome::Mismatch(field);
        }
        match record.state {
            State::Held => Outcome::Reserved {
                id: Cow::Borrowed(id),
                deadline: record.time_ms(),
                taken: up_to.then(|| self.taken(&self.holds.items(slot))),
                repeated: false,
            },
            _ => self.end_of(slot, Cow::Borrowed(id)),
        }
    }

    /// The first argument that is not as it was when the hold was made.
    pub(super) fn differs(&self, slot: u32, buyer: &[u8], items: &Items<'_>) -> Option<Field> {
        let content = self.holds.content(slot);
        if content.buyer != buyer {
            return Some(Field::Buyer);
        }
        let extra = self.extras.get(&slot);
        let first = extra.and_then(|extra| extra.requested.as_deref().or(extra.confirmed_from.as_deref()));
        (!self.same_items(first.unwrap_or(&content.items), items)).then_some(Field::Items)
    }

    /// How a hold that is not live has ended.
    pub(super) fn end_of<'a>(&self, slot: u32, id: Cow<'a, [u8]>) -> Outcome<'a> {
        match self.holds.get(slot).state {
            State::Confirmed | State::Returned => Outcome::Confirmed { id, order_no: self.order_no(slot) },
            State::Expired => Outcome::Expired,
            State::Released | State::Tombstone => Outcome::Released,
            State::Held | State::Free => Outcome::NotFound,
        }
    }

    /// The items of a buyer's older hold, if it is live.
    fn replaced<'a>(&self, older: &'a [u8], buyer: &[u8], now_ms: u64) -> Result<Option<Box<ItemList>>, Outcome<'a>> {
        let Some(slot) = self.known(older, now_ms) else { return Ok(None) };
        let content = self.holds.content(slot);
        match self.holds.get(slot).state {
            State::Tombstone => Ok(None),
            _ if content.buyer != buyer => Err(Outcome::Mismatch(Field::Buyer)),
            State::Held => Ok(Some(Box::new(content.items))),
            State::Confirmed | State::Returned => Err(self.end_of(slot, Cow::Borrowed(older))),
            _ => Ok(None),
        }
    }

    /// WRONGSHARD, NOTOPEN, PAUSED, CLOSED.
    #[inline(always)] // on the way of every request
    pub(super) fn refuse_place_and_time<'a>(&self, buyer: &[u8], situation: &Situation<'_>) -> Option<Outcome<'a>> {
        let home = sharding::home_shard(buyer, self.shard.count);
        if home != self.shard.index {
            return Some(Outcome::WrongShard(crate::Shard { index: home, count: self.shard.count }));
        }
        if situation.now_ms < self.settings.opens_at {
            return Some(Outcome::NotOpen { opens_at: self.settings.opens_at });
        }
        if self.paused {
            return Some(Outcome::Paused);
        }
        if self.is_closed(situation.now_ms) {
            return Some(Outcome::Closed);
        }
        None
    }

    pub(crate) fn is_closed(&self, now_ms: u64) -> bool {
        self.closed || self.settings.closes_at != 0 && now_ms >= self.settings.closes_at
    }

    /// NOSKU, LIMIT, SOLDOUT, ALLHELD, EMPTY; else what is taken.
    pub(super) fn take<'a>(
        &self,
        request: &Request<'_, 'a>,
        situation: &Situation<'_>,
    ) -> Result<IndexedItems, Outcome<'a>> {
        let mut wanted = IndexedItems::new();
        for item in request.items {
            match self.skus.find(item.sku) {
                Some(index) => wanted.push((index, item.qty)),
                None => return Err(Outcome::NoSku { sku: Cow::Borrowed(item.sku) }),
            }
        }
        let indexed = &wanted[..];
        let limits = self.limits(request, indexed, situation.now_ms);
        if request.up_to {
            return self.take_some(request, indexed, &limits, situation);
        }
        self.take_all(request, indexed, &limits, situation)?;
        Ok(wanted)
    }

    /// All or none.
    fn take_all<'a>(
        &self,
        request: &Request<'_, 'a>,
        wanted: &[(u16, u32)],
        limits: &Limits<'_>,
        situation: &Situation<'_>,
    ) -> Result<(), Outcome<'a>> {
        let (asked, left) = (wanted.iter().map(|&(_, qty)| u64::from(qty)).sum::<u64>(), limits.left_of_sale());
        if asked > left {
            return Err(Outcome::Limit { sku: Cow::Borrowed(b""), left });
        }
        for (item, &(sku, qty)) in request.items.iter().zip(wanted) {
            let left = limits.left_of_sku(sku);
            if u64::from(qty) > left {
                return Err(Outcome::Limit { sku: Cow::Borrowed(item.sku), left });
            }
        }
        for (item, &(sku, qty)) in request.items.iter().zip(wanted) {
            if u64::from(qty) > self.within_reach(request, sku) {
                return Err(self.shortage(sku, item.sku, request, situation));
            }
        }
        Ok(())
    }

    /// As many as stock and limits allow; nothing at all is a refusal.
    fn take_some<'a>(
        &self,
        request: &Request<'_, 'a>,
        wanted: &[(u16, u32)],
        limits: &Limits<'_>,
        situation: &Situation<'_>,
    ) -> Result<IndexedItems, Outcome<'a>> {
        let mut left_of_sale = limits.left_of_sale();
        if left_of_sale == 0 {
            return Err(Outcome::Limit { sku: Cow::Borrowed(b""), left: 0 });
        }
        let mut taken = IndexedItems::new();
        for &(sku, qty) in wanted {
            let most = self.within_reach(request, sku).min(limits.left_of_sku(sku)).min(left_of_sale);
            let units = u64::from(qty).min(most);
            left_of_sale -= units;
            if units > 0 {
                taken.push((sku, units as u32));
            }
        }
        if !taken.is_empty() {
            return Ok(taken);
        }
        Err(match wanted.iter().position(|&(sku, _)| limits.left_of_sku(sku) == 0) {
            Some(at) => Outcome::Limit { sku: Cow::Borrowed(request.items[at].sku), left: 0 },
            None => self.shortage(wanted[0].0, request.items[0].sku, request, situation),
        })
    }

    /// Units that the request may take: what is available, and what it replaces.
    fn within_reach(&self, request: &Request<'_, '_>, sku: u16) -> u64 {
        self.skus.get(sku).available + request.replaced_units(sku)
    }

    /// What the buyer has, by which the limits of the sale and of the SKUs wanted are told.
    fn limits(&self, request: &Request<'_, '_>, wanted: &[(u16, u32)], now_ms: u64) -> Limits<'_> {
        let limited = self.settings.limit > 0 || wanted.iter().any(|&(sku, _)| self.skus.get(sku).limit > 0);
        if !limited {
            return Limits { sale: self, usage: None };
        }
        let place = self.buyers.place(&self.holds, request.buyer);
        request.place.set(Some(place));
        if place.is_of_nobody() {
            return Limits { sale: self, usage: None };
        }
        let skus = wanted.iter().map(|&(sku, _)| sku);
        let replaced = request.replaced.iter().flat_map(|items| items.iter()).map(|&(sku, _)| sku);
        let mut usage = self.buyers.usage(&self.holds, &self.extras, place, now_ms, skus.chain(replaced));
        if let Some(items) = &request.replaced {
            usage.without(items);
        }
        Limits { sale: self, usage: Some(usage) }
    }

    #[inline(always)] // on the way of every refusal
    fn shortage<'a>(
        &self,
        sku: u16,
        name: &'a [u8],
        request: &Request<'_, '_>,
        situation: &Situation<'_>,
    ) -> Outcome<'a> {
        let name = Cow::Borrowed(name);
        let held_by_others = self.skus.get(sku).held - request.replaced_units(sku);
        if held_by_others > 0 {
            let now_ms = situation.now_ms;
            let still_due = self.due_units_of(sku, now_ms) > 0;
            let next_ms = if still_due { Some(now_ms) } else { self.next_deadline_of(sku, now_ms) };
            if let Some(next_ms) = next_ms {
                return Outcome::AllHeld { sku: name, next_ms };
            }
        }
        if self.shard.count > 1 && situation.elsewhere {
            return Outcome::Empty { sku: name };
        }
        Outcome::SoldOut { sku: name }
    }
}
