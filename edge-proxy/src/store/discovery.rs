//! Finds out what a deployment is made of: asks servers, keeps nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::Context;
use flashsale_core::sharding::SLOTS;
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value};

use super::backend::{self, Loading};
use super::nodes::{self, Dialect, NOBODY, Node, Part, Registry, Topology};
use crate::config::{RedisBackend, RedisConfig, RedisMode, client_at, millis};

/// How often a cluster's slots are looked at although nobody complained.
const CLUSTER_LASTS: Duration = Duration::from_secs(10);
/// How often a Sentinel is asked: the old primary may go on answering for a while.
const SENTINEL_LASTS: Duration = Duration::from_secs(1);
/// How soon a node that did not answer is asked again what it speaks.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is needed to look.
pub struct Discovery {
    backend: RedisBackend,
    loading: Loading,
    groups: Vec<Group>,
    connecting: Connecting,
    pub nodes: Registry,
    /// What nodes speak, by their number, as far as they were asked.
    spoken: Mutex<HashMap<u64, Dialect>>,
}

/// What the config says of servers that belong together.
struct Group {
    /// Whether it is one of `[[redis.groups]]`. Else it is all there is.
    is_one_of_several: bool,
    mode: RedisMode,
    sentinel_master: String,
    /// The addresses of the config.
    seeds: Vec<Client>,
    /// The same, with the user and password of the Sentinels.
    sentinels: Vec<Client>,
}

/// What a group was found to be.
#[derive(Clone)]
enum Found {
    /// Servers that know nothing of each other.
    Servers(Vec<Arc<Node>>),
    /// The primary that Sentinels name.
    Watched(Arc<Node>),
    /// Slots, by the index of their node, or [`NOBODY`].
    Cluster(Vec<Arc<Node>>, Box<[u16]>),
}

/// How to connect for a question.
#[derive(Clone, Copy)]
struct Connecting {
    connect_timeout: Duration,
    response_timeout: Duration,
}

impl Discovery {
    /// # Errors
    /// An address is malformed, or a secret or certificate cannot be read.
    pub fn new(config: &RedisConfig, loading: Loading) -> anyhow::Result<Self> {
        let group = |group: &RedisConfig| {
            anyhow::Ok(Group {
                is_one_of_several: !config.groups.is_empty(),
                mode: group.mode,
                sentinel_master: group.sentinel_master.clone(),
                seeds: group.clients()?,
                sentinels: group.sentinel_clients()?,
            })
        };
        Ok(Self {
            loading,
            backend: config.backend,
            groups: config.by_group().iter().map(group).collect::<anyhow::Result<_>>()?,
            connecting: Connecting { connect_timeout: config.connect_timeout(), response_timeout: config.timeout() },
            nodes: Registry::new(config.breaker_failures, millis(config.retry_after_failure_ms)),
            spoken: Mutex::default(),
        })
    }

    /// Looks at the deployment; the nodes of `before` are asked first. A group that does not answer is as it was
    /// before, and soon asked again.
    ///
    /// # Errors
    /// No server answered; the last one's trouble.
    pub async fn look(&self, before: Option<&Topology>) -> anyhow::Result<Topology> {
        let before_of = |index: usize| before.and_then(|before| found_in(before, index, &self.groups));
        let looks = self.groups.iter().enumerate().map(|(index, group)| {
            let before = before_of(index);
            async move { (group.find(&self.nodes, self.connecting, before.as_ref()).await, before) }
        });
        let mut parts = Parts::default();
        let (mut trouble, mut answered) = (None, 0);
        for (number, (found, before)) in (1..).zip(join_all(looks).await) {
            let lasts = match &found {
                Ok(found) => {
                    answered += 1;
                    found.lasts()
                }
                Err(_) => Some(ASK_AGAIN),
            };
            parts.lasts = [parts.lasts, lasts].into_iter().flatten().min();
            match found {
                Ok(found) => parts.add(found)?,
                Err(error) => {
                    match before {
                        Some(before) => parts.add(before)?,
                        None => parts.parts.push(Part::Away(format!("group {number} of [redis]: {error:#}"))),
                    }
                    trouble = Some(error);
                }
            }
        }
        match trouble {
            Some(trouble) if answered == 0 => Err(trouble),
            _ => self.settle(parts.into_topology()).await,
        }
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
        let mut connection = self.connecting.to(&node.client).await?;
        let dialect =
            backend::settle(&mut connection, self.backend, self.loading).await.with_context(|| node.address.clone())?;
        self.spoken().insert(node.number, dialect);
        Ok(dialect)
    }
}

impl Group {
    async fn find(&self, nodes: &Registry, connecting: Connecting, before: Option<&Found>) -> anyhow::Result<Found> {
        let known = before.map_or(&[][..], Found::nodes);
        match self.mode {
            RedisMode::Standalone => self.servers(nodes),
            RedisMode::Cluster => self.cluster(nodes, connecting, known).await,
            RedisMode::Sentinel => self.sentinel(nodes, connecting).await,
            // A cluster that loses the nodes of the config is still found by those that came later.
            RedisMode::Auto if matches!(before, Some(Found::Cluster(..))) => {
                self.cluster(nodes, connecting, known).await
            }
            RedisMode::Auto => self.whatever(nodes, connecting).await,
        }
    }

    async fn whatever(&self, nodes: &Registry, connecting: Connecting) -> anyhow::Result<Found> {
        let mut trouble = anyhow::anyhow!("no address");
        // The user of the servers may be unknown to a Sentinel, and the other way round.
        for client in self.seeds.iter().chain(&self.sentinels) {
            match kind(connecting, client).await {
                Ok(kind) => {
                    return match kind.as_str() {
                        "cluster" => self.cluster(nodes, connecting, &[]).await,
                        "sentinel" => self.sentinel(nodes, connecting).await,
                        _ => self.servers(nodes),
                    };
                }
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    fn servers(&self, nodes: &Registry) -> anyhow::Result<Found> {
        // The number of groups, and so the place of each shard, must not depend on what servers turn out to be.
        anyhow::ensure!(
            !self.is_one_of_several || self.seeds.len() == 1,
            "a group of [[redis.groups]] has {} servers that are no cluster and no Sentinels: give each server a group \
             of its own",
            self.seeds.len()
        );
        Ok(Found::Servers(self.seeds.iter().map(|seed| nodes.node(seed.clone())).collect()))
    }

    async fn cluster(&self, nodes: &Registry, connecting: Connecting, known: &[Arc<Node>]) -> anyhow::Result<Found> {
        let mut trouble = anyhow::anyhow!("no address");
        for client in known.iter().map(|node| &node.client).chain(&self.seeds) {
            match cluster_by(nodes, connecting, client).await {
                Ok(found) => return Ok(found),
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    async fn sentinel(&self, nodes: &Registry, connecting: Connecting) -> anyhow::Result<Found> {
        let mut trouble = anyhow::anyhow!("no address");
        for sentinel in &self.sentinels {
            match self.sentinel_by(nodes, connecting, sentinel).await {
                Ok(found) => return Ok(found),
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    async fn sentinel_by(&self, nodes: &Registry, connecting: Connecting, sentinel: &Client) -> anyhow::Result<Found> {
        let mut connection = connecting.to(sentinel).await?;
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.sentinel_master);
        let address: Option<(String, u16)> = ask.query_async(&mut connection).await?;
        let (host, port) = address
            .ok_or_else(|| anyhow::anyhow!("the Sentinel knows no primary called {:?}", self.sentinel_master))?;
        let client = client_at(sentinel, &self.seeds[0], &host, port)?;
        // For some time after a failover a Sentinel may name a server that is no primary any more, or not yet.
        let mut primary = connecting.to(&client).await?;
        let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut primary).await?;
        let role: String = redis::from_redis_value(role.into_iter().next().unwrap_or(Value::Nil))?;
        anyhow::ensure!(role == "master", "{host}:{port}, of which the Sentinel says that it is the primary, is not");
        Ok(Found::Watched(nodes.node(client)))
    }
}

/// `standalone`, `cluster` or `sentinel`.
async fn kind(connecting: Connecting, client: &Client) -> anyhow::Result<String> {
    let mut connection = connecting.to(client).await?;
    let reply = redis::cmd("HELLO").query_async::<Value>(&mut connection).await?;
    let fields: std::collections::HashMap<String, Value> = redis::from_redis_value(reply)?;
    let mode = fields.get("mode").cloned().unwrap_or(Value::Nil);
    Ok(redis::from_redis_value(mode)?)
}

async fn cluster_by(registry: &Registry, connecting: Connecting, client: &Client) -> anyhow::Result<Found> {
    let mut connection = connecting.to(client).await?;
    let reply: Value = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
    let ranges = nodes::ranges(&reply).ok_or_else(|| anyhow::anyhow!("CLUSTER SLOTS answered {reply:?}"))?;
    anyhow::ensure!(!ranges.is_empty(), "the cluster has no slots");
    let mut slots = vec![NOBODY; SLOTS as usize].into_boxed_slice();
    let mut nodes: Vec<Arc<Node>> = Vec::new();
    for range in ranges {
        let host = if range.host.is_empty() { host_of(client) } else { range.host };
        let node = registry.node(client_at(client, client, &host, range.port)?);
        let index = nodes.iter().position(|other| other.number == node.number);
        let index = index.unwrap_or_else(|| {
            nodes.push(node);
            nodes.len() - 1
        });
        slots[usize::from(range.first)..=usize::from(range.last)].fill(index as u16);
    }
    Ok(Found::Cluster(nodes, slots))
}

impl Connecting {
    async fn to(self, client: &Client) -> redis::RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout));
        client.get_multiplexed_async_connection_with_config(&config).await
    }
}

impl Found {
    fn nodes(&self) -> &[Arc<Node>] {
        match self {
            Self::Servers(nodes) | Self::Cluster(nodes, _) => nodes,
            Self::Watched(node) => std::slice::from_ref(node),
        }
    }

    /// After what time it is looked at again without being asked.
    fn lasts(&self) -> Option<Duration> {
        match self {
            Self::Servers(_) => None,
            Self::Watched(_) => Some(SENTINEL_LASTS),
            Self::Cluster(..) => Some(CLUSTER_LASTS),
        }
    }
}

/// What a group was in a topology.
fn found_in(topology: &Topology, index: usize, groups: &[Group]) -> Option<Found> {
    // Without groups there may be more parts than one: servers, which are not looked for but configured.
    match topology.parts.get(index)? {
        _ if groups.len() == 1 && topology.parts.len() > 1 => None,
        Part::Away(_) => None,
        Part::Server(node) => Some(Found::Watched(Arc::clone(topology.nodes.get(usize::from(*node))?))),
        Part::Cluster(slots) => {
            let mut slots = slots.clone();
            Some(Found::Cluster(nodes_with_slots(&topology.nodes, &mut slots), slots))
        }
    }
}

/// Those of the nodes that have slots; these then tell their indexes among them.
fn nodes_with_slots(nodes: &[Arc<Node>], slots: &mut [u16]) -> Vec<Arc<Node>> {
    let mut places = vec![NOBODY; nodes.len()];
    let mut kept = Vec::new();
    for slot in slots {
        let Some(place) = places.get_mut(usize::from(*slot)) else { continue };
        if *place == NOBODY {
            *place = kept.len() as u16;
            kept.push(Arc::clone(&nodes[usize::from(*slot)]));
        }
        *slot = *place;
    }
    kept
}

/// A topology in the making.
#[derive(Default)]
struct Parts {
    nodes: Vec<Arc<Node>>,
    parts: Vec<Part>,
    lasts: Option<Duration>,
}

impl Parts {
    /// # Errors
    /// One of its nodes belongs to another part.
    fn add(&mut self, found: Found) -> anyhow::Result<()> {
        let others = self.nodes.len();
        match found {
            Found::Watched(node) => self.add_server(node),
            Found::Servers(nodes) => nodes.into_iter().for_each(|node| self.add_server(node)),
            Found::Cluster(nodes, mut slots) => {
                self.nodes.extend(nodes);
                slots.iter_mut().filter(|slot| **slot != NOBODY).for_each(|slot| *slot += others as u16);
                self.parts.push(Part::Cluster(slots));
            }
        }
        let (before, new) = self.nodes.split_at(others);
        match new.iter().find(|node| before.iter().any(|other| other.number == node.number)) {
            None => Ok(()),
            Some(node) => Err(anyhow::anyhow!(
                "two of [[redis.groups]] lead to the same server {}: each must be a cluster, a group of Sentinels or a \
                 server of its own",
                node.address
            )),
        }
    }

    fn add_server(&mut self, node: Arc<Node>) {
        self.nodes.push(node);
        self.parts.push(Part::Server((self.nodes.len() - 1) as u16));
    }

    fn into_topology(self) -> Topology {
        let Self { nodes, parts, lasts } = self;
        Topology { nodes, parts, dialect: Dialect::Module, found_at: Instant::now(), lasts }
    }
}

/// The name of the server behind `client`, without its port.
pub fn host_of(client: &Client) -> String {
    let address = client.get_connection_info().addr().to_string();
    address.rsplit_once(':').map_or(address.clone(), |(host, _)| host.to_owned())
}
