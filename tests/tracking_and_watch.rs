//! WATCH and client tracking are woken by changes, and by nothing else: a crowd that is refused wakes nobody.

use std::io::ErrorKind;
use std::time::Duration;

use flashsale_tests::{Client, RedisServer, Reply, Server, on_every_server};

on_every_server!(
    refusals_and_looks_leave_a_transaction_alone,
    changes_fail_a_transaction,
    an_expiry_fails_a_transaction,
    refusals_invalidate_no_cache,
    changes_invalidate_caches,
);

/// Commands on the sale of [`start`] that change nothing.
const IDLE: [&str; 22] = [
    "FLASH.RESERVE sale:1 h9 eve ITEMS blue 1",
    "FLASH.RESERVE sale:1 h9 eve ITEMS red 11",
    "FLASH.RESERVE sale:1 h9 ann ITEMS red 6",
    "FLASH.RESERVE sale:1 h9 eve NOTAFTER 1 ITEMS red 1",
    "FLASH.RESERVE sale:1 h1 ann ITEMS red 3",
    "FLASH.RESERVE sale:1 h1 eve ITEMS red 3",
    "FLASH.RESERVE sale:1 h9 eve ITEMS none 1",
    "FLASH.MRESERVE sale:1 HOLDS h8 eve blue 1 h9 eve red 11",
    "FLASH.ORDER sale:1 h9 eve ITEMS blue 1",
    "FLASH.CONFIRM sale:1 nobody",
    "FLASH.CONFIRM sale:1 o1",
    "FLASH.RELEASE sale:1 o1",
    "FLASH.EXTEND sale:1 nobody 1000",
    "FLASH.RETURN sale:1 nobody r1",
    "FLASH.STOCK sale:1 red -100",
    "FLASH.EXPIRE sale:1",
    "FLASH.RESUME sale:1",
    "FLASH.RESERVE sale:1 broken",
    "FLASH.INFO sale:1",
    "FLASH.HOLD sale:1 h1",
    "FLASH.HOLDS sale:1 0",
    "FLASH.AUDIT sale:1",
];

/// Commands that change it, one after the other.
const CHANGES: [&str; 9] = [
    "FLASH.RESERVE sale:1 h2 bob TTL 60000 ITEMS red 1",
    "FLASH.EXTEND sale:1 h2 90000",
    "FLASH.CONFIRM sale:1 h2",
    "FLASH.RETURN sale:1 h2 r1",
    "FLASH.RELEASE sale:1 h1",
    "FLASH.STOCK sale:1 red 5",
    "FLASH.ALTER sale:1 LIMIT 7",
    "FLASH.PAUSE sale:1",
    "FLASH.CLOSE sale:1",
];

fn start(server: Server) -> (RedisServer, Client) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale:1", "LIMIT", "5", "ITEMS", "red", "10", "blue", "1"]);
    for step in ["FLASH.RESERVE sale:1 h1 ann ITEMS red 3", "FLASH.ORDER sale:1 o1 cas ITEMS blue 1"] {
        assert!(!client.line(step).is_error());
    }
    (redis, client)
}

/// Whether a transaction that watches the sale goes through after `command` of another client.
fn transaction_survives(watcher: &mut Client, other: &mut Client, command: &str) -> bool {
    watcher.ok(&["WATCH", "sale:1"]);
    other.line(command);
    watcher.ok(&["MULTI"]);
    watcher.ok(&["PING"]);
    watcher.call(&["EXEC"]) != Reply::Nil
}

fn refusals_and_looks_leave_a_transaction_alone(server: Server) {
    let (redis, mut watcher) = start(server);
    let mut other = redis.client();
    for command in IDLE {
        let digest = redis.digest();
        assert!(transaction_survives(&mut watcher, &mut other, command), "{command} woke WATCH");
        assert_eq!(redis.digest(), digest, "{command} changed something");
    }
}

fn changes_fail_a_transaction(server: Server) {
    let (redis, mut watcher) = start(server);
    let mut other = redis.client();
    for command in CHANGES {
        assert!(!transaction_survives(&mut watcher, &mut other, command), "{command} did not wake WATCH");
    }
    assert!(!transaction_survives(&mut watcher, &mut other, "DEL sale:1"));
    assert!(!transaction_survives(&mut watcher, &mut other, "FLASH.CREATE sale:1"));
}

fn an_expiry_fails_a_transaction(server: Server) {
    let (_redis, mut watcher) = start(server);
    watcher.ok(&["FLASH.RESERVE", "sale:1", "h2", "bob", "TTL", "100", "ITEMS", "red", "1"]);
    watcher.ok(&["WATCH", "sale:1"]);
    std::thread::sleep(Duration::from_millis(400));
    watcher.ok(&["MULTI"]);
    watcher.ok(&["PING"]);
    assert_eq!(watcher.call(&["EXEC"]), Reply::Nil, "the timer ended a hold");
}

/// A client that caches what it reads of the sale.
fn tracking(redis: &RedisServer) -> Client {
    let mut cache = redis.client().resp3();
    cache.ok(&["CLIENT", "TRACKING", "ON"]);
    cache
}

/// The invalidation that comes within a moment, if one does.
fn invalidation(cache: &mut Client) -> Option<Reply> {
    cache.set_patience(Duration::from_millis(60));
    let heard = match cache.receive() {
        Ok(reply) => Some(reply),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(error) => panic!("{error}"),
    };
    cache.set_patience(Duration::from_secs(30));
    heard
}

fn refusals_invalidate_no_cache(server: Server) {
    let (redis, mut client) = start(server);
    let mut cache = tracking(&redis);
    cache.ok(&["FLASH.INFO", "sale:1"]);
    for command in IDLE {
        client.line(command);
    }
    assert_eq!(invalidation(&mut cache), None);
}

fn changes_invalidate_caches(server: Server) {
    let (redis, mut client) = start(server);
    let mut cache = tracking(&redis);
    for command in CHANGES {
        cache.ok(&["FLASH.INFO", "sale:1"]);
        client.line(command);
        let heard = invalidation(&mut cache).unwrap_or_else(|| panic!("{command} invalidated nothing"));
        assert_eq!(heard.to_string(), "[invalidate [sale:1]]", "{command}");
    }
}
