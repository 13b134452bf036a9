//! Stock moves to buyers over the cluster bus: every unit is sold exactly once, wherever it lies and wherever buyers
//! live, and nobody is told "sold out" while units lie elsewhere.

use std::time::Duration;

use flashsale_tests::sharded::ShardedSale;
use flashsale_tests::{Cluster, ClusterClient, Server, on_every_server, wait_until};

on_every_server!(all_buyers_live_in_one_shard, who_waits_gets_units_from_elsewhere_or_the_truth);

const PATIENCE: Duration = Duration::from_secs(30);
const SHARDS: usize = 12;

fn all_buyers_live_in_one_shard(server: Server) {
    let cluster = Cluster::with_module(server).start();
    let sale = ShardedSale::create(&cluster, "sale", &[100; SHARDS]);
    let mut node = cluster.nodes().next().expect("a node").client();
    let buyers = sale.buyers_in(&mut node, 7, 100 * SHARDS + 50);
    let sold = sale.sell(&cluster, &buyers, 8, 10_000);
    assert_eq!(sold.confirmed.len(), 100 * SHARDS, "{:?}", sold.refused);
    assert_eq!(sold.refused.get("SOLDOUT"), Some(&50), "{:?}", sold.refused);
    let sums = sale.assert_whole(&cluster);
    assert_eq!((sums.sold, sums.available, sums.held), (100 * SHARDS as i64, 0, 0));
    assert_eq!(sale.orders(&mut ClusterClient::new(&cluster)), sold.confirmed);
}

fn who_waits_gets_units_from_elsewhere_or_the_truth(server: Server) {
    let cluster = Cluster::with_module(server).start();
    let sale = ShardedSale::create(&cluster, "sale", &[0, 2, 0]);
    let mut node = cluster.nodes().next().expect("a node").client();
    let buyers = sale.buyers_in(&mut node, 0, 4);
    let mut client = ClusterClient::new(&cluster);
    let key = &sale.keys[0];
    let mut reserve = |hold: &str, buyer: usize, block_ms: u64| {
        let block = if block_ms > 0 { format!("BLOCK {block_ms}") } else { String::new() };
        client.line(&format!("FLASH.RESERVE {key} {hold} {} {block} ITEMS shirt 1", buyers[buyer].0)).status()
    };
    // Two units lie elsewhere; a shard that has just been made knows nothing yet.
    assert_eq!(reserve("h1", 0, 20_000), "RESERVED");
    assert_eq!(reserve("h2", 1, 20_000), "RESERVED");
    // Both are held here now.
    assert_eq!(reserve("h3", 2, 0), "ALLHELD");
    let mut client = ClusterClient::new(&cluster);
    assert_eq!(client.call(&["FLASH.CONFIRM", key, "h1"]).status(), "CONFIRMED");
    assert_eq!(client.call(&["FLASH.CONFIRM", key, "h2"]).status(), "CONFIRMED");
    // None is left anywhere, which each shard knows as soon as it has heard of it.
    for (shard, key) in sale.keys.iter().enumerate() {
        let buyer = &sale.buyers_in(&mut node, shard, 1)[0].0;
        let line = format!("FLASH.RESERVE {key} late{shard} {buyer} ITEMS shirt 1");
        wait_until("it is known that all is sold", PATIENCE, || client.line(&line).status() == "SOLDOUT");
        // Whoever would wait is told so, too.
        let line = format!("FLASH.RESERVE {key} waits{shard} {buyer} BLOCK 20000 ITEMS shirt 1");
        assert_eq!(client.line(&line).status(), "SOLDOUT");
    }
    // A refund in one shard is for sale in another.
    assert_eq!(client.line(&format!("FLASH.RETURN {key} h1 back")).status(), "RETURNED");
    let buyer = &sale.buyers_in(&mut node, 2, 1)[0].0;
    let line = format!("FLASH.ORDER {} again {buyer} ITEMS shirt 1", sale.keys[2]);
    wait_until("the unit comes", PATIENCE, || client.line(&line).status() == "CONFIRMED");
}
