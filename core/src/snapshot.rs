//! A sale as bytes: for RDB files, DUMP, AOF rewrites and digests.
//!
//! A snapshot is a header, then chunks of holds, then an empty chunk. Levels are not stored: they follow
//! from stock, transfers and holds. Reading trusts nothing, allocates only for bytes that are there, and leaves it to
//! `intake` to judge what it has read.

use crate::effect::{put_items, put_settings, read_edition, read_items, read_settings, read_shard, read_sku};
use crate::holds::{Content, State};
use crate::intake::{Intake, add_refund};
use crate::sale::{Extra, Sale, Sku, Transfer};
use crate::wire::{Malformed, Reader, put_bytes, put_optional_bytes, put_signed, put_varint};

/// Version of the layout. Older ones still load; a newer one is refused.
pub const VERSION: u8 = 2;
/// The first version, which has no edition.
const VERSION_WITHOUT_EDITION: u8 = 1;
/// A chunk of holds is passed on when it is about this long.
const CHUNK_BYTES: usize = 64 * 1024;

mod state_code {
    pub const HELD: u8 = 0;
    pub const CONFIRMED: u8 = 1;
    pub const RETURNED: u8 = 2;
    pub const RELEASED: u8 = 3;
    pub const EXPIRED: u8 = 4;
    pub const TOMBSTONE: u8 = 5;
    pub const MASK: u8 = 7;
    pub const HAS_EXTRA: u8 = 8;
}

impl Sale {
    /// Hands out the snapshot chunk by chunk, the empty last one too.
    pub fn snapshot(&self, mut take: impl FnMut(&[u8])) {
        let mut chunk = Vec::new();
        self.put_header(&mut chunk);
        take(&chunk);
        chunk.clear();
        for slot in self.slots_in_order() {
            self.put_hold(&mut chunk, slot);
            if chunk.len() >= CHUNK_BYTES {
                take(&chunk);
                chunk.clear();
            }
        }
        if !chunk.is_empty() {
            take(&chunk);
        }
        take(&[]);
    }

    /// Hands out the sale in parts whose set, in any order, is the same for equal sales: for digests.
    pub fn digest_parts(&self, mut take: impl FnMut(&[u8])) {
        let mut part = Vec::new();
        self.put_header(&mut part);
        take(&part);
        for slot in self.holds.slots() {
            part.clear();
            self.put_hold(&mut part, slot);
            take(&part);
        }
    }

    /// Live holds and orders in any order, then the queues of ended ids, oldest first.
    fn slots_in_order(&self) -> impl Iterator<Item = u32> {
        let unqueued = self.holds.slots().filter(|&slot| !self.holds.get(slot).state.is_ended());
        unqueued.chain(self.ended.iter(&self.holds)).chain(self.tombstones.iter(&self.holds))
    }

    fn put_header(&self, out: &mut Vec<u8>) {
        // What an older module can read is written as it wrote it.
        out.push(if self.edition == 0 { VERSION_WITHOUT_EDITION } else { VERSION });
        put_settings(out, &self.settings);
        put_varint(out, self.shard.index.into());
        put_varint(out, self.shard.count.into());
        if self.edition != 0 {
            put_varint(out, self.edition);
        }
        out.push(u8::from(self.paused) | u8::from(self.closed) << 1);
        for number in [self.clock_ms, self.entry_no, self.stream_floor_ms, self.orders] {
            put_varint(out, number);
        }
        put_varint(out, self.skus.len() as u64);
        for sku in self.skus.iter() {
            put_bytes(out, &sku.name);
            let sold_out = u64::from(sku.sold_out);
            [sku.stocked, sku.limit.into(), sold_out, sku.version].iter().for_each(|&n| put_varint(out, n));
        }
        put_varint(out, self.allocations.len() as u64);
        for (id, &(sku, delta)) in &self.allocations {
            put_bytes(out, id);
            put_varint(out, sku.into());
            put_signed(out, delta);
        }
        put_varint(out, self.transfers.len() as u64);
        for (&(sku, other), transfer) in &self.transfers {
            let numbers = [sku.into(), other.into(), transfer.granted, transfer.accepted];
            numbers.iter().for_each(|&n| put_varint(out, n));
        }
    }

    fn put_hold(&self, out: &mut Vec<u8>, slot: u32) {
        let record = self.holds.get(slot);
        let content = self.holds.content(slot);
        let extra = self.extras.get(&slot);
        let code = match record.state {
            State::Held | State::Free => state_code::HELD,
            State::Confirmed => state_code::CONFIRMED,
            State::Returned => state_code::RETURNED,
            State::Released => state_code::RELEASED,
            State::Expired => state_code::EXPIRED,
            State::Tombstone => state_code::TOMBSTONE,
        };
        out.push(code | if extra.is_some() { state_code::HAS_EXTRA } else { 0 });
        put_bytes(out, content.id);
        put_signed(out, record.time_ms() as i64 - self.clock_ms as i64);
        if record.state == State::Tombstone {
            return;
        }
        put_bytes(out, content.buyer);
        put_items(out, &content.items);
        put_varint(out, record.life_ms.into());
        put_optional_bytes(out, content.meta);
        put_optional_bytes(out, content.reference);
        if record.state == State::Confirmed {
            put_varint(out, record.order_no());
        }
        if let Some(extra) = extra {
            put_extra(out, extra);
        }
    }
}

fn put_extra(out: &mut Vec<u8>, extra: &Extra) {
    put_items(out, extra.requested.as_deref().unwrap_or_default());
    put_items(out, extra.confirmed_from.as_deref().unwrap_or_default());
    put_varint(out, extra.order_no);
    put_varint(out, extra.returns.len() as u64);
    for refund in &extra.returns {
        put_bytes(out, &refund.id);
        put_items(out, &refund.items);
    }
}

/// Takes a snapshot chunk by chunk.
#[derive(Debug)]
pub struct Loader {
    intake: Intake,
    complete: bool,
    in_small_steps: bool,
}

impl Loader {
    /// Starts with the header. `seed` as in [`Sale::new`].
    pub fn new(header: &[u8], seed: [u64; 2]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(header);
        let version = reader.byte()?;
        if ![VERSION_WITHOUT_EDITION, VERSION].contains(&version) {
            return Err(Malformed("the snapshot was written by a newer version of the module"));
        }
        let settings = read_settings(&mut reader)?;
        let shard = read_shard(&mut reader)?;
        let mut sale = Sale::new(settings, shard, seed);
        if version == VERSION {
            sale.edition = read_edition(&mut reader)?;
        }
        let flags = reader.byte()?;
        (sale.paused, sale.closed) = (flags & 1 != 0, flags & 2 != 0);
        for number in [&mut sale.clock_ms, &mut sale.entry_no, &mut sale.stream_floor_ms, &mut sale.orders] {
            *number = reader.varint()?;
        }
        let mut intake = Intake::of(sale)?;
        read_skus(&mut reader, &mut intake)?;
        read_allocations(&mut reader, &mut intake)?;
        read_transfers(&mut reader, &mut intake)?;
        if !reader.is_empty() {
            return Err(Malformed("the header is longer than it should be"));
        }
        Ok(Self { intake, complete: false, in_small_steps: false })
    }

    /// Has every chunk do its share of the work, where a server must serve others meanwhile. Otherwise the indexes are
    /// built when all is there, which is quicker by half.
    pub fn in_small_steps(self) -> Self {
        Self { in_small_steps: true, ..self }
    }

    /// Takes the next chunk; the empty one ends the snapshot.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        if self.complete {
            return Err(Malformed("the snapshot goes on after its end"));
        }
        self.complete = chunk.is_empty();
        let mut reader = Reader::new(chunk);
        while !reader.is_empty() {
            read_hold(&mut reader, &mut self.intake)?;
        }
        if self.in_small_steps { self.intake.index_new() } else { Ok(()) }
    }

    /// Whether the empty chunk has come.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The sale, once it is complete.
    pub fn finish(self) -> Result<Sale, Malformed> {
        if self.complete { self.intake.finish() } else { Err(Malformed("the snapshot is cut short")) }
    }
}

fn read_hold(reader: &mut Reader<'_>, intake: &mut Intake) -> Result<(), Malformed> {
    let code = reader.byte()?;
    let has_extra = code & state_code::HAS_EXTRA != 0;
    let state = match code & state_code::MASK {
        state_code::HELD => State::Held,
        state_code::CONFIRMED => State::Confirmed,
        state_code::RETURNED => State::Returned,
        state_code::RELEASED => State::Released,
        state_code::EXPIRED => State::Expired,
        state_code::TOMBSTONE => State::Tombstone,
        _ => return Err(Malformed("a hold in an unknown state")),
    };
    let id = reader.bytes()?;
    let time_ms = intake.clock_ms().checked_add_signed(reader.signed()?).ok_or(Malformed("a time is out of range"))?;
    if state == State::Tombstone {
        return intake.add_tombstone(id, time_ms);
    }
    let (buyer, items, life_ms) = (reader.bytes()?, read_items(reader)?, reader.varint()?);
    let (meta, reference) = (reader.optional_bytes()?, reader.optional_bytes()?);
    let order_no = if state == State::Confirmed { reader.varint()? } else { 0 };
    let extra = if has_extra { Some(read_extra(reader)?) } else { None };
    intake.add_hold(&Content { id, buyer, items, meta, reference }, state, (time_ms, life_ms), order_no, extra)
}

fn read_extra(reader: &mut Reader<'_>) -> Result<Extra, Malformed> {
    let mut items = || -> Result<_, Malformed> {
        let items = read_items(reader)?;
        Ok((!items.is_empty()).then(|| items.as_slice().into()))
    };
    let mut extra = Extra { requested: items()?, confirmed_from: items()?, ..Extra::default() };
    extra.order_no = reader.varint()?;
    for _ in 0..reader.varint()? {
        add_refund(&mut extra, reader.bytes()?, read_items(reader)?)?;
    }
    Ok(extra)
}

fn read_skus(reader: &mut Reader<'_>, intake: &mut Intake) -> Result<(), Malformed> {
    for _ in 0..reader.varint()? {
        let mut sku = Sku::new(reader.bytes()?);
        sku.stocked = reader.varint()?;
        sku.limit = reader.u32("a limit is out of range")?;
        sku.sold_out = reader.number(1, "a flag is out of range")? == 1;
        sku.version = reader.varint()?;
        intake.add_sku(sku)?;
    }
    Ok(())
}

fn read_allocations(reader: &mut Reader<'_>, intake: &mut Intake) -> Result<(), Malformed> {
    for _ in 0..reader.varint()? {
        intake.add_allocation(reader.bytes()?, read_sku(reader)?, reader.signed()?)?;
    }
    Ok(())
}

fn read_transfers(reader: &mut Reader<'_>, intake: &mut Intake) -> Result<(), Malformed> {
    for _ in 0..reader.varint()? {
        let sku = read_sku(reader)?;
        let other = reader.u32("a shard is out of range")?;
        intake.add_transfer(sku, other, Transfer { granted: reader.varint()?, accepted: reader.varint()? })?;
    }
    Ok(())
}
