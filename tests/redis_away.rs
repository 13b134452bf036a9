//! The proxy outlives its Redis: 503 while it is away, and sales again when it is back, with no restart.

use std::time::Duration;

use flashsale_tests::http::Http;
use flashsale_tests::shop::Shop;
use flashsale_tests::{AppendFsync, Proxy, RedisServer, Server, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

fn redis_with_sale() -> RedisServer {
    let redis = RedisServer::builder(Server::Redis70).module().append_only(AppendFsync::Always).start();
    redis.client().ok(&["FLASH.CREATE", "sale:spring", "ITEMS", "shirt", "1000"]);
    redis
}

fn reserve(http: &Http, proxy: &Proxy, hold: &str) -> u16 {
    let headers = [("authorization", &*proxy.bearer("ann")), ("idempotency-key", hold)];
    http.request("POST", &proxy.url("/flash/spring/holds?sku=shirt&qty=1"), &headers, b"").status
}

#[test]
fn a_redis_that_is_not_there_at_start_is_waited_for() {
    let mut redis = redis_with_sale();
    redis.stop();
    let shop = Shop::start();
    let proxy = Proxy::builder().redis(&redis).upstream(&shop.address()).start();
    let http = Http::new();
    assert_eq!(http.get(&proxy.url("/a-page")).status, 200, "the shop does not need Redis");
    let headers = [("authorization", &*proxy.bearer("ann")), ("idempotency-key", "h1")];
    let refusal = http.request("POST", &proxy.url("/flash/spring/holds?sku=shirt&qty=1"), &headers, b"");
    assert_eq!((refusal.status, refusal.problem().as_str()), (503, "redis-down"), "{}", refusal.text());
    assert!(refusal.header("retry-after").is_some());
    assert_eq!(http.get(&proxy.admin_url("/healthz")).status, 200, "alive");
    assert_eq!(http.get(&proxy.admin_url("/readyz")).status, 503, "but not ready");

    redis.restart();
    wait_until("the proxy sells", PATIENCE, || reserve(&http, &proxy, "h1") == 201);
    assert_eq!(http.get(&proxy.admin_url("/readyz")).status, 200);
}

#[test]
fn a_redis_that_dies_and_comes_back_is_found_again() {
    let mut redis = redis_with_sale();
    let proxy = Proxy::builder().redis(&redis).start();
    let http = Http::new();
    for round in 0..3 {
        let hold = format!("h{round}");
        wait_until("the proxy sells", PATIENCE, || matches!(reserve(&http, &proxy, &hold), 200 | 201));
        redis.kill_9();
        let away = reserve(&http, &proxy, "away");
        // 202: the command may have been on its way when the server died.
        assert!(matches!(away, 202 | 503), "{away}");
        wait_until("it is known that Redis is away", PATIENCE, || reserve(&http, &proxy, "away") == 503);
        redis.restart();
    }
}

#[test]
fn a_redis_that_hangs_does_not_hang_the_proxy() {
    let mut redis = redis_with_sale();
    let proxy = Proxy::builder().redis(&redis).set("redis.timeout_ms", "200").start();
    let http = Http::new();
    assert_eq!(reserve(&http, &proxy, "h1"), 201);
    redis.signal(libc::SIGSTOP);
    let started = std::time::Instant::now();
    let answer = reserve(&http, &proxy, "h2");
    assert!(matches!(answer, 202 | 503), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    redis.signal(libc::SIGCONT);
    // The same id finds out what became of it.
    wait_until("the proxy sells", PATIENCE, || matches!(reserve(&http, &proxy, "h2"), 200 | 201));
    let held = redis.client().line("FLASH.INFO sale:spring").get("holds").integer();
    assert_eq!(held, 2);
}

#[test]
fn a_redis_that_is_paused_is_given_up_at_once_and_found_again() {
    let redis = redis_with_sale();
    let proxy = Proxy::builder()
        .redis(&redis)
        .set("redis.timeout_ms", "200")
        .set("redis.connect_timeout_ms", "200")
        .set("redis.breaker_failures", "3")
        .start();
    let http = Http::new();
    let bearer = proxy.bearer("ann");
    let ask = |hold: &str| {
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", hold)];
        http.request("POST", &proxy.url("/flash/spring/holds?sku=shirt&qty=1"), &headers, b"")
    };
    let breaker = |event: &str| proxy.metric("flashsale_redis_breaker_total", &[event]) as u64;
    assert_eq!(ask("h0").status, 201);
    redis.client().ok(&["CLIENT", "PAUSE", "10000", "ALL"]);
    let paused = std::time::Instant::now();
    wait_until("the breaker opens", PATIENCE, || {
        let answer = ask("h1");
        assert!(matches!(answer.status, 202 | 503), "{}", answer.text());
        breaker("opened") > 0
    });
    // Nobody waits for a server that does not answer, but for one in a while who finds out whether it is back.
    let answers: Vec<_> =
        (0..20).map(|_| ask("h1")).take_while(|_| paused.elapsed() < Duration::from_secs(9)).collect();
    for answer in &answers {
        assert!(matches!(answer.status, 202 | 503), "{}", answer.text());
    }
    let refused = answers.iter().find(|answer| answer.status == 503).expect("a refusal");
    assert_eq!(refused.problem(), "redis-down");
    assert!(refused.header("retry-after").is_some());
    wait_until("the proxy sells again by itself", PATIENCE, || matches!(ask("h1").status, 200 | 201));
    assert!(breaker("closed") > 0 && breaker("probe") > 0);
    assert_eq!(redis.client().line("FLASH.INFO sale:spring").get("holds").integer(), 2, "h1 was reserved once");
}
