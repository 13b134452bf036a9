//! RESERVE, ORDER and CONFIRM.

use super::{Answer, Hold, Model, Name, State, Units, owned, qty_of, same, units_of, within};
use crate::command::{Confirm, Order, Reserve};
use crate::decide::Situation;
use crate::outcome::{Field, Misuse, Outcome, Taken};
use crate::{Shard, sharding};

/// What the rules of taking units look at.
struct Request<'r> {
    buyer: &'r [u8],
    units: &'r Units,
    up_to: bool,
    /// Units of the buyer's own hold that ends in the same step.
    freed: &'r Units,
}

impl Model {
    pub(super) fn reserve(&mut self, reserve: &Reserve<'_>, situation: &Situation<'_>, now: u64) -> Answer {
        if reserve.replace.is_some() && reserve.replace == reserve.id {
            return Err(Misuse::ReplacesItself);
        }
        let id = reserve.id.unwrap_or(situation.fresh_id);
        let asked = units_of(&reserve.items);
        if let Some(hold) = self.known(id, now) {
            return Ok(match again(hold, id, reserve.buyer, &asked, reserve.up_to) {
                Outcome::Reserved { id, deadline, taken, .. } => {
                    Outcome::Reserved { id, deadline, taken, repeated: reserve.tell_repeated }
                }
                outcome => outcome,
            });
        }
        let life = reserve.ttl_ms.unwrap_or(self.settings.hold_ms);
        if reserve.ttl_ms.is_some() && !(1..=self.settings.maxhold_ms).contains(&life) {
            return Err(Misuse::LifeOutOfRange { what: "TTL", ms: life, maxhold_ms: self.settings.maxhold_ms });
        }
        let replaced = match self.replaced(reserve, now) {
            Ok(replaced) => replaced,
            Err(outcome) => return Ok(outcome),
        };
        if let Some(refusal) = self.place_and_time(reserve.buyer, now) {
            return Ok(refusal);
        }
        if reserve.not_after.is_some_and(|latest| now > latest) {
            return Ok(Outcome::TooLate);
        }
        if situation.backlog >= self.settings.backlog {
            return Ok(Outcome::Backlog);
        }
        let freed = replaced.as_ref().map(|id| self.holds[id].units.clone()).unwrap_or_default();
        let request = Request { buyer: reserve.buyer, units: &asked, up_to: reserve.up_to, freed: &freed };
        let units = match self.take(&request, situation) {
            Ok(units) => units,
            Err(refusal) => return Ok(refusal),
        };
        if let Some(older) = replaced {
            self.release(&older, now);
        }
        self.make_hold(id, reserve.buyer, asked, units, (now, now + life), reserve.meta);
        Ok(reserved(&self.holds[id], id, reserve.up_to))
    }

    pub(super) fn order(&mut self, order: &Order<'_>, situation: &Situation<'_>, now: u64) -> Answer {
        let id = order.id.unwrap_or(situation.fresh_id);
        let asked = units_of(&order.items);
        if let Some(hold) = self.known(id, now) {
            // A live hold of the same arguments is confirmed.
            return Ok(match again(hold, id, order.buyer, &asked, false) {
                Outcome::Reserved { .. } => self.make_order(id, order.reference, now),
                Outcome::Confirmed { .. } if other_reference(hold, order.reference) => Outcome::Mismatch(Field::Ref),
                outcome => outcome,
            });
        }
        if let Some(refusal) = self.place_and_time(order.buyer, now) {
            return Ok(refusal);
        }
        if situation.backlog >= self.settings.backlog {
            return Ok(Outcome::Backlog);
        }
        let request = Request { buyer: order.buyer, units: &asked, up_to: false, freed: &Units::new() };
        match self.take(&request, situation) {
            Err(refusal) => Ok(refusal),
            Ok(units) => {
                let deadline = now + self.settings.hold_ms;
                self.make_hold(id, order.buyer, asked, units, (now, deadline), order.meta);
                Ok(self.make_order(id, order.reference, now))
            }
        }
    }

    pub(super) fn confirm(&mut self, confirm: &Confirm<'_>, situation: &Situation<'_>, now: u64) -> Outcome<'static> {
        let Some(hold) = self.known(confirm.id, now).cloned() else { return Outcome::NotFound };
        let named = units_of(&confirm.items);
        let part = if named.is_empty() { hold.units.clone() } else { named.clone() };
        let late = hold.state == State::Expired && confirm.late;
        match hold.state {
            State::Confirmed => {
                let same_part = if named.is_empty() { !hold.partly } else { same(&named, &hold.units) };
                match () {
                    () if other_reference(&hold, confirm.reference) => Outcome::Mismatch(Field::Ref),
                    () if !same_part => Outcome::Mismatch(Field::Items),
                    () => hold.confirmed(confirm.id),
                }
            }
            State::Held | State::Expired if hold.state == State::Held || late => {
                if !within(&part, &hold.units) {
                    return Outcome::Mismatch(Field::Items);
                }
                if late {
                    // Like a new RESERVE of the same items, but for opening times.
                    let request = Request { buyer: &hold.buyer, units: &part, up_to: false, freed: &Units::new() };
                    if let Err(refusal) = self.take(&request, situation) {
                        return refusal;
                    }
                    self.count_event();
                }
                let stored = self.holds.get_mut(confirm.id).expect("it is known");
                if late {
                    (stored.began, stored.time) = (now, now);
                }
                if !same(&part, &stored.units) {
                    stored.partly = true;
                    stored.units = part;
                }
                if let Some(meta) = confirm.meta {
                    stored.meta = Some(meta.to_vec());
                }
                self.make_order(confirm.id, confirm.reference, now)
            }
            _ => hold.end(confirm.id),
        }
    }

    fn make_hold(
        &mut self,
        id: &[u8],
        buyer: &[u8],
        asked: Units,
        units: Units,
        (began, time): (u64, u64),
        meta: Option<&[u8]>,
    ) {
        let hold = Hold {
            buyer: buyer.to_vec(),
            asked,
            units,
            partly: false,
            state: State::Held,
            began,
            time,
            order_no: 0,
            reference: None,
            meta: meta.map(<[u8]>::to_vec),
            returns: Vec::new(),
        };
        self.holds.insert(id.to_vec(), hold);
        self.clock = began;
        self.count_event();
    }

    fn make_order(&mut self, id: &[u8], reference: Option<&[u8]>, now: u64) -> Outcome<'static> {
        let order_no = self.count_order_event();
        let hold = self.holds.get_mut(id).expect("only a hold becomes an order");
        hold.state = State::Confirmed;
        hold.order_no = order_no;
        hold.reference = reference.map(<[u8]>::to_vec);
        self.orders += 1;
        self.clock = now;
        hold.confirmed(id)
    }

    /// REPLACE: the buyer's own live hold. One that has ended, or was never there, frees nothing; one that has
    /// become an order is told, for the cart that was to be replaced is bought.
    fn replaced(&self, reserve: &Reserve<'_>, now: u64) -> Result<Option<Name>, Outcome<'static>> {
        let Some(older) = reserve.replace else { return Ok(None) };
        let Some(hold) = self.known(older, now).filter(|hold| hold.state != State::Tombstone) else { return Ok(None) };
        if hold.buyer != reserve.buyer {
            return Err(Outcome::Mismatch(Field::Buyer));
        }
        match hold.state {
            State::Held => Ok(Some(older.to_vec())),
            State::Confirmed => Err(hold.confirmed(older)),
            _ => Ok(None),
        }
    }

    /// WRONGSHARD, NOTOPEN, PAUSED, CLOSED.
    fn place_and_time(&self, buyer: &[u8], now: u64) -> Option<Outcome<'static>> {
        let Shard { index, count } = self.shard;
        let home = sharding::key_slot(buyer) % count;
        if home != index {
            return Some(Outcome::WrongShard(Shard { index: home, count }));
        }
        if now < self.settings.opens_at {
            return Some(Outcome::NotOpen { opens_at: self.settings.opens_at });
        }
        if self.paused {
            return Some(Outcome::Paused);
        }
        self.is_closed(now).then_some(Outcome::Closed)
    }

    /// NOSKU, LIMIT, SOLDOUT, ALLHELD, EMPTY, in this order; within each the first SKU in the order given.
    fn take(&self, request: &Request<'_>, situation: &Situation<'_>) -> Result<Units, Outcome<'static>> {
        if let Some((sku, _)) = request.units.iter().find(|(sku, _)| self.sku(sku).is_none()) {
            return Err(Outcome::NoSku { sku: owned(sku) });
        }
        let left_of_sale = self.left_to(request, None);
        let left_of = |sku: &[u8]| self.left_to(request, Some(sku));
        let reach_of = |sku: &[u8]| self.levels(sku).available + qty_of(request.freed, sku);
        let limit = |sku: &[u8], left| Err(Outcome::Limit { sku: owned(sku), left });
        if request.up_to {
            if left_of_sale == 0 {
                return limit(b"", 0);
            }
            let mut rest = left_of_sale;
            let mut taken = Units::new();
            for (sku, qty) in request.units {
                let qty = (*qty).min(reach_of(sku)).min(left_of(sku)).min(rest);
                rest -= qty;
                if qty > 0 {
                    taken.push((sku.clone(), qty));
                }
            }
            if !taken.is_empty() {
                return Ok(taken);
            }
            return match request.units.iter().find(|(sku, _)| left_of(sku) == 0) {
                Some((sku, _)) => limit(sku, 0),
                None => Err(self.shortage(&request.units[0].0, request, situation)),
            };
        }
        if request.units.iter().map(|(_, qty)| qty).sum::<u64>() > left_of_sale {
            return limit(b"", left_of_sale);
        }
        if let Some((sku, _)) = request.units.iter().find(|(sku, qty)| *qty > left_of(sku)) {
            return limit(sku, left_of(sku));
        }
        match request.units.iter().find(|(sku, qty)| *qty > reach_of(sku)) {
            Some((sku, _)) => Err(self.shortage(sku, request, situation)),
            None => Ok(request.units.clone()),
        }
    }

    /// Invariant 3: what the limit of the sale, or of a SKU, leaves to the buyer.
    fn left_to(&self, request: &Request<'_>, sku: Option<&[u8]>) -> u64 {
        let limit = match sku {
            None => self.settings.limit,
            Some(sku) => self.sku(sku).expect("NOSKU was checked").limit,
        };
        if limit == 0 {
            return u64::MAX;
        }
        let (held, sold) = self.used(request.buyer, sku);
        let freed = request.freed.iter().filter(|(name, _)| sku.is_none_or(|sku| name == sku));
        let freed: u64 = freed.map(|(_, qty)| qty).sum();
        u64::from(limit).saturating_sub(held + sold - freed)
    }

    /// Too few units: because others hold some, or because they lie elsewhere, or because there are no more.
    fn shortage(&self, sku: &[u8], request: &Request<'_>, situation: &Situation<'_>) -> Outcome<'static> {
        if self.levels(sku).held > qty_of(request.freed, sku) {
            return Outcome::AllHeld { sku: owned(sku), next_ms: self.next_deadline(Some(sku)) };
        }
        if self.shard.count > 1 && situation.elsewhere {
            return Outcome::Empty { sku: owned(sku) };
        }
        Outcome::SoldOut { sku: owned(sku) }
    }
}

/// Invariant 4: the same id with the same arguments gives the same answer, with others it is refused.
fn again(hold: &Hold, id: &[u8], buyer: &[u8], asked: &Units, up_to: bool) -> Outcome<'static> {
    match hold.state {
        State::Tombstone => Outcome::Released,
        _ if hold.buyer != buyer => Outcome::Mismatch(Field::Buyer),
        _ if !same(&hold.asked, asked) => Outcome::Mismatch(Field::Items),
        State::Held => reserved(hold, id, up_to),
        _ => hold.end(id),
    }
}

fn reserved(hold: &Hold, id: &[u8], up_to: bool) -> Outcome<'static> {
    let taken = || hold.units.iter().map(|(sku, qty)| Taken { sku: sku.as_slice().into(), qty: *qty as u32 });
    Outcome::Reserved { id: owned(id), deadline: hold.time, taken: up_to.then(|| taken().collect()), repeated: false }
}

fn other_reference(hold: &Hold, given: Option<&[u8]>) -> bool {
    given.is_some() && given != hold.reference.as_deref()
}
