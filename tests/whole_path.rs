//! From a buyer's HTTP request to the shop's order book: every order that a buyer was told of is there
//! exactly once, whatever died on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use flashsale_tests::http::{Answer, Http};
use flashsale_tests::sale::{assert_audit_is_clean, confirmed_orders, stock};
use flashsale_tests::shop::{Manner, Shop};
use flashsale_tests::{AppendFsync, Proxy, RedisServer, RedisServerBuilder, Server, on_every_server, wait_until};

on_every_server!(
    a_buyer_gets_what_was_held_and_the_shop_gets_the_order,
    by_the_library_a_buyer_gets_what_was_held_and_the_shop_gets_the_order,
    kill_9_of_redis_in_mid_rush_loses_and_doubles_no_order,
    by_the_library_kill_9_of_redis_in_mid_rush_loses_and_doubles_no_order,
);

fn a_buyer_gets_what_was_held_and_the_shop_gets_the_order(server: Server) {
    from_hold_to_order(RedisServer::builder(server).module());
}

fn by_the_library_a_buyer_gets_what_was_held_and_the_shop_gets_the_order(server: Server) {
    from_hold_to_order(RedisServer::builder(server).functions());
}

fn kill_9_of_redis_in_mid_rush_loses_and_doubles_no_order(server: Server) {
    kill_9_in_mid_rush(RedisServer::builder(server).module());
}

fn by_the_library_kill_9_of_redis_in_mid_rush_loses_and_doubles_no_order(server: Server) {
    kill_9_in_mid_rush(RedisServer::builder(server).functions());
}

const PATIENCE: Duration = Duration::from_secs(60);
const WEBHOOK_SECRET: &str = "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// Redis with the module or the library, a shop, and a proxy with the relay between them; a sale `spring` of `units`.
struct Scene {
    redis: RedisServer,
    shop: Shop,
    proxy: Proxy,
}

impl Scene {
    fn set(redis: RedisServerBuilder, units: u32) -> Scene {
        let redis = redis.append_only(AppendFsync::Always).start();
        redis.client().ok(&["FLASH.CREATE", "sale:spring", "LIMIT", "2", "ITEMS", "shirt", &units.to_string()]);
        let shop = Shop::start();
        let proxy = Proxy::builder()
            .redis(&redis)
            .upstream(&shop.address())
            .webhook(&shop.url("/webhooks/orders"), WEBHOOK_SECRET)
            .set("relay.webhook.backoff_first_ms", "20")
            .start();
        Scene { redis, shop, proxy }
    }

    /// Order number by webhook id, for each order that the shop has answered 200.
    fn orders_at_the_shop(&self) -> BTreeMap<String, (String, i64)> {
        let mut orders = BTreeMap::new();
        for request in self.shop.requests_to("/webhooks/orders") {
            if request.answered == Some(200) {
                let data = &request.json()["data"];
                let hold = data["hold"].as_str().expect("a hold").to_owned();
                let number = data["no"].as_i64().expect("an order number");
                let id = request.headers["webhook-id"].clone();
                let repeat = orders.insert(id, (hold.clone(), number));
                assert!(repeat.is_none_or(|first| first == (hold, number)), "one webhook id for two orders");
            }
        }
        orders
    }
}

fn reserve(http: &Http, proxy: &Proxy, buyer: &str, hold: &str) -> Option<Answer> {
    let url = proxy.url("/flash/spring/holds?sku=shirt&qty=1");
    let headers = [("authorization", &*proxy.bearer(buyer)), ("idempotency-key", hold)];
    http.try_request("POST", &url, &headers, b"").ok()
}

fn confirm(http: &Http, proxy: &Proxy, buyer: &str, hold: &str) -> Option<Answer> {
    let url = proxy.url(&format!("/flash/spring/holds/{hold}/confirm"));
    let headers = [("authorization", &*proxy.bearer(buyer)), ("content-type", "application/json")];
    http.try_request("POST", &url, &headers, br#"{"ref":"pay-1"}"#).ok()
}

fn from_hold_to_order(redis: RedisServerBuilder) {
    let scene = Scene::set(redis, 3);
    let http = Http::new();
    let page = http.get(&scene.proxy.url("/products/shirt?colour=red"));
    assert_eq!((page.status, page.text().as_str()), (200, "the shop says 200\n"), "ordinary traffic passes");
    assert_eq!(scene.shop.requests_to("/products/shirt")[0].target, "/products/shirt?colour=red");

    let held = reserve(&http, &scene.proxy, "ann", "h1").expect("an answer");
    assert_eq!(held.status, 201, "{}", held.text());
    assert_eq!(held.json()["hold"], "h1");
    let again = reserve(&http, &scene.proxy, "ann", "h1").expect("an answer");
    assert_eq!(again.status, 200, "the same id asks again: {}", again.text());
    assert_eq!(again.json()["deadline"], held.json()["deadline"]);

    let stranger = confirm(&http, &scene.proxy, "bob", "h1").expect("an answer");
    assert_eq!((stranger.status, stranger.problem().as_str()), (403, "not-yours"));
    let order = confirm(&http, &scene.proxy, "ann", "h1").expect("an answer");
    assert_eq!((order.status, order.json()["no"].as_i64()), (200, Some(1)), "{}", order.text());

    wait_until("the shop has the order", PATIENCE, || !scene.orders_at_the_shop().is_empty());
    let request = &scene.shop.requests_to("/webhooks/orders")[0];
    assert_eq!(request.json()["data"]["buyer"], "ann");
    assert_eq!(request.json()["data"]["ref"], "pay-1");
    assert!(request.headers["webhook-signature"].starts_with("v1,"));

    for (buyer, hold) in [("bob", "h2"), ("cas", "h3")] {
        assert_eq!(reserve(&http, &scene.proxy, buyer, hold).expect("an answer").status, 201);
        assert_eq!(confirm(&http, &scene.proxy, buyer, hold).expect("an answer").status, 200);
    }
    let late = reserve(&http, &scene.proxy, "dan", "h4").expect("an answer");
    assert_eq!((late.status, late.problem().as_str()), (409, "sold-out"));
    assert_eq!(stock(&mut scene.redis.client(), "sale:spring", "shirt").sold, 3);
}

/// What a crowd was told: the order number by hold.
fn crowd(proxy: &Proxy, name: &str, buyers: usize, rushing_until: Instant) -> BTreeMap<String, i64> {
    let http = Http::new();
    let mut orders = BTreeMap::new();
    for number in 0..buyers {
        let (buyer, hold) = (format!("{name}-{number}"), format!("hold-{name}-{number}"));
        // A buyer presses the button again until there is a clear answer, or no more time.
        while Instant::now() < rushing_until {
            let held = reserve(&http, proxy, &buyer, &hold);
            match held.map(|answer| answer.status) {
                Some(200 | 201) => {}
                Some(409) => break,
                _ => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
            }
            match confirm(&http, proxy, &buyer, &hold) {
                Some(answer) if answer.status == 200 => {
                    let number = answer.json()["no"].as_i64().expect("an order number");
                    orders.insert(hold, number);
                    break;
                }
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
    orders
}

fn kill_9_in_mid_rush(redis: RedisServerBuilder) {
    let mut scene = Scene::set(redis, 400);
    let rushing_until = Instant::now() + Duration::from_secs(40);
    let told: BTreeMap<String, i64> = std::thread::scope(|scope| {
        let proxy = &scene.proxy;
        let threads: Vec<_> =
            (0..6).map(|thread| scope.spawn(move || crowd(proxy, &format!("t{thread}"), 100, rushing_until))).collect();
        for sold in [60, 160] {
            let mut client = scene.redis.client();
            wait_until("the rush is on", PATIENCE, || stock(&mut client, "sale:spring", "shirt").sold > sold);
            scene.redis.kill_9();
            // The shop has a bad moment too.
            scene.shop.behave(Manner::Status(500));
            scene.redis.restart();
            scene.shop.behave(Manner::Status(200));
        }
        threads.into_iter().flat_map(|thread| thread.join().expect("the crowd ends well")).collect()
    });

    let mut client = scene.redis.client();
    assert_audit_is_clean(&mut client, "sale:spring");
    let sold = stock(&mut client, "sale:spring", "shirt").sold;
    assert!(sold > 160 && sold <= 400, "{sold}");
    wait_until("the shop has every order", PATIENCE, || scene.orders_at_the_shop().len() as i64 >= sold);

    let at_shop = scene.orders_at_the_shop();
    let holds: BTreeSet<&String> = at_shop.values().map(|(hold, _)| hold).collect();
    assert_eq!(holds.len(), at_shop.len(), "an order came under two webhook ids");
    let by_hold: BTreeMap<&String, i64> = at_shop.values().map(|(hold, number)| (hold, *number)).collect();
    for (hold, number) in &told {
        assert_eq!(by_hold.get(hold), Some(number), "{hold} was promised as order {number}");
    }
    // The relay trims what is delivered, so the stream may be shorter; what is left agrees.
    for (hold, number) in remaining_orders(&scene) {
        assert_eq!(by_hold.get(&hold), Some(&number));
    }
}

fn remaining_orders(scene: &Scene) -> BTreeMap<String, i64> {
    let mut client = scene.redis.client();
    let trimmed = client.line("XLEN {sale:spring}:orders").integer()
        < client.line("FLASH.INFO sale:spring").get("orders").integer();
    if trimmed { BTreeMap::new() } else { confirmed_orders(&mut client, "sale:spring") }
}
