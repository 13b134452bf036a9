//! Commands that come in one millisecond are replicated as they were sent: whoever replays them decides nothing and
//! comes to the same state, and what its words do not tell is written out.

use std::time::Duration;

use flashsale_tests::sale::assert_audit_is_clean;
use flashsale_tests::{AppendFsync, Clock, RedisServer, Server, on_every_server, wait_until};

on_every_server!(words_and_effects_lead_to_one_state, rates_of_words_and_effects_are_as_they_should_be);

const PATIENCE: Duration = Duration::from_secs(20);

/// Sent while the clock stands still, but for those that begin with `later`. Every way in which a step can be told:
/// by words, by effects, by effects and then words; alone, in transactions, in scripts, packed.
const STORY: &[&str] = &[
    "FLASH.CREATE sale LIMIT 6 HOLD 1000 MAXHOLD 5000 ITEMS tee 60 mug 9",
    "FLASH.RESERVE sale h1 ann ITEMS tee 2",
    "FLASH.RESERVE sale h1 ann ITEMS tee 2",
    "FLASH.RESERVE sale h2 bob TTL 3000 META note ITEMS tee 1 mug 2 tee 1",
    "FLASH.RESERVE sale * cid ITEMS tee 1",
    "FLASH.RESERVE sale h3 dan UPTO ITEMS tee 4 mug 9",
    "FLASH.RESERVE sale h4 dan REPLACE h3 ITEMS tee 1",
    "FLASH.RESERVE sale h5 eve BLOCK 10 ITEMS tee 1",
    "FLASH.RESERVE sale h6 eve ITEMS mug 99",
    "FLASH.CONFIRM sale h1 REF pay-1 META wrap",
    "FLASH.CONFIRM sale h2 ITEMS tee 1",
    "FLASH.CONFIRM sale h2 ITEMS tee 1",
    "FLASH.CONFIRM sale unknown",
    "FLASH.RELEASE sale h4 REASON bored",
    "FLASH.RELEASE sale never",
    "FLASH.RESERVE sale never ann ITEMS tee 1",
    "FLASH.ORDER sale o1 fay REF pay-2 META m ITEMS tee 1 mug 1",
    "FLASH.ORDER sale h5 eve ITEMS tee 1",
    "FLASH.ORDER sale * fay ITEMS tee 1",
    "FLASH.RETURN sale o1 r1 ITEMS mug 1",
    "FLASH.MRESERVE sale HOLDS m1 gil tee 1 m2 hal mug 1 m3 ida tee 1",
    "FLASH.MRESERVE sale HOLDS m4 jan tee 1 m5 kim cap 1 m6 lea tee 1",
    "FLASH.MRESERVE sale HOLDS m7 mia cap 1 m8 nat tee 1",
    "FLASH.MRESERVE sale HOLDS m9 ora tee 1 * pam tee 1 n1 quy tee 1",
    "MULTI",
    "FLASH.RESERVE sale t1 rex ITEMS tee 1",
    "FLASH.CONFIRM sale t1",
    "FLASH.RESERVE sale t2 rex BLOCK 5 ITEMS tee 1",
    "EXEC",
    "later 1500",
    // Holds that fall due in this step are told before it.
    "FLASH.RESERVE sale l1 sam ITEMS tee 1",
    "FLASH.RESERVE sale h4 sam ITEMS tee 1",
    "FLASH.CONFIRM sale m1 LATE",
    "FLASH.ALTER sale EVENTS ALL",
    "FLASH.RESERVE sale e1 tia ITEMS tee 1",
    "FLASH.MRESERVE sale HOLDS e2 una tee 1 e3 una mug 1",
    "FLASH.CONFIRM sale e1",
    "FLASH.RELEASE sale e2",
    // Somebody writes into the stream: the next entries go behind.
    "XADD {sale}:orders 99999999999999-1 by hand",
    "FLASH.RESERVE sale f1 val ITEMS tee 1",
    "FLASH.MRESERVE sale HOLDS f2 wes tee 1 f3 xia tee 1",
    "FLASH.ORDER sale f4 yan ITEMS tee 1",
    "later 4000",
    "FLASH.EXPIRE sale",
    "FLASH.RESERVE sale l2 zoe ITEMS tee 1",
];

/// The primary's timer may end holds between two looks: then both change, and soon are equal again.
#[track_caller]
fn assert_equal(replica: &RedisServer, primary: &RedisServer, after: &str) {
    let equal = || {
        replica.wait_for_primary(primary);
        replica.digest() == primary.digest()
    };
    wait_until(&format!("the digests are equal after {after}"), PATIENCE, equal);
}

fn words_and_effects_lead_to_one_state(server: Server) {
    let mut clock = Clock::new();
    let primary = RedisServer::builder(server).module().clock(&clock).append_only(AppendFsync::Always).start();
    // Its clock is another, and must not matter.
    let replica = RedisServer::builder(server).module().append_only(AppendFsync::No).replica_of(&primary).start();
    let mut client = primary.client();
    for line in STORY {
        match line.strip_prefix("later ") {
            Some(ms) => clock.advance(ms.parse().expect("milliseconds")),
            None => {
                client.ok(&line.split(' ').collect::<Vec<_>>());
            }
        }
        assert_equal(&replica, &primary, line);
    }
    let script = "for n = 1, 3 do redis.call('FLASH.RESERVE', KEYS[1], 's' .. n, 'ann', 'ITEMS', 'tee', 1) end \
                  return redis.call('FLASH.CONFIRM', KEYS[1], 's2')";
    assert_eq!(client.ok(&["EVAL", script, "1", "sale"]).status(), "CONFIRMED");
    let packed = b"\x98\xa2p1\xa3abe\xa3tee\x01\xa2p2\xa3bea\xa3tee\x01".to_vec();
    client.ok(&[b"FLASH.MRESERVE".to_vec(), b"sale".to_vec(), b"PACKED".to_vec(), packed]);
    assert_equal(&replica, &primary, "the script and the packed batch");
    assert_audit_is_clean(&mut replica.client(), "sale");

    let (before, entries) = (primary.digest(), client.ok(&["XRANGE", "{sale}:orders", "-", "+"]));
    assert_eq!(replica.client().ok(&["XRANGE", "{sale}:orders", "-", "+"]), entries);
    for server in [&primary, &replica] {
        // A replica begins its file anew when it has been synchronised.
        let quiet = |field: &str| server.info(field).as_deref() == Some("0");
        wait_until("no rewrite is on", PATIENCE, || quiet("aof_rewrite_in_progress") && quiet("aof_rewrite_scheduled"));
        server.client().ok(&["DEBUG", "LOADAOF"]);
        assert_eq!(server.digest(), before, "after its append-only file was played");
    }
    assert_eq!(client.ok(&["XRANGE", "{sale}:orders", "-", "+"]), entries);
}

/// How many commands a replica has been sent, by name.
fn calls(replica: &RedisServer, command: &str) -> i64 {
    let stats = replica.client().ok(&["INFO", "commandstats"]).text();
    let line =
        stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")).map(str::to_owned));
    line.map_or(0, |line| line.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number"))
}

fn rates_of_words_and_effects_are_as_they_should_be(server: Server) {
    let mut clock = Clock::new();
    let primary = RedisServer::builder(server).module().clock(&clock).start();
    let replica = RedisServer::builder(server).module().replica_of(&primary).start();
    let mut client = primary.client();
    client.ok(&["FLASH.CREATE", "sale", "ITEMS", "tee", "900"]);
    // The first command of a millisecond tells the time; the others need not.
    for turn in 0..5 {
        clock.advance(20);
        for n in 0..10 {
            client.ok(&["FLASH.RESERVE", "sale", &format!("h{turn}-{n}"), "ann", "ITEMS", "tee", "1"]);
        }
    }
    // A refusal tells nothing at all.
    client.ok(&["FLASH.RESERVE", "sale", "no", "ann", "ITEMS", "cap", "1"]);
    wait_until("the replica has it all", PATIENCE, || replica.digest() == primary.digest());
    assert_eq!(calls(&replica, "FLASH.RESERVE"), 45);
    // Five, and the one that made the sale.
    assert_eq!(calls(&replica, "FLASH._APPLY"), 6);
}
