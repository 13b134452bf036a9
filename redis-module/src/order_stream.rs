//! The order stream of a key: every confirmed order exactly once, in the atomic step that confirmed it.
//!
//! Replicas and logs write the same entries when they apply the effects, so no XADD is replicated.

use crate::cluster;
use crate::server::{Access, Ctx, Key, KeyKind, OwnedString, ServerString};
use flashsale_core::facts::{Entry, EntryKind, FIELD_NAMES, FIELDS, FieldSink, put_number, put_sku};
use flashsale_core::{Effect, Events, Facts, Sale, bounds, effect::EffectLog, sharding};
use std::rc::Rc;

/// The stream of a sale's key, open.
pub(crate) struct OrderStream<'c> {
    ctx: Ctx<'c>,
    name: Rc<OwnedString>,
    key: Key<'c>,
    /// Strings of the call that its entry may be made of.
    given: Given<'c>,
}

/// The first words after a command's key, which are nearly always the id of a hold and its buyer, as bytes and as
/// strings.
type Given<'c> = [Option<(&'c [u8], ServerString<'c>)>; 2];

impl<'c> OrderStream<'c> {
    /// Opens the stream, which may be empty. `None` if something else is in its place.
    pub fn open(ctx: Ctx<'c>, sale_key: ServerString<'_>, words: &mut Words) -> Option<Self> {
        let name = words.stream_key(sale_key.bytes());
        let key = ctx.open(name.borrowed(), Access::Write);
        matches!(key.kind(), KeyKind::Empty | KeyKind::Stream).then_some(Self { ctx, name, key, given: [None; 2] })
    }

    /// The same, for entries that may be made of strings which the call was given.
    pub fn given(self, given: Given<'c>) -> Self {
        Self { given, ..self }
    }

    /// Whether the stream of a sale that has had entries is not here because the slot is being moved, one key after
    /// another: a new stream in its place would stop the move.
    pub fn is_away(&self, sale: &Sale) -> bool {
        sale.entries() > 0
            && sale.settings().events != Events::None
            && self.key.kind() == KeyKind::Empty
            && self.ctx.flags().is_cluster()
            && cluster::is_elsewhere(self.ctx, self.name.borrowed())
    }

    pub fn len(&self) -> u64 {
        if self.key.kind() == KeyKind::Empty { 0 } else { self.key.len() }
    }

    /// Where a new sale goes on, if the stream has had entries of an earlier sale in the same key: whoever
    /// has seen an entry's number must not see it again on another one.
    pub fn floor(&self) -> Option<Effect<'static>> {
        if self.key.kind() == KeyKind::Empty {
            return None;
        }
        let (ms, no) = self.ctx.last_stream_id(self.name.borrowed())?;
        (ms > 0).then(|| Effect::StreamFloor { ms: ms.min(bounds::MAX_TIME_MS), no: no.min(bounds::MAX_STOCKED) })
    }

    /// Writes the entries of a command that this primary has decided. If somebody has put later entries into
    /// the stream by hand, ids are moved behind them, and `log` says so to whoever applies it.
    pub fn write_as_primary(&self, sale: &mut Sale, facts: &mut Facts, log: &mut EffectLog, words: &mut Words) {
        for at in 0..facts.entries.len() {
            if self.add(sale, &facts.entries[at], words) {
                continue;
            }
            let (last_ms, _) = self.ctx.last_stream_id(self.name.borrowed()).unwrap_or_default();
            let floor = Effect::StreamFloor { ms: last_ms.saturating_add(1).min(bounds::MAX_TIME_MS), no: 0 };
            log.put_first(&floor);
            sale.apply(sale.clock_ms(), &floor, &mut Facts::default());
            if !self.add(sale, &facts.entries[at], words) {
                facts.inconsistent = Some("the order stream refuses an entry");
            }
        }
    }

    /// Writes the entries of effects that were decided elsewhere.
    pub fn write_as_replica(&self, ctx: Ctx<'_>, sale: &Sale, facts: &Facts, words: &mut Words) {
        for entry in &facts.entries {
            if !self.add(sale, entry, words) {
                let text = format!("flashsale: the order stream refuses entry {}: it has a later one", entry.no());
                ctx.warn(&text);
            }
        }
    }

    fn add(&self, sale: &Sale, entry: &Entry, words: &mut Words) -> bool {
        entry.write(sale, &mut Writer { words, given: self.given });
        self.key.stream_add(entry.stream_id(sale), &words.strings)
    }
}

/// Strings of the server that entries are made of. Most fields of an entry are as they were in the one before: their
/// strings are used again.
pub(crate) struct Words {
    /// Names and values of the fields, in turn, as the server wants them.
    strings: Vec<OwnedString>,
    /// What the values are.
    values: [Kept; FIELDS],
    /// The SKU whose units they tell.
    sku: Vec<u8>,
    /// Units of it: as many bytes as begin them all, see [`put_sku`], then those of the last number.
    units: Vec<u8>,
    units_start: usize,
    digits: Vec<u8>,
    /// The sale's key that a stream was last opened for, and the stream's key.
    stream: (Vec<u8>, Rc<OwnedString>),
}

/// What a field's string holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Something that is not worth a comparison: hardly ever have two entries the same.
    Own,
    Empty,
    Kind(EntryKind),
    Number(i64),
    /// Of [`Words::sku`].
    Units(i64),
}

impl Words {
    pub fn new() -> Self {
        let strings = FIELD_NAMES.iter().flat_map(|name| [OwnedString::new(name.as_bytes()), OwnedString::new(b"")]);
        Self {
            strings: strings.collect(),
            values: [Kept::Empty; FIELDS],
            sku: Vec::new(),
            units: Vec::new(),
            units_start: 0,
            digits: Vec::new(),
            stream: (Vec::new(), OwnedString::new(&sharding::stream_key(b"")).into()),
        }
    }

    fn set(&mut self, field: usize, value: Kept, string: OwnedString) {
        self.values[field] = value;
        self.strings[2 * field + 1] = string;
    }

    /// The key of a sale's stream: nearly always that of the sale that was asked before.
    fn stream_key(&mut self, sale_key: &[u8]) -> Rc<OwnedString> {
        let (of, stream) = &mut self.stream;
        if of != sale_key {
            *stream = OwnedString::new(&sharding::stream_key(sale_key)).into();
            sale_key.clone_into(of);
        }
        Rc::clone(stream)
    }
}

/// Makes the strings of an entry.
struct Writer<'w, 'c> {
    words: &'w mut Words,
    given: Given<'c>,
}

impl FieldSink for Writer<'_, '_> {
    fn kind(&mut self, field: usize, kind: EntryKind) {
        if self.words.values[field] != Kept::Kind(kind) {
            self.words.set(field, Kept::Kind(kind), OwnedString::new(kind.word().as_bytes()));
        }
    }

    fn number(&mut self, field: usize, number: i64) {
        let words = &mut *self.words;
        if words.values[field] != Kept::Number(number) {
            words.digits.clear();
            put_number(&mut words.digits, number);
            words.set(field, Kept::Number(number), OwnedString::new(&words.digits));
        }
    }

    fn text(&mut self, field: usize, text: &[u8]) {
        let words = &mut *self.words;
        if text.is_empty() {
            if words.values[field] != Kept::Empty {
                words.set(field, Kept::Empty, OwnedString::new(text));
            }
            return;
        }
        let given = self.given.iter().flatten().find(|(bytes, _)| *bytes == text);
        words.set(field, Kept::Own, given.map_or_else(|| OwnedString::new(text), |(_, string)| string.share()));
    }

    fn sku(&mut self, name: &[u8]) {
        let words = &mut *self.words;
        if words.sku != name {
            name.clone_into(&mut words.sku);
            words.units.clear();
            put_sku(&mut words.units, name);
            words.units_start = words.units.len();
            let of_other = words.values.iter_mut().filter(|value| matches!(value, Kept::Units(_)));
            of_other.for_each(|value| *value = Kept::Own);
        }
    }

    fn units(&mut self, field: usize, units: i64) {
        let words = &mut *self.words;
        if words.values[field] != Kept::Units(units) {
            words.units.truncate(words.units_start);
            put_number(&mut words.units, units);
            words.set(field, Kept::Units(units), OwnedString::new(&words.units));
        }
    }
}
