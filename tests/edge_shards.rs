//! A sale in several shards is one sale to its buyers and to the shop: on one server, on several, and in a cluster.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flashsale_tests::http::{Answer, Http};
use flashsale_tests::sale::{assert_audit_is_clean, stock};
use flashsale_tests::{Client, Cluster, Proxy, ProxyBuilder, RedisServer, Server, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);
const SERVER_KEY: &str = "the shop's own key, not short";

/// A sale `s` in shards behind a proxy.
struct Scene {
    proxy: Proxy,
    http: Http,
    /// The keys of the shards and a connection to the server of each.
    shards: Vec<(String, Client)>,
}

impl Scene {
    /// Makes the shards, each with its units of `shirt`, and starts a proxy.
    fn set(units: &[u32], node_of: impl Fn(usize, &str) -> Client, proxy: ProxyBuilder) -> Scene {
        let mut first = node_of(0, "sale:s{0}");
        let count = units.len().to_string();
        let keys = first.ok(&["FLASH.SHARDS", "sale:s", &count]);
        let mut shards = Vec::new();
        for (index, (key, units)) in keys.items().iter().zip(units).enumerate() {
            let key = key.text();
            let mut client = node_of(index, &key);
            let (index, units) = (index.to_string(), units.to_string());
            client.ok(&["FLASH.CREATE", &key, "LIMIT", "2", "SHARD", &index, &count, "ITEMS", "shirt", &units]);
            shards.push((key, client));
        }
        // Nobody moves the units: each shard keeps what the test gave it.
        let proxy = proxy.set("balancer.mode", "\"off\"");
        let proxy = proxy.file("server-key", SERVER_KEY).set("shop.server_key_file", "\"server-key\"").start();
        Scene { proxy, http: Http::new(), shards }
    }

    fn on_one_server(redis: &RedisServer, units: &[u32]) -> Scene {
        Scene::set(units, |_, _| redis.client(), Proxy::builder().redis(redis))
    }

    /// The nth buyer who lives in the shard.
    fn buyer_of(&mut self, shard: usize, nth: usize) -> String {
        let count = self.shards.len().to_string();
        let key = self.shards[shard].0.clone();
        let client = &mut self.shards[0].1;
        let mut lives_here = |buyer: &String| client.ok(&["FLASH.ROUTE", "sale:s", &count, buyer]).text() == key;
        (0..).map(|number| format!("b{number}")).filter(|buyer| lives_here(buyer)).nth(nth).expect("endless")
    }

    fn call(&self, method: &str, path: &str, buyer: &str) -> Answer {
        let bearer = self.proxy.bearer(buyer);
        self.http.request(method, &self.proxy.url(path), &[("authorization", &bearer)], b"")
    }

    fn as_shop(&self, method: &str, path: &str) -> Answer {
        let key = format!("Bearer {SERVER_KEY}");
        self.http.request(method, &self.proxy.url(path), &[("authorization", &key)], b"")
    }

    fn reserve(&self, buyer: &str) -> Answer {
        self.call("POST", "/flash/s/holds?sku=shirt", buyer)
    }

    fn hold_of(&self, buyer: &str) -> String {
        let held = self.reserve(buyer);
        assert_eq!(held.status, 201, "{}", held.text());
        held.json()["hold"].as_str().expect("a hold").to_owned()
    }

    fn held(&mut self) -> Vec<i64> {
        self.shards.iter_mut().map(|(key, client)| stock(client, key, "shirt").held).collect()
    }
}

fn server() -> RedisServer {
    RedisServer::builder(Server::Redis70).module().start()
}

/// The module, and the library of functions.
fn both() -> [RedisServer; 2] {
    [server(), RedisServer::builder(Server::Redis70).functions().start()]
}

#[test]
fn a_sale_in_shards_is_found_by_its_name_and_buyers_find_their_holds() {
    both().iter().for_each(buyers_find_their_holds);
}

fn buyers_find_their_holds(redis: &RedisServer) {
    let mut scene = Scene::on_one_server(redis, &[5, 5, 5]);
    for shard in 0..3 {
        let buyer = scene.buyer_of(shard, 0);
        let hold = scene.hold_of(&buyer);
        assert_eq!(scene.held()[shard], 1, "in the buyer's own shard");
        let path = format!("/flash/s/holds/{hold}");
        assert_eq!(scene.call("GET", &path, &buyer).json()["state"], "held");
        assert_eq!(scene.call("POST", &format!("{path}/extend?ms=60000"), &buyer).status, 200);
        let order = scene.call("POST", &format!("{path}/confirm"), &buyer);
        assert_eq!((order.status, order.json()["no"].as_i64()), (200, Some(1)), "{}", order.text());
        let second = scene.hold_of(&buyer);
        assert_eq!(scene.call("DELETE", &format!("/flash/s/holds/{second}"), &buyer).status, 204);
        assert_eq!(scene.held()[shard], 0);
    }
    let sale = scene.http.get(&scene.proxy.admin_url("/api/sales/s")).json();
    assert_eq!((sale["shards"].as_u64(), sale["orders"].as_u64()), (Some(3), Some(3)), "{sale}");
    let counters = &sale["skus"]["shirt"];
    assert_eq!((counters["stocked"].as_u64(), counters["sold"].as_u64()), (Some(15), Some(3)), "{sale}");
    let list = scene.http.get(&scene.proxy.admin_url("/api/sales")).json();
    assert_eq!(list["sales"].as_array().map(Vec::len), Some(1), "{list}");
    for (key, client) in &mut scene.shards {
        assert_audit_is_clean(client, key);
    }
}

#[test]
fn the_shops_server_finds_any_hold_by_its_id() {
    both().iter().for_each(the_shop_finds_any_hold);
}

fn the_shop_finds_any_hold(redis: &RedisServer) {
    let mut scene = Scene::on_one_server(redis, &[5, 5, 5, 5]);
    for shard in 0..4 {
        let buyer = scene.buyer_of(shard, 0);
        let (first, second) = (scene.hold_of(&buyer), scene.hold_of(&buyer));
        let seen = scene.as_shop("GET", &format!("/flash/s/holds/{first}"));
        assert_eq!(seen.json()["buyer"].as_str(), Some(&*buyer), "{}", seen.text());
        assert_eq!(scene.as_shop("POST", &format!("/flash/s/holds/{first}/confirm")).status, 200);
        assert_eq!(scene.as_shop("DELETE", &format!("/flash/s/holds/{second}")).status, 204);
        assert_eq!(scene.held()[shard], 0);
    }
    assert_eq!(scene.as_shop("GET", "/flash/s/holds/unknown").status, 404);
    assert_eq!(scene.as_shop("POST", "/flash/s/holds/unknown/confirm").status, 404);
    // Given back before it was reserved: the reservation is refused, whichever shard it comes to.
    assert_eq!(scene.as_shop("DELETE", "/flash/s/holds/early").status, 204);
    let buyer = scene.buyer_of(2, 1);
    let headers = [("authorization", &*scene.proxy.bearer(&buyer)), ("idempotency-key", "early")];
    let late = scene.http.request("POST", &scene.proxy.url("/flash/s/holds?sku=shirt"), &headers, b"");
    assert_eq!((late.status, late.problem().as_str()), (410, "released"), "{}", late.text());
}

#[test]
fn sold_out_is_said_only_when_all_shards_are() {
    both().iter().for_each(all_shards_are_sold_out);
}

fn all_shards_are_sold_out(redis: &RedisServer) {
    let mut scene = Scene::on_one_server(redis, &[1, 1]);
    let poor = (0..3).map(|nth| scene.buyer_of(0, nth)).collect::<Vec<_>>();
    let rich = scene.buyer_of(1, 0);
    let hold = scene.hold_of(&poor[0]);
    assert_eq!(scene.call("POST", &format!("/flash/s/holds/{hold}/confirm"), &poor[0]).status, 200);
    let empty = scene.reserve(&poor[1]);
    assert_eq!((empty.status, empty.problem().as_str()), (409, "empty"), "{}", empty.text());
    assert!(empty.header("retry-after").is_some());
    let window = |scene: &Scene| scene.http.get(&scene.proxy.url("/flash/s")).json()["skus"]["shirt"].clone();
    assert_eq!(window(&scene), "few");

    let hold = scene.hold_of(&rich);
    assert_eq!(scene.call("POST", &format!("/flash/s/holds/{hold}/confirm"), &rich).status, 200);
    wait_until("everybody is told", PATIENCE, || {
        let refused = scene.reserve(&poor[2]);
        assert_eq!(refused.status, 409, "{}", refused.text());
        refused.problem() == "sold-out"
    });
    assert_eq!(window(&scene), "none");
    // Units on their way from one shard to another are not sold out.
    let (from, to) = (scene.shards[1].0.clone(), scene.shards[0].0.clone());
    scene.shards[1].1.ok(&["FLASH.STOCK", &from, "shirt", "1"]);
    scene.shards[1].1.ok(&["FLASH.GRANT", &from, "shirt", "1", "TO", "0"]);
    wait_until("the grant is seen", PATIENCE, || scene.reserve(&poor[2]).problem() == "empty");
    scene.shards[0].1.ok(&["FLASH.ACCEPT", &to, "shirt", "FROM", "1", "TOTAL", "1"]);
    wait_until("it sells", PATIENCE, || scene.reserve(&poor[2]).status == 201);
}

#[test]
fn news_of_one_shard_are_known_at_once() {
    let redis = server();
    let proxy = Proxy::builder().redis(&redis).set("known.refresh_ms", "60000");
    let mut scene = Scene::set(&[1, 0], |_, _| redis.client(), proxy);
    let metrics = || scene.proxy.metrics();
    wait_until("the edge listens", PATIENCE, || metrics().contains("flashsale_channel_up 1"));
    let (seller, late) = (scene.buyer_of(0, 0), scene.buyer_of(0, 1));
    let hold = scene.hold_of(&seller);
    assert_eq!(scene.call("POST", &format!("/flash/s/holds/{hold}/confirm"), &seller).status, 200);
    wait_until("it is sold out", PATIENCE, || scene.reserve(&late).problem() == "sold-out");
    let key = scene.shards[0].0.clone();
    scene.shards[0].1.ok(&["FLASH.STOCK", &key, "shirt", "1"]);
    let restocked = Instant::now();
    wait_until("it sells again", PATIENCE, || scene.reserve(&late).status == 201);
    assert!(restocked.elapsed() < Duration::from_secs(5), "{:?}", restocked.elapsed());
}

#[test]
fn shards_spread_over_servers_that_know_nothing_of_each_other() {
    let servers = [server(), server()];
    let urls: Vec<_> = servers.iter().map(RedisServer::url).collect();
    let mut scene = Scene::set(&[3; 5], |index, _| servers[index % 2].client(), Proxy::builder().redis_urls(&urls));
    for shard in 0..5 {
        let buyer = scene.buyer_of(shard, 0);
        let hold = scene.hold_of(&buyer);
        assert_eq!(scene.held()[shard], 1);
        assert_eq!(scene.as_shop("GET", &format!("/flash/s/holds/{hold}")).status, 200);
    }
    let sale = scene.http.get(&scene.proxy.admin_url("/api/sales/s")).json();
    assert_eq!(sale["skus"]["shirt"]["held"], 5, "{sale}");
    let list = scene.http.get(&scene.proxy.admin_url("/api/sales")).json();
    assert_eq!(list["sales"].as_array().map(Vec::len), Some(1), "{list}");
}

#[test]
fn more_than_64_shards_are_told_by_the_config() {
    let redis = server();
    let without = Scene::on_one_server(&redis, &[1; 100]);
    assert_eq!(without.reserve("ann").problem(), "no-sale");
    let proxy = Proxy::builder().redis(&redis).set("sales", r#"[{ name = "s", shards = 100 }]"#).start();
    let answer = Http::new().request(
        "POST",
        &proxy.url("/flash/s/holds?sku=shirt"),
        &[("authorization", &*proxy.bearer("ann"))],
        b"",
    );
    assert_eq!(answer.status, 201, "{}", answer.text());
}

#[test]
fn a_name_that_is_no_sale_is_looked_up_once_a_second() {
    let redis = server();
    let proxy = Proxy::builder().redis(&redis).set("known.mode", "\"off\"").start();
    let http = Http::new();
    let started = Instant::now();
    for _ in 0..200 {
        let headers = [("authorization", &*proxy.bearer("ann"))];
        assert_eq!(http.request("GET", &proxy.url("/flash/none/holds/h"), &headers, b"").problem(), "no-sale");
    }
    let stats = redis.client().ok(&["INFO", "commandstats"]).text();
    let line = stats.lines().find(|line| line.starts_with("cmdstat_exists:calls=")).expect("looked up");
    let lookups: u64 = line["cmdstat_exists:calls=".len()..].split(',').next().and_then(|n| n.parse().ok()).unwrap();
    assert!(lookups <= 64 * (started.elapsed().as_secs() + 2), "{lookups}");
}

#[test]
fn in_a_cluster_each_shard_has_its_node() {
    let mut cluster = Cluster::with_module(Server::Redis70).replicas_each(0).start();
    let urls = vec![cluster.primaries()[1].url()];
    let mut scene = Scene::set(&[2; 6], |_, key| cluster.client_for(key), Proxy::builder().redis_urls(&urls));
    let mut holds = BTreeSet::new();
    for shard in 0..6 {
        let buyer = scene.buyer_of(shard, 0);
        holds.insert(scene.hold_of(&buyer));
        assert_eq!(scene.held()[shard], 1);
    }
    for hold in &holds {
        assert_eq!(scene.as_shop("POST", &format!("/flash/s/holds/{hold}/confirm")).status, 200);
    }
    let sale = scene.http.get(&scene.proxy.admin_url("/api/sales/s")).json();
    assert_eq!((sale["shards"].as_u64(), sale["skus"]["shirt"]["sold"].as_u64()), (Some(6), Some(6)), "{sale}");
    // A sale in one key lives on one node, and its news are heard too.
    cluster.client_for("sale:plain").ok(&["FLASH.CREATE", "sale:plain", "ITEMS", "shirt", "1"]);
    let plain = |buyer: &str| scene.call("POST", "/flash/plain/orders?sku=shirt", buyer).status;
    wait_until("it sells", PATIENCE, || plain("ann") == 200);
    wait_until("the pattern hears it", PATIENCE, || {
        let metrics = scene.proxy.metrics();
        metrics.contains("flashsale_channel_messages_total{kind=\"soldout\"}")
    });
}
