//! What was acknowledged is still there after a crash, and after every way of writing the data down.

use std::collections::BTreeMap;
use std::time::Duration;

use flashsale_tests::rush::{Rush, Tally};
use flashsale_tests::sale::{assert_audit_is_clean, confirmed_orders, stock};
use flashsale_tests::{AppendFsync, Client, RedisServer, RedisServerBuilder, Server, on_every_server, wait_until};

on_every_server!(
    kill_9_in_mid_rush_loses_no_acknowledged_order,
    a_rewritten_append_only_file_is_the_same_sale,
    an_append_only_file_without_preamble_is_the_same_sale,
    an_rdb_file_is_the_same_sale,
    dump_and_restore_is_the_same_sale,
    holds_that_fell_due_while_the_server_was_down_are_expired,
    wait_after_a_repeat_vouches_for_what_the_first_one_did,
);

const PATIENCE: Duration = Duration::from_secs(30);

fn create(client: &mut Client) {
    client.ok(&["FLASH.CREATE", "sale:1", "LIMIT", "50", "ITEMS", "red", "2000", "green", "900", "blue", "30"]);
}

fn rush(seed: u64) -> Rush {
    let mut rush = Rush::new("sale:1", &["red", "green", "blue"]);
    rush.seed = seed;
    rush.buyers = 200;
    rush
}

/// Every order that a client was told of stands in the stream with its number, and is sold.
#[track_caller]
fn assert_keeps_its_word(client: &mut Client, tally: &Tally) {
    assert_audit_is_clean(client, "sale:1");
    let orders = confirmed_orders(client, "sale:1");
    let lost: BTreeMap<_, _> = tally.confirmed.iter().filter(|(id, number)| orders.get(*id) != Some(*number)).collect();
    assert!(lost.is_empty(), "acknowledged, and lost: {lost:?}");
    for (id, number) in tally.confirmed.iter().take(50) {
        let again = client.ok(&["FLASH.CONFIRM", "sale:1", id]);
        assert_eq!(again.to_string(), format!("[CONFIRMED {id} {number}]"));
    }
}

/// Lets every hold with a short life run out, so that time changes nothing any more.
#[track_caller]
fn settle(client: &mut Client) {
    wait_until("short holds have expired", PATIENCE, || {
        client.ok(&["FLASH.EXPIRE", "sale:1"]);
        let info = client.ok(&["FLASH.INFO", "sale:1"]);
        let now_ms = client.ok(&["TIME"]).at(0).integer() * 1000;
        let next = info.get("next_deadline");
        *next == flashsale_tests::Reply::Nil || next.integer() <= 0 || next.integer() > now_ms + 30_000
    });
}

fn kill_9_in_mid_rush_loses_no_acknowledged_order(server: Server) {
    let mut redis = RedisServer::builder(server).module().append_only(AppendFsync::Always).start();
    create(&mut redis.client());
    let mut told = Tally::default();
    for seed in 1..=3 {
        let mut crowd = rush(seed);
        // More than can be done before the kill.
        crowd.steps = 100_000;
        let port = redis.port();
        let sold_before = sold_orders(&mut redis.client());
        let tally = std::thread::scope(|scope| {
            let crowd = scope.spawn(|| crowd.run(port));
            let mut client = redis.client();
            wait_until("the rush has sold a good deal", PATIENCE, || sold_orders(&mut client) > sold_before + 100);
            redis.kill_9();
            crowd.join().expect("the crowd only loses its server")
        });
        assert_eq!(tally.cut_off, 4, "the rush was over before the kill");
        told.add(tally);
        redis.restart();
        assert_keeps_its_word(&mut redis.client(), &told);
    }
}

fn sold_orders(client: &mut Client) -> i64 {
    client.ok(&["FLASH.INFO", "sale:1"]).get("orders").integer()
}

fn a_rewritten_append_only_file_is_the_same_sale(server: Server) {
    rewrite_and_reload(server, "yes");
}

fn an_append_only_file_without_preamble_is_the_same_sale(server: Server) {
    rewrite_and_reload(server, "no");
}

/// Rewrites the AOF in mid-rush, as RDB preamble or as commands, and loads it again.
fn rewrite_and_reload(server: Server, rdb_preamble: &str) {
    let mut redis = RedisServer::builder(server)
        .module()
        .append_only(AppendFsync::Always)
        .set("aof-use-rdb-preamble", rdb_preamble)
        .start();
    let mut client = redis.client();
    create(&mut client);
    let mut told = rush(1).run(redis.port());
    std::thread::scope(|scope| {
        let crowd = scope.spawn(|| rush(2).run(redis.port()));
        client.ok(&["BGREWRITEAOF"]);
        told.add(crowd.join().expect("the rush ends well"));
    });
    wait_until("the rewrite is done", PATIENCE, || {
        redis.info("aof_rewrite_in_progress").as_deref() == Some("0")
            && redis.info("aof_rewrite_scheduled").as_deref() == Some("0")
    });
    assert_eq!(redis.info("aof_last_bgrewrite_status").as_deref(), Some("ok"), "{}", redis.log());
    settle(&mut client);
    let digest = redis.digest();
    redis.kill_9();
    redis.restart();
    assert_eq!(redis.digest(), digest);
    assert_keeps_its_word(&mut redis.client(), &told);
}

fn an_rdb_file_is_the_same_sale(server: Server) {
    let mut redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    create(&mut client);
    let told = rush(1).run(redis.port());
    settle(&mut client);
    let digest = redis.digest();
    client.ok(&["DEBUG", "RELOAD"]);
    assert_eq!(redis.digest(), digest, "after DEBUG RELOAD");
    client.ok(&["SAVE"]);
    redis.kill_9();
    redis.restart();
    assert_eq!(redis.digest(), digest, "after a restart");
    assert_keeps_its_word(&mut redis.client(), &told);
}

fn dump_and_restore_is_the_same_sale(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    create(&mut client);
    rush(1).run(redis.port());
    settle(&mut client);
    let original = client.ok(&["DEBUG", "DIGEST-VALUE", "sale:1"]).to_string();
    let flashsale_tests::Reply::Bytes(dump) = client.ok(&["DUMP", "sale:1"]) else {
        panic!("DUMP gives bytes");
    };
    client.ok(&[b"RESTORE".as_slice(), b"copy", b"0", &dump]);
    assert_eq!(client.ok(&["DEBUG", "DIGEST-VALUE", "copy"]).to_string(), original);
    assert_audit_is_clean(&mut client, "copy");

    // Damaged dumps are refused, and the server lives. The checksum is wrong for all of them;
    // `sanitize-dump-payload` and the module's own checks are for those that get past it.
    for position in (0..dump.len()).step_by(dump.len() / 50 + 1) {
        let mut damaged = dump.clone();
        damaged[position] ^= 0x55;
        let refusal = client.call(&[b"RESTORE".as_slice(), b"damaged", b"0", &damaged]);
        assert!(refusal.is_error(), "byte {position}: {refusal}");
    }
    assert_eq!(client.line("EXISTS damaged").integer(), 0);
}

fn holds_that_fell_due_while_the_server_was_down_are_expired(server: Server) {
    let mut redis = RedisServer::builder(server).module().append_only(AppendFsync::Always).start();
    let mut client = redis.client();
    create(&mut client);
    let hold = client.line("FLASH.RESERVE sale:1 h1 ann TTL 500 ITEMS red 5");
    let deadline_ms = hold.at(2).integer();
    redis.kill_9();
    wait_until("the deadline is past", PATIENCE, || flashsale_tests::token::unix_seconds() as i64 * 1000 > deadline_ms);
    redis.restart();
    let mut client = redis.client();
    assert_eq!(client.line("FLASH.CONFIRM sale:1 h1").status(), "EXPIRED");
    assert_eq!(stock(&mut client, "sale:1", "red").available, 2000);
    assert_audit_is_clean(&mut client, "sale:1");
}

fn wait_after_a_repeat_vouches_for_what_the_first_one_did(server: Server) {
    let builder = RedisServer::builder(server).module();
    repeats_are_vouched_for(&builder.clone().start(), builder, |words| {
        let mut words = words.to_vec();
        words[0] = format!("FLASH.{}", words[0]);
        words
    });
}

/// A client that lost an answer asks again on a new connection. WAIT looks at the writes of its own connection: it
/// must not say that replicas have what only the primary has. `call` makes a command of `["RESERVE", "sale", ...]`.
pub fn repeats_are_vouched_for(
    redis: &RedisServer,
    replica: RedisServerBuilder,
    call: impl Fn(&[String]) -> Vec<String>,
) {
    let mut replica = replica.replica_of(redis).start();
    replica.wait_for_primary(redis);
    let ask = |client: &mut Client, line: &str| {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        client.ok(&call(&words))
    };
    let mut first = redis.client();
    let shard = ask(&mut first, "SHARDS spring 2").at(0).text();
    ask(&mut first, "CREATE sale:1 ITEMS red 9");
    ask(&mut first, &format!("CREATE {shard} SHARD 0 2 ITEMS red 9"));
    assert_eq!(first.line("WAIT 1 30000").integer(), 1);
    replica.signal(libc::SIGSTOP);

    let commands = [
        "STOCK sale:1 red 5 ID lorry-1",
        "RESERVE sale:1 h1 ann ITEMS red 1",
        "MRESERVE sale:1 HOLDS h1 ann red 1",
        "CONFIRM sale:1 h1",
        "ORDER sale:1 h2 ann ITEMS red 1",
        "RETURN sale:1 h2 r1",
        "RELEASE sale:1 h3",
        "PAUSE sale:1",
        &format!("GRANT {shard} red 3 TO 1 AFTER 0"),
        &format!("ACCEPT {shard} red FROM 1 TOTAL 4"),
    ];
    for command in commands {
        let mut second = redis.client();
        let (told, again) = (ask(&mut first, command).to_string(), ask(&mut second, command).to_string());
        let status = |answer: &str| answer.split([' ', ']']).next().map(str::to_owned);
        assert_eq!(status(&again), status(&told), "{command}");
        assert_eq!(second.line("WAIT 1 20").integer(), 0, "{command} was told again: {again}");
    }
    replica.signal(libc::SIGCONT);
    assert_eq!(first.line("WAIT 1 30000").integer(), 1);
    replica.wait_for_primary(redis);
    assert_eq!(replica.digest(), redis.digest());
}
