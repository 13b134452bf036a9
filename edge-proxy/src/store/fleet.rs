//! All servers of a deployment: sends commands to the one that has the key, follows its redirections, and
//! looks at the deployment again when something does not fit.
//!
//! Each worker thread has connections of its own, opened on its own runtime, so that the client can put the
//! commands of many requests into one write (see the field notes: 1.1 instead of 8.6 us of Redis a request).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value};

use super::StoreError;
use super::backend::Loading;
use super::commit::GroupCommit;
use super::discovery::{Discovery, host_of};
use super::link::{Link, LinkTimes};
use super::merge::Merger;
use super::nodes::{Node, Place, Redirect, Topology, redirect};
use crate::config::{DurabilityConfig, RedisConfig, client_at, millis};
use crate::single_flight::SingleFlight;

/// How often a command is sent on to another server before it is given up.
const HOPS: usize = 5;

/// The servers of a deployment.
pub struct Fleet {
    discovery: Discovery,
    times: LinkTimes,
    merge_max: usize,
    durability: DurabilityConfig,
    topology: ArcSwapOption<Topology>,
    looking: SingleFlight<StoreError>,
    /// What was last logged as wrong with the deployment; empty: nothing.
    trouble_told: Mutex<String>,
    born: Instant,
    /// Milliseconds after `born` before which nobody looks at the deployment again.
    next_look_ms: AtomicU64,
}

/// What one thread has of one node.
struct Desk {
    /// Whose node it is.
    fleet: Weak<Fleet>,
    link: Arc<Link>,
    commits: Option<Arc<GroupCommit>>,
    merger: Arc<Merger>,
}

#[derive(Default)]
struct Desks {
    /// By number of the node.
    of_node: BTreeMap<u64, Desk>,
    /// How many fleets were gone when these were last put in order.
    gone: u64,
}

thread_local! {
    static DESKS: RefCell<Desks> = RefCell::new(Desks::default());
}

/// Fleets that are gone: what threads have of their nodes may go too.
static GONE: AtomicU64 = AtomicU64::new(0);

impl Drop for Fleet {
    fn drop(&mut self) {
        GONE.fetch_add(1, Ordering::Relaxed);
    }
}

impl Fleet {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// An address is malformed, or a secret or certificate cannot be read.
    pub fn new(config: &RedisConfig, durability: &DurabilityConfig) -> anyhow::Result<Arc<Self>> {
        Self::with(config, durability, Loading::IfNeeded)
    }

    /// The same for one who only reads: the library of functions is never loaded.
    ///
    /// # Errors
    /// As [`Fleet::new`].
    pub fn reading(config: &RedisConfig, durability: &DurabilityConfig) -> anyhow::Result<Arc<Self>> {
        Self::with(config, durability, Loading::Never)
    }

    fn with(config: &RedisConfig, durability: &DurabilityConfig, loading: Loading) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            discovery: Discovery::new(config, loading)?,
            times: LinkTimes {
                connect: config.connect_timeout(),
                response: config.timeout(),
                rest: millis(config.retry_after_failure_ms),
            },
            merge_max: config.merge_max,
            durability: durability.clone(),
            topology: ArcSwapOption::empty(),
            looking: SingleFlight::default(),
            trouble_told: Mutex::default(),
            born: Instant::now(),
            next_look_ms: AtomicU64::new(0),
        }))
    }

    /// How long one command may take.
    pub fn times(&self) -> LinkTimes {
        self.times
    }

    /// Which servers there are. The first call finds out, later ones take what is known.
    ///
    /// # Errors
    /// [`StoreError::Down`]: no server could be asked.
    pub async fn topology(self: &Arc<Self>) -> Result<Arc<Topology>, StoreError> {
        if let Some(topology) = self.topology.load_full() {
            if topology.lasts.is_some_and(|lasts| topology.found_at.elapsed() >= lasts) {
                self.look_again();
            }
            return Ok(topology);
        }
        // Rare, and a large future.
        Box::pin(self.find_out()).await
    }

    async fn find_out(&self) -> Result<Arc<Topology>, StoreError> {
        let look = async {
            if !self.may_look() {
                return Err(StoreError::Down("no server could be asked a moment ago".to_owned()));
            }
            self.look().await
        };
        self.looking.get(|| self.topology.load_full(), look).await
    }

    /// Has the deployment looked at again, soon and in the background.
    pub fn look_again(self: &Arc<Self>) {
        if !self.may_look() {
            return;
        }
        let fleet = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(_flight) = fleet.looking.begin() {
                let _ = fleet.look().await;
            }
        });
    }

    fn may_look(&self) -> bool {
        let now_ms = self.born.elapsed().as_millis() as u64;
        let next_ms = self.next_look_ms.load(Ordering::Relaxed);
        let after_ms = now_ms + self.times.rest.as_millis().max(1) as u64;
        now_ms >= next_ms
            && self.next_look_ms.compare_exchange(next_ms, after_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    async fn look(&self) -> Result<Arc<Topology>, StoreError> {
        let before = self.topology.load_full();
        match self.discovery.look(before.as_deref()).await {
            Ok(topology) => {
                let topology = Arc::new(topology);
                tell_change(before.as_deref(), &topology);
                self.tell_trouble(&topology.away().collect::<Vec<_>>().join("; "));
                self.topology.store(Some(Arc::clone(&topology)));
                Ok(topology)
            }
            Err(error) => {
                let why = format!("{error:#}");
                self.tell_trouble(&why);
                Err(StoreError::Down(why))
            }
        }
    }

    /// Logs what is wrong, once for as long as it stays the same.
    fn tell_trouble(&self, why: &str) {
        let mut told = self.trouble_told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != why {
            why.clone_into(&mut told);
            if !why.is_empty() {
                log::warn!("Redis cannot be reached as configured: {why}");
            }
        }
    }

    /// Sends commands about one key in one write, and gives their replies in order. A server's error is a
    /// [`Value::ServerError`].
    ///
    /// # Errors
    /// [`StoreError::Down`] if nothing was sent, [`StoreError::Unknown`] if the answers are lost.
    pub async fn send(self: &Arc<Self>, place: Place<'_>, commands: &[Cmd]) -> Result<Vec<Value>, StoreError> {
        let mut node = self.node_of(place).await?;
        let mut asking = false;
        for _ in 0..HOPS {
            let replies = self.send_to(&node, commands, asking).await?;
            match replies.iter().find_map(redirect) {
                None => return Ok(replies),
                Some(redirect) => {
                    asking = redirect.asking;
                    node = self.follow(&node, &redirect)?;
                }
            }
        }
        Err(too_many_hops())
    }

    /// Sends one command about a key.
    ///
    /// # Errors
    /// As [`Fleet::send`].
    pub async fn send_one(self: &Arc<Self>, place: Place<'_>, command: &Cmd) -> Result<Value, StoreError> {
        Ok(self.send(place, std::slice::from_ref(command)).await?.pop().unwrap_or(Value::Nil))
    }

    /// Sends one command whose answer somebody acts on. The flag says whether as many replicas as configured
    /// have acknowledged it.
    ///
    /// # Errors
    /// As [`Fleet::send`].
    pub async fn promise(self: &Arc<Self>, place: Place<'_>, command: Cmd) -> Result<(Value, bool), StoreError> {
        let mut node = self.node_of(place).await?;
        let mut asking = false;
        for _ in 0..HOPS {
            let (reply, safe) = match self.at_desk(&node, |desk| desk.commits.clone()) {
                Some(commits) => self.watched(commits.send(command.clone(), asking).await)?,
                None => {
                    let mut replies = self.send_to(&node, std::slice::from_ref(&command), asking).await?;
                    (replies.pop().unwrap_or(Value::Nil), true)
                }
            };
            match redirect(&reply) {
                None => {
                    self.notice(&reply);
                    return Ok((reply, safe));
                }
                Some(redirect) => {
                    asking = redirect.asking;
                    node = self.follow(&node, &redirect)?;
                }
            }
        }
        Err(too_many_hops())
    }

    /// Where reservations in `place` are put together with others.
    ///
    /// # Errors
    /// [`StoreError::Down`]: there is no server for it.
    pub async fn merger(self: &Arc<Self>, place: Place<'_>) -> Result<Arc<Merger>, StoreError> {
        let node = self.node_of(place).await?;
        Ok(self.at_desk(&node, |desk| Arc::clone(&desk.merger)))
    }

    /// Sends a command to each of several places, those of one server in one write.
    pub async fn send_each(self: &Arc<Self>, calls: &[(Place<'_>, Cmd)]) -> Vec<Result<Value, StoreError>> {
        let topology = match self.topology().await {
            Ok(topology) => topology,
            Err(error) => return calls.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut by_node: HashMap<u64, (Arc<Node>, Vec<usize>)> = HashMap::new();
        for (index, (place, _)) in calls.iter().enumerate() {
            if let Some(node) = topology.node_of(*place) {
                by_node.entry(node.number).or_insert_with(|| (Arc::clone(node), Vec::new())).1.push(index);
            }
        }
        let mut results: Vec<Result<Value, StoreError>> =
            calls.iter().map(|(place, _)| Err(nobody(&topology, *place))).collect();
        let writes = by_node.into_values().map(|(node, indexes)| async move {
            let commands: Vec<Cmd> = indexes.iter().map(|index| calls[*index].1.clone()).collect();
            let replies = self.send_to(&node, &commands, false).await;
            (node, indexes, replies)
        });
        for (node, indexes, replies) in join_all(writes).await {
            match replies {
                Err(error) => indexes.into_iter().for_each(|index| results[index] = Err(error.clone())),
                Ok(replies) => {
                    for (index, reply) in indexes.into_iter().zip(replies) {
                        results[index] = match redirect(&reply) {
                            None => Ok(reply),
                            Some(redirect) => self.send_on(&node, redirect, &calls[index]).await,
                        };
                    }
                }
            }
        }
        results
    }

    /// Sends a command after its first redirection.
    async fn send_on(
        self: &Arc<Self>,
        from: &Node,
        first: Redirect,
        (place, command): &(Place<'_>, Cmd),
    ) -> Result<Value, StoreError> {
        let commands = std::slice::from_ref(command);
        let node = self.follow(from, &first)?;
        let reply = self.send_to(&node, commands, first.asking).await?.pop().unwrap_or(Value::Nil);
        match redirect(&reply) {
            None => Ok(reply),
            Some(_) => self.send_one(*place, command).await,
        }
    }

    /// Sends commands to one node in one write. Redirections are told as they come.
    ///
    /// # Errors
    /// As [`Fleet::send`].
    pub async fn send_to(
        self: &Arc<Self>,
        node: &Node,
        commands: &[Cmd],
        asking: bool,
    ) -> Result<Vec<Value>, StoreError> {
        let each = if asking { 2 } else { 1 };
        let mut pipeline = Pipeline::with_capacity(commands.len() * each);
        for command in commands {
            if asking {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(command.clone());
        }
        let link = self.at_desk(node, |desk| Arc::clone(&desk.link));
        let result = link.send_all(&pipeline, commands.len() * each).await;
        let replies: Vec<Value> = self.watched(result)?.into_iter().skip(each - 1).step_by(each).collect();
        replies.iter().for_each(|reply| self.notice(reply));
        Ok(replies)
    }

    async fn node_of(self: &Arc<Self>, place: Place<'_>) -> Result<Arc<Node>, StoreError> {
        let topology = self.topology().await?;
        match topology.node_of(place) {
            Some(node) => Ok(Arc::clone(node)),
            None => {
                self.look_again();
                Err(nobody(&topology, place))
            }
        }
    }

    /// The node that a redirection points to.
    fn follow(self: &Arc<Self>, from: &Node, to: &Redirect) -> Result<Arc<Node>, StoreError> {
        let host = if to.host.is_empty() { host_of(&from.client) } else { to.host.clone() };
        let client = client_at(&from.client, &from.client, &host, to.port)
            .map_err(|error| StoreError::Down(error.to_string()))?;
        let node = self.discovery.nodes.node(client);
        if !to.asking {
            self.topology.rcu(|before| before.as_ref().map(|before| before.with_moved(from, to.slot, &node)));
            self.look_again();
        }
        Ok(node)
    }

    /// A server that cannot be reached may have been replaced.
    fn watched<T>(self: &Arc<Self>, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(result, Err(StoreError::Down(_) | StoreError::Unknown(_))) {
            self.look_again();
        }
        result
    }

    /// So may one that says it cannot serve.
    fn notice(self: &Arc<Self>, reply: &Value) {
        let Value::ServerError(error) = reply else {
            return;
        };
        let detail = error.details().unwrap_or_default();
        let unknown = detail.starts_with("unknown command") || detail.starts_with("Function not found");
        let moved = error.code() == "TRYAGAIN" && detail.starts_with("the sale lives in the module now");
        if error.code() == "ERR" && unknown || moved {
            self.discovery.forget_backends();
            self.look_again();
        } else if matches!(error.code(), "READONLY" | "CLUSTERDOWN" | "MASTERDOWN") {
            self.look_again();
        }
    }

    /// What `look` takes from what this thread has of the node.
    fn at_desk<T>(self: &Arc<Self>, node: &Node, look: impl FnOnce(&Desk) -> T) -> T {
        DESKS.with_borrow_mut(|desks| {
            let gone = GONE.load(Ordering::Relaxed);
            if gone != desks.gone {
                desks.gone = gone;
                desks.of_node.retain(|_, desk| desk.fleet.strong_count() > 0);
            }
            look(desks.of_node.entry(node.number).or_insert_with(|| self.new_desk(node)))
        })
    }

    fn new_desk(self: &Arc<Self>, node: &Node) -> Desk {
        let link = |times| Link::new(node.client.clone(), times, node.breaker.clone());
        let commits = (self.durability.replicas > 0).then(|| {
            let wait = millis(self.durability.timeout_ms);
            let response = wait + self.times.response;
            let times = LinkTimes { response, ..self.times };
            // One batch may be under way when a command comes: it waits for that one and its own.
            Arc::new(GroupCommit::start(link(times), self.durability.replicas, wait, response * 2))
        });
        let merger = Merger::new(self.merge_max, self.times.response);
        Desk { fleet: Arc::downgrade(self), link: Arc::new(link(self.times)), commits, merger }
    }
}

fn nobody(topology: &Topology, place: Place<'_>) -> StoreError {
    StoreError::Down(topology.why_nobody(place.shard))
}

fn too_many_hops() -> StoreError {
    StoreError::Down("the servers send from one to the other".to_owned())
}

fn tell_change(before: Option<&Topology>, now: &Topology) {
    let names = |topology: &Topology| -> Vec<String> {
        let mut names: Vec<_> = topology.nodes.iter().map(|node| node.address.clone()).collect();
        names.sort();
        names
    };
    let names_now = names(now);
    if before.is_none_or(|before| names(before) != names_now) {
        log::info!("Redis: {} {}", now.kind(), names_now.join(", "));
    }
}
