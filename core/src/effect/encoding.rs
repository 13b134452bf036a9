//! Effects as bytes, and what snapshots have in common with them: settings, shards, items.

use super::{Effect, IndexedItems};
use crate::bounds;
use crate::intake::{add_item, check_settings, check_shard};
use crate::sale::{Events, Settings, Shard};
use crate::wire::{Malformed, Reader, Sink, put_bytes, put_optional_bytes, put_signed, put_varint};

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
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
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

    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
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
