//! ORDER: reserve and confirm in one step.

use super::reserve::Request;
use super::{Decision, Situation};
use crate::command::Order;
use crate::effect::Effect;
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
        let request = Request { buyer: order.buyer, items: &order.items, up_to: false, replaced: None };
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
