//! BLOCK: clients wait for units that others hold, first come first served, and never for ever by mistake.

use std::time::Duration;

use flashsale_tests::sale::assert_audit_is_clean;
use flashsale_tests::{Client, RedisServer, Server, on_every_server, wait_until};

on_every_server!(
    waiters_are_served_in_the_order_in_which_they_came,
    a_big_request_in_front_does_not_starve_small_ones,
    expiry_restock_return_and_partial_confirm_wake,
    the_time_of_waiting_ends_with_the_refusal_of_that_moment,
    closing_and_deleting_answer_those_who_wait,
    transactions_and_scripts_are_answered_at_once,
    a_client_that_goes_away_takes_nothing,
    what_a_waiter_gets_is_replicated,
);

const PATIENCE: Duration = Duration::from_secs(20);

/// A sale whose only units are held by `first`.
fn held_sale(server: Server, units: u32) -> (RedisServer, Client) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale", "ITEMS", "red", &units.to_string()]);
    for hold in 0..units {
        assert_eq!(client.line(&format!("FLASH.RESERVE sale first-{hold} ann ITEMS red 1")).status(), "RESERVED");
    }
    (redis, client)
}

/// A client that waits, once the server says that it does.
fn waiter(redis: &RedisServer, request: &str) -> Client {
    let before = blocked(redis);
    let mut client = redis.client();
    client.set_patience(PATIENCE);
    client.send(&request.split(' ').collect::<Vec<_>>()).expect("the request is sent");
    wait_until("the client waits", PATIENCE, || blocked(redis) == before + 1);
    client
}

fn blocked(redis: &RedisServer) -> u32 {
    redis.info("blocked_clients").and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn status(waiter: &mut Client) -> String {
    waiter.receive().expect("an answer comes").status()
}

fn waiters_are_served_in_the_order_in_which_they_came(server: Server) {
    let (redis, mut client) = held_sale(server, 3);
    let mut waiters: Vec<Client> =
        (0..3).map(|n| waiter(&redis, &format!("FLASH.RESERVE sale w{n} bob BLOCK 0 ITEMS red 1"))).collect();
    for (n, waiter) in waiters.iter_mut().enumerate() {
        client.line(&format!("FLASH.RELEASE sale first-{n}"));
        // A latecomer finds nothing: those who wait come first.
        assert_eq!(client.line(&format!("FLASH.RESERVE sale late-{n} eve ITEMS red 1")).status(), "ALLHELD");
        assert_eq!(status(waiter), "RESERVED");
        wait_until("the others go on waiting", PATIENCE, || blocked(&redis) == 2 - n as u32);
    }
    assert_audit_is_clean(&mut client, "sale");
}

fn a_big_request_in_front_does_not_starve_small_ones(server: Server) {
    let (redis, mut client) = held_sale(server, 3);
    let mut big = waiter(&redis, "FLASH.RESERVE sale big bob BLOCK 0 ITEMS red 2");
    let mut small = waiter(&redis, "FLASH.RESERVE sale small bob BLOCK 0 ITEMS red 1");
    client.line("FLASH.RELEASE sale first-0");
    assert_eq!(status(&mut small), "RESERVED");
    client.line("MULTI");
    client.line("FLASH.RELEASE sale first-1");
    client.line("FLASH.RELEASE sale first-2");
    client.line("EXEC");
    assert_eq!(status(&mut big), "RESERVED");
    assert_audit_is_clean(&mut client, "sale");
}

fn expiry_restock_return_and_partial_confirm_wake(server: Server) {
    let (redis, mut client) = held_sale(server, 0);
    let freed: [(&str, &str); 4] = [
        ("FLASH.RESERVE sale short ann TTL 300 ITEMS red 1", "PING"),
        ("FLASH.RESERVE sale extra ann ITEMS red 1", "FLASH.STOCK sale red 1"),
        ("FLASH.ORDER sale order ann ITEMS red 1", "FLASH.RETURN sale order r1"),
        ("FLASH.RESERVE sale pair ann ITEMS red 1 blue 1", "FLASH.CONFIRM sale pair ITEMS blue 1"),
    ];
    client.line("FLASH.STOCK sale blue 9");
    for (n, (taken, frees)) in freed.iter().enumerate() {
        client.line("FLASH.STOCK sale red 1");
        assert!(["RESERVED", "CONFIRMED"].contains(&client.line(taken).status().as_str()), "{taken}");
        // An order alone is no hold to wait for: somebody must hold a unit.
        client.line("FLASH.STOCK sale red 1");
        client.line(&format!("FLASH.RESERVE sale keeps-{n} ann ITEMS red 1"));
        let mut waiter = waiter(&redis, &format!("FLASH.RESERVE sale w{n} bob BLOCK 0 ITEMS red 1"));
        client.line(frees);
        assert_eq!(status(&mut waiter), "RESERVED", "{frees}");
        client.line(&format!("FLASH.CONFIRM sale keeps-{n}"));
        client.line(&format!("FLASH.CONFIRM sale w{n}"));
        client.line("FLASH.CONFIRM sale extra");
    }
    assert_audit_is_clean(&mut client, "sale");
}

fn the_time_of_waiting_ends_with_the_refusal_of_that_moment(server: Server) {
    let (redis, mut client) = held_sale(server, 1);
    let mut waiting = waiter(&redis, "FLASH.RESERVE sale w bob BLOCK 400 ITEMS red 1");
    client.line("FLASH.CONFIRM sale first-0");
    assert_eq!(status(&mut waiting), "SOLDOUT");
    assert_eq!(client.line("FLASH.HOLD sale w").to_string(), "nil");
}

fn closing_and_deleting_answer_those_who_wait(server: Server) {
    let (redis, mut client) = held_sale(server, 1);
    let mut waiting = waiter(&redis, "FLASH.RESERVE sale w bob BLOCK 0 ITEMS red 1");
    client.line("FLASH.CLOSE sale");
    assert_eq!(status(&mut waiting), "CLOSED");
    let (redis, mut client) = held_sale(server, 1);
    let mut waiting = waiter(&redis, "FLASH.RESERVE sale w bob BLOCK 500 ITEMS red 1");
    client.line("DEL sale");
    let answer = waiting.receive().expect("an answer comes").to_string();
    assert!(answer.contains("NOSALE"), "{answer}");
}

fn transactions_and_scripts_are_answered_at_once(server: Server) {
    let (redis, mut client) = held_sale(server, 1);
    client.line("MULTI");
    client.line("FLASH.RESERVE sale w bob BLOCK 0 ITEMS red 1");
    assert!(client.line("EXEC").to_string().contains("ALLHELD"));
    let script = "return redis.call('FLASH.RESERVE', KEYS[1], 'w', 'bob', 'BLOCK', '0', 'ITEMS', 'red', '1')";
    assert_eq!(client.ok(&["EVAL", script, "1", "sale"]).status(), "ALLHELD");
    assert_eq!(blocked(&redis), 0);
}

fn a_client_that_goes_away_takes_nothing(server: Server) {
    let (redis, mut client) = held_sale(server, 1);
    let waiting = waiter(&redis, "FLASH.RESERVE sale w bob BLOCK 0 ITEMS red 1");
    drop(waiting);
    wait_until("the server has noticed", PATIENCE, || blocked(&redis) == 0);
    client.line("FLASH.RELEASE sale first-0");
    assert_eq!(client.line("FLASH.RESERVE sale next eve ITEMS red 1").status(), "RESERVED");
    assert_audit_is_clean(&mut client, "sale");
}

fn what_a_waiter_gets_is_replicated(server: Server) {
    let (redis, mut client) = held_sale(server, 1);
    let replica = RedisServer::builder(server).module().replica_of(&redis).start();
    replica.wait_for_primary(&redis);
    let mut waiting = waiter(&redis, "FLASH.RESERVE sale w bob BLOCK 0 ITEMS red 1");
    client.line("FLASH.RELEASE sale first-0");
    assert_eq!(status(&mut waiting), "RESERVED");
    replica.wait_for_primary(&redis);
    assert_eq!(replica.digest(), redis.digest());
}
