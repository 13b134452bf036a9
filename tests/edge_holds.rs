//! What a buyer and a shop can do to a sale over HTTP, and what they are told when they cannot.

use std::time::Duration;

use flashsale_tests::http::{Answer, Http, assert_refused};
use flashsale_tests::sale::{assert_audit_is_clean, stock};
use flashsale_tests::{Client, Proxy, RedisServer, unix_ms, wait_until};

const SERVER_KEY: &str = "the shop's own key, not short";

struct Scene {
    redis: RedisServer,
    proxy: Proxy,
    http: Http,
}

impl Scene {
    fn with(create: &str) -> Scene {
        let redis = RedisServer::with_sale(create);
        let proxy = Proxy::builder()
            .redis(&redis)
            .file("server-key", SERVER_KEY)
            .set("shop.server_key_file", "\"server-key\"")
            .start();
        Scene { redis, proxy, http: Http::new() }
    }

    fn client(&self) -> Client {
        self.redis.client()
    }

    fn call(&self, method: &str, path: &str, buyer: &str, more: &[(&str, &str)], body: &str) -> Answer {
        let bearer = self.proxy.bearer(buyer);
        let mut headers = vec![("authorization", bearer.as_str())];
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        headers.extend(more);
        self.http.request(method, &self.proxy.url(path), &headers, body.as_bytes())
    }

    fn reserve(&self, buyer: &str, hold: &str, query: &str) -> Answer {
        self.call("POST", &format!("/flash/s/holds?{query}"), buyer, &[("idempotency-key", hold)], "")
    }

    fn as_shop(&self, method: &str, path: &str) -> Answer {
        let key = format!("Bearer {SERVER_KEY}");
        self.http.request(method, &self.proxy.url(path), &[("authorization", key.as_str())], b"")
    }
}

#[test]
fn a_hold_lives_through_all_its_calls() {
    let scene = Scene::with("FLASH.CREATE sale:s HOLD 60000 ITEMS shirt 5 mug 5");
    let body = r#"{"items":[{"sku":"shirt","qty":1},{"sku":"mug","qty":2}],"meta":"gift"}"#;
    let held = scene.call("POST", "/flash/s/holds", "ann", &[("idempotency-key", "h1")], body);
    assert_eq!(held.status, 201, "{}", held.text());
    assert_eq!(held.json()["items"][1], serde_json::json!({"sku": "mug", "qty": 2}));
    let deadline = held.json()["deadline"].as_u64().expect("a deadline");
    assert!(deadline > unix_ms() + 50_000 && deadline < unix_ms() + 61_000);

    let seen = scene.call("GET", "/flash/s/holds/h1", "ann", &[], "");
    assert_eq!((seen.status, seen.json()["state"].as_str()), (200, Some("held")), "{}", seen.text());
    assert_eq!(seen.json()["items"].as_array().map(Vec::len), Some(2), "{}", seen.text());
    assert_eq!(seen.json()["meta"], "gift");
    assert!(seen.json().get("buyer").is_none());

    let extended = scene.call("POST", "/flash/s/holds/h1/extend?ms=120000", "ann", &[], "");
    assert_eq!(extended.status, 200, "{}", extended.text());
    assert!(extended.json()["deadline"].as_u64() > Some(deadline + 50_000));
    assert_eq!(scene.call("POST", "/flash/s/holds/h1/extend", "ann", &[], "").status, 200);
    let too_long = scene.call("POST", "/flash/s/holds/h1/extend", "ann", &[], r#"{"ms":99999999999}"#);
    assert_refused(&too_long, 400, "bad-request");

    let order = scene.call("POST", "/flash/s/holds/h1/confirm", "ann", &[], r#"{"ref":"pay-1"}"#);
    assert_eq!(order.json(), serde_json::json!({"order": "h1", "no": 1}));
    let again = scene.call("POST", "/flash/s/holds/h1/confirm", "ann", &[], r#"{"ref":"pay-1"}"#);
    assert_eq!((again.status, again.json()), (200, order.json()));
    let other = scene.call("POST", "/flash/s/holds/h1/confirm", "ann", &[], r#"{"ref":"pay-2"}"#);
    assert_refused(&other, 409, "mismatch");
    assert_refused(&scene.call("DELETE", "/flash/s/holds/h1", "ann", &[], ""), 409, "confirmed");
    assert_refused(&scene.call("POST", "/flash/s/holds/h1/extend", "ann", &[], ""), 409, "confirmed");
    let seen = scene.call("GET", "/flash/s/holds/h1", "ann", &[], "");
    assert_eq!((seen.json()["state"].as_str(), seen.json()["no"].as_u64()), (Some("confirmed"), Some(1)));
    assert_eq!(stock(&mut scene.client(), "sale:s", "mug").sold, 2);
    assert_audit_is_clean(&mut scene.client(), "sale:s");
}

#[test]
fn only_the_owner_and_the_shop_may_touch_a_hold() {
    let scene = Scene::with("FLASH.CREATE sale:s ITEMS shirt 5");
    assert_eq!(scene.reserve("ann", "h1", "sku=shirt").status, 201);
    for (method, path) in [
        ("GET", "/flash/s/holds/h1"),
        ("DELETE", "/flash/s/holds/h1"),
        ("POST", "/flash/s/holds/h1/extend"),
        ("POST", "/flash/s/holds/h1/confirm"),
    ] {
        assert_refused(&scene.call(method, path, "bob", &[], ""), 403, "not-yours");
        let nobody = scene.http.request(method, &scene.proxy.url(path), &[], b"");
        assert_refused(&nobody, 401, "token");
        assert_eq!(nobody.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(stock(&mut scene.client(), "sale:s", "shirt").held, 1);
    // The same id under another buyer's name changes nothing and shows nothing.
    let stolen = scene.reserve("bob", "h1", "sku=shirt");
    assert_refused(&stolen, 409, "mismatch");
    assert!(!stolen.text().contains("ann"));

    let seen = scene.as_shop("GET", "/flash/s/holds/h1");
    assert_eq!((seen.status, seen.json()["buyer"].as_str()), (200, Some("ann")));
    assert_eq!(scene.as_shop("POST", "/flash/s/holds/h1/extend").status, 200);
    assert_eq!(scene.as_shop("POST", "/flash/s/holds/h1/confirm").status, 200);
    assert_refused(&scene.as_shop("POST", "/flash/s/holds?sku=shirt"), 401, "token");
}

#[test]
fn units_given_back_can_be_had_at_once() {
    let scene = Scene::with("FLASH.CREATE sale:s ITEMS shirt 1");
    assert_eq!(scene.reserve("ann", "h1", "sku=shirt").status, 201);
    let refused = scene.reserve("bob", "h2", "sku=shirt");
    assert_refused(&refused, 409, "all-held");
    assert!(refused.header("retry-after").is_some());
    assert!(refused.json()["next"].as_u64() > Some(unix_ms()));
    let released = scene.call("DELETE", "/flash/s/holds/h1", "ann", &[], "");
    assert_eq!((released.status, released.body.len()), (204, 0));
    assert_eq!(scene.call("DELETE", "/flash/s/holds/h1", "ann", &[], "").status, 204, "twice is once");
    assert_eq!(scene.reserve("bob", "h2", "sku=shirt").status, 201);
    for path in ["/flash/s/holds/h1/confirm", "/flash/s/holds/h1/extend"] {
        assert_refused(&scene.call("POST", path, "ann", &[], ""), 410, "released");
    }
    assert_refused(&scene.reserve("ann", "h1", "sku=shirt"), 410, "released");
}

#[test]
fn what_was_given_back_before_it_came_is_refused() {
    let scene = Scene::with("FLASH.CREATE sale:s ITEMS shirt 5");
    assert_eq!(scene.call("DELETE", "/flash/s/holds/early", "ann", &[], "").status, 204);
    assert_refused(&scene.reserve("ann", "early", "sku=shirt"), 410, "released");
    assert_refused(&scene.call("POST", "/flash/s/holds/nobody/confirm", "ann", &[], ""), 404, "not-found");
    assert_refused(&scene.call("GET", "/flash/s/holds/nobody", "ann", &[], ""), 404, "not-found");
}

#[test]
fn a_hold_ends_at_its_deadline_and_the_next_gets_it() {
    let scene = Scene::with("FLASH.CREATE sale:s HOLD 400 ITEMS shirt 1");
    assert_eq!(scene.reserve("ann", "h1", "sku=shirt").status, 201);
    assert_refused(&scene.reserve("bob", "h2", "sku=shirt"), 409, "all-held");
    // No later than its end, though the edge's picture of the sale may be a second old.
    std::thread::sleep(Duration::from_millis(470));
    assert_eq!(scene.reserve("bob", "h2", "sku=shirt").status, 201);
    assert_refused(&scene.call("POST", "/flash/s/holds/h1/confirm", "ann", &[], ""), 410, "expired");
    assert_refused(&scene.reserve("ann", "h1", "sku=shirt"), 410, "expired");
    assert_refused(&scene.call("DELETE", "/flash/s/holds/h1", "ann", &[], ""), 410, "expired");
}

#[test]
fn an_order_is_made_in_one_step() {
    let scene = Scene::with("FLASH.CREATE sale:s LIMIT 2 ITEMS shirt 3");
    let body = r#"{"items":[{"sku":"shirt","qty":2}],"ref":"pay-1"}"#;
    let order = scene.call("POST", "/flash/s/orders", "ann", &[("idempotency-key", "\"o1\"")], body);
    assert_eq!((order.status, order.json()), (200, serde_json::json!({"order": "o1", "no": 1})), "{}", order.text());
    let again = scene.call("POST", "/flash/s/orders", "ann", &[("idempotency-key", "o1")], body);
    assert_eq!((again.status, again.json()), (200, order.json()));
    let limit = scene.call("POST", "/flash/s/orders?sku=shirt", "ann", &[], "");
    assert_refused(&limit, 409, "limit");
    assert_eq!(limit.json()["left"], 0);

    let unnamed = scene.call("POST", "/flash/s/orders?sku=shirt&ref=pay-2", "bob", &[], "");
    assert_eq!((unnamed.status, unnamed.json()["no"].as_u64()), (200, Some(2)), "{}", unnamed.text());
    assert_refused(&scene.call("POST", "/flash/s/orders?sku=shirt", "cas", &[], ""), 409, "sold-out");
    // A reservation that asks again after it became an order is told so.
    let order = scene.reserve("ann", "o1", "sku=shirt&qty=2");
    assert!(order.status == 200 || order.problem() == "sold-out", "{}", order.text());
    assert_audit_is_clean(&mut scene.client(), "sale:s");
}

#[test]
fn a_sale_says_what_it_is() {
    let scene = Scene::with("FLASH.CREATE sale:s ITEMS shirt 500 mug 3 cap 0");
    let url = scene.proxy.url("/flash/s");
    let window = scene.http.get(&url);
    assert_eq!((window.status, window.header("cache-control")), (200, Some("public, max-age=1")));
    let seen = window.json();
    assert_eq!((seen["sale"].as_str(), seen["state"].as_str()), (Some("s"), Some("open")));
    assert_eq!(seen["skus"], serde_json::json!({"shirt": "many", "mug": "few", "cap": "none"}));
    assert!(seen["server_time"].as_u64().expect("a time").abs_diff(unix_ms()) < 5_000);
    let head = scene.http.request("HEAD", &url, &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));

    let mut client = scene.client();
    for (command, state, word, status) in [("PAUSE", "paused", "paused", 503), ("CLOSE", "closed", "closed", 410)] {
        client.ok(&[&format!("FLASH.{command}"), "sale:s"]);
        wait_until("the window shows it", Duration::from_secs(5), || scene.http.get(&url).json()["state"] == state);
        assert_refused(&scene.reserve("ann", "h1", "sku=shirt"), status, word);
    }
    assert_refused(&scene.http.get(&scene.proxy.url("/flash/other")), 404, "no-sale");
    assert_refused(&scene.call("POST", "/flash/other/holds?sku=shirt", "ann", &[], ""), 404, "no-sale");
    assert_refused(&scene.call("POST", "/flash/other/holds/h/confirm", "ann", &[], ""), 404, "no-sale");
}

#[test]
fn a_sale_opens_by_itself() {
    let opens_at = unix_ms() + 1500;
    let scene = Scene::with(&format!("FLASH.CREATE sale:s OPENS {opens_at} ITEMS shirt 5"));
    let early = scene.reserve("ann", "h1", "sku=shirt");
    assert_refused(&early, 425, "not-open");
    assert_eq!(early.json()["opens_at"], opens_at);
    assert!(early.header("retry-after").is_some());
    wait_until("it opens", Duration::from_secs(5), || scene.reserve("ann", "h1", "sku=shirt").status == 201);
    assert!(unix_ms() >= opens_at && unix_ms() < opens_at + 1000, "{} ms late", unix_ms() - opens_at);
    assert_refused(&scene.reserve("ann", "h2", "sku=hat"), 404, "no-sku");
}

#[test]
fn names_may_hold_any_bytes() {
    let scene = Scene::with("FLASH.CREATE sale:s ITEMS shirt 5");
    let mut client = scene.client();
    client.ok(&[b"FLASH.CREATE".as_slice(), b"sale:a/b \xff", b"ITEMS", b"red shoe/42", b"5", b"\xff\0", b"5"]);
    let buy = |query: &str| scene.call("POST", &format!("/flash/a%2Fb%20%FF/holds?{query}"), "ann", &[], "").status;
    assert_eq!(buy("sku=red+shoe/42"), 201);
    assert_eq!(buy("sku=red%20shoe%2f42"), 201);
    assert_eq!(buy("sku=%ff%00"), 201);
    client.ok(&[b"FLASH.RESERVE".as_slice(), b"sale:s", b"a/b\0\xff", b"ann", b"ITEMS", b"shirt", b"1"]);
    assert_eq!(scene.call("GET", "/flash/s/holds/a%2fb%00%FF", "ann", &[], "").status, 200);
    assert_eq!(scene.call("DELETE", "/flash/s/holds/a%2Fb%00%ff", "ann", &[], "").status, 204);
    // A key of another type is no sale, and neither is an order stream.
    client.ok(&["SET", "sale:text", "x"]);
    assert_refused(&scene.call("POST", "/flash/text/holds?sku=shirt", "ann", &[], ""), 404, "no-sale");
}
