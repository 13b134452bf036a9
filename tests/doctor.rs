//! `flashsale doctor` finds what would spoil the evening, on real servers, and says which sale has outgrown its key.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use flashsale_tests::cli::{Ran, flashsale};
use flashsale_tests::{AppendFsync, Cluster, RedisServer, Server, on_every_server, wait_until};
use serde_json::Value;

on_every_server!(a_sound_server_passes, ills_are_found_with_what_to_do, a_cluster_is_looked_at_node_by_node);

const PATIENCE: Duration = Duration::from_secs(30);

/// The findings, by check and about whom.
#[track_caller]
fn findings(ran: &Ran) -> Vec<(String, String, String)> {
    let found: Value =
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {} {}", ran.out, ran.err));
    let field = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let list = found.as_array().expect("a list").iter();
    list.map(|finding| (field(finding, "check"), field(finding, "level"), field(finding, "found"))).collect()
}

#[track_caller]
fn level(ran: &Ran, check: &str, found: &str) -> String {
    let all = findings(ran);
    let of = all.iter().find(|(name, _, what)| name == check && what.contains(found));
    of.unwrap_or_else(|| panic!("no {check} with {found:?} in {all:#?}")).1.clone()
}

fn a_sound_server_passes(server: Server) {
    let redis = RedisServer::builder(server)
        .module()
        .append_only(AppendFsync::Always)
        .set("repl-backlog-size", "64mb")
        .set("min-replicas-to-write", "1")
        .start();
    let _replicas = [0, 1].map(|_| RedisServer::builder(server).module().replica_of(&redis).start());
    wait_until("both replicas follow", PATIENCE, || {
        ["slave0", "slave1"].iter().all(|field| redis.info(field).is_some_and(|about| about.contains("state=online")))
    });
    let url = redis.url();
    flashsale(&["sale", "create", "1", "--stock", "tee=5", "--redis", &url]).ok();
    let ran = flashsale(&["doctor", "--strict", "--replicas", "1", "--watch", "0", "--json", "--redis", &url]);
    assert_eq!(ran.code, 0, "{}\n{}", ran.out, ran.err);
    assert_eq!(level(&ran, "module", "the module"), "ok");
    assert_eq!(level(&ran, "replicas", "2 follow"), "ok");
    assert_eq!(level(&ran, "sale", "5 units available"), "ok");
    let text = flashsale(&["doctor", "--replicas", "1", "--watch", "0", "--redis", &url]).ok();
    assert!(text.contains("0 warnings, 0 failures"), "{text}");
    let quiet = flashsale(&["doctor", "--quiet", "--replicas", "1", "--watch", "0", "--json", "--redis", &url]);
    assert_eq!(findings(&quiet), []);
}

fn ills_are_found_with_what_to_do(server: Server) {
    let mut redis =
        RedisServer::builder(server).module().set("maxmemory", "100mb").set("maxmemory-policy", "allkeys-lru").start();
    let other = RedisServer::builder(server).module().start();
    let urls = format!("{},{}", redis.url(), other.url());
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale:late", "BACKLOG", "2", "HOLD", "2400000", "ITEMS", "tee", "5"]);
    for id in ["o1", "o2"] {
        client.ok(&["FLASH.ORDER", "sale:late", id, "ann", "ITEMS", "tee", "1"]);
    }
    let keys = client.ok(&["FLASH.SHARDS", "sale:half", "4"]);
    client.ok(&["FLASH.CREATE", &keys.at(0).text(), "SHARD", "0", "4"]);
    let ran = flashsale(&["doctor", "--watch", "0", "--json", "--redis", &urls]);
    assert_ne!(ran.code, 0);
    for (check, found, expected) in [
        ("persistence", "nothing is written to disk", "fail"),
        ("eviction", "allkeys-lru", "fail"),
        ("replicas", "none", "warn"),
        ("holds", "40 minutes", "warn"),
        ("relay", "2 orders wait in a stream, reserving stops at 2", "fail"),
        ("shards", "3 of 4 shards are missing", "fail"),
    ] {
        assert_eq!(level(&ran, check, found), expected, "{check}");
    }
    let text = flashsale(&["doctor", "--watch", "0", "--redis", &urls]).out;
    assert!(text.contains("-> CONFIG SET maxmemory-policy noeviction"), "{text}");
    let promised = flashsale(&["doctor", "--watch", "0", "--json", "--replicas", "2", "--redis", &urls]);
    assert_eq!(level(&promised, "replicas", "[durability] asks for 2"), "fail");
    let plain = RedisServer::builder(server).start();
    let mixed = format!("{},{}", redis.url(), plain.url());
    let ran = flashsale(&["doctor", "--watch", "0", "--json", "--redis", &mixed]);
    assert_eq!(level(&ran, "module", "neither"), "fail");
    assert_eq!(level(&ran, "module", "do not have the same module"), "fail");
    assert_eq!(level(&ran, "sale", "unknown command"), "fail");
    redis.kill_9();
    let ran = flashsale(&["doctor", "--watch", "0", "--json", "--timeout", "3", "--redis", &urls]);
    assert_ne!(ran.code, 0);
    assert!(ran.out.contains(&format!("127.0.0.1:{}", redis.port())), "{}", ran.out);
}

fn a_cluster_is_looked_at_node_by_node(server: Server) {
    let mut cluster = Cluster::with_module(server).replicas_each(0).start();
    let url = cluster.primaries()[0].url();
    flashsale(&["sale", "create", "1", "--shards", "auto", "--stock", "tee=50", "--redis", &url]).ok();
    let ran = flashsale(&["doctor", "--watch", "0", "--json", "--redis", &url]);
    let all = findings(&ran);
    let of =
        |check: &str, found: &str| all.iter().filter(|(name, _, what)| name == check && what.contains(found)).count();
    assert_eq!(of("cluster", "state ok, all slots served by 3 primaries"), 3, "{all:#?}");
    assert_eq!(of("cluster", "cluster-require-full-coverage yes"), 3, "{all:#?}");
    assert_eq!(of("sale", "50 units available"), 1, "{all:#?}");
}

#[test]
fn a_deployment_that_moves_no_stock_is_told() {
    let servers = [0, 1].map(|_| RedisServer::builder(Server::Redis70).module().start());
    let urls = servers.each_ref().map(RedisServer::url);
    flashsale(&["sale", "create", "1", "--shards", "2", "--stock", "tee=5", "--redis", &urls.join(",")]).ok();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let examined = |redis: &str, mode: &str| {
        let config = folder.path().join("edge.toml");
        let text = format!("[redis]\n{redis}\n[balancer]\nmode = {mode:?}\n");
        std::fs::write(&config, text).expect("the folder can be written");
        let config = config.to_str().expect("a path in UTF-8");
        findings(&flashsale(&["doctor", "--watch", "0", "--json", "--config", config]))
    };
    let of = |findings: &[(String, String, String)]| -> Vec<String> {
        let balancer = findings.iter().filter(|(check, _, _)| check == "balancer");
        balancer.map(|(_, level, found)| format!("{level}: {found}")).collect()
    };
    let servers_apart = format!("urls = {urls:?}");
    let found = of(&examined(&servers_apart, "off"));
    assert!(found.len() == 1 && found[0].starts_with("warn: [balancer] mode is off"), "{found:?}");
    assert_eq!(of(&examined(&servers_apart, "auto")), [""; 0]);
    // A cluster moves stock by itself; two of them do not between each other.
    let clusters = [0, 1].map(|_| Cluster::with_module(Server::Redis70).primaries(1).replicas_each(0).start());
    let nodes = clusters.each_ref().map(|cluster| cluster.nodes().next().expect("a node").url());
    flashsale(&["sale", "create", "1", "--shards", "2", "--stock", "tee=5", "--redis", &nodes[0]]).ok();
    assert_eq!(of(&examined(&format!("url = {:?}", nodes[0]), "off")), [""; 0]);
    let groups = format!("groups = [{{ url = {:?} }}, {{ url = {:?} }}]", nodes[0], nodes[1]);
    let all = examined(&groups, "off");
    let misplaced = all.iter().find(|(check, _, _)| check == "leftovers").expect("shard 1 is in the wrong cluster");
    assert!(misplaced.2.contains("lies in group 1, and is looked for in group 2"), "{misplaced:?}");
    assert_eq!(of(&all).len(), 1, "{all:#?}");
}

#[test]
fn orders_that_nobody_fetches_are_told() {
    let redis = RedisServer::builder(Server::Redis70).module().start();
    let url = redis.url();
    flashsale(&["sale", "create", "1", "--stock", "tee=5", "--redis", &url]).ok();
    let examine = || flashsale(&["doctor", "--watch", "0", "--json", "--redis", &url]);
    let relay = |ran: &Ran| -> Vec<String> {
        let all = findings(ran).into_iter().filter(|(check, _, _)| check == "relay");
        all.map(|(_, level, found)| format!("{level}: {found}")).collect()
    };
    assert_eq!(relay(&examine()), [""; 0], "nothing is sold yet");
    let mut client = redis.client();
    client.ok(&["FLASH.ORDER", "sale:1", "o1", "ann", "ITEMS", "tee", "1"]);
    let found = relay(&examine());
    assert!(found[0].starts_with("warn: 1 orders wait where no consumer group has ever read"), "{found:?}");
    let stream = "{sale:1}:orders";
    client.ok(&["XGROUP", "CREATE", stream, "flashsale", "0"]);
    let found = relay(&examine());
    assert!(
        found[0].contains("1 orders wait for the group `flashsale`") && found[0].contains("no reader"),
        "{found:?}"
    );
    // Somebody has just read it, and has not finished.
    client.ok(&["XREADGROUP", "GROUP", "flashsale", "relay-1", "STREAMS", stream, ">"]);
    assert_eq!(relay(&examine()), [""; 0]);
}

#[test]
fn the_sale_that_has_most_of_a_servers_commands_is_named() {
    let redis = RedisServer::builder(Server::Redis70).module().start();
    let url = redis.url();
    flashsale(&["sale", "create", "hot", "--stock", "tee=5", "--redis", &url]).ok();
    flashsale(&["sale", "create", "cold", "--stock", "tee=5", "--redis", &url]).ok();
    let stop = AtomicBool::new(false);
    let ran = thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = redis.client();
            let asks = vec![["FLASH.RESERVE", "sale:hot", "h", "ann", "ITEMS", "tee", "9"]; 200];
            while !stop.load(Ordering::Relaxed) {
                client.send_all(&asks).expect("sent");
                asks.iter().for_each(|_| drop(client.receive().expect("an answer")));
            }
        });
        let ran = flashsale(&["doctor", "--watch", "3", "--json", "--redis", &url]);
        stop.store(true, Ordering::Relaxed);
        ran
    });
    let all = findings(&ran);
    let hot = all.iter().find(|(check, _, _)| check == "hot key").unwrap_or_else(|| panic!("{all:#?}"));
    let share =
        hot.2.split("has ").nth(1).and_then(|rest| rest.split('%').next()).and_then(|text| text.parse::<u32>().ok());
    assert!(hot.2.starts_with("`hot` (1 shards)") && share.is_some_and(|share| share > 90), "{hot:?}");
}
