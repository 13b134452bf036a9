//! What a decision does to a sale, in a form that can be carried anywhere and carried out anywhere.
//!
//! Effects name ids, times and amounts outright. An [`EffectLog`] is what replicas and the append-only file
//! get: one version byte, the time, then the effects one after another.

use crate::bounds;
use crate::intake::{add_item, check_settings, check_shard};
use crate::sale::{Events, Settings, Shard};
use crate::wire::{Malformed, Reader, Sink, put_bytes, put_optional_bytes, put_signed, put_varint};
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

mod tag {
    pub const CREATE: u8 = 1;
    pub const ALTER: u8 = 2;
    pub const STOCK: u8 = 3;
    pub const RESERVE: u8 = 4;
    pub const CONFIRM: u8 = 5;
    pub const RELEASE: u8 = 6;
    pub const TOMBSTONE: u8 = 7;
    pub const EXPIRE: u8 = 8;
    pub const EXTEND: u8 = 9;
    pub const REVIVE: u8 = 10;
    pub const RETURN: u8 = 11;
    pub const PAUSE: u8 = 12;
    pub const RESUME: u8 = 13;
    pub const CLOSE: u8 = 14;
    pub const GRANT: u8 = 15;
    pub const ACCEPT: u8 = 16;
    pub const STREAM_FLOOR: u8 = 17;
    pub const EDITION: u8 = 18;
}

impl<'a> Effect<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Create(settings, shard) => {
                out.push(tag::CREATE);
                put_settings(out, settings);
                put_varint(out, shard.index.into());
                put_varint(out, shard.count.into());
            }
            Self::Edition(edition) => {
                out.push(tag::EDITION);
                put_varint(out, *edition);
            }
            Self::Alter(settings) => {
                out.push(tag::ALTER);
                put_settings(out, settings);
            }
            Self::Stock { sku, delta, alloc_id, limit } => {
                out.push(tag::STOCK);
                put_bytes(out, sku);
                put_signed(out, *delta);
                put_optional_bytes(out, *alloc_id);
                put_varint(out, limit.map_or(0, |limit| u64::from(limit) + 1));
            }
            Self::Reserve { id, buyer, items, requested, deadline, meta } => {
                out.push(tag::RESERVE);
                put_bytes(out, id);
                put_bytes(out, buyer);
                put_items(out, items);
                put_optional_items(out, requested.as_ref());
                put_varint(out, *deadline);
                put_optional_bytes(out, *meta);
            }
            Self::Confirm { id, reference, meta, items } => {
                out.push(tag::CONFIRM);
                put_bytes(out, id);
                put_optional_bytes(out, *reference);
                put_optional_bytes(out, *meta);
                put_optional_items(out, items.as_ref());
            }
            Self::Release { id, reason } => {
                out.push(tag::RELEASE);
                put_bytes(out, id);
                put_optional_bytes(out, *reason);
            }
            Self::Tombstone { id } => {
                out.push(tag::TOMBSTONE);
                put_bytes(out, id);
            }
            Self::Expire { ids } => {
                out.push(tag::EXPIRE);
                put_varint(out, ids.len() as u64);
                ids.iter().for_each(|id| put_bytes(out, id));
            }
            Self::Extend { id, deadline } => {
                out.push(tag::EXTEND);
                put_bytes(out, id);
                put_varint(out, *deadline);
            }
            Self::Revive { id, items } => {
                out.push(tag::REVIVE);
                put_bytes(out, id);
                put_items(out, items);
            }
            Self::Return { id, return_id, items } => {
                out.push(tag::RETURN);
                put_bytes(out, id);
                put_bytes(out, return_id);
                put_items(out, items);
            }
            Self::Pause => out.push(tag::PAUSE),
            Self::Resume => out.push(tag::RESUME),
            Self::Close => out.push(tag::CLOSE),
            Self::Grant { sku, qty, to } => {
                out.push(tag::GRANT);
                [u64::from(*sku), *qty, u64::from(*to)].iter().for_each(|&n| put_varint(out, n));
            }
            Self::Accept { sku, from, total } => {
                out.push(tag::ACCEPT);
                [u64::from(*sku), u64::from(*from), *total].iter().for_each(|&n| put_varint(out, n));
            }
            Self::StreamFloor { ms, no } => {
                out.push(tag::STREAM_FLOOR);
                put_varint(out, *no);
                put_varint(out, *ms);
            }
        }
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match reader.byte()? {
            tag::CREATE => Self::Create(read_settings(reader)?, read_shard(reader)?),
            tag::EDITION => Self::Edition(read_edition(reader)?),
            tag::ALTER => Self::Alter(read_settings(reader)?),
            tag::STOCK => Self::Stock {
                sku: reader.name()?,
                delta: reader.signed()?,
                alloc_id: reader.optional_name()?,
                limit: match reader.number(u64::from(bounds::MAX_QUANTITY) + 1, "a limit is out of range")? {
                    0 => None,
                    limit => Some(limit as u32 - 1),
                },
            },
            tag::RESERVE => Self::Reserve {
                id: reader.name()?,
                buyer: reader.name()?,
                items: read_items(reader)?,
                requested: read_optional_items(reader)?,
                deadline: read_time(reader)?,
                meta: reader.optional_text(bounds::MAX_META_BYTES)?,
            },
            tag::CONFIRM => Self::Confirm {
                id: reader.name()?,
                reference: reader.optional_text(bounds::MAX_REF_BYTES)?,
                meta: reader.optional_text(bounds::MAX_META_BYTES)?,
                items: read_optional_items(reader)?,
            },
            tag::RELEASE => Self::Release { id: reader.name()?, reason: reader.optional_text(bounds::MAX_REF_BYTES)? },
            tag::TOMBSTONE => Self::Tombstone { id: reader.name()? },
            tag::EXPIRE => Self::Expire { ids: read_ids(reader)? },
            tag::EXTEND => Self::Extend { id: reader.name()?, deadline: read_time(reader)? },
            tag::REVIVE => Self::Revive { id: reader.name()?, items: read_items(reader)? },
            tag::RETURN => Self::Return { id: reader.name()?, return_id: reader.name()?, items: read_items(reader)? },
            tag::PAUSE => Self::Pause,
            tag::RESUME => Self::Resume,
            tag::CLOSE => Self::Close,
            tag::GRANT => Self::Grant {
                sku: read_sku(reader)?,
                qty: reader.number(bounds::MAX_STOCKED, "a quantity is out of range")?,
                to: reader.number(bounds::MAX_SHARDS.into(), "a shard is out of range")? as u32,
            },
            tag::ACCEPT => Self::Accept {
                sku: read_sku(reader)?,
                from: reader.number(bounds::MAX_SHARDS.into(), "a shard is out of range")? as u32,
                total: reader.number(bounds::MAX_STOCKED, "a quantity is out of range")?,
            },
            tag::STREAM_FLOOR => Self::StreamFloor {
                no: reader.number(bounds::MAX_STOCKED, "an entry number is out of range")?,
                ms: read_time(reader)?,
            },
            _ => return Err(Malformed("an unknown effect")),
        })
    }
}

/// Times of a few days after the latest possible clock: deadlines.
fn read_time(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    reader.number(bounds::MAX_TIME_MS + bounds::MAX_HOLD_MS, "a time is out of range")
}

pub(crate) fn read_sku(reader: &mut Reader<'_>) -> Result<u16, Malformed> {
    Ok(reader.number(u16::MAX.into(), "a SKU is out of range")? as u16)
}

fn read_ids<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a [u8]>, Malformed> {
    let mut ids = Vec::new();
    for _ in 0..reader.varint()? {
        ids.push(reader.name()?);
    }
    Ok(ids)
}

pub(crate) fn put_settings(out: &mut impl Sink, settings: &Settings) {
    let events = match settings.events {
        Events::Orders => 0,
        Events::All => 1,
        Events::None => 2,
    };
    let Settings { limit, hold_ms, maxhold_ms, opens_at, closes_at, retain_ms, backlog, events: _ } = *settings;
    for number in [limit.into(), hold_ms, maxhold_ms, opens_at, closes_at, retain_ms, backlog, events] {
        put_varint(out, number);
    }
}

pub(crate) fn read_settings(reader: &mut Reader<'_>) -> Result<Settings, Malformed> {
    let settings = Settings {
        limit: reader.u32("LIMIT is out of range")?,
        hold_ms: reader.varint()?,
        maxhold_ms: reader.varint()?,
        opens_at: reader.varint()?,
        closes_at: reader.varint()?,
        retain_ms: reader.varint()?,
        backlog: reader.varint()?,
        events: match reader.byte()? {
            0 => Events::Orders,
            1 => Events::All,
            2 => Events::None,
            _ => return Err(Malformed("EVENTS is unknown")),
        },
    };
    check_settings(&settings)?;
    Ok(settings)
}

pub(crate) fn read_edition(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    reader.number(bounds::MAX_TIME_MS, "the edition is out of range")
}

pub(crate) fn read_shard(reader: &mut Reader<'_>) -> Result<Shard, Malformed> {
    let shard = Shard { index: reader.u32("a shard is out of range")?, count: reader.u32("a shard is out of range")? };
    check_shard(shard)?;
    Ok(shard)
}

pub(crate) fn put_items(out: &mut impl Sink, items: &[(u16, u32)]) {
    put_varint(out, items.len() as u64);
    for &(sku, qty) in items {
        put_varint(out, sku.into());
        put_varint(out, qty.into());
    }
}

pub(crate) fn put_optional_items(out: &mut impl Sink, items: Option<&IndexedItems>) {
    put_items(out, items.map_or(&[], |items| &items[..]));
}

/// Items of distinct SKUs, each of at least one unit.
pub(crate) fn read_items(reader: &mut Reader<'_>) -> Result<IndexedItems, Malformed> {
    let mut items = IndexedItems::new();
    for _ in 0..reader.varint()? {
        add_item(&mut items, read_sku(reader)?, reader.u32("a quantity is out of range")?)?;
    }
    Ok(items)
}

pub(crate) fn read_optional_items(reader: &mut Reader<'_>) -> Result<Option<IndexedItems>, Malformed> {
    let items = read_items(reader)?;
    Ok((!items.is_empty()).then_some(items))
}
