//! RELEASE, EXTEND and RETURN: what else happens to a hold.

use super::{Decision, Situation};
use crate::bounds;
use crate::command::{Release, Return};
use crate::effect::Effect;
use crate::holds::{State, left_after};
use crate::outcome::{Field, Misuse, Outcome};
use crate::sale::Sale;
use std::borrow::Cow;

impl Sale {
    pub(super) fn decide_release<'a>(&self, release: &Release<'a>, situation: &Situation<'a>) -> Decision<'a> {
        let id = release.id;
        match self.known(id, situation.now_ms) {
            None => Decision::one(Outcome::Released, Effect::Tombstone { id }),
            Some(slot) if self.holds.get(slot).state == State::Held => {
                Decision::one(Outcome::Released, Effect::Release { id, reason: release.reason })
            }
            Some(slot) => Decision::nothing(self.end_of(slot, Cow::Borrowed(id))),
        }
    }

    pub(super) fn decide_extend<'a>(
        &self,
        id: &'a [u8],
        ms: u64,
        situation: &Situation<'a>,
    ) -> Result<Decision<'a>, Misuse> {
        let maxhold_ms = self.settings.maxhold_ms;
        if !(1..=maxhold_ms).contains(&ms) {
            return Err(Misuse::LifeOutOfRange { what: "ms", ms, maxhold_ms });
        }
        let Some(slot) = self.known(id, situation.now_ms) else {
            return Ok(Decision::nothing(Outcome::NotFound));
        };
        let record = self.holds.get(slot);
        if record.state != State::Held {
            return Ok(Decision::nothing(self.end_of(slot, Cow::Borrowed(id))));
        }
        // A MAXHOLD that was lowered meanwhile never ends a hold earlier than was promised.
        let began = record.time_ms() - u64::from(record.life_ms);
        let latest = (began + maxhold_ms).max(record.time_ms());
        let deadline = (situation.now_ms + ms).min(latest);
        let outcome = Outcome::Extended { id: Cow::Borrowed(id), deadline };
        if deadline == record.time_ms() {
            return Ok(Decision::nothing(outcome));
        }
        Ok(Decision::one(outcome, Effect::Extend { id, deadline }))
    }

    pub(super) fn decide_return<'a>(
        &self,
        returned: &Return<'a>,
        situation: &Situation<'a>,
    ) -> Result<Decision<'a>, Misuse> {
        let order = self.known(returned.id, situation.now_ms);
        let Some(slot) = order.filter(|&slot| matches!(self.holds.get(slot).state, State::Confirmed | State::Returned))
        else {
            return Ok(Decision::nothing(Outcome::NotFound));
        };
        let extra = self.extras.get(&slot).map(Box::as_ref);
        let refunds = extra.map_or(&[][..], |extra| &extra.returns);
        if let Some(at) = refunds.iter().position(|refund| *refund.id == *returned.return_id) {
            let same = if returned.items.is_empty() {
                // "All that is left" was meant: is that what was left then?
                let left = left_after(&self.holds.items(slot), &refunds[..at]);
                units(&left) == units(&refunds[at].items)
            } else {
                self.same_items(&refunds[at].items, &returned.items)
            };
            let outcome = if same { Outcome::Returned } else { Outcome::Mismatch(Field::Items) };
            return Ok(Decision::nothing(outcome));
        }
        if refunds.len() >= bounds::MAX_RETURNS {
            return Err(Misuse::TooManyReturns);
        }
        let left = left_after(&self.holds.items(slot), refunds);
        Ok(match self.part_of(&left, &returned.items) {
            Some(items) if !items.is_empty() => Decision::one(
                Outcome::Returned,
                Effect::Return { id: returned.id, return_id: returned.return_id, items },
            ),
            _ => Decision::nothing(Outcome::Mismatch(Field::Items)),
        })
    }
}

fn units(items: &[(u16, u32)]) -> u64 {
    items.iter().map(|&(_, qty)| u64::from(qty)).sum()
}
