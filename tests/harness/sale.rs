//! What a user can see of a sale, with names for it: its counters, its orders, its audit.

use std::collections::BTreeMap;

use crate::{Client, Reply};

/// One entry of the order stream: its fields by name.
pub type OrderEntry = BTreeMap<String, String>;

/// The counters of one SKU, as `FLASH.INFO` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    pub stocked: i64,
    pub available: i64,
    pub held: i64,
    pub sold: i64,
}

/// The key of a sale's order stream: `KEY:orders` where the key has a hash tag, else `{KEY}:orders`.
pub fn orders_key(key: &str) -> String {
    let tagged = key.find('{').is_some_and(|open| key[open..].find('}').is_some_and(|close| close > 1));
    if tagged { format!("{key}:orders") } else { format!("{{{key}}}:orders") }
}

/// The keys of a sale's shards, in their order.
#[track_caller]
pub fn shard_keys(client: &mut Client, name: &str, shards: usize) -> Vec<String> {
    client.ok(&["FLASH.SHARDS", name, &shards.to_string()]).items().iter().map(Reply::text).collect()
}

/// The first `count` of `buyer-0`, `buyer-1` and so on who live in a shard, in sales of so many shards.
#[track_caller]
pub fn buyers_of(client: &mut Client, shard: usize, shards: usize, count: usize) -> Vec<String> {
    let (key, shards) = (shard_keys(client, "any", shards).swap_remove(shard), shards.to_string());
    let lives_here = |buyer: &String| client.ok(&["FLASH.ROUTE", "any", &shards, buyer]).text() == key;
    (0..).map(|number| format!("buyer-{number}")).filter(lives_here).take(count).collect()
}

/// The counters of `sku`.
#[track_caller]
pub fn stock(client: &mut Client, key: &str, sku: &str) -> Stock {
    let info = client.ok(&["FLASH.INFO", key]);
    let counters = info.get("skus").get(sku);
    let count = |name: &str| counters.get(name).integer();
    Stock { stocked: count("stocked"), available: count("available"), held: count("held"), sold: count("sold") }
}

/// Asserts that `FLASH.AUDIT` finds every counter right, and that each SKU's units add up.
#[track_caller]
pub fn assert_audit_is_clean(client: &mut Client, key: &str) {
    let audit = client.ok(&["FLASH.AUDIT", key]);
    assert_eq!(audit.get("ok").integer(), 1, "audit of {key}: {audit}");
    let info = client.ok(&["FLASH.INFO", key]);
    for (sku, counters) in info.get("skus").pairs() {
        let count = |name: &str| {
            let count = counters.get(name).integer();
            assert!(count >= 0, "{name} of {sku} is below zero: {info}");
            count
        };
        assert_eq!(
            count("stocked") + count("accepted") - count("granted"),
            count("available") + count("held") + count("sold"),
            "units of {sku} were made or lost: {info}"
        );
    }
}

/// Every entry of the order stream, oldest first.
#[track_caller]
pub fn order_entries(client: &mut Client, key: &str) -> Vec<OrderEntry> {
    let stream = client.ok(&["XRANGE", &orders_key(key), "-", "+"]);
    let entry = |entry: &Reply| {
        let fields = entry.at(1).pairs().into_iter();
        fields.map(|(name, value)| (name.text(), value.text())).collect()
    };
    stream.items().iter().map(entry).collect()
}

/// The order number of each confirmed hold, by hold id, from the stream.
///
/// # Panics
/// If a hold stands there twice, or the numbers of the entries do not count 1, 2, 3 and so on.
#[track_caller]
pub fn confirmed_orders(client: &mut Client, key: &str) -> BTreeMap<String, i64> {
    let mut orders = BTreeMap::new();
    for (index, entry) in order_entries(client, key).iter().enumerate() {
        let number: i64 = entry["no"].parse().expect("`no` is a number");
        assert_eq!(number, index as i64 + 1, "a gap in the order stream of {key}");
        if entry["type"] == "confirmed" {
            let earlier = orders.insert(entry["hold"].clone(), number);
            assert_eq!(earlier, None, "{} was confirmed twice", entry["hold"]);
        }
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::orders_key;

    #[test]
    fn the_stream_shares_the_slot_of_its_sale() {
        assert_eq!(orders_key("sale:42"), "{sale:42}:orders");
        assert_eq!(orders_key("sale{7}"), "sale{7}:orders");
        // `{}` is no hash tag: Redis hashes the whole key.
        assert_eq!(orders_key("sale{}"), "{sale{}}:orders");
    }
}
