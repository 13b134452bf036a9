//! The harness itself: a test that starts nothing, or leaves things running, would prove nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use flashsale_tests::http::Http;
use flashsale_tests::shop::{Manner, Shop};
use flashsale_tests::{AppendFsync, Client, Cluster, RedisServer, Reply, Server, on_every_server, wait_until};

on_every_server!(
    arguments_may_hold_any_bytes,
    what_was_acknowledged_with_fsync_survives_kill_9,
    a_replica_catches_up,
    servers_end_with_a_panicking_test,
);

fn arguments_may_hold_any_bytes(server: Server) {
    let redis = RedisServer::builder(server).start();
    let mut client = redis.client();
    let bytes: Vec<u8> = (0..=255).collect();
    client.ok(&[b"SET".as_slice(), b"k\r\n\0", &bytes]);
    assert_eq!(client.call(&[b"GET".as_slice(), b"k\r\n\0"]), Reply::Bytes(bytes));
    assert!(client.call(&["NOSUCH"]).error().starts_with("ERR"));
    let mut client = client.resp3();
    assert!(matches!(client.ok(&["CONFIG", "GET", "maxmemory"]), Reply::Map(_)));
}

fn what_was_acknowledged_with_fsync_survives_kill_9(server: Server) {
    let mut redis = RedisServer::builder(server).append_only(AppendFsync::Always).start();
    let port = redis.port();
    for number in 0..100 {
        redis.client().ok(&["RPUSH", "list", &number.to_string()]);
    }
    redis.kill_9();
    assert!(Client::connect(port).is_err(), "it still listens");
    redis.restart();
    assert_eq!(redis.port(), port);
    assert_eq!(redis.client().line("LLEN list").integer(), 100);
}

fn a_replica_catches_up(server: Server) {
    let primary = RedisServer::builder(server).start();
    primary.client().ok(&["SET", "before", "1"]);
    let replica = RedisServer::builder(server).replica_of(&primary).start();
    primary.client().ok(&["SET", "after", "1"]);
    replica.wait_for_primary(&primary);
    assert_eq!(primary.digest(), replica.digest());
    assert_ne!(primary.digest(), "0".repeat(40));
}

fn servers_end_with_a_panicking_test(server: Server) {
    let mut port = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let redis = RedisServer::builder(server).start();
        port = redis.port();
        panic!("on purpose");
    }));
    assert!(outcome.is_err());
    assert!(Client::connect(port).is_err(), "the server outlived its test");
}

#[test]
fn a_cluster_serves_all_slots() {
    let mut cluster = Cluster::builder(Server::Redis70).start();
    for key in ["a", "b", "c", "{sale}:orders"] {
        cluster.client_for(key).ok(&["SET", key, "1"]);
    }
    let refusal = cluster.primaries()[0].client().call(&["MGET", "a", "b", "c"]);
    assert!(refusal.error().starts_with("CROSSSLOT"));
    assert_eq!(cluster.replicas().len(), 3);
}

#[test]
fn waiting_in_vain_says_what_for() {
    let outcome = catch_unwind(|| wait_until("pigs fly", Duration::from_millis(20), || false)).unwrap_err();
    let message = outcome.downcast_ref::<String>().expect("a message");
    assert!(message.contains("pigs fly"), "{message}");
}

#[test]
fn the_shop_remembers_requests_and_misbehaves_as_told() {
    let shop = Shop::start();
    let http = Http::new();
    assert_eq!(http.get(&shop.url("/page?x=1")).status, 200);
    shop.behave(Manner::Status(500));
    let answer = http.request("POST", &shop.url("/hook"), &[("x-a", "b")], br#"{"no":1}"#);
    assert_eq!(answer.status, 500);
    let hooks = shop.requests_to("/hook");
    assert_eq!(hooks.len(), 1);
    assert_eq!((hooks[0].json()["no"].as_i64(), hooks[0].answered), (Some(1), Some(500)));
    assert_eq!(hooks[0].headers["x-a"], "b");

    let port = shop.stop();
    let gone = http.try_request("GET", &format!("http://127.0.0.1:{port}/"), &[], b"");
    assert!(gone.is_err());
    let back = Shop::start_on(port);
    assert_eq!(http.get(&back.url("/")).status, 200);
}
