//! A bug in a rule answers an error, and the server, its keys and its replicas live on unharmed. The module under
//! test has faults on demand: `make test` builds it beside the real one.

use std::time::Duration;

use flashsale_tests::sale::{assert_audit_is_clean, stock};
use flashsale_tests::{AppendFsync, Client, RedisServer, Server, artifacts, on_every_server, wait_until};

on_every_server!(a_bug_stops_a_command_and_nothing_else, replicas_and_logs_stay_equal, a_bug_in_a_waiting_request);

const PATIENCE: Duration = Duration::from_secs(20);
const FAULT: &str = "panic-in-decide";

fn load(redis: &RedisServer) -> Client {
    let mut client = redis.client();
    client.ok(&["MODULE", "LOAD", artifacts::faulty_module().to_str().expect("a path in UTF-8")]);
    client
}

#[track_caller]
fn assert_is_bug(reply: &flashsale_tests::Reply) {
    assert!(reply.to_string().contains("a bug in the flashsale module stopped the command"), "{reply}");
}

fn a_bug_stops_a_command_and_nothing_else(server: Server) {
    let mut redis = RedisServer::builder(server).start();
    let mut client = load(&redis);
    client.ok(&["FLASH.CREATE", "sale:1", "ITEMS", "red", "10"]);
    client.ok(&["FLASH.RESERVE", "sale:1", "h1", "ann", "ITEMS", "red", "3"]);
    let digest = redis.digest();
    let faults = [
        "FLASH.RESERVE sale:1 panic-in-decide ann ITEMS red 1",
        "FLASH.ORDER sale:1 panic-in-decide ann ITEMS red 1",
        "FLASH.CONFIRM sale:1 panic-in-decide",
        "FLASH.RELEASE sale:1 panic-in-decide",
        "FLASH.EXTEND sale:1 panic-in-decide 1000",
        "FLASH.RETURN sale:1 panic-in-decide r1",
    ];
    for fault in faults {
        assert_is_bug(&client.line(fault));
        assert_eq!(redis.digest(), digest, "{fault}");
    }
    assert_eq!(redis.info("flashsale_bugs_caught"), Some(faults.len().to_string()));
    assert!(redis.log().contains("a fault was injected"), "the log says where:\n{}", redis.log());
    // In the middle of many, in a transaction and in a script.
    let line = format!("FLASH.MRESERVE sale:1 HOLDS m1 bob red 1 {FAULT} bob red 1 m2 bob red 1");
    let many = client.line(&line);
    assert_eq!(
        (many.items().len(), many.at(0).status(), many.at(2).status()),
        (3, "RESERVED".into(), "RESERVED".into())
    );
    assert_is_bug(many.at(1));
    client.ok(&["MULTI"]);
    client.ok(&["FLASH.RESERVE", "sale:1", "h2", "cas", "ITEMS", "red", "1"]);
    client.ok(&["FLASH.RESERVE", "sale:1", FAULT, "cas", "ITEMS", "red", "1"]);
    client.ok(&["FLASH.CONFIRM", "sale:1", "h2"]);
    assert_is_bug(client.ok(&["EXEC"]).at(1));
    let script = format!("return redis.pcall('FLASH.RELEASE', KEYS[1], '{FAULT}')['err']");
    assert_is_bug(&client.ok(&["EVAL", &script, "1", "sale:1"]));
    assert_eq!(client.line("PING").text(), "PONG");
    assert_audit_is_clean(&mut client, "sale:1");
    let stock = stock(&mut client, "sale:1", "red");
    assert_eq!((stock.available, stock.held, stock.sold), (4, 5, 1));
    assert!(redis.is_alive());
}

fn replicas_and_logs_stay_equal(server: Server) {
    let mut primary = RedisServer::builder(server).append_only(AppendFsync::Always).start();
    let replica = RedisServer::builder(server).start();
    let mut client = load(&primary);
    load(&replica).ok(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    // Due holds are ended on the way to the bug: that much is done, and must be known everywhere.
    client.ok(&["CONFIG", "SET", "flashsale.sweep-interval-ms", "10000"]);
    std::thread::sleep(Duration::from_millis(100));
    client.ok(&["FLASH.CREATE", "sale:1", "EVENTS", "ALL", "ITEMS", "red", "10"]);
    client.ok(&["FLASH.RESERVE", "sale:1", "h1", "ann", "TTL", "50", "ITEMS", "red", "3"]);
    std::thread::sleep(Duration::from_millis(120));
    assert_is_bug(&client.line("FLASH.RESERVE sale:1 panic-in-decide bob ITEMS red 10"));
    assert_eq!(primary.info("flashsale_holds").as_deref(), Some("0"), "the due hold was ended");
    replica.wait_for_primary(&primary);
    let digest = primary.digest();
    assert_eq!(replica.digest(), digest);
    client.ok(&["DEBUG", "LOADAOF"]);
    assert_eq!(primary.digest(), digest);
    assert_audit_is_clean(&mut client, "sale:1");
    assert!(primary.is_alive());
}

fn a_bug_in_a_waiting_request(server: Server) {
    let mut redis = RedisServer::builder(server).start();
    let mut client = load(&redis);
    client.ok(&["FLASH.CREATE", "sale:1", "ITEMS", "red", "1"]);
    client.ok(&["FLASH.RESERVE", "sale:1", "h1", "ann", "ITEMS", "red", "1"]);
    let mut waiting = redis.client();
    waiting.send(&["FLASH.RESERVE", "sale:1", "h2", "bob", "BLOCK", "10000", "ITEMS", "red", "1"]).expect("sent");
    wait_until("one waits", PATIENCE, || redis.info("blocked_clients").as_deref() == Some("1"));
    assert_is_bug(&client.line("FLASH.RELEASE sale:1 panic-in-decide"));
    client.ok(&["FLASH.RELEASE", "sale:1", "h1"]);
    assert_eq!(waiting.receive().expect("an answer").status(), "RESERVED");
    assert_audit_is_clean(&mut client, "sale:1");
    assert!(redis.is_alive());
}
