//! Active defragmentation moves sales while they are sold from. It needs a server that was built with its own
//! jemalloc, as those of Debian are not.

use std::time::Duration;

use flashsale_tests::sale::assert_audit_is_clean;
use flashsale_tests::{RedisServer, Server, on_every_server};

on_every_server!(sales_are_moved_while_they_sell);

fn sales_are_moved_while_they_sell(server: Server) {
    if !server.is_here_with_jemalloc() {
        return;
    }
    let mut redis = RedisServer::builder(server).jemalloc().module().start();
    let mut client = redis.client();
    for (setting, value) in [
        ("active-defrag-ignore-bytes", "1"),
        ("active-defrag-threshold-lower", "1"),
        ("active-defrag-cycle-min", "50"),
        ("active-defrag-cycle-max", "75"),
    ] {
        client.ok(&["CONFIG", "SET", setting, value]);
    }
    // Sales that grow side by side share pages; when most of them go, those pages are sparse.
    let sales: Vec<String> = (0..8).map(|number| format!("sale:{number}")).collect();
    for key in &sales {
        client.ok(&["FLASH.CREATE", key, "EVENTS", "NONE", "ITEMS", "red", "9000000"]);
    }
    for first in (0..20_000).step_by(100) {
        for key in &sales {
            let mut words = vec!["FLASH.MRESERVE".to_owned(), key.to_owned(), "HOLDS".into()];
            for number in first..first + 100 {
                words.extend([
                    format!("hold-{number:019}"),
                    format!("buyer-{:018}", number / 2),
                    "red".into(),
                    "1".into(),
                ]);
            }
            client.ok(&words);
        }
    }
    for key in &sales[1..] {
        client.ok(&["DEL", key]);
    }
    let key = &sales[0];
    let digest = redis.digest();
    client.ok(&["CONFIG", "SET", "activedefrag", "yes"]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(redis.digest(), digest);
    for number in 0..5_000 {
        let (old, new) = (format!("hold-{number:019}"), format!("new-{number}"));
        assert_eq!(client.ok(&["FLASH.RELEASE", key, &old]).status(), "RELEASED");
        assert_eq!(client.ok(&["FLASH.ORDER", key, &new, &new, "ITEMS", "red", "2"]).status(), "CONFIRMED");
    }
    assert_audit_is_clean(&mut client, key);
    let moved: u64 = redis.info("active_defrag_hits").and_then(|hits| hits.parse().ok()).expect("a number");
    assert!(moved > 1_000, "only {moved} pieces were moved");
    assert!(redis.is_alive());
}
