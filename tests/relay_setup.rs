//! What the relay's tests share: the demo shop, relays, and order streams written by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use flashsale_tests::http::Http;
use flashsale_tests::process::Process;
use flashsale_tests::{Client, RedisServer, artifacts, free_port, wait_until};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

/// The secret of the Standard Webhooks spec's own example.
pub const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An order as the demo shop has it.
#[derive(Debug, Clone, Deserialize)]
pub struct ShopOrder {
    pub id: String,
    pub sale: String,
    pub no: u64,
    pub buyer: String,
    /// How often the shop was told of it.
    pub told: u64,
}

/// `examples/demo-shop/shop.py`, which keeps its orders and its port over restarts.
pub struct DemoShop {
    port: u16,
    dir: TempDir,
    process: Option<Process>,
}

impl DemoShop {
    /// A shop that behaves as the arguments say, and answers.
    #[track_caller]
    pub fn start(arguments: &[&str]) -> DemoShop {
        let mut shop = DemoShop::not_there();
        shop.open(arguments);
        shop
    }

    /// A shop that is still closed.
    pub fn not_there() -> DemoShop {
        DemoShop { port: free_port(), dir: tempfile::tempdir().expect("a temporary folder"), process: None }
    }

    /// Opens it, after closing it if it was open.
    #[track_caller]
    pub fn open(&mut self, arguments: &[&str]) {
        self.close();
        let mut command = Command::new("python3");
        command
            .arg("-B")
            .arg(artifacts::project().join("examples/demo-shop/shop.py"))
            .args(["--port", &self.port.to_string(), "--secret", SECRET])
            .arg("--database")
            .arg(self.dir.path().join("orders.db"))
            .args(arguments);
        let log = self.dir.path().join("shop.log");
        let process = Process::start("the demo shop", command, &log).expect("python3 runs");
        self.process = Some(process);
        let health = format!("http://127.0.0.1:{}/health", self.port);
        wait_until("the demo shop answers", PATIENCE, || {
            let answer = Http::new().try_request("GET", &health, &[], b"");
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Kills it, as a crash would.
    pub fn close(&mut self) {
        self.process = None;
    }

    /// Where its webhook is.
    pub fn webhook(&self) -> String {
        format!("http://127.0.0.1:{}/webhooks/orders", self.port)
    }

    /// What it has, in the order in which it came.
    #[track_caller]
    pub fn orders(&self) -> Vec<ShopOrder> {
        let url = format!("http://127.0.0.1:{}/api/orders?limit=1000000", self.port);
        let mut answer: Value = Http::new().get(&url).json();
        serde_json::from_value(answer["orders"].take()).expect("a list of orders")
    }

    #[track_caller]
    pub fn wait_for_orders(&self, count: usize) {
        wait_until("the shop has all orders", PATIENCE, || self.orders().len() >= count);
    }
}

/// Every order from 1 to `count` is there once, and those of a buyer came in the order of their numbers.
#[track_caller]
pub fn assert_each_once_in_order(orders: &[ShopOrder], sale: &str, count: u64) {
    let orders: Vec<_> = orders.iter().filter(|order| order.sale == sale).collect();
    let ids: BTreeSet<_> = orders.iter().map(|order| &order.id).collect();
    assert_eq!(ids.len(), orders.len(), "an id is there twice");
    let numbers: BTreeSet<_> = orders.iter().map(|order| order.no).collect();
    assert!(numbers.iter().copied().eq(1..=count), "{count} orders, not {numbers:?}");
    assert_eq!(orders.len() as u64, count);
    let mut last = BTreeMap::new();
    for order in orders {
        let before = last.insert(&order.buyer, order.no).unwrap_or(0);
        assert!(before < order.no, "{}: {before} came before {}", order.buyer, order.no);
    }
}

/// A running `flashsale relay`.
pub struct Relay {
    pub process: Process,
    config: PathBuf,
    _dir: TempDir,
}

/// Settings that make a test quick; each may be set otherwise, its value as TOML.
pub struct RelayBuilder(BTreeMap<String, String>);

impl Relay {
    /// For the sale `sale:1` of this server.
    pub fn builder(redis: &RedisServer, webhook: &str) -> RelayBuilder {
        let settings = RelayBuilder(BTreeMap::new())
            .set("redis.url", &format!("{:?}", redis.url()))
            .set("relay.sales", "[\"sale:1\"]")
            .set("relay.lease_ms", "2000")
            .set("relay.trim_ms", "100")
            .set("relay.webhook.url", &format!("{webhook:?}"))
            .set("relay.webhook.secret_env", "\"RELAY_TEST_SECRET\"")
            .set("relay.webhook.timeout_ms", "1000")
            .set("relay.webhook.backoff_first_ms", "20");
        settings.set("relay.webhook.backoff_longest_ms", "500")
    }

    /// The usual relay.
    pub fn start(redis: &RedisServer, webhook: &str) -> Relay {
        Relay::builder(redis, webhook).start()
    }

    /// Runs `flashsale relay ACTION...` with this relay's config; gives back what it printed and whether it went well.
    pub fn run(&self, action: &[&str]) -> (String, bool) {
        let mut command = relay_command(&self.config);
        let output = command.args(action).output().expect("flashsale runs");
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
    }
}

impl RelayBuilder {
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.0.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn start(self) -> Relay {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("edge.toml");
        let lines: String = self.0.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        std::fs::write(&config, lines).expect("the temporary folder can be written");
        let command = relay_command(&config);
        let process = Process::start("flashsale relay", command, &dir.path().join("relay.log"));
        Relay { process: process.expect("flashsale relay runs"), config, _dir: dir }
    }
}

fn relay_command(config: &PathBuf) -> Command {
    let mut command = Command::new(artifacts::flashsale());
    command.arg("relay").arg("--config").arg(config);
    command.env("RELAY_TEST_SECRET", SECRET);
    command
}

/// Writes orders `from..=to` of `sale:1` as the module writes them.
pub fn place_orders(client: &mut Client, from: u64, to: u64) {
    for no in from..=to {
        let (no, hold) = (no.to_string(), format!("hold-{no}"));
        let buyer = format!("buyer-{}", no.len() + no.bytes().map(usize::from).sum::<usize>() % 7);
        place(client, "{sale:1}:orders", &[("no", &no), ("hold", &hold), ("buyer", &buyer)]);
    }
}

/// Writes one entry; fields that are not given are those of an ordinary order.
pub fn place(client: &mut Client, stream: &str, given: &[(&str, &str)]) {
    let usual = [
        ("type", "confirmed"),
        ("no", "1"),
        ("hold", "h"),
        ("buyer", "ada"),
        ("items", "shirt=1"),
        ("ref", ""),
        ("meta", ""),
        ("at", "1700000000123"),
        ("available", "shirt=9"),
        ("held", "shirt=0"),
        ("sold", "shirt=1"),
    ];
    let mut command = vec!["XADD", stream, "*"];
    for (name, value) in usual {
        let found = given.iter().find(|(given, _)| *given == name);
        command.extend([name, found.map_or(value, |(_, value)| value)]);
    }
    client.ok(&command);
}

/// Entries that are not acknowledged, and entries in the stream.
pub fn left_over(client: &mut Client, stream: &str) -> (i64, i64) {
    let pending = client.ok(&["XPENDING", stream, "flashsale"]).at(0).integer();
    (pending, client.ok(&["XLEN", stream]).integer())
}
