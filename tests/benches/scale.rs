//! What a big sale costs: memory of a hold, a million holds that fall due at one instant, saving and loading.
//! `make bench` runs it after the commands, `scripts/bench.sh scale` alone.
//!
//! Nothing is asserted about time: whatever else runs on the machine only adds to it. So what can be repeated is
//! measured several times, and each time is shown.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flashsale_tests::{Client, Clock, RedisServer, Reply, Server, unix_ms, wait_until};

const MILLION: usize = 1_000_000;
/// Runs of what is measured in time.
const RUNS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than a bench takes.
const LONG_HOLD_MS: u64 = 3_600_000;
/// Commands on their way at a time.
const PIPELINE: usize = 100;

fn main() {
    // `cargo test --benches` asks for a listing; there is nothing to list.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    println!("| what | measured | target |");
    println!("|---|---|---|");
    beside_the_library();
    memory();
    due_at_once();
    saving_and_loading();
}

fn row(what: &str, measured: impl Display, target: &str) {
    println!("| {what} | {measured} | {target} |");
}

/// 24 bytes, as long as a UUID in base64, in no order.
fn hold_id(n: usize) -> String {
    format!("hold-{:019}", (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 10_u64.pow(19))
}

/// 24 bytes.
fn buyer(n: usize) -> String {
    format!("buyer-{n:018}")
}

fn create_sale(client: &mut Client, hold_ms: u64) {
    client.ok(&["FLASH.CREATE", "sale", "HOLD", &hold_ms.to_string(), "ITEMS", "shirt", "1000000000"]);
}

/// Makes the holds of these numbers, one RESERVE and one buyer each.
fn reserve(client: &mut Client, numbers: std::ops::Range<usize>) {
    send(client, numbers, |n| {
        ["FLASH.RESERVE", "sale", &hold_id(n), &buyer(n), "ITEMS", "shirt", "1"].map(str::to_owned).to_vec()
    });
}

fn send(client: &mut Client, numbers: std::ops::Range<usize>, command: impl Fn(usize) -> Vec<String>) {
    let (mut next, end) = (numbers.start, numbers.end);
    while next < end {
        let batch: Vec<Vec<String>> = (next..end.min(next + PIPELINE)).map(&command).collect();
        client.send_all(&batch).expect("the server takes it");
        for _ in &batch {
            let reply = client.receive().expect("the server answers");
            assert!(
                !reply.is_error() && (matches!(reply, Reply::Integer(_)) || reply.status() == "RESERVED"),
                "{reply}"
            );
        }
        next += batch.len();
    }
}

/// What the server has allocated, but for the buffers of its clients.
fn allocated(client: &mut Client) -> i64 {
    // The server takes stock ten times a second.
    std::thread::sleep(Duration::from_millis(300));
    let stats = client.ok(&["MEMORY", "STATS"]);
    stats.get("total.allocated").integer() - stats.get("clients.normal").integer()
}

/// Memory of a hold of the module and of the library of functions, with the same ids, at as many as a library sells.
fn beside_the_library() {
    const HOLDS: usize = 100_000;
    let builder = || RedisServer::builder(Server::Redis70);
    for (whose, redis) in [("", builder().module().start()), (" of the Lua library", builder().functions().start())] {
        let mut client = redis.client();
        create_sale(&mut client, LONG_HOLD_MS);
        let before = allocated(&mut client);
        reserve(&mut client, 0..HOLDS);
        let taken = (allocated(&mut client) - before) as f64 / HOLDS as f64;
        row(&format!("memory per live hold{whose} at 100,000, by `used_memory`"), format!("{taken:.1} B"), "");
    }
}

/// Memory at a million holds.
fn memory() {
    let redis = RedisServer::builder(Server::Redis70).module().start();
    let mut client = redis.client();
    create_sale(&mut client, LONG_HOLD_MS);
    let before = allocated(&mut client);
    reserve(&mut client, 0..MILLION);
    let per_hold = |bytes: i64| format!("{:.1} B", bytes as f64 / MILLION as f64);
    let taken = allocated(&mut client) - before;
    let told = client.ok(&["MEMORY", "USAGE", "sale", "SAMPLES", "0"]).integer();
    row("memory per live hold at 1 million, by `used_memory`", per_hold(taken), "100 B");
    row("the same, by `MEMORY USAGE`", per_hold(told), "100 B");
}

/// The CPU time that a server has taken so far, in ms. Other than the time that goes by, and so the slow log, it
/// leaves out what the machine did for others. Right while the server sleeps.
fn cpu_ms(redis: &RedisServer) -> f64 {
    let path = format!("/proc/{}/schedstat", redis.pid());
    let stat = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let ns: f64 = stat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("the first field is CPU time");
    ns / 1e6
}

/// Saving and loading a million holds beside a hash whose million fields have the same bytes.
fn saving_and_loading() {
    let mut sale = RedisServer::builder(Server::Redis70).module().start();
    let mut client = sale.client();
    create_sale(&mut client, LONG_HOLD_MS);
    reserve(&mut client, 0..MILLION);
    let sale_times = save_and_load(&mut sale);

    let mut hash = RedisServer::builder(Server::Redis70).module().start();
    // What a hold is: its id, its buyer, a deadline and a quantity of some SKU.
    send(&mut hash.client(), 0..MILLION, |n| {
        ["HSET", "hash", &hold_id(n), &format!("{}{:012}", buyer(n), n)].map(str::to_owned).to_vec()
    });
    let hash_times = save_and_load(&mut hash);

    row("saved bytes of 1 million holds", format!("{} ({} as HASH)", sale_times.bytes, hash_times.bytes), "");
    let beside = |sale: &[f64; RUNS], hash: &[f64; RUNS]| format!("{} (HASH {})", seconds(sale), seconds(hash));
    row("SAVE of 1 million holds, each run", beside(&sale_times.save, &hash_times.save), "as a HASH");
    row("loading them at start, each run", beside(&sale_times.load, &hash_times.load), "as a HASH");
}

fn seconds(times: &[f64]) -> String {
    times.iter().map(|time| format!("{time:.2}")).collect::<Vec<_>>().join(", ") + " s"
}

struct SaveAndLoad {
    bytes: u64,
    save: [f64; RUNS],
    load: [f64; RUNS],
}

fn save_and_load(redis: &mut RedisServer) -> SaveAndLoad {
    let save = std::array::from_fn(|_| {
        let started = Instant::now();
        redis.client().ok(&["SAVE"]);
        started.elapsed().as_secs_f64()
    });
    let bytes = std::fs::metadata(redis.dir().join("dump.rdb")).expect("a dump").len();
    let load = std::array::from_fn(|_| {
        redis.kill_9();
        redis.restart();
        let log = redis.log();
        let (_, took) = log.rsplit_once("DB loaded from disk: ").expect("the server tells how long it loaded");
        took.split(' ').next().and_then(|took| took.parse().ok()).expect("seconds")
    });
    SaveAndLoad { bytes, save, load }
}

/// A million holds whose deadline is the same millisecond: how long until they are ended, and how long a
/// second client's pings take meanwhile.
fn due_at_once() {
    quiet_end();
    for run in 1..=2 {
        let (redis, due_ms) = million_due_at_once();
        let mut client = redis.client();
        let left_ms = due_ms.saturating_sub(unix_ms() + 100);
        assert!(left_ms > 2_000, "this machine took too long to make a million holds");
        let (idle, ()) = pings_during(&redis, || std::thread::sleep(Duration::from_millis(left_ms.min(5_000))));
        std::thread::sleep(Duration::from_millis(due_ms.saturating_sub(unix_ms())));
        let (busy, ended_ms) = pings_during(&redis, || wait_until_ended(&mut client, due_ms));
        row(
            &format!("the same with a second client that pings all the time, run {run}"),
            format!("{ended_ms} ms"),
            "2 s",
        );
        row("its longest ping meanwhile", busy, "1 ms");
        row("its longest ping before, on the idle server", idle, "");
    }
}

/// With no other client: the time, and the CPU time of the server.
fn quiet_end() {
    let (redis, due_ms) = million_due_at_once();
    let mut client = redis.client();
    std::thread::sleep(Duration::from_millis(due_ms.saturating_sub(unix_ms() + 20)));
    let before = cpu_ms(&redis);
    let ended_ms = wait_until_ended(&mut client, due_ms);
    let cpu = cpu_ms(&redis) - before;
    row("1 million due at once: all ended after", format!("{ended_ms} ms"), "2 s");
    row("CPU of the server meanwhile", format!("{cpu:.0} ms"), "");
}

/// Tells how many ms after the deadline the last hold was ended.
fn wait_until_ended(client: &mut Client, due_ms: u64) -> u64 {
    wait_until("all holds are ended", PATIENCE, || {
        // FLASH.INFO counts no hold that is due; this does, until it is ended.
        let info = client.ok(&["INFO", "flashsale"]).text();
        info.contains("flashsale_holds:0\r\n")
    });
    unix_ms() - due_ms
}

/// Pings until something is done.
fn pings_during<T>(redis: &RedisServer, something: impl FnOnce() -> T) -> (Pings, T) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pings = scope.spawn(|| Pings::until(redis, &done));
        let result = something();
        done.store(true, Ordering::Relaxed);
        (pings.join().expect("pings"), result)
    })
}

/// The holds are made by a server whose clock stands still, and loaded by one whose clock goes.
fn million_due_at_once() -> (RedisServer, u64) {
    const HOLD_MS: u64 = 30_000;
    let clock = Clock::new();
    let maker = RedisServer::builder(Server::Redis70).module().clock(&clock).start();
    let mut client = maker.client();
    create_sale(&mut client, HOLD_MS);
    reserve(&mut client, 0..MILLION);
    client.ok(&["SAVE"]);
    let dir = maker.dir();
    let redis = RedisServer::builder(Server::Redis70).module().set("dir", &dir.to_string_lossy()).start();
    assert_eq!(redis.client().ok(&["FLASH.INFO", "sale"]).get("holds").integer(), MILLION as i64);
    (redis, clock.now_ms() + HOLD_MS)
}

/// Round trips of a client that pings all the time.
struct Pings {
    sorted_us: Vec<u64>,
}

impl Pings {
    fn until(redis: &RedisServer, done: &AtomicBool) -> Pings {
        let mut client = redis.client();
        let mut sorted_us = Vec::new();
        while !done.load(Ordering::Relaxed) {
            let started = Instant::now();
            client.ok(&["PING"]);
            sorted_us.push(started.elapsed().as_micros() as u64);
        }
        sorted_us.sort_unstable();
        Pings { sorted_us }
    }
}

impl Display for Pings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |us: u64| us as f64 / 1000.0;
        let count = self.sorted_us.len();
        let longest = self.sorted_us.last().copied().unwrap_or(0);
        let p999 = self.sorted_us.get(count * 999 / 1000).copied().unwrap_or(0);
        let over_1_ms = self.sorted_us.iter().filter(|us| **us > 1000).count();
        write!(f, "{:.2} ms (of {count}: {over_1_ms} above 1 ms, 999 of 1000 below {:.2} ms)", ms(longest), ms(p999))
    }
}
