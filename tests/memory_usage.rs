//! MEMORY USAGE of a sale is what the server's allocator really gave for it, within a tenth.

use flashsale_tests::{Client, RedisServer, Server, on_every_server, wait_until};
use std::time::Duration;

on_every_server!(
    many_holds_of_one_sku,
    carts_with_notes_and_orders,
    a_sale_after_its_rush,
    samples_make_little_difference,
    memory_is_given_back,
);

const PATIENCE: Duration = Duration::from_secs(20);

fn start(server: Server) -> (RedisServer, Client) {
    let redis = RedisServer::builder(server).module().set("save", "").start();
    let mut client = redis.client();
    // What the stream takes is not the sale's.
    client.ok(&["FLASH.CREATE", "sale:1", "EVENTS", "NONE", "ITEMS", "red", "9000000", "blue", "9000000"]);
    client.ok(&["CONFIG", "SET", "flashsale.sweep-holds-per-tick", "100000"]);
    (redis, client)
}

fn usage(client: &mut Client, samples: &str) -> i64 {
    client.ok(&["MEMORY", "USAGE", "sale:1", "SAMPLES", samples]).integer()
}

/// What the server has, but for the buffers of its clients.
fn used(client: &mut Client) -> i64 {
    let stats = client.ok(&["MEMORY", "STATS"]);
    stats.get("total.allocated").integer() - stats.get("clients.normal").integer()
}

/// Sends commands in a pipeline and throws the answers away.
fn run(client: &mut Client, commands: impl Iterator<Item = String>) {
    let commands: Vec<String> = commands.collect();
    for part in commands.chunks(200) {
        let words: Vec<Vec<&str>> = part.iter().map(|line| line.split(' ').collect()).collect();
        client.send_all(&words).expect("sent");
        for line in part {
            let reply = client.receive().expect("an answer");
            assert!(!reply.is_error(), "{line}: {reply}");
        }
    }
}

#[track_caller]
fn assert_told(client: &mut Client, before: (i64, i64)) {
    // The server takes stock ten times a second.
    std::thread::sleep(Duration::from_millis(300));
    let told = usage(client, "0") - before.0;
    let taken = used(client) - before.1;
    let ratio = told as f64 / taken as f64;
    assert!((0.9..1.1).contains(&ratio), "{told} told, {taken} taken: {ratio:.3}");
}

fn level(client: &mut Client) -> (i64, i64) {
    run(client, (0..200).map(|_| "FLASH.INFO sale:1".to_owned()));
    std::thread::sleep(Duration::from_millis(300));
    (usage(client, "0"), used(client))
}

fn many_holds_of_one_sku(server: Server) {
    let (_redis, mut client) = start(server);
    let before = level(&mut client);
    run(&mut client, (0..40_000).map(|n| format!("FLASH.RESERVE sale:1 hold-{n:019} buyer-{n:018} ITEMS red 1")));
    assert_told(&mut client, before);
}

fn carts_with_notes_and_orders(server: Server) {
    let (_redis, mut client) = start(server);
    let before = level(&mut client);
    let carts = (0..20_000).map(|n| {
        let buyer = n % 7_000;
        format!("FLASH.RESERVE sale:1 h{n} buyer-{buyer:012} TTL {} META note-{n} ITEMS red 1 blue 2", 600_000 + n * 7)
    });
    run(&mut client, carts);
    run(&mut client, (0..20_000).step_by(3).map(|n| format!("FLASH.CONFIRM sale:1 h{n} REF payment-{n}")));
    run(&mut client, (0..20_000).step_by(9).map(|n| format!("FLASH.RETURN sale:1 h{n} return-{n} ITEMS blue 1")));
    run(&mut client, (1..20_000).step_by(3).map(|n| format!("FLASH.RELEASE sale:1 h{n}")));
    assert_told(&mut client, before);
}

fn a_sale_after_its_rush(server: Server) {
    let (redis, mut client) = start(server);
    client.ok(&["FLASH.ALTER", "sale:1", "RETAIN", "0"]);
    let before = level(&mut client);
    run(
        &mut client,
        (0..30_000).map(|n| format!("FLASH.RESERVE sale:1 hold-{n:019} buyer-{n:018} TTL 3000 ITEMS red 1")),
    );
    run(&mut client, (0..30_000).step_by(4).map(|n| format!("FLASH.CONFIRM sale:1 hold-{n:019}")));
    wait_until("the others have expired", PATIENCE, || redis.info("flashsale_holds").as_deref() == Some("0"));
    // Each command forgets a few of those that ended.
    run(&mut client, (0..20_000).map(|n| format!("FLASH.ORDER sale:1 late-{n} buyer-{n} ITEMS blue 1")));
    assert_told(&mut client, before);
}

fn samples_make_little_difference(server: Server) {
    let (_redis, mut client) = start(server);
    run(&mut client, (0..20_000).map(|n| format!("FLASH.RESERVE sale:1 h{n} buyer-{} ITEMS red 1", n % 6_000)));
    let all = usage(&mut client, "0");
    for samples in ["1", "5", "100"] {
        let some = usage(&mut client, samples);
        assert!((all * 9 / 10..all * 11 / 10).contains(&some), "{some} with {samples} samples, {all} with all");
    }
}

fn memory_is_given_back(server: Server) {
    let (_redis, mut client) = start(server);
    let before = level(&mut client);
    run(&mut client, (0..30_000).map(|n| format!("FLASH.RESERVE sale:1 hold-{n:019} buyer-{n:018} ITEMS red 1")));
    let taken = used(&mut client) - before.1;
    run(&mut client, (0..30_000).map(|n| format!("FLASH.RELEASE sale:1 hold-{n:019}")));
    client.ok(&["DEL", "sale:1"]);
    wait_until("the memory is given back", PATIENCE, || used(&mut client) < before.1 + taken / 20);
}
