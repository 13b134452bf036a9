//! Finds out what a deployment is made of: asks servers, keeps nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::Context;
use flashsale_core::sharding::SLOTS;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value};

use super::backend::{self, Loading};
use super::nodes::{self, Dialect, NOBODY, Node, Registry, Split, Topology};
use crate::config::{RedisBackend, RedisConfig, RedisMode, client_at, millis};

/// How often a cluster's slots are looked at although nobody complained.
const CLUSTER_LASTS: Duration = Duration::from_secs(10);
/// How often a Sentinel is asked: the old primary may go on answering for a while.
const SENTINEL_LASTS: Duration = Duration::from_secs(1);
/// How soon a node that did not answer is asked again what it speaks.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is needed to look.
pub struct Discovery {
    mode: RedisMode,
    backend: RedisBackend,
    loading: Loading,
    sentinel_master: String,
    /// The addresses of the config.
    seeds: Vec<Client>,
    /// The same, with the user and password of the Sentinels.
    sentinels: Vec<Client>,
    connect_timeout: Duration,
    response_timeout: Duration,
    pub nodes: Registry,
    /// What nodes speak, by their number, as far as they were asked.
    spoken: Mutex<HashMap<u64, Dialect>>,
}

impl Discovery {
    /// # Errors
    /// An address is malformed, or a secret or certificate cannot be read.
    pub fn new(config: &RedisConfig, loading: Loading) -> anyhow::Result<Self> {
        Ok(Self {
            loading,
            mode: config.mode,
            backend: config.backend,
            sentinel_master: config.sentinel_master.clone(),
            seeds: config.clients()?,
            sentinels: config.sentinel_clients()?,
            connect_timeout: config.connect_timeout(),
            response_timeout: config.timeout(),
            nodes: Registry::new(config.breaker_failures, millis(config.retry_after_failure_ms)),
            spoken: Mutex::default(),
        })
    }

    /// Looks at the deployment; the nodes of `before` are asked first.
    ///
    /// # Errors
    /// No server answered; the last one's trouble.
    pub async fn look(&self, before: Option<&Topology>) -> anyhow::Result<Topology> {
        let found = self.find(before).await?;
        self.settle(found).await
    }

    /// What nodes speak is asked again: one has said that it does not know a command.
    pub fn forget_backends(&self) {
        self.spoken().clear();
    }

    fn spoken(&self) -> MutexGuard<'_, HashMap<u64, Dialect>> {
        self.spoken.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Finds out what the nodes speak. One that does not answer is asked again later.
    async fn settle(&self, mut topology: Topology) -> anyhow::Result<Topology> {
        if self.backend == RedisBackend::Module {
            return Ok(topology);
        }
        let mut heard = None;
        let mut trouble = None;
        for node in &topology.nodes {
            match self.dialect_of(node).await {
                Ok(dialect) if heard.is_some_and(|heard| heard != dialect) => {
                    log::warn!("{} speaks {dialect:?}, and others do not", node.address);
                }
                Ok(dialect) => heard = Some(dialect),
                Err(error) => trouble = Some(error),
            }
        }
        if trouble.is_some() {
            topology.lasts = Some(topology.lasts.unwrap_or(ASK_AGAIN).min(ASK_AGAIN));
        }
        topology.dialect = match (heard, trouble) {
            (Some(dialect), _) => dialect,
            (None, Some(trouble)) => return Err(trouble),
            (None, None) => Dialect::Module,
        };
        Ok(topology)
    }

    async fn dialect_of(&self, node: &Node) -> anyhow::Result<Dialect> {
        if let Some(dialect) = self.spoken().get(&node.number) {
            return Ok(*dialect);
        }
        let mut connection = self.connect(&node.client).await?;
        let dialect =
            backend::settle(&mut connection, self.backend, self.loading).await.with_context(|| node.address.clone())?;
        self.spoken().insert(node.number, dialect);
        Ok(dialect)
    }

    async fn find(&self, before: Option<&Topology>) -> anyhow::Result<Topology> {
        let known = before.map_or(&[][..], |before| &before.nodes);
        match self.mode {
            RedisMode::Standalone => Ok(self.standalone()),
            RedisMode::Cluster => self.cluster(known).await,
            RedisMode::Sentinel => self.sentinel().await,
            RedisMode::Auto => self.whatever(before).await,
        }
    }

    async fn whatever(&self, before: Option<&Topology>) -> anyhow::Result<Topology> {
        let known = before.map_or(&[][..], |before| &before.nodes);
        // A cluster that loses the nodes of the config is still found by those that came later.
        if before.is_some_and(Topology::is_cluster) {
            return self.cluster(known).await;
        }
        let mut trouble = anyhow::anyhow!("no address");
        // The user of the servers may be unknown to a Sentinel, and the other way round.
        for client in self.seeds.iter().chain(&self.sentinels) {
            match self.kind(client).await {
                Ok(kind) => {
                    return match kind.as_str() {
                        "cluster" => self.cluster(known).await,
                        "sentinel" => self.sentinel().await,
                        _ => Ok(self.standalone()),
                    };
                }
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    /// `standalone`, `cluster` or `sentinel`.
    async fn kind(&self, client: &Client) -> anyhow::Result<String> {
        let mut connection = self.connect(client).await?;
        let reply = redis::cmd("HELLO").query_async::<Value>(&mut connection).await?;
        let fields: std::collections::HashMap<String, Value> = redis::from_redis_value(reply)?;
        let mode = fields.get("mode").cloned().unwrap_or(Value::Nil);
        Ok(redis::from_redis_value(mode)?)
    }

    fn standalone(&self) -> Topology {
        let nodes = self.seeds.iter().map(|seed| self.nodes.node(seed.clone())).collect();
        topology(nodes, Split::ByShard, None)
    }

    async fn cluster(&self, known: &[Arc<Node>]) -> anyhow::Result<Topology> {
        let mut trouble = anyhow::anyhow!("no address");
        for client in known.iter().map(|node| &node.client).chain(&self.seeds) {
            match self.cluster_by(client).await {
                Ok(topology) => return Ok(topology),
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    async fn cluster_by(&self, client: &Client) -> anyhow::Result<Topology> {
        let mut connection = self.connect(client).await?;
        let reply: Value = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
        let ranges = nodes::ranges(&reply).ok_or_else(|| anyhow::anyhow!("CLUSTER SLOTS answered {reply:?}"))?;
        anyhow::ensure!(!ranges.is_empty(), "the cluster has no slots");
        let mut slots = vec![NOBODY; SLOTS as usize].into_boxed_slice();
        let mut nodes: Vec<Arc<Node>> = Vec::new();
        for range in ranges {
            let host = if range.host.is_empty() { host_of(client) } else { range.host };
            let node = self.nodes.node(client_at(client, client, &host, range.port)?);
            let index = nodes.iter().position(|other| other.number == node.number);
            let index = index.unwrap_or_else(|| {
                nodes.push(node);
                nodes.len() - 1
            });
            slots[usize::from(range.first)..=usize::from(range.last)].fill(index as u16);
        }
        Ok(topology(nodes, Split::BySlot(slots), Some(CLUSTER_LASTS)))
    }

    async fn sentinel(&self) -> anyhow::Result<Topology> {
        let mut trouble = anyhow::anyhow!("no address");
        for sentinel in &self.sentinels {
            match self.sentinel_by(sentinel).await {
                Ok(topology) => return Ok(topology),
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    async fn sentinel_by(&self, sentinel: &Client) -> anyhow::Result<Topology> {
        let mut connection = self.connect(sentinel).await?;
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.sentinel_master);
        let address: Option<(String, u16)> = ask.query_async(&mut connection).await?;
        let (host, port) = address
            .ok_or_else(|| anyhow::anyhow!("the Sentinel knows no primary called {:?}", self.sentinel_master))?;
        let client = client_at(sentinel, &self.seeds[0], &host, port)?;
        // For some time after a failover a Sentinel may name a server that is no primary any more, or not yet.
        let mut primary = self.connect(&client).await?;
        let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut primary).await?;
        let role: String = redis::from_redis_value(role.into_iter().next().unwrap_or(Value::Nil))?;
        anyhow::ensure!(role == "master", "{host}:{port}, of which the Sentinel says that it is the primary, is not");
        Ok(topology(vec![self.nodes.node(client)], Split::ByShard, Some(SENTINEL_LASTS)))
    }

    async fn connect(&self, client: &Client) -> redis::RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout));
        client.get_multiplexed_async_connection_with_config(&config).await
    }
}

fn topology(nodes: Vec<Arc<Node>>, split: Split, lasts: Option<Duration>) -> Topology {
    Topology { nodes, split, dialect: Dialect::Module, found_at: Instant::now(), lasts }
}

/// The name of the server behind `client`, without its port.
pub fn host_of(client: &Client) -> String {
    let address = client.get_connection_info().addr().to_string();
    address.rsplit_once(':').map_or(address.clone(), |(host, _)| host.to_owned())
}
