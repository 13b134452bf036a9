use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::http::Http;
use crate::ports::free_ports;
use crate::process::Process;
use crate::{RedisServer, artifacts, token};

const PATIENCE: Duration = Duration::from_secs(30);

/// Where a proxy listens, and its folder.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// `127.0.0.1:PORT` of the public listener.
    pub public: String,
    /// `127.0.0.1:PORT` of the admin listener.
    pub admin: String,
    /// A folder that lives as long as the proxy.
    pub dir: PathBuf,
}

/// What a proxy is started with. Made by [`Proxy::builder`].
#[derive(Debug, Clone)]
pub struct ProxyBuilder {
    settings: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
}

impl ProxyBuilder {
    /// The Redis server that holds the stock.
    pub fn redis(self, redis: &RedisServer) -> Self {
        self.set("redis.url", &quoted(&redis.url()))
    }

    /// Several Redis servers, or nodes of a cluster, or Sentinels.
    pub fn redis_urls(self, urls: &[String]) -> Self {
        let urls: Vec<_> = urls.iter().map(|url| quoted(url)).collect();
        self.set("redis.urls", &format!("[{}]", urls.join(", ")))
    }

    /// Several clusters, groups of Sentinels or servers: `[[redis.groups]]`, each of these addresses.
    pub fn redis_groups(self, groups: &[Vec<String>]) -> Self {
        let group = |urls: &Vec<String>| {
            let urls: Vec<_> = urls.iter().map(|url| quoted(url)).collect();
            format!("{{ urls = [{}] }}", urls.join(", "))
        };
        let groups: Vec<_> = groups.iter().map(group).collect();
        self.set("redis.groups", &format!("[{}]", groups.join(", ")))
    }

    /// The shop behind the proxy, as `127.0.0.1:PORT`.
    pub fn upstream(self, address: &str) -> Self {
        self.set("shop.upstreams", &format!("[{}]", quoted(address)))
    }

    /// Runs the relay too, which sends the orders of every sale to this URL, signed with `secret`.
    pub fn webhook(self, url: &str, secret: &str) -> Self {
        self.file("webhook-secret", secret)
            .set("relay.enabled", "true")
            .set("relay.webhook.url", &quoted(url))
            .set("relay.webhook.secret_file", &quoted("webhook-secret"))
    }

    /// A file beside the config, which settings may name: the proxy runs in its folder.
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.files.insert(name.to_owned(), content.to_owned());
        self
    }

    /// Any setting, its value as TOML: `.set("rates.mode", "\"enforce\"")`.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Writes the config file, starts `flashsale serve` with it, and waits until `/healthz` answers 200.
    ///
    /// # Panics
    /// If it does not come up; its log is in the message.
    #[track_caller]
    pub fn start(self) -> Proxy {
        let dir = tempfile::Builder::new().prefix("flashsale-edge-").tempdir().expect("a temporary folder");
        // Another process may take a port between our look and the proxy's bind.
        for _ in 0..5 {
            let [public, admin] = free_ports();
            let addresses = Addresses {
                public: format!("127.0.0.1:{public}"),
                admin: format!("127.0.0.1:{admin}"),
                dir: dir.path().to_owned(),
            };
            let mut process = self.spawn(&addresses, &[]);
            if becomes_healthy(&mut process, &addresses) {
                return Proxy { process, addresses, builder: self, _dir: dir };
            }
            assert!(
                process.output().contains("Address already in use"),
                "flashsale serve did not start:\n{}",
                process.output()
            );
        }
        panic!("five pairs of ports in turn were taken by others");
    }

    fn spawn(&self, addresses: &Addresses, arguments: &[&str]) -> Process {
        let file = self.write(addresses);
        let mut command = Command::new(artifacts::flashsale());
        command.current_dir(&addresses.dir).arg("serve").arg("--config").arg(file).args(arguments);
        Process::start("flashsale serve", command, &addresses.dir.join("edge.log"))
            .unwrap_or_else(|error| panic!("flashsale serve can't be run: {error}"))
    }

    /// Writes the config and the files it names; where the config is.
    fn write(&self, addresses: &Addresses) -> PathBuf {
        for (name, content) in &self.files {
            std::fs::write(addresses.dir.join(name), content).expect("the temporary folder can be written");
        }
        let mut settings = self.settings.clone();
        settings.insert("listen.public".into(), quoted(&addresses.public));
        settings.insert("listen.admin".into(), quoted(&addresses.admin));
        let config: String = settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let file = addresses.dir.join("edge.toml");
        std::fs::write(&file, config).expect("the temporary folder can be written");
        file
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// A running `flashsale serve` with a config file of its own.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    addresses: Addresses,
    builder: ProxyBuilder,
    _dir: TempDir,
}

/// The secret of the HS256 key that every proxy here knows, unless `tokens.keys` is set.
pub const TOKEN_SECRET: &str = "a secret of the shop, 32 bytes at least";

impl Proxy {
    /// A proxy on free ports that trusts tokens signed with [`TOKEN_SECRET`] and limits no rates.
    pub fn builder() -> ProxyBuilder {
        ProxyBuilder { settings: BTreeMap::new(), files: BTreeMap::new() }
            .file("jwt-secret", TOKEN_SECRET)
            .set("tokens.keys", r#"[{ algorithm = "HS256", secret_file = "jwt-secret" }]"#)
            .set("rates.mode", &quoted("off"))
    }

    /// `Authorization` of a buyer, which this proxy believes.
    pub fn bearer(&self, buyer: &str) -> String {
        token::bearer(buyer, TOKEN_SECRET.as_bytes())
    }

    /// `http://127.0.0.1:PORT/path` on the public listener; `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.public)
    }

    /// The same on the admin listener.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.admin)
    }

    /// All metrics as a scraper gets them.
    #[track_caller]
    pub fn metrics(&self) -> String {
        Http::new().get(&self.admin_url("/metrics")).text()
    }

    /// The sum of all samples of a metric whose labels have all these texts; 0 if there is none.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let metrics = self.metrics();
        let is_of_it = |line: &&str| {
            line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label))
        };
        let sample = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        metrics.lines().filter(is_of_it).filter_map(sample).sum()
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        self.process.output()
    }

    pub fn is_alive(&mut self) -> bool {
        self.process.exited().is_none()
    }

    pub fn kill_9(&mut self) {
        self.process.kill_9();
    }

    /// Asks it to end, as an operator would.
    pub fn stop(&mut self) {
        self.process.stop(PATIENCE);
    }

    /// Starts it again on the same ports, after [`Proxy::kill_9`] or [`Proxy::stop`].
    #[track_caller]
    pub fn restart(&mut self) {
        self.process = self.builder.spawn(&self.addresses, &[]);
        assert!(
            becomes_healthy(&mut self.process, &self.addresses),
            "flashsale serve did not start again:\n{}",
            self.log()
        );
    }

    /// Writes other settings and files into its folder. It has to be told: by `SIGHUP`, say.
    pub fn rewrite(&mut self, change: impl FnOnce(ProxyBuilder) -> ProxyBuilder) {
        self.builder = change(self.builder.clone());
        self.builder.write(&self.addresses);
    }

    /// Starts another process that takes the listeners over, as `listen.upgrade_socket` says. Both live for some
    /// seconds; the old one is given back.
    ///
    /// # Panics
    /// If the new one ends at once.
    #[track_caller]
    pub fn upgrade(&mut self, socket: &str) -> Process {
        let mut new = self.builder.spawn(&self.addresses, &["--upgrade"]);
        let socket = self.addresses.dir.join(socket);
        crate::wait_until("the new process waits for the listeners", PATIENCE, || {
            assert!(new.exited().is_none(), "it has ended:\n{}", new.output());
            socket.exists()
        });
        self.process.signal(libc::SIGQUIT);
        std::mem::replace(&mut self.process, new)
    }

    /// Sends a signal: `SIGHUP` reloads, `SIGSTOP` hangs it.
    pub fn signal(&mut self, signal: i32) {
        self.process.signal(signal);
    }
}

/// Whether `/healthz` answers 200 before the proxy exits.
fn becomes_healthy(process: &mut Process, addresses: &Addresses) -> bool {
    let http = Http::new();
    let url = format!("http://{}/healthz", addresses.admin);
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if process.exited().is_some() {
            return false;
        }
        if http.try_request("GET", &url, &[], b"").is_ok_and(|answer| answer.status == 200) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}
