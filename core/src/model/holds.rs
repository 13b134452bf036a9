//! RELEASE, EXTEND and RETURN.

use super::{Answer, Hold, Model, State, Units, minus, same, units_of, within};
use crate::bounds;
use crate::command::Return;
use crate::outcome::{Field, Misuse, Outcome};

impl Model {
    /// Frees a hold. An unknown id is remembered, so that a late RESERVE of it is refused.
    pub(super) fn release(&mut self, id: &[u8], now: u64) -> Outcome<'static> {
        match self.known(id, now) {
            Some(hold) if hold.state != State::Held => return hold.end(id),
            Some(_) => {
                let hold = self.holds.get_mut(id).expect("it is known");
                (hold.state, hold.time) = (State::Released, now);
                self.count_event();
            }
            None => {
                self.holds.insert(id.to_vec(), tombstone(now));
            }
        }
        self.clock = now;
        Outcome::Released
    }

    /// Moves the deadline to now + ms, at most MAXHOLD after the hold began; but a MAXHOLD that was lowered
    /// takes nothing back that was promised.
    pub(super) fn extend(&mut self, id: &[u8], ms: u64, now: u64) -> Answer {
        let maxhold_ms = self.settings.maxhold_ms;
        if !(1..=maxhold_ms).contains(&ms) {
            return Err(Misuse::LifeOutOfRange { what: "ms", ms, maxhold_ms });
        }
        let Some(hold) = self.known(id, now) else { return Ok(Outcome::NotFound) };
        if hold.state != State::Held {
            return Ok(hold.end(id));
        }
        let deadline = (now + ms).min((hold.began + maxhold_ms).max(hold.time));
        if deadline != hold.time {
            self.holds.get_mut(id).expect("it is known").time = deadline;
            self.clock = now;
        }
        Ok(Outcome::Extended { id: super::owned(id), deadline })
    }

    /// A refund: units of an order go back to available.
    pub(super) fn take_back(&mut self, returned: &Return<'_>, now: u64) -> Answer {
        let Some(hold) = self.known(returned.id, now).filter(|hold| hold.state == State::Confirmed).cloned() else {
            return Ok(Outcome::NotFound);
        };
        let named = units_of(&returned.items);
        if let Some(at) = hold.returns.iter().position(|(id, _)| id == returned.return_id) {
            let left_before = minus(&hold.units, hold.returns[..at].iter().flat_map(|(_, units)| units));
            let meant = if named.is_empty() { left_before } else { named };
            let repeated = same(&meant, &hold.returns[at].1);
            return Ok(if repeated { Outcome::Returned } else { Outcome::Mismatch(Field::Items) });
        }
        if hold.returns.len() >= bounds::MAX_RETURNS {
            return Err(Misuse::TooManyReturns);
        }
        let left = hold.left();
        let units = if named.is_empty() { left.clone() } else { named };
        if units.is_empty() || !within(&units, &left) {
            return Ok(Outcome::Mismatch(Field::Items));
        }
        let order = self.holds.get_mut(returned.id).expect("it is known");
        order.returns.push((returned.return_id.to_vec(), units));
        if order.left().is_empty() {
            // From now on it is remembered like an ended hold.
            order.time = now;
        }
        self.clock = now;
        self.count_order_event();
        Ok(Outcome::Returned)
    }
}

fn tombstone(now: u64) -> Hold {
    Hold {
        buyer: Vec::new(),
        asked: Units::new(),
        units: Units::new(),
        partly: false,
        state: State::Tombstone,
        began: now,
        time: now,
        order_no: 0,
        reference: None,
        meta: None,
        returns: Vec::new(),
    }
}
