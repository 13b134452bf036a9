//! Outcomes and views as replies.
//!
//! A [`Reply`] is whatever takes the words: the Redis module writes them out at once, tests collect them.

use crate::outcome::{Field, Outcome};
use crate::sale::{Events, Sale};
use crate::sharding;
use crate::view::{BuyerView, HoldView, SkuView};

/// Takes a reply, piece by piece, in the order of RESP.
pub trait Reply {
    /// The next `len` pieces are elements of an array.
    fn array(&mut self, len: usize);
    /// The next `2 * len` pieces are keys and values of a map.
    fn map(&mut self, len: usize);
    /// A simple string: the bare `OK`.
    fn ok(&mut self);
    /// Bytes. Status words and keys of maps are bytes too: servers write them at half the cost of a simple
    /// string, which they check for line breaks.
    fn bytes(&mut self, bytes: &[u8]);
    /// The word that says how a command has ended.
    fn status(&mut self, status: Status) {
        self.bytes(status.word().as_bytes());
    }
    /// The answer to a request that a SKU has too few units for: it may come by the thousand, the same every time.
    fn refusal(&mut self, status: Status, sku: &[u8])
    where
        Self: Sized,
    {
        pair(self, status, sku);
    }
    /// A number.
    fn integer(&mut self, number: i64);
    /// Nothing there.
    fn null(&mut self);
    /// An error, in the place of an answer.
    fn error(&mut self, text: &str);
}

/// How a command has ended: the first word of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the outcome of its name")]
pub enum Status {
    Stocked,
    BelowHeld,
    Reserved,
    Repeated,
    Confirmed,
    Extended,
    Released,
    Expired,
    Returned,
    NotFound,
    Mismatch,
    Granted,
    Accepted,
    WrongShard,
    NotOpen,
    Paused,
    Closed,
    TooLate,
    Backlog,
    NoSku,
    Limit,
    SoldOut,
    AllHeld,
    Empty,
}

impl Status {
    /// The words on the wire, in the order of the statuses.
    pub const WORDS: [&str; Self::COUNT] = [
        "STOCKED",
        "BELOWHELD",
        "RESERVED",
        "REPEATED",
        "CONFIRMED",
        "EXTENDED",
        "RELEASED",
        "EXPIRED",
        "RETURNED",
        "NOTFOUND",
        "MISMATCH",
        "GRANTED",
        "ACCEPTED",
        "WRONGSHARD",
        "NOTOPEN",
        "PAUSED",
        "CLOSED",
        "TOOLATE",
        "BACKLOG",
        "NOSKU",
        "LIMIT",
        "SOLDOUT",
        "ALLHELD",
        "EMPTY",
    ];

    /// How many there are.
    pub const COUNT: usize = Self::Empty as usize + 1;

    /// The word on the wire.
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

fn unsigned(reply: &mut impl Reply, number: u64) {
    reply.integer(i64::try_from(number).unwrap_or(i64::MAX));
}

fn field_word(field: Field) -> &'static str {
    match field {
        Field::Buyer => "buyer",
        Field::Items => "items",
        Field::Ref => "ref",
        Field::Delta => "delta",
    }
}

fn word(reply: &mut impl Reply, word: &'static str) {
    reply.bytes(word.as_bytes());
}

/// Writes an outcome; `key` is the key that was asked.
pub fn outcome(reply: &mut impl Reply, outcome: &Outcome<'_>, key: impl AsRef<[u8]>) {
    match outcome {
        Outcome::Ok => reply.ok(),
        Outcome::Stocked { available, held, sold } => numbers(reply, Status::Stocked, &[*available, *held, *sold]),
        Outcome::BelowHeld { available } => numbers(reply, Status::BelowHeld, &[*available]),
        Outcome::Reserved { id, deadline, taken, repeated } => {
            let taken = taken.as_deref().unwrap_or_default();
            reply.array(3 + 2 * taken.len());
            reply.status(if *repeated { Status::Repeated } else { Status::Reserved });
            reply.bytes(id);
            unsigned(reply, *deadline);
            for item in taken {
                reply.bytes(&item.sku);
                reply.integer(item.qty.into());
            }
        }
        Outcome::Confirmed { id, order_no } => named(reply, Status::Confirmed, id, *order_no),
        Outcome::Extended { id, deadline } => named(reply, Status::Extended, id, *deadline),
        Outcome::Released => numbers(reply, Status::Released, &[]),
        Outcome::Expired => numbers(reply, Status::Expired, &[]),
        Outcome::Returned => numbers(reply, Status::Returned, &[]),
        Outcome::NotFound => numbers(reply, Status::NotFound, &[]),
        Outcome::Mismatch(field) => {
            reply.array(2);
            reply.status(Status::Mismatch);
            word(reply, field_word(*field));
        }
        Outcome::Granted { total, available } => numbers(reply, Status::Granted, &[*total, *available]),
        Outcome::Accepted { taken, available } => numbers(reply, Status::Accepted, &[*taken, *available]),
        Outcome::WrongShard(home) => {
            pair(reply, Status::WrongShard, &sharding::sibling_key(key.as_ref(), home.index, home.count))
        }
        Outcome::NotOpen { opens_at } => numbers(reply, Status::NotOpen, &[*opens_at]),
        Outcome::Paused => numbers(reply, Status::Paused, &[]),
        Outcome::Closed => numbers(reply, Status::Closed, &[]),
        Outcome::TooLate => numbers(reply, Status::TooLate, &[]),
        Outcome::Backlog => numbers(reply, Status::Backlog, &[]),
        Outcome::NoSku { sku } => pair(reply, Status::NoSku, sku),
        Outcome::Limit { sku, left } => named(reply, Status::Limit, sku, *left),
        Outcome::SoldOut { sku } => reply.refusal(Status::SoldOut, sku),
        Outcome::AllHeld { sku, next_ms } => named(reply, Status::AllHeld, sku, *next_ms),
        Outcome::Empty { sku } => reply.refusal(Status::Empty, sku),
    }
}

fn numbers(reply: &mut impl Reply, status: Status, numbers: &[u64]) {
    reply.array(1 + numbers.len());
    reply.status(status);
    numbers.iter().for_each(|&number| unsigned(reply, number));
}

/// A status and a name.
pub fn pair(reply: &mut impl Reply, status: Status, bytes: &[u8]) {
    reply.array(2);
    reply.status(status);
    reply.bytes(bytes);
}

fn named(reply: &mut impl Reply, status: Status, name: &[u8], number: u64) {
    reply.array(3);
    reply.status(status);
    reply.bytes(name);
    unsigned(reply, number);
}

/// INFO. `commands` have asked the key since its server has it in memory.
pub fn info(reply: &mut impl Reply, sale: &Sale, now_ms: u64, commands: u64) {
    let (settings, shard, view) = (sale.settings(), sale.shard(), sale.view(now_ms));
    let events = match settings.events {
        Events::Orders => "ORDERS",
        Events::All => "ALL",
        Events::None => "NONE",
    };
    let fields: [(&'static str, u64); 17] = [
        ("limit", settings.limit.into()),
        ("hold_ms", settings.hold_ms),
        ("maxhold_ms", settings.maxhold_ms),
        ("opens_at", settings.opens_at),
        ("closes_at", settings.closes_at),
        ("retain_ms", settings.retain_ms),
        ("backlog", settings.backlog),
        ("shard", shard.index.into()),
        ("shards", shard.count.into()),
        ("holds", view.holds),
        ("orders", view.orders),
        ("buyers", view.buyers),
        ("remembered", view.remembered),
        ("next_deadline", view.next_deadline),
        ("expiry_lag_ms", view.expiry_lag_ms),
        ("entries", sale.entries()),
        ("commands", commands),
    ];
    let edition = Some(sale.edition()).filter(|&edition| edition > 0);
    reply.map(fields.len() + 3 + usize::from(edition.is_some()));
    word(reply, "state");
    word(reply, view.state);
    word(reply, "events");
    word(reply, events);
    for (name, number) in fields {
        word(reply, name);
        unsigned(reply, number);
    }
    if let Some(edition) = edition {
        word(reply, "edition");
        unsigned(reply, edition);
    }
    word(reply, "skus");
    let skus: Vec<SkuView<'_>> = sale.sku_views(now_ms).collect();
    reply.map(skus.len());
    for (index, sku) in skus.iter().enumerate() {
        reply.bytes(sku.name);
        sku_fields(reply, sku, sale.transfer_views(index));
    }
}

fn sku_fields(reply: &mut impl Reply, sku: &SkuView<'_>, transfers: impl Iterator<Item = (u32, u64, u64)> + Clone) {
    let fields: [(&'static str, u64); 10] = [
        ("stocked", sku.stocked),
        ("available", sku.available),
        ("held", sku.held),
        ("sold", sku.sold),
        ("granted", sku.granted),
        ("accepted", sku.accepted),
        ("limit", sku.limit.into()),
        ("version", sku.version),
        ("missed", sku.missed),
        ("missed_last", sku.missed_last.into()),
    ];
    reply.map(fields.len() + 2);
    for (name, number) in fields {
        word(reply, name);
        unsigned(reply, number);
    }
    word(reply, "granted_to");
    totals(reply, transfers.clone().map(|(other, granted, _)| (other, granted)));
    word(reply, "accepted_from");
    totals(reply, transfers.map(|(other, _, accepted)| (other, accepted)));
}

/// Totals of transfers by the other shard, but for those that are 0.
fn totals(reply: &mut impl Reply, totals: impl Iterator<Item = (u32, u64)> + Clone) {
    let totals = totals.filter(|&(_, total)| total > 0);
    reply.map(totals.clone().count());
    for (other, total) in totals {
        reply.bytes(other.to_string().as_bytes());
        unsigned(reply, total);
    }
}

/// HOLD, and each hold of HOLDS.
pub fn hold(reply: &mut impl Reply, hold: &HoldView<'_>) {
    reply.map(9);
    word(reply, "id");
    reply.bytes(hold.id);
    word(reply, "buyer");
    reply.bytes(hold.buyer);
    word(reply, "state");
    word(reply, hold.state);
    word(reply, "items");
    reply.map(hold.items.len());
    for (sku, qty) in &hold.items {
        reply.bytes(sku);
        reply.integer((*qty).into());
    }
    for (name, number) in [("began", hold.began), ("deadline", hold.deadline), ("order_no", hold.order_no)] {
        word(reply, name);
        unsigned(reply, number);
    }
    for (name, text) in [("ref", hold.reference), ("meta", hold.meta)] {
        word(reply, name);
        match text {
            Some(text) => reply.bytes(text),
            None => reply.null(),
        }
    }
}

/// BUYER.
pub fn buyer(reply: &mut impl Reply, buyer: &BuyerView) {
    reply.map(3);
    for (name, number) in [("held", buyer.held), ("sold", buyer.sold), ("holds", buyer.holds)] {
        word(reply, name);
        unsigned(reply, number);
    }
}

/// AUDIT.
pub fn audit(reply: &mut impl Reply, differences: &[String]) {
    reply.map(2);
    word(reply, "ok");
    reply.integer(differences.is_empty().into());
    word(reply, "differences");
    reply.array(differences.len());
    for difference in differences {
        reply.bytes(difference.as_bytes());
    }
}
