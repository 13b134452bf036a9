//! What a decision does to a sale, in a form that can be carried anywhere and carried out anywhere.
//!
//! Effects name ids, times and amounts outright. An [`EffectLog`] is what replicas and the append-only file
//! get: one version byte, the time, then the effects one after another.

mod encoding;

use crate::bounds;
use crate::sale::{Settings, Shard};
use crate::wire::{Malformed, Reader, put_varint};
pub(crate) use encoding::{put_items, put_settings, read_edition, read_items, read_settings, read_shard, read_sku};
use smallvec::SmallVec;

/// SKUs by their index in the sale, with units.
pub type IndexedItems = SmallVec<[(u16, u32); 2]>;

/// One change of a sale. Applying it cannot fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// The sale begins; the first effect of every log.
    Create(Settings, Shard),
    /// Which sale of its name this is, see [`Sale::edition`](crate::Sale::edition).
    Edition(u64),
    /// The settings change.
    Alter(Settings),
    /// Units are added or withdrawn.
    Stock {
        /// Which SKU; made if it is unknown.
        sku: &'a [u8],
        /// Units, negative to withdraw.
        delta: i64,
        /// Counted once.
        alloc_id: Option<&'a [u8]>,
        /// The SKU's new limit per buyer.
        limit: Option<u32>,
    },
    /// Units are set aside. An ended hold or tombstone of the same id is forgotten.
    Reserve {
        /// The hold's id.
        id: &'a [u8],
        /// For whom.
        buyer: &'a [u8],
        /// What was taken.
        items: IndexedItems,
        /// What was asked for, if it was more.
        requested: Option<IndexedItems>,
        /// Until when, unix ms.
        deadline: u64,
        /// The caller's text.
        meta: Option<&'a [u8]>,
    },
    /// A hold becomes an order.
    Confirm {
        /// Which hold.
        id: &'a [u8],
        /// The shop's reference.
        reference: Option<&'a [u8]>,
        /// The caller's text, if it is to change.
        meta: Option<&'a [u8]>,
        /// What is sold, if it is less than what was held; the rest is freed.
        items: Option<IndexedItems>,
    },
    /// A hold is freed.
    Release {
        /// Which hold.
        id: &'a [u8],
        /// Why, for the order stream.
        reason: Option<&'a [u8]>,
    },
    /// An id is remembered that was released before it was reserved.
    Tombstone {
        /// Which id.
        id: &'a [u8],
    },
    /// Holds have met their deadline.
    Expire {
        /// Their ids.
        ids: Vec<&'a [u8]>,
    },
    /// A deadline moves.
    Extend {
        /// Which hold.
        id: &'a [u8],
        /// To when, unix ms.
        deadline: u64,
    },
    /// An expired hold takes its units again, to be confirmed in the same log.
    Revive {
        /// Which hold.
        id: &'a [u8],
        /// What it takes.
        items: IndexedItems,
    },
    /// Units of an order come back.
    Return {
        /// Which order.
        id: &'a [u8],
        /// Counted once.
        return_id: &'a [u8],
        /// What comes back.
        items: IndexedItems,
    },
    /// Reserving stops for a while.
    Pause,
    /// Reserving goes on.
    Resume,
    /// Reserving stops for good.
    Close,
    /// Units leave for another shard.
    Grant {
        /// Which SKU.
        sku: u16,
        /// How many.
        qty: u64,
        /// The other shard.
        to: u32,
    },
    /// Units arrive from another shard.
    Accept {
        /// Which SKU.
        sku: u16,
        /// The other shard.
        from: u32,
        /// Its new total.
        total: u64,
    },
    /// Order stream ids must be no earlier than this, unix ms.
    StreamFloor {
        /// The time.
        ms: u64,
        /// Entries so far: the next one has a higher number.
        no: u64,
    },
}

/// Version of the log's layout. A reader refuses a newer one.
const LOG_VERSION: u8 = 1;
/// One command has this many effects or fewer, whatever they are ...
const FEW_EFFECTS: usize = 4;
/// ... and beyond that two for each hold, which take far more bytes than this on average. So a log of tiny
/// effects is refused before it takes a hundred times its bytes in memory.
const BYTES_PER_EFFECT: usize = 8;

/// A log that was longer than this gives its memory back: an EXPIRE of a million holds is no measure for others.
const MOST_KEPT_BYTES: usize = 64 * 1024;

/// Effects of one command, to be replicated.
#[derive(Clone, Debug, Default)]
pub struct EffectLog {
    bytes: Vec<u8>,
    /// Length of version and time; 0 before the first start.
    header: usize,
    at_ms: u64,
    effects: usize,
    wording: Wording,
    /// Commands that are told by their own words.
    commands: usize,
}

/// Whether commands that name their effects may be told by their own words (see [`Sale::effects_in_words`]).
///
/// [`Sale::effects_in_words`]: crate::Sale::effects_in_words
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wording {
    /// Every effect is written out.
    #[default]
    Effects,
    /// They may: whoever reads the log gets the words too.
    Words,
}

impl EffectLog {
    /// Forgets everything but a moderate buffer, and starts a log of effects at `at_ms`.
    #[inline(always)] // on the way of every request
    pub fn start(&mut self, at_ms: u64, wording: Wording) {
        (self.effects, self.commands, self.wording) = (0, 0, wording);
        if self.header > 0 && self.at_ms == at_ms {
            self.bytes.truncate(self.header);
        } else {
            self.bytes.clear();
            self.bytes.push(LOG_VERSION);
            put_varint(&mut self.bytes, at_ms);
            (self.header, self.at_ms) = (self.bytes.len(), at_ms);
        }
        if self.bytes.capacity() > MOST_KEPT_BYTES {
            self.bytes.shrink_to(MOST_KEPT_BYTES);
        }
    }

    /// Adds an effect.
    pub fn push(&mut self, effect: &Effect<'_>) {
        effect.encode(&mut self.bytes);
        self.effects += 1;
    }

    /// Adds an effect before all others.
    pub fn put_first(&mut self, effect: &Effect<'_>) {
        let mut encoded = Vec::new();
        effect.encode(&mut encoded);
        self.bytes.splice(self.header..self.header, encoded);
        self.effects += 1;
    }

    /// Whether the next command may still be told by its own words.
    pub(crate) fn takes_words(&self) -> bool {
        self.wording == Wording::Words && self.effects == 0
    }

    /// A command has been carried out that its own words tell.
    pub(crate) fn count_words(&mut self) {
        self.commands += 1;
    }

    /// How many commands are told by their own words.
    pub fn commands(&self) -> usize {
        self.commands
    }

    /// Puts effects in the place of the words that were counted, before all others, and takes no words any more.
    pub(crate) fn spell_out<'a>(&mut self, effects: impl IntoIterator<Item = Effect<'a>>) {
        (self.commands, self.wording) = (0, Wording::Effects);
        let mut encoded = Vec::new();
        for effect in effects {
            effect.encode(&mut encoded);
            self.effects += 1;
        }
        self.bytes.splice(self.header..self.header, encoded);
    }

    /// Whether nothing has changed since the start.
    pub fn is_empty(&self) -> bool {
        !self.has_effects() && self.commands == 0
    }

    /// Whether there are effects that no words tell.
    pub fn has_effects(&self) -> bool {
        self.effects > 0
    }

    /// The log as bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a log: its time, then its effects. Garbage is an error, never a panic nor a huge allocation.
pub fn read_log(bytes: &[u8]) -> Result<(u64, Vec<Effect<'_>>), Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.byte()? != LOG_VERSION {
        return Err(Malformed("the log was written by a newer version"));
    }
    let at_ms = reader.number(bounds::MAX_TIME_MS, "the time is out of range")?;
    let mut effects = Vec::with_capacity(2);
    let most = FEW_EFFECTS + bytes.len() / BYTES_PER_EFFECT;
    while !reader.is_empty() {
        if effects.len() == most {
            return Err(Malformed("more effects than one command can have"));
        }
        effects.push(Effect::decode(&mut reader)?);
    }
    Ok((at_ms, effects))
}
