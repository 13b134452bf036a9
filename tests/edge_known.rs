//! What the edge knows costs Redis nothing, and what changes is known at once.

use std::time::{Duration, Instant};

use flashsale_tests::http::Http;
use flashsale_tests::{Client, Proxy, RedisServer, Server, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);

fn scene(create: &str, refresh_ms: u64) -> (RedisServer, Proxy, Http) {
    let redis = RedisServer::with_sale(create);
    let proxy = Proxy::builder().redis(&redis).set("known.refresh_ms", &refresh_ms.to_string()).start();
    (redis, proxy, Http::new())
}

fn reserve(http: &Http, proxy: &Proxy, buyer: &str) -> (u16, String) {
    let bearer = proxy.bearer(buyer);
    let url = proxy.url("/flash/s/holds?sku=shirt");
    let answer = http.request("POST", &url, &[("authorization", bearer.as_str())], b"");
    (answer.status, if answer.status < 300 { String::new() } else { answer.problem() })
}

/// How often the server has run `command`.
fn calls(client: &mut Client, command: &str) -> u64 {
    let stats = client.ok(&["INFO", "commandstats"]).text();
    let name = format!("cmdstat_{}:calls=", command.to_ascii_uppercase());
    stats
        .lines()
        .find_map(|line| line.strip_prefix(&name).or_else(|| line.strip_prefix(&name.to_ascii_lowercase())))
        .and_then(|line| line.split(',').next()?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn a_crowd_at_a_sold_out_sale_costs_redis_nothing() {
    let (redis, proxy, http) = scene("FLASH.CREATE sale:s ITEMS shirt 1", 1000);
    let mut client = redis.client();
    client.ok(&["FLASH.ORDER", "sale:s", "o", "ann", "ITEMS", "shirt", "1"]);
    assert_eq!(reserve(&http, &proxy, "bob"), (409, "sold-out".to_owned()));
    let reserves = |client: &mut Client| calls(client, "flash.mreserve") + calls(client, "flash.reserve");
    let (before, infos) = (reserves(&mut client), calls(&mut client, "flash.info"));
    assert!(infos > 0, "the counters are read right");
    let started = Instant::now();
    for _ in 0..500 {
        assert_eq!(reserve(&http, &proxy, "bob").0, 409);
    }
    assert_eq!(reserves(&mut client), before);
    let allowed = started.elapsed().as_secs() + 2;
    assert!(calls(&mut client, "flash.info") - infos <= allowed, "one look a second");
}

#[test]
fn restocking_is_known_at_once_by_the_state_channel() {
    // Polling alone would find out in a minute.
    let (redis, proxy, http) = scene("FLASH.CREATE sale:s ITEMS shirt 1", 60_000);
    let mut client = redis.client();
    wait_until("the edge listens", PATIENCE, || proxy.metrics().contains("flashsale_channel_up 1"));
    client.ok(&["FLASH.ORDER", "sale:s", "o", "ann", "ITEMS", "shirt", "1"]);
    assert_eq!(reserve(&http, &proxy, "bob"), (409, "sold-out".to_owned()));
    client.ok(&["FLASH.STOCK", "sale:s", "shirt", "1"]);
    let restocked = Instant::now();
    wait_until("it sells again", PATIENCE, || reserve(&http, &proxy, "bob").0 == 201);
    assert!(restocked.elapsed() < Duration::from_millis(500), "{:?}", restocked.elapsed());
}

#[test]
fn a_lost_channel_is_opened_again() {
    let (redis, proxy, http) = scene("FLASH.CREATE sale:s ITEMS shirt 1", 60_000);
    let mut client = redis.client();
    let listening = || client.ok(&["PUBSUB", "NUMPAT"]).integer() == 1;
    wait_until("the edge listens", PATIENCE, listening);
    let mut client = redis.client();
    client.ok(&["FLASH.ORDER", "sale:s", "o", "ann", "ITEMS", "shirt", "1"]);
    assert_eq!(reserve(&http, &proxy, "bob"), (409, "sold-out".to_owned()));
    client.ok(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    // Nobody hears this; when the channel is open again every picture is looked at anew.
    client.ok(&["FLASH.STOCK", "sale:s", "shirt", "1"]);
    wait_until("it sells again", PATIENCE, || reserve(&http, &proxy, "bob").0 == 201);
}

#[test]
fn without_a_channel_polling_finds_out() {
    let (redis, proxy, http) = scene("FLASH.CREATE sale:s ITEMS shirt 1", 300);
    let mut client = redis.client();
    client.ok(&["FLASH.ORDER", "sale:s", "o", "ann", "ITEMS", "shirt", "1"]);
    assert_eq!(reserve(&http, &proxy, "bob").0, 409);
    client.ok(&["FLASH.PAUSE", "sale:s"]);
    wait_until("the pause is seen", PATIENCE, || reserve(&http, &proxy, "bob") == (503, "paused".to_owned()));
    client.ok(&["FLASH.RESUME", "sale:s"]);
    wait_until("the end of the pause is seen", PATIENCE, || reserve(&http, &proxy, "bob").1 == "sold-out");
}

#[test]
fn a_sale_made_after_it_was_asked_for_is_found() {
    let (redis, proxy, http) = scene("FLASH.CREATE sale:other ITEMS shirt 1", 1000);
    assert_eq!(reserve(&http, &proxy, "bob"), (404, "no-sale".to_owned()));
    redis.client().ok(&["FLASH.CREATE", "sale:s", "ITEMS", "shirt", "1"]);
    wait_until("it sells", PATIENCE, || reserve(&http, &proxy, "bob").0 == 201);
}

#[test]
fn guessed_names_of_sales_do_not_reach_redis_without_limit() {
    let redis = RedisServer::builder(Server::Redis70).module().start();
    let proxy = Proxy::builder().redis(&redis).set("known.unknown_lookups_per_second", "20").start();
    let http = Http::new();
    let started = Instant::now();
    let statuses: Vec<u16> =
        (0..400).map(|guess| http.get(&proxy.url(&format!("/flash/guess-{guess}"))).status).collect();
    assert!(statuses.contains(&404) && statuses.contains(&503), "some are looked up, not all");
    let allowed = 20 * (started.elapsed().as_secs() + 2);
    assert!(calls(&mut redis.client(), "flash.info") <= allowed);
}
