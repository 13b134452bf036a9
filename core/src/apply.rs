//! Carrying effects out: the one path shared by primaries, replicas, logs and imports.
//!
//! Nothing here reads a clock or refuses. An effect that does not fit the state can only come from a damaged
//! log: it is left out whole and named in [`Facts::inconsistent`], never half applied.

use crate::effect::Effect;
use crate::facts::{EntryKind, Facts, SkuChange, Step};
use crate::holds::{BuyerPlace, NewContent, NewHold, Place, State, kept_items};
use crate::sale::{Extra, Refund, Sale, Sku};
use crate::{bounds, effect::IndexedItems};
use smallvec::SmallVec;

/// Ended ids that one effect may forget: two for each one that it can add, so that the queue drains.
const FORGOTTEN_AT_ONCE: usize = 2;

type Fit<T = ()> = Result<T, &'static str>;

/// A new hold: what an [`Effect::Reserve`] or the words of a command name.
pub(crate) struct SetAside<'a> {
    pub content: NewContent<'a>,
    pub deadline: u64,
    /// Where the buyer is, if that was looked for in this state.
    pub buyer_place: Option<BuyerPlace>,
}

impl Sale {
    /// Carries out one effect that was decided at `at_ms` (unix ms).
    pub fn apply(&mut self, at_ms: u64, effect: &Effect<'_>, facts: &mut Facts) {
        self.clock_ms = self.clock_ms.max(at_ms);
        if let Err(problem) = self.try_apply(at_ms, effect, facts) {
            facts.inconsistent = Some(problem);
        }
    }

    fn try_apply(&mut self, at_ms: u64, effect: &Effect<'_>, facts: &mut Facts) -> Fit {
        match effect {
            Effect::Create(..) => return Err("CREATE of a sale that exists"),
            Effect::Edition(edition) => self.edition = *edition,
            Effect::Alter(settings) => self.settings = *settings,
            Effect::Stock { sku, delta, alloc_id, limit } => {
                return self.apply_stock(at_ms, sku, *delta, *alloc_id, *limit, facts);
            }
            Effect::Reserve { .. } => return self.apply_reserve(at_ms, effect, facts),
            Effect::Confirm { id, reference, meta, items } => {
                return self.apply_confirm(at_ms, id, (*reference, *meta), items.as_ref(), facts);
            }
            Effect::Release { id, reason } => {
                let slot = self.held(id)?;
                self.end_hold(at_ms, slot, State::Released, *reason, facts);
            }
            Effect::Tombstone { id } => return self.apply_tombstone(at_ms, id),
            Effect::Expire { ids } => {
                let slots = ids.iter().map(|id| self.held(id)).collect::<Result<SmallVec<[u32; 32]>, _>>()?;
                self.apply_expiry(at_ms, &slots, facts);
            }
            Effect::Extend { id, deadline } => return self.apply_extend(id, *deadline),
            Effect::Revive { id, items } => return self.apply_revive(at_ms, id, items, facts),
            Effect::Return { id, return_id, items } => return self.apply_return(at_ms, id, return_id, items, facts),
            Effect::Pause => self.paused = true,
            Effect::Resume => self.paused = false,
            Effect::Close => self.closed = true,
            Effect::Grant { sku, qty, to } => return self.apply_grant(at_ms, *sku, *qty, *to, facts),
            Effect::Accept { sku, from, total } => return self.apply_accept(at_ms, *sku, *from, *total, facts),
            Effect::StreamFloor { ms, no } => {
                self.stream_floor_ms = self.stream_floor_ms.max(*ms);
                self.entry_no = self.entry_no.max(*no);
            }
        }
        Ok(())
    }

    fn held(&self, id: &[u8]) -> Result<u32, &'static str> {
        let slot = self.holds.find(id).ok_or("an unknown hold")?;
        if self.holds.get(slot).state != State::Held {
            return Err("a hold that is not live");
        }
        Ok(slot)
    }

    fn apply_stock(
        &mut self,
        at_ms: u64,
        name: &[u8],
        delta: i64,
        alloc_id: Option<&[u8]>,
        limit: Option<u32>,
        facts: &mut Facts,
    ) -> Fit {
        let index = match self.skus.find(name) {
            Some(index) => index,
            None if self.skus.len() >= bounds::MAX_SKUS => return Err("too many SKUs"),
            None => self.skus.push(Sku::new(name)),
        };
        let sku = self.skus.get_mut(index);
        let available = sku.available.checked_add_signed(delta).ok_or("a withdrawal of more than is available")?;
        let stocked = sku.stocked.checked_add_signed(delta).ok_or("a withdrawal of more than was stocked")?;
        if stocked > bounds::MAX_STOCKED * 2 {
            return Err("more stock than there can be");
        }
        (sku.available, sku.stocked) = (available, stocked);
        sku.limit = limit.unwrap_or(sku.limit);
        self.units = self.units.saturating_add_signed(delta);
        if let Some(id) = alloc_id {
            self.allocations.insert(id.into(), (index, delta));
        }
        let items = [(index, delta.unsigned_abs())];
        let step =
            Step { kind: EntryKind::Stocked, at_ms, slot: None, items: &items, note: alloc_id, negative: delta < 0 };
        self.note(&step, facts);
        self.tell_change(index, facts);
        Ok(())
    }

    fn apply_reserve(&mut self, at_ms: u64, effect: &Effect<'_>, facts: &mut Facts) -> Fit {
        let Effect::Reserve { id, buyer, items, requested, deadline, meta } = effect else { return Ok(()) };
        let known = requested.iter().flatten().all(|&(sku, _)| usize::from(sku) < self.skus.len());
        if !known {
            return Err("units of an unknown SKU");
        }
        let content = NewContent { id, buyer, items, meta: *meta, reference: None };
        let request = SetAside { content, deadline: *deadline, buyer_place: None };
        let slot = self.set_aside(at_ms, &request, self.holds.place(id), facts)?;
        if let Some(requested) = requested {
            self.extra(slot).requested = Some(requested.as_slice().into());
        }
        Ok(())
    }

    /// Stores a new hold at `place`, which was looked for in this state.
    pub(crate) fn set_aside(
        &mut self,
        at_ms: u64,
        request: &SetAside<'_>,
        place: Place,
        facts: &mut Facts,
    ) -> Fit<u32> {
        let SetAside { ref content, deadline, buyer_place } = *request;
        let items = content.items;
        self.forget_old(at_ms);
        let fits = |&(sku, qty): &(u16, u32)| {
            usize::from(sku) < self.skus.len() && self.skus.get(sku).available >= u64::from(qty)
        };
        if items.is_empty() || !items.iter().all(fits) {
            return Err("units that are not available");
        }
        if deadline < at_ms || deadline - at_ms > bounds::MAX_HOLD_MS {
            return Err("a hold out of bounds");
        }
        // What has just been forgotten may have had the same id.
        if let Some(slot) = place.slot.and_then(|_| self.holds.find(content.id)) {
            if !self.holds.get(slot).state.is_ended() {
                return Err("an id that is in use");
            }
            self.forget(slot);
        }
        let life_ms = (deadline - at_ms) as u32;
        let hold = NewHold { content, state: State::Held, time_ms: deadline, life_ms };
        let slot = self.holds.insert_at(&hold, place.hash);
        let buyer_place = buyer_place.unwrap_or_else(|| self.buyers.place(&self.holds, content.buyer));
        self.hold_units(slot, items, buyer_place);
        self.note_hold(EntryKind::Held, at_ms, slot, items, None, facts);
        self.tell_changes(items, facts);
        Ok(slot)
    }

    /// Available units become held, and the hold is counted and given its deadline.
    fn hold_units(&mut self, slot: u32, items: &[(u16, u32)], buyer: BuyerPlace) {
        for &(sku, qty) in items {
            let sku = self.skus.get_mut(sku);
            sku.available -= u64::from(qty);
            sku.held += u64::from(qty);
        }
        self.buyers.add(&self.holds, &self.extras, slot, buyer);
        self.deadlines.insert(&mut self.holds, slot, items);
        self.live_holds += 1;
    }

    fn apply_confirm(
        &mut self,
        at_ms: u64,
        id: &[u8],
        texts: (Option<&[u8]>, Option<&[u8]>),
        part: Option<&IndexedItems>,
        facts: &mut Facts,
    ) -> Fit {
        let slot = self.held(id)?;
        self.confirm_held(at_ms, slot, texts, part, facts)
    }

    /// Makes an order of a live hold, or of a part of it, with the order's REF and META.
    pub(crate) fn confirm_held(
        &mut self,
        at_ms: u64,
        slot: u32,
        (reference, meta): (Option<&[u8]>, Option<&[u8]>),
        part: Option<&IndexedItems>,
        facts: &mut Facts,
    ) -> Fit {
        let held = self.holds.items(slot);
        let within = |&(sku, qty): &(u16, u32)| held.iter().any(|&(known, most)| known == sku && qty <= most);
        if part.is_some_and(|part| part.is_empty() || !part.iter().all(within)) {
            return Err("a confirmation of more than is held");
        }
        let sold = part.unwrap_or(&held);
        self.buyers.confirm(&self.holds, slot, &held, sold);
        self.deadlines.remove(&mut self.holds, slot, &held);
        for &(sku, qty) in &held {
            let sku = self.skus.get_mut(sku);
            sku.held -= u64::from(qty);
            sku.available += u64::from(qty);
            facts.sold_last_held |= sku.held == 0;
        }
        for &(sku, qty) in sold {
            let sku = self.skus.get_mut(sku);
            sku.available -= u64::from(qty);
            sku.sold += u64::from(qty);
        }
        if part.is_some() {
            self.extra(slot).confirmed_from = Some(held.as_slice().into());
            facts.freed_rest = true;
        }
        if part.is_some() || reference.is_some() || meta.is_some() {
            self.holds.rewrite(slot, sold, (reference, meta));
        }
        let record = self.holds.get_mut(slot);
        record.state = State::Confirmed;
        record.set_order_no(0);
        self.live_holds -= 1;
        self.orders += 1;
        self.note_hold(EntryKind::Confirmed, at_ms, slot, sold, None, facts);
        self.holds.get_mut(slot).set_order_no(self.entry_no);
        self.tell_changes(&held, facts);
        Ok(())
    }

    fn end_hold(&mut self, at_ms: u64, slot: u32, state: State, reason: Option<&[u8]>, facts: &mut Facts) {
        self.forget_old(at_ms);
        let items = self.holds.items(slot);
        self.buyers.remove_held(&self.holds, slot);
        self.deadlines.remove(&mut self.holds, slot, &items);
        for &(sku, qty) in &items {
            let sku = self.skus.get_mut(sku);
            sku.held -= u64::from(qty);
            sku.available += u64::from(qty);
        }
        let record = self.holds.get_mut(slot);
        record.state = state;
        if state != State::Expired {
            // An expired hold ended at its deadline, whenever that was noticed.
            record.set_time_ms(at_ms);
        }
        self.ended.push(&mut self.holds, slot);
        self.live_holds -= 1;
        let kind = if state == State::Expired { EntryKind::Expired } else { EntryKind::Released };
        self.note_hold(kind, at_ms, slot, &items, reason, facts);
        self.tell_changes(&items, facts);
    }

    /// Carries out an [`Effect::Expire`] whose holds have been found.
    pub(crate) fn apply_expiry(&mut self, at_ms: u64, slots: &[u32], facts: &mut Facts) {
        self.clock_ms = self.clock_ms.max(at_ms);
        for &slot in slots {
            // Named twice it still ends once.
            if self.holds.get(slot).state == State::Held {
                self.end_hold(at_ms, slot, State::Expired, None, facts);
            }
        }
    }

    fn apply_tombstone(&mut self, at_ms: u64, id: &[u8]) -> Fit {
        self.forget_old(at_ms);
        if let Some(slot) = self.holds.find(id) {
            if !self.holds.get(slot).state.is_ended() {
                return Err("a tombstone for an id that is in use");
            }
            self.forget(slot);
        }
        if self.tombstones.len() >= bounds::MAX_TOMBSTONES
            && let Some(oldest) = self.tombstones.oldest()
        {
            self.forget(oldest);
        }
        let content = NewContent { id, buyer: b"", items: &[], meta: None, reference: None };
        let slot =
            self.holds.insert(&NewHold { content: &content, state: State::Tombstone, time_ms: at_ms, life_ms: 0 });
        self.tombstones.push(&mut self.holds, slot);
        Ok(())
    }

    fn apply_extend(&mut self, id: &[u8], deadline: u64) -> Fit {
        let slot = self.held(id)?;
        let record = self.holds.get(slot);
        let began = record.time_ms() - u64::from(record.life_ms);
        if deadline < began || deadline - began > bounds::MAX_HOLD_MS {
            return Err("a deadline out of bounds");
        }
        let before = record.time_ms();
        let items = self.holds.items(slot);
        self.deadlines.remove(&mut self.holds, slot, &items);
        let record = self.holds.get_mut(slot);
        record.set_time_ms(deadline);
        record.life_ms = (deadline - began) as u32;
        self.buyers.move_deadline(&self.holds, slot, before);
        self.deadlines.insert(&mut self.holds, slot, &items);
        Ok(())
    }

    fn apply_revive(&mut self, at_ms: u64, id: &[u8], items: &IndexedItems, facts: &mut Facts) -> Fit {
        let slot = self.holds.find(id).ok_or("an unknown hold")?;
        if self.holds.get(slot).state != State::Expired {
            return Err("a hold that has not expired");
        }
        let fits = |&(sku, qty): &(u16, u32)| {
            usize::from(sku) < self.skus.len() && self.skus.get(sku).available >= u64::from(qty)
        };
        if items.is_empty() || !items.iter().all(fits) {
            return Err("units that are not available");
        }
        self.ended.remove(&mut self.holds, slot);
        let before = self.holds.items(slot);
        if before != *items {
            self.extra(slot).confirmed_from = Some(before.as_slice().into());
            self.holds.rewrite(slot, items, (None, None));
        }
        let record = self.holds.get_mut(slot);
        record.state = State::Held;
        record.set_time_ms(at_ms);
        record.life_ms = 0;
        let buyer = self.buyers.place(&self.holds, self.holds.buyer(slot));
        self.hold_units(slot, items, buyer);
        self.note_hold(EntryKind::Held, at_ms, slot, items, None, facts);
        self.tell_changes(items, facts);
        Ok(())
    }

    fn apply_return(
        &mut self,
        at_ms: u64,
        id: &[u8],
        return_id: &[u8],
        items: &IndexedItems,
        facts: &mut Facts,
    ) -> Fit {
        let slot = self.holds.find(id).ok_or("an unknown order")?;
        if self.holds.get(slot).state != State::Confirmed {
            return Err("a return of what is not an order");
        }
        let kept = kept_items(&self.holds.items(slot), self.extras.get(&slot).map(Box::as_ref));
        let within = |&(sku, qty): &(u16, u32)| kept.iter().any(|&(known, most)| known == sku && qty <= most);
        if items.is_empty() || !items.iter().all(within) {
            return Err("a return of more than was sold");
        }
        let kept_units: u64 = kept.iter().map(|&(_, qty)| u64::from(qty)).sum();
        let units: u64 = items.iter().map(|&(_, qty)| u64::from(qty)).sum();
        let all = units == kept_units;
        self.buyers.remove_sold(&self.holds, slot, items, all);
        self.extra(slot).returns.push(Refund { id: return_id.into(), items: items.as_slice().into() });
        for &(sku, qty) in items {
            let sku = self.skus.get_mut(sku);
            sku.sold -= u64::from(qty);
            sku.available += u64::from(qty);
        }
        self.note_hold(EntryKind::Returned, at_ms, slot, items, Some(return_id), facts);
        self.tell_changes(items, facts);
        if all {
            self.forget_old(at_ms);
            self.extra(slot).order_no = self.holds.get(slot).order_no();
            let record = self.holds.get_mut(slot);
            record.state = State::Returned;
            record.set_time_ms(at_ms);
            self.ended.push(&mut self.holds, slot);
        }
        Ok(())
    }

    fn apply_grant(&mut self, at_ms: u64, index: u16, qty: u64, to: u32, facts: &mut Facts) -> Fit {
        if usize::from(index) >= self.skus.len() || to >= self.shard.count || to == self.shard.index {
            return Err("a grant of an unknown SKU or to no other shard");
        }
        let sku = self.skus.get_mut(index);
        sku.available = sku.available.checked_sub(qty).ok_or("a grant of more than is available")?;
        sku.granted += qty;
        self.transfers.entry((index, to)).or_default().granted += qty;
        self.note_transfer(EntryKind::Granted, at_ms, (index, qty), to, facts);
        Ok(())
    }

    fn apply_accept(&mut self, at_ms: u64, index: u16, from: u32, total: u64, facts: &mut Facts) -> Fit {
        if usize::from(index) >= self.skus.len() || from >= self.shard.count || from == self.shard.index {
            return Err("an acceptance of an unknown SKU or from no other shard");
        }
        let before = self.transfers.get(&(index, from)).map_or(0, |transfer| transfer.accepted);
        let qty = total.saturating_sub(before);
        if qty == 0 {
            return Ok(());
        }
        let sku = self.skus.get_mut(index);
        if qty > bounds::MAX_STOCKED.saturating_sub(sku.accepted) {
            return Err("an acceptance of more than there can be");
        }
        self.transfers.entry((index, from)).or_default().accepted = total;
        sku.accepted += qty;
        sku.available += qty;
        self.units += qty;
        self.note_transfer(EntryKind::Accepted, at_ms, (index, qty), from, facts);
        Ok(())
    }

    fn note_transfer(&mut self, kind: EntryKind, at_ms: u64, item: (u16, u64), other: u32, facts: &mut Facts) {
        let note = other.to_string();
        let step = Step { kind, at_ms, slot: None, items: &[item], note: Some(note.as_bytes()), negative: false };
        self.note(&step, facts);
        self.tell_change(item.0, facts);
    }

    #[inline]
    fn note_hold(
        &mut self,
        kind: EntryKind,
        at_ms: u64,
        slot: u32,
        items: &[(u16, u32)],
        note: Option<&[u8]>,
        facts: &mut Facts,
    ) {
        if kind.is_in(self.settings.events) {
            self.note_entry(kind, at_ms, slot, items, note, facts);
        } else {
            facts.add_kind(kind);
        }
    }

    fn note_entry(
        &mut self,
        kind: EntryKind,
        at_ms: u64,
        slot: u32,
        items: &[(u16, u32)],
        note: Option<&[u8]>,
        facts: &mut Facts,
    ) {
        let items: SmallVec<[(u16, u64); 2]> = items.iter().map(|&(sku, qty)| (sku, u64::from(qty))).collect();
        self.note(&Step { kind, at_ms, slot: Some(slot), items: &items, note, negative: false }, facts);
    }

    fn tell_changes(&mut self, items: &[(u16, u32)], facts: &mut Facts) {
        for &(sku, _) in items {
            self.tell_change(sku, facts);
        }
    }

    /// A SKU is sold out when nothing of it is left to be had here, now or when holds end.
    fn tell_change(&mut self, index: u16, facts: &mut Facts) {
        let sku = self.skus.get_mut(index);
        let sold_out = sku.available == 0 && sku.held == 0;
        if sold_out != sku.sold_out {
            sku.sold_out = sold_out;
            sku.version += 1;
            facts.sku_changes.push(SkuChange::new(index, sold_out, sku.version));
        }
    }

    fn extra(&mut self, slot: u32) -> &mut Extra {
        self.holds.get_mut(slot).has_extra = true;
        self.extras.entry(slot).or_default()
    }

    /// Forgets ended ids whose time has come, a few at each effect.
    fn forget_old(&mut self, at_ms: u64) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            let oldest = [self.ended.oldest(), self.tombstones.oldest()];
            let old = |&slot: &u32| self.is_old(self.holds.get(slot).time_ms(), at_ms);
            match oldest.into_iter().flatten().find(old) {
                Some(slot) => self.forget(slot),
                None => break,
            }
        }
        if self.ended.len() > self.ended_cap()
            && let Some(slot) = self.ended.oldest()
        {
            self.forget(slot);
        }
    }

    fn forget(&mut self, slot: u32) {
        match self.holds.get(slot).state {
            State::Tombstone => self.tombstones.remove(&mut self.holds, slot),
            _ => self.ended.remove(&mut self.holds, slot),
        }
        if self.holds.get(slot).has_extra {
            self.extras.remove(&slot);
        }
        self.holds.remove(slot);
    }
}
