//! The relay when the shop, Redis or the relay itself fails in mid-flight: each order still reaches the shop, once by
//! its id, and a buyer's orders stay in order.

use std::time::Duration;

use flashsale_tests::{AppendFsync, Proxy, RedisServer, Server, wait_until};

use crate::relay_setup::{
    DemoShop, PATIENCE, Relay, SECRET, assert_each_once_in_order, left_over, place, place_orders,
};

const STREAM: &str = "{sale:1}:orders";

fn redis() -> RedisServer {
    RedisServer::builder(Server::Redis70).start()
}

#[test]
fn a_shop_that_is_not_there_gets_its_orders_when_it_is() {
    let redis = redis();
    let mut shop = DemoShop::not_there();
    place_orders(&mut redis.client(), 1, 50);
    let _relay = Relay::start(&redis, &shop.webhook());
    std::thread::sleep(Duration::from_millis(500));
    shop.open(&["--fail-first", "20"]);
    shop.wait_for_orders(50);
    assert_each_once_in_order(&shop.orders(), "sale:1", 50);
}

#[test]
fn a_shop_that_hangs_holds_nothing_up_for_ever() {
    let redis = redis();
    let mut shop = DemoShop::start(&["--hang"]);
    place_orders(&mut redis.client(), 1, 50);
    let _relay = Relay::start(&redis, &shop.webhook());
    std::thread::sleep(Duration::from_millis(1_500));
    shop.open(&[]);
    shop.wait_for_orders(50);
    assert_each_once_in_order(&shop.orders(), "sale:1", 50);
}

#[test]
fn a_killed_relay_is_stood_in_for() {
    let redis = redis();
    let shop = DemoShop::start(&["--forget-share", "0.1"]);
    let mut first = Relay::start(&redis, &shop.webhook());
    place_orders(&mut redis.client(), 1, 2_000);
    shop.wait_for_orders(50);
    let _second = Relay::start(&redis, &shop.webhook());
    first.process.kill_9();
    let (pending, _) = left_over(&mut redis.client(), STREAM);
    assert!(pending > 0, "nothing was in mid-flight");
    shop.wait_for_orders(2_000);
    assert_each_once_in_order(&shop.orders(), "sale:1", 2_000);
}

#[test]
fn a_restarted_relay_takes_up_its_own_work() {
    let redis = redis();
    let shop = DemoShop::start(&[]);
    let mut relay = Relay::start(&redis, &shop.webhook());
    place_orders(&mut redis.client(), 1, 1_000);
    shop.wait_for_orders(50);
    relay.process.kill_9();
    let _again = Relay::start(&redis, &shop.webhook());
    shop.wait_for_orders(1_000);
    assert_each_once_in_order(&shop.orders(), "sale:1", 1_000);
}

#[test]
fn a_relay_that_was_stopped_does_not_deliver_beside_its_successor() {
    let redis = redis();
    let shop = DemoShop::start(&[]);
    let mut first = Relay::start(&redis, &shop.webhook());
    place_orders(&mut redis.client(), 1, 1_000);
    shop.wait_for_orders(20);
    first.process.signal(libc::SIGSTOP);
    let _second = Relay::start(&redis, &shop.webhook());
    let before = shop.orders().len();
    wait_until("the second one delivers", PATIENCE, || shop.orders().len() > before + 20);
    first.process.signal(libc::SIGCONT);
    shop.wait_for_orders(1_000);
    assert_each_once_in_order(&shop.orders(), "sale:1", 1_000);
}

#[test]
fn a_relay_that_ends_in_order_hands_over_at_once() {
    let redis = redis();
    let shop = DemoShop::start(&[]);
    let mut first = Relay::builder(&redis, &shop.webhook()).set("relay.lease_ms", "60000").start();
    place_orders(&mut redis.client(), 1, 10);
    shop.wait_for_orders(10);
    first.process.stop(PATIENCE);
    assert_eq!(left_over(&mut redis.client(), STREAM).0, 0);
    assert_eq!(redis.client().line("EXISTS {sale:1}:orders:relay").integer(), 0);
    let _second = Relay::start(&redis, &shop.webhook());
    place_orders(&mut redis.client(), 11, 20);
    shop.wait_for_orders(20);
}

#[test]
fn a_proxy_that_ends_in_order_hands_its_relay_over_at_once() {
    let redis = redis();
    let shop = DemoShop::start(&[]);
    let secret = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(secret.path(), SECRET).expect("written");
    let mut proxy = Proxy::builder()
        .redis(&redis)
        .set("relay.enabled", "true")
        .set("relay.sales", "[\"sale:1\"]")
        .set("relay.lease_ms", "60000")
        .set("relay.webhook.url", &format!("{:?}", shop.webhook()))
        .set("relay.webhook.secret_file", &format!("{:?}", secret.path()))
        .start();
    place_orders(&mut redis.client(), 1, 200);
    shop.wait_for_orders(20);
    proxy.stop();
    let delivered = shop.orders().len() as i64;
    assert_eq!(redis.client().line("EXISTS {sale:1}:orders:relay").integer(), 0);
    let unread = redis.client().ok(&["XINFO", "GROUPS", STREAM]).at(0).get("lag").integer();
    assert_eq!(left_over(&mut redis.client(), STREAM).0 + unread, 200 - delivered, "each taken order is acknowledged");
    let _relay = Relay::start(&redis, &shop.webhook());
    shop.wait_for_orders(200);
    assert_each_once_in_order(&shop.orders(), "sale:1", 200);
}

#[test]
fn redis_killed_in_mid_flight_loses_no_order() {
    let mut redis = RedisServer::builder(Server::Redis70).append_only(AppendFsync::Always).start();
    let shop = DemoShop::start(&["--fail-share", "0.1"]);
    let _relay = Relay::start(&redis, &shop.webhook());
    place_orders(&mut redis.client(), 1, 1_000);
    shop.wait_for_orders(50);
    redis.kill_9();
    std::thread::sleep(Duration::from_millis(500));
    redis.restart();
    shop.wait_for_orders(1_000);
    assert_each_once_in_order(&shop.orders(), "sale:1", 1_000);
    wait_until("the stream is trimmed", PATIENCE, || left_over(&mut redis.client(), STREAM) == (0, 0));
}

#[test]
fn a_server_out_of_memory_is_drained() {
    let redis = redis();
    let shop = DemoShop::start(&["--refuse-buyer", "eve"]);
    let mut client = redis.client();
    place_orders(&mut client, 1, 300);
    place(&mut client, STREAM, &[("no", "301"), ("buyer", "eve")]);
    client.ok(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(client.call(&["SET", "more", "1"]).error().starts_with("OOM"));
    let _relay = Relay::start(&redis, &shop.webhook());
    shop.wait_for_orders(300);
    assert_each_once_in_order(&shop.orders(), "sale:1", 300);
    wait_until("the stream is trimmed", PATIENCE, || {
        client.line("XLEN {sale:1}:orders:dead").integer() == 1 && left_over(&mut client, STREAM) == (0, 0)
    });
}

#[test]
fn a_stream_that_comes_goes_and_comes_again_is_read() {
    let redis = redis();
    let shop = DemoShop::start(&[]);
    let _relay = Relay::start(&redis, &shop.webhook());
    std::thread::sleep(Duration::from_millis(500));
    place_orders(&mut redis.client(), 1, 10);
    shop.wait_for_orders(10);
    redis.client().line("DEL {sale:1}:orders");
    std::thread::sleep(Duration::from_millis(300));
    place_orders(&mut redis.client(), 11, 20);
    shop.wait_for_orders(20);
    assert_each_once_in_order(&shop.orders(), "sale:1", 20);
}

#[test]
fn nothing_leaves_before_a_replica_has_it() {
    let redis = redis();
    let shop = DemoShop::start(&[]);
    let _relay = Relay::builder(&redis, &shop.webhook())
        .set("durability.replicas", "1")
        .set("durability.timeout_ms", "100")
        .start();
    place_orders(&mut redis.client(), 1, 20);
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(shop.orders().len(), 0, "an order left that could still be lost");
    let _replica = RedisServer::builder(Server::Redis70).replica_of(&redis).start();
    shop.wait_for_orders(20);
    assert_each_once_in_order(&shop.orders(), "sale:1", 20);
}

/// `WAITAOF` came with Redis 7.2.
#[test]
fn nothing_leaves_before_it_is_on_disk() {
    Server::Redis80.run_if_here(|server| {
        let redis = RedisServer::builder(server).append_only(AppendFsync::EverySecond).start();
        let shop = DemoShop::start(&[]);
        let _relay = Relay::builder(&redis, &shop.webhook())
            .set("relay.local_fsync", "true")
            .set("durability.timeout_ms", "3000")
            .start();
        place_orders(&mut redis.client(), 1, 20);
        shop.wait_for_orders(20);
        assert_each_once_in_order(&shop.orders(), "sale:1", 20);
    });
}
