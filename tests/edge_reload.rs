//! A changed config is taken over by a running proxy, and no request is lost over it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use flashsale_tests::http::Http;
use flashsale_tests::shop::Shop;
use flashsale_tests::tls::Certificate;
use flashsale_tests::{Proxy, RedisServer, free_port, wait_until};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

fn redis_with_sale() -> RedisServer {
    RedisServer::with_sale("FLASH.CREATE sale:s ITEMS shirt 1000")
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
            .set("redis.key_prefix", "\"other:\"")
    });
    proxy.signal(libc::SIGHUP);
    wait_until("the new limit holds", PATIENCE, || status(&proxy) == 429);
    let log = proxy.log();
    assert!(log.contains("changed: rates.address_per_second, rates.mode"), "{log}");
    assert!(log.contains("stay as they were: redis.key_prefix"), "{log}");
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

fn reload(proxy: &Proxy) -> serde_json::Value {
    let report = Http::new().request("POST", &proxy.admin_url("/api/reload"), &[], b"");
    assert_eq!(report.status, 200, "{}", report.text());
    report.json()
}

#[test]
fn a_reload_of_something_else_opens_no_gate() {
    const BURST: usize = 60;
    let redis = redis_with_sale();
    let mut proxy = Proxy::builder()
        .redis(&redis)
        .set("rates.mode", "\"enforce\"")
        .set("rates.address_per_second", "0")
        .set("rates.buyer_per_second", "1")
        .set("rates.buyer_burst", &BURST.to_string())
        .start();
    let http = Http::new();
    let bearer = proxy.bearer("ann");
    // A hold that is not there is refused by the stock: it costs the buyer's rate and nothing else.
    let ask = |proxy: &Proxy| {
        let url = proxy.url("/flash/s/holds/none/confirm");
        http.request("POST", &url, &[("authorization", &bearer)], b"").status
    };
    wait_until("the burst is used up", PATIENCE, || ask(&proxy) == 429);
    let set_level = |proxy: &Proxy, body: &str| {
        let headers = [("content-type", "application/json")];
        assert_eq!(http.request("PUT", &proxy.admin_url("/api/level"), &headers, body.as_bytes()).status, 200);
    };
    set_level(&proxy, "{\"level\":2}");
    proxy.rewrite(|builder| builder.set("sale.few_at", "11").set("access_log.sample", "0.5"));
    assert_eq!(reload(&proxy)["changed"], json!(["access_log.sample", "sale.few_at"]));
    let passed = (0..BURST).filter(|_| ask(&proxy) != 429).count();
    assert!(passed < BURST / 2, "{passed} of {BURST} passed: the count began anew");
    assert_eq!(http.get(&proxy.admin_url("/api/level")).json()["level"], 2);
}

#[test]
fn a_reload_that_is_refused_changes_nothing() {
    let redis = redis_with_sale();
    let mut proxy = Proxy::builder().redis(&redis).start();
    let http = Http::new();
    let limit = |proxy: &Proxy| proxy.metric("flashsale_lane_limit", &[]) as u32;
    assert_eq!(limit(&proxy), 1000);
    let narrow = "{ limit = 100, min = 10, max = 100 }";
    proxy.rewrite(|builder| {
        builder.set("lanes", narrow).set("tokens.keys", r#"[{ algorithm = "HS256", secret_file = "nowhere" }]"#)
    });
    let refusal = http.request("POST", &proxy.admin_url("/api/reload"), &[], b"");
    assert_eq!(refusal.status, 409, "{}", refusal.text());
    assert_eq!(limit(&proxy), 1000);
    proxy.rewrite(|builder| builder.set("tokens.keys", r#"[{ algorithm = "HS256", secret_file = "jwt-secret" }]"#));
    reload(&proxy);
    assert_eq!(limit(&proxy), 100);
}

#[test]
fn levels_lanes_and_known_state_are_taken_over() {
    let redis = redis_with_sale();
    let mut proxy =
        Proxy::builder().redis(&redis).set("known.refresh_ms", "600000").set("levels.drop", "[1.0, 1.0, 1.0]").start();
    let http = Http::new();
    let bearer = proxy.bearer("ann");
    let reserve = |proxy: &Proxy| {
        http.request("POST", &proxy.url("/flash/s/holds?sku=shirt"), &[("authorization", &bearer)], b"").status
    };
    let supply = |proxy: &Proxy| http.get(&proxy.url("/flash/s")).json()["skus"]["shirt"].clone();
    assert_eq!((reserve(&proxy), supply(&proxy)), (201, json!("many")));
    redis.client().ok(&["FLASH.STOCK", "sale:s", "shirt", "-990"]);
    let headers = [("content-type", "application/json")];
    let level = http.request("PUT", &proxy.admin_url("/api/level"), &headers, b"{\"level\":1}");
    assert_eq!(level.status, 200);
    assert_eq!((reserve(&proxy), supply(&proxy)), (503, json!("many")));

    proxy.rewrite(|builder| {
        builder
            .set("known.refresh_ms", "20")
            .set("known.sales_max", "5")
            .set("levels.drop", "[0.0, 1.0, 1.0]")
            .set("lanes.limit", "77")
            .set("lanes.max", "77")
    });
    let report = reload(&proxy);
    assert_eq!(report["changed"], json!(["known.refresh_ms", "lanes.limit", "lanes.max", "levels.drop"]));
    assert_eq!(report["kept"], json!(["known.sales_max"]));
    assert_eq!(reserve(&proxy), 201);
    wait_until("the picture is fetched anew", PATIENCE, || supply(&proxy) == json!("few"));
    assert_eq!(http.get(&proxy.admin_url("/api/level")).json()["level"], 1, "set by hand, and so it stays");
    assert!(proxy.metrics().contains("flashsale_lane_limit 77"));
}

#[test]
fn a_relay_is_begun_replaced_and_ended() {
    let (redis, shop) = (redis_with_sale(), Shop::start());
    let secret = "whsec_c2VjcmV0IG9mIHRoZSBzaG9wLCBsb25nIGVub3VnaA==";
    let mut proxy = Proxy::builder().redis(&redis).start();
    let order = |id: &str| redis.client().ok(&["FLASH.ORDER", "sale:s", id, "ann", "ITEMS", "shirt", "1"]);
    let told = |path: &str| {
        let holds = shop.requests_to(path).into_iter().map(|request| request.json()["data"]["hold"].clone());
        holds.collect::<Vec<_>>()
    };
    order("h1");
    proxy.rewrite(|builder| builder.webhook(&shop.url("/first"), secret));
    reload(&proxy);
    wait_until("a relay runs", PATIENCE, || told("/first") == [json!("h1")]);
    let lease = || redis.client().ok(&["GET", "{sale:s}:orders:relay"]).to_string();
    let first_lease = lease();
    proxy.rewrite(|builder| builder.webhook(&shop.url("/second"), secret));
    assert_eq!(reload(&proxy)["changed"], json!(["relay.webhook.url"]));
    wait_until("another has its lease", PATIENCE, || !["nil", &*first_lease].contains(&&*lease()));
    order("h2");
    wait_until("another runs in its place", PATIENCE, || told("/second") == [json!("h2")]);
    assert_eq!(told("/first"), [json!("h1")], "each order went to one of them");
    proxy.rewrite(|builder| builder.set("relay.enabled", "false"));
    reload(&proxy);
    wait_until("its lease is over before the process is", PATIENCE, || lease() == "nil");
    let delivered = || {
        let groups = redis.client().ok(&["XINFO", "GROUPS", "{sale:s}:orders"]);
        groups.at(0).get("last-delivered-id").text()
    };
    let before = delivered();
    order("h3");
    proxy.stop();
    assert_eq!(delivered(), before, "no order was taken from the stream");
    assert_eq!((told("/first").len(), told("/second").len()), (1, 1));
}

#[test]
fn the_sale_moves_to_another_server_and_no_request_is_lost() {
    let (first, second) = (redis_with_sale(), redis_with_sale());
    let mut proxy = Proxy::builder().redis(&first).set("known.refresh_ms", "600000").start();
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let bearer = proxy.bearer("ann");
    let url = proxy.url("/flash/s/holds?sku=shirt");
    let reserve = |http: &Http| http.request("POST", &url, &[("authorization", &bearer)], b"");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let http = Http::new();
            while !done.load(Ordering::Relaxed) {
                let answer = reserve(&http);
                assert_eq!(answer.status, 201, "{}", answer.text());
                asked.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let more = |count: usize| {
            let before = asked.load(Ordering::Relaxed);
            wait_until("requests go on", PATIENCE, || asked.load(Ordering::Relaxed) >= before + count);
        };
        more(5);
        // Nobody is there: a slip of the pen, and the sale goes on.
        let nobody = format!("\"redis://127.0.0.1:{}\"", free_port());
        proxy.rewrite(|builder| builder.set("redis.url", &nobody));
        let refusal = Http::new().request("POST", &proxy.admin_url("/api/reload"), &[], b"");
        assert_eq!(refusal.status, 409, "{}", refusal.text());
        assert!(refusal.text().contains("[redis]"), "{}", refusal.text());
        more(5);
        proxy.rewrite(|builder| builder.redis(&second));
        assert_eq!(reload(&proxy)["changed"], json!(["redis.url"]));
        more(20);
        done.store(true, Ordering::Relaxed);
    });
    let holds = |redis: &RedisServer| redis.client().line("FLASH.INFO sale:s").get("holds").integer();
    assert_eq!(holds(&first) + holds(&second), asked.load(Ordering::Relaxed) as i64, "each was made once");
    assert!(holds(&first) >= 5 && holds(&second) >= 15, "{} {}", holds(&first), holds(&second));
    // News come from the new one, and the old one is left alone.
    let left = (1000 - holds(&second)).to_string();
    wait_until("the new one is listened to", PATIENCE, || {
        proxy.log().matches("listening to the state channel").count() == 2
    });
    second.client().ok(&["FLASH.ORDER", "sale:s", "rest", "bob", "ITEMS", "shirt", &left]);
    let http = Http::new();
    let window = || http.get(&proxy.url("/flash/s")).json()["skus"]["shirt"].clone();
    wait_until("nothing is left", PATIENCE, || window() == json!("none") || reserve(&http).status == 409);
    wait_until("nobody is connected to the old one", PATIENCE, || {
        window();
        reserve(&http);
        first.client().ok(&["CLIENT", "LIST"]).text().lines().count() == 1
    });
}
