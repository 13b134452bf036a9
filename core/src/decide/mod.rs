//! What a command leads to: the rules of a sale, one file per group of commands.
//!
//! Deciding looks and changes nothing. It expects that what is due has been treated first, see [`due`];
//! [`Sale::run`] takes the steps in their order.

mod confirm;
mod due;
mod hold;
mod in_words;
mod order;
mod reserve;
mod shards;
mod stock;

pub use due::DueIds;
pub use in_words::Effects;

use crate::command::{Command, Items};
use crate::effect::{Effect, EffectLog, IndexedItems};
use crate::facts::Facts;
use crate::outcome::{Misuse, Outcome};
use crate::sale::{Events, Sale};
use smallvec::{SmallVec, smallvec};

/// What a decision depends on beside the sale and the command.
#[derive(Clone, Copy, Debug, Default)]
pub struct Situation<'a> {
    /// The server's clock, unix ms. A sale's own clock may be ahead of it, and then counts.
    pub now_ms: u64,
    /// The id for a hold whose client gave `*`; never given out before.
    pub fresh_id: &'a [u8],
    /// An upper bound of the order stream's length.
    pub backlog: u64,
    /// Whether other shards of the sale may have units.
    pub elsewhere: bool,
}

/// An outcome, and what makes it true.
#[derive(Clone, Debug)]
pub struct Decision<'a> {
    /// What the caller is told.
    pub outcome: Outcome<'a>,
    /// What changes; nothing if the command was refused or had been carried out before.
    pub effects: Effects<'a>,
}

impl<'a> Decision<'a> {
    fn nothing(outcome: Outcome<'a>) -> Self {
        Self { outcome, effects: SmallVec::new() }
    }

    fn one(outcome: Outcome<'a>, effect: Effect<'a>) -> Self {
        Self { outcome, effects: smallvec![effect] }
    }
}

impl Sale {
    /// What the command leads to. Refusals are outcomes; an error is a command that cannot be meant.
    pub fn decide<'a>(&self, command: &Command<'a>, situation: &Situation<'a>) -> Result<Decision<'a>, Misuse> {
        let situation = &Situation { now_ms: self.now(situation.now_ms), ..*situation };
        match command {
            Command::Alter(change) => {
                let settings = change.onto(&self.settings)?;
                Ok(self.unless(settings == self.settings, Effect::Alter(settings)))
            }
            Command::Stock(stock) => self.decide_stock(stock, situation),
            Command::Reserve(reserve) => self.decide_reserve(reserve, situation),
            Command::Order(order) => self.decide_order(order, situation),
            Command::Confirm(confirm) => Ok(self.decide_confirm(confirm, situation)),
            Command::Release(release) => Ok(self.decide_release(release, situation)),
            Command::Extend { id, ms } => self.decide_extend(id, *ms, situation),
            Command::Return(returned) => self.decide_return(returned, situation),
            Command::Pause | Command::Resume if self.closed => Err(Misuse::ClosedForGood),
            Command::Pause => Ok(self.unless(self.paused, Effect::Pause)),
            Command::Resume => Ok(self.unless(!self.paused, Effect::Resume)),
            Command::Close => Ok(self.unless(self.closed, Effect::Close)),
            Command::Grant(grant) => self.decide_grant(grant, situation),
            Command::Accept(accept) => self.decide_accept(accept, situation),
        }
    }

    /// Treats what is due, decides, and applies: the one way in which a primary carries out a command.
    /// Effects go to `log` (which the caller has started at [`Sale::now`]), unless it takes the command's own words
    /// for them, and their facts to `facts`.
    pub fn run<'a>(
        &mut self,
        command: &Command<'a>,
        situation: &Situation<'a>,
        log: &mut EffectLog,
        facts: &mut Facts,
    ) -> Result<Outcome<'a>, Misuse> {
        let now_ms = self.now(situation.now_ms);
        let mut in_words = log.takes_words() && self.is_in_words(command, now_ms);
        if !self.deadlines.none_due(now_ms) {
            let due = self.due_for(command, now_ms);
            in_words &= due.is_empty();
            self.expire(&due, now_ms, log, facts);
        }
        #[cfg(feature = "fault-injection")]
        crate::fault::trip(command);
        let situation = &Situation { now_ms, ..*situation };
        let outcome = match command {
            Command::Reserve(reserve) => self.run_reserve(reserve, situation, in_words, log, facts)?,
            _ => self.run_other(command, situation, in_words, log, facts)?,
        };
        self.note_missed(command, &outcome);
        Ok(outcome)
    }

    fn run_other<'a>(
        &mut self,
        command: &Command<'a>,
        situation: &Situation<'a>,
        in_words: bool,
        log: &mut EffectLog,
        facts: &mut Facts,
    ) -> Result<Outcome<'a>, Misuse> {
        // Orders come by the thousand: they are decided and applied in one go, with no effect in between.
        let done = match command {
            Command::Order(order) if in_words => self.run_order(order, situation, log, facts)?,
            Command::Confirm(confirm) if in_words => self.run_confirm(confirm, situation.now_ms, log, facts),
            _ => None,
        };
        if let Some(outcome) = done {
            return Ok(outcome);
        }
        let decision = self.decide(command, situation)?;
        if in_words && !decision.effects.is_empty() {
            debug_assert_eq!(self.effects_in_words(command).as_ref(), Some(&decision.effects));
            log.count_words();
            return Ok(self.apply_all(decision, situation.now_ms, facts));
        }
        Ok(self.carry_out(decision, situation.now_ms, log, facts))
    }

    /// Writes the effects of a decision to the log, and applies them.
    fn carry_out<'a>(
        &mut self,
        decision: Decision<'a>,
        now_ms: u64,
        log: &mut EffectLog,
        facts: &mut Facts,
    ) -> Outcome<'a> {
        decision.effects.iter().for_each(|effect| log.push(effect));
        self.apply_all(decision, now_ms, facts)
    }

    fn apply_all<'a>(&mut self, decision: Decision<'a>, now_ms: u64, facts: &mut Facts) -> Outcome<'a> {
        decision.effects.iter().for_each(|effect| self.apply(now_ms, effect, facts));
        decision.outcome
    }

    /// Keeps count of what buyers asked for in vain in one shard of several: whoever moves stock between shards must
    /// hear of buyers who got nothing. A fixed few bytes for each SKU, however many come.
    fn note_missed(&mut self, command: &Command<'_>, outcome: &Outcome<'_>) {
        let (Outcome::Empty { sku } | Outcome::AllHeld { sku, .. }) = outcome else { return };
        let items = match command {
            Command::Reserve(reserve) => &reserve.items,
            Command::Order(order) => &order.items,
            _ => return,
        };
        let asked = items.iter().find(|item| *item.sku == **sku);
        if let (true, Some(item), Some(index)) = (self.shard.count > 1, asked, self.skus.find(sku)) {
            let sku = self.skus.get_mut(index);
            sku.missed = sku.missed.saturating_add(item.qty.into());
            sku.missed_last = item.qty;
        }
    }

    /// Ends due holds.
    pub fn expire(&mut self, due: &DueIds, now_ms: u64, log: &mut EffectLog, facts: &mut Facts) {
        if let Some(effect) = due.effect() {
            log.push(&effect);
            self.apply_expiry(now_ms, due.slots(), facts);
        }
    }

    /// The time at which a command is decided: the clock of a sale never runs backwards.
    pub fn now(&self, server_ms: u64) -> u64 {
        server_ms.max(self.clock_ms)
    }

    fn unless<'a>(&self, done: bool, effect: Effect<'a>) -> Decision<'a> {
        if done { Decision::nothing(Outcome::Ok) } else { Decision::one(Outcome::Ok, effect) }
    }

    /// The number that an order will have which is confirmed after `held` events of the same step.
    fn next_order_no(&self, held: u64) -> u64 {
        let before = if self.settings.events == Events::All { held } else { 0 };
        self.entry_no + before + 1
    }

    /// Whether stored items are those that a command names.
    fn same_items(&self, stored: &[(u16, u32)], given: &Items<'_>) -> bool {
        stored.len() == given.len()
            && given.iter().all(|item| {
                let index = self.skus.find(item.sku);
                index.is_some_and(|index| stored.contains(&(index, item.qty)))
            })
    }

    /// The part of `from` that a command names; all if it names nothing. `None` if it names more.
    fn part_of(&self, from: &[(u16, u32)], given: &Items<'_>) -> Option<IndexedItems> {
        if given.is_empty() {
            return Some(from.iter().copied().filter(|&(_, qty)| qty > 0).collect());
        }
        let find = |sku| {
            let index = self.skus.find(sku)?;
            from.iter().find(|&&(known, _)| known == index)
        };
        given
            .iter()
            .map(|item| {
                let &(index, most) = find(item.sku)?;
                (item.qty <= most).then_some((index, item.qty))
            })
            .collect()
    }
}
