//! The edge over the library of functions: it loads it where it may, keeps a newer one, and ends due holds.

use std::time::Duration;

use flashsale_tests::http::{Answer, Http};
use flashsale_tests::sale::{assert_audit_is_clean, stock};
use flashsale_tests::{Client, Cluster, Proxy, RedisServer, Server, artifacts, on_every_server, wait_until};

on_every_server!(the_library_is_loaded_where_it_is_missing, due_holds_end_though_nobody_asks);

const PATIENCE: Duration = Duration::from_secs(30);

fn reserve(proxy: &Proxy, buyer: &str, id: &str) -> Answer {
    let headers = [("authorization", &*proxy.bearer(buyer)), ("idempotency-key", id)];
    Http::new().request("POST", &proxy.url("/flash/s/holds?sku=shirt"), &headers, b"")
}

/// The library as if it were of another version.
fn library_of(version: &str) -> Vec<u8> {
    let text = String::from_utf8(artifacts::library()).expect("UTF-8");
    let line = text.lines().find(|line| line.starts_with("local VERSION = ")).expect("the version");
    text.replace(line, &format!("local VERSION = '{version}'")).into_bytes()
}

fn load(client: &mut Client, library: &[u8]) {
    client.ok(&[b"FUNCTION".as_slice(), b"LOAD", b"REPLACE", library]);
}

fn version(client: &mut Client) -> String {
    client.call(&["FCALL_RO", "flash_version", "0"]).to_string()
}

fn the_library_is_loaded_where_it_is_missing(server: Server) {
    let redis = RedisServer::builder(server).start();
    let proxy = Proxy::builder().redis(&redis).start();
    let mut client = redis.client().to_functions();
    wait_until("the library is there", PATIENCE, || version(&mut client).contains("layout"));
    client.ok(&["FLASH.CREATE", "sale:s", "ITEMS", "shirt", "3"]);
    wait_until("it sells", PATIENCE, || reserve(&proxy, "ann", "h1").status < 202);
    assert_eq!(stock(&mut client, "sale:s", "shirt").held, 1);
    // Somebody flushes the functions away: they are loaded again.
    client.ok(&["FUNCTION", "FLUSH"]);
    wait_until("it sells again", PATIENCE, || reserve(&proxy, "bob", "h2").status < 202);
    let list = Http::new().get(&proxy.admin_url("/api/sales")).json();
    assert_eq!(list["sales"].as_array().map(Vec::len), Some(1), "only the sale itself: {list}");
    assert_audit_is_clean(&mut client, "sale:s");
}

fn due_holds_end_though_nobody_asks(server: Server) {
    let redis = RedisServer::builder(server).functions().start();
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale:s", "HOLD", "300", "EVENTS", "ALL", "ITEMS", "shirt", "3"]);
    client.ok(&["FLASH.CREATE", "sale:t{7}", "HOLD", "300", "EVENTS", "ALL", "ITEMS", "shirt", "3"]);
    for key in ["sale:s", "sale:t{7}"] {
        client.ok(&["FLASH.RESERVE", key, "h1", "ann", "ITEMS", "shirt", "1"]);
    }
    let proxy = Proxy::builder().redis(&redis).set("redis.sweep_ms", "100").start();
    for due in ["{sale:s}:due", "sale:t{7}:due"] {
        wait_until("the hold is swept", PATIENCE, || client.ok(&["ZCARD", due]).integer() == 0);
    }
    let metrics = proxy.metrics();
    assert!(metrics.contains("flashsale_swept_holds_total 2"), "{metrics}");
}

#[test]
fn an_older_library_is_replaced_and_a_newer_one_stays() {
    for (there, expected) in [("0.0.1", None), ("9.9.9", Some("9.9.9 layout 1"))] {
        let redis = RedisServer::builder(Server::Redis70).start();
        let mut client = redis.client().to_functions();
        load(&mut client, &library_of(there));
        client.ok(&["FLASH.CREATE", "sale:s", "ITEMS", "shirt", "3"]);
        let proxy = Proxy::builder().redis(&redis).start();
        assert_eq!(reserve(&proxy, "ann", "h1").status, 201);
        let now = version(&mut client);
        assert!(expected.map_or(!now.contains(there), |expected| now == expected), "{now}");
    }
}

#[test]
fn a_user_who_may_not_load_uses_what_is_there() {
    let redis = RedisServer::builder(Server::Redis70).start();
    let mut client = redis.client().to_functions();
    let rights = "ACL SETUSER edge on nopass ~* &* +@all -function";
    client.ok(&rights.split(' ').collect::<Vec<_>>());
    let proxy = Proxy::builder().redis(&redis).set("redis.username", "\"edge\"").file("password", "any");
    let proxy = proxy.set("redis.password_file", "\"password\"").start();
    assert_eq!(reserve(&proxy, "ann", "h1").problem(), "redis-down");
    load(&mut client, &library_of("0.0.1"));
    client.ok(&["FLASH.CREATE", "sale:s", "ITEMS", "shirt", "3"]);
    wait_until("it sells", PATIENCE, || reserve(&proxy, "ann", "h1").status < 202);
    assert_eq!(version(&mut client), "0.0.1 layout 1");
}

#[test]
fn the_module_is_preferred_and_the_library_may_be_asked_for() {
    let redis = RedisServer::with_sale("FLASH.CREATE sale:s ITEMS shirt 3");
    let proxy = Proxy::builder().redis(&redis).start();
    assert_eq!(reserve(&proxy, "ann", "h1").status, 201);
    assert!(version(&mut redis.client()).contains("Function not found"), "nothing was loaded");
    let proxy = Proxy::builder().redis(&redis).set("redis.backend", "\"functions\"").start();
    // The library says that the module has it, and the proxy was told to speak to the library alone.
    assert_eq!(reserve(&proxy, "ann", "h2").problem(), "redis-down");
    assert!(version(&mut redis.client()).contains("layout"));
}

#[test]
fn the_library_is_loaded_into_every_node_of_a_cluster() {
    let mut cluster = Cluster::builder(Server::Redis70).replicas_each(0).start();
    let urls = vec![cluster.primaries()[0].url()];
    let proxy = Proxy::builder().redis_urls(&urls).start();
    for node in cluster.primaries() {
        let mut client = node.client();
        wait_until("the library is there", PATIENCE, || version(&mut client).contains("layout"));
    }
    let keys = cluster.primaries()[0].client().to_functions().ok(&["FLASH.SHARDS", "sale:s", "6"]);
    for (index, key) in keys.items().iter().enumerate() {
        let key = key.text();
        let create = ["FLASH.CREATE", &key, "SHARD", &index.to_string(), "6", "ITEMS", "shirt", "50"];
        cluster.client_for(&key).to_functions().ok(&create);
    }
    for buyer in 0..30 {
        let (buyer, id) = (format!("b{buyer}"), format!("h{buyer}"));
        wait_until("it sells", PATIENCE, || reserve(&proxy, &buyer, &id).status < 202);
    }
    let sale = Http::new().get(&proxy.admin_url("/api/sales/s")).json();
    assert_eq!((sale["shards"].as_u64(), sale["skus"]["shirt"]["held"].as_u64()), (Some(6), Some(30)), "{sale}");
}
