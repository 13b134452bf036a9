//! A sale whose key has a TTL, is deleted or is evicted is gone, everywhere at once, and takes nothing along.

use std::time::Duration;

use flashsale_tests::sale::assert_audit_is_clean;
use flashsale_tests::{AppendFsync, Client, RedisServer, Server, on_every_server, wait_until};

use crate::expiry::now_ms;

on_every_server!(
    a_key_with_a_ttl_ends_on_replicas_and_in_logs,
    a_ttl_survives_steps_and_reloads,
    a_deleted_key_answers_those_who_wait,
    an_evicted_sale_is_gone_and_can_be_made_again,
    scripts_and_transactions_see_one_moment,
);

const PATIENCE: Duration = Duration::from_secs(20);

fn sale(client: &mut Client, key: &str) {
    client.ok(&["FLASH.CREATE", key, "EVENTS", "ALL", "ITEMS", "red", "10"]);
    client.ok(&["FLASH.RESERVE", key, "h1", "ann", "TTL", "200", "ITEMS", "red", "3"]);
    client.ok(&["FLASH.RESERVE", key, "h2", "bob", "TTL", "60000", "ITEMS", "red", "3"]);
}

fn a_key_with_a_ttl_ends_on_replicas_and_in_logs(server: Server) {
    let mut primary = RedisServer::builder(server).module().append_only(AppendFsync::Always).start();
    let replica = RedisServer::builder(server).module().replica_of(&primary).start();
    let mut client = primary.client();
    sale(&mut client, "sale:1");
    client.ok(&["PEXPIRE", "sale:1", "2000"]);
    client.ok(&["FLASH.CONFIRM", "sale:1", "h2"]);
    replica.wait_for_primary(&primary);
    let ends_ms = client.line("PEXPIRETIME sale:1").integer();
    assert_eq!(replica.client().line("PEXPIRETIME sale:1").integer(), ends_ms);
    wait_until("the key's time is over", PATIENCE, || now_ms(&mut client) > ends_ms);
    // Gone for every command at once, also where the primary's word has not come yet.
    assert!(replica.client().line("FLASH.INFO sale:1").error().starts_with("NOSALE"));
    for command in ["FLASH.INFO sale:1", "FLASH.RELEASE sale:1 h1", "FLASH.RESERVE sale:1 h3 cas ITEMS red 1"] {
        assert!(client.line(command).error().starts_with("NOSALE"), "{command}");
    }
    sale(&mut client, "sale:1");
    replica.wait_for_primary(&primary);
    wait_until("the replica is equal", PATIENCE, || {
        replica.wait_for_primary(&primary);
        replica.digest() == primary.digest()
    });
    client.ok(&["FLASH.RELEASE", "sale:1", "h2"]);
    wait_until("all holds are ended", PATIENCE, || primary.info("flashsale_holds").as_deref() == Some("0"));
    let digest = primary.digest();
    client.ok(&["DEBUG", "LOADAOF"]);
    assert_eq!(primary.digest(), digest);
    primary.kill_9();
    primary.restart();
    assert_eq!(primary.digest(), digest);
    assert_audit_is_clean(&mut primary.client(), "sale:1");
}

fn a_ttl_survives_steps_and_reloads(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    sale(&mut client, "sale:1");
    client.ok(&["PEXPIRE", "sale:1", "90000"]);
    let ends_at = client.line("PEXPIRETIME sale:1");
    client.ok(&["FLASH.RELEASE", "sale:1", "h2"]);
    client.ok(&["FLASH.STOCK", "sale:1", "red", "5"]);
    client.ok(&["DEBUG", "RELOAD"]);
    client.ok(&["RENAME", "sale:1", "sale:2"]);
    assert_eq!(client.line("PEXPIRETIME sale:2"), ends_at);
}

fn a_deleted_key_answers_those_who_wait(server: Server) {
    let mut redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    for end in ["DEL sale:1", "UNLINK sale:1", "FLUSHALL", "SET sale:1 text", "PEXPIRE sale:1 1"] {
        client.ok(&["FLUSHALL"]);
        client.ok(&["FLASH.CREATE", "sale:1", "ITEMS", "red", "1"]);
        client.ok(&["FLASH.RESERVE", "sale:1", "h1", "ann", "ITEMS", "red", "1"]);
        let mut waiting = redis.client();
        waiting.send(&["FLASH.RESERVE", "sale:1", "h2", "bob", "BLOCK", "700", "ITEMS", "red", "1"]).expect("sent");
        wait_until("one waits", PATIENCE, || redis.info("blocked_clients").as_deref() == Some("1"));
        client.ok(&end.split(' ').collect::<Vec<_>>());
        let answer = waiting.receive().expect("an answer");
        assert!(answer.is_error(), "after {end}: {answer}");
    }
    assert!(redis.is_alive());
}

fn an_evicted_sale_is_gone_and_can_be_made_again(server: Server) {
    let mut redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    for round in 0..3 {
        sale(&mut client, "sale:1");
        client.ok(&["FLASH.THROTTLE", "rate", "9", "1", "1000"]);
        client.ok(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random", "maxmemory", "1"]);
        wait_until("all is evicted", PATIENCE, || {
            client.call(&["SET", "text", "1"]);
            client.line("DBSIZE").integer() == 0
        });
        assert!(client.line("FLASH.INFO sale:1").error().starts_with("NOSALE"), "round {round}");
        client.ok(&["CONFIG", "SET", "maxmemory", "0"]);
    }
    wait_until("nothing is left", PATIENCE, || {
        redis.info("flashsale_sales").as_deref() == Some("0")
            && redis.info("flashsale_rate_keys").as_deref() == Some("0")
    });
    assert!(redis.is_alive());
}

/// In a script and in a transaction a sale is deleted, made and used again without anything of the old one.
fn scripts_and_transactions_see_one_moment(server: Server) {
    let primary = RedisServer::builder(server).module().append_only(AppendFsync::Always).start();
    let replica = RedisServer::builder(server).module().replica_of(&primary).start();
    let mut client = primary.client();
    sale(&mut client, "sale:1");
    let script = "redis.call('DEL', KEYS[1])
        redis.call('FLASH.CREATE', KEYS[1], 'ITEMS', 'red', '3')
        local first = redis.call('FLASH.RESERVE', KEYS[1], 'h1', 'eve', 'BLOCK', '0', 'ITEMS', 'red', '3')
        local second = redis.call('FLASH.RESERVE', KEYS[1], 'h9', 'eve', 'BLOCK', '0', 'ITEMS', 'red', '1')
        redis.call('RENAME', KEYS[1], KEYS[2])
        redis.call('COPY', KEYS[2], KEYS[1])
        redis.call('FLASH.CONFIRM', KEYS[1], 'h1')
        local wrong = redis.pcall('FLASH.CONFIRM', KEYS[1])
        return {first[1], second[1], wrong['err'], redis.call('FLASH.THROTTLE', KEYS[3], 9, 1, 100)}";
    let reply = client.ok(&["EVAL", script, "3", "sale:1", "sale:2", "rate"]);
    assert_eq!((reply.at(0).text(), reply.at(1).text()), ("RESERVED".into(), "ALLHELD".into()));
    assert!(reply.at(2).text().to_lowercase().contains("wrong number of arg"), "{reply}");
    client.ok(&["MULTI"]);
    for step in
        ["DEL sale:2", "FLASH.CREATE sale:2 ITEMS red 1", "FLASH.ORDER sale:2 o1 ann ITEMS red 1", "MOVE sale:2 3"]
    {
        client.ok(&step.split(' ').collect::<Vec<_>>());
    }
    assert!(!client.ok(&["EXEC"]).to_string().contains("error"));
    replica.wait_for_primary(&primary);
    let digest = primary.digest();
    assert_eq!(replica.digest(), digest);
    client.ok(&["DEBUG", "LOADAOF"]);
    assert_eq!(primary.digest(), digest);
    assert_audit_is_clean(&mut client, "sale:1");
}
