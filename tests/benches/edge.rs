//! What the edge costs beside nginx and beside Pingora with nothing of ours in it, all in one run.
//!
//! Every server has one worker on the first core; the load, Redis and the shop are on the second. So the rate is
//! that of one core. The CPU time a request costs the server is counted too: it means something on a busy machine
//! also, where rates do not. `make bench-edge` runs it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flashsale_tests::http::Http;
use flashsale_tests::process::Process;
use flashsale_tests::{
    Proxy, ProxyBuilder, RedisServer, Server, TOKEN_SECRET, artifacts, free_port, token, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Connections of the load. With few of them all wait for Redis at the same time, and the edge has nothing to do.
const CONNECTIONS: usize = 256;
/// Buyers with a token each.
const BUYERS: usize = 1000;
/// Tickets for each second of the measurement; when all were shown they are shown again.
const TICKETS_PER_SECOND: u64 = 80_000;
/// Connections that do nothing, for the memory of one.
const IDLE: usize = 5000;
/// Addresses that are told apart, for the memory of all.
const ADDRESSES: usize = 100_000;
/// Connections that dribble a header.
const SLOW: usize = 10_000;
/// Runs without and with them, in turn: one p99 alone tells little on a machine that others share.
const SLOW_PAIRS: usize = 5;

/// Where units are reserved.
const RESERVE: &str = "/flash/full/holds?sku=shirt";

/// Core of what is measured, and of all else.
const MEASURED: usize = 0;
const OTHERS: usize = 1;

/// What a load did to a server.
#[derive(Debug, Clone, Copy)]
struct Figures {
    per_second: f64,
    cpu_us: f64,
    p99_ms: f64,
}

/// One kind of request to one server.
struct Load<'a> {
    name: &'a str,
    pid: u32,
    url: String,
    /// wrk's script, if a plain GET will not do.
    script: Option<&'a str>,
    connections: usize,
}

fn main() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let bench = Bench { dir: dir.path(), seconds };
    // The slow clients are threads of this process.
    pin(std::process::id(), OTHERS);
    println!("each row: wrk for {seconds} s with {CONNECTIONS} connections; one worker thread on one core");
    println!("| what | per second | CPU us a request | p99 ms | is | wanted |");
    println!("|---|---|---|---|---|---|");
    bench.refusals();
    bench.pass_through();
    bench.memory();
    bench.slowloris();
}

struct Bench<'a> {
    dir: &'a Path,
    seconds: u64,
}

impl Bench<'_> {
    /// What never reaches Redis, and what does, beside a bare 200 and nginx' 429.
    fn refusals(&self) {
        let nginx = self.nginx("429", "return 429 \"slow down\\n\";", MEASURED);
        let nginx_429 = self.measure("nginx `return 429`", nginx.0.pid(), &format!("http://{}/", nginx.1), None);
        drop(nginx);
        let (bare, address) = self.bare(&["answer"], &[]);
        let bare_200 = self.measure("bare Pingora `200`", bare.pid(), &format!("http://{address}/"), None);
        drop(bare);

        let redis = RedisServer::builder(Server::Redis70).module().start();
        pin(redis.pid(), OTHERS);
        let mut client = redis.client();
        client.ok(&["FLASH.CREATE", "sale:full", "HOLD", "600000", "ITEMS", "shirt", "2000000000"]);
        client.ok(&["FLASH.CREATE", "sale:gone", "ITEMS", "shirt", "0"]);
        let edge = || one_worker(Proxy::builder().redis(&redis));
        let post = self.file("post.lua", "wrk.method = 'POST'\n");

        let limited = edge().set("rates.mode", "\"enforce\"").set("rates.address_per_second", "1").start();
        let figures = self.edge("edge: rate limit 429", &limited, RESERVE, &post, 429);
        report(figures, &[("bare 200", bare_200, 0.85), ("nginx 429", nginx_429, 0.5)]);
        drop(limited);
        let proxy = edge().start();
        let sold_out = self.edge("edge: sold out 409", &proxy, "/flash/gone/holds?sku=shirt", &post, 409);
        report(sold_out, &[("bare 200", bare_200, 0.85), ("nginx 429", nginx_429, 0.5)]);
        let headers = self.file("authorizations", &authorizations());
        let script = self.file("reserve.lua", &reserve_script(&proxy.addresses().public, &headers));
        let figures = self.edge("edge: whole reserve path 201", &proxy, RESERVE, &script, 201);
        report(figures, &[("edge sold out", sold_out, 0.7)]);
        let held = client.line("FLASH.INFO sale:full").get("holds").integer();
        assert!(held > 1000, "only {held} holds: something else was measured");
        let ticketed = edge()
            .file("ticket-key", "the ticket key of this measurement, long enough")
            .set("tickets.mode", "\"optional\"")
            .set("tickets.keys", r#"[{ id = "k", secret_file = "ticket-key" }]"#)
            .start();
        let headers = self.tickets(&ticketed);
        let script = self.file("ticket.lua", &reserve_script(&ticketed.addresses().public, &headers));
        let figures = self.edge("edge: whole reserve path by ticket 201", &ticketed, RESERVE, &script, 201);
        report(figures, &[("edge sold out", sold_out, 0.7)]);
        drop(ticketed);
        // After good ones: a header of theirs is not read anew.
        let forged = token::bearer("ann", b"not the secret of this shop, but as long");
        let script =
            self.file("forged.lua", &format!("wrk.method = 'POST'\nwrk.headers['Authorization'] = '{forged}'\n"));
        let figures = self.edge("edge: bad token 401", &proxy, RESERVE, &script, 401);
        report(figures, &[("bare 200", bare_200, 0.65)]);
    }

    /// What is none of ours: on to the shop, beside Pingora that does only that.
    fn pass_through(&self) {
        let (_shop, shop) = self.nginx("shop", "return 200 \"a page of the shop\\n\";", OTHERS);
        let (nginx, address) = self.nginx("proxy", &format!("proxy_pass http://{shop};"), MEASURED);
        self.measure("nginx `proxy_pass`", nginx.pid(), &format!("http://{address}/page"), None);
        drop(nginx);
        let (bare, address) = self.bare(&["proxy"], &[&shop]);
        let bare_proxy = self.measure("bare Pingora proxy", bare.pid(), &format!("http://{address}/page"), None);
        drop(bare);
        let proxy = one_worker(Proxy::builder().set("redis.url", "\"redis://127.0.0.1:1\"").upstream(&shop)).start();
        pin(proxy.pid(), MEASURED);
        let figures = self.measure("edge: pass-through", proxy.pid(), &proxy.url("/page"), None);
        report(figures, &[("bare proxy", bare_proxy, 0.95)]);
    }

    /// What an idle connection and a remembered address weigh.
    fn memory(&self) {
        let redis = RedisServer::builder(Server::Redis70).module().start();
        redis.client().ok(&["FLASH.CREATE", "sale:s", "ITEMS", "shirt", "5"]);
        let proxy = one_worker(Proxy::builder().redis(&redis))
            .set("rates.mode", "\"enforce\"")
            .set("rates.address_per_second", "1000000")
            .set("listen.trusted_proxies", "[\"127.0.0.0/8\"]")
            .set("listen.keepalive_s", "600")
            .start();
        let request = |address: &str| format!("GET /flash/s HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n\r\n");
        let ask = |stream: &mut TcpStream, address: &str| {
            stream.write_all(request(address).as_bytes()).expect("written");
            let mut answer = [0; 2048];
            let length = stream.read(&mut answer).expect("an answer");
            assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{}", answer[..length].escape_ascii());
        };
        let connect = || TcpStream::connect(&proxy.addresses().public).expect("the proxy listens");
        let mut first = connect();
        ask(&mut first, "192.0.2.1");
        let before = resident_kib(proxy.pid());
        for number in 0..ADDRESSES {
            let [_, a, b, c] = (number as u32).to_be_bytes();
            ask(&mut first, &format!("11.{a}.{b}.{c}"));
        }
        let tracked = resident_kib(proxy.pid());
        println!();
        println!("memory: {before} KiB with a connection");
        println!("memory: {:+} KiB for {ADDRESSES} addresses", tracked as i64 - before as i64);
        let edge = idle_bytes(proxy.pid(), &proxy.addresses().public);
        let (_shop, shop) = self.nginx("idle-shop", "return 200 \"ok\\n\";", OTHERS);
        let (bare, address) = self.bare(&["proxy"], &[&shop]);
        let bare = idle_bytes(bare.pid(), &address);
        println!("memory: {edge} bytes an idle connection, bare Pingora proxy {bare} ({IDLE} of them)");
    }

    /// Whether thousands of dribbled headers slow down those who speak normally.
    fn slowloris(&self) {
        raise_open_files();
        let redis = RedisServer::builder(Server::Redis70).module().start();
        redis.client().ok(&["FLASH.CREATE", "sale:s", "ITEMS", "shirt", "5"]);
        let proxy = one_worker(Proxy::builder().redis(&redis))
            .set("listen.connections_per_address", "0")
            .set("listen.connections_max", "20000")
            .set("listen.header_timeout_ms", "600000")
            .start();
        pin(proxy.pid(), MEASURED);
        println!();
        println!("| 8 connections, GET of a sale | per second | CPU us a request | p99 ms | is | wanted |");
        println!("|---|---|---|---|---|---|");
        let load = |name| Load { name, pid: proxy.pid(), url: proxy.url("/flash/s"), script: None, connections: 8 };
        let (mut alone, mut beside, mut count) = (Vec::new(), Vec::new(), 0);
        for _ in 0..SLOW_PAIRS {
            alone.push(self.run(&load("alone")));
            end_row();
            let slow: Vec<TcpStream> = (0..SLOW)
                .map_while(|_| {
                    let mut stream = TcpStream::connect(&proxy.addresses().public).ok()?;
                    stream.write_all(b"GET /flash/s HTTP/1.1\r\nX-Slow: ").ok()?;
                    Some(stream)
                })
                .collect();
            count = slow.len();
            beside.push(dribbling(&slow, || self.run(&load("beside slow ones"))));
            end_row();
        }
        let ratio = |of: fn(&Figures) -> f64| median(&beside, of) / median(&alone, of);
        let (p99, cpu) = (ratio(|figures| figures.p99_ms), ratio(|figures| figures.cpu_us));
        println!("{count} slow connections: median p99 x {p99:.2}, at most 1.10 wanted; CPU a request x {cpu:.2}");
    }

    /// A row of the edge, whose answer must have this status.
    fn edge(&self, name: &str, proxy: &Proxy, path: &str, script: &str, status: u16) -> Figures {
        pin(proxy.pid(), MEASURED);
        let figures = self.run(&Load {
            name,
            pid: proxy.pid(),
            url: proxy.url(path),
            script: Some(script),
            connections: CONNECTIONS,
        });
        let metrics = Http::new().get(&proxy.admin_url("/metrics")).text();
        let label = format!("flashsale_responses_total{{route=\"reserve\",status=\"{status}\"}}");
        let count: f64 = metrics
            .lines()
            .find_map(|line| line.strip_prefix(&label)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no answer {status} in\n{metrics}"));
        assert!(count > 1000.0, "{count} answers {status}: something else was measured");
        figures
    }

    fn measure(&self, name: &str, pid: u32, url: &str, script: Option<&str>) -> Figures {
        let figures = self.run(&Load { name, pid, url: url.to_owned(), script, connections: CONNECTIONS });
        // Rows with something to compare them to are ended by `report`.
        if !name.starts_with("edge") {
            end_row();
        }
        figures
    }

    /// Sends the load and begins the row.
    fn run(&self, load: &Load<'_>) -> Figures {
        // The first requests make connections and fill caches.
        self.wrk(load, 1);
        let before = cpu_us(load.pid);
        let said = self.wrk(load, self.seconds);
        let cpu = cpu_us(load.pid) - before;
        let number = |label: &str| -> f64 {
            let line =
                said.lines().find_map(|line| line.trim().strip_prefix(label)).unwrap_or_else(|| panic!("{said}"));
            line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{said}"))
        };
        let requests: f64 = said
            .lines()
            .find_map(|line| line.split_once(" requests in ")?.0.trim().parse().ok())
            .unwrap_or_else(|| panic!("{said}"));
        let p99 = said.lines().find_map(|line| line.trim().strip_prefix("99%")).map_or(0.0, milliseconds);
        let figures = Figures { per_second: number("Requests/sec:"), cpu_us: cpu / requests, p99_ms: p99 };
        print!("| {} | {:.0} | {:.2} | {:.2} |", load.name, figures.per_second, figures.cpu_us, figures.p99_ms);
        figures
    }

    /// A file with a header with a ticket on each line, as many as will be shown.
    fn tickets(&self, proxy: &Proxy) -> String {
        let count = (self.seconds + 1) * TICKETS_PER_SECOND;
        let stream = TcpStream::connect(&proxy.addresses().public).expect("the proxy listens");
        let (mut writer, mut reader) = (stream.try_clone().expect("the same connection"), BufReader::new(stream));
        let mut tickets = String::new();
        for first in (0..count).step_by(CONNECTIONS) {
            let batch = first..count.min(first + CONNECTIONS as u64);
            let requests: String = batch
                .clone()
                .map(|buyer| {
                    let bearer = token::bearer(&format!("buyer-{buyer}"), TOKEN_SECRET.as_bytes());
                    format!("POST /flash/full/ticket HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\n\r\n")
                })
                .collect();
            writer.write_all(requests.as_bytes()).expect("written");
            for _ in batch {
                let answer = read_answer(&mut reader);
                let ticket = answer.split_once(r#""ticket":""#).and_then(|(_, rest)| rest.split_once('"'));
                tickets += "Flash-Ticket: ";
                tickets += ticket.unwrap_or_else(|| panic!("no ticket: {answer}")).0;
                tickets.push('\n');
            }
        }
        self.file("tickets", &tickets)
    }

    fn wrk(&self, load: &Load<'_>, seconds: u64) -> String {
        let mut command = Command::new("taskset");
        command.args(["-c", &OTHERS.to_string(), "wrk", "--latency", "-t1"]);
        command.args([format!("-c{}", load.connections), format!("-d{seconds}s")]);
        if let Some(script) = load.script {
            command.args(["-s", script]);
        }
        let output = command.arg(&load.url).output().expect("wrk runs: `scripts/setup.sh bench` installs it");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.join(name);
        std::fs::write(&path, content).expect("written");
        path.to_str().expect("a plain path").to_owned()
    }

    /// One nginx process that does `what`, on its core; where it listens.
    fn nginx(&self, name: &str, what: &str, core: usize) -> (Process, String) {
        let address = format!("127.0.0.1:{}", free_port());
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).expect("a folder");
        let upstream = what.strip_prefix("proxy_pass http://").map(|rest| rest.trim_end_matches(';'));
        let (pool, what) = match upstream {
            Some(shop) => (
                format!("upstream shop {{ server {shop}; keepalive 128; }}"),
                "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_pass http://shop;".to_owned(),
            ),
            None => (String::new(), what.to_owned()),
        };
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {0}/pid; error_log stderr crit;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {0}; proxy_temp_path {0};\n\
             fastcgi_temp_path {0}; uwsgi_temp_path {0}; scgi_temp_path {0}; {pool}\n\
             server {{ listen {address}; location / {{ {what} }} }} }}\n",
            dir.display()
        );
        let file = dir.join("nginx.conf");
        std::fs::write(&file, config).expect("written");
        let mut command = Command::new(if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" });
        command.arg("-p").arg(&dir).arg("-c").arg(&file);
        let process = Process::start("nginx", command, &dir.join("log"))
            .unwrap_or_else(|error| panic!("nginx: {error}; `scripts/setup.sh bench` installs it"));
        await_port(&address);
        pin(process.pid(), core);
        (process, address)
    }

    /// `bare MODE ADDRESS ...` on the measured core.
    fn bare(&self, mode: &[&str], rest: &[&str]) -> (Process, String) {
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(artifacts::bare());
        command.args(mode).arg(&address).args(rest).env("RUST_LOG", "off");
        let process = Process::start("bare", command, &self.dir.join("bare.log")).expect("it runs");
        await_port(&address);
        pin(process.pid(), MEASURED);
        (process, address)
    }
}

/// What `run` gives while each of `slow` sends a byte in ten seconds, as such attacks do it.
fn dribbling<T>(slow: &[TcpStream], run: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for mut stream in slow.iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let _ = stream.write_all(b"x");
                std::thread::sleep(Duration::from_secs(10) / slow.len() as u32);
            }
        });
        let result = run();
        done.store(true, Ordering::Relaxed);
        result
    })
}

fn median(runs: &[Figures], of: fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The end of a row: how the figures are to others, by CPU time and by rate.
fn report(figures: Figures, others: &[(&str, Figures, f64)]) {
    let is: Vec<String> = others
        .iter()
        .map(|(name, other, _)| {
            let (by_cpu, by_rate) = (other.cpu_us / figures.cpu_us, figures.per_second / other.per_second);
            format!("{by_rate:.2} x {name} ({by_cpu:.2} by CPU)")
        })
        .collect();
    let wanted: Vec<String> = others.iter().map(|(_, _, wanted)| format!("{wanted}")).collect();
    println!(" {} | {} |", is.join(", "), wanted.join(", "));
}

fn end_row() {
    println!(" | |");
}

/// One worker, whatever the machine has, and no limit on what the load may do.
fn one_worker(builder: ProxyBuilder) -> ProxyBuilder {
    builder
        .set("listen.threads", "1")
        .set("listen.connections_per_address", "0")
        .set("rates.buyer_per_second", "0")
        .set("access_log.sample", "0.0")
}

/// A header on each line: every request is another buyer's in turn.
fn authorizations() -> String {
    let line = |buyer| {
        let bearer = token::bearer(&format!("buyer-{buyer}"), TOKEN_SECRET.as_bytes());
        format!("Authorization: {bearer}\n")
    };
    (0..BUYERS).map(line).collect()
}

/// Requests to reserve at `host`, each with another header of the file `headers`, in turn, from anywhere on. They are
/// put together before the measurement: the load shares its core with Redis.
fn reserve_script(host: &str, headers: &str) -> String {
    format!(
        "local requests = {{}}\nfor header in io.lines('{headers}') do\n  \
         requests[#requests + 1] = 'POST {RESERVE} HTTP/1.1\\r\\nHost: {host}\\r\\n' .. header .. '\\r\\n\\r\\n'\nend\n\
         math.randomseed(os.time())\nlocal next = math.random(#requests)\n\
         function request()\n  next = next % #requests + 1\n  return requests[next]\nend\n"
    )
}

/// An answer with a body of announced length.
fn read_answer(reader: &mut impl BufRead) -> String {
    let (mut answer, mut length) = (String::new(), 0);
    while !answer.ends_with("\r\n\r\n") {
        let from = answer.len();
        assert!(reader.read_line(&mut answer).expect("a line") > 0, "cut off: {answer}");
        if let Some(value) = answer[from..].to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().expect("a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the body");
    answer + &String::from_utf8_lossy(&body)
}

fn await_port(address: &str) {
    wait_until("it listens", PATIENCE, || TcpStream::connect(address).is_ok());
}

/// Binds all threads of a process to a core; new ones follow theirs.
fn pin(pid: u32, core: usize) {
    let output = Command::new("taskset").args(["-acp", &core.to_string(), &pid.to_string()]).output();
    assert!(output.is_ok_and(|output| output.status.success()), "taskset -acp {core} {pid} failed");
}

/// CPU time of a process so far, in microseconds.
fn cpu_us(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum();
    // SAFETY: a plain question to the C library.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    ticks * 1e6 / per_second
}

/// Memory of a process in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.split_whitespace().next().and_then(|size| size.parse().ok()).expect("a number")
}

/// What a kept connection weighs that has asked once.
fn idle_bytes(pid: u32, address: &str) -> u64 {
    let before = resident_kib(pid);
    let idle: Vec<TcpStream> = (0..IDLE)
        .map(|_| {
            let mut stream = TcpStream::connect(address).expect("it listens");
            stream.write_all(b"GET /flash/s HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
            let mut answer = [0; 2048];
            let length = stream.read(&mut answer).expect("an answer");
            assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{}", answer[..length].escape_ascii());
            stream
        })
        .collect();
    let bytes = resident_kib(pid).saturating_sub(before) * 1024 / idle.len() as u64;
    drop(idle);
    bytes
}

/// A time as wrk writes it, such as `1.23ms`.
fn milliseconds(text: &str) -> f64 {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let number: f64 = number.parse().expect("a number");
    match unit {
        "us" => number / 1e3,
        "s" => number * 1e3,
        _ => number,
    }
}

fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or fill the struct they are given.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        libc::setrlimit(libc::RLIMIT_NOFILE, &raised);
    }
}
