//! The library of Redis Functions sells as the module does, on servers that load no modules.
//!
//! The contract is held against it, case by case, in `conformance.rs`; here stands what only a library has to
//! prove, and [`differential`], which asks it and the module the same.

mod differential;
mod naive;
mod steps;

use flashsale_tests::{AppendFsync, Client, Cluster, RedisServer, RedisServerBuilder, Reply, Server};
use flashsale_tests::{artifacts, on_every_server, wait_until};
use std::time::Duration;

on_every_server!(
    a_whole_sale,
    whatever_is_sent_is_answered_and_refusals_leave_no_trace,
    replicas_and_reloaded_data_are_equal,
    a_replica_may_be_read_and_refuses_writes,
    a_promoted_replica_makes_up_other_ids,
    who_pays_is_served_when_memory_is_full,
    holds_that_fall_due_together_cost_each_command_little,
    a_deleted_sale_leaves_nothing_to_its_successor,
    a_newer_library_goes_on_with_the_sale,
    a_sharded_sale_lives_in_a_cluster,
    wait_after_a_repeat_vouches_for_what_the_first_one_did,
);

const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a server with the library.
#[track_caller]
fn functions_server(builder: RedisServerBuilder) -> RedisServer {
    builder.functions().start()
}

/// `["RESERVE", "sale", ...]` as a call of the library.
fn in_functions(words: &[String]) -> Vec<String> {
    let keys = if ["SHARDS", "ROUTE"].contains(&words[0].as_str()) { "0" } else { "1" };
    let mut call = vec!["FCALL".to_owned(), format!("flash_{}", words[0].to_lowercase()), keys.to_owned()];
    call.extend_from_slice(&words[1..]);
    call
}

/// Calls by a line of words that hold no blanks: `RESERVE sale:1 ...`.
trait Functions {
    fn flash(&mut self, line: &str) -> Reply;
    fn says(&mut self, line: &str) -> String;
}

impl Functions for Client {
    #[track_caller]
    fn flash(&mut self, line: &str) -> Reply {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        self.call(&in_functions(&words))
    }

    #[track_caller]
    fn says(&mut self, line: &str) -> String {
        self.flash(line).to_string()
    }
}

fn sale(server: Server) -> (RedisServer, Client) {
    let redis = functions_server(RedisServer::builder(server));
    let mut client = redis.client();
    assert_eq!(client.says("CREATE sale:1 ITEMS red 10 blue 5"), "OK");
    (redis, client)
}

#[track_caller]
fn assert_audit_is_clean(client: &mut Client, key: &str) {
    let audit = client.flash(&format!("AUDIT {key}"));
    assert_eq!(audit.get("ok").integer(), 1, "{audit}");
}

fn a_whole_sale(server: Server) {
    let (redis, mut client) = sale(server);
    let mut listener = redis.client();
    listener.ok(&["SUBSCRIBE", "sale:1:state"]);
    let hold = client.flash("RESERVE sale:1 h1 ann META gift ITEMS red 2 blue 1");
    assert_eq!(hold.status(), "RESERVED");
    assert_eq!(client.says("RESERVE sale:1 h1 ann ITEMS blue 1 red 2"), hold.to_string());
    assert_eq!(client.says("RESERVE sale:1 h1 bob ITEMS red 2 blue 1"), "[MISMATCH buyer]");
    assert_eq!(client.says("CONFIRM sale:1 h1 REF pay-1"), "[CONFIRMED h1 1]");
    assert_eq!(client.says("ORDER sale:1 h2 bob ITEMS red 8"), "[CONFIRMED h2 2]");
    assert_eq!(listener.receive().expect("news").to_string(), "[message sale:1:state soldout red 1]");
    assert_eq!(client.says("RESERVE sale:1 h3 cas ITEMS red 1"), "[SOLDOUT red]");
    assert_eq!(client.says("RETURN sale:1 h1 r1 ITEMS red 1"), "[RETURNED]");
    assert_eq!(listener.receive().expect("news").to_string(), "[message sale:1:state available red 2]");
    assert_eq!(client.flash("RESERVE sale:1 h3 cas ITEMS red 1").status(), "RESERVED");
    assert_eq!(client.says("RELEASE sale:1 h3"), "[RELEASED]");
    assert_eq!(client.says("CLOSE sale:1"), "OK");
    assert_eq!(client.says("RESERVE sale:1 h4 dan ITEMS red 1"), "[CLOSED]");
    assert_audit_is_clean(&mut client, "sale:1");
    let stream = client.ok(&["XRANGE", "{sale:1}:orders", "-", "+"]);
    let entry = |at: usize| stream.at(at).at(1);
    assert_eq!((stream.items().len(), entry(2).get("type").text()), (3, "returned".to_owned()));
    assert_eq!(entry(0).get("items").text(), "red=2&blue=1");
    let at = entry(0).get("at").text();
    let fields = format!(
        "[type confirmed no 1 hold h1 buyer ann items red=2&blue=1 ref pay-1 meta gift at {at} \
         available red=8&blue=4 held red=0&blue=0 sold red=2&blue=1]"
    );
    assert_eq!((entry(0).to_string(), stream.at(0).at(0).text()), (fields, format!("{at}-1")));
}

fn whatever_is_sent_is_answered_and_refusals_leave_no_trace(server: Server) {
    let (mut redis, mut client) = sale(server);
    let long = "x".repeat(100_000);
    let nasty: [&[u8]; 12] = [
        b"",
        b"\0",
        b"\xff\xfe\0\xc3\x28",
        b"%s%s%n%x",
        b"-1",
        b"0",
        b"-0",
        b"9223372036854775807",
        b"18446744073709551616",
        b"items",
        b"*",
        long.as_bytes(),
    ];
    for call in CALLS {
        let call: Vec<String> = call.split(' ').map(str::to_owned).collect();
        let call = in_functions(&call);
        let words: Vec<&[u8]> = call.iter().map(String::as_bytes).collect();
        for place in 3..words.len() {
            for value in nasty {
                let mut bad = words.clone();
                bad[place] = value;
                let before = client.ok(&["DEBUG", "DIGEST"]).text();
                let reply = client.call(&bad);
                let Reply::Error(line) = &reply else { continue };
                let shown = bad.iter().map(|word| word[..word.len().min(40)].escape_ascii().to_string());
                let shown = shown.collect::<Vec<_>>().join(" ");
                let known = ["ERR", "NOSALE", "WRONGTYPE", "EXISTS"];
                assert!(known.iter().any(|word| line.starts_with(word)), "{shown}: {line}");
                assert!(!line.contains("user_function") && line.len() < 400, "{shown}: {line}");
                assert_eq!(client.ok(&["DEBUG", "DIGEST"]).text(), before, "{shown} changed something");
            }
        }
        assert_audit_is_clean(&mut client, "sale:1");
    }
    for keys in ["0", "2"] {
        let refusal = client.call(&["FCALL", "flash_info", keys, "sale:1", "sale:1"]);
        assert!(refusal.error().starts_with("ERR give exactly one key"), "{refusal}");
    }
    let refusal = client.flash("RESERVE sale:1 hb ann BLOCK 10 ITEMS red 1");
    assert!(refusal.error().starts_with("ERR BLOCK"), "{refusal}");
    assert!(redis.is_alive());
}

/// A call of every function.
const CALLS: [&str; 23] = [
    "CREATE new LIMIT 5 HOLD 1000 MAXHOLD 2000 RETAIN 1000 BACKLOG 10 EVENTS ALL SHARD 0 1 ITEMS red 1",
    "ALTER sale:1 LIMIT 50 HOLD 600000 MAXHOLD 3600000 OPENS 0 CLOSES 0 RETAIN 86400000 EVENTS ORDERS BACKLOG 1000",
    "STOCK sale:1 red 1 ID a1 LIMIT 9",
    "RESERVE sale:1 h3 bob TTL 600000 UPTO REPLACE h1 NOTAFTER 99999999999999 META note ITEMS red 1 blue 2",
    "MRESERVE sale:1 TTL 600000 NOTAFTER 99999999999999 HOLDS m1 ann red 1 m2 bob blue 1",
    "ORDER sale:1 o2 bob REF ref META note ITEMS red 1",
    "CONFIRM sale:1 h3 REF ref LATE ITEMS red 1",
    "RELEASE sale:1 m1 REASON why",
    "EXTEND sale:1 m2 600000",
    "RETURN sale:1 o2 r1 ITEMS red 1",
    "EXPIRE sale:1 COUNT 5",
    "PAUSE sale:1",
    "RESUME sale:1",
    "INFO sale:1",
    "HOLD sale:1 h1",
    "BUYER sale:1 ann",
    "HOLDS sale:1 0 STATE held COUNT 5",
    "AUDIT sale:1",
    "SHARDS sale 3",
    "ROUTE sale 3 ann",
    "GRANT sale:1 red 1 TO 1 AFTER 0",
    "ACCEPT sale:1 red FROM 1 TOTAL 5",
    "THROTTLE limit 15 30 60 1",
];

/// Random commands on one sale, until all kinds of things have happened to it.
fn random_steps(client: &mut Client, seed: u64, count: usize) -> String {
    let mut episode = steps::Episode::new(seed);
    let time = client.ok(&["TIME"]);
    let now_ms = time.at(0).integer() as u64 * 1000;
    client.ok(&in_functions(&episode.create(now_ms)));
    for _ in 0..count {
        let words = episode.step(now_ms);
        // A rate limit goes away by itself.
        if words[0] != "THROTTLE" {
            client.call(&in_functions(&words));
        }
    }
    episode.key
}

fn replicas_and_reloaded_data_are_equal(server: Server) {
    let mut primary = functions_server(RedisServer::builder(server).append_only(AppendFsync::Always));
    let replica = RedisServer::builder(server).replica_of(&primary).start();
    let mut client = primary.client();
    for seed in 0..4 {
        client.ok(&["FLUSHALL"]);
        let key = random_steps(&mut client, seed, 600);
        replica.wait_for_primary(&primary);
        let digest = primary.digest();
        assert_eq!(replica.digest(), digest, "seed {seed}");
        client.ok(&["DEBUG", "RELOAD"]);
        assert_eq!(primary.digest(), digest, "seed {seed}, after a reload of the RDB");
        assert_audit_is_clean(&mut client, &key);
    }
    let digest = primary.digest();
    primary.kill_9();
    primary.restart();
    assert_eq!(primary.digest(), digest, "after a replay of the append-only file");
}

fn a_replica_may_be_read_and_refuses_writes(server: Server) {
    let (primary, mut client) = sale(server);
    let replica = RedisServer::builder(server).replica_of(&primary).start();
    let hold = client.flash("RESERVE sale:1 h1 ann TTL 200 ITEMS red 1");
    replica.wait_for_primary(&primary);
    let digest = replica.digest();
    let mut reader = replica.client();
    let refusal = reader.flash("RESERVE sale:1 h2 ann ITEMS red 1");
    assert!(refusal.error().contains("READONLY") || refusal.error().contains("read only replica"), "{refusal}");
    // What is due is shown as expired, and nothing is written for it.
    wait_until("the replica shows the hold as expired", PATIENCE, || {
        let shown = reader.ok(&["FCALL_RO", "flash_hold", "1", "sale:1", "h1"]);
        assert_eq!(shown.get("deadline").integer(), hold.at(2).integer());
        shown.get("state").text() == "expired"
    });
    let info = reader.ok(&["FCALL_RO", "flash_info", "1", "sale:1"]);
    assert_eq!(info.get("skus").get("red").get("available").integer(), 10, "{info}");
    assert_eq!(replica.digest(), digest);
}

fn a_promoted_replica_makes_up_other_ids(server: Server) {
    let (mut primary, mut client) = sale(server);
    let replica = RedisServer::builder(server).replica_of(&primary).start();
    let first = client.flash("RESERVE sale:1 * ann ITEMS red 1").at(1).text();
    let second = client.flash("RESERVE sale:1 * ann ITEMS red 1").at(1).text();
    replica.wait_for_primary(&primary);
    primary.kill_9();
    let mut client = replica.client();
    client.ok(&["REPLICAOF", "NO", "ONE"]);
    let third = client.flash("RESERVE sale:1 * bob ITEMS red 1").at(1).text();
    let parts = |id: &str| -> (String, u64) {
        let (incarnation, sequence) = id.split_once('-').expect("INC-SEQ");
        assert_eq!(incarnation.len(), 8, "{id}");
        (incarnation.to_owned(), sequence.parse().expect("a number"))
    };
    assert_eq!(parts(&first).0, parts(&second).0);
    assert!(parts(&first).1 < parts(&second).1, "{first} {second}");
    assert_ne!(parts(&second).0, parts(&third).0, "{second} {third}");
}

fn who_pays_is_served_when_memory_is_full(server: Server) {
    let (_redis, mut client) = sale(server);
    assert_eq!(client.flash("RESERVE sale:1 h1 ann ITEMS red 1").status(), "RESERVED");
    assert_eq!(client.flash("RESERVE sale:1 h2 ann ITEMS red 1").status(), "RESERVED");
    client.ok(&["CONFIG", "SET", "maxmemory", "1"]);
    for refused in ["RESERVE sale:1 h3 ann ITEMS red 1", "ORDER sale:1 h3 ann ITEMS red 1", "STOCK sale:1 red 1"] {
        let refusal = client.flash(refused);
        assert!(refusal.error().starts_with("OOM"), "{refused}: {refusal}");
    }
    assert_eq!(client.says("CONFIRM sale:1 h1"), "[CONFIRMED h1 1]");
    assert_eq!(client.says("RELEASE sale:1 h2"), "[RELEASED]");
    assert_eq!(client.flash("INFO sale:1").get("orders").integer(), 1);
    assert_audit_is_clean(&mut client, "sale:1");
}

fn holds_that_fall_due_together_cost_each_command_little(server: Server) {
    const HOLDS: usize = 5_000;
    let redis = functions_server(RedisServer::builder(server));
    let mut client = redis.client();
    client.ok(&in_functions(&["CREATE", "sale:1", "ITEMS", "red", "5000"].map(str::to_owned)));
    let mut deadline_ms = 0;
    for part in 0..HOLDS / 100 {
        let holds = (0..100).map(|at| format!(" h{part}-{at} b{part}-{at} red 1")).collect::<String>();
        let replies = client.flash(&format!("MRESERVE sale:1 TTL 1500 HOLDS{holds}"));
        deadline_ms = replies.at(99).at(2).integer();
    }
    assert_eq!(client.says("RESERVE sale:1 x ann ITEMS red 1").split(' ').next(), Some("[ALLHELD"));
    wait_until("all are due", PATIENCE, || client.ok(&["TIME"]).at(0).integer() * 1000 > deadline_ms + 1000);
    let counters = |client: &mut Client| {
        let info = client.flash("INFO sale:1");
        let red = info.get("skus").get("red").clone();
        [info.get("holds").integer(), red.get("available").integer(), red.get("held").integer()]
    };
    assert_eq!(counters(&mut client), [0, 5000, 0], "due holds are shown as expired before any sweep");
    assert_eq!(client.flash("RESERVE sale:1 x ann ITEMS red 20").status(), "RESERVED");
    let left = client.ok(&["ZCARD", "{sale:1}:due"]).integer();
    assert!((4_900..5_000).contains(&left), "the command ended what it needed and a few more, {left} are left");
    assert_eq!(client.flash("EXPIRE sale:1").integer(), 1000);
    assert_eq!(client.flash("EXPIRE sale:1 COUNT 10000").integer() + 1000, left - 1);
    assert_eq!(counters(&mut client), [1, 4980, 20]);
    assert_audit_is_clean(&mut client, "sale:1");
}

fn a_deleted_sale_leaves_nothing_to_its_successor(server: Server) {
    let (_redis, mut client) = sale(server);
    assert_eq!(client.flash("RESERVE sale:1 h1 ann ITEMS red 10").status(), "RESERVED");
    assert_eq!(client.says("ORDER sale:1 o1 ann ITEMS blue 1"), "[CONFIRMED o1 1]");
    client.ok(&["DEL", "sale:1"]);
    assert!(client.flash("INFO sale:1").error().starts_with("NOSALE"));
    assert_eq!(client.says("CREATE sale:1 ITEMS red 3"), "OK");
    assert_eq!(client.says("HOLD sale:1 h1"), "nil");
    assert_eq!(client.says("BUYER sale:1 ann").matches(" 0").count(), 3);
    assert_eq!(client.flash("RESERVE sale:1 h1 bob ITEMS red 3").status(), "RESERVED");
    assert_audit_is_clean(&mut client, "sale:1");
    // All keys lie in the slot of the sale.
    let keys = client.ok(&["KEYS", "*"]);
    let others = keys.items().iter().map(|key| key.text()).filter(|key| key != "sale:1");
    assert!(others.clone().count() > 5 && others.clone().all(|key| key.starts_with("{sale:1}:")), "{keys}");
}

fn a_newer_library_goes_on_with_the_sale(server: Server) {
    let (_redis, mut client) = sale(server);
    assert_eq!(client.says("ORDER sale:1 o1 ann ITEMS blue 1"), "[CONFIRMED o1 1]");
    let version = client.ok(&["FCALL_RO", "flash_version", "0"]).text();
    let text = String::from_utf8(artifacts::library()).expect("the library is UTF-8");
    let line = text.lines().find(|line| line.starts_with("local VERSION")).expect("a version");
    assert_eq!(version.split(' ').next(), line.split('\'').nth(1), "{version}");
    client.ok(&[b"FUNCTION".as_slice(), b"LOAD", b"REPLACE", &artifacts::library()]);
    assert_eq!(client.says("ORDER sale:1 o2 ann ITEMS blue 1"), "[CONFIRMED o2 2]");
    assert_audit_is_clean(&mut client, "sale:1");
}

fn a_sharded_sale_lives_in_a_cluster(server: Server) {
    let mut cluster = Cluster::builder(server).replicas_each(0).start();
    for node in cluster.primaries() {
        node.client().ok(&[b"FUNCTION".as_slice(), b"LOAD", &artifacts::library()]);
    }
    let keys = cluster.primaries()[0].client().flash("SHARDS sale 3");
    let keys: Vec<String> = keys.items().iter().map(|key| key.text()).collect();
    let mut nodes: Vec<Client> = keys.iter().map(|key| cluster.client_for(key)).collect();
    for (index, (key, node)) in keys.iter().zip(&mut nodes).enumerate() {
        assert_eq!(node.says(&format!("CREATE {key} SHARD {index} 3 ITEMS red {}", 2 * index)), "OK");
    }
    // Ann's shard has nothing: it is given what another one has.
    let home = keys.iter().position(|key| *key == nodes[0].says("ROUTE sale 3 ann")).expect("one of the shards");
    let donor = if home == 2 { 1 } else { 2 };
    let (key, other) = (&keys[home], &keys[donor]);
    let mut listener = cluster.client_for(key);
    listener.ok(&["SSUBSCRIBE", &format!("{key}:state")]);
    assert_eq!(nodes[donor].says(&format!("RESERVE {other} h1 ann ITEMS red 1")), format!("[WRONGSHARD {key}]"));
    nodes[home].says(&format!("STOCK {key} red {}", -2 * home as i64));
    assert_eq!(listener.receive().expect("news").items()[2].text().split(' ').next(), Some("soldout"));
    assert_eq!(nodes[home].says(&format!("RESERVE {key} h1 ann ITEMS red 1")), "[EMPTY red]");
    assert_eq!(nodes[donor].flash(&format!("GRANT {other} red 1 TO {home} AFTER 0")).at(1).integer(), 1);
    assert_eq!(nodes[home].says(&format!("ACCEPT {key} red FROM {donor} TOTAL 1")), "[ACCEPTED 1 1]");
    assert_eq!(listener.receive().expect("news").items()[2].text().split(' ').next(), Some("available"));
    assert_eq!(nodes[home].says(&format!("ORDER {key} h1 ann ITEMS red 1")), "[CONFIRMED h1 1]");
    for (key, node) in keys.iter().zip(&mut nodes) {
        assert_audit_is_clean(node, key);
    }
}

fn wait_after_a_repeat_vouches_for_what_the_first_one_did(server: Server) {
    let redis = functions_server(RedisServer::builder(server));
    crate::durability::repeats_are_vouched_for(&redis, RedisServer::builder(server), in_functions);
}
