//! One sale over deployments that share no bus: Redis Clusters, groups of Sentinels and servers, each one of
//! `[[redis.groups]]`. The shards lie in them by turns, whoever asks; the balancer moves units between them, and the bus
//! of a cluster within it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flashsale_tests::cli::{Ran, flashsale};
use flashsale_tests::http::{Answer, Http};
use flashsale_tests::sale::{buyers_of, confirmed_orders, shard_keys};
use flashsale_tests::shop::Shop;
use flashsale_tests::{Client, Cluster, Proxy, RedisServer, Sentinel, Server, free_port, on_every_server, wait_until};
use serde_json::Value;

on_every_server!(every_unit_of_two_clusters_is_sold_to_buyers_of_one_shard);

const PATIENCE: Duration = Duration::from_secs(90);
/// What keys of the shards begin with.
const SALE: &str = "sale:1";

/// The addresses of each group.
type Groups = Vec<Vec<String>>;

fn urls(cluster: &Cluster) -> Vec<String> {
    cluster.nodes().map(RedisServer::url).collect()
}

/// Runs the program with one `--redis` for each group.
#[track_caller]
fn run(groups: &Groups, words: &[&str]) -> Ran {
    let lists: Vec<String> = groups.iter().map(|urls| urls.join(",")).collect();
    let mut all: Vec<&str> = words.to_vec();
    lists.iter().for_each(|list| all.extend(["--redis", list]));
    flashsale(&all)
}

/// The node of a cluster that has a key.
#[track_caller]
fn owner(cluster: &Cluster, key: &str) -> Client {
    let owns = |node: &&RedisServer| !node.client().call(&["EXISTS", key]).to_string().contains("MOVED");
    cluster.nodes().find(owns).expect("somebody serves the slot").client()
}

fn order(http: &Http, proxy: &Proxy, buyer: &str) -> Answer {
    let headers = [("authorization", &*proxy.bearer(buyer)), ("idempotency-key", &format!("o-{buyer}"))];
    http.request("POST", &proxy.url("/flash/1/orders?sku=tee"), &headers, b"")
}

/// What a buyer may be told before the order: units are elsewhere or on their way. Not that all is sold.
const COME_AGAIN: [&str; 2] = ["empty", "all-held"];

/// The same while servers die.
const MEANWHILE: [&str; 4] = ["empty", "all-held", "redis-down", "pending"];

/// Each buyer orders a unit, by one of the proxies, and comes again by the same id when told one of these words (or
/// `pending`). `told` counts the orders.
fn sell(proxies: &[Proxy], buyers: &[String], come_again: &[&str], told: &AtomicUsize) {
    const THREADS: usize = 4;
    let began = Instant::now();
    let sell_part = |part: usize| {
        let http = Http::new();
        for (number, buyer) in buyers.iter().enumerate().skip(part).step_by(THREADS) {
            loop {
                let answer = order(&http, &proxies[number % proxies.len()], buyer);
                if answer.status == 200 {
                    told.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                let word = if answer.status == 202 { "pending".to_owned() } else { answer.problem() };
                assert!(come_again.contains(&&*word), "{number}: {} {}", answer.status, answer.text());
                assert!(began.elapsed() < PATIENCE, "{number} of {} sold: {word}", buyers.len());
                std::thread::sleep(Duration::from_millis(3));
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|part| scope.spawn(move || sell_part(part))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("a crowd that ends well"));
    });
}

fn every_unit_of_two_clusters_is_sold_to_buyers_of_one_shard(server: Server) {
    const SHARDS: usize = 8;
    const UNITS: usize = 160;
    // The second has more nodes than the first, which changes nothing about where shards are.
    let clusters = [1, 2].map(|primaries| Cluster::with_module(server).primaries(primaries).replicas_each(0).start());
    let groups: Groups = clusters.iter().map(urls).collect();
    let create = ["sale", "create", "1", "--shards", "8", "--stock", "tee=160"];
    run(&groups, &create).ok();
    run(&groups, &create).ok();
    let mut client = clusters[0].nodes().next().expect("a node").client();
    let keys = shard_keys(&mut client, SALE, SHARDS);
    for (shard, key) in keys.iter().enumerate() {
        for (group, cluster) in clusters.iter().enumerate() {
            assert_eq!(owner(cluster, key).ok(&["EXISTS", key]).integer() == 1, shard % 2 == group, "shard {shard}");
        }
    }

    let proxies = [0, 1].map(|_| Proxy::builder().redis_groups(&groups).start());
    // All of them live in a shard of the second cluster.
    let buyers = buyers_of(&mut client, 3, SHARDS, UNITS + 1);
    sell(&proxies, &buyers[..UNITS], &COME_AGAIN, &AtomicUsize::new(0));
    let http = Http::new();
    for proxy in &proxies {
        wait_until("the proxies know that all is sold", PATIENCE, || {
            order(&http, proxy, &buyers[UNITS]).problem() == "sold-out"
        });
    }

    let audit = run(&groups, &["sale", "audit", "1"]).ok();
    assert!(audit.contains("160 stocked = 0 available + 0 held + 160 sold + 0 in transit"), "{audit}");
    let orders = confirmed_orders(&mut owner(&clusters[1], &keys[3]), &keys[3]);
    let expected: BTreeSet<String> = buyers[..UNITS].iter().map(|buyer| format!("o-{buyer}")).collect();
    assert_eq!(orders.into_keys().collect::<BTreeSet<_>>(), expected, "each order once");

    // Half of the stock lay in the other cluster: it came by the balancers, and what was nearer mostly by the bus.
    let show: Value = run(&groups, &["sale", "show", "1", "--json"]).json();
    let accepted = &show["shards"][3]["info"]["skus"]["tee"]["accepted_from"];
    let from = |parity: usize| -> u64 {
        (0..SHARDS).filter(|shard| shard % 2 == parity).filter_map(|shard| accepted[shard.to_string()].as_u64()).sum()
    };
    assert_eq!((from(0), from(1)), (80, 60), "{accepted}");
    let balanced: f64 = proxies.iter().map(|proxy| proxy.metric("flashsale_balanced_units_total", &[])).sum();
    assert!((1.0..=80.0).contains(&balanced), "what the bus can move is left to it: {balanced} units by the balancers");
}

#[test]
fn a_cluster_a_server_and_a_sentinels_primary_hold_one_sale() {
    let cluster = Cluster::with_module(Server::Redis70).primaries(2).replicas_each(0).start();
    let plain = RedisServer::builder(Server::Redis70).module().start();
    let mut primary = RedisServer::builder(Server::Redis70).module().start();
    let replica = RedisServer::builder(Server::Redis70).module().replica_of(&primary).start();
    let sentinel = Sentinel::watch(&primary, "mymaster");
    let groups: Groups = vec![urls(&cluster), vec![plain.url()], vec![sentinel.url()]];
    run(&groups, &["sale", "create", "1", "--shards", "6", "--stock", "tee=60"]).ok();
    let keys = shard_keys(&mut plain.client(), SALE, 6);
    for (shard, key) in keys.iter().enumerate() {
        let has = [
            owner(&cluster, key).ok(&["EXISTS", key]).integer(),
            plain.client().ok(&["EXISTS", key]).integer(),
            primary.client().ok(&["EXISTS", key]).integer(),
        ];
        assert_eq!(has.iter().position(|there| *there == 1), Some(shard % 3), "{has:?}");
    }

    let shop = Shop::start();
    let secret = "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let proxy = Proxy::builder().redis_groups(&groups).webhook(&shop.url("/orders"), secret).start();
    let proxies = [proxy];
    let mut client = plain.client();
    let buyers: Vec<String> = (0..6).flat_map(|shard| buyers_of(&mut client, shard, 6, 4)).collect();
    sell(&proxies, &buyers, &COME_AGAIN, &AtomicUsize::new(0));
    let arrived = || -> BTreeSet<String> {
        let requests = shop.requests_to("/orders");
        requests.iter().map(|request| request.json()["data"]["hold"].as_str().expect("a hold").to_owned()).collect()
    };
    wait_until("the relay has brought the orders of every group", PATIENCE, || arrived().len() == buyers.len());

    // A failover in one group is followed, and nobody else notices.
    replica.wait_for_primary(&primary);
    primary.kill_9();
    let more = buyers_of(&mut client, 2, 6, 5);
    let http = Http::new();
    wait_until("it sells at the new primary", PATIENCE, || order(&http, &proxies[0], &more[4]).status == 200);
    assert_eq!(replica.info("role").as_deref(), Some("master"));
    let audit = run(&groups, &["sale", "audit", "1"]).ok();
    assert!(audit.contains("60 stocked = 35 available + 0 held + 25 sold + 0 in transit"), "{audit}");
    let doctor = run(&groups, &["doctor", "--watch", "0", "--json"]);
    assert!(doctor.out.contains("35 units available"), "{}", doctor.out);
}

/// Kills the only primary of a cluster, has its replica take over, and brings the dead one back as a replica.
fn fail_over(cluster: &mut Cluster) {
    let roles: Vec<(u16, bool)> =
        cluster.nodes().map(|node| (node.port(), node.info("role").as_deref() == Some("master"))).collect();
    let port_of = |is_primary| roles.iter().find(|role| role.1 == is_primary).expect("one of each").0;
    let (primary, replica) = (port_of(true), port_of(false));
    cluster.node(primary).kill_9();
    // There is no other primary that could vote.
    cluster.node(replica).client().ok(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    wait_until("the replica has taken over", PATIENCE, || {
        cluster.node(replica).info("role").as_deref() == Some("master")
    });
    cluster.node(primary).restart();
    wait_until("the dead one has come back as a replica", PATIENCE, || {
        cluster.node(primary).info("master_link_status").as_deref() == Some("up")
    });
}

#[test]
fn primaries_of_both_clusters_die_while_units_move_between_them() {
    const UNITS: usize = 240;
    let cluster = || Cluster::with_module(Server::Redis70).primaries(1).replicas_each(1).start();
    let mut clusters = [cluster(), cluster()];
    let groups: Groups = clusters.iter().map(urls).collect();
    run(&groups, &["sale", "create", "1", "--shards", "4", "--stock", "tee=240", "--replicas", "1"]).ok();
    let mut client = clusters[0].nodes().next().expect("a node").client();
    let (keys, buyers) = (shard_keys(&mut client, SALE, 4), buyers_of(&mut client, 3, 4, UNITS));
    let proxy = || Proxy::builder().redis_groups(&groups).set("durability.replicas", "1").start();
    let (proxies, told) = ([proxy(), proxy()], AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let selling = scope.spawn(|| sell(&proxies, &buyers, &MEANWHILE, &told));
        // A donor dies, and the shard where all units go.
        for (cluster, after) in [(0, UNITS / 4), (1, UNITS / 2)] {
            wait_until("enough is sold", PATIENCE, || told.load(Ordering::Relaxed) >= after || selling.is_finished());
            fail_over(&mut clusters[cluster]);
        }
        selling.join().expect("everybody has an order");
    });
    let audit = run(&groups, &["sale", "audit", "1"]).ok();
    assert!(audit.contains("240 stocked = 0 available + 0 held + 240 sold + 0 in transit"), "{audit}");
    let orders = confirmed_orders(&mut owner(&clusters[1], &keys[3]), &keys[3]);
    let expected: BTreeSet<String> = buyers.iter().map(|buyer| format!("o-{buyer}")).collect();
    assert_eq!(orders.into_keys().collect::<BTreeSet<_>>(), expected, "each order that was told, once");
}

#[test]
fn a_group_that_is_away_from_the_start_costs_its_own_buyers_alone() {
    let here = RedisServer::builder(Server::Redis70).module().start();
    let mut away = RedisServer::builder(Server::Redis70).module().start();
    let groups: Groups = vec![vec![here.url()], vec![away.url()]];
    run(&groups, &["sale", "create", "1", "--shards", "2", "--stock", "tee=20"]).ok();
    let mut client = here.client();
    let buyers = [0, 1].map(|shard| buyers_of(&mut client, shard, 2, 1).remove(0));
    away.client().ok(&["SAVE"]);
    away.kill_9();
    let proxy = Proxy::builder().redis_groups(&groups).start();
    let http = Http::new();
    wait_until("the other group sells", PATIENCE, || order(&http, &proxy, &buyers[0]).status == 200);
    let refused = order(&http, &proxy, &buyers[1]);
    assert_eq!((refused.status, refused.problem().as_str()), (503, "redis-down"), "{}", refused.text());
    let error = run(&groups, &["sale", "show", "1", "--timeout", "2"]).failed();
    assert!(error.contains("group 2"), "{error}");
    let error = run(&groups, &["sale", "list", "--timeout", "2"]).failed();
    assert!(error.contains("group 2"), "{error}");
    let doctor = run(&groups, &["doctor", "--watch", "0", "--timeout", "2", "--json"]);
    assert!(doctor.code != 0 && doctor.out.contains("group 2"), "{}", doctor.out);
    away.restart();
    wait_until("the group that was away sells", PATIENCE, || order(&http, &proxy, &buyers[1]).status == 200);
}

#[test]
fn groups_that_are_none_are_refused_with_the_reason() {
    let cluster = Cluster::with_module(Server::Redis70).primaries(2).replicas_each(0).start();
    let servers = [0, 1].map(|_| RedisServer::builder(Server::Redis70).module().start());
    let nodes = urls(&cluster);
    let list = |groups: Groups| run(&groups, &["sale", "list", "--timeout", "2"]).failed();
    let error = list(vec![vec![nodes[0].clone()], vec![nodes[1].clone()]]);
    assert!(error.contains("lead to the same server"), "{error}");
    let error = list(vec![nodes.clone(), servers.iter().map(RedisServer::url).collect()]);
    assert!(error.contains("2 servers that are no cluster") && error.contains("a group of its own"), "{error}");
    let error = list(vec![nodes.clone(), nodes]);
    assert!(error.contains("stands in groups 1 and 2"), "{error}");
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    let error = list(vec![vec![nobody.clone()], vec![nobody.replace("127.0.0.1", "localhost")]]);
    assert!(error.contains(&nobody), "{error}");
}
