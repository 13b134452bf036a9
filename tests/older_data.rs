//! A file that an earlier version of the module wrote is loaded whole, and the sale goes on.

use std::path::Path;

use flashsale_core::snapshot;
use flashsale_tests::sale::assert_audit_is_clean;
use flashsale_tests::{Clock, RedisServer, Server, on_every_server};

on_every_server!(files_of_all_versions_are_loaded);

/// Seconds after the files were written, by the clock that they were written by.
const NOW_MS: u64 = 1_800_000_006_000;
/// Shard 2 of 3 of `sale`.
const KEY: &str = "sale{16418}";

/// Each holds the same sale. Whoever raises the version adds a file of the new one: start a server with the module and
/// with the file of the version before as its `dump.rdb`, its clock at [`NOW_MS`] as here, say what is new about the sale,
/// `SAVE`, and copy the file. Write down below what the new version makes of it.
fn files_of_all_versions_are_loaded(server: Server) {
    for version in 1..=snapshot::VERSION {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("data/version-{version}.rdb"));
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::copy(&file, dir.path().join("dump.rdb")).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let mut clock = Clock::new();
        clock.set(NOW_MS);
        let dir = dir.path().to_string_lossy();
        let redis = RedisServer::builder(server).module().clock(&clock).set("dir", &dir).start();
        assert_is_the_sale(&redis);
        // What version 2 added; nobody could say it before.
        let info = redis.client().ok(&["FLASH.INFO", KEY]).to_string();
        assert_eq!(info.contains("edition 1795100000000 "), version >= 2, "{info}");
    }
}

fn assert_is_the_sale(redis: &RedisServer) {
    let mut client = redis.client();
    let mut answer = |line: &str| client.line(&line.replace("KEY", KEY)).to_string();
    for (hold, fields) in [
        (
            "h1",
            "buyer buyer-1 state held items [red 1 blue 2] began 1800000000000 deadline 1800003600000 order_no 0 ref nil meta note",
        ),
        (
            "h2",
            "buyer buyer-1 state held items [green 9] began 1800000000000 deadline 1800000060000 order_no 0 ref nil meta nil",
        ),
        (
            "h3",
            "buyer buyer-4 state confirmed items [red 2] began 1800000000000 deadline 1800000060000 order_no 8 ref pay-1 meta nil",
        ),
        ("h4", "buyer buyer-9 state released items [red 1] began 0 deadline 1800000000000 order_no 0 ref nil meta nil"),
        (
            "h5",
            "buyer buyer-9 state expired items [red 1] began 1800000000000 deadline 1800000001000 order_no 0 ref nil meta nil",
        ),
        (
            "o1",
            "buyer buyer-7 state confirmed items [blue 0] began 0 deadline 1800000000000 order_no 11 ref nil meta gift",
        ),
        ("never-seen", "buyer  state released items [] began 0 deadline 1800000000000 order_no 0 ref nil meta nil"),
    ] {
        assert_eq!(answer(&format!("FLASH.HOLD KEY {hold}")), format!("[id {hold} {fields}]"));
    }
    for (command, expected) in [
        ("FLASH.HOLDS KEY 0 COUNT 1 STATE held", "held"),
        ("FLASH.RESERVE KEY new buyer-1 ITEMS green 1", "[PAUSED]"),
        ("FLASH.RESUME KEY", "OK"),
        ("FLASH.RESERVE KEY new buyer-1 ITEMS green 1", "[LIMIT green 0]"),
        // The same request as the one that made the hold.
        ("FLASH.RESERVE KEY h2 buyer-1 UPTO ITEMS green 12", "[RESERVED h2 1800000060000 green 9]"),
        ("FLASH.CONFIRM KEY h3 REF pay-1 ITEMS red 3", "[CONFIRMED h3 8]"),
        ("FLASH.RETURN KEY h3 return-1 ITEMS red 1", "[RETURNED]"),
        ("FLASH.RETURN KEY h3 return-1", "[MISMATCH items]"),
        ("FLASH.STOCK KEY green 20 ID alloc-1", "[STOCKED 9 9 0]"),
        ("FLASH.STOCK KEY green 1 ID alloc-2", "[MISMATCH delta]"),
        ("FLASH.ACCEPT KEY blue FROM 1 TOTAL 11", "[ACCEPTED 0 109]"),
        ("FLASH.GRANT KEY red 1 TO 0 AFTER 5", "[GRANTED 7 90]"),
        ("FLASH.RESERVE KEY never-seen buyer-4 ITEMS red 1", "[RELEASED]"),
        ("FLASH.CONFIRM KEY h1", "[CONFIRMED h1 19]"),
        ("XLEN KEY:orders", "19"),
    ] {
        let answer = answer(command);
        assert!(answer == expected || expected == "held" && answer.contains("state held"), "{command}: {answer}");
    }
    let info = client.ok(&["FLASH.INFO", KEY]);
    for (field, number) in [
        ("limit", 50),
        ("hold_ms", 60_000),
        ("maxhold_ms", 86_400_000),
        ("opens_at", 1_700_000_000_000),
        ("closes_at", 1_900_000_000_000),
        ("retain_ms", 99_000_000),
        ("backlog", 5_000),
        ("shard", 2),
        ("shards", 3),
        ("holds", 1),
        ("orders", 3),
        ("buyers", 2),
    ] {
        assert_eq!(info.get(field).integer(), number, "{field}");
    }
    assert_eq!(info.get("events").text(), "ALL");
    assert_audit_is_clean(&mut client, KEY);
}
