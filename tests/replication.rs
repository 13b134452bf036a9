//! A replica holds the same state as its primary, and takes over with it.

use std::time::Duration;

use flashsale_tests::rush::Rush;
use flashsale_tests::sale::{assert_audit_is_clean, confirmed_orders, stock};
use flashsale_tests::{RedisServer, RedisServerBuilder, Server, on_every_server, wait_until};

on_every_server!(
    a_replica_is_equal_after_a_rush,
    a_replica_that_joins_in_mid_rush_is_equal,
    a_diskless_replica_is_equal,
    a_promoted_replica_goes_on_selling,
    a_replica_refuses_writes_and_never_expires_by_itself,
    transactions_and_scripts_replicate,
);

const PATIENCE: Duration = Duration::from_secs(20);

fn primary_with_sale(server: Server) -> RedisServer {
    let primary = RedisServer::builder(server).module().start();
    primary.client().ok(&[
        "FLASH.CREATE",
        "sale:1",
        "LIMIT",
        "20",
        "ITEMS",
        "red",
        "900",
        "green",
        "400",
        "blue",
        "30",
    ]);
    primary
}

fn rush(seed: u64) -> Rush {
    let mut rush = Rush::new("sale:1", &["red", "green", "blue"]);
    rush.seed = seed;
    rush
}

#[track_caller]
fn assert_equal(primary: &RedisServer, replica: &RedisServer) {
    // A hold may fall due between the two looks: then both change, and soon are equal again.
    let equal = || {
        replica.wait_for_primary(primary);
        primary.digest() == replica.digest()
    };
    wait_until("primary and replica have equal digests", PATIENCE, equal);
    assert_audit_is_clean(&mut replica.client(), "sale:1");
}

fn replica_after_rushes(server: Server, replica: RedisServerBuilder) {
    let primary = primary_with_sale(server);
    rush(1).run(primary.port());
    let replica = replica.replica_of(&primary).start();
    assert_equal(&primary, &replica);
    rush(2).run(primary.port());
    assert_equal(&primary, &replica);
    assert_ne!(replica.digest(), "0".repeat(40));
}

fn a_replica_is_equal_after_a_rush(server: Server) {
    let primary = primary_with_sale(server);
    let replica = RedisServer::builder(server).module().replica_of(&primary).start();
    let tally = rush(1).run(primary.port());
    assert_equal(&primary, &replica);
    // A replica may be read: it tells of the same orders.
    assert_eq!(confirmed_orders(&mut replica.client(), "sale:1"), tally.confirmed);
}

fn a_replica_that_joins_in_mid_rush_is_equal(server: Server) {
    let primary = primary_with_sale(server);
    let replica = std::thread::scope(|scope| {
        let crowd = scope.spawn(|| rush(1).run(primary.port()));
        let mut client = primary.client();
        wait_until("the rush is on", PATIENCE, || stock(&mut client, "sale:1", "red").available < 800);
        let replica = RedisServer::builder(server).module().replica_of(&primary).start();
        crowd.join().expect("the rush ends well");
        replica
    });
    assert_equal(&primary, &replica);
}

fn a_diskless_replica_is_equal(server: Server) {
    let replica = RedisServer::builder(server).module().set("repl-diskless-load", "swapdb");
    replica_after_rushes(server, replica);
    let from_disk = RedisServer::builder(server).module().set("repl-diskless-load", "disabled");
    replica_after_rushes(server, from_disk);
}

fn a_promoted_replica_goes_on_selling(server: Server) {
    let mut primary = primary_with_sale(server);
    let replica = RedisServer::builder(server).module().replica_of(&primary).start();
    let before = rush(1).run(primary.port());
    let made_up = primary.client().line("FLASH.RESERVE sale:1 * zoe ITEMS red 1").at(1).text();
    assert_equal(&primary, &replica);
    primary.kill_9();

    let mut client = replica.client();
    client.ok(&["REPLICAOF", "NO", "ONE"]);
    let hold = client.ok(&["FLASH.HOLD", "sale:1", &made_up]);
    assert_eq!(hold.get("buyer").text(), "zoe");
    // An id that the dead primary may have given to somebody else is never given again.
    let next = client.line("FLASH.RESERVE sale:1 * yan ITEMS red 1").at(1).text();
    assert_ne!(next.split('-').next(), made_up.split('-').next(), "{made_up} {next}");

    let mut all = rush(2).run(replica.port());
    all.add(before);
    assert_audit_is_clean(&mut client, "sale:1");
    assert_eq!(confirmed_orders(&mut client, "sale:1"), all.confirmed);
}

fn a_replica_refuses_writes_and_never_expires_by_itself(server: Server) {
    let mut primary = primary_with_sale(server);
    let replica = RedisServer::builder(server).module().replica_of(&primary).start();
    let hold = primary.client().line("FLASH.RESERVE sale:1 h1 ann TTL 300 ITEMS red 5");
    let deadline_ms = hold.at(2).integer();
    replica.wait_for_primary(&primary);
    let mut client = replica.client();
    let refusal = client.line("FLASH.RESERVE sale:1 h2 ann ITEMS red 1");
    assert!(refusal.error().starts_with("READONLY"), "{refusal}");

    // The primary hangs beyond the deadline. Only its word ends a hold in the replica's data.
    primary.signal(libc::SIGSTOP);
    let digest = replica.digest();
    wait_until("the deadline is well past", PATIENCE, || {
        let now = client.ok(&["TIME"]);
        now.at(0).integer() * 1000 > deadline_ms + 1000
    });
    assert_eq!(replica.digest(), digest);
    primary.signal(libc::SIGCONT);
    wait_until("the primary has expired the hold", PATIENCE, || {
        stock(&mut primary.client(), "sale:1", "red").held == 0
    });
    assert_equal(&primary, &replica);
    assert_eq!(stock(&mut client, "sale:1", "red").held, 0);
}

fn transactions_and_scripts_replicate(server: Server) {
    let primary = primary_with_sale(server);
    let replica = RedisServer::builder(server).module().replica_of(&primary).start();
    let mut client = primary.client();
    client.ok(&["MULTI"]);
    client.ok(&["FLASH.RESERVE", "sale:1", "h1", "ann", "TTL", "60000", "ITEMS", "red", "1"]);
    client.ok(&["FLASH.CONFIRM", "sale:1", "h1"]);
    client.ok(&["FLASH.ORDER", "sale:1", "h2", "bob", "ITEMS", "red", "1"]);
    let replies = client.ok(&["EXEC"]);
    assert_eq!(replies.at(1).to_string(), "[CONFIRMED h1 1]");
    assert_eq!(replies.at(2).to_string(), "[CONFIRMED h2 2]");
    let script = "redis.call('FLASH.RESERVE', KEYS[1], 'h3', 'cas', 'ITEMS', 'green', '2') \
                  return redis.call('FLASH.CONFIRM', KEYS[1], 'h3', 'REF', 'cart 9')";
    let reply = client.ok(&["EVAL", script, "1", "sale:1"]);
    assert_eq!(reply.to_string(), "[CONFIRMED h3 3]");
    assert_equal(&primary, &replica);
}
