//! Nobody may ask for more than a share: addresses and buyers are limited, and say so.

use flashsale_tests::http::Http;
use flashsale_tests::{Proxy, RedisServer};

fn scene(settings: &[(&str, &str)]) -> (RedisServer, Proxy, Http) {
    let redis = RedisServer::with_sale("FLASH.CREATE sale:s ITEMS shirt 1000");
    let proxy = Proxy::builder().redis(&redis).set("listen.trusted_proxies", "[\"127.0.0.1/32\"]");
    let proxy = settings.iter().fold(proxy, |proxy, (key, value)| proxy.set(key, value)).start();
    (redis, proxy, Http::new())
}

fn window(http: &Http, proxy: &Proxy, address: &str) -> flashsale_tests::http::Answer {
    http.request("GET", &proxy.url("/flash/s"), &[("x-forwarded-for", address)], b"")
}

#[test]
fn an_address_that_asks_too_often_is_refused_and_others_are_not() {
    let (_redis, proxy, http) = scene(&[("rates.mode", "\"enforce\""), ("rates.address_per_second", "5")]);
    let answers: Vec<_> = (0..30).map(|_| window(&http, &proxy, "203.0.113.1")).collect();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(refused.len() >= 10 && refused.len() < 30, "{}", refused.len());
    let refusal = refused[0];
    assert_eq!(refusal.problem(), "rate-limited");
    assert!(refusal.header("retry-after").is_some());
    assert_eq!(refusal.header("ratelimit-policy"), Some("\"address\";q=5;w=1"));
    for other in 2..20 {
        assert_eq!(window(&http, &proxy, &format!("203.0.113.{other}")).status, 200);
    }
    // A household has one IPv6 network, however many addresses it takes from it.
    let household = (1..=30).map(|host| window(&http, &proxy, &format!("2001:db8::{host:x}")).status);
    assert!(household.filter(|status| *status == 429).count() >= 10);
    let metrics = proxy.metrics();
    assert!(metrics.contains("flashsale_stage_total{outcome=\"rate-limited\",stage=\"address\"}"), "{metrics}");
    assert!(!metrics.contains("203.0.113"), "an address stands in the metrics");
}

#[test]
fn a_buyer_that_asks_too_often_is_refused_from_every_address() {
    let settings = [("rates.mode", "\"enforce\""), ("rates.buyer_per_second", "1"), ("rates.buyer_burst", "3")];
    let (_redis, proxy, http) = scene(&settings);
    let reserve = |buyer: &str, address: usize| {
        let (bearer, address) = (proxy.bearer(buyer), format!("203.0.113.{address}"));
        let headers = [("authorization", bearer.as_str()), ("x-forwarded-for", address.as_str())];
        http.request("POST", &proxy.url("/flash/s/holds?sku=shirt"), &headers, b"").status
    };
    let statuses: Vec<_> = (1..=10).map(|address| reserve("ann", address)).collect();
    assert_eq!(statuses[..3], [201, 201, 201]);
    assert!(statuses[3..].iter().filter(|status| **status == 429).count() >= 5, "{statuses:?}");
    assert_eq!(reserve("bob", 1), 201);
}

#[test]
fn a_limit_can_be_tried_out_first() {
    let (_redis, proxy, http) = scene(&[("rates.mode", "\"shadow\""), ("rates.address_per_second", "1")]);
    for _ in 0..20 {
        assert_eq!(window(&http, &proxy, "203.0.113.1").status, 200);
    }
    let metrics = proxy.metrics();
    assert!(metrics.contains("flashsale_shadowed_total{outcome=\"rate-limited\",stage=\"address\"}"), "{metrics}");
}

/// What `RateLimit` says is left of a limit.
fn left(answer: &flashsale_tests::http::Answer, limit: &str) -> u64 {
    let field = answer.header("ratelimit").unwrap_or_else(|| panic!("no RateLimit in {answer:?}"));
    let item = field.split(", ").find_map(|item| item.strip_prefix(&format!("\"{limit}\";r=")));
    let item = item.unwrap_or_else(|| panic!("no {limit} in {field}"));
    item.split(';').next().and_then(|left| left.parse().ok()).expect("a number")
}

#[test]
fn an_answer_that_passes_says_what_is_left_and_it_is_true() {
    let settings = [("rates.mode", "\"enforce\""), ("rates.buyer_per_second", "1"), ("rates.buyer_burst", "4")];
    let (_redis, proxy, http) = scene(&settings);
    let bearer = proxy.bearer("ann");
    let headers = [("authorization", bearer.as_str()), ("x-forwarded-for", "203.0.113.1")];
    let send = |method: &str, path: &str| http.request(method, &proxy.url(path), &headers, b"");
    let first = send("POST", "/flash/s/holds?sku=shirt");
    assert_eq!(first.status, 201);
    assert_eq!(first.header("ratelimit-policy"), Some("\"address\";q=50;w=1, \"buyer\";q=4;w=4"));
    assert_eq!((left(&first, "address"), left(&first, "buyer")), (49, 3));
    // Refusals of the stock say it too.
    let unknown = send("POST", "/flash/s/holds/nobodys/confirm");
    assert_eq!((unknown.status, left(&unknown, "buyer") < 4), (404, true));
    let mut before = left(&unknown, "buyer");
    for _ in 0..12 {
        let answer = send("POST", "/flash/s/holds?sku=shirt");
        match answer.status {
            // On a slow machine one may have come back.
            201 => before = left(&answer, "buyer"),
            429 => {
                assert_eq!((before, left(&answer, "buyer")), (0, 0), "{answer:?}");
                break;
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
    assert_eq!(before, 0, "the burst was never used up");
    let window = http.request("GET", &proxy.url("/flash/s"), &[], b"");
    assert_eq!((window.status, window.header("ratelimit")), (200, None), "what everybody is shown is nobody's limit");
}
