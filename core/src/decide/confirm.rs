//! CONFIRM: a hold becomes an order.

use super::reserve::Request;
use super::{Decision, Situation};
use crate::command::{Confirm, Item, Items};
use crate::effect::{Effect, EffectLog, IndexedItems};
use crate::facts::Facts;
use crate::holds::State;
use crate::outcome::{Field, Outcome};
use crate::sale::Sale;
use smallvec::smallvec;
use std::borrow::Cow;

impl Sale {
    pub(super) fn decide_confirm<'a>(&self, confirm: &Confirm<'a>, situation: &Situation<'a>) -> Decision<'a> {
        let Some(slot) = self.known(confirm.id, situation.now_ms) else {
            return Decision::nothing(Outcome::NotFound);
        };
        match self.holds.get(slot).state {
            State::Held => self.confirm_live(slot, confirm),
            State::Confirmed | State::Returned => Decision::nothing(self.confirm_again(slot, confirm)),
            State::Expired if confirm.late => self.confirm_late(slot, confirm, situation),
            _ => Decision::nothing(self.end_of(slot, Cow::Borrowed(confirm.id))),
        }
    }

    pub(super) fn confirm_live<'a>(&self, slot: u32, confirm: &Confirm<'a>) -> Decision<'a> {
        match self.sold_of(slot, confirm) {
            Err(refusal) => Decision::nothing(refusal),
            Ok(items) => Decision::one(
                Outcome::Confirmed { id: Cow::Borrowed(confirm.id), order_no: self.next_order_no(0) },
                Effect::Confirm { id: confirm.id, reference: confirm.reference, meta: confirm.meta, items },
            ),
        }
    }

    /// What a live hold sells, if it is not all of it.
    fn sold_of<'a>(&self, slot: u32, confirm: &Confirm<'_>) -> Result<Option<IndexedItems>, Outcome<'a>> {
        if confirm.items.is_empty() {
            return Ok(None);
        }
        let held = self.holds.items(slot);
        if self.same_items(&held, &confirm.items) {
            return Ok(None);
        }
        self.part_of(&held, &confirm.items).map(Some).ok_or(Outcome::Mismatch(Field::Items))
    }

    /// Carries out a CONFIRM of a live hold that its own words tell: decides it and applies it in one go. `None` if the
    /// hold is not live: that is for [`Sale::decide_confirm`] to answer.
    pub(super) fn run_confirm<'a>(
        &mut self,
        confirm: &Confirm<'a>,
        now_ms: u64,
        log: &mut EffectLog,
        facts: &mut Facts,
    ) -> Option<Outcome<'a>> {
        let slot = self.known(confirm.id, now_ms).filter(|&slot| self.holds.get(slot).state == State::Held)?;
        let part = match self.sold_of(slot, confirm) {
            Err(refusal) => return Some(refusal),
            Ok(part) => part,
        };
        let outcome = Outcome::Confirmed { id: Cow::Borrowed(confirm.id), order_no: self.next_order_no(0) };
        log.count_words();
        if let Err(problem) = self.confirm_held(now_ms, slot, (confirm.reference, confirm.meta), part.as_ref(), facts) {
            facts.inconsistent = Some(problem);
        }
        Some(outcome)
    }

    fn confirm_again<'a>(&self, slot: u32, confirm: &Confirm<'a>) -> Outcome<'a> {
        if self.other_reference(slot, confirm.reference) {
            return Outcome::Mismatch(Field::Ref);
        }
        let partly = self.extras.get(&slot).is_some_and(|extra| extra.confirmed_from.is_some());
        let same = match confirm.items.is_empty() {
            true => !partly,
            false => self.same_items(&self.holds.items(slot), &confirm.items),
        };
        if !same {
            return Outcome::Mismatch(Field::Items);
        }
        self.end_of(slot, Cow::Borrowed(confirm.id))
    }

    /// Takes the units of an expired hold again, decided like a new request but for opening times.
    fn confirm_late<'a>(&self, slot: u32, confirm: &Confirm<'a>, situation: &Situation<'a>) -> Decision<'a> {
        let content = self.holds.content(slot);
        let Some(mut items) = self.part_of(&content.items, &confirm.items) else {
            return Decision::nothing(Outcome::Mismatch(Field::Items));
        };
        // Refusals name the first SKU in the order given now.
        let named: Items<'_> = items.iter().map(|&(sku, qty)| Item { sku: &self.skus.get(sku).name, qty }).collect();
        let request = Request::new(content.buyer, &named);
        if let Err(refusal) = self.take(&request, situation) {
            return Decision::nothing(owned(refusal));
        }
        if self.same_items(&content.items, &confirm.items) {
            // All of it in another order is not a part of it.
            items = content.items.clone();
        }
        Decision {
            outcome: Outcome::Confirmed { id: Cow::Borrowed(confirm.id), order_no: self.next_order_no(1) },
            effects: smallvec![
                Effect::Revive { id: confirm.id, items },
                Effect::Confirm { id: confirm.id, reference: confirm.reference, meta: confirm.meta, items: None },
            ],
        }
    }
}

/// The refusals of [`Sale::take`] without their borrow of the sale's own SKU names.
fn owned<'a>(refusal: Outcome<'_>) -> Outcome<'a> {
    let own = |sku: Cow<'_, [u8]>| Cow::Owned(sku.into_owned());
    match refusal {
        Outcome::Limit { sku, left } => Outcome::Limit { sku: own(sku), left },
        Outcome::SoldOut { sku } => Outcome::SoldOut { sku: own(sku) },
        Outcome::AllHeld { sku, next_ms } => Outcome::AllHeld { sku: own(sku), next_ms },
        Outcome::Empty { sku } => Outcome::Empty { sku: own(sku) },
        _ => Outcome::NotFound,
    }
}
