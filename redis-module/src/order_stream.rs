//! The order stream of a key: every confirmed order exactly once, in the atomic step that confirmed it.
//!
//! Replicas and logs write the same entries when they apply the effects, so no XADD is replicated.

use crate::cluster;
use crate::server::{Access, Ctx, Key, KeyKind, OwnedString, ServerString};
use flashsale_core::facts::{Entry, FIELD_NAMES, FIELDS, FieldValues};
use flashsale_core::{Effect, Events, Facts, Sale, bounds, effect::EffectLog, sharding};
use smallvec::SmallVec;

/// The stream of a sale's key, open.
pub(crate) struct OrderStream<'c> {
    ctx: Ctx<'c>,
    name: OwnedString,
    key: Key<'c>,
}

impl<'c> OrderStream<'c> {
    /// Opens the stream, which may be empty. `None` if something else is in its place.
    pub fn open(ctx: Ctx<'c>, sale_key: ServerString<'_>) -> Option<Self> {
        let name = OwnedString::new(&sharding::stream_key(sale_key.bytes()));
        let key = ctx.open(name.borrowed(), Access::Write);
        matches!(key.kind(), KeyKind::Empty | KeyKind::Stream).then_some(Self { ctx, name, key })
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
        words.take(entry, sale);
        let pairs = words.names.iter().zip(&words.strings);
        let fields: SmallVec<[ServerString<'_>; 2 * FIELDS]> =
            pairs.flat_map(|(name, value)| [name.borrowed(), value.borrowed()]).collect();
        self.key.stream_add(entry.stream_id(sale), &fields)
    }
}

/// Strings of the server that entries are made of. Most fields of an entry are as they were in the one before: their
/// strings are used again.
pub(crate) struct Words {
    names: Vec<OwnedString>,
    strings: Vec<OwnedString>,
    /// What the strings hold.
    values: FieldValues,
    next: FieldValues,
}

impl Words {
    pub fn new() -> Self {
        Self {
            names: FIELD_NAMES.iter().map(|name| OwnedString::new(name.as_bytes())).collect(),
            strings: FIELD_NAMES.iter().map(|_| OwnedString::new(b"")).collect(),
            values: FieldValues::default(),
            next: FieldValues::default(),
        }
    }

    fn take(&mut self, entry: &Entry, sale: &Sale) {
        entry.write_fields(sale, &mut self.next);
        {
            let mut before = self.values.iter();
            for (string, value) in self.strings.iter_mut().zip(self.next.iter()) {
                if before.next() != Some(value) {
                    *string = OwnedString::new(value);
                }
            }
        }
        std::mem::swap(&mut self.values, &mut self.next);
    }
}
