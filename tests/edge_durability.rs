//! No promise before it is safe: with replicas configured, an order is told when they have it.

use std::time::Duration;

use flashsale_tests::http::{Answer, Http};
use flashsale_tests::sale::{confirmed_orders, stock};
use flashsale_tests::{Proxy, RedisServer, Server, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

fn proxy(redis: &RedisServer) -> Proxy {
    Proxy::builder().redis(redis).set("durability.replicas", "1").set("durability.timeout_ms", "200").start()
}

fn order(http: &Http, proxy: &Proxy, buyer: &str, id: &str) -> Answer {
    let headers = [("authorization", &*proxy.bearer(buyer)), ("idempotency-key", id)];
    http.request("POST", &proxy.url("/flash/s/orders?sku=shirt"), &headers, b"")
}

#[test]
fn without_its_replica_an_order_is_pending_and_the_same_id_finds_out() {
    let primary = RedisServer::with_sale("FLASH.CREATE sale:s ITEMS shirt 100");
    let proxy = proxy(&primary);
    let http = Http::new();
    for _ in 0..2 {
        let pending = order(&http, &proxy, "ann", "o1");
        assert_eq!((pending.status, pending.problem().as_str()), (202, "pending"), "{}", pending.text());
        assert_eq!(pending.json()["hold"], "o1");
        assert!(pending.header("retry-after").is_some());
    }
    assert_eq!(stock(&mut primary.client(), "sale:s", "shirt").sold, 1, "asked twice, made once");
    // What is refused needs nobody's acknowledgement.
    let headers = [("authorization", &*proxy.bearer("ann"))];
    let refused = http.request("POST", &proxy.url("/flash/s/orders?sku=hat"), &headers, b"");
    assert_eq!(refused.status, 404);

    let replica = RedisServer::builder(Server::Redis70).module().replica_of(&primary).start();
    wait_until("the replica has the order", PATIENCE, || order(&http, &proxy, "ann", "o1").status == 200);
    replica.wait_for_primary(&primary);
    let order = order(&http, &proxy, "ann", "o1");
    assert_eq!(order.json(), serde_json::json!({"order": "o1", "no": 1}));
}

#[test]
fn a_rush_of_orders_is_told_when_the_replica_has_them() {
    let primary = RedisServer::with_sale("FLASH.CREATE sale:s ITEMS shirt 1000");
    let replica = RedisServer::builder(Server::Redis70).module().replica_of(&primary).start();
    replica.wait_for_primary(&primary);
    let proxy = proxy(&primary);
    let told: Vec<String> = std::thread::scope(|scope| {
        let crowd = |thread: usize| {
            let http = Http::new();
            let mut told = Vec::new();
            for number in 0..25 {
                let id = format!("o-{thread}-{number}");
                if order(&http, &proxy, &format!("b-{thread}-{number}"), &id).status == 200 {
                    // It is there the moment the buyer is told, not some time later.
                    told.push(id);
                }
            }
            told
        };
        let threads: Vec<_> = (0..8).map(|thread| scope.spawn(move || crowd(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("the crowd ends well")).collect()
    });
    let on_replica = confirmed_orders(&mut replica.client(), "sale:s");
    assert!(told.len() > 150, "{} of 200", told.len());
    for id in &told {
        assert!(on_replica.contains_key(id), "{id} was promised and the replica has it not");
    }
}
