//! `flashsale sale` and `holds` do what an operator wants, over all shards, and may be repeated after any failure.

use std::process::Command;
use std::time::{Duration, Instant};

use flashsale_tests::cli::{Ran, flashsale};
use flashsale_tests::process::Process;
use flashsale_tests::sale::{buyers_of, shard_keys};
use flashsale_tests::{Client, Cluster, RedisServer, Server, artifacts, on_every_server, wait_until};
use serde_json::Value;

on_every_server!(
    two_servers_share_a_sale,
    units_are_withdrawn_wherever_they_are,
    closing_collects_what_is_left,
    a_creation_that_broke_off_is_finished_by_the_same_words,
    what_is_left_of_an_earlier_sale_is_refused,
    units_in_transit_are_neither_made_nor_lost,
    a_cluster_takes_four_shards_for_each_primary,
    the_library_is_operated_by_the_same_commands,
    a_failover_in_the_middle_is_waited_for,
);

const PATIENCE: Duration = Duration::from_secs(30);

/// Two servers that know nothing of each other, and the words that name them.
struct Two {
    servers: [RedisServer; 2],
}

impl Two {
    fn start(server: Server) -> Two {
        let start = || RedisServer::builder(server).module().start();
        Two { servers: [start(), start()] }
    }

    fn urls(&self) -> String {
        self.servers.each_ref().map(RedisServer::url).join(",")
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Ran {
        let urls = self.urls();
        flashsale(&[words, &["--redis", &urls]].concat())
    }

    #[track_caller]
    fn show(&self, name: &str) -> Value {
        self.run(&["sale", "show", name, "--json"]).json()
    }

    /// The key of a shard, and a connection to its server.
    #[track_caller]
    fn shard(&self, name: &str, index: usize, shards: usize) -> (String, Client) {
        let mut client = self.servers[index % 2].client();
        (shard_keys(&mut client, &format!("sale:{name}"), shards).swap_remove(index), client)
    }
}

#[track_caller]
fn sum(show: &Value, sku: &str, field: &str) -> u64 {
    show["skus"][sku][field].as_u64().unwrap_or_else(|| panic!("no {field} of {sku} in {show}"))
}

fn two_servers_share_a_sale(server: Server) {
    let two = Two::start(server);
    let create = [
        ["sale", "create", "42", "--shards", "4"].as_slice(),
        &["--stock", "tee=10,2", "--stock", "mug=3", "--limit", "3", "--hold", "2m", "--opens", "now"],
    ]
    .concat();
    let text = two.run(&create).ok();
    assert!(text.contains("made 4 shards") && text.contains("limit 3 per buyer"), "{text}");
    let (key, mut client) = two.shard("42", 1, 4);
    let info = client.ok(&["FLASH.INFO", &key]);
    assert_eq!((info.get("shard").integer(), info.get("shards").integer(), info.get("limit").integer()), (1, 4, 3));
    assert_eq!((info.get("hold_ms").integer(), info.get("skus").get("tee").get("limit").integer()), (120_000, 2));

    let again = two.run(&create).ok();
    assert!(again.contains("made 0 shards, 4 were there"), "{again}");
    let show = two.show("42");
    assert_eq!((sum(&show, "tee", "stocked"), sum(&show, "mug", "stocked")), (10, 3));
    let parts: Vec<u64> = (show["shards"].as_array().expect("shards").iter())
        .map(|line| line["info"]["skus"]["tee"]["available"].as_u64().expect("a number"))
        .collect();
    assert_eq!(parts, [3, 3, 2, 2]);

    let other = [create.as_slice(), &["--maxhold", "9m"]].concat();
    let error = two.run(&other).failed();
    assert!(error.contains("maxhold_ms is 3600000 and not 540000"), "{error}");
    let error = two.run(&["sale", "create", "42", "--shards", "5", "--stock", "tee=1"]).failed();
    assert!(error.contains("in 4 shards and not in 5"), "{error}");
    let more = two.run(&["sale", "create", "42", "--shards", "4", "--stock", "tee=11"]).failed();
    assert!(more.contains("another delta") && more.contains("sale restock"), "{more}");

    // What is sent again under its name happens once.
    for _ in 0..2 {
        two.run(&["sale", "restock", "42", "tee=+7", "--id", "pallet-2"]).ok();
    }
    assert_eq!(sum(&two.show("42"), "tee", "stocked"), 17);
    let error = two.run(&["sale", "stock", "42", "tee=+8", "--id", "pallet-2"]).failed();
    assert!(error.contains("another delta: take a new id"), "{error}");

    two.run(&["sale", "pause", "42"]).ok();
    assert_eq!(two.show("42")["state"], "paused");
    two.run(&["sale", "resume", "42"]).ok();
    assert_eq!(two.show("42")["state"], "open");
    let list = two.run(&["sale", "list", "--json"]).json();
    assert_eq!(
        (list[0]["name"].as_str(), list[0]["shards"].as_u64(), list[0]["stocked"].as_u64()),
        (Some("42"), Some(4), Some(20))
    );
    assert!(two.run(&["sale", "list"]).ok().contains("42  open"));

    let buyer = buyers_of(&mut client, 1, 4, 1).remove(0);
    client.ok(&["FLASH.RESERVE", &key, "h1", &buyer, "ITEMS", "tee", "1"]);
    client.ok(&["FLASH.ORDER", &key, "o1", &buyer, "REF", "pay-1", "ITEMS", "mug", "1"]);
    let held = two.run(&["holds", "42", "--state", "held", "--json"]).json();
    assert_eq!(
        (held["id"].as_str(), held["buyer"].as_str(), held["shard"].as_u64()),
        (Some("h1"), Some(&*buyer), Some(1))
    );
    let of_buyer = two.run(&["holds", "42", "--buyer", &buyer]).ok();
    assert_eq!(of_buyer.lines().count(), 2, "{of_buyer}");
    assert!(of_buyer.contains("order 1 of shard 1  ref pay-1"), "{of_buyer}");
    let audit = two.run(&["sale", "audit", "42"]).ok();
    assert!(audit.contains("tee: 17 stocked = 16 available + 1 held + 0 sold + 0 in transit"), "{audit}");
}

fn units_are_withdrawn_wherever_they_are(server: Server) {
    let two = Two::start(server);
    two.run(&["sale", "create", "1", "--shards", "4", "--stock", "tee=40"]).ok();
    // Shard 2 sells all that it has: its part must come from elsewhere.
    let (key, mut client) = two.shard("1", 2, 4);
    let buyer = buyers_of(&mut client, 2, 4, 1).remove(0);
    client.ok(&["FLASH.RESERVE", &key, "h1", &buyer, "ITEMS", "tee", "10"]);
    for _ in 0..2 {
        two.run(&["sale", "restock", "1", "tee=-24", "--id", "back"]).ok();
    }
    let show = two.show("1");
    assert_eq!((sum(&show, "tee", "stocked"), sum(&show, "tee", "available"), sum(&show, "tee", "held")), (16, 6, 10));
    let error = two.run(&["sale", "restock", "1", "tee=-8"]).failed();
    assert!(error.contains("withdraw less"), "{error}");
    two.run(&["sale", "audit", "1"]).ok();
    let error = two.run(&["sale", "restock", "1", "cup=-1"]).failed();
    assert!(error.contains("no SKU `cup`"), "{error}");
}

fn closing_collects_what_is_left(server: Server) {
    let two = Two::start(server);
    two.run(&["sale", "create", "1", "--shards", "3", "--stock", "tee=30", "--stock", "mug=1"]).ok();
    let (key, mut client) = two.shard("1", 1, 3);
    let buyer = buyers_of(&mut client, 1, 3, 1).remove(0);
    client.ok(&["FLASH.RESERVE", &key, "h1", &buyer, "ITEMS", "tee", "4"]);
    let text = two.run(&["sale", "close", "1"]).ok();
    assert!(text.contains("tee: 16 units collected") && text.contains("4 units are still held"), "{text}");
    client.ok(&["FLASH.RELEASE", &key, "h1"]);
    two.run(&["sale", "close", "1"]).ok();
    let show = two.show("1");
    assert_eq!(show["state"], "closed");
    let first = &show["shards"][0]["info"]["skus"];
    assert_eq!((first["tee"]["available"].as_u64(), first["mug"]["available"].as_u64()), (Some(30), Some(1)));
    two.run(&["sale", "audit", "1"]).ok();
    let error = two.run(&["sale", "resume", "1"]).failed();
    assert!(error.contains("RESUME failed on 3 of 3 shards"), "{error}");
}

fn a_creation_that_broke_off_is_finished_by_the_same_words(server: Server) {
    let two = Two::start(server);
    let urls = two.urls();
    let create = ["sale", "create", "1", "--shards", "6", "--stock", "tee=60", "--opens", "+1h", "--redis", &urls];
    // The second server writes nothing, so the creation cannot get further than the shards of the first. Then it is
    // killed.
    let mut second = two.servers[1].client();
    second.ok(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut command = Command::new(artifacts::flashsale());
    command.args(create).args(["--timeout", "600"]);
    let mut process = Process::start("flashsale sale create", command, log.path()).expect("it runs");
    let mut client = two.servers[0].client();
    let key = client.ok(&["FLASH.SHARDS", "sale:1", "6"]).at(4).text();
    wait_until("the first server has its shards", PATIENCE, || client.ok(&["EXISTS", &key]).integer() == 1);
    process.kill_9();
    let text = two.run(&["sale", "show", "1"]).ok();
    assert!(text.contains("shard 1") && text.contains("MISSING"), "{text}");
    second.ok(&["CLIENT", "UNPAUSE"]);
    let opens = client.ok(&["FLASH.INFO", &key]).get("opens_at").integer();
    flashsale(&create).ok();
    let show = two.show("1");
    assert_eq!((sum(&show, "tee", "stocked"), sum(&show, "tee", "available")), (60, 60));
    for line in show["shards"].as_array().expect("shards") {
        let info = &line["info"];
        assert_eq!((info["shards"].as_u64(), info["opens_at"].as_i64()), (Some(6), Some(opens)), "{line}");
        assert_eq!(info["skus"]["tee"]["available"].as_u64(), Some(10), "{line}");
    }
    // A shard that is gone is told, and made again with its stock.
    client.ok(&["DEL", &key]);
    let text = two.run(&["sale", "show", "1"]).ok();
    assert!(text.contains("shard 4") && text.contains("MISSING"), "{text}");
    assert!(two.run(&["sale", "audit", "1"]).failed().contains("repeat the `sale create`"));
    flashsale(&create).ok();
    assert_eq!(sum(&two.show("1"), "tee", "available"), 60);
}

fn what_is_left_of_an_earlier_sale_is_refused(server: Server) {
    let two = Two::start(server);
    let create = ["sale", "create", "1", "--shards", "4", "--stock", "tee=40"];
    two.run(&create).ok();
    let shards: Vec<(String, Client)> = (0..4).map(|index| two.shard("1", index, 4)).collect();
    let delete = |index: usize| {
        let (key, mut client) = two.shard("1", index, 4);
        client.ok(&["DEL", &key, &format!("{key}:orders")]);
    };

    // A shard that has sold, without its siblings: from an earlier sale, or buyers were faster than the creation.
    let (key, mut client) = two.shard("1", 1, 4);
    let buyer = buyers_of(&mut client, 1, 4, 1).remove(0);
    client.ok(&["FLASH.ORDER", &key, "o1", &buyer, "ITEMS", "tee", "3"]);
    delete(0);
    delete(2);
    let error = two.run(&create).failed();
    assert!(error.contains(&format!("{key} (shard 1) has sold or holds units")), "{error}");
    assert!(error.contains("2 of 4 shards of `1` are missing") && error.contains("--mend"), "{error}");
    two.run(&[create.as_slice(), &["--mend"]].concat()).ok();
    let show = two.show("1");
    assert_eq!((sum(&show, "tee", "stocked"), sum(&show, "tee", "sold")), (40, 3));

    // Units went from shard 1 to shard 2, which is gone then: a new one would take them once more.
    client.ok(&["FLASH.GRANT", &key, "tee", "2", "TO", "2"]);
    two.run(&["balance", "--once"]).ok();
    delete(2);
    for mend in [[].as_slice(), &["--mend"]] {
        let error = two.run(&[create.as_slice(), mend].concat()).failed();
        assert!(error.contains(&key) && error.contains("has sent units to shard 2"), "{error}");
        assert!(error.contains("delete all shards of `1`"), "{error}");
    }

    // Shards of any other number are found too, also where the first of them is gone.
    delete(0);
    let other = ["sale", "create", "1", "--shards", "6", "--stock", "tee=60"];
    let error = two.run(&other).failed();
    assert!(error.contains("2 shards are left from another sale called `1`"), "{error}");
    for (key, _) in [&shards[1], &shards[3]] {
        assert!(error.contains(&**key), "{error}");
    }
    assert!(error.contains("(shard 3 of 4)") && error.contains("DEL") && error.contains(":orders"), "{error}");
    let error = two.run(&["sale", "create", "1", "--stock", "tee=60"]).failed();
    assert!(error.contains("2 shards are left"), "{error}");
    assert_eq!(two.run(&["sale", "list", "--json"]).json()[0]["missing"].as_u64(), Some(2));
    delete(1);
    delete(3);
    two.run(&other).ok();

    // A whole sale of another number that has no first shard stands in the way, and the doctor names both.
    let (stray, mut client) = two.shard("1", 3, 4);
    client.ok(&["FLASH.CREATE", &stray, "SHARD", "3", "4", "ITEMS", "tee", "1"]);
    let doctor = two.run(&["doctor", "--watch", "0", "--json"]).out;
    assert!(doctor.contains("several sales have this name") && doctor.contains(&format!("{stray} of 4")), "{doctor}");
    let error = two.run(&other).failed();
    assert!(error.contains(&stray), "{error}");
}

fn units_in_transit_are_neither_made_nor_lost(server: Server) {
    let two = Two::start(server);
    two.run(&["sale", "create", "1", "--shards", "2", "--stock", "tee=20"]).ok();
    let (donor, mut client) = two.shard("1", 0, 2);
    let (taker, mut other) = two.shard("1", 1, 2);
    client.ok(&["FLASH.GRANT", &donor, "tee", "3", "TO", "1"]);
    let show = two.show("1");
    assert_eq!((sum(&show, "tee", "available"), sum(&show, "tee", "in_transit")), (17, 3));
    let audit = two.run(&["sale", "audit", "1", "--json"]).json();
    assert_eq!((audit["ok"].as_bool(), audit["skus"][0]["in_transit"].as_u64()), (Some(true), Some(3)));
    // A receiver that was told too much: what an unacknowledged grant lost in a failover would look like.
    other.ok(&["FLASH.ACCEPT", &taker, "tee", "FROM", "0", "TOTAL", "5"]);
    let ran = two.run(&["sale", "audit", "1"]);
    assert!(ran.out.contains("2 units were made"), "{}", ran.out);
    assert!(ran.failed().contains("found differences"));
}

fn a_cluster_takes_four_shards_for_each_primary(server: Server) {
    let mut cluster = Cluster::with_module(server).replicas_each(0).start();
    let url = cluster.primaries()[2].url();
    let run = |words: &[&str]| flashsale(&[words, &["--redis", &url]].concat());
    run(&["sale", "create", "rush", "--shards", "auto", "--stock", "tee=100", "--stock", "mug=5"]).ok();
    run(&["sale", "create", "rush", "--shards", "auto", "--stock", "tee=100", "--stock", "mug=5"]).ok();
    run(&["sale", "create", "plain", "--stock", "tee=1"]).ok();
    let show = run(&["sale", "show", "rush", "--json"]).json();
    assert_eq!((sum(&show, "tee", "stocked"), show["shards"].as_array().map(Vec::len)), (100, Some(12)));
    for node in cluster.primaries() {
        let keys = node.client().ok(&["KEYS", "sale:rush*"]);
        assert_eq!(keys.items().len(), 4, "{keys}");
    }
    run(&["sale", "restock", "rush", "tee=+20", "--id", "a"]).ok();
    let list = run(&["sale", "list", "--json"]).json();
    let names: Vec<_> = list.as_array().expect("a list").iter().map(|line| line["name"].as_str()).collect();
    assert_eq!(names, [Some("plain"), Some("rush")]);
    run(&["sale", "audit", "rush"]).ok();
    run(&["sale", "close", "rush"]).ok();
    let show = run(&["sale", "show", "rush", "--json"]).json();
    assert_eq!(show["shards"][0]["info"]["skus"]["tee"]["available"].as_u64(), Some(120));
    assert_eq!((sum(&show, "tee", "available"), sum(&show, "tee", "in_transit")), (120, 0));
}

fn a_failover_in_the_middle_is_waited_for(server: Server) {
    let mut cluster = Cluster::with_module(server).start();
    let url = cluster.primaries()[1].url();
    let run = |words: &[&str]| flashsale(&[words, &["--redis", &url, "--replicas", "1", "--timeout", "40"]].concat());
    run(&["sale", "create", "1", "--shards", "auto", "--stock", "tee=120"]).ok();
    // What was acknowledged to nobody's knowledge would be lost with the primary.
    let key = cluster.primaries()[0].client().ok(&["FLASH.SHARDS", "sale:1", "12"]).at(0).text();
    let mut client = cluster.primaries()[0].client();
    client.ok(&["FLASH.STOCK", &key, "tee", "0"]);
    assert_eq!(client.ok(&["WAIT", "1", "10000"]).integer(), 1);
    cluster.primaries()[0].kill_9();
    // Four of the twelve shards are nowhere until the replica has taken over.
    run(&["sale", "restock", "1", "tee=+24", "--id", "late"]).ok();
    run(&["sale", "restock", "1", "tee=+24", "--id", "late"]).ok();
    let show = run(&["sale", "show", "1", "--json"]).json();
    assert_eq!((sum(&show, "tee", "stocked"), sum(&show, "tee", "available")), (144, 144));
    let replica = format!("127.0.0.1:{}", cluster.replicas()[0].port());
    assert_eq!(show["shards"][0]["server"].as_str(), Some(&*replica), "{show}");
    run(&["sale", "audit", "1"]).ok();
}

fn the_library_is_operated_by_the_same_commands(server: Server) {
    let redis = RedisServer::builder(server).start();
    let library = std::fs::read(artifacts::project().join("lua/flashsale.lua")).expect("the library");
    redis.client().ok(&[b"FUNCTION".as_slice(), b"LOAD", &library]);
    let url = redis.url();
    let run = |words: &[&str]| flashsale(&[words, &["--redis", &url]].concat());
    let create = ["sale", "create", "1", "--shards", "3", "--stock", "tee=10,2"];
    run(&create).ok();
    run(&create).ok();
    run(&["sale", "restock", "1", "tee=+5", "--id", "a"]).ok();
    run(&["sale", "restock", "1", "tee=-3", "--id", "b"]).ok();
    let show = run(&["sale", "show", "1", "--json"]).json();
    assert_eq!((sum(&show, "tee", "stocked"), sum(&show, "tee", "limit")), (12, 2));
    assert!(run(&["sale", "list"]).ok().contains("open"));
    run(&["sale", "close", "1"]).ok();
    run(&["sale", "audit", "1"]).ok();
    let show = run(&["sale", "show", "1", "--json"]).json();
    assert_eq!(show["shards"][0]["info"]["skus"]["tee"]["available"].as_u64(), Some(12));
}

#[test]
fn mistakes_are_named_and_end_soon() {
    let redis = RedisServer::builder(Server::Redis70).module().start();
    let url = redis.url();
    let run = |words: &[&str]| flashsale(&[words, &["--redis", &url]].concat());
    for (words, word) in [
        (["sale", "show", "none"].as_slice(), "there is no sale `none`"),
        (&["sale", "create", "1", "--stock", "tee"], "SKU=QUANTITY"),
        (&["sale", "create", "1", "--stock", "tee=1", "--hold", "5"], "90s"),
        (&["sale", "create", "1", "--stock", "tee=1", "--opens", "20:00"], "2026-11-27"),
        (&["sale", "create", "a{b}", "--stock", "tee=1"], "no braces"),
        (&["sale", "create", "1", "--stock", "tee=1", "--hold", "2h"], "3600000"),
        (&["sale", "stock", "1", "tee=5"], "SKU=+5"),
        (&["holds", "none"], "there is no sale"),
    ] {
        let error = run(words).failed();
        assert!(error.contains(word), "{words:?}: {error}");
    }
    redis.client().ok(&["SET", "sale:text", "x"]);
    assert!(run(&["sale", "show", "text"]).failed().contains("WRONGTYPE"));
    assert!(flashsale(&["sale", "list"]).failed().contains("--redis"));

    let plain = RedisServer::builder(Server::Redis70).start();
    let error = flashsale(&["sale", "list", "--redis", &plain.url()]).failed();
    assert!(error.contains("neither the module nor the library"), "{error}");
    let nobody = format!("redis://127.0.0.1:{}", flashsale_tests::free_port());
    let error = flashsale(&["sale", "list", "--redis", &nobody]).failed();
    assert!(error.contains(&nobody), "{error}");
    let began = Instant::now();
    plain.client().send(&["DEBUG", "SLEEP", "20"]).expect("sent");
    let error = flashsale(&["sale", "list", "--redis", &plain.url(), "--timeout", "2"]).failed();
    assert!(error.contains(&plain.url()) && began.elapsed() < Duration::from_secs(15), "{error}");
}
