//! However many clients rush, no unit is sold twice and no buyer gets more than the limits allow.

use std::collections::BTreeMap;

use flashsale_tests::rush::Rush;
use flashsale_tests::sale::{assert_audit_is_clean, confirmed_orders, order_entries, stock};
use flashsale_tests::{RedisServer, Server, on_every_server};

on_every_server!(a_rush_sells_each_unit_once, limits_hold_in_a_rush, one_hold_sent_by_many_clients_at_once_is_one_hold,);

const SKUS: [&str; 3] = ["red", "green", "blue"];

fn a_rush_sells_each_unit_once(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale:1", "ITEMS", "red", "300", "green", "200", "blue", "10"]);
    let mut rush = Rush::new("sale:1", &SKUS);
    rush.threads = 8;
    let tally = rush.run(redis.port());

    assert_eq!(tally.cut_off, 0);
    let refused = tally.count("SOLDOUT") + tally.count("ALLHELD");
    assert!(tally.count("CONFIRMED") > 100 && refused > 100, "{:?}", tally.outcomes);
    assert_audit_is_clean(&mut client, "sale:1");
    for (sku, stocked) in [("red", 300), ("green", 200), ("blue", 10)] {
        let stock = stock(&mut client, "sale:1", sku);
        assert_eq!(stock.stocked, stocked);
        assert!(stock.sold <= stocked);
    }
    assert_eq!(confirmed_orders(&mut client, "sale:1"), tally.confirmed);
}

fn limits_hold_in_a_rush(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale:1", "LIMIT", "5", "ITEMS", "red", "1000", "green", "1000"]);
    client.ok(&["FLASH.STOCK", "sale:1", "blue", "1000", "LIMIT", "2"]);
    let mut rush = Rush::new("sale:1", &SKUS);
    rush.buyers = 20;
    rush.threads = 8;
    let tally = rush.run(redis.port());
    assert!(tally.count("LIMIT") > 100, "{:?}", tally.outcomes);

    assert_audit_is_clean(&mut client, "sale:1");
    for number in 0..rush.buyers {
        let buyer = client.ok(&["FLASH.BUYER", "sale:1", &format!("b{number}")]);
        let total = units(buyer.get("held")) + units(buyer.get("sold"));
        assert!(total <= 5, "buyer b{number} has {total}: {buyer}");
    }

    // The orders tell the same story as the counters.
    let mut blue_of_buyer: BTreeMap<String, i64> = BTreeMap::new();
    for entry in order_entries(&mut client, "sale:1") {
        let sign = if entry["type"] == "confirmed" { 1 } else { -1 };
        let words: Vec<&str> = entry["items"].split_whitespace().collect();
        let blue = words.chunks(2).filter(|pair| pair[0] == "blue");
        let count: i64 = blue.map(|pair| pair[1].parse::<i64>().expect("a quantity")).sum();
        *blue_of_buyer.entry(entry["buyer"].clone()).or_default() += sign * count;
    }
    let greedy: Vec<_> = blue_of_buyer.iter().filter(|(_, count)| **count > 2).collect();
    assert!(greedy.is_empty(), "{greedy:?}");
}

/// A total, or a map of SKU to units.
fn units(reply: &flashsale_tests::Reply) -> i64 {
    match reply {
        flashsale_tests::Reply::Integer(total) => *total,
        map => map.pairs().iter().map(|(_, count)| count.integer()).sum(),
    }
}

fn one_hold_sent_by_many_clients_at_once_is_one_hold(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    redis.client().ok(&["FLASH.CREATE", "sale:1", "ITEMS", "red", "100"]);
    let replies: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = redis.client();
                    let mut replies = Vec::new();
                    for _ in 0..50 {
                        replies.push(client.line("FLASH.RESERVE sale:1 h1 ann ITEMS red 2").to_string());
                    }
                    replies
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(replies[0].starts_with("[RESERVED h1 "), "{}", replies[0]);
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
    assert_eq!(stock(&mut redis.client(), "sale:1", "red").held, 2);
}
