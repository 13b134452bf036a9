//! What an operator sees and sets: INFO flashsale, CONFIG flashsale.*, MODULE LOADEX, MODULE UNLOAD.

use std::time::Duration;

use flashsale_tests::{RedisServer, Server, artifacts, on_every_server, wait_until};

on_every_server!(
    info_sums_all_sales,
    info_shows_what_is_due,
    settings_are_read_changed_and_kept,
    settings_out_of_range_are_refused,
    settings_come_with_loadex_and_from_the_file,
    arguments_are_refused_with_the_way_out,
    unloading_is_refused_with_the_reason,
);

const PATIENCE: Duration = Duration::from_secs(20);

fn info_sums_all_sales(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    for key in ["sale:1", "sale:2"] {
        client.ok(&["FLASH.CREATE", key, "ITEMS", "red", "10"]);
        client.ok(&["FLASH.RESERVE", key, "h1", "ann", "ITEMS", "red", "1"]);
        client.ok(&["FLASH.RESERVE", key, "h2", "bob", "ITEMS", "red", "1"]);
        client.ok(&["FLASH.CONFIRM", key, "h2"]);
    }
    client.ok(&["FLASH.THROTTLE", "rate", "1", "1", "100"]);
    let field = |name: &str| redis.info(&format!("flashsale_{name}")).unwrap_or_else(|| panic!("no {name}"));
    let numbers =
        || ["sales", "holds", "orders", "rate_keys", "bugs_caught"].map(|name| field(name).parse().unwrap_or(99));
    assert_eq!(numbers(), [2, 2, 2, 1, 0]);
    client.ok(&["COPY", "sale:1", "copy"]);
    client.ok(&["RENAME", "sale:1", "renamed"]);
    assert_eq!(numbers(), [3, 3, 3, 1, 0]);
    client.ok(&["DEBUG", "RELOAD"]);
    assert_eq!(numbers(), [3, 3, 3, 1, 0]);
    client.ok(&["FLASH.RELEASE", "copy", "h1"]);
    client.ok(&["DEL", "renamed"]);
    assert_eq!(numbers(), [2, 1, 2, 1, 0]);
    client.ok(&["FLUSHALL", "ASYNC"]);
    wait_until("all are freed", PATIENCE, || numbers() == [0; 5]);

    let section = client.ok(&["INFO", "flashsale"]).text();
    assert!(section.starts_with("# flashsale\r\n"), "{section}");
    client.ok(&["FLASH.CREATE", "sale:1", "ITEMS", "red", "1"]);
    let made_up = client.ok(&["FLASH.RESERVE", "sale:1", "*", "ann", "ITEMS", "red", "1"]).at(1).text();
    assert_eq!(made_up.split('-').next(), Some(field("incarnation").as_str()));
}

fn info_shows_what_is_due(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    client.ok(&["CONFIG", "SET", "flashsale.sweep-interval-ms", "10000"]);
    // The tick that was planned before the setting comes first.
    std::thread::sleep(Duration::from_millis(100));
    client.ok(&["FLASH.CREATE", "sale:1", "ITEMS", "red", "100"]);
    for number in 0..100 {
        client.ok(&["FLASH.RESERVE", "sale:1", &number.to_string(), "ann", "TTL", "40", "ITEMS", "red", "1"]);
    }
    let field = |name: &str| -> i64 { redis.info(name).and_then(|value| value.parse().ok()).expect("a number") };
    wait_until("the lag shows", PATIENCE, || {
        field("flashsale_due_keys") == 1 && field("flashsale_expiry_lag_ms") > 200
    });
    // The timer comes in its own time, and then as often as it must.
    client.ok(&["CONFIG", "SET", "flashsale.sweep-interval-ms", "1", "flashsale.sweep-holds-per-tick", "16"]);
    wait_until("all are ended", PATIENCE, || field("flashsale_holds") == 0);
    assert_eq!((field("flashsale_due_keys"), field("flashsale_expiry_lag_ms")), (0, 0));
    assert!(field("flashsale_expired_by_timer") > 0);
}

const SETTINGS: [(&str, &str); 5] = [
    ("sweep-interval-ms", "25"),
    ("sweep-holds-per-tick", "4096"),
    ("sweep-keys-per-tick", "128"),
    ("bus-interval-ms", "100"),
    ("grant-replicas", "0"),
];

fn settings_are_read_changed_and_kept(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    let all = client.ok(&["CONFIG", "GET", "flashsale.*"]);
    assert_eq!(all.pairs().len(), SETTINGS.len(), "{all}");
    for (name, default) in SETTINGS {
        assert_eq!(all.get(&format!("flashsale.{name}")).text(), default);
    }
    client.ok(&["CONFIG", "SET", "flashsale.sweep-interval-ms", "5", "flashsale.sweep-holds-per-tick", "1000"]);
    assert_eq!(client.line("CONFIG GET flashsale.sweep-interval-ms").at(1).text(), "5");
}

fn settings_out_of_range_are_refused(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    for wrong in ["0", "-1", "10001", "99999999999999999999", "fast", ""] {
        let refusal = client.call(&["CONFIG", "SET", "flashsale.sweep-interval-ms", wrong]);
        assert!(refusal.is_error(), "{wrong:?}: {refusal}");
    }
    assert!(client.line("CONFIG SET flashsale.no-such-setting 1").is_error());
    assert_eq!(client.line("CONFIG GET flashsale.sweep-interval-ms").at(1).text(), "25");
}

fn settings_come_with_loadex_and_from_the_file(server: Server) {
    let mut redis = RedisServer::builder(server).start();
    let mut client = redis.client();
    let module = artifacts::module();
    let module = module.to_str().expect("a path in UTF-8");
    let load = |client: &mut flashsale_tests::Client, name: &str, value: &str| {
        client.call(&["MODULE", "LOADEX", module, "CONFIG", &format!("flashsale.{name}"), value])
    };
    // An unknown name would crash the server, whatever module with a data type it is given to.
    for (name, value) in [("sweep-interval-ms", "0"), ("sweep-interval-ms", "x"), ("sweep-keys-per-tick", "-1")] {
        let refusal = load(&mut client, name, value);
        assert!(refusal.is_error(), "{name} {value}: {refusal}");
        assert!(redis.is_alive());
    }
    let loaded = load(&mut client, "sweep-interval-ms", "7");
    assert!(!loaded.is_error(), "{loaded}\n{}", redis.log());
    assert_eq!(client.line("CONFIG GET flashsale.sweep-interval-ms").at(1).text(), "7");
    assert_eq!(client.line("CONFIG GET flashsale.sweep-keys-per-tick").at(1).text(), "128");
    assert!(!client.line("FLASH.CREATE sale:1").is_error());

    let from_file = RedisServer::builder(server).module().set("flashsale.sweep-holds-per-tick", "64").start();
    assert_eq!(from_file.client().line("CONFIG GET flashsale.sweep-holds-per-tick").at(1).text(), "64");
}

fn arguments_are_refused_with_the_way_out(server: Server) {
    let mut redis = RedisServer::builder(server).start();
    let mut client = redis.client();
    let module = artifacts::module();
    let module = module.to_str().expect("a path in UTF-8");
    assert!(client.call(&["MODULE", "LOADEX", module, "ARGS", "sweep-interval-ms", "7"]).is_error());
    assert!(client.call(&["MODULE", "LOAD", module, "sweep-interval-ms", "7"]).is_error());
    assert!(redis.is_alive());
    for told in ["takes no arguments", "CONFIG SET", "MODULE LOADEX ... CONFIG"] {
        assert!(redis.log().contains(told), "the log does not say {told:?}:\n{}", redis.log());
    }
    client.ok(&["MODULE", "LOAD", module]);
    assert!(!client.line("FLASH.CREATE sale:1").is_error());
}

fn unloading_is_refused_with_the_reason(server: Server) {
    let mut redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    for _ in 0..2 {
        let refusal = client.line("MODULE UNLOAD flashsale");
        assert!(refusal.error().contains("data types"), "{refusal}");
        client.ok(&["FLUSHALL"]);
    }
    assert!(redis.is_alive());
    assert!(!client.line("FLASH.CREATE sale:1").is_error());
}
