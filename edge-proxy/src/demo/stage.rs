//! Sets the stage: redis-server with the module, the shop, the proxy with the relay in it, and the sale.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{EncodingKey, Header, encode};
use redis::aio::MultiplexedConnection;
use serde_json::json;
use tokio::time::sleep;

use super::Plan;
use super::folder::Folder;
use super::process::{Process, free_port};

/// The name of the sale, in `/flash/demo`.
pub const SALE: &str = "demo";
/// Its key.
pub const SALE_KEY: &str = "sale:demo";
pub const SKU: &str = "sneaker";
const SHOP: &str = include_str!("../../../examples/demo-shop/shop.py");
/// How long a server may take to be ready.
const STARTING: Duration = Duration::from_secs(20);

/// Everything that runs. Fields are dropped in this order: the proxy first, the folder last.
pub struct Stage {
    proxy: Process,
    shop: Process,
    server: Process,
    pub redis_port: u16,
    pub public: String,
    pub admin: String,
    pub shop_url: String,
    pub config: PathBuf,
    token_key: EncodingKey,
    redis: MultiplexedConnection,
    pub folder: Folder,
}

impl Stage {
    /// Starts it all, from the main thread; says what it does.
    ///
    /// # Errors
    /// A program is missing, or a server does not come up; the error ends with what the server said.
    pub async fn set(plan: &Plan) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let [redis_port, shop_port, public_port, admin_port] = [free_port()?, free_port()?, free_port()?, free_port()?];
        let mut server = start_redis(plan, redis_port, folder.path())?;
        let redis = connected(redis_port, &mut server).await?;
        println!("redis-server with the module on 127.0.0.1:{redis_port}");

        let webhook_secret = format!("whsec_{}", STANDARD.encode(rand::random::<[u8; 32]>()));
        let webhook_file = folder.write("webhook-secret", &webhook_secret)?;
        let mut shop = start_shop(plan, shop_port, &webhook_secret, &folder)?;
        let shop_url = format!("http://127.0.0.1:{shop_port}");
        answering(&format!("{shop_url}/health"), &mut shop).await?;
        println!("an ordinary web shop on {shop_url}");

        let token_secret = STANDARD.encode(rand::random::<[u8; 32]>());
        let token_file = folder.write("token-secret", &token_secret)?;
        let config = json!({
            "public": format!("127.0.0.1:{public_port}"),
            "admin": format!("127.0.0.1:{admin_port}"),
            "shop": format!("127.0.0.1:{shop_port}"),
            "redis": format!("redis://127.0.0.1:{redis_port}"),
            "webhook": format!("{shop_url}/webhooks/orders"),
        });
        let config = edge_config(&config, &token_file, &webhook_file);
        let config = folder.write("edge.toml", &config)?;
        let mut proxy = start_proxy(&config, folder.path())?;
        let public = format!("http://127.0.0.1:{public_port}");
        let admin = format!("http://127.0.0.1:{admin_port}");
        answering(&format!("{admin}/healthz"), &mut proxy).await?;
        println!("the proxy before it on {public}, its admin listener on {admin}");
        Ok(Self {
            proxy,
            shop,
            server,
            redis_port,
            public,
            admin,
            shop_url,
            config,
            token_key: EncodingKey::from_secret(token_secret.as_bytes()),
            redis,
            folder,
        })
    }

    /// A connection to Redis.
    pub fn redis(&self) -> MultiplexedConnection {
        self.redis.clone()
    }

    /// The token by which the shop's login would vouch for `buyer`, good for a day.
    ///
    /// # Errors
    /// Never in practice: the key is a good one.
    pub fn token(&self, buyer: &str) -> anyhow::Result<String> {
        let claims = json!({ "sub": buyer, "exp": unix_now().as_secs() + 86_400 });
        Ok(encode(&Header::default(), &claims, &self.token_key)?)
    }

    /// Fails if one of the servers has ended.
    ///
    /// # Errors
    /// One has; the error ends with what it said.
    pub fn still_stands(&mut self) -> anyhow::Result<()> {
        self.server.still_runs()?;
        self.shop.still_runs()?;
        self.proxy.still_runs()
    }
}

/// Time since the epoch.
pub fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn start_redis(plan: &Plan, port: u16, folder: &Path) -> anyhow::Result<Process> {
    let module = plan.module.clone().map_or_else(find_module, Ok)?;
    let module = module.canonicalize().with_context(|| format!("the module {}", module.display()))?;
    let mut command = Command::new(&plan.redis_server);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
    command.arg("--dir").arg(folder).arg("--loadmodule").arg(module);
    Process::start("redis-server", command, folder)
}

/// The module lies beside the program, or where `make` has built it.
fn find_module() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("where is this program?")?;
    let beside = program.parent().unwrap_or(Path::new(".")).join("libflashsale.so");
    let candidates = [
        beside,
        PathBuf::from("target/release/libflashsale.so"),
        PathBuf::from("/usr/local/lib/libflashsale.so"),
        PathBuf::from("/usr/lib/redis/modules/libflashsale.so"),
    ];
    let found = candidates.iter().find(|path| path.is_file());
    found.cloned().context("libflashsale.so is not beside this program: build it with `make`, or name it with --module")
}

async fn connected(port: u16, server: &mut Process) -> anyhow::Result<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    let began = Instant::now();
    loop {
        if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
            let ping: Result<String, _> = redis::cmd("PING").query_async(&mut connection).await;
            if ping.is_ok() {
                return Ok(connection);
            }
        }
        wait_for("redis-server", began, server).await?;
    }
}

fn start_shop(plan: &Plan, port: u16, secret: &str, folder: &Folder) -> anyhow::Result<Process> {
    let script = folder.write("shop.py", SHOP)?;
    let mut command = Command::new("python3");
    command.arg("-B").arg(script).args(["--port", &port.to_string()]);
    command.arg("--database").arg(folder.path().join("orders.db"));
    command.args(["--fail-share", &plan.fail_share.to_string()]);
    command.args(["--forget-share", &plan.forget_share.to_string()]);
    // Not on the command line, where every user of the machine could read it.
    command.env("SHOP_WEBHOOK_SECRET", secret);
    Process::start("shop", command, folder.path())
}

fn start_proxy(config: &Path, folder: &Path) -> anyhow::Result<Process> {
    let mut command = Command::new(std::env::current_exe().context("where is this program?")?);
    command.arg("serve").arg("--config").arg(config);
    Process::start("proxy", command, folder)
}

fn edge_config(addresses: &serde_json::Value, token_file: &Path, webhook_file: &Path) -> String {
    // JSON strings are TOML strings.
    let address = |name: &str| addresses[name].to_string();
    let file = |path: &Path| json!(path.to_string_lossy()).to_string();
    format!(
        r#"# The config of `flashsale demo`: what a shop would write, but for the ports and the trusted proxy.
[listen]
public = {public}
admin = {admin}
# The buyers of the demo all come from this machine; each says in X-Forwarded-For where it would come from.
trusted_proxies = ["127.0.0.0/8"]

[shop]
upstreams = [{shop}]
health_path = "/health"

[redis]
url = {redis}

[rates]
address_per_second = 20
buyer_per_second = 5
buyer_burst = 10

[[tokens.keys]]
algorithm = "HS256"
secret_file = {token_file}

[access_log]
sample = 0.0

[relay]
enabled = true
sales = ["{SALE_KEY}"]

[relay.webhook]
url = {webhook}
secret_file = {webhook_file}
backoff_first_ms = 100
backoff_longest_ms = 2000
"#,
        public = address("public"),
        admin = address("admin"),
        shop = address("shop"),
        redis = address("redis"),
        webhook = address("webhook"),
        token_file = file(token_file),
        webhook_file = file(webhook_file),
    )
}

async fn answering(url: &str, process: &mut Process) -> anyhow::Result<()> {
    let began = Instant::now();
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
    loop {
        if let Ok(answer) = client.get(url).send().await
            && answer.status().is_success()
        {
            return Ok(());
        }
        wait_for(url, began, process).await?;
    }
}

async fn wait_for(what: &str, began: Instant, process: &mut Process) -> anyhow::Result<()> {
    process.still_runs()?;
    if began.elapsed() > STARTING {
        bail!("{what} does not answer; it said:\n{}", process.last_words());
    }
    sleep(Duration::from_millis(30)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_is_one_that_the_proxy_takes() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        let token = secret("token", &STANDARD.encode([7; 32]));
        let webhook = secret("webhook", &format!("whsec_{}", STANDARD.encode([7; 32])));
        let addresses = json!({
            "public": "127.0.0.1:1", "admin": "127.0.0.1:2", "shop": "127.0.0.1:3",
            "redis": "redis://127.0.0.1:4", "webhook": "http://127.0.0.1:3/webhooks/orders",
        });
        let text = edge_config(&addresses, &token, &webhook);
        let config = crate::config::Config::parse(&text).expect("a config");
        let settings = crate::relay::Settings::of_config(&config).expect("settings");
        crate::relay::Relay::new(settings).expect("a relay");
    }
}
