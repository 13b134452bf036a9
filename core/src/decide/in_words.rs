//! Commands that are their own record.
//!
//! Replicas and logs are told effects, with every id, time and amount. Some commands name their effects outright:
//! the ids and amounts stand in their words, and the time is the sale's own clock, wherever that stands already.
//! Such a command may be replicated in its own words, which costs the primary next to nothing. Whoever gets it
//! decides nothing: [`Sale::effects_in_words`] reads the effects off the words, and [`Sale::apply`] carries them out.

use crate::command::{Command, Item, Reserve};
use crate::effect::{Effect, EffectLog, IndexedItems};
use crate::holds::State;
use crate::sale::Sale;
use smallvec::{SmallVec, smallvec};

/// Effects of one command.
pub type Effects<'a> = SmallVec<[Effect<'a>; 2]>;

impl Sale {
    /// Whether the command, once carried out at `now_ms` with nothing else happening in its step, is told by its
    /// words alone to whoever has the sale as it is now.
    pub(super) fn is_in_words(&self, command: &Command<'_>, now_ms: u64) -> bool {
        let named = match command {
            Command::Reserve(reserve) => reserve.id.is_some() && !reserve.up_to && reserve.replace.is_none(),
            Command::Order(order) => order.id.is_some(),
            Command::Confirm(confirm) => !confirm.late,
            Command::Release(_) => true,
            _ => false,
        };
        named && now_ms == self.clock_ms
    }

    /// The effects that a command names which was carried out elsewhere at this sale's clock. `None` if it names
    /// none here: then the sale is not as it was there.
    pub fn effects_in_words<'a>(&self, command: &Command<'a>) -> Option<Effects<'a>> {
        match command {
            Command::Reserve(reserve) => Some(smallvec![Effect::Reserve {
                id: reserve.id?,
                buyer: reserve.buyer,
                items: self.indexed(&reserve.items)?,
                requested: None,
                deadline: self.deadline_in_words(reserve),
                meta: reserve.meta,
            }]),
            Command::Order(order) => {
                let id = order.id?;
                let confirm = Effect::Confirm { id, reference: order.reference, meta: None, items: None };
                if self.live(id).is_some() {
                    return Some(smallvec![confirm]);
                }
                let deadline = self.clock_ms + self.settings.hold_ms;
                let (buyer, items, meta) = (order.buyer, self.indexed(&order.items)?, order.meta);
                Some(smallvec![Effect::Reserve { id, buyer, items, requested: None, deadline, meta }, confirm])
            }
            Command::Confirm(confirm) => {
                let slot = self.live(confirm.id)?;
                Some(self.confirm_live(slot, confirm).effects).filter(|effects| !effects.is_empty())
            }
            Command::Release(release) if self.live(release.id).is_some() => {
                Some(smallvec![Effect::Release { id: release.id, reason: release.reason }])
            }
            Command::Release(release) => Some(smallvec![Effect::Tombstone { id: release.id }]),
            _ => None,
        }
    }

    fn live(&self, id: &[u8]) -> Option<u32> {
        self.holds.find(id).filter(|&slot| self.holds.get(slot).state == State::Held)
    }

    pub(super) fn deadline_in_words(&self, reserve: &Reserve<'_>) -> u64 {
        self.clock_ms + reserve.ttl_ms.unwrap_or(self.settings.hold_ms)
    }

    pub(super) fn indexed(&self, items: &[Item<'_>]) -> Option<IndexedItems> {
        items.iter().map(|item| Some((self.skus.find(item.sku)?, item.qty))).collect()
    }

    /// Writes the effects of the first commands of a step into its log, in place of their words: a later command
    /// of the same step has something else to tell. They have all been carried out as they were told, and are new
    /// holds: what makes those can be read off the words afterwards, too, as nothing else can.
    pub fn spell_out<'a>(&self, commands: &'a [Command<'a>], log: &mut EffectLog) {
        debug_assert!(commands.iter().all(|command| matches!(command, Command::Reserve(_))));
        let effects = commands.iter().filter_map(|command| self.effects_in_words(command));
        log.spell_out(effects.flatten());
    }
}
