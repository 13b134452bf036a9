//! Stock moves to buyers over the cluster bus: every unit is sold exactly once, wherever it lies and wherever buyers
//! live, and nobody is told "sold out" while units lie elsewhere.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flashsale_tests::sale::{order_entries, shard_keys};
use flashsale_tests::sharded::{Buyer, ShardedSale, Sold};
use flashsale_tests::{
    AppendFsync, Client, Cluster, ClusterClient, RedisServer, Server, artifacts, on_every_server, wait_until,
};

on_every_server!(
    all_buyers_live_in_one_shard,
    who_waits_gets_units_from_elsewhere_or_the_truth,
    a_slot_moves_in_mid_sale,
    replicas_and_logs_have_what_was_moved,
);

const PATIENCE: Duration = Duration::from_secs(30);
const SHARDS: usize = 12;

fn all_buyers_live_in_one_shard(server: Server) {
    let cluster = Cluster::with_module(server).start();
    let sale = ShardedSale::create(&cluster, "sale", &[100; SHARDS]);
    let mut node = cluster.nodes().next().expect("a node").client();
    let buyers = sale.buyers_in(&mut node, 7, 100 * SHARDS + 50);
    let sold = sale.sell(&cluster.ports(), &buyers, 8, 10_000);
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
    // Units elsewhere come at once: nobody waits until a hold here ends.
    let held = ShardedSale::create(&cluster, "held", &[1, 5, 0]);
    for (hold, (buyer, _)) in buyers.iter().enumerate() {
        let line = format!("FLASH.RESERVE {} h{hold} {buyer} BLOCK 20000 ITEMS shirt 1", held.keys[0]);
        assert_eq!(client.line(&line).status(), "RESERVED");
    }
    // A refund in one shard is for sale in another.
    assert_eq!(client.line(&format!("FLASH.RETURN {key} h1 back")).status(), "RETURNED");
    let buyer = &sale.buyers_in(&mut node, 2, 1)[0].0;
    let line = format!("FLASH.ORDER {} again {buyer} ITEMS shirt 1", sale.keys[2]);
    wait_until("the unit comes", PATIENCE, || client.line(&line).status() == "CONFIRMED");
}

/// Sells to the buyers, and meanwhile does things to the cluster: `meddle` is told how many orders there were.
fn sell_while(
    cluster: &mut Cluster,
    sale: &ShardedSale,
    buyers: &[Buyer],
    block_ms: u64,
    meddle: impl FnOnce(&mut Cluster, &dyn Fn(usize)),
) -> Sold {
    let ports = cluster.ports();
    let (done, sold) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let selling = scope.spawn(|| {
            let sold = sale.sell_counted(&ports, buyers, 8, block_ms, &sold);
            done.store(true, Ordering::Relaxed);
            sold
        });
        meddle(cluster, &|count| {
            wait_until("enough is sold", Duration::from_secs(90), || {
                sold.load(Ordering::Relaxed) >= count || done.load(Ordering::Relaxed)
            });
        });
        selling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn a_slot_moves_in_mid_sale(server: Server) {
    let mut cluster = Cluster::with_module(server).start();
    let sale = ShardedSale::create(&cluster, "sale", &[60; SHARDS]);
    let mut node = cluster.nodes().next().expect("a node").client();
    let buyers = sale.buyers_in(&mut node, 7, 60 * SHARDS + 10);
    let sold = sell_while(&mut cluster, &sale, &buyers, 10_000, |cluster, wait_for| {
        let mut client = ClusterClient::new(cluster);
        let others: Vec<u16> = cluster.primaries().iter().map(RedisServer::port).collect();
        // A donor moves, the shard where all buyers are moves, and moves back.
        for (share, shard) in [(6, 0), (3, 7), (2, 7)] {
            wait_for(60 * SHARDS / share / 2);
            let from = client.owner(&sale.keys[shard]);
            let to = others[(others.iter().position(|&port| port == from).expect("a primary") + 1) % others.len()];
            cluster.move_slot(&sale.keys[shard], from, to);
        }
    });
    assert_eq!(sold.confirmed.len(), 60 * SHARDS, "{:?}", sold.refused);
    assert_eq!(sold.refused.get("SOLDOUT"), Some(&10), "{:?}", sold.refused);
    sale.assert_whole(&cluster);
    assert_eq!(sale.orders(&mut ClusterClient::new(&cluster)), sold.confirmed);
}

fn replicas_and_logs_have_what_was_moved(server: Server) {
    let nodes = RedisServer::builder(server).module().append_only(AppendFsync::No);
    let mut cluster = Cluster::with_nodes(nodes).start();
    let sale = ShardedSale::create(&cluster, "sale", &[30; 6]);
    let mut client = ClusterClient::new(&cluster);
    for key in &sale.keys {
        assert_eq!(client.call(&["FLASH.ALTER", key, "EVENTS", "ALL"]).text(), "OK");
    }
    let mut node = cluster.nodes().next().expect("a node").client();
    let buyers = sale.buyers_in(&mut node, 4, 30 * 6);
    let sold = sale.sell(&cluster.ports(), &buyers, 4, 20_000);
    assert_eq!(sold.confirmed.len(), 30 * 6, "{:?}", sold.refused);
    let sums = sale.assert_whole(&cluster);

    // Each transfer stands in the streams of both shards.
    let mut moved = (0, 0);
    for key in &sale.keys {
        let mut owner = Client::connect(client.owner(key)).expect("the owner answers");
        for entry in order_entries(&mut owner, key) {
            let units: i64 = entry["items"].strip_prefix("shirt=").map_or(0, |units| units.parse().expect("units"));
            match entry["type"].as_str() {
                "granted" => moved.0 += units,
                "accepted" => moved.1 += units,
                _ => {}
            }
        }
    }
    assert_eq!(moved, (sums.granted, sums.accepted));

    let (mut asked, mut accepted) = (0, 0);
    for index in 0..cluster.primaries().len() {
        let digest = cluster.primaries()[index].digest();
        let count = |field: &str| -> u64 {
            let node = cluster.nodes().nth(index).expect("primaries come first");
            node.info(field).expect("a field of INFO").parse().expect("a number")
        };
        asked += count("flashsale_bus_requests");
        accepted += count("flashsale_bus_units_accepted");
        let (messages, bytes) = (count("flashsale_bus_messages_sent"), count("flashsale_bus_bytes_sent"));
        assert!(messages > 0 && bytes <= messages * 1_024, "{messages} messages of {bytes} bytes");
        wait_until("the replica is equal", PATIENCE, || cluster.replicas()[index].digest() == digest);
        cluster.primaries()[index].client().ok(&["DEBUG", "LOADAOF"]);
        assert_eq!(cluster.primaries()[index].digest(), digest, "from the append-only file");
    }
    assert!(asked > 0 && accepted as i64 == sums.accepted, "{asked} requests, {accepted} units of {sums:?}");
}

/// The module that loses, doubles and delays messages.
fn faulty(lose_percent: u32, double_percent: u32, delay_ms: u32) -> Cluster {
    let module = artifacts::faulty_module();
    let node = RedisServer::builder(Server::Redis70)
        .set("loadmodule", module.to_str().expect("a path in UTF-8"))
        .set("flashsale.bus-lose-percent", &lose_percent.to_string())
        .set("flashsale.bus-double-percent", &double_percent.to_string())
        .set("flashsale.bus-delay-ms", &delay_ms.to_string());
    Cluster::with_nodes(node).start()
}

fn every_unit_is_sold_over_a_bad_bus(lose_percent: u32, double_percent: u32, delay_ms: u32) {
    let cluster = faulty(lose_percent, double_percent, delay_ms);
    let sale = ShardedSale::create(&cluster, "sale", &[40; SHARDS]);
    let mut node = cluster.nodes().next().expect("a node").client();
    let buyers = sale.buyers_in(&mut node, 3, 40 * SHARDS);
    let sold = sale.sell(&cluster.ports(), &buyers, 8, 20_000);
    assert_eq!(sold.confirmed.len(), 40 * SHARDS, "{:?}", sold.refused);
    sale.assert_whole(&cluster);
    assert_eq!(sale.orders(&mut ClusterClient::new(&cluster)), sold.confirmed);
}

#[test]
fn lost_messages_cost_time_and_nothing_else() {
    every_unit_is_sold_over_a_bad_bus(30, 0, 0);
}

#[test]
fn doubled_and_late_messages_do_no_harm() {
    every_unit_is_sold_over_a_bad_bus(10, 50, 60);
}

#[test]
fn buyers_live_everywhere_and_a_balancer_moves_units_too() {
    let cluster = Cluster::with_module(Server::Redis70).start();
    let sale = ShardedSale::create(&cluster, "sale", &[100; SHARDS]);
    let mut node = cluster.nodes().next().expect("a node").client();
    let buyers = sale.buyers(&mut node, 100 * SHARDS + 100);
    let done = AtomicBool::new(false);
    let ports = cluster.ports();
    let sold = std::thread::scope(|scope| {
        let mover = scope.spawn(|| move_units(&sale, &ports, &done));
        let sold = sale.sell(&ports, &buyers, 6, 0);
        done.store(true, Ordering::Relaxed);
        assert!(mover.join().expect("the balancer works") > 0, "units were moved from outside");
        sold
    });
    assert_eq!(sold.confirmed.len(), 100 * SHARDS, "{:?}", sold.refused);
    sale.assert_whole(&cluster);
    assert_eq!(sale.orders(&mut ClusterClient::new(&cluster)), sold.confirmed);
}

/// A balancer with no plan: any shard sends a few units to any other one. Tells how many it moved.
fn move_units(sale: &ShardedSale, ports: &[u16], done: &AtomicBool) -> i64 {
    let mut client = ClusterClient::of_ports(ports);
    let mut moved = 0;
    for number in 0_usize.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let (from, to) = (number * 5 % sale.keys.len(), (number * 7 + 1) % sale.keys.len());
        if from != to {
            let granted = client.line(&format!("FLASH.GRANT {} shirt 3 TO {to}", sale.keys[from]));
            assert_eq!(granted.status(), "GRANTED", "{granted}");
            let total = granted.at(1).integer();
            let accepted = client.line(&format!("FLASH.ACCEPT {} shirt FROM {from} TOTAL {total}", sale.keys[to]));
            assert_eq!(accepted.status(), "ACCEPTED", "{accepted}");
            moved += accepted.at(1).integer();
        }
    }
    moved
}

#[test]
fn a_grant_is_told_only_when_replicas_have_it() {
    let mut cluster = Cluster::with_module(Server::Redis70).start();
    // Shard 0 and shard 1 lie on different nodes.
    let sale = ShardedSale::create(&cluster, "sale", &[0, 50]);
    let mut node = cluster.nodes().next().expect("a node").client();
    let buyer = sale.buyers_in(&mut node, 0, 1)[0].0.clone();
    let mut client = ClusterClient::new(&cluster);
    let donor_port = client.owner(&sale.keys[1]);
    assert_ne!(donor_port, client.owner(&sale.keys[0]));
    let donor = cluster.ports().iter().position(|&port| port == donor_port).expect("a node");
    cluster.replicas()[donor].signal(libc::SIGSTOP);
    let reserve = format!("FLASH.RESERVE {} h1 {buyer} BLOCK 1500 ITEMS shirt 1", sale.keys[0]);
    wait_until("the donor has granted units", PATIENCE, || {
        assert_eq!(client.line(&reserve).status(), "EMPTY");
        let sums = sale.sums(&mut client);
        assert_eq!(sums.accepted, 0, "{sums:?}");
        sums.granted > 0
    });
    // It goes on telling nobody.
    assert_eq!(client.line(&reserve).status(), "EMPTY");
    let pending = |cluster: &mut Cluster| {
        let pending = cluster.node(donor_port).info("flashsale_bus_grants_unacknowledged").expect("a field of INFO");
        pending.parse::<usize>().expect("a number")
    };
    assert!(pending(&mut cluster) > 0);
    cluster.replicas()[donor].signal(libc::SIGCONT);
    assert_eq!(client.line(&reserve.replace("1500", "20000")).status(), "RESERVED");
    wait_until("nothing is pending", PATIENCE, || pending(&mut cluster) == 0);
    sale.assert_whole(&cluster);
}

#[test]
fn a_shard_that_is_left_from_an_earlier_sale_gives_nothing_and_takes_nothing() {
    let cluster = Cluster::with_module(Server::Redis70).start();
    let mut client = ClusterClient::new(&cluster);
    let mut node = cluster.nodes().next().expect("a node").client();
    let keys = shard_keys(&mut node, "sale", 3);
    let mut create = |edition: u64, shard: usize, units: u32| {
        let line = format!("FLASH.CREATE {} SHARD {shard} 3 EDITION {edition} ITEMS shirt {units}", keys[shard]);
        assert_eq!(client.line(&line).text(), "OK");
    };
    // The first sale: shard 2 has sent units to shard 0, two of which are on their way, and has taken some of shard 1.
    (0..3).for_each(|shard| create(1, shard, 9));
    let mut client = ClusterClient::new(&cluster);
    let mut line = |line: &str| client.line(line);
    let old = &keys[2];
    assert_eq!(line(&format!("FLASH.GRANT {old} shirt 5 TO 0")).status(), "GRANTED");
    assert_eq!(line(&format!("FLASH.ACCEPT {} shirt FROM 2 TOTAL 3", keys[0])).status(), "ACCEPTED");
    assert_eq!(line(&format!("FLASH.GRANT {} shirt 4 TO 2", keys[1])).status(), "GRANTED");
    assert_eq!(line(&format!("FLASH.ACCEPT {old} shirt FROM 1 TOTAL 4")).status(), "ACCEPTED");
    (0..2).for_each(|shard| assert_eq!(line(&format!("DEL {0} {0}:orders", keys[shard])).integer(), 1));
    let before = line(&format!("FLASH.INFO {old}")).get("skus").to_string();

    // A later one of the same name, in which shard 0 is empty and its buyers want more than all there is.
    let mut client = ClusterClient::new(&cluster);
    for (shard, units) in [(0, 0), (1, 6)] {
        let line = format!("FLASH.CREATE {} SHARD {shard} 3 EDITION 2 ITEMS shirt {units}", keys[shard]);
        assert_eq!(client.line(&line).text(), "OK");
    }
    let later = ShardedSale::of_keys(keys.clone(), 6);
    let buyers = later.buyers_in(&mut node, 0, 7);
    let mut reserve = |number: usize, block_ms: u64| {
        let (key, buyer) = (&keys[0], &buyers[number].0);
        client.line(&format!("FLASH.RESERVE {key} h{number} {buyer} BLOCK {block_ms} ITEMS shirt 1")).status()
    };
    (0..6).for_each(|number| assert_eq!(reserve(number, 20_000), "RESERVED", "unit {number}"));
    // Its own units are all held, and the old shard's total of 5 is none of its business.
    assert_eq!(reserve(6, 3_000), "ALLHELD");
    let mut client = ClusterClient::new(&cluster);
    let info = client.line(&format!("FLASH.INFO {}", keys[0]));
    let moved = info.get("skus").get("shirt");
    assert_eq!((info.get("edition").integer(), moved.get("accepted").integer()), (2, 6), "{info}");
    assert_eq!(client.line(&format!("FLASH.INFO {old}")).get("skus").to_string(), before, "the old shard is as it was");
}

#[test]
fn a_primary_that_loses_its_last_replica_sends_no_unit_for_fifteen_seconds() {
    let mut cluster = Cluster::with_module(Server::Redis70).start();
    let sale = ShardedSale::create(&cluster, "sale", &[0, 50]);
    let mut node = cluster.nodes().next().expect("a node").client();
    let buyer = sale.buyers_in(&mut node, 0, 1)[0].0.clone();
    let mut client = ClusterClient::new(&cluster);
    let donor_port = client.owner(&sale.keys[1]);
    let donor = cluster.ports().iter().position(|&port| port == donor_port).expect("a node");
    let sent = |cluster: &mut Cluster| -> u64 {
        let sent = cluster.node(donor_port).info("flashsale_bus_messages_sent").expect("a field of INFO");
        sent.parse().expect("a number")
    };
    // Whatever a sale at rest tells, it tells once a second; then the donor looks for its replicas, too.
    std::thread::sleep(Duration::from_millis(1_500));
    let before = sent(&mut cluster);
    wait_until("the donor has seen its replica", PATIENCE, || sent(&mut cluster) > before + 4);

    cluster.replicas()[donor].kill_9();
    let alone = Instant::now();
    let reserve = format!("FLASH.RESERVE {} h1 {buyer} BLOCK 1000 ITEMS shirt 1", sale.keys[0]);
    let mut granted = false;
    // It has seen the replica a second or less before that died: some seconds are left for a busy machine.
    while alone.elapsed() < Duration::from_secs(10) {
        assert_eq!(client.line(&reserve).status(), "EMPTY", "after {:?}", alone.elapsed());
        let sums = sale.sums(&mut client);
        assert_eq!(sums.accepted, 0, "after {:?}: {sums:?}", alone.elapsed());
        granted |= sums.granted > 0;
    }
    assert!(granted, "the units left, and nobody was told");
    wait_until("it counts on itself alone", PATIENCE, || client.line(&reserve).status() == "RESERVED");
    sale.assert_whole(&cluster);
}

/// Kills the primary of a shard, waits for its replica to take over, and brings the dead one back as a replica.
fn fail_over(cluster: &mut Cluster, key: &str) {
    let mut client = ClusterClient::new(cluster);
    let port = client.owner(key);
    cluster.node(port).kill_9();
    let started = Instant::now();
    let mut client = ClusterClient::new(cluster);
    let successor = client.owner(key);
    assert_ne!(successor, port, "after {:?}", started.elapsed());
    cluster.node(port).restart();
    wait_until("the dead one has come back as a replica", PATIENCE, || {
        cluster.node(port).info("master_link_status").as_deref() == Some("up")
    });
}

fn primaries_die_in_mid_transfer(rounds: usize) {
    const UNITS: i64 = 150;
    let mut cluster = Cluster::with_module(Server::Redis70).start();
    let mut sale = ShardedSale::create(&cluster, "sale", &[UNITS; SHARDS]);
    sale.wants_replicas = true;
    // A replica that has just come has nothing yet of what was written meanwhile: the first to die must not be the only
    // one that has the sale. A command that is repeated is written again, and can be waited for.
    let mut client = ClusterClient::new(&cluster);
    for key in &sale.keys {
        assert_eq!(client.line(&format!("FLASH.RESUME {key}")).text(), "OK");
        wait_until("a replica has the shard", PATIENCE, || client.is_replicated(key));
    }
    let mut node = cluster.nodes().next().expect("a node").client();
    let stock = UNITS as usize * SHARDS;
    let buyers = sale.buyers_in(&mut node, 7, stock + 20);
    let sold = sell_while(&mut cluster, &sale, &buyers, 5_000, |cluster, wait_for| {
        for round in 0..rounds {
            wait_for(stock * (round + 1) / (rounds + 2));
            // A donor dies, then the shard where all units go, and so on.
            fail_over(cluster, &sale.keys[if round % 2 == 0 { 2 } else { 7 }]);
        }
    });
    let sums = sale.assert_whole(&cluster);
    let orders = sale.orders(&mut ClusterClient::new(&cluster));
    let lost: Vec<&String> = sold.safe.iter().filter(|hold| !orders.contains_key(*hold)).collect();
    assert!(lost.is_empty(), "orders that a replica had are gone: {lost:?}");
    // Orders that no replica had may have died with their primary: their units are for sale again.
    assert!(sums.sold + sums.available + sums.held == stock as i64 && sums.sold > stock as i64 * 9 / 10, "{sums:?}");
}

#[test]
fn a_donor_and_a_receiver_die_in_mid_transfer() {
    primaries_die_in_mid_transfer(2);
}

#[test]
#[ignore = "takes minutes: run by make nightly"]
fn primaries_die_again_and_again() {
    primaries_die_in_mid_transfer(8);
}

fn a_node_is_stopped_for_ten_seconds(shard: usize) {
    let mut cluster = Cluster::with_module(Server::Redis70).start();
    let sale = ShardedSale::create(&cluster, "sale", &[60; SHARDS]);
    let mut node = cluster.nodes().next().expect("a node").client();
    let buyers = sale.buyers_in(&mut node, 7, 60 * SHARDS);
    sell_while(&mut cluster, &sale, &buyers, 5_000, |cluster, wait_for| {
        wait_for(60 * SHARDS / 4);
        let port = ClusterClient::new(cluster).owner(&sale.keys[shard]);
        cluster.node(port).signal(libc::SIGSTOP);
        std::thread::sleep(Duration::from_secs(10));
        cluster.node(port).signal(libc::SIGCONT);
    });
    // Its replica has taken over meanwhile, and it has become the replica.
    sale.assert_whole(&cluster);
}

#[test]
#[ignore = "takes half a minute: run by make nightly"]
fn a_donor_is_stopped_for_ten_seconds() {
    a_node_is_stopped_for_ten_seconds(2);
}

#[test]
#[ignore = "takes half a minute: run by make nightly"]
fn the_receiver_is_stopped_for_ten_seconds() {
    a_node_is_stopped_for_ten_seconds(7);
}
