//! Outcomes and views as replies.
//!
//! A [`Reply`] is whatever takes the words: the Redis module writes them out at once, tests collect them.

use crate::outcome::{Field, Outcome};
use crate::sale::{Events, Sale};
use crate::sharding;
use crate::view::{BuyerView, HoldView, SkuView};
use std::ffi::CStr;

/// Takes a reply, piece by piece, in the order of RESP.
pub trait Reply {
    /// The next `len` pieces are elements of an array.
    fn array(&mut self, len: usize);
    /// The next `2 * len` pieces are keys and values of a map.
    fn map(&mut self, len: usize);
    /// A status word, or a key of a map.
    fn word(&mut self, word: &'static CStr);
    /// Bytes.
    fn bytes(&mut self, bytes: &[u8]);
    /// A number.
    fn integer(&mut self, number: i64);
    /// Nothing there.
    fn null(&mut self);
}

fn unsigned(reply: &mut impl Reply, number: u64) {
    reply.integer(i64::try_from(number).unwrap_or(i64::MAX));
}

fn field_word(field: Field) -> &'static CStr {
    match field {
        Field::Buyer => c"buyer",
        Field::Items => c"items",
        Field::Ref => c"ref",
        Field::Delta => c"delta",
    }
}

/// Writes an outcome; `key` is the key that was asked.
pub fn outcome(reply: &mut impl Reply, outcome: &Outcome<'_>, key: &[u8]) {
    match outcome {
        Outcome::Ok => reply.word(c"OK"),
        Outcome::Stocked { available, held, sold } => numbers(reply, c"STOCKED", &[*available, *held, *sold]),
        Outcome::BelowHeld { available } => numbers(reply, c"BELOWHELD", &[*available]),
        Outcome::Reserved { id, deadline, taken } => {
            let taken = taken.as_deref().unwrap_or_default();
            reply.array(3 + 2 * taken.len());
            reply.word(c"RESERVED");
            reply.bytes(id);
            unsigned(reply, *deadline);
            for item in taken {
                reply.bytes(&item.sku);
                reply.integer(item.qty.into());
            }
        }
        Outcome::Confirmed { id, order_no } => named(reply, c"CONFIRMED", id, *order_no),
        Outcome::Extended { id, deadline } => named(reply, c"EXTENDED", id, *deadline),
        Outcome::Released => numbers(reply, c"RELEASED", &[]),
        Outcome::Expired => numbers(reply, c"EXPIRED", &[]),
        Outcome::Returned => numbers(reply, c"RETURNED", &[]),
        Outcome::NotFound => numbers(reply, c"NOTFOUND", &[]),
        Outcome::Mismatch(field) => {
            reply.array(2);
            reply.word(c"MISMATCH");
            reply.word(field_word(*field));
        }
        Outcome::Granted { total, available } => numbers(reply, c"GRANTED", &[*total, *available]),
        Outcome::Accepted { taken, available } => numbers(reply, c"ACCEPTED", &[*taken, *available]),
        Outcome::WrongShard(home) => one(reply, c"WRONGSHARD", &sharding::sibling_key(key, home.index, home.count)),
        Outcome::NotOpen { opens_at } => numbers(reply, c"NOTOPEN", &[*opens_at]),
        Outcome::Paused => numbers(reply, c"PAUSED", &[]),
        Outcome::Closed => numbers(reply, c"CLOSED", &[]),
        Outcome::TooLate => numbers(reply, c"TOOLATE", &[]),
        Outcome::Backlog => numbers(reply, c"BACKLOG", &[]),
        Outcome::NoSku { sku } => one(reply, c"NOSKU", sku),
        Outcome::Limit { sku, left } => named(reply, c"LIMIT", sku, *left),
        Outcome::SoldOut { sku } => one(reply, c"SOLDOUT", sku),
        Outcome::AllHeld { sku, next_ms } => named(reply, c"ALLHELD", sku, *next_ms),
        Outcome::Empty { sku } => one(reply, c"EMPTY", sku),
    }
}

fn numbers(reply: &mut impl Reply, word: &'static CStr, numbers: &[u64]) {
    reply.array(1 + numbers.len());
    reply.word(word);
    numbers.iter().for_each(|&number| unsigned(reply, number));
}

fn one(reply: &mut impl Reply, word: &'static CStr, bytes: &[u8]) {
    reply.array(2);
    reply.word(word);
    reply.bytes(bytes);
}

fn named(reply: &mut impl Reply, word: &'static CStr, name: &[u8], number: u64) {
    reply.array(3);
    reply.word(word);
    reply.bytes(name);
    unsigned(reply, number);
}

/// INFO.
pub fn info(reply: &mut impl Reply, sale: &Sale, now_ms: u64) {
    let (settings, shard, view) = (sale.settings(), sale.shard(), sale.view(now_ms));
    let events = match settings.events {
        Events::Orders => c"ORDERS",
        Events::All => c"ALL",
        Events::None => c"NONE",
    };
    let state = match view.state {
        "pending" => c"pending",
        "paused" => c"paused",
        "closed" => c"closed",
        _ => c"open",
    };
    let fields: [(&CStr, u64); 16] = [
        (c"limit", settings.limit.into()),
        (c"hold_ms", settings.hold_ms),
        (c"maxhold_ms", settings.maxhold_ms),
        (c"opens_at", settings.opens_at),
        (c"closes_at", settings.closes_at),
        (c"retain_ms", settings.retain_ms),
        (c"backlog", settings.backlog),
        (c"shard", shard.index.into()),
        (c"shards", shard.count.into()),
        (c"holds", view.holds),
        (c"orders", view.orders),
        (c"buyers", view.buyers),
        (c"remembered", view.remembered),
        (c"next_deadline", view.next_deadline),
        (c"expiry_lag_ms", view.expiry_lag_ms),
        (c"entries", sale.entries()),
    ];
    reply.map(fields.len() + 3);
    reply.word(c"state");
    reply.word(state);
    reply.word(c"events");
    reply.word(events);
    for (name, number) in fields {
        reply.word(name);
        unsigned(reply, number);
    }
    reply.word(c"skus");
    let skus: Vec<SkuView<'_>> = sale.sku_views(now_ms).collect();
    reply.map(skus.len());
    for sku in &skus {
        reply.bytes(sku.name);
        sku_fields(reply, sku);
    }
}

fn sku_fields(reply: &mut impl Reply, sku: &SkuView<'_>) {
    let fields: [(&CStr, u64); 8] = [
        (c"stocked", sku.stocked),
        (c"available", sku.available),
        (c"held", sku.held),
        (c"sold", sku.sold),
        (c"granted", sku.granted),
        (c"accepted", sku.accepted),
        (c"limit", sku.limit.into()),
        (c"version", sku.version),
    ];
    reply.map(fields.len());
    for (name, number) in fields {
        reply.word(name);
        unsigned(reply, number);
    }
}

/// HOLD, and each hold of HOLDS.
pub fn hold(reply: &mut impl Reply, hold: &HoldView<'_>) {
    reply.map(9);
    reply.word(c"id");
    reply.bytes(hold.id);
    reply.word(c"buyer");
    reply.bytes(hold.buyer);
    reply.word(c"state");
    reply.bytes(hold.state.as_bytes());
    reply.word(c"items");
    reply.map(hold.items.len());
    for (sku, qty) in &hold.items {
        reply.bytes(sku);
        reply.integer((*qty).into());
    }
    for (name, number) in [(c"began", hold.began), (c"deadline", hold.deadline), (c"order_no", hold.order_no)] {
        reply.word(name);
        unsigned(reply, number);
    }
    for (name, text) in [(c"ref", hold.reference), (c"meta", hold.meta)] {
        reply.word(name);
        match text {
            Some(text) => reply.bytes(text),
            None => reply.null(),
        }
    }
}

/// BUYER.
pub fn buyer(reply: &mut impl Reply, buyer: &BuyerView) {
    reply.map(3);
    for (name, number) in [(c"held", buyer.held), (c"sold", buyer.sold), (c"holds", buyer.holds)] {
        reply.word(name);
        unsigned(reply, number);
    }
}

/// AUDIT.
pub fn audit(reply: &mut impl Reply, differences: &[String]) {
    reply.map(2);
    reply.word(c"ok");
    reply.integer(differences.is_empty().into());
    reply.word(c"differences");
    reply.array(differences.len());
    for difference in differences {
        reply.bytes(difference.as_bytes());
    }
}
