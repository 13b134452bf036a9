//! The relay: each order reaches the shop, signed, in order, and is then cleared away.

use std::process::Command;
use std::time::Duration;

use flashsale_tests::shop::{Manner, Shop};
use flashsale_tests::{RedisServer, Server, artifacts, wait_until};
use serde_json::json;

use crate::relay_setup::{
    DemoShop, PATIENCE, Relay, SECRET, assert_each_once_in_order, left_over, place, place_orders,
};

const STREAM: &str = "{sale:1}:orders";

fn redis() -> RedisServer {
    RedisServer::builder(Server::Redis70).start()
}

#[test]
fn each_order_arrives_once_and_in_order_though_the_shop_stumbles() {
    let redis = redis();
    let shop = DemoShop::start(&["--fail-share", "0.2", "--forget-share", "0.2"]);
    place_orders(&mut redis.client(), 1, 300);
    let _relay = Relay::start(&redis, &shop.webhook());
    shop.wait_for_orders(300);
    place_orders(&mut redis.client(), 301, 500);
    shop.wait_for_orders(500);
    let orders = shop.orders();
    assert_each_once_in_order(&orders, "sale:1", 500);
    assert!(orders.iter().any(|order| order.told > 1), "nothing was repeated");
    wait_until("the stream is trimmed", PATIENCE, || left_over(&mut redis.client(), STREAM) == (0, 0));
}

#[test]
fn the_body_says_what_the_stream_says() {
    let (redis, shop) = (redis(), Shop::start());
    let given = [
        ("no", "7"),
        ("type", "returned"),
        ("hold", "h-1"),
        ("items", "shirt=2&red+hat%26%2B=1"),
        ("ref", "pay-9"),
        ("meta", "für Ada"),
    ];
    place(&mut redis.client(), "sale:1{17}:orders", &given);
    let _relay = Relay::builder(&redis, &shop.url("/hook")).set("relay.sales", "[\"sale:1{17}\"]").start();
    wait_until("the order arrives", PATIENCE, || !shop.requests().is_empty());
    let request = &shop.requests()[0];
    assert_eq!(request.headers["webhook-id"], "sale:1/17/7");
    assert_eq!(request.headers["content-type"], "application/json");
    let expected = json!({
        "type": "order.returned",
        "timestamp": "2023-11-14T22:13:20.123Z",
        "data": {
            "sale": "sale:1", "shard": 17, "no": 7, "hold": "h-1", "buyer": "ada",
            "items": [{"sku": "shirt", "qty": 2}, {"sku": "red hat&+", "qty": 1}],
            "ref": "pay-9", "meta": "für Ada", "at": 1_700_000_000_123_u64,
        },
    });
    assert_eq!(request.json(), expected);
}

#[test]
fn bytes_that_are_no_text_arrive_whole() {
    let (redis, shop) = (redis(), Shop::start());
    let fields: [&[u8]; 15] = [
        b"XADD",
        b"{sale:1}:orders",
        b"*",
        b"type",
        b"confirmed",
        b"no",
        b"1",
        b"hold",
        b"h\0\xff",
        b"buyer",
        b"\xfe",
        b"items",
        b"%00%FF=1",
        b"at",
        b"1",
    ];
    redis.client().ok(&fields);
    let _relay = Relay::start(&redis, &shop.url("/hook"));
    wait_until("the order arrives", PATIENCE, || !shop.requests().is_empty());
    let data = shop.requests()[0].json()["data"].take();
    assert_eq!(data["hold_base64"], "aAD/");
    assert_eq!(data["buyer_base64"], "/g==");
    assert_eq!(data["items"][0]["sku_base64"], "AP8=");
}

#[test]
fn what_is_no_order_is_passed_over() {
    let (redis, shop) = (redis(), Shop::start());
    let mut client = redis.client();
    place(&mut client, STREAM, &[("type", "held"), ("no", "1")]);
    place(&mut client, STREAM, &[("type", "expired"), ("no", "2")]);
    place(&mut client, STREAM, &[("no", "3")]);
    let _relay = Relay::start(&redis, &shop.url("/hook"));
    wait_until("the stream is trimmed", PATIENCE, || {
        client.line("EXISTS {sale:1}:orders:relay").integer() == 1 && left_over(&mut client, STREAM) == (0, 0)
    });
    let ids: Vec<_> = shop.requests().iter().map(|request| request.headers["webhook-id"].clone()).collect();
    assert_eq!(ids, ["sale:1/0/3"]);
}

#[test]
fn what_another_group_still_needs_is_not_trimmed() {
    let (redis, shop) = (redis(), Shop::start());
    let mut client = redis.client();
    place_orders(&mut client, 1, 10);
    client.ok(&["XGROUP", "CREATE", STREAM, "statistics", "0"]);
    client.ok(&["XREADGROUP", "GROUP", "statistics", "me", "COUNT", "4", "STREAMS", STREAM, ">"]);
    let _relay = Relay::start(&redis, &shop.url("/hook"));
    wait_until("all are delivered", PATIENCE, || shop.requests().len() == 10 && left_over(&mut client, STREAM).0 == 0);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(left_over(&mut client, STREAM), (0, 10));
    let read = client.ok(&["XREADGROUP", "GROUP", "statistics", "me", "STREAMS", STREAM, "0"]);
    for entry in read.at(0).at(1).items().iter().take(3) {
        client.ok(&["XACK", STREAM, "statistics", &entry.at(0).text()]);
    }
    wait_until("three are trimmed", PATIENCE, || left_over(&mut client, STREAM).1 == 7);
}

#[test]
fn a_refused_order_waits_among_the_dead_until_it_is_replayed() {
    let redis = redis();
    let mut shop = DemoShop::start(&["--refuse-buyer", "eve"]);
    let mut client = redis.client();
    place(&mut client, STREAM, &[("no", "1"), ("buyer", "eve")]);
    place(&mut client, STREAM, &[("no", "2"), ("buyer", "ada")]);
    // Nobody but the module writes here; if somebody does, it stops nothing.
    client.ok(&["XADD", STREAM, "*", "type", "confirmed", "no", "nonsense"]);
    let relay = Relay::start(&redis, &shop.webhook());
    wait_until("two are dead", PATIENCE, || {
        client.line("XLEN {sale:1}:orders:dead").integer() == 2 && left_over(&mut client, STREAM) == (0, 0)
    });
    assert_eq!(shop.orders().len(), 1);

    let (listed, well) = relay.run(&["dead"]);
    assert!(well && listed.contains("buyer eve") && listed.contains("HTTP 422"), "{listed}");
    assert!(listed.contains("`no` is not a number"), "{listed}");
    let (told, well) = relay.run(&["replay"]);
    assert!(!well && told.contains("0 delivered, 2 stay"), "{told}");

    shop.open(&[]);
    let (told, _) = relay.run(&["replay", "--sale", "sale:1"]);
    assert!(told.contains("1 delivered, 1 stay"), "{told}");
    let ids: Vec<_> = shop.orders().into_iter().map(|order| order.id).collect();
    assert_eq!(ids, ["sale:1/0/2", "sale:1/0/1"]);
    assert_eq!(client.line("XLEN {sale:1}:orders:dead").integer(), 1);
}

#[test]
fn an_order_is_given_up_after_the_last_try() {
    let (redis, shop) = (redis(), Shop::start());
    shop.behave(Manner::Status(500));
    place_orders(&mut redis.client(), 1, 1);
    let _relay = Relay::builder(&redis, &shop.url("/hook")).set("relay.webhook.max_tries", "3").start();
    wait_until("it is dead", PATIENCE, || redis.client().line("XLEN {sale:1}:orders:dead").integer() == 1);
    assert_eq!(shop.requests().len(), 3);
    let signatures: Vec<_> = shop.requests().iter().map(|request| request.headers["webhook-id"].clone()).collect();
    assert!(signatures.iter().all(|id| id == "sale:1/0/1"));
}

#[test]
fn retry_after_gives_the_whole_shop_a_rest() {
    let redis = redis();
    let shop = DemoShop::start(&["--fail-first", "1", "--retry-after", "2", "--verbose"]);
    place_orders(&mut redis.client(), 1, 1);
    let began = std::time::Instant::now();
    let _relay = Relay::start(&redis, &shop.webhook());
    std::thread::sleep(Duration::from_millis(1_000));
    place_orders(&mut redis.client(), 2, 20);
    shop.wait_for_orders(20);
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    assert_each_once_in_order(&shop.orders(), "sale:1", 20);
}

/// The examples of `docs/relay.md` are run as they stand there.
#[test]
fn the_documented_ways_to_check_a_signature_work() {
    let (redis, shop) = (redis(), Shop::start());
    place_orders(&mut redis.client(), 1, 1);
    let _relay = Relay::start(&redis, &shop.url("/hook"));
    wait_until("the order arrives", PATIENCE, || !shop.requests().is_empty());
    let request = &shop.requests()[0];
    let dir = tempfile::tempdir().expect("a temporary folder");
    let facts = json!({
        "secret": SECRET, "headers": request.headers, "body": String::from_utf8_lossy(&request.body),
    });
    std::fs::write(dir.path().join("facts.json"), facts.to_string()).expect("written");

    let python = format!(
        "{}\nimport json\nf = json.load(open('facts.json'))\nb = f['body'].encode()\n\
         print(verify(f['secret'], f['headers'], b), verify(f['secret'], f['headers'], b + b' '))\n",
        documented("python")
    );
    assert_eq!(said(dir.path(), "python3", "check.py", &python), "True False");
    if Command::new("node").arg("--version").output().is_ok() {
        let node = format!(
            "{}\nimport {{ readFileSync }} from 'node:fs'\nconst f = JSON.parse(readFileSync('facts.json'))\n\
             console.log(verify(f.secret, f.headers, Buffer.from(f.body)), verify(f.secret, f.headers, Buffer.from(f.body + ' ')))\n",
            documented("js")
        );
        assert_eq!(said(dir.path(), "node", "check.mjs", &node), "true false");
    }
}

fn documented(language: &str) -> String {
    let page = std::fs::read_to_string(artifacts::project().join("docs/relay.md")).expect("docs/relay.md");
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("an example");
    rest.split_once("```").expect("an end").0.to_owned()
}

fn said(dir: &std::path::Path, program: &str, file: &str, text: &str) -> String {
    std::fs::write(dir.join(file), text).expect("written");
    let output = Command::new(program).arg(file).current_dir(dir).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
