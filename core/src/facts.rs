//! What has become of effects: entries for the order stream, news for subscribers.

use crate::holds::Content;
use crate::sale::{Events, Sale};
use smallvec::SmallVec;

/// What an order stream entry tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A hold became an order.
    Confirmed,
    /// Units of an order came back.
    Returned,
    /// Units were set aside.
    Held,
    /// A hold was freed.
    Released,
    /// A hold met its deadline.
    Expired,
    /// Units were added or withdrawn.
    Stocked,
    /// Units left for another shard.
    Granted,
    /// Units arrived from another shard.
    Accepted,
}

impl EntryKind {
    /// The word in the entry's `type` field.
    pub fn word(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Returned => "returned",
            Self::Held => "held",
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Stocked => "stocked",
            Self::Granted => "granted",
            Self::Accepted => "accepted",
        }
    }

    /// Whether a stream of these events has such entries.
    pub(crate) fn is_in(self, events: Events) -> bool {
        matches!(self, Self::Confirmed | Self::Returned) || events == Events::All
    }
}

/// The counters of a SKU after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    pub available: u64,
    pub held: u64,
    pub sold: u64,
}

/// One entry of the order stream (the contract's section 5).
#[derive(Clone, Debug)]
pub struct Entry {
    kind: EntryKind,
    no: u64,
    at_ms: u64,
    subject: Subject,
    items: SmallVec<[(u16, u64); 2]>,
    levels: SmallVec<[Level; 2]>,
    /// Written where a hold's entry has META: the reason of a release, the other shard of a transfer.
    note: Option<Box<[u8]>>,
    /// Withdrawn instead of added.
    negative: bool,
}

/// Whom an entry is about.
#[derive(Clone, Debug)]
enum Subject {
    /// No hold: stock or a transfer.
    Stock,
    /// A hold that is sure to be there until the entry has been written.
    Stored(u32),
    /// A hold that has ended: a later effect of the same command may forget it and use its slot again.
    Ended(Box<Ended>),
}

/// What an entry tells of a hold.
#[derive(Clone, Debug)]
struct Ended {
    id: Box<[u8]>,
    buyer: Box<[u8]>,
    reference: Option<Box<[u8]>>,
    meta: Option<Box<[u8]>>,
}

impl Ended {
    fn of(content: &Content<'_>) -> Box<Self> {
        Box::new(Self {
            id: content.id.into(),
            buyer: content.buyer.into(),
            reference: content.reference.map(Into::into),
            meta: content.meta.map(Into::into),
        })
    }
}

/// A SKU has sold out or has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkuChange {
    index: u16,
    /// Whether it is sold out now.
    pub sold_out: bool,
    /// Rises with every change.
    pub version: u64,
}

/// What the effects of one command have brought about.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// For the order stream, in order.
    pub entries: Vec<Entry>,
    /// For the state channel, in order.
    pub sku_changes: Vec<SkuChange>,
    /// For keyspace notifications: what happened, each kind once.
    pub kinds: SmallVec<[EntryKind; 2]>,
    /// A partial CONFIRM has freed the rest of its hold.
    pub(crate) freed_rest: bool,
    /// A CONFIRM has sold the last units of a SKU that were held: waiting for it has lost its reason.
    pub(crate) sold_last_held: bool,
    /// An effect did not fit the state, and was left out. Replicas that see this have diverged.
    pub inconsistent: Option<&'static str>,
}

impl Facts {
    /// Forgets everything but moderate buffers.
    #[inline]
    pub fn clear(&mut self) {
        const MOST_KEPT: usize = 256;
        self.entries.clear();
        if self.entries.capacity() > MOST_KEPT {
            self.entries.shrink_to(MOST_KEPT);
        }
        self.sku_changes.clear();
        self.kinds.clear();
        self.freed_rest = false;
        self.sold_last_held = false;
        self.inconsistent = None;
    }

    pub(crate) fn add_kind(&mut self, kind: EntryKind) {
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
    }

    /// Whether a request that was refused before may now end otherwise: units have become available, there is
    /// nothing held to wait for any more, or (where nothing else has happened) the settings have changed.
    pub fn may_help_waiters(&self) -> bool {
        let takes = |kind: &EntryKind| matches!(kind, EntryKind::Held | EntryKind::Confirmed | EntryKind::Granted);
        self.freed_rest || self.sold_last_held || !self.kinds.iter().all(takes) || self.kinds.is_empty()
    }
}

/// What [`Sale::note`] is told of a step.
pub(crate) struct Step<'a> {
    pub kind: EntryKind,
    pub at_ms: u64,
    pub slot: Option<u32>,
    pub items: &'a [(u16, u64)],
    pub note: Option<&'a [u8]>,
    pub negative: bool,
}

impl Sale {
    /// Numbers a step and keeps what the stream must know of it.
    pub(crate) fn note(&mut self, step: &Step<'_>, facts: &mut Facts) {
        facts.add_kind(step.kind);
        if !step.kind.is_in(self.settings.events) {
            return;
        }
        self.entry_no += 1;
        if self.settings.events == Events::None {
            return;
        }
        let level = |&(sku, _): &(u16, u64)| {
            let sku = self.skus.get(sku);
            Level { available: sku.available, held: sku.held, sold: sku.sold }
        };
        let subject = match step.slot {
            None => Subject::Stock,
            Some(slot) if matches!(step.kind, EntryKind::Confirmed | EntryKind::Held) => Subject::Stored(slot),
            Some(slot) => Subject::Ended(Ended::of(&self.holds.content(slot))),
        };
        facts.entries.push(Entry {
            kind: step.kind,
            no: self.entry_no,
            at_ms: step.at_ms,
            subject,
            items: SmallVec::from_slice(step.items),
            levels: step.items.iter().map(level).collect(),
            note: step.note.map(Into::into),
            negative: step.negative,
        });
    }
}

impl SkuChange {
    pub(crate) fn new(index: u16, sold_out: bool, version: u64) -> Self {
        Self { index, sold_out, version }
    }

    /// The SKU's name.
    pub fn sku<'s>(&self, sale: &'s Sale) -> &'s [u8] {
        &sale.skus.get(self.index).name
    }
}

impl Subject {
    /// Id, buyer, REF and META, each empty where there is none.
    fn fields<'s>(&'s self, sale: &'s Sale) -> (&'s [u8], &'s [u8], &'s [u8], &'s [u8]) {
        match self {
            Self::Stock => Default::default(),
            Self::Stored(slot) => sale.holds.texts(*slot),
            Self::Ended(ended) => {
                let text = |text: &'s Option<Box<[u8]>>| text.as_deref().unwrap_or_default();
                (&ended.id, &ended.buyer, text(&ended.reference), text(&ended.meta))
            }
        }
    }
}

impl Entry {
    /// Number of the entry in its shard's stream.
    pub fn no(&self) -> u64 {
        self.no
    }

    /// The stream id: the time, and the number to tell entries of one millisecond apart.
    pub fn stream_id(&self, sale: &Sale) -> (u64, u64) {
        (self.at_ms.max(sale.stream_floor_ms), self.no)
    }

    /// The entry's fields with their names, for who reads few of them.
    pub fn fields(&self, sale: &Sale) -> Vec<(&'static str, Vec<u8>)> {
        let mut texts = Texts::default();
        self.write(sale, &mut texts);
        FIELD_NAMES.into_iter().zip(texts.fields).collect()
    }

    /// Gives each field once, with its place in [`FIELD_NAMES`]. Units by SKU are form-urlencoded (`sku=1&sku=2`): every
    /// language reads that, whatever bytes a SKU has.
    pub fn write(&self, sale: &Sale, out: &mut impl FieldSink) {
        let (id, buyer, reference, meta) = self.subject.fields(sale);
        out.kind(0, self.kind);
        out.number(1, self.no as i64);
        out.text(2, id);
        out.text(3, buyer);
        out.text(5, reference);
        out.text(6, self.note.as_deref().unwrap_or(meta));
        out.number(7, self.at_ms as i64);
        let moved = |qty: u64| if self.negative { -(qty as i64) } else { qty as i64 };
        if let ([(sku, qty)], [level]) = (&self.items[..], &self.levels[..]) {
            out.sku(&sale.skus.get(*sku).name);
            out.units(4, moved(*qty));
            out.units(8, level.available as i64);
            out.units(9, level.held as i64);
            out.units(10, level.sold as i64);
            return;
        }
        let list = |number: &dyn Fn(usize) -> i64| {
            let mut text = Vec::new();
            for (at, &(sku, _)) in self.items.iter().enumerate() {
                if at > 0 {
                    text.push(b'&');
                }
                put_sku(&mut text, &sale.skus.get(sku).name);
                put_number(&mut text, number(at));
            }
            text
        };
        out.text(4, &list(&|at| moved(self.items[at].1)));
        out.text(8, &list(&|at| self.levels[at].available as i64));
        out.text(9, &list(&|at| self.levels[at].held as i64));
        out.text(10, &list(&|at| self.levels[at].sold as i64));
    }
}

/// How many fields an entry has.
pub const FIELDS: usize = 11;

/// The names of an entry's fields, in their order (the contract's section 5).
pub const FIELD_NAMES: [&str; FIELDS] =
    ["type", "no", "hold", "buyer", "items", "ref", "meta", "at", "available", "held", "sold"];

/// Takes the fields of an entry, each named by its place in [`FIELD_NAMES`]. They come as they are, not as text: who
/// writes many entries can see what is as it was in the one before.
pub trait FieldSink {
    /// What the entry tells: [`EntryKind::word`].
    fn kind(&mut self, field: usize, kind: EntryKind);
    /// A number: [`put_number`].
    fn number(&mut self, field: usize, number: i64);
    /// Bytes as they are.
    fn text(&mut self, field: usize, text: &[u8]);
    /// The one SKU that the units which follow are of.
    fn sku(&mut self, name: &[u8]);
    /// Units of that SKU: [`put_sku`], then [`put_number`].
    fn units(&mut self, field: usize, units: i64);
}

/// The fields as text.
#[derive(Default)]
struct Texts {
    fields: [Vec<u8>; FIELDS],
    sku: Vec<u8>,
}

impl FieldSink for Texts {
    fn kind(&mut self, field: usize, kind: EntryKind) {
        self.text(field, kind.word().as_bytes());
    }

    fn number(&mut self, field: usize, number: i64) {
        put_number(&mut self.fields[field], number);
    }

    fn text(&mut self, field: usize, text: &[u8]) {
        self.fields[field] = text.to_vec();
    }

    fn sku(&mut self, name: &[u8]) {
        put_sku(&mut self.sku, name);
    }

    fn units(&mut self, field: usize, units: i64) {
        self.fields[field].clone_from(&self.sku);
        put_number(&mut self.fields[field], units);
    }
}

/// The beginning of units by SKU: the SKU's name and what parts it from its number.
pub fn put_sku(out: &mut Vec<u8>, name: &[u8]) {
    put_encoded(out, name);
    out.push(b'=');
}

/// A number in decimal.
pub fn put_number(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// application/x-www-form-urlencoded, but for the space, which is `%20`.
fn put_encoded(out: &mut Vec<u8>, name: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if name.iter().all(|&byte| PLAIN[usize::from(byte)]) {
        return out.extend_from_slice(name);
    }
    for &byte in name {
        if PLAIN[usize::from(byte)] {
            out.push(byte);
        } else {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            out.extend_from_slice(&[b'%', HEX[high], HEX[low]]);
        }
    }
}

/// Bytes that are written as they are.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < plain.len() {
        plain[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'*' | b'-' | b'.' | b'_');
        byte += 1;
    }
    plain
};
