//! What a server says of itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use redis::Value;

use crate::operate::deployment::{Deployment, Trouble, words};
use crate::store::answer::{number, pairs, text};
use crate::store::nodes::{Dialect, Node};

/// How often a server is pinged.
const PINGS: usize = 20;

/// The settings that matter.
const SETTINGS: [&str; 11] = [
    "appendonly",
    "appendfsync",
    "save",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-to-write",
    "min-replicas-max-lag",
    "stop-writes-on-bgsave-error",
    "repl-backlog-size",
    "cluster-require-full-coverage",
    "cluster-allow-reads-when-down",
];

/// One server, as it was when it was asked.
#[derive(Debug, Clone, Default)]
pub struct Probe {
    pub address: String,
    /// `INFO`, all sections.
    pub info: BTreeMap<String, String>,
    /// `CONFIG GET`; `None` where that is forbidden.
    pub settings: Option<BTreeMap<String, String>>,
    /// `CLUSTER INFO`, in a cluster.
    pub cluster: Option<BTreeMap<String, String>>,
    /// Module or library; `None`: neither.
    pub dialect: Option<Dialect>,
    /// Version of the module, as `MODULE LIST` has it.
    pub module_version: Option<u64>,
    /// The server's clock less ours, in ms.
    pub skew_ms: i64,
    /// Round trips of PING, the shortest first.
    pub pings: Vec<Duration>,
}

impl Probe {
    /// Asks a server about itself.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn of(deployment: &Deployment, node: &Node, is_cluster: bool) -> Result<Self, (String, Trouble)> {
        let address = node.address.clone();
        Self::ask(deployment, node, is_cluster).await.map_err(|trouble| (address, trouble))
    }

    async fn ask(deployment: &Deployment, node: &Node, is_cluster: bool) -> Result<Self, Trouble> {
        let info = deployment.ask_node(node, &words(&["INFO", "everything"])).await?;
        let mut probe = Self {
            address: node.address.clone(),
            info: lines(&text(&info).unwrap_or_default()),
            dialect: match deployment.dialect_of(node).await {
                Ok(dialect) => Some(dialect),
                Err(Trouble::NoFlashsale { .. }) => None,
                Err(trouble) => return Err(trouble),
            },
            ..Self::default()
        };
        let mut get = words(&["CONFIG", "GET"]);
        SETTINGS.iter().for_each(|name| {
            get.arg(name);
        });
        // Managed services forbid CONFIG and MODULE: that is a finding, not an error.
        probe.settings = deployment.ask_node(node, &get).await.ok().and_then(texts);
        probe.module_version =
            deployment.ask_node(node, &words(&["MODULE", "LIST"])).await.ok().and_then(module_version);
        if is_cluster {
            let about = deployment.ask_node(node, &words(&["CLUSTER", "INFO"])).await?;
            probe.cluster = Some(lines(&text(&about).unwrap_or_default()));
        }
        probe.skew_ms = deployment.skew_ms(node).await?;
        for _ in 0..PINGS {
            let began = Instant::now();
            deployment.ask_node(node, &words(&["PING"])).await?;
            probe.pings.push(began.elapsed());
        }
        probe.pings.sort_unstable();
        Ok(probe)
    }

    /// A field of `INFO` as a number.
    pub fn count(&self, field: &str) -> Option<u64> {
        self.info.get(field)?.parse().ok()
    }

    /// A setting, where it may be read.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.as_ref()?.get(name).map(String::as_str)
    }

    /// Replicas that follow.
    pub fn online_replicas(&self) -> usize {
        let is_replica = |field: &str| field.strip_prefix("slave").is_some_and(|rest| rest.parse::<u32>().is_ok());
        self.info.iter().filter(|(field, about)| is_replica(field) && about.contains("state=online")).count()
    }

    /// Name and version of the server: Valkey calls itself Redis 7.2 too.
    pub fn version(&self) -> (&'static str, String) {
        let field = |name| self.info.get(name).cloned();
        match field("valkey_version") {
            Some(version) => ("Valkey", version),
            None => ("Redis", field("redis_version").unwrap_or_default()),
        }
    }
}

/// Commands of a server and of the keys that are asked most, over some seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HotSample {
    pub server: String,
    /// Commands a second.
    pub commands: f64,
    /// Share of one core that the main thread used.
    pub core: f64,
    /// Sale, shards of the sale, and commands a second of its keys on this server.
    pub sales: Vec<(String, u32, f64)>,
}

/// `name:value` lines.
pub fn lines(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| line.trim().split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
    text.lines().filter_map(pair).collect()
}

fn texts(reply: Value) -> Option<BTreeMap<String, String>> {
    let pairs = pairs(reply).ok()?;
    Some(pairs.iter().filter_map(|(name, value)| text(name).zip(text(value))).collect())
}

fn module_version(reply: Value) -> Option<u64> {
    let Value::Array(modules) = reply else { return None };
    modules.into_iter().find_map(|module| {
        let about = pairs(module).ok()?;
        let field = |wanted: &str| about.iter().find(|(name, _)| text(name).as_deref() == Some(wanted));
        (text(&field("name")?.1)? == "flashsale").then(|| number(&field("ver")?.1))?
    })
}
