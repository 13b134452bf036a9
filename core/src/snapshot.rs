//! A sale as bytes: for RDB files, DUMP, AOF rewrites and digests.
//!
//! A snapshot is a header, then chunks of holds, then an empty chunk. Levels are not stored: they follow
//! from stock, transfers and holds, so a loaded sale cannot contradict itself. Reading trusts nothing and
//! allocates only for bytes that are there.

use crate::bounds;
use crate::effect::{put_items, put_settings, read_edition, read_items, read_settings, read_shard};
use crate::holds::{Content, NewContent, NewHold, State, kept_items};
use crate::sale::{Extra, Refund, Sale, Sku};
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
    sale: Sale,
    complete: bool,
    in_small_steps: bool,
    /// Holds below this slot are in the indexes of ids and buyers.
    indexed: u32,
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
        sale.clock_ms = reader.number(bounds::MAX_TIME_MS, "the clock is out of range")?;
        sale.entry_no = reader.number(bounds::MAX_STOCKED, "the entry number is out of range")?;
        sale.stream_floor_ms = reader.number(bounds::MAX_TIME_MS * 2, "a time is out of range")?;
        sale.orders = reader.number(bounds::MAX_STOCKED, "the number of orders is out of range")?;
        read_skus(&mut reader, &mut sale)?;
        read_allocations(&mut reader, &mut sale)?;
        read_transfers(&mut reader, &mut sale)?;
        if !reader.is_empty() {
            return Err(Malformed("the header is longer than it should be"));
        }
        Ok(Self { sale, complete: false, in_small_steps: false, indexed: 0 })
    }

    /// Has every chunk do its share of the work, where a server must serve others meanwhile. Otherwise the indexes are
    /// built when all is there, which is quicker by half.
    pub fn in_small_steps(self) -> Self {
        Self { in_small_steps: true, ..self }
    }

    /// Goes on with a sale whose holds are still to come.
    pub(crate) fn of(sale: Sale) -> Self {
        Self { sale, complete: false, in_small_steps: false, indexed: 0 }
    }

    /// The sale so far; its holds are not found by their ids yet.
    pub(crate) fn sale(&self) -> &Sale {
        &self.sale
    }

    /// Takes the next chunk; the empty one ends the snapshot.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        if self.complete {
            return Err(Malformed("the snapshot goes on after its end"));
        }
        if chunk.is_empty() {
            self.complete = true;
            self.index_new()?;
            return self.settle_levels();
        }
        let mut reader = Reader::new(chunk);
        while !reader.is_empty() {
            self.read_hold(&mut reader)?;
        }
        if self.in_small_steps { self.index_new() } else { Ok(()) }
    }

    fn index_new(&mut self) -> Result<(), Malformed> {
        let Sale { holds, buyers, extras, .. } = &mut self.sale;
        let from = std::mem::replace(&mut self.indexed, holds.end());
        if !holds.index_ids(from) {
            return Err(Malformed("a hold stands there twice"));
        }
        buyers.add_all(holds, extras, from);
        Ok(())
    }

    /// Whether the empty chunk has come.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The sale, once it is complete.
    pub fn finish(self) -> Result<Sale, Malformed> {
        if self.complete { Ok(self.sale) } else { Err(Malformed("the snapshot is cut short")) }
    }

    /// What is neither held nor sold nor elsewhere is available.
    fn settle_levels(&mut self) -> Result<(), Malformed> {
        for index in 0..self.sale.skus.len() as u16 {
            let sku = self.sale.skus.get_mut(index);
            let gone = sku.granted.saturating_add(sku.held).saturating_add(sku.sold);
            let here = sku.stocked.saturating_add(sku.accepted).checked_sub(gone);
            sku.available = here.ok_or(Malformed("more units are held, sold or granted than there are"))?;
        }
        Ok(())
    }

    fn read_hold(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let sale = &mut self.sale;
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
        let id = reader.name()?;
        let time_ms = (sale.clock_ms as i64).checked_add(reader.signed()?).filter(|&ms| ms >= 0);
        let time_ms = time_ms.map(|ms| ms as u64).filter(|&ms| ms <= bounds::MAX_TIME_MS + bounds::MAX_HOLD_MS);
        let time_ms = time_ms.ok_or(Malformed("a time is out of range"))?;
        if state == State::Tombstone {
            return self.store_tombstone(id, time_ms);
        }
        let content =
            Content { buyer: reader.name()?, items: read_known_items(reader, sale)?, id, meta: None, reference: None };
        let life_ms = reader.number(bounds::MAX_HOLD_MS.min(time_ms), "a life is out of range")? as u32;
        let meta = reader.optional_text(bounds::MAX_META_BYTES)?;
        let reference = reader.optional_text(bounds::MAX_REF_BYTES)?;
        let content = Content { meta, reference, ..content };
        if content.items.is_empty() {
            return Err(Malformed("a hold of nothing"));
        }
        let order_no = if state == State::Confirmed { reader.varint()? } else { 0 };
        let extra = if has_extra { Some(read_extra(reader, sale)?) } else { None };
        self.store(content, state, (time_ms, life_ms), order_no, extra)
    }

    /// Takes an id that RELEASE met before RESERVE.
    pub(crate) fn store_tombstone(&mut self, id: &[u8], time_ms: u64) -> Result<(), Malformed> {
        let sale = &mut self.sale;
        let content = NewContent { id, buyer: b"", items: &[], meta: None, reference: None };
        let slot = sale.holds.append(&NewHold { content, state: State::Tombstone, time_ms, life_ms: 0 });
        sale.tombstones.push(&mut sale.holds, slot);
        Ok(())
    }

    /// Takes a hold; if its id was there already the end of the snapshot is refused.
    pub(crate) fn store(
        &mut self,
        content: Content<'_>,
        state: State,
        (time_ms, life_ms): (u64, u32),
        order_no: u64,
        extra: Option<Extra>,
    ) -> Result<(), Malformed> {
        let sale = &mut self.sale;
        let items = &content.items;
        check_refunds(items, extra.as_ref())?;
        let left = extra.is_some().then(|| kept_items(items, extra.as_ref()));
        let kept = left.as_ref().unwrap_or(items);
        let returned = extra.as_ref().is_some_and(|extra| !extra.returns.is_empty());
        let nothing_left = kept.iter().all(|&(_, qty)| qty == 0);
        match state {
            State::Held if time_ms - u64::from(life_ms) > sale.clock_ms => {
                return Err(Malformed("a hold that begins later than now"));
            }
            State::Confirmed if nothing_left => return Err(Malformed("an order of which nothing is left")),
            State::Confirmed if order_no > sale.entry_no => {
                return Err(Malformed("an order above the latest entry"));
            }
            State::Returned if !nothing_left => return Err(Malformed("a returned order of which something is left")),
            State::Held | State::Released | State::Expired if returned => {
                return Err(Malformed("a refund of what was not sold"));
            }
            _ => {}
        }
        let slot = sale.holds.append(&NewHold { content: content.as_new(), state, time_ms, life_ms });
        sale.holds.get_mut(slot).has_extra = extra.is_some();
        if let Some(extra) = extra {
            sale.extras.insert(slot, Box::new(extra));
        }
        match state {
            State::Held => {
                for &(sku, qty) in items {
                    sale.skus.get_mut(sku).held += u64::from(qty);
                }
                sale.live_holds += 1;
                sale.deadlines.insert(&mut sale.holds, slot, items);
            }
            State::Confirmed => {
                for &(sku, qty) in kept {
                    sale.skus.get_mut(sku).sold += u64::from(qty);
                }
                sale.holds.get_mut(slot).set_order_no(order_no);
            }
            _ => sale.ended.push(&mut sale.holds, slot),
        }
        Ok(())
    }
}

/// Refunds add up to at most what was sold.
fn check_refunds(items: &[(u16, u32)], extra: Option<&Extra>) -> Result<(), Malformed> {
    let Some(extra) = extra else { return Ok(()) };
    let mut left: Vec<(u16, u32)> = items.to_vec();
    for &(sku, qty) in extra.returns.iter().flat_map(|refund| &refund.items) {
        let item = left.iter_mut().find(|item| item.0 == sku);
        let item = item.ok_or(Malformed("a refund of what was not sold"))?;
        item.1 = item.1.checked_sub(qty).ok_or(Malformed("a refund of more than was sold"))?;
    }
    Ok(())
}

fn read_skus(reader: &mut Reader<'_>, sale: &mut Sale) -> Result<(), Malformed> {
    for _ in 0..reader.number(bounds::MAX_SKUS as u64, "too many SKUs")? {
        let mut sku = Sku::new(reader.name()?);
        if sale.skus.find(&sku.name).is_some() {
            return Err(Malformed("a SKU stands there twice"));
        }
        sku.stocked = reader.number(bounds::MAX_STOCKED * 2, "stock is out of range")?;
        sku.limit = reader.number(bounds::MAX_QUANTITY.into(), "a limit is out of range")? as u32;
        sku.sold_out = reader.number(1, "a flag is out of range")? == 1;
        sku.version = reader.varint()?;
        sale.units = sale.units.saturating_add(sku.stocked);
        sale.skus.push(sku);
    }
    Ok(())
}

fn read_allocations(reader: &mut Reader<'_>, sale: &mut Sale) -> Result<(), Malformed> {
    for _ in 0..reader.varint()? {
        let id = reader.name()?;
        let sku = read_known_sku(reader, sale)?;
        sale.allocations.insert(id.into(), (sku, reader.signed()?));
    }
    Ok(())
}

fn read_transfers(reader: &mut Reader<'_>, sale: &mut Sale) -> Result<(), Malformed> {
    for _ in 0..reader.varint()? {
        let sku = read_known_sku(reader, sale)?;
        let other = reader.number(bounds::MAX_SHARDS.into(), "a shard is out of range")? as u32;
        if other >= sale.shard.count || other == sale.shard.index {
            return Err(Malformed("a transfer with no other shard"));
        }
        let granted = reader.number(bounds::MAX_STOCKED, "a transfer is out of range")?;
        let accepted = reader.number(bounds::MAX_STOCKED, "a transfer is out of range")?;
        let known = sale.transfers.insert((sku, other), crate::sale::Transfer { granted, accepted });
        if known.is_some() {
            return Err(Malformed("a transfer stands there twice"));
        }
        let sku = sale.skus.get_mut(sku);
        sku.granted = sku.granted.saturating_add(granted);
        sku.accepted = sku.accepted.saturating_add(accepted);
        if sku.accepted > bounds::MAX_STOCKED {
            return Err(Malformed("more was accepted than there can be"));
        }
        sale.units = sale.units.saturating_add(accepted);
    }
    Ok(())
}

fn read_known_sku(reader: &mut Reader<'_>, sale: &Sale) -> Result<u16, Malformed> {
    let sku = reader.varint()?;
    match usize::try_from(sku) {
        Ok(index) if index < sale.skus.len() => Ok(sku as u16),
        _ => Err(Malformed("an unknown SKU")),
    }
}

fn read_known_items(reader: &mut Reader<'_>, sale: &Sale) -> Result<crate::effect::IndexedItems, Malformed> {
    let items = read_items(reader)?;
    if items.iter().any(|&(sku, _)| usize::from(sku) >= sale.skus.len()) {
        return Err(Malformed("an unknown SKU"));
    }
    Ok(items)
}

type StoredItems = Box<[(u16, u32)]>;

fn read_extra(reader: &mut Reader<'_>, sale: &Sale) -> Result<Extra, Malformed> {
    let mut items = || -> Result<Option<StoredItems>, Malformed> {
        let items = read_known_items(reader, sale)?;
        Ok((!items.is_empty()).then(|| items.as_slice().into()))
    };
    let mut extra = Extra { requested: items()?, confirmed_from: items()?, ..Extra::default() };
    extra.order_no = reader.varint()?;
    for _ in 0..reader.number(bounds::MAX_RETURNS as u64, "too many refunds")? {
        let id = reader.name()?.into();
        extra.returns.push(Refund { id, items: read_known_items(reader, sale)?.as_slice().into() });
    }
    Ok(extra)
}
