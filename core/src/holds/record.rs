//! What is kept of one hold.

use super::NONE;
use super::arena::BlobRef;
use crate::wire::{Reader, put_bytes, put_varint};
use smallvec::SmallVec;

/// SKU indexes and units, in the order in which they were asked for.
pub(crate) type ItemList = SmallVec<[(u16, u32); 2]>;

/// Where a hold stands. A hold ends once: only `Held` is left for another state, but for a LATE confirm of
/// an expired hold, which is decided like a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The slot is not in use.
    Free,
    Held,
    Confirmed,
    /// An order of which nothing is left; remembered like an ended hold.
    Returned,
    Released,
    Expired,
    /// Released before it was ever reserved: only the id is known.
    Tombstone,
}

impl State {
    /// Whether the hold stands in a queue of those that will be forgotten.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Returned | Self::Released | Self::Expired | Self::Tombstone)
    }
}

/// The fixed part of a hold; its names, items and texts are in the arena.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub blob: BlobRef,
    /// Neighbours in the list that the hold is in. An order is in none: here stands its number.
    prev: u32,
    next: u32,
    /// Milliseconds from the hold's beginning to its deadline.
    pub life_ms: u32,
    time_low: u32,
    time_high: u16,
    pub state: State,
    /// Whether [`crate::sale::Extra`] has more of it.
    pub has_extra: bool,
}

impl Record {
    pub fn new(blob: BlobRef, state: State) -> Self {
        Self { blob, prev: NONE, next: NONE, life_ms: 0, time_low: 0, time_high: 0, state, has_extra: false }
    }

    /// The deadline; of what was released or wholly returned, when that happened; unix ms.
    pub fn time_ms(&self) -> u64 {
        u64::from(self.time_high) << 32 | u64::from(self.time_low)
    }

    /// Whether the hold is live but its deadline has passed: it counts as expired, though no sweep ran.
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.state == State::Held && self.time_ms() <= now_ms
    }

    pub fn set_time_ms(&mut self, ms: u64) {
        debug_assert!(ms <= crate::bounds::MAX_TIME_MS * 2);
        self.time_low = ms as u32;
        self.time_high = (ms >> 32) as u16;
    }

    pub fn order_no(&self) -> u64 {
        debug_assert_eq!(self.state, State::Confirmed);
        u64::from(self.prev) << 32 | u64::from(self.next)
    }

    pub fn set_order_no(&mut self, no: u64) {
        self.prev = (no >> 32) as u32;
        self.next = no as u32;
    }

    pub fn links(&self) -> (u32, u32) {
        (self.prev, self.next)
    }

    pub fn set_prev(&mut self, slot: u32) {
        self.prev = slot;
    }

    pub fn set_next(&mut self, slot: u32) {
        self.next = slot;
    }

    /// The record goes on as another one: what linked it is no more.
    pub fn unlink(&mut self) {
        self.prev = NONE;
        self.next = NONE;
    }
}

/// The variable part of a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content<'a> {
    pub id: &'a [u8],
    /// Empty for a tombstone.
    pub buyer: &'a [u8],
    pub items: ItemList,
    pub meta: Option<&'a [u8]>,
    pub reference: Option<&'a [u8]>,
}

/// The variable part of a hold that is to be stored.
#[derive(Clone, Copy)]
pub(crate) struct NewContent<'a> {
    pub id: &'a [u8],
    pub buyer: &'a [u8],
    pub items: &'a [(u16, u32)],
    pub meta: Option<&'a [u8]>,
    pub reference: Option<&'a [u8]>,
}

const HAS_META: u8 = 1;
const HAS_REF: u8 = 2;
/// The number of items is in the upper bits of the flags.
const ITEMS_SHIFT: u32 = 2;
const MANY_ITEMS: u8 = 63;
/// A number of 32 bits takes no more.
const VARINT_BYTES: usize = 5;

impl NewContent<'_> {
    /// Layout: id length, buyer length, flags with the number of items, id, buyer, then items as varints,
    /// META and REF.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let inline_count = self.items.len().min(usize::from(MANY_ITEMS)) as u8;
        let mut flags = inline_count << ITEMS_SHIFT;
        if self.meta.is_some() {
            flags |= HAS_META;
        }
        if self.reference.is_some() {
            flags |= HAS_REF;
        }
        out.extend_from_slice(&[self.id.len() as u8, self.buyer.len() as u8, flags]);
        out.extend_from_slice(self.id);
        out.extend_from_slice(self.buyer);
        if inline_count == MANY_ITEMS {
            put_varint(out, self.items.len() as u64);
        }
        for &(sku, qty) in self.items {
            put_varint(out, u64::from(sku));
            put_varint(out, u64::from(qty));
        }
        for text in self.meta.iter().chain(&self.reference) {
            put_bytes(out, text);
        }
    }

    /// [`NewContent::encode`] writes no more bytes.
    pub fn most_bytes(&self) -> usize {
        const COUNTS: usize = 3 + VARINT_BYTES;
        let text = |text: Option<&[u8]>| text.map_or(0, |text| VARINT_BYTES + text.len());
        let items = self.items.len() * 2 * VARINT_BYTES;
        COUNTS + self.id.len() + self.buyer.len() + items + text(self.meta) + text(self.reference)
    }
}

/// The items of a hold, and what stands behind them.
fn read_items(blob: &[u8]) -> Option<(ItemList, Reader<'_>)> {
    let &[id_len, buyer_len, flags, ref rest @ ..] = blob else { return None };
    let mut reader = Reader::new(rest.get(usize::from(id_len) + usize::from(buyer_len)..)?);
    let inline_count = flags >> ITEMS_SHIFT;
    let count = if inline_count == MANY_ITEMS { reader.varint().ok()? } else { u64::from(inline_count) };
    let mut items = ItemList::new();
    for _ in 0..count {
        items.push((reader.varint().ok()? as u16, reader.varint().ok()? as u32));
    }
    Some((items, reader))
}

impl<'a> Content<'a> {
    /// The same, to be written.
    pub fn as_new(&self) -> NewContent<'_> {
        let Self { id, buyer, ref items, meta, reference } = *self;
        NewContent { id, buyer, items, meta, reference }
    }

    /// Reads what [`NewContent::encode`] has written, in this process: it cannot be malformed.
    pub fn decode(blob: &'a [u8]) -> Self {
        Self::try_decode(blob).unwrap_or(Self {
            id: &[],
            buyer: &[],
            items: ItemList::new(),
            meta: None,
            reference: None,
        })
    }

    fn try_decode(blob: &'a [u8]) -> Option<Self> {
        let (items, mut reader) = read_items(blob)?;
        let flags = blob[2];
        let meta = if flags & HAS_META != 0 { Some(reader.bytes().ok()?) } else { None };
        let reference = if flags & HAS_REF != 0 { Some(reader.bytes().ok()?) } else { None };
        Some(Self { id: Self::id_of(blob), buyer: Self::buyer_of(blob), items, meta, reference })
    }

    /// The items alone; `blob` may go on behind its end.
    pub fn items_of(blob: &[u8]) -> ItemList {
        read_items(blob).map_or_else(ItemList::new, |(items, _)| items)
    }

    /// The id alone, for the index; `blob` may go on behind its end.
    pub fn id_of(blob: &[u8]) -> &[u8] {
        &blob[3..3 + usize::from(blob[0])]
    }

    /// Id, buyer, REF and META, each empty where there is none.
    pub fn texts_of(blob: &[u8]) -> (&[u8], &[u8], &[u8], &[u8]) {
        if blob[2] & (HAS_META | HAS_REF) == 0 {
            return (Content::id_of(blob), Content::buyer_of(blob), b"", b"");
        }
        let content = Content::decode(blob);
        (content.id, content.buyer, content.reference.unwrap_or_default(), content.meta.unwrap_or_default())
    }

    /// The buyer alone, for the index; `blob` may go on behind its end.
    pub fn buyer_of(blob: &[u8]) -> &[u8] {
        let start = 3 + usize::from(blob[0]);
        &blob[start..start + usize::from(blob[1])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_small() {
        assert_eq!(size_of::<Record>(), 24);
    }

    #[test]
    fn content_survives_its_encoding() {
        let many: ItemList = (0..70).map(|n| (n as u16, n + 1)).collect();
        for items in [ItemList::new(), many, ItemList::from_slice(&[(3, 2_000_000_000)])] {
            let content = Content { id: b"id\0", buyer: &[0xff; 128], items, meta: Some(b""), reference: Some(b"r") };
            let mut blob = Vec::new();
            content.as_new().encode(&mut blob);
            assert!(blob.len() <= content.as_new().most_bytes());
            assert_eq!(Content::decode(&blob), content);
        }
    }
}
