//! Freeing a big sale never holds the server up: it is done in the background. A small one is freed at once.

use std::time::Duration;

use flashsale_tests::{Client, RedisServer, Server, on_every_server, wait_until};

on_every_server!(a_big_sale_is_freed_in_the_background, a_small_sale_is_freed_at_once, flushing_everything);

const PATIENCE: Duration = Duration::from_secs(20);

fn sale(client: &mut Client, key: &str, holds: usize) {
    client.ok(&["FLASH.CREATE", key, "ITEMS", "red", "9000000"]);
    for first in (0..holds).step_by(500) {
        let mut words = vec!["FLASH.MRESERVE".to_owned(), key.to_owned(), "HOLDS".into()];
        for number in first..holds.min(first + 500) {
            words.extend([format!("hold-{number:019}"), format!("buyer-{number:018}"), "red".into(), "1".into()]);
        }
        client.ok(&words);
    }
}

fn freed_in_background(redis: &RedisServer) -> u64 {
    redis.info("lazyfreed_objects").and_then(|count| count.parse().ok()).expect("INFO tells it")
}

fn a_big_sale_is_freed_in_the_background(server: Server) {
    let mut redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    for (number, way) in
        ["UNLINK sale:1", "SET sale:1 text", "RENAME other sale:1", "FLASH.EXPIRE sale:1"].into_iter().enumerate()
    {
        client.ok(&["CONFIG", "SET", "lazyfree-lazy-server-del", "yes", "lazyfree-lazy-expire", "yes"]);
        sale(&mut client, "sale:1", 60_000);
        client.ok(&["SET", "other", "1"]);
        let before = freed_in_background(&redis);
        client.ok(&way.split(' ').collect::<Vec<_>>());
        if number == 3 {
            client.ok(&["PEXPIRE", "sale:1", "1"]);
        }
        wait_until(&format!("{way} frees in the background"), PATIENCE, || freed_in_background(&redis) > before);
        wait_until("all is freed", PATIENCE, || {
            redis.info("flashsale_sales").as_deref() == Some("0")
                && redis.info("flashsale_holds").as_deref() == Some("0")
        });
        client.ok(&["FLUSHALL"]);
    }
    assert!(redis.is_alive());
}

fn a_small_sale_is_freed_at_once(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    sale(&mut client, "sale:1", 100);
    let before = freed_in_background(&redis);
    client.ok(&["UNLINK", "sale:1"]);
    assert_eq!(redis.info("flashsale_sales").as_deref(), Some("0"));
    assert_eq!(freed_in_background(&redis), before);
}

fn flushing_everything(server: Server) {
    let mut redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    for way in ["FLUSHALL ASYNC", "FLUSHALL SYNC", "FLUSHDB ASYNC"] {
        for number in 0..20 {
            sale(&mut client, &format!("sale:{number}"), 3_000);
        }
        client.ok(&way.split(' ').collect::<Vec<_>>());
        // The name is free at once, though its old value may still be being freed.
        sale(&mut client, "sale:1", 10);
        wait_until("the old ones are freed", PATIENCE, || redis.info("flashsale_holds").as_deref() == Some("10"));
        client.ok(&["DEL", "sale:1"]);
    }
    assert!(redis.is_alive());
}
