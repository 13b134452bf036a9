//! FLASH.THROTTLE limits as CL.THROTTLE does, and its keys live, travel and end like keys of the server.

use std::time::Duration;

use flashsale_tests::{AppendFsync, Client, RedisServer, Reply, Server, on_every_server, wait_until};

on_every_server!(
    answers_as_cl_throttle_does,
    a_look_leaves_nothing_behind,
    wrong_words_are_refused,
    keys_of_another_type_are_refused,
    the_key_goes_away_when_the_bucket_is_full,
    extreme_rates_do_not_overflow,
    a_replica_an_aof_and_an_rdb_hold_the_same_limit,
    a_limit_is_a_key_like_any_other,
    refusals_wake_nobody,
);

const PATIENCE: Duration = Duration::from_secs(20);

fn start(server: Server) -> (RedisServer, Client) {
    let redis = RedisServer::builder(server).module().start();
    let client = redis.client();
    (redis, client)
}

#[track_caller]
fn throttle(client: &mut Client, line: &str) -> Vec<i64> {
    client.line(&format!("FLASH.THROTTLE {line}")).items().iter().map(Reply::integer).collect()
}

fn answers_as_cl_throttle_does(server: Server) {
    let (_redis, mut client) = start(server);
    // A period so long that the test takes no time of it.
    assert_eq!(throttle(&mut client, "user 4 1 100 6"), [1, 5, 5, -1, 0]);
    for taken in 1..=5 {
        let answer = throttle(&mut client, "user 4 1 100");
        assert_eq!(answer[..4], [0, 5, 5 - taken, -1]);
        assert!((taken * 100 - 5..=taken * 100).contains(&answer[4]), "{answer:?}");
    }
    let refused = throttle(&mut client, "user 4 1 100");
    assert_eq!(refused[..3], [1, 5, 0]);
    assert!((95..=100).contains(&refused[3]) && (495..=500).contains(&refused[4]), "{refused:?}");
    assert_eq!(throttle(&mut client, "other 15 30 60"), [0, 16, 15, -1, 2]);
}

fn a_look_leaves_nothing_behind(server: Server) {
    let (_redis, mut client) = start(server);
    assert_eq!(throttle(&mut client, "user 4 1 100 0"), [0, 5, 5, -1, 0]);
    assert_eq!(client.line("EXISTS user").integer(), 0);
    throttle(&mut client, "user 4 1 100 3");
    let digest = client.line("DEBUG DIGEST");
    assert_eq!(throttle(&mut client, "user 4 1 100 0")[..4], [0, 5, 2, -1]);
    assert_eq!(throttle(&mut client, "user 4 1 100 4")[..3], [1, 5, 2]);
    assert_eq!(client.line("DEBUG DIGEST"), digest);
}

fn wrong_words_are_refused(server: Server) {
    let (_redis, mut client) = start(server);
    for (line, told) in [
        ("user 1 1", "wrong number of arguments"),
        ("user 1 1 1 1 1", "wrong number of arguments"),
        ("user -1 1 1", "burst '-1' is not an integer in 0..4294967295"),
        ("user 1 0 1", "count '0' is not an integer in 1..4294967296"),
        ("user 1 1 0", "period '0' is not an integer in 1..2147483648"),
        ("user 1 1 1 -1", "quantity '-1' is not an integer in 0..4294967296"),
        ("user 1 1 1.5", "period '1.5' is not an integer"),
        ("user 99999999999999999999 1 1", "burst '99999999999999999999' is not an integer"),
        ("user 4294967295 1 2147483648", "thousands of years"),
    ] {
        let refusal = client.line(&format!("FLASH.THROTTLE {line}"));
        assert!(refusal.error().contains(told), "{line}: {refusal}");
    }
    assert_eq!(client.line("DBSIZE").integer(), 0);
    let refusal = client.line("FLASH._RATE user 1");
    assert!(refusal.error().contains("sent by primaries"), "{refusal}");
}

fn keys_of_another_type_are_refused(server: Server) {
    let (_redis, mut client) = start(server);
    client.ok(&["SET", "text", "1"]);
    client.ok(&["FLASH.CREATE", "sale:1"]);
    throttle(&mut client, "rate 1 1 100");
    assert_eq!(client.line("TYPE rate").text(), "flashrate");
    for wrong in ["FLASH.THROTTLE text 1 1 1", "FLASH.THROTTLE sale:1 1 1 1", "FLASH.INFO rate", "FLASH.CREATE rate"] {
        let refusal = client.line(wrong);
        assert!(refusal.error().starts_with("WRONGTYPE"), "{wrong}: {refusal}");
    }
}

fn the_key_goes_away_when_the_bucket_is_full(server: Server) {
    let (_redis, mut client) = start(server);
    throttle(&mut client, "user 9 10 1 5");
    let life_ms = client.line("PTTL user").integer();
    assert!((1..=500).contains(&life_ms), "{life_ms}");
    throttle(&mut client, "user 9 10 1 2");
    let life_ms = client.line("PTTL user").integer();
    assert!((1..=700).contains(&life_ms), "{life_ms}");
    wait_until("the key is gone", PATIENCE, || client.line("DBSIZE").integer() == 0);
    assert_eq!(throttle(&mut client, "user 9 10 1 10")[..4], [0, 10, 0, -1]);
}

fn extreme_rates_do_not_overflow(server: Server) {
    let (_redis, mut client) = start(server);
    let rate = 1_u64 << 31;
    let answer = throttle(&mut client, &format!("fast {} {rate} 1 {rate}", rate - 1));
    assert_eq!(answer, [0, rate as i64, 0, -1, 1]);
    assert_eq!(throttle(&mut client, &format!("fast {} {rate} 1 {rate}", rate - 1))[0], 1);
    let month = 30 * 86_400;
    assert_eq!(throttle(&mut client, &format!("slow 0 1 {month}")), [0, 1, 0, -1, month]);
    let refused = throttle(&mut client, &format!("slow 0 1 {month}"));
    assert!(refused[0] == 1 && (month - 5..=month).contains(&refused[3]), "{refused:?}");
    // 68 years: the longest period.
    assert_eq!(throttle(&mut client, "slowest 0 1 2147483648")[4], 2_147_483_648);
    assert_eq!(throttle(&mut client, "most 4294967295 4294967296 1 4294967296")[..3], [0, 4_294_967_296, 0]);
}

fn a_replica_an_aof_and_an_rdb_hold_the_same_limit(server: Server) {
    let mut primary = RedisServer::builder(server).module().append_only(AppendFsync::Always).start();
    let replica = RedisServer::builder(server).module().replica_of(&primary).start();
    let mut client = primary.client();
    for user in 0..50 {
        throttle(&mut client, &format!("user:{user} 99 7 1000 {}", user % 9 + 1));
        throttle(&mut client, &format!("user:{user} 99 7 1000 2"));
    }
    let refused = throttle(&mut client, "user:1 99 7 1000 99");
    assert_eq!(refused[0], 1);
    client.ok(&["MULTI"]);
    client.ok(&["FLASH.THROTTLE", "in-multi", "9", "1", "100"]);
    client.ok(&["EXEC"]);
    let in_script = client.ok(&["EVAL", "return redis.call('FLASH.THROTTLE', KEYS[1], 9, 1, 100)", "1", "in-script"]);
    assert_eq!(in_script.at(2).integer(), 9);
    replica.wait_for_primary(&primary);
    let digest = primary.digest();
    assert_eq!(replica.digest(), digest);
    let expiry = |client: &mut Client| client.line("PEXPIRETIME user:7").integer();
    let full_at = expiry(&mut client);
    assert!(full_at > 0);
    assert_eq!(expiry(&mut replica.client()), full_at);

    // From the commands in the append-only file, from one that was rewritten with commands, and from an RDB.
    primary.kill_9();
    primary.restart();
    assert_eq!(primary.digest(), digest);
    let mut client = primary.client();
    client.ok(&["CONFIG", "SET", "aof-use-rdb-preamble", "no"]);
    client.ok(&["BGREWRITEAOF"]);
    wait_until("the file is rewritten", PATIENCE, || {
        primary.info("aof_rewrite_in_progress").as_deref() == Some("0")
            && primary.info("aof_rewrite_scheduled").as_deref() == Some("0")
    });
    client.ok(&["DEBUG", "LOADAOF"]);
    assert_eq!(primary.digest(), digest);
    assert_eq!(expiry(&mut client), full_at);
    client.ok(&["DEBUG", "RELOAD"]);
    assert_eq!(primary.digest(), digest);
    assert_eq!(expiry(&mut client), full_at);
}

fn a_limit_is_a_key_like_any_other(server: Server) {
    let (mut redis, mut client) = start(server);
    throttle(&mut client, "user 99 1 1000 40");
    let life_ms = client.line("PTTL user").integer();
    assert_eq!(client.line("COPY user copy").integer(), 1);
    assert_eq!(client.line("RENAME copy renamed").text(), "OK");
    assert_eq!(throttle(&mut client, "renamed 99 1 1000 0")[2], 60);
    assert!(client.line("PTTL renamed").integer() > life_ms - 10_000);
    let Reply::Bytes(dump) = client.ok(&["DUMP", "user"]) else { panic!("DUMP gives bytes") };
    client.ok(&[b"RESTORE".as_slice(), b"restored", b"0", &dump]);
    assert_eq!(throttle(&mut client, "restored 99 1 1000 10")[2], 50);
    assert!(client.line("PTTL restored").integer() > 0, "it goes away when the bucket is full, as ever");
    let usage = client.ok(&["MEMORY", "USAGE", "renamed"]).integer();
    assert!((16..400).contains(&usage), "{usage}");
    client.ok(&["FLUSHALL", "ASYNC"]);
    assert_eq!(throttle(&mut client, "user 99 1 1000 1")[2], 99);
    // Damage is refused: the instant's 16 bytes stand at the end of the payload.
    for at in 0..dump.len() {
        let mut damaged = dump.clone();
        damaged[at] ^= 0x55;
        assert!(client.call(&[b"RESTORE".as_slice(), b"damaged", b"0", &damaged]).is_error());
    }
    assert!(redis.is_alive());
}

fn refusals_wake_nobody(server: Server) {
    let (redis, mut client) = start(server);
    throttle(&mut client, "user 0 1 1000");
    let mut other = redis.client();
    client.ok(&["WATCH", "user"]);
    assert_eq!(throttle(&mut other, "user 0 1 1000")[0], 1);
    assert_eq!(throttle(&mut other, "user 0 1 1000 0")[0], 0);
    client.ok(&["MULTI"]);
    client.ok(&["PING"]);
    assert_eq!(client.ok(&["EXEC"]).to_string(), "[PONG]");
    client.ok(&["WATCH", "user"]);
    assert_eq!(throttle(&mut other, "user 9 1 1000")[0], 0);
    client.ok(&["MULTI"]);
    client.ok(&["PING"]);
    assert_eq!(client.call(&["EXEC"]), Reply::Nil);
}
