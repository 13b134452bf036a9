//! What each command costs: instructions of the whole server per command, and commands per second,
//! beside DECR and beside the usual Lua script, measured in one run. `make bench` runs it.
//!
//! Instructions are counted by callgrind and are the same on every machine and every day; times are
//! not, and only their ratios within one run mean something.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use flashsale_tests::process::Process;
use flashsale_tests::{Client, RedisServer, Server, artifacts};

/// Commands counted per row.
const COUNTED: usize = 20_000;
/// Commands timed per row.
const TIMED: usize = 200_000;
const PIPELINE: usize = 32;

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

/// One row of the table.
struct Row {
    name: &'static str,
    /// Sent once, before this many commands are measured.
    prepare: fn(&mut Client, usize),
    /// Command number `n`.
    command: fn(usize) -> Vec<String>,
    /// What every answer must begin with: a bench that measures errors measures nothing.
    outcome: &'static str,
}

const ROWS: [Row; 7] = [
    Row { name: "DECR", prepare: |_, _| {}, command: |_| words("DECR counter"), outcome: "" },
    Row {
        name: "FLASH.RESERVE",
        prepare: create_sale,
        command: |n| words(&format!("FLASH.RESERVE sale {} buyer-{n} ITEMS shirt 1", id(n))),
        outcome: "RESERVED",
    },
    Row {
        name: "FLASH.RESERVE, sold out",
        prepare: |client, count| {
            create_sale(client, count);
            client.ok(&["FLASH.STOCK", "sale", "cap", "0"]);
        },
        command: |n| words(&format!("FLASH.RESERVE sale {} buyer-{n} ITEMS cap 1", id(n))),
        outcome: "SOLDOUT",
    },
    Row {
        name: "FLASH.CONFIRM",
        prepare: |client, count| {
            create_sale(client, count);
            pipeline(client, 0..count, "RESERVED", |n| {
                words(&format!("FLASH.RESERVE sale {} buyer-{n} ITEMS shirt 1", id(n)))
            });
        },
        command: |n| words(&format!("FLASH.CONFIRM sale {}", id(n))),
        outcome: "CONFIRMED",
    },
    Row {
        name: "FLASH.ORDER",
        prepare: create_sale,
        command: |n| words(&format!("FLASH.ORDER sale {} buyer-{n} ITEMS shirt 1", id(n))),
        outcome: "CONFIRMED",
    },
    Row {
        name: "usual script",
        prepare: |client, _| create_script(client, "1000000000"),
        command: script_call,
        outcome: "RESERVED",
    },
    Row {
        name: "usual script, sold out",
        prepare: |client, _| create_script(client, "0"),
        command: script_call,
        outcome: "SOLDOUT",
    },
];

fn main() {
    // `cargo test --benches` asks for a listing; there is nothing to list.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    println!("module: {}", artifacts::module().display());
    let mut table = String::new();
    let _ = writeln!(
        table,
        "| command | instructions | x DECR | per second, pipeline {PIPELINE} | per second, one by one |"
    );
    let _ = writeln!(table, "|---|---|---|---|---|");
    let mut decr = None;
    for row in &ROWS {
        eprintln!("measuring {} ...", row.name);
        let instructions = count_instructions(row);
        let decr = *decr.get_or_insert(instructions);
        let (pipelined, single) = (per_second(row, PIPELINE, TIMED), per_second(row, 1, TIMED / 10));
        let _ = writeln!(
            table,
            "| {} | {instructions} | {:.2} | {pipelined:.0} | {single:.0} |",
            row.name,
            instructions as f64 / decr as f64
        );
    }
    print!("\n{table}");
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// 24 bytes, as long as a UUID in base64.
fn id(n: usize) -> String {
    format!("hold-{:019}", (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 10_u64.pow(19))
}

fn create_sale(client: &mut Client, _commands: usize) {
    client.ok(&["FLASH.CREATE", "sale", "LIMIT", "5", "ITEMS", "shirt", "1000000000"]);
}

fn create_script(client: &mut Client, stock: &str) {
    client.ok(&["SET", "s:stock", stock]);
    let sha = client.ok(&["SCRIPT", "LOAD", USUAL_SCRIPT]).text();
    assert_eq!(sha, script_sha(client), "the script's name");
}

fn script_sha(client: &mut Client) -> String {
    client.ok(&["EVAL", "return redis.sha1hex(ARGV[1])", "0", USUAL_SCRIPT]).text()
}

fn script_call(n: usize) -> Vec<String> {
    static SHA: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let sha = SHA.get_or_init(|| {
        let redis = RedisServer::builder(Server::Redis70).start();
        script_sha(&mut redis.client())
    });
    words(&format!("EVALSHA {sha} 4 s:stock s:buyers s:holds s:deadlines {} buyer-{n} 1", id(n)))
}

/// Sends the commands of these numbers, [`PIPELINE`] at a time, and checks every answer.
fn pipeline(client: &mut Client, numbers: Range<usize>, outcome: &str, command: fn(usize) -> Vec<String>) {
    let requests: Vec<Vec<String>> = numbers.map(command).collect();
    send_in_batches(client, &requests, PIPELINE, outcome);
}

fn send_in_batches(client: &mut Client, requests: &[Vec<String>], batch: usize, outcome: &str) {
    for requests in requests.chunks(batch) {
        client.send_all(requests).expect("the server takes it");
        for _ in requests {
            let reply = client.receive().expect("the server answers");
            assert!(!reply.is_error() && reply.status().starts_with(outcome), "{reply}");
        }
    }
}

/// Commands per second of one connection, `batch` on their way at a time.
fn per_second(row: &Row, batch: usize, count: usize) -> f64 {
    let redis = RedisServer::builder(Server::Redis70).module().start();
    let mut client = redis.client();
    (row.prepare)(&mut client, count);
    // Made before the clock starts: the client must not be the bottleneck of cheap commands.
    let requests: Vec<Vec<String>> = (0..count).map(row.command).collect();
    let started = Instant::now();
    send_in_batches(&mut client, &requests, batch, row.outcome);
    count as f64 / started.elapsed().as_secs_f64()
}

/// Instructions of the whole server per command.
fn count_instructions(row: &Row) -> u64 {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut valgrind, mut client) = start_under_callgrind(dir.path());
    let warm_up = COUNTED / 4;
    (row.prepare)(&mut client, warm_up + COUNTED);
    // Tables have grown and caches of the allocator are warm when counting begins.
    pipeline(&mut client, 0..warm_up, row.outcome, row.command);
    control(&valgrind, "--zero");
    pipeline(&mut client, warm_up..warm_up + COUNTED, row.outcome, row.command);
    control(&valgrind, "--dump");
    valgrind.kill_9();
    dumped_instructions(dir.path()) / COUNTED as u64
}

fn start_under_callgrind(dir: &Path) -> (Process, Client) {
    let server = Server::Redis70.program().expect("Redis 7.0 is here");
    for _ in 0..5 {
        let port = flashsale_tests::free_port();
        let mut command = Command::new("valgrind");
        command
            .current_dir(dir)
            .args(["--tool=callgrind", "--callgrind-out-file=callgrind.out"])
            .arg(&server)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            // As little as can be happens beside the commands.
            .args(["--hz", "1", "--dynamic-hz", "no"])
            .arg("--loadmodule")
            .arg(artifacts::module());
        let mut process = Process::start("valgrind", command, &dir.join("log")).expect("valgrind runs");
        for _ in 0..600 {
            if let Ok(mut client) = Client::connect(port)
                && client.try_call(&["PING"]).is_ok()
            {
                return (process, client);
            }
            if process.exited().is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
    panic!("redis-server did not start under valgrind");
}

fn control(valgrind: &Process, what: &str) {
    let status = Command::new("callgrind_control")
        .arg(what)
        .arg(valgrind.pid().to_string())
        .output()
        .expect("callgrind_control comes with valgrind");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

/// The sum of the one dump that was asked for.
fn dumped_instructions(dir: &Path) -> u64 {
    let dump = std::fs::read_to_string(dir.join("callgrind.out.1")).expect("callgrind's dump");
    let total = dump.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    total.expect("a dump has a total").trim().parse().expect("a number")
}
