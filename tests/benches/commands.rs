//! What each command costs: instructions of the whole server per command, and commands per second,
//! beside DECR, the usual Lua script and the library of Redis Functions, measured in one run. `make bench` runs it.
//!
//! Instructions are counted by callgrind and are the same on every machine and every day; times are
//! not, and only their ratios within one run mean something.

use std::ops::Range;
use std::time::{Duration, Instant};

use flashsale_tests::callgrind::CountedServer;
use flashsale_tests::{Client, Clock, RedisServer, Reply, Server, artifacts, wait_until};

/// Commands counted per row.
const COUNTED: usize = 10_000;
/// Commands timed per row.
const TIMED: usize = 50_000;
const PIPELINE: usize = 32;

/// Holds of one MRESERVE.
const BATCH: usize = 64;

/// What shops usually do: stock, limit, hold and deadline in four keys, by a script.
const USUAL_SCRIPT: &str = "
local qty = tonumber(ARGV[3])
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then return 'RESERVED' end
if tonumber(redis.call('GET', KEYS[1])) < qty then return 'SOLDOUT' end
local bought = tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or '0')
if bought + qty > 5 then return 'LIMIT' end
redis.call('DECRBY', KEYS[1], qty)
redis.call('HINCRBY', KEYS[2], ARGV[2], qty)
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[4], 1900000000000, ARGV[1])
return 'RESERVED'
";

/// The words of one command.
type Request = Vec<Vec<u8>>;

/// Who gets what the server writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Followers {
    None,
    /// One replica.
    One,
}

/// One row of the table.
struct Row {
    name: &'static str,
    followers: Followers,
    /// Sent once, before this many commands are measured.
    prepare: fn(&mut Client, usize),
    /// Command number `n`.
    command: fn(usize) -> Request,
    /// Holds of one command; the figures are for one hold.
    holds: usize,
    /// By so much fewer commands are measured than of a cheap one.
    dearness: usize,
    /// What every answer must begin with: a bench that measures errors measures nothing.
    outcome: &'static str,
}

impl Row {
    const fn new(
        name: &'static str,
        prepare: fn(&mut Client, usize),
        command: fn(usize) -> Request,
        outcome: &'static str,
    ) -> Row {
        Row { name, followers: Followers::None, prepare, command, holds: 1, dearness: 1, outcome }
    }

    const fn replicated(self) -> Row {
        Row { followers: Followers::One, ..self }
    }

    const fn dear(self) -> Row {
        Row { dearness: 5, ..self }
    }

    const fn of_holds(self, holds: usize) -> Row {
        Row { holds, ..self }
    }
}

const ROWS: [Row; 16] = [
    Row::new("DECR", |_, _| {}, |_| words("DECR counter"), ""),
    Row::new("FLASH.RESERVE", create_sale, reserve, "RESERVED"),
    Row::new("FLASH.MRESERVE of 64, per hold", create_sale, mreserve, "RESERVED").of_holds(BATCH),
    Row::new("FLASH.MRESERVE PACKED of 64, per hold", create_sale, packed, "RESERVED").of_holds(BATCH),
    Row::new("FLASH.RESERVE UPTO, its effect written out", create_sale, reserve_up_to, "RESERVED"),
    Row::new(
        "FLASH.RESERVE, sold out",
        |client, count| {
            create_sale(client, count);
            client.ok(&["FLASH.STOCK", "sale", "cap", "0"]);
        },
        |n| words(&format!("FLASH.RESERVE sale {} buyer-{n} ITEMS cap 1", id(n))),
        "SOLDOUT",
    ),
    Row::new(
        "FLASH.CONFIRM",
        |client, count| {
            create_sale(client, count);
            pipeline(client, 0..count, "RESERVED", reserve);
        },
        |n| words(&format!("FLASH.CONFIRM sale {}", id(n))),
        "CONFIRMED",
    ),
    Row::new("FLASH.ORDER", create_sale, order, "CONFIRMED"),
    Row::new("usual script", |client, _| create_script(client, "1000000000"), script_call, "RESERVED").dear(),
    Row::new("usual script, sold out", |client, _| create_script(client, "0"), script_call, "SOLDOUT").dear(),
    Row::new("FCALL flash_reserve", create_library_sale, |n| in_library(reserve(n)), "RESERVED").dear(),
    Row::new("FCALL flash_order", create_library_sale, |n| in_library(order(n)), "CONFIRMED").dear(),
    Row::new("DECR, to a replica", |_, _| {}, |_| words("DECR counter"), "").replicated(),
    Row::new("FLASH.RESERVE, to a replica", create_sale, reserve, "RESERVED").replicated(),
    Row::new("FLASH.MRESERVE of 64, per hold, to a replica", create_sale, mreserve, "RESERVED")
        .of_holds(BATCH)
        .replicated(),
    Row::new("FLASH.MRESERVE PACKED of 64, per hold, to a replica", create_sale, packed, "RESERVED")
        .of_holds(BATCH)
        .replicated(),
];

fn main() {
    // `cargo test --benches` asks for a listing; there is nothing to list.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    println!("module: {}", artifacts::module().display());
    println!("\n| command | instructions | x DECR | per second, pipeline {PIPELINE} | per second, one by one |");
    println!("|---|---|---|---|---|");
    let mut decr = None;
    // Words after the options choose rows by their names; DECR is what all are compared with.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let chosen = |row: &&Row| row.name == "DECR" || wanted.is_empty() || wanted.iter().any(|w| row.name.contains(w));
    for row in ROWS.iter().filter(chosen) {
        let instructions = count_instructions(row);
        let decr = *decr.get_or_insert(instructions);
        let timed = TIMED / row.dearness;
        let (pipelined, single) = (per_second(row, PIPELINE, timed), per_second(row, 1, timed / 10));
        let ratio = instructions as f64 / decr as f64;
        println!("| {} | {instructions} | {ratio:.2} | {pipelined:.0} | {single:.0} |", row.name);
    }
}

fn words(line: &str) -> Request {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// 24 bytes, as long as a UUID in base64.
fn id(n: usize) -> String {
    format!("hold-{:019}", (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 10_u64.pow(19))
}

fn create_sale(client: &mut Client, _commands: usize) {
    client.ok(&["FLASH.CREATE", "sale", "LIMIT", "5", "ITEMS", "shirt", "1000000000"]);
}

fn reserve(n: usize) -> Request {
    words(&format!("FLASH.RESERVE sale {} buyer-{n} ITEMS shirt 1", id(n)))
}

fn order(n: usize) -> Request {
    words(&format!("FLASH.ORDER sale {} buyer-{n} ITEMS shirt 1", id(n)))
}

fn reserve_up_to(n: usize) -> Request {
    words(&format!("FLASH.RESERVE sale {} buyer-{n} UPTO ITEMS shirt 1", id(n)))
}

fn mreserve(n: usize) -> Request {
    let holds = (n * BATCH..(n + 1) * BATCH).map(|n| format!(" {} buyer-{n} shirt 1", id(n)));
    words(&format!("FLASH.MRESERVE sale HOLDS{}", holds.collect::<String>()))
}

/// The same holds as one MessagePack array.
fn packed(n: usize) -> Request {
    let mut batch = vec![0xdc];
    batch.extend_from_slice(&(4 * BATCH as u16).to_be_bytes());
    for n in n * BATCH..(n + 1) * BATCH {
        for text in [id(n), format!("buyer-{n}"), "shirt".into()] {
            batch.push(0xa0 | text.len() as u8);
            batch.extend_from_slice(text.as_bytes());
        }
        batch.push(1);
    }
    let mut request = words("FLASH.MRESERVE sale PACKED");
    request.push(batch);
    request
}

fn create_library_sale(client: &mut Client, _commands: usize) {
    let path = artifacts::project().join("lua/flashsale.lua");
    let library = std::fs::read_to_string(&path).expect("the library is part of the project");
    client.ok(&["FUNCTION", "LOAD", &library]);
    client.ok(&in_library(words("FLASH.CREATE sale LIMIT 5 ITEMS shirt 1000000000")));
}

/// `FLASH.RESERVE key ...` as a call of the library.
fn in_library(mut command: Request) -> Request {
    let function = String::from_utf8_lossy(&command.remove(0)).to_lowercase().replace('.', "_");
    [words(&format!("FCALL {function} 1")), command].concat()
}

fn create_script(client: &mut Client, stock: &str) {
    client.ok(&["SET", "s:stock", stock]);
    let sha = client.ok(&["SCRIPT", "LOAD", USUAL_SCRIPT]).text();
    assert_eq!(sha, script_sha(client), "the script's name");
}

fn script_sha(client: &mut Client) -> String {
    client.ok(&["EVAL", "return redis.sha1hex(ARGV[1])", "0", USUAL_SCRIPT]).text()
}

fn script_call(n: usize) -> Request {
    static SHA: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let sha = SHA.get_or_init(|| {
        let redis = RedisServer::builder(Server::Redis70).start();
        script_sha(&mut redis.client())
    });
    words(&format!("EVALSHA {sha} 4 s:stock s:buyers s:holds s:deadlines {} buyer-{n} 1", id(n)))
}

/// Sends the commands of these numbers, [`PIPELINE`] at a time, and checks every answer.
fn pipeline(client: &mut Client, numbers: Range<usize>, outcome: &str, command: fn(usize) -> Request) {
    let requests: Vec<Request> = numbers.map(command).collect();
    send_in_batches(client, &requests, PIPELINE, outcome);
}

/// The same, a millisecond for each pipeline: callgrind slows a server down some fifty times, and without this every
/// few commands would come in a millisecond of their own, as they do in no rush.
fn pipeline_by_clock(client: &mut Client, clock: &mut Option<Clock>, numbers: Range<usize>, row: &Row) {
    let numbers: Vec<usize> = numbers.collect();
    for numbers in numbers.chunks(PIPELINE) {
        clock.iter_mut().for_each(|clock| clock.advance(1));
        pipeline(client, numbers[0]..numbers[0] + numbers.len(), row.outcome, row.command);
    }
}

fn send_in_batches(client: &mut Client, requests: &[Request], batch: usize, outcome: &str) {
    for requests in requests.chunks(batch) {
        client.send_all(requests).expect("the server takes it");
        for _ in requests {
            let reply = client.receive().expect("the server answers");
            assert!(!reply.is_error() && all_begin_with(&reply, outcome), "{reply}");
        }
    }
}

/// Whether the reply, or each reply in it, is this outcome.
fn all_begin_with(reply: &Reply, outcome: &str) -> bool {
    match reply {
        Reply::Array(replies) if matches!(replies.first(), Some(Reply::Array(_))) => {
            replies.iter().all(|reply| all_begin_with(reply, outcome))
        }
        Reply::Bytes(packed) if packed.first() == Some(&0xdc) => {
            packed.windows(outcome.len()).filter(|part| *part == outcome.as_bytes()).count() == BATCH
        }
        reply => reply.status().starts_with(outcome),
    }
}

/// Commands per second of one connection, `batch` on their way at a time.
fn per_second(row: &Row, batch: usize, count: usize) -> f64 {
    let redis = RedisServer::builder(Server::Redis70).module().start();
    let mut client = redis.client();
    let _replica = start_replica(row, &mut client, redis.port());
    let count = count / row.holds;
    (row.prepare)(&mut client, count);
    // Made before the clock starts: the client must not be the bottleneck of cheap commands.
    let requests: Vec<Request> = (0..count).map(row.command).collect();
    let started = Instant::now();
    send_in_batches(&mut client, &requests, batch, row.outcome);
    (count * row.holds) as f64 / started.elapsed().as_secs_f64()
}

/// Instructions of the whole server per command.
fn count_instructions(row: &Row) -> u64 {
    // The clock is preloaded where the module asks for it, and nowhere else.
    let mut clock = row.name.starts_with("FLASH.").then(Clock::new);
    let server = CountedServer::start(&[], clock.as_ref());
    let mut client = server.client();
    let _replica = start_replica(row, &mut client, server.port());
    let counted = COUNTED / row.holds / row.dearness;
    let warm_up = counted / 4;
    (row.prepare)(&mut client, warm_up + counted);
    // Tables have grown and caches of the allocator are warm when counting begins.
    pipeline_by_clock(&mut client, &mut clock, 0..warm_up, row);
    server.zero();
    pipeline_by_clock(&mut client, &mut clock, warm_up..warm_up + counted, row);
    server.instructions() / (counted * row.holds) as u64
}

/// Gives the server the replica that the row wants.
fn start_replica(row: &Row, client: &mut Client, port: u16) -> Option<RedisServer> {
    if row.followers == Followers::None {
        return None;
    }
    let primary = format!("127.0.0.1 {port}");
    let replica = RedisServer::builder(Server::Redis70).module().set("replicaof", &primary).start();
    wait_until("the replica follows", Duration::from_secs(60), || {
        client.ok(&["INFO", "replication"]).text().contains("state=online")
    });
    Some(replica)
}
