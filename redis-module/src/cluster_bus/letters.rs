//! What letters of other nodes bring about.

use super::Bus;
use super::knowledge::Heard;
use super::post::{Parcel, To};
use super::shard::SaleId;
use crate::execute::Call;
use crate::server::{Ctx, OwnedString};
use crate::state::State;
use flashsale_core::command::{Accept, Command, Grant};
use flashsale_core::gossip::{Letter, Word};
use flashsale_core::{Outcome, balance, bounds, sharding};

impl Bus {
    /// Acts on what has arrived.
    pub(super) fn read_post(&mut self, ctx: Ctx<'_>, state: &mut State, now_ms: u64) {
        for parcel in self.post.arrived(now_ms) {
            let Ok((sent_ms, letters)) = flashsale_core::gossip::read(&parcel.content) else {
                self.post.counts.dropped += 1;
                continue;
            };
            for letter in letters {
                self.act(ctx, state, &parcel, sent_ms, &letter, now_ms);
            }
        }
    }

    fn act(
        &mut self,
        ctx: Ctx<'_>,
        state: &mut State,
        parcel: &Parcel,
        sent_ms: u64,
        letter: &Letter<'_>,
        now_ms: u64,
    ) {
        let sale = SaleId::of_letter(letter);
        let Some(book) = self.books.get_mut(&sale) else { return };
        match letter.word {
            Word::News { shard, sku, counters, need } => {
                book.hear(shard, sku, Heard { counters, need, at_ms: now_ms, sent_ms, sender: parcel.sender });
            }
            Word::Inquiry { shard: asking } => {
                for own in self.shards.values_mut().filter(|own| own.sale == sale) {
                    for sku in own.skus.values_mut() {
                        sku.told = None;
                        sku.grants.entry(asking).and_modify(|granted| granted.settled = 0);
                    }
                }
            }
            Word::Ask { donor, sku, asker, qty, after } => {
                let key = sharding::shard_key(letter.sale, donor, letter.shards);
                if self.is_here(ctx, state, &key, letter, now_ms) {
                    self.give(ctx, state, &key, parcel, (sku, asker, qty, after), now_ms);
                }
            }
            Word::Total { donor, receiver, sku, total } => {
                let key = sharding::shard_key(letter.sale, receiver, letter.shards);
                if self.is_here(ctx, state, &key, letter, now_ms) {
                    let accept = Accept { sku, from: donor, total };
                    let outcome = carry_out(ctx, state, &key, &Command::Accept(accept));
                    if let Some(Outcome::Accepted { taken, .. }) = outcome {
                        self.post.counts.accepted += taken;
                        self.has_accepted(ctx, state, &key, (donor, sku, total, taken), parcel, now_ms);
                    }
                }
            }
            Word::Nothing { donor, receiver, sku } => {
                let key = sharding::shard_key(letter.sale, receiver, letter.shards);
                let own = self.shards.get_mut(&key).filter(|shard| shard.sale == sale);
                if let Some(own) = own.and_then(|shard| shard.skus.get_mut(sku))
                    && own.refused_by(donor)
                {
                    self.ask(&key, now_ms);
                }
            }
            Word::Accepted { donor, receiver, sku, total } => {
                let key = sharding::shard_key(letter.sale, donor, letter.shards);
                let own = self.shards.get_mut(&key).filter(|shard| shard.sale == sale);
                let own = own.and_then(|shard| shard.skus.get_mut(sku));
                if let Some(granted) = own.and_then(|own| own.grants.get_mut(&receiver)) {
                    granted.settled = granted.settled.max(total);
                }
            }
        }
    }

    /// Whether the shard that a letter is for is on this node, and of the sale that the letter means: a key of the same
    /// name may be left from an earlier one.
    fn is_here(&mut self, ctx: Ctx<'_>, state: &mut State, key: &[u8], letter: &Letter<'_>, now_ms: u64) -> bool {
        self.shards.contains_key(key)
            && self.look(ctx, state, key, now_ms)
            && self.shards.get(key).is_some_and(|shard| shard.sale.edition == letter.edition)
    }

    fn has_accepted(
        &mut self,
        ctx: Ctx<'_>,
        state: &mut State,
        key: &[u8],
        (donor, sku, total, taken): (u32, &[u8], u64, u64),
        parcel: &Parcel,
        now_ms: u64,
    ) {
        if taken > 0 {
            self.look(ctx, state, key, now_ms);
        }
        let Some(shard) = self.shards.get_mut(key) else { return };
        let own = shard.sku(sku);
        if taken > 0 {
            own.arrived();
        }
        let word = Word::Accepted { donor, receiver: shard.index, sku, total };
        self.post.write(To::Node(parcel.sender), &shard.sale.letter(word), now_ms);
        if taken > 0 {
            // At the pace of a rush these units may be gone before anybody looks again.
            self.ask(key, now_ms);
        }
    }

    /// Another shard asks one of ours for units.
    fn give(
        &mut self,
        ctx: Ctx<'_>,
        state: &mut State,
        key: &[u8],
        parcel: &Parcel,
        (sku, asker, qty, after): (&[u8], balance::Shelf, u64, u64),
        now_ms: u64,
    ) {
        let Some(shard) = self.shards.get_mut(key) else { return };
        let (index, own) = (shard.index, shard.sku(sku));
        let granted = own.grants.get(&asker.shard).copied().unwrap_or_default();
        if granted.noted > after {
            // Units are on their way already. They are told once they are safe; here again, if they are.
            if granted.safe > after {
                let word = Word::Total { donor: index, receiver: asker.shard, sku, total: granted.safe };
                self.post.write(To::Node(parcel.sender), &shard.sale.letter(word), now_ms);
            }
            return;
        }
        let units = balance::give(&own.shelf(index, now_ms), &asker, qty).min(bounds::MAX_QUANTITY.into());
        let grant = Grant { sku, qty: units as u32, to: asker.shard, after: Some(after) };
        let outcome = if units > 0 { carry_out(ctx, state, key, &Command::Grant(grant)) } else { None };
        match outcome {
            Some(Outcome::Granted { total, .. }) if total > after => {
                self.post.counts.granted += total - after;
                self.look(ctx, state, key, now_ms);
            }
            _ => {
                let Some(shard) = self.shards.get_mut(key) else { return };
                let (counters, need) = shard.sku(sku).tell(now_ms);
                let news = Word::News { shard: index, sku, counters, need };
                let nothing = Word::Nothing { donor: index, receiver: asker.shard, sku };
                for word in [news, nothing] {
                    self.post.write(To::Node(parcel.sender), &shard.sale.letter(word), now_ms);
                }
            }
        }
    }
}

/// Carries a command out on a shard of this node, with nobody to answer.
fn carry_out<'c>(ctx: Ctx<'c>, state: &mut State, key: &[u8], command: &Command<'c>) -> Option<Outcome<'c>> {
    let name = OwnedString::new(key);
    // SAFETY: the name outlives the call, in which alone it is used.
    let key_name = unsafe { crate::server::ServerString::from_raw(name.borrowed().raw()) };
    Call { ctx, key_name, words: &[], strings: &[], state, stream: None }.carry_out(command).ok()
}
