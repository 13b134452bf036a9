//! A changed config is taken over by a running proxy, and no request is lost over it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use flashsale_tests::http::Http;
use flashsale_tests::shop::Shop;
use flashsale_tests::tls::Certificate;
use flashsale_tests::{Proxy, RedisServer, Server, free_port, wait_until};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

fn redis_with_sale() -> RedisServer {
    let redis = RedisServer::builder(Server::Redis70).module().start();
    redis.client().ok(&["FLASH.CREATE", "sale:s", "ITEMS", "shirt", "1000"]);
    redis
}

#[test]
fn a_hangup_takes_over_what_can_change_and_names_the_rest() {
    let redis = redis_with_sale();
    let mut proxy = Proxy::builder().redis(&redis).start();
    let http = Http::new();
    let status = |proxy: &Proxy| http.get(&proxy.url("/flash/s")).status;
    for _ in 0..20 {
        assert_eq!(status(&proxy), 200);
    }
    proxy.rewrite(|builder| {
        builder
            .set("rates.mode", "\"enforce\"")
            .set("rates.address_per_second", "1")
            .set("redis.url", "\"redis://127.0.0.1:1\"")
    });
    proxy.signal(libc::SIGHUP);
    wait_until("the new limit holds", PATIENCE, || status(&proxy) == 429);
    let log = proxy.log();
    assert!(log.contains("changed: rates.address_per_second, rates.mode"), "{log}");
    assert!(log.contains("stay as they were: redis.url"), "{log}");
    proxy.rewrite(|builder| builder.set("rates.mode", "\"off\""));
    proxy.signal(libc::SIGHUP);
    wait_until("there is none any more", PATIENCE, || (0..5).all(|_| status(&proxy) == 200));
}

#[test]
fn a_wrong_config_changes_nothing_and_says_why() {
    let redis = redis_with_sale();
    let mut proxy = Proxy::builder().redis(&redis).start();
    let http = Http::new();
    let reload = |proxy: &Proxy| http.request("POST", &proxy.admin_url("/api/reload"), &[], b"");
    assert_eq!(reload(&proxy).json(), json!({"changed": [], "kept": []}));

    proxy.rewrite(|builder| builder.set("rates.mode", "\"enforce\"").set("rates.adress_per_second", "1"));
    let refusal = reload(&proxy);
    assert_eq!(refusal.status, 409);
    assert!(refusal.text().contains("did you mean `address_per_second`?"), "{}", refusal.text());
    proxy.signal(libc::SIGHUP);
    wait_until("it is said", PATIENCE, || proxy.log().contains("the config stays as it was"));
    for _ in 0..20 {
        assert_eq!(http.get(&proxy.url("/flash/s")).status, 200);
    }
    assert_eq!(http.get(&proxy.admin_url("/api/reload")).status, 405);
}

#[test]
fn keys_and_secrets_are_read_again() {
    let redis = redis_with_sale();
    let mut proxy = Proxy::builder().redis(&redis).start();
    let http = Http::new();
    let old = proxy.bearer("ann");
    let new = flashsale_tests::token::bearer("ann", b"the next secret of the shop, long enough");
    let reserve = |proxy: &Proxy, bearer: &str| {
        let headers = [("authorization", bearer)];
        http.request("POST", &proxy.url("/flash/s/holds?sku=shirt"), &headers, b"").status
    };
    assert_eq!((reserve(&proxy, &old), reserve(&proxy, &new)), (201, 401));
    proxy.rewrite(|builder| builder.file("jwt-secret", "the next secret of the shop, long enough"));
    assert_eq!(http.request("POST", &proxy.admin_url("/api/reload"), &[], b"").status, 200);
    assert_eq!((reserve(&proxy, &old), reserve(&proxy, &new)), (401, 201));
}

#[test]
fn requests_go_on_while_the_shop_behind_is_replaced_again_and_again() {
    let shops = [Shop::start(), Shop::start()];
    let mut proxy = Proxy::builder().set("redis.url", "\"redis://127.0.0.1:1\"").upstream(&shops[0].address()).start();
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let url = proxy.url("/page");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let http = Http::new();
                while !done.load(Ordering::Relaxed) {
                    let answer = http.request("POST", &url, &[], b"an order");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let http = Http::new();
        for round in 1..=20 {
            let before = asked.load(Ordering::Relaxed);
            proxy.rewrite(|builder| builder.upstream(&shops[round % 2].address()));
            let report = http.request("POST", &proxy.admin_url("/api/reload"), &[], b"");
            assert_eq!(report.json()["changed"], json!(["shop.upstreams"]));
            wait_until("requests go on", PATIENCE, || asked.load(Ordering::Relaxed) > before + 8);
        }
        done.store(true, Ordering::Relaxed);
    });
    let came = shops.each_ref().map(|shop| shop.requests_to("/page").len());
    assert_eq!(came[0] + came[1], asked.load(Ordering::Relaxed), "each request reached a shop once");
    assert!(came[0] > 0 && came[1] > 0, "{came:?}");
    let before = shops[1].requests_to("/page").len();
    for _ in 0..5 {
        Http::new().get(&url);
    }
    assert_eq!(shops[1].requests_to("/page").len(), before, "the last reload named the other");
}

#[test]
fn a_renewed_certificate_is_shown_from_then_on() {
    let (old, new) = (Certificate::new("shop.example"), Certificate::new("shop.example"));
    let address = format!("127.0.0.1:{}", free_port());
    let with = |builder: flashsale_tests::ProxyBuilder, certificate: &Certificate| {
        builder.file("tls.crt", &certificate.pem).file("tls.key", &certificate.key_pem)
    };
    let builder = Proxy::builder()
        .set("redis.url", "\"redis://127.0.0.1:1\"")
        .set("listen.tls.address", &format!("{address:?}"))
        .set("listen.tls.certificate_file", "\"tls.crt\"")
        .set("listen.tls.key_file", "\"tls.key\"");
    let mut proxy = with(builder, &old).start();
    let trusted = |certificate: &Certificate| certificate.connect(&address, "shop.example", &[]).is_ok();
    assert!(trusted(&old) && !trusted(&new));
    proxy.rewrite(|builder| with(builder, &new));
    assert_eq!(Http::new().request("POST", &proxy.admin_url("/api/reload"), &[], b"").status, 200);
    assert!(trusted(&new) && !trusted(&old));
}
