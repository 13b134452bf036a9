//! Tickets: what they are good for, on every proxy with the same key, and what they are not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use flashsale_tests::http::{Answer, Http, assert_refused};
use flashsale_tests::sale::{assert_audit_is_clean, stock};
use flashsale_tests::{Proxy, ProxyBuilder, RedisServer, Site, unix_ms, wait_until};
use serde_json::{Value, json};

const OLD_KEY: &str = "the ticket key of last week, 32 bytes or more";
const NEW_KEY: &str = "the ticket key of this week, 32 bytes or more";

fn redis() -> RedisServer {
    RedisServer::with_sale("FLASH.CREATE sale:s ITEMS shirt 100 mug 100")
}

/// A proxy with tickets, whose keys are named in this order.
fn proxy(redis: &RedisServer, mode: &str, keys: &[&str]) -> ProxyBuilder {
    let keys: Vec<String> = keys.iter().map(|id| format!("{{ id = \"{id}\", secret_file = \"{id}\" }}")).collect();
    Proxy::builder()
        .redis(redis)
        .file("old", OLD_KEY)
        .file("new", NEW_KEY)
        .set("tickets.mode", &format!("\"{mode}\""))
        .set("tickets.keys", &format!("[{}]", keys.join(", ")))
}

fn ask(http: &Http, proxy: &Proxy, sale: &str, buyer: &str, body: &str) -> Answer {
    let bearer = proxy.bearer(buyer);
    let mut headers = vec![("authorization", bearer.as_str())];
    if !body.is_empty() {
        headers.push(("content-type", "application/json"));
    }
    http.request("POST", &proxy.url(&format!("/flash/{sale}/ticket")), &headers, body.as_bytes())
}

#[track_caller]
fn fetch(http: &Http, proxy: &Proxy, buyer: &str) -> String {
    let answer = ask(http, proxy, "s", buyer, "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["ticket"].as_str().expect("a ticket").to_owned()
}

/// The hot route: a ticket, and neither a token nor a body.
fn reserve(http: &Http, proxy: &Proxy, sale: &str, ticket: &str) -> Answer {
    let url = proxy.url(&format!("/flash/{sale}/holds?sku=shirt"));
    http.request("POST", &url, &[("flash-ticket", ticket)], b"")
}

#[test]
fn a_ticket_finds_one_hold_however_often_and_wherever_it_is_shown() {
    let (redis, http) = (redis(), Http::new());
    let first = proxy(&redis, "required", &["old"]).start();
    let second = proxy(&redis, "required", &["old"]).start();
    let answer = ask(&http, &first, "s", "ann", "");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let expires_at = answer.json()["expires_at"].as_u64().expect("a time");
    assert!(expires_at.abs_diff(unix_ms() + 600_000) < 10_000);
    let ticket = answer.json()["ticket"].as_str().expect("a ticket").to_owned();

    let held = reserve(&http, &first, "s", &ticket);
    assert_eq!(held.status, 201, "{}", held.text());
    for proxy in [&first, &second, &first, &second] {
        let again = reserve(&http, proxy, "s", &ticket);
        assert_eq!((again.status, again.json()), (200, held.json()));
    }
    assert_eq!(stock(&mut redis.client(), "sale:s", "shirt").held, 1);
    // With something else in the basket it is another wish, which this ticket has not.
    let other = http.request("POST", &first.url("/flash/s/holds?sku=mug"), &[("flash-ticket", &ticket)], b"");
    assert_refused(&other, 409, "mismatch");
    // The ticket's own id counts, whatever the client calls it.
    let headers = [("flash-ticket", ticket.as_str()), ("idempotency-key", "mine")];
    assert_eq!(http.request("POST", &first.url("/flash/s/holds?sku=shirt"), &headers, b"").json(), held.json());

    // The hold is ann's, by her token.
    let hold = held.json()["hold"].as_str().expect("a hold").to_owned();
    let confirm = second.url(&format!("/flash/s/holds/{hold}/confirm?ref=p1"));
    let bob = second.bearer("bob");
    assert_refused(&http.request("POST", &confirm, &[("authorization", &bob)], b""), 403, "not-yours");
    let ann = second.bearer("ann");
    assert_eq!(http.request("POST", &confirm, &[("authorization", &ann)], b"").status, 200);
    let ordered = reserve(&http, &first, "s", &ticket);
    assert_eq!((ordered.status, ordered.json()["order"].as_str()), (200, Some(hold.as_str())));
    assert_eq!(stock(&mut redis.client(), "sale:s", "shirt").sold, 1);

    // Another ticket is another hold; with it one can order in one step.
    let ticket = fetch(&http, &second, "ann");
    let url = first.url("/flash/s/orders?sku=shirt&ref=p2");
    let order = http.request("POST", &url, &[("flash-ticket", &ticket)], b"");
    assert_eq!((order.status, order.json()["no"].as_u64()), (200, Some(2)), "{}", order.text());
    assert_audit_is_clean(&mut redis.client(), "sale:s");
}

#[test]
fn keys_change_while_tickets_are_out() {
    let (redis, http) = (redis(), Http::new());
    let start = |keys: &[&str]| proxy(&redis, "required", keys).start();
    let [before, between, after, later] = [&["old"][..], &["old", "new"], &["new", "old"], &["new"]].map(start);
    let takes = |proxy: &Proxy, ticket: &str| reserve(&http, proxy, "s", ticket).status;
    let under_old = fetch(&http, &before, "ann");
    let under_new = fetch(&http, &after, "bob");
    for (proxy, old, new) in [(&before, 201, 401), (&between, 200, 201), (&after, 200, 200), (&later, 401, 200)] {
        assert_eq!((takes(proxy, &under_old), takes(proxy, &under_new)), (old, new));
    }
}

#[test]
fn broken_tickets_are_refused_before_redis() {
    let (redis, http) = (redis(), Http::new());
    redis.client().ok(&["FLASH.CREATE", "sale:t", "ITEMS", "shirt", "10"]);
    let proxy = proxy(&redis, "required", &["old"]).set("tickets.ttl_s", "3").start();
    let ticket = fetch(&http, &proxy, "ann");
    let metrics = || proxy.metrics();
    assert!(!metrics().contains("flashsale_redis_calls_total{command=\"reserve\""));
    let change = |place: usize| {
        let mut changed = ticket.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        String::from_utf8(changed).expect("ASCII")
    };
    let mut broken: Vec<String> = (0..ticket.len()).step_by(3).map(change).collect();
    broken.extend((0..ticket.len()).step_by(5).map(|length| ticket[..length].to_owned()));
    broken.extend(["x", "....", "AQ", "null", "\u{fc}"].map(str::to_owned));
    broken.extend([format!("{ticket}A"), format!("{ticket}="), format!("Bearer {ticket}"), "A".repeat(4000)]);
    for ticket in &broken {
        assert_refused(&reserve(&http, &proxy, "s", ticket), 401, "ticket");
    }
    assert_refused(&reserve(&http, &proxy, "t", &ticket), 401, "ticket");
    let url = proxy.url("/flash/s/holds?sku=shirt");
    let two = [("flash-ticket", ticket.as_str()), ("flash-ticket", ticket.as_str())];
    assert_refused(&http.request("POST", &url, &two, b""), 401, "ticket");
    // A token is no ticket, where tickets are required.
    let bearer = proxy.bearer("ann");
    assert_refused(&http.request("POST", &url, &[("authorization", &bearer)], b""), 401, "ticket");
    assert!(!metrics().contains("flashsale_redis_calls_total{command=\"reserve\""));
    assert_eq!(reserve(&http, &proxy, "s", &ticket).status, 201);
    wait_until("the ticket has expired", Duration::from_secs(20), || {
        reserve(&http, &proxy, "s", &ticket).status == 401
    });
}

#[test]
fn tickets_are_given_to_buyers_of_sales_that_can_still_give() {
    let (redis, http) = (redis(), Http::new());
    let mut client = redis.client();
    let soon = unix_ms() + 3_000;
    client.ok(&["FLASH.CREATE", "sale:soon", "OPENS", &soon.to_string(), "ITEMS", "shirt", "10"]);
    client.ok(&["FLASH.CREATE", "sale:later", "OPENS", &(unix_ms() + 7_200_000).to_string(), "ITEMS", "shirt", "10"]);
    client.ok(&["FLASH.CREATE", "sale:gone", "ITEMS", "shirt", "0"]);
    client.ok(&["FLASH.CREATE", "sale:over", "ITEMS", "shirt", "1"]);
    client.ok(&["FLASH.CLOSE", "sale:over"]);
    let proxy = proxy(&redis, "optional", &["old"])
        .file("server-key", "the shop's own key, not short")
        .set("shop.server_key_file", "\"server-key\"")
        .start();
    for (sale, status, word) in
        [("later", 425, "not-open"), ("gone", 409, "sold-out"), ("over", 410, "closed"), ("none", 404, "no-sale")]
    {
        assert_refused(&ask(&http, &proxy, sale, "ann", ""), status, word);
    }
    let url = proxy.url("/flash/s/ticket");
    assert_refused(&http.request("POST", &url, &[], b""), 401, "token");
    let shop = [("authorization", "Bearer the shop's own key, not short")];
    assert_refused(&http.request("POST", &url, &shop, b""), 401, "token");
    assert_refused(&http.request("GET", &url, &[], b""), 405, "method");
    assert_refused(&ask(&http, &proxy, "s", "ann", "{\"sku\":1}"), 400, "bad-request");

    // Fetched before the doors open, good when they do.
    let early = ask(&http, &proxy, "soon", "ann", "");
    assert!(early.json()["expires_at"].as_u64() >= Some(soon + 599_000), "{}", early.text());
    let ticket = early.json()["ticket"].as_str().expect("a ticket").to_owned();
    assert_refused(&reserve(&http, &proxy, "soon", &ticket), 425, "not-open");
    wait_until("it opens", Duration::from_secs(20), || reserve(&http, &proxy, "soon", &ticket).status == 201);

    // Where tickets are optional, a token will do.
    let bearer = proxy.bearer("ann");
    let headers = [("authorization", bearer.as_str())];
    assert_eq!(http.request("POST", &proxy.url("/flash/s/holds?sku=shirt"), &headers, b"").status, 201);

    let without = Proxy::builder().redis(&redis).start();
    assert_refused(&ask(&http, &without, "s", "ann", ""), 404, "no-route");
}

/// Solves a challenge of the ALTCHA protocol as a widget would.
fn solve(challenge: &Value) -> String {
    use base64::Engine;
    let challenge: altcha::Challenge = serde_json::from_value(challenge.clone()).expect("a challenge");
    let options = altcha::SolveChallengeOptions::new(&challenge);
    let solution = altcha::solve_challenge(options).expect("solvable").expect("in time");
    let payload = json!({"challenge": challenge, "solution": solution});
    base64::engine::general_purpose::STANDARD.encode(payload.to_string())
}

fn response(solution: &str) -> String {
    json!({ "challenge": solution }).to_string()
}

#[test]
fn a_ticket_may_cost_work_and_work_is_good_for_one() {
    let (redis, http) = (redis(), Http::new());
    redis.client().ok(&["FLASH.CREATE", "sale:free", "ITEMS", "shirt", "10"]);
    let proxy = proxy(&redis, "required", &["old"])
        .file("work-key", "the key of challenges, 32 bytes or more")
        .set("challenges", "[{ kind = \"altcha\", secret_file = \"work-key\", zeros = 2, sales = [\"s\"] }]")
        .start();
    let asked = ask(&http, &proxy, "s", "ann", "");
    assert_refused(&asked, 403, "challenge");
    assert_eq!(asked.json()["kind"], "altcha");
    let solution = solve(&asked.json()["challenge"]);
    assert_refused(&ask(&http, &proxy, "s", "bob", &response(&solution)), 403, "challenge");
    let given = ask(&http, &proxy, "s", "ann", &response(&solution));
    assert_eq!(given.status, 200, "{}", given.text());
    let ticket = given.json()["ticket"].as_str().expect("a ticket").to_owned();
    assert_eq!(reserve(&http, &proxy, "s", &ticket).status, 201);
    let again = ask(&http, &proxy, "s", "ann", &response(&solution));
    assert_refused(&again, 403, "challenge");
    // Nor after a reload.
    assert_eq!(http.request("POST", &proxy.admin_url("/api/reload"), &[], b"").status, 200);
    assert_refused(&ask(&http, &proxy, "s", "ann", &response(&solution)), 403, "challenge");
    let next = solve(&again.json()["challenge"]);
    assert_eq!(ask(&http, &proxy, "s", "ann", &response(&next)).status, 200);
    assert_refused(&ask(&http, &proxy, "s", "ann", &response("bm90IG9uZQ==")), 403, "challenge");
    assert_eq!(ask(&http, &proxy, "free", "ann", "").status, 200);
    let metrics = proxy.metrics();
    for line in ["outcome=\"solved\"} 2", "outcome=\"used\"} 2", "outcome=\"asked\"} 1", "outcome=\"wrong\"} 2"] {
        assert!(metrics.contains(&format!("flashsale_challenges_total{{kind=\"altcha\",{line}")), "{line}\n{metrics}");
    }
}

#[test]
fn somebody_elses_verdict_counts() {
    let (redis, http) = (redis(), Http::new());
    let forms = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&forms);
    let site = Site::start(move |_, form| {
        seen.lock().expect("no panic").push(form.to_owned());
        match form {
            _ if form.contains("response=down") => (500, String::new()),
            _ if form.contains("response=nonsense") => (200, "<html>".to_owned()),
            _ if form.contains("response=good") => {
                (200, json!({"success": true, "hostname": "shop.example", "score": 0.9}).to_string())
            }
            _ if form.contains("response=elsewhere") => {
                (200, json!({"success": true, "hostname": "other.example", "score": 0.9}).to_string())
            }
            _ if form.contains("response=robot") => {
                (200, json!({"success": true, "hostname": "shop.example", "score": 0.1}).to_string())
            }
            _ => (200, json!({"success": false, "error-codes": ["invalid-input-response"]}).to_string()),
        }
    });
    for kind in ["turnstile", "hcaptcha", "recaptcha"] {
        let challenge = format!(
            "[{{ kind = \"{kind}\", secret_file = \"secret\", sitekey = \"page\", url = \"{}\", \
             hostname = \"shop.example\", score_min = 0.5 }}]",
            site.url("/siteverify")
        );
        let proxy = proxy(&redis, "required", &["old"]).file("secret", "s&cret").set("challenges", &challenge).start();
        let asked = ask(&http, &proxy, "s", "ann", "");
        assert_refused(&asked, 403, "challenge");
        assert_eq!((asked.json()["kind"].as_str(), asked.json()["sitekey"].as_str()), (Some(kind), Some("page")));
        assert_eq!(ask(&http, &proxy, "s", "ann", &response("good one")).status, 200);
        for wrong in ["good one", "elsewhere", "robot", "bad", ""] {
            assert_refused(&ask(&http, &proxy, "s", "ann", &response(wrong)), 403, "challenge");
        }
        // What nobody has verified is neither good nor used up.
        for _ in 0..2 {
            for down in ["down", "nonsense"] {
                assert_refused(&ask(&http, &proxy, "s", "ann", &response(down)), 503, "overloaded");
            }
        }
    }
    let forms = forms.lock().expect("no panic");
    assert!(forms.contains(&"secret=s%26cret&response=good+one&remoteip=127.0.0.1".to_owned()), "{forms:?}");
    assert_eq!(forms.iter().filter(|form| form.contains("good")).count(), 3, "a used one is not asked about again");
}

#[test]
fn work_is_good_for_one_ticket_at_all_proxies_together() {
    let (mut redis, http) = (redis(), Http::new());
    let work = |open: bool| {
        format!("[{{ kind = \"altcha\", secret_file = \"work-key\", zeros = 1, open_when_down = {open} }}]")
    };
    let start = |open: bool| {
        proxy(&redis, "required", &["old"])
            .file("work-key", "the key of challenges, 32 bytes or more")
            .set("challenges", &work(open))
            .set("known.stale_ms", "600000")
            .start()
    };
    let (first, second, open) = (start(false), start(false), start(true));
    let solution = |proxy: &Proxy, buyer: &str| solve(&ask(&http, proxy, "s", buyer, "").json()["challenge"]);
    let of_ann = solution(&first, "ann");
    assert_eq!(ask(&http, &second, "s", "ann", &response(&of_ann)).status, 200);
    for proxy in [&first, &second, &open] {
        let again = ask(&http, proxy, "s", "ann", &response(&of_ann));
        assert_refused(&again, 403, "challenge");
        assert!(again.text().contains("used before"), "{}", again.text());
    }
    let mut client = redis.client();
    let names = client.ok(&["KEYS", "solved:*"]);
    assert_eq!(names.items().len(), 1, "{names}");
    let life_s = client.ok(&["TTL", &names.at(0).text()]).integer();
    assert!((1..=300).contains(&life_s), "{life_s}");

    // Nobody can say what was used: shut, unless the config says otherwise.
    let (of_bob, of_cleo) = (solution(&first, "bob"), solution(&open, "cleo"));
    redis.stop();
    assert_refused(&ask(&http, &first, "s", "bob", &response(&of_bob)), 503, "overloaded");
    assert_eq!(ask(&http, &open, "s", "cleo", &response(&of_cleo)).status, 200);
    redis.restart();
    redis.client().ok(&["FLASH.CREATE", "sale:s", "ITEMS", "shirt", "100"]);
    wait_until("the same solution is taken", Duration::from_secs(30), || {
        ask(&http, &first, "s", "bob", &response(&of_bob)).status == 200
    });
}
