//! Data that nobody honest wrote is refused: no crash, no huge allocation, no half-loaded sale.

use flashsale_tests::sale::assert_audit_is_clean;
use flashsale_tests::{Client, RedisServer, Reply, Server, on_every_server};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

on_every_server!(damaged_dumps_are_refused_or_whole, cut_off_dumps_are_refused, made_up_dumps_are_refused);

/// How many damaged dumps are tried; `make nightly` tries many more.
fn tries() -> usize {
    let factor = std::env::var("FLASHSALE_CASES_FACTOR").ok().and_then(|factor| factor.parse().ok());
    2_000 * factor.unwrap_or(1)
}

/// A server whose memory is bounded so that an allocation by a lying length would show.
fn start(server: Server) -> (RedisServer, Client) {
    let redis = RedisServer::builder(server).module().start();
    let client = redis.client();
    (redis, client)
}

/// A dump that holds every kind of thing a sale can remember.
fn rich_dump(client: &mut Client) -> Vec<u8> {
    client.ok(&["FLASH.CREATE", "sale:1", "LIMIT", "50", "EVENTS", "ALL", "ITEMS", "red", "100", "blue", "100"]);
    for step in [
        "FLASH.STOCK sale:1 green 20 ID alloc-1 LIMIT 9",
        "FLASH.RESERVE sale:1 h1 ann META note ITEMS red 1 blue 2",
        "FLASH.RESERVE sale:1 h2 ann UPTO ITEMS green 9",
        "FLASH.RESERVE sale:1 h3 bob ITEMS red 3",
        "FLASH.CONFIRM sale:1 h3 REF pay-1",
        "FLASH.RETURN sale:1 h3 return-1 ITEMS red 1",
        "FLASH.ORDER sale:1 o1 cas META gift ITEMS blue 4",
        "FLASH.RESERVE sale:1 h4 dan ITEMS red 1",
        "FLASH.RELEASE sale:1 h4 REASON why",
        "FLASH.RELEASE sale:1 never-seen",
    ] {
        client.ok(&step.split(' ').collect::<Vec<_>>());
    }
    let Reply::Bytes(dump) = client.ok(&["DUMP", "sale:1"]) else { panic!("DUMP gives bytes") };
    dump
}

/// Restores a payload whose checksum is right, and checks that it is refused, or is a whole sale.
#[track_caller]
fn restore(redis: &mut RedisServer, client: &mut Client, payload: &[u8], what: &str) -> bool {
    let signed = with_checksum(payload);
    let reply = client.try_call(&[b"RESTORE".as_slice(), b"copy", b"0", &signed, b"REPLACE"]);
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => panic!("{what}: {error}; alive: {}; payload {}", redis.is_alive(), payload.escape_ascii()),
    };
    if reply.is_error() {
        return false;
    }
    if client.line("TYPE copy").text() == "flashsale" {
        assert_audit_is_clean(client, "copy");
        for call in
            ["FLASH.INFO copy", "FLASH.HOLDS copy 0", "FLASH.EXPIRE copy", "FLASH.ORDER copy new eve ITEMS red 1"]
        {
            client.call(&call.split(' ').collect::<Vec<_>>());
        }
        assert_audit_is_clean(client, "copy");
    }
    true
}

#[track_caller]
fn assert_memory_was_bounded(client: &mut Client, payload: usize) {
    let info = client.ok(&["INFO", "memory"]).text();
    let peak = info.lines().find_map(|line| line.strip_prefix("used_memory_peak:")).expect("INFO tells the peak");
    let peak: usize = peak.trim().parse().expect("a number");
    // The server itself, its buffers, and a few payloads; a lying length would ask for far more.
    assert!(peak < 64 * 1024 * 1024, "the peak was {peak} bytes for payloads of {payload}");
}

fn damaged_dumps_are_refused_or_whole(server: Server) {
    let (mut redis, mut client) = start(server);
    let dump = rich_dump(&mut client);
    let payload = &dump[..dump.len() - 8];
    assert!(restore(&mut redis, &mut client, payload, "undamaged"));
    let mut random = StdRng::seed_from_u64(7);
    let mut accepted = 0;
    for number in 0..tries() {
        let mut damaged = payload.to_vec();
        for _ in 0..random.random_range(1..4) {
            // The last two bytes are the RDB version.
            let position = random.random_range(0..damaged.len() - 2);
            damaged[position] = match random.random_range(0..4) {
                0 => damaged[position] ^ (1 << random.random_range(0..8)),
                1 => 0xff,
                2 => 0,
                _ => random.random(),
            };
        }
        accepted += usize::from(restore(&mut redis, &mut client, &damaged, &format!("number {number}")));
    }
    assert!(accepted < tries() / 2, "{accepted} of {} damaged dumps were taken", tries());
    assert_memory_was_bounded(&mut client, payload.len());
    assert!(redis.is_alive());
    assert_audit_is_clean(&mut client, "sale:1");
}

fn cut_off_dumps_are_refused(server: Server) {
    let (mut redis, mut client) = start(server);
    let dump = rich_dump(&mut client);
    let (data, version) = (&dump[..dump.len() - 10], &dump[dump.len() - 10..dump.len() - 8]);
    for length in 1..data.len() {
        let cut = [&data[..length], version].concat();
        // A module's data that ends early may leave bytes over for an empty string: nothing but that.
        if restore(&mut redis, &mut client, &cut, &format!("cut to {length}")) {
            panic!("a dump cut to {length} of {} bytes was taken", data.len());
        }
    }
    assert!(redis.is_alive());
}

fn made_up_dumps_are_refused(server: Server) {
    let (mut redis, mut client) = start(server);
    let dump = rich_dump(&mut client);
    // Type byte, the module type's id, and then anything.
    let (head, version) = (&dump[..10], &dump[dump.len() - 10..dump.len() - 8]);
    let mut random = StdRng::seed_from_u64(8);
    for number in 0..tries() {
        let length = random.random_range(0..300);
        let noise: Vec<u8> = (0..length).map(|_| random.random()).collect();
        let payload = [head, &noise, version].concat();
        restore(&mut redis, &mut client, &payload, &format!("number {number}"));
    }
    assert_memory_was_bounded(&mut client, 300);
    assert!(redis.is_alive());
}

/// The payload with Redis' checksum after it (CRC-64/Jones), as `DUMP` would sign it.
fn with_checksum(payload: &[u8]) -> Vec<u8> {
    const REFLECTED_JONES: u64 = 0x95AC_9329_AC4B_C9B5;
    let mut crc = 0u64;
    for &byte in payload {
        crc ^= u64::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ REFLECTED_JONES } else { crc >> 1 };
        }
    }
    [payload, &crc.to_le_bytes()].concat()
}

#[test]
fn the_checksum_is_redis_own() {
    let redis = RedisServer::builder(Server::Redis70).start();
    let mut client = redis.client();
    client.ok(&["SET", "text", "123456789"]);
    let Reply::Bytes(dump) = client.ok(&["DUMP", "text"]) else { panic!("DUMP gives bytes") };
    assert_eq!(with_checksum(&dump[..dump.len() - 8]), dump);
}
