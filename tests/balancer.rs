//! Where servers know nothing of each other, `flashsale balance` and the proxy bring the stock to the buyers, however
//! many do so at once and whoever dies in the middle.

use std::process::Command;
use std::time::{Duration, Instant};

use flashsale_tests::cli::flashsale;
use flashsale_tests::process::Process;
use flashsale_tests::sale::{buyers_of, shard_keys};
use flashsale_tests::{
    AppendFsync, Client, Proxy, RedisServer, RedisServerBuilder, artifacts, wait_until, with_module_and_library,
};

with_module_and_library!(
    all_units_are_sold_in_one_shard,
    proxies_do_it_by_themselves,
    a_transfer_that_was_left_is_finished,
    no_unit_arrives_before_replicas_know_that_it_left,
    two_balancers_and_servers_that_die_make_no_unit,
);

const PATIENCE: Duration = Duration::from_secs(60);
/// What keys of the shards begin with.
const SALE: &str = "sale:1";

fn balancer(urls: &str, words: &[&str]) -> Process {
    let log = tempfile::NamedTempFile::new().expect("a temporary file").into_temp_path();
    let mut command = Command::new(artifacts::flashsale());
    command.args(["balance", "--every", "20", "--redis", urls]).args(words).env("RUST_LOG", "debug");
    Process::start("flashsale balance", command, &log).expect("it runs")
}

#[track_caller]
fn create(urls: &str, words: &[&str]) {
    flashsale(&[&["sale", "create", "1", "--redis", urls], words].concat()).ok();
}

#[track_caller]
fn audit(urls: &str) -> String {
    flashsale(&["sale", "audit", "1", "--redis", urls]).ok()
}

/// Buys one unit at a time in one shard until `wanted` were sold there; buyers come again when they are told `EMPTY`.
#[track_caller]
fn sell(client: &mut Client, key: &str, buyers: &[String], wanted: usize) {
    let began = Instant::now();
    for (number, buyer) in buyers.iter().take(wanted).enumerate() {
        loop {
            let id = format!("o{number}");
            let reply = client.ok(&["FLASH.ORDER", key, &id, buyer, "ITEMS", "tee", "1"]);
            match reply.status().as_str() {
                "CONFIRMED" => break,
                "EMPTY" => std::thread::sleep(Duration::from_millis(2)),
                other => panic!("{other} after {number} orders"),
            }
            assert!(began.elapsed() < PATIENCE, "{number} of {wanted} sold");
        }
    }
}

fn all_units_are_sold_in_one_shard(redis: RedisServerBuilder) {
    let servers = [0, 1].map(|_| redis.clone().start());
    let urls = servers.each_ref().map(RedisServer::url).join(",");
    create(&urls, &["--shards", "4", "--stock", "tee=200"]);
    let _balancers = [balancer(&urls, &[]), balancer(&urls, &["1"])];
    let mut client = servers[1].client();
    let buyers = buyers_of(&mut client, 3, 4, 200);
    let key = shard_keys(&mut client, SALE, 4)[3].clone();
    sell(&mut client, &key, &buyers, 200);
    let audit = audit(&urls);
    assert!(audit.contains("200 stocked = 0 available + 0 held + 200 sold + 0 in transit"), "{audit}");
}

fn proxies_do_it_by_themselves(redis: RedisServerBuilder) {
    let servers = [0, 1].map(|_| redis.clone().start());
    let urls = servers.each_ref().map(RedisServer::url);
    create(&urls.join(","), &["--shards", "4", "--stock", "tee=60"]);
    let _proxies = [0, 1].map(|_| Proxy::builder().redis_urls(&urls).start());
    let mut client = servers[0].client();
    let buyers = buyers_of(&mut client, 2, 4, 60);
    let key = shard_keys(&mut client, SALE, 4)[2].clone();
    sell(&mut client, &key, &buyers, 60);
    audit(&urls.join(","));
}

fn a_transfer_that_was_left_is_finished(redis: RedisServerBuilder) {
    let servers = [0, 1].map(|_| redis.clone().start());
    let urls = servers.each_ref().map(RedisServer::url).join(",");
    create(&urls, &["--shards", "2", "--stock", "tee=20"]);
    let mut client = servers[0].client();
    let keys = shard_keys(&mut client, SALE, 2);
    // A mover that died after its GRANT.
    client.ok(&["FLASH.GRANT", &keys[0], "tee", "3", "TO", "1"]);
    let text = flashsale(&["balance", "--once", "--redis", &urls]).ok();
    assert!(text.contains("3 units moved"), "{text}");
    let text = flashsale(&["balance", "--once", "--redis", &urls]).ok();
    assert!(text.contains("0 units moved"), "{text}");
    let audit = audit(&urls);
    assert!(audit.contains("20 stocked = 20 available + 0 held + 0 sold + 0 in transit"), "{audit}");
}

fn no_unit_arrives_before_replicas_know_that_it_left(redis: RedisServerBuilder) {
    let servers = [0, 1].map(|_| redis.clone().start());
    let mut replica = redis.clone().replica_of(&servers[0]).start();
    let urls = servers.each_ref().map(RedisServer::url).join(",");
    create(&urls, &["--shards", "2", "--stock", "tee=20"]);
    let (mut client, mut other) = (servers[0].client(), servers[1].client());
    let keys = shard_keys(&mut client, SALE, 2);
    replica.wait_for_primary(&servers[0]);
    replica.signal(libc::SIGSTOP);
    // Granted by somebody else, on another connection: whoever finishes it must wait for replicas all the same.
    client.ok(&["FLASH.GRANT", &keys[0], "tee", "3", "TO", "1"]);
    let once = ["balance", "--once", "--replicas", "1", "--redis", &urls];
    let error = flashsale(&once).failed();
    assert!(error.contains("3 units wait for replicas"), "{error}");
    let accepted =
        |other: &mut Client| other.ok(&["FLASH.INFO", &keys[1]]).get("skus").get("tee").get("accepted").integer();
    assert_eq!(accepted(&mut other), 0);
    replica.signal(libc::SIGCONT);
    wait_until("the transfer is finished", PATIENCE, || {
        flashsale(&once);
        accepted(&mut other) == 3
    });
    audit(&urls);
}

fn two_balancers_and_servers_that_die_make_no_unit(redis: RedisServerBuilder) {
    // Every write is on disk before it is answered: what a killed server has said is still there when it comes back.
    let mut servers = [0, 1].map(|_| redis.clone().append_only(AppendFsync::Always).start());
    let urls = servers.each_ref().map(RedisServer::url).join(",");
    create(&urls, &["--shards", "2", "--stock", "tee=300"]);
    let mut balancers = [balancer(&urls, &[]), balancer(&urls, &[])];
    let mut client = servers[1].client();
    let buyers = buyers_of(&mut client, 1, 2, 300);
    let key = shard_keys(&mut client, SALE, 2)[1].clone();
    sell(&mut client, &key, &buyers, 160);
    for round in 0..3 {
        // The donor dies while its units move; the buyers' shard goes on.
        servers[0].kill_9();
        sell(&mut client, &key, &buyers, 160 + round);
        servers[0].restart();
        balancers[round % 2].kill_9();
        balancers[round % 2] = balancer(&urls, &[]);
        sell(&mut client, &key, &buyers, 180 + 20 * round);
    }
    servers[1].kill_9();
    servers[1].restart();
    let mut client = servers[1].client();
    sell(&mut client, &key, &buyers, 300);
    let audit = audit(&urls);
    assert!(audit.contains("300 stocked = 0 available + 0 held + 300 sold + 0 in transit"), "{audit}");
}
