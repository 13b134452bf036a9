//! ORDER: reserve and confirm in one step.

use super::reserve::Request;
use super::{Decision, Situation};
use crate::apply::SetAside;
use crate::command::Order;
use crate::effect::{Effect, EffectLog};
use crate::facts::Facts;
use crate::holds::NewContent;
use crate::outcome::{Field, Misuse, Outcome};
use crate::sale::Sale;
use smallvec::smallvec;
use std::borrow::Cow;

impl Sale {
    pub(super) fn decide_order<'a>(
        &self,
        order: &Order<'a>,
        situation: &Situation<'a>,
    ) -> Result<Decision<'a>, Misuse> {
        let id = order.id.unwrap_or(situation.fresh_id);
        if let Some(slot) = self.known(id, situation.now_ms) {
            return Ok(self.order_again(slot, id, order));
        }
        let request = Request::new(order.buyer, &order.items);
        Ok(match self.admit(&request, None, situation)? {
            Err(refusal) => Decision::nothing(refusal),
            Ok(items) => Decision {
                outcome: Outcome::Confirmed { id: Cow::Borrowed(id), order_no: self.next_order_no(1) },
                effects: smallvec![
                    Effect::Reserve {
                        id,
                        buyer: order.buyer,
                        items,
                        requested: None,
                        deadline: situation.now_ms + self.settings.hold_ms,
                        meta: order.meta,
                    },
                    Effect::Confirm { id, reference: order.reference, meta: None, items: None },
                ],
            },
        })
    }

    /// Carries out an ORDER of a new id that its own words tell: decides it and applies it in one go. `None` if the id is
    /// known: that is for [`Sale::decide_order`] to answer.
    pub(super) fn run_order<'a>(
        &mut self,
        order: &Order<'a>,
        situation: &Situation<'a>,
        log: &mut EffectLog,
        facts: &mut Facts,
    ) -> Result<Option<Outcome<'a>>, Misuse> {
        let (now_ms, id) = (situation.now_ms, order.id.unwrap_or(situation.fresh_id));
        let place = self.holds.place(id);
        if place.slot.is_some_and(|slot| !self.is_forgotten(slot, now_ms)) {
            return Ok(None);
        }
        let request = Request::new(order.buyer, &order.items);
        let items = match self.admit(&request, None, situation)? {
            Err(refusal) => return Ok(Some(refusal)),
            Ok(items) => items,
        };
        let outcome = Outcome::Confirmed { id: Cow::Borrowed(id), order_no: self.next_order_no(1) };
        log.count_words();
        let deadline = now_ms + self.settings.hold_ms;
        let buyer_place = request.buyer_place();
        let content = NewContent { id, buyer: order.buyer, items: &items, meta: order.meta, reference: None };
        let hold = SetAside { content, deadline, buyer_place };
        let done = self.set_aside(now_ms, &hold, place, facts);
        let done = done.and_then(|slot| self.confirm_held(now_ms, slot, (order.reference, None), None, facts));
        if let Err(problem) = done {
            facts.inconsistent = Some(problem);
        }
        Ok(Some(outcome))
    }

    /// An id that is known: a live hold is confirmed, anything else is told.
    fn order_again<'a>(&self, slot: u32, id: &'a [u8], order: &Order<'a>) -> Decision<'a> {
        let outcome = match self.again(slot, id, order.buyer, &order.items, false) {
            Outcome::Reserved { .. } => {
                return Decision::one(
                    Outcome::Confirmed { id: Cow::Borrowed(id), order_no: self.next_order_no(0) },
                    Effect::Confirm { id, reference: order.reference, meta: None, items: None },
                );
            }
            Outcome::Confirmed { .. } if self.other_reference(slot, order.reference) => Outcome::Mismatch(Field::Ref),
            outcome => outcome,
        };
        Decision::nothing(outcome)
    }

    /// Whether a REF was given that is not the order's.
    pub(super) fn other_reference(&self, slot: u32, given: Option<&[u8]>) -> bool {
        given.is_some() && self.holds.content(slot).reference != given
    }
}
