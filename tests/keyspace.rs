//! A sale is a key like any other: it can be copied, renamed, moved, dumped and deleted, and goes on
//! working, and expiring by itself, wherever it ends up.

use std::time::Duration;

use flashsale_tests::sale::{assert_audit_is_clean, orders_key, stock};
use flashsale_tests::{Client, RedisServer, Reply, Server, on_every_server, wait_until};

on_every_server!(
    a_renamed_sale_expires_by_itself,
    a_copied_sale_is_a_sale_of_its_own,
    a_moved_sale_expires_by_itself,
    swapped_databases_keep_their_sales,
    a_restored_sale_expires_by_itself,
    a_reloaded_sale_expires_by_itself,
    deleted_sales_leave_nothing_behind,
    memory_usage_grows_with_holds_and_is_given_back,
    refusals_leave_nothing_behind,
    out_of_memory_is_an_error_and_changes_nothing,
    notifications_and_messages_tell_what_happened,
);

const PATIENCE: Duration = Duration::from_secs(20);

/// A sale of ten units with a hold on three that is due in `life_ms`.
pub(crate) fn sale(client: &mut Client, key: &str, life_ms: u64) {
    client.ok(&["FLASH.CREATE", key, "EVENTS", "ALL", "ITEMS", "red", "10"]);
    let life_ms = life_ms.to_string();
    let hold = client.ok(&["FLASH.RESERVE", key, "h1", "ann", "TTL", &life_ms, "ITEMS", "red", "3"]);
    assert_eq!(hold.status(), "RESERVED");
}

/// Waits for the `expired` entry without touching the sale's key.
#[track_caller]
pub(crate) fn assert_expires_by_itself(client: &mut Client, key: &str) {
    let stream = orders_key(key);
    wait_until(&format!("the idle sale {key} has expired its hold"), PATIENCE, || {
        client.ok(&["XRANGE", &stream, "-", "+"]).to_string().contains("expired")
    });
    assert_eq!(stock(client, key, "red").available, 10);
    assert_audit_is_clean(client, key);
}

pub(crate) fn start(server: Server) -> (RedisServer, Client) {
    let redis = RedisServer::builder(server).module().start();
    let client = redis.client();
    (redis, client)
}

fn a_renamed_sale_expires_by_itself(server: Server) {
    let (_redis, mut client) = start(server);
    sale(&mut client, "sale:1", 300);
    client.ok(&["RENAME", "sale:1", "sale:2"]);
    assert_expires_by_itself(&mut client, "sale:2");
    assert_eq!(client.line("EXISTS sale:1").integer(), 0);
}

fn a_copied_sale_is_a_sale_of_its_own(server: Server) {
    let (_redis, mut client) = start(server);
    sale(&mut client, "sale:1", 300);
    assert_eq!(client.line("COPY sale:1 sale:2").integer(), 1);
    assert_eq!(client.line("FLASH.ORDER sale:2 o1 bob ITEMS red 7").status(), "CONFIRMED");
    assert_eq!(stock(&mut client, "sale:1", "red").sold, 0);
    assert_expires_by_itself(&mut client, "sale:1");
    wait_until("the copy has expired its hold", PATIENCE, || {
        client.line("XRANGE {sale:2}:orders - +").to_string().contains("expired")
    });
    assert_audit_is_clean(&mut client, "sale:2");
}

fn a_moved_sale_expires_by_itself(server: Server) {
    let (_redis, mut client) = start(server);
    sale(&mut client, "sale:1", 300);
    assert_eq!(client.line("MOVE sale:1 5").integer(), 1);
    client.ok(&["SELECT", "5"]);
    assert_expires_by_itself(&mut client, "sale:1");
}

fn swapped_databases_keep_their_sales(server: Server) {
    let (_redis, mut client) = start(server);
    sale(&mut client, "here", 300);
    client.ok(&["SELECT", "3"]);
    sale(&mut client, "there", 300);
    client.ok(&["SWAPDB", "0", "3"]);
    assert_expires_by_itself(&mut client, "here");
    client.ok(&["SELECT", "0"]);
    assert_expires_by_itself(&mut client, "there");
}

fn a_restored_sale_expires_by_itself(server: Server) {
    let (_redis, mut client) = start(server);
    sale(&mut client, "sale:1", 500);
    let Reply::Bytes(dump) = client.ok(&["DUMP", "sale:1"]) else { panic!("DUMP gives bytes") };
    client.ok(&["DEL", "sale:1"]);
    client.ok(&[b"RESTORE".as_slice(), b"sale:2", b"0", &dump]);
    assert_expires_by_itself(&mut client, "sale:2");
}

fn a_reloaded_sale_expires_by_itself(server: Server) {
    let (mut redis, mut client) = start(server);
    sale(&mut client, "sale:1", 800);
    client.ok(&["SAVE"]);
    redis.kill_9();
    redis.restart();
    assert_expires_by_itself(&mut redis.client(), "sale:1");
}

/// The timer must not trip over a key that is gone, is made again, or has become something else.
fn deleted_sales_leave_nothing_behind(server: Server) {
    let (mut redis, mut client) = start(server);
    for gone in ["DEL sale:1", "UNLINK sale:1", "FLUSHALL", "FLUSHALL ASYNC", "FLUSHDB", "SET sale:1 text"] {
        sale(&mut client, "sale:1", 60);
        client.ok(&gone.split(' ').collect::<Vec<_>>());
        assert!(client.line("FLASH.INFO sale:1").is_error());
        sale(&mut client, "sale:2", 90);
        assert_expires_by_itself(&mut client, "sale:2");
        client.ok(&["FLUSHALL"]);
    }
    // A key with a TTL of its own, and one that is replaced by its own restoration.
    sale(&mut client, "sale:1", 60);
    client.ok(&["PEXPIRE", "sale:1", "30"]);
    wait_until("the key is gone", PATIENCE, || client.line("EXISTS sale:1").integer() == 0);
    sale(&mut client, "sale:1", 60);
    client.ok(&["COPY", "sale:1", "sale:2"]);
    client.ok(&["RENAME", "sale:2", "sale:1"]);
    assert_expires_by_itself(&mut client, "sale:1");
    assert!(redis.is_alive());
}

fn memory_usage(client: &mut Client, key: &str) -> i64 {
    client.ok(&["MEMORY", "USAGE", key, "SAMPLES", "0"]).integer()
}

fn used_memory(client: &mut Client) -> i64 {
    let info = client.ok(&["INFO", "memory"]).text();
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    used.expect("INFO tells the memory").trim().parse().expect("a number")
}

fn memory_usage_grows_with_holds_and_is_given_back(server: Server) {
    let (_redis, mut client) = start(server);
    client.ok(&["FLASH.CREATE", "sale:1", "ITEMS", "red", "1000000"]);
    let (empty, server_before) = (memory_usage(&mut client, "sale:1"), used_memory(&mut client));
    const HOLDS: i64 = 20_000;
    for number in 0..HOLDS {
        let id = format!("hold-{number:019}");
        client.send(&["FLASH.RESERVE", "sale:1", &id, &id[5..], "ITEMS", "red", "1"]).expect("sent");
        if number % 100 == 99 {
            (0..100).for_each(|_| assert_eq!(client.receive().expect("an answer").status(), "RESERVED"));
        }
    }
    let told = memory_usage(&mut client, "sale:1") - empty;
    let measured = used_memory(&mut client) - server_before;
    assert!(told > HOLDS * 40 && told < HOLDS * 400, "{} bytes a hold", told / HOLDS);
    let ratio = told as f64 / measured as f64;
    assert!((0.8..1.25).contains(&ratio), "MEMORY USAGE tells {told}, the server has {measured} more");
    client.ok(&["DEL", "sale:1"]);
    wait_until("the memory is given back", PATIENCE, || used_memory(&mut client) < server_before + measured / 10);
}

/// Memory grows with the stock, never with the crowd.
fn refusals_leave_nothing_behind(server: Server) {
    let (_redis, mut client) = start(server);
    client.ok(&["FLASH.CREATE", "sale:1", "LIMIT", "1", "ITEMS", "red", "5"]);
    for number in 0..5 {
        let id = format!("o{number}");
        assert_eq!(client.ok(&["FLASH.ORDER", "sale:1", &id, &id, "ITEMS", "red", "1"]).status(), "CONFIRMED");
    }
    let (told, digest) = (memory_usage(&mut client, "sale:1"), client.line("DEBUG DIGEST"));
    for number in 0..20_000 {
        let id = format!("refused-{number}");
        let reply = client.ok(&["FLASH.RESERVE", "sale:1", &id, &id, "META", "note", "ITEMS", "red", "1"]);
        assert_eq!(reply.status(), "SOLDOUT");
    }
    assert_eq!(memory_usage(&mut client, "sale:1"), told);
    assert_eq!(client.line("DEBUG DIGEST"), digest);
}

fn out_of_memory_is_an_error_and_changes_nothing(server: Server) {
    let (mut redis, mut client) = start(server);
    sale(&mut client, "sale:1", 60_000);
    client.ok(&["CONFIG", "SET", "maxmemory", "1"]);
    let digest = client.line("DEBUG DIGEST");
    let refusal = client.line("FLASH.RESERVE sale:1 h2 bob ITEMS red 1");
    assert!(refusal.error().starts_with("OOM"), "{refusal}");
    assert_eq!(client.line("DEBUG DIGEST"), digest);
    // What gives memory back, or only looks, goes on.
    assert_eq!(client.line("FLASH.HOLD sale:1 h1").get("state").text(), "held");
    assert_eq!(client.line("FLASH.RELEASE sale:1 h1").status(), "RELEASED");
    client.ok(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(client.line("FLASH.RESERVE sale:1 h2 bob ITEMS red 1").status(), "RESERVED");
    assert!(redis.is_alive());
}

fn notifications_and_messages_tell_what_happened(server: Server) {
    let (redis, mut client) = start(server);
    client.ok(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
    let mut listener = redis.client();
    listener.ok(&["PSUBSCRIBE", "__keyevent@0__:*", "*:state"]);
    assert_eq!(listener.receive().expect("the second answer").status(), "psubscribe");
    client.ok(&["FLASH.CREATE", "sale:1", "ITEMS", "red", "3"]);
    for step in [
        "FLASH.RESERVE sale:1 h1 ann TTL 50 ITEMS red 3",
        "FLASH.RESERVE sale:1 refused bob ITEMS red 1",
        "FLASH.INFO sale:1",
        "FLASH.EXPIRE sale:1",
    ] {
        client.ok(&step.split(' ').collect::<Vec<_>>());
    }
    wait_until("the hold has expired", PATIENCE, || stock(&mut client, "sale:1", "red").held == 0);
    for step in [
        "FLASH.RESERVE sale:1 h2 ann ITEMS red 2",
        "FLASH.RELEASE sale:1 h2",
        "FLASH.ORDER sale:1 o1 ann ITEMS red 1",
        "FLASH.ORDER sale:1 o2 bob ITEMS red 2",
        "FLASH.RETURN sale:1 o2 r1",
    ] {
        client.ok(&step.split(' ').collect::<Vec<_>>());
    }

    let mut heard: Vec<String> = Vec::new();
    let wanted = ["reserved", "confirmed", "released", "expired", "returned", "stocked", "soldout", "available"]
        .map(|event| format!(":flash.{event} sale:1"));
    let all_heard =
        |heard: &[String]| wanted.iter().all(|event| heard.iter().any(|line| line.contains(event.as_str())));
    while !all_heard(&heard) || heard.iter().filter(|line| line.contains("sale:1:state")).count() < 2 {
        match listener.receive() {
            Ok(message) => heard.push(message.to_string()),
            Err(error) => panic!("{error}; so far: {heard:#?}"),
        }
    }
    let states: Vec<_> = heard.iter().filter(|line| line.contains("sale:1:state")).collect();
    assert!(states[0].contains("soldout red"), "{states:?}");
    assert!(states[1].contains("available red"), "{states:?}");
    let version = |line: &str| -> Option<u64> { line.trim_end_matches(']').rsplit(' ').next()?.parse().ok() };
    assert!(version(states[0]).is_some(), "{states:?}");
    assert!(version(states[1]) > version(states[0]), "{states:?}");
    let reserved = heard.iter().filter(|line| line.contains("flash.reserved")).count();
    assert!(reserved <= 4, "a refusal is no event: {heard:?}");
}
