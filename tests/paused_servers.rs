//! CLIENT PAUSE, FAILOVER and SHUTDOWN: while the server must write nothing, the module writes nothing, and goes on
//! afterwards. A write at that time is an assertion of the server, and its end.

use std::time::Duration;

use flashsale_tests::sale::{assert_audit_is_clean, stock};
use flashsale_tests::{Client, RedisServer, Server, on_every_server, wait_until};

on_every_server!(
    due_holds_wait_for_the_end_of_a_pause,
    a_request_whose_waiting_ends_in_a_pause_is_answered,
    rate_limits_end_in_a_pause,
    a_failover_with_due_holds_and_waiting_requests,
);

const PATIENCE: Duration = Duration::from_secs(20);

fn start(server: Server) -> (RedisServer, RedisServer, Client) {
    let primary = RedisServer::builder(server).module().start();
    let replica = RedisServer::builder(server).module().replica_of(&primary).start();
    let mut client = primary.client();
    client.ok(&["FLASH.CREATE", "sale:1", "EVENTS", "ALL", "ITEMS", "red", "10"]);
    (primary, replica, client)
}

#[track_caller]
fn assert_equal(primary: &RedisServer, replica: &RedisServer) {
    wait_until("the replica is equal", PATIENCE, || {
        replica.wait_for_primary(primary);
        primary.digest() == replica.digest()
    });
}

fn due_holds_wait_for_the_end_of_a_pause(server: Server) {
    let (mut primary, replica, mut client) = start(server);
    client.ok(&["FLASH.RESERVE", "sale:1", "h1", "ann", "TTL", "200", "ITEMS", "red", "3"]);
    client.ok(&["CLIENT", "PAUSE", "800", "WRITE"]);
    std::thread::sleep(Duration::from_millis(500));
    // Long due, for whoever looks; ended when the pause is over.
    assert_eq!(stock(&mut client, "sale:1", "red").available, 10);
    assert_eq!(primary.info("flashsale_holds").as_deref(), Some("1"));
    wait_until("the hold is ended", PATIENCE, || primary.info("flashsale_holds").as_deref() == Some("0"));
    assert_equal(&primary, &replica);
    assert!(primary.is_alive());
}

fn a_request_whose_waiting_ends_in_a_pause_is_answered(server: Server) {
    let (mut primary, replica, mut client) = start(server);
    client.ok(&["FLASH.RESERVE", "sale:1", "h1", "ann", "TTL", "250", "ITEMS", "red", "10"]);
    let mut waiting = primary.client();
    waiting.send(&["FLASH.RESERVE", "sale:1", "h2", "bob", "BLOCK", "400", "ITEMS", "red", "1"]).expect("sent");
    wait_until("one waits", PATIENCE, || primary.info("blocked_clients").as_deref() == Some("1"));
    client.ok(&["CLIENT", "PAUSE", "1500", "WRITE"]);
    // The hold falls due and the waiting ends, both within the pause.
    let answer = waiting.receive().expect("an answer");
    assert!(primary.is_alive(), "{}", primary.log());
    assert!(answer.error().starts_with("TRYAGAIN"), "{answer}");
    // Sent again with the same id it finds out.
    let again = client.ok(&["FLASH.RESERVE", "sale:1", "h2", "bob", "ITEMS", "red", "1"]);
    assert_eq!(again.status(), "RESERVED", "after {answer}");
    assert_audit_is_clean(&mut client, "sale:1");
    assert_equal(&primary, &replica);
}

fn rate_limits_end_in_a_pause(server: Server) {
    let (mut primary, replica, mut client) = start(server);
    client.ok(&["FLASH.THROTTLE", "rate", "9", "10", "1", "3"]);
    client.ok(&["CLIENT", "PAUSE", "900", "WRITE"]);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(client.line("EXISTS rate").integer(), 0);
    wait_until("the key is gone", PATIENCE, || primary.info("flashsale_rate_keys").as_deref() == Some("0"));
    assert_equal(&primary, &replica);
    assert!(primary.is_alive());
}

fn a_failover_with_due_holds_and_waiting_requests(server: Server) {
    let (mut primary, mut replica, mut client) = start(server);
    for number in 0..9 {
        let (id, ttl) = (number.to_string(), (400 + number * 60).to_string());
        client.ok(&["FLASH.RESERVE", "sale:1", &id, "ann", "TTL", &ttl, "ITEMS", "red", "1"]);
    }
    client.ok(&["FLASH.RESERVE", "sale:1", "last", "ann", "TTL", "900", "ITEMS", "red", "1"]);
    wait_until("the replica is online", PATIENCE, || {
        primary.info("slave0").is_some_and(|replica| replica.contains("state=online"))
    });
    let mut waiting = primary.client();
    waiting.send(&["FLASH.RESERVE", "sale:1", "w", "bob", "BLOCK", "600", "ITEMS", "red", "10"]).expect("sent");
    wait_until("one waits", PATIENCE, || primary.info("blocked_clients").as_deref() == Some("1"));
    client.ok(&["FAILOVER", "TO", "127.0.0.1", &replica.port().to_string(), "TIMEOUT", "10000"]);
    // Either the answer of its time, or word that the server is no primary any more.
    waiting.receive().expect("an answer");
    wait_until("the roles are exchanged", PATIENCE, || {
        replica.info("role").as_deref() == Some("master") && primary.info("master_link_status").as_deref() == Some("up")
    });
    wait_until("the new primary ends what is due", PATIENCE, || {
        replica.info("flashsale_holds").as_deref() == Some("0")
    });
    assert_equal(&replica, &primary);
    let mut client = replica.client();
    assert_eq!(client.ok(&["FLASH.ORDER", "sale:1", "o1", "eve", "ITEMS", "red", "10"]).status(), "CONFIRMED");
    assert_audit_is_clean(&mut client, "sale:1");
    assert!(primary.is_alive() && replica.is_alive());
}
