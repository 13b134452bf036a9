//! Active defragmentation moves sales while they are sold from. It needs a server that was built with its own
//! jemalloc: those of Debian are not, and then only the rest of the project's tests speak for it (`core/tests/memory.rs`
//! moves sales in the midst of their stories).

use std::time::Duration;

use flashsale_tests::sale::assert_audit_is_clean;
use flashsale_tests::{RedisServer, Server, on_every_server};

on_every_server!(sales_are_moved_while_they_sell);

fn sales_are_moved_while_they_sell(server: Server) {
    let mut redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    let enabled = client.line("CONFIG SET activedefrag yes");
    if enabled.is_error() {
        eprintln!("SKIPPED: {} cannot defragment: {enabled}", server.name());
        return;
    }
    for (setting, value) in [
        ("active-defrag-ignore-bytes", "1"),
        ("active-defrag-threshold-lower", "1"),
        ("active-defrag-cycle-min", "50"),
        ("active-defrag-cycle-max", "75"),
    ] {
        client.ok(&["CONFIG", "SET", setting, value]);
    }
    client.ok(&["FLASH.CREATE", "sale:1", "EVENTS", "NONE", "ITEMS", "red", "9000000"]);
    for number in 0..60_000 {
        let (id, buyer) = (format!("hold-{number:019}"), format!("buyer-{:018}", number % 40_000));
        client.ok(&["FLASH.RESERVE", "sale:1", &id, &buyer, "ITEMS", "red", "1"]);
        if number % 3 != 0 {
            client.ok(&["FLASH.RELEASE", "sale:1", &id]);
        }
    }
    let digest = redis.digest();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(redis.digest(), digest);
    assert_audit_is_clean(&mut client, "sale:1");
    let moved: u64 = redis.info("active_defrag_hits").and_then(|hits| hits.parse().ok()).expect("a number");
    assert!(moved > 0);
    assert!(redis.is_alive());
}
