//! The state channel: the servers say on `KEY:state` when a SKU sells out or comes back, and every edge
//! knows within milliseconds.
//!
//! Each server of the deployment is listened to on a connection of its own, opened again whenever it is lost. Outside
//! a cluster that is one subscription to the pattern of all sales. In a cluster the channels of shards are sharded:
//! each is subscribed by its name where its slot is served, once somebody asks for the sale. A key without a hash
//! tag has its channel in another slot than itself, so its news go to all nodes, and the pattern hears them on any.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use flashsale_core::sharding::hash_tag;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use rand::RngExt;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::config::RedisConfig;
use crate::funnel::known::Known;
use crate::metrics;
use crate::store::current::CurrentStore;
use crate::store::nodes::Node;
use crate::store::redis::glob_escape;

const SUFFIX: &[u8] = b":state";

/// How long to rest between attempts to connect: short, for the sale goes on meanwhile, with jitter, for all
/// edges lost it at once.
const REST_MS: std::ops::Range<u64> = 200..600;

/// A connection from which nothing has come for so long is asked whether it still lives.
const SILENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether there are other servers or sales to listen to.
const TICK: Duration = Duration::from_millis(100);

/// Listens to the state channels of all sales under the key prefix.
pub struct Channel {
    ear: Arc<Ear>,
}

/// What all listeners share.
struct Ear {
    store: Arc<CurrentStore>,
    known: Arc<Known>,
    prefix: Vec<u8>,
    /// Servers that are listened to, and those that should be.
    up: AtomicUsize,
    wanted: AtomicUsize,
}

/// What the module says.
#[derive(Debug, PartialEq, Eq)]
struct Message<'a> {
    sku: &'a [u8],
    available: bool,
    version: u64,
}

impl Channel {
    pub fn new(config: &RedisConfig, store: Arc<CurrentStore>, known: Arc<Known>) -> Self {
        Self {
            ear: Arc::new(Ear {
                store,
                known,
                prefix: config.key_prefix.clone().into_bytes(),
                up: AtomicUsize::new(0),
                wanted: AtomicUsize::new(usize::MAX),
            }),
        }
    }
}

#[async_trait]
impl BackgroundService for Channel {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut listeners: HashMap<u64, AbortHandle> = HashMap::new();
        loop {
            if let Ok(topology) = self.ear.store.stock().fleet.topology().await {
                listeners.retain(|number, listener| {
                    let stays = topology.nodes.iter().any(|node| node.number == *number);
                    if !stays {
                        listener.abort();
                    }
                    stays
                });
                for node in &topology.nodes {
                    let ear = Arc::clone(&self.ear);
                    let start = || tokio::spawn(ear.listen_always(Arc::clone(node))).abort_handle();
                    listeners.entry(node.number).or_insert_with(start);
                }
                self.ear.wanted.store(topology.nodes.len(), Ordering::Relaxed);
                self.ear.show();
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                _ = shutdown.changed() => break,
            }
        }
        listeners.into_values().for_each(|listener| listener.abort());
    }
}

/// Counts a listener for as long as it listens, also if it is aborted.
struct Listening<'a>(&'a Ear);

impl<'a> Listening<'a> {
    fn new(ear: &'a Ear) -> Self {
        ear.up.fetch_add(1, Ordering::Relaxed);
        ear.show();
        Self(ear)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.up.fetch_sub(1, Ordering::Relaxed);
        self.0.show();
    }
}

impl Ear {
    fn show(&self) {
        let all = self.up.load(Ordering::Relaxed) >= self.wanted.load(Ordering::Relaxed);
        metrics::CHANNEL_UP.set(i64::from(all));
    }

    async fn listen_always(self: Arc<Self>, node: Arc<Node>) {
        let mut told = false;
        loop {
            let began = Instant::now();
            if let Err(error) = self.listen(&node).await
                && (!told || began.elapsed() > SILENCE)
            {
                log::warn!(
                    "the state channel of {} is lost, sold-out flags follow the polling: {error:#}",
                    node.address
                );
                told = true;
            }
            let rest = rand::rng().random_range(REST_MS);
            tokio::time::sleep(Duration::from_millis(rest)).await;
        }
    }

    /// Listens until the connection is lost.
    async fn listen(&self, node: &Arc<Node>) -> anyhow::Result<()> {
        let (push, mut heard) = mpsc::unbounded_channel();
        // A reload may change it.
        let timeout = self.store.stock().fleet.times().connect;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout))
            .set_push_sender(push);
        let mut connection = node.client.get_multiplexed_async_connection_with_config(&config).await?;
        let pattern = [&glob_escape(&self.prefix)[..], b"*", SUFFIX].concat();
        connection.psubscribe(pattern).await?;
        let _listening = Listening::new(self);
        log::info!("listening to the state channel of {}", node.address);
        // What was said while nobody listened is in no picture.
        self.known.changed_all();
        let mut channels = HashSet::new();
        let mut last = Instant::now();
        loop {
            self.follow_shards(node, &mut channels, &mut connection).await?;
            match tokio::time::timeout(TICK, heard.recv()).await {
                Ok(Some(push)) => {
                    last = Instant::now();
                    self.take(push, &mut channels)?;
                    while let Ok(push) = heard.try_recv() {
                        self.take(push, &mut channels)?;
                    }
                }
                Ok(None) => anyhow::bail!("the connection was closed"),
                Err(_) if last.elapsed() >= SILENCE => {
                    redis::cmd("PING").exec_async(&mut connection).await?;
                    last = Instant::now();
                }
                Err(_) => {}
            }
        }
    }

    /// Subscribes to the shards that this server has now, and no others.
    async fn follow_shards(
        &self,
        node: &Arc<Node>,
        channels: &mut HashSet<Vec<u8>>,
        connection: &mut MultiplexedConnection,
    ) -> anyhow::Result<()> {
        let stock = self.store.stock();
        let topology = stock.fleet.topology().await?;
        if !topology.is_in_cluster(node) {
            return Ok(());
        }
        let mut wanted: HashMap<Vec<u8>, Bytes> = HashMap::new();
        for sale in self.known.watched_sales() {
            let Some(layout) = stock.layouts.known(&sale) else {
                continue;
            };
            for place in layout.places().filter(|place| hash_tag(place.key).is_some()) {
                if topology.node_of(place).is_some_and(|owner| owner.number == node.number) {
                    wanted.insert([place.key, SUFFIX].concat(), sale.clone());
                }
            }
        }
        for gone in channels.extract_if(|channel| !wanted.contains_key(channel)).collect::<Vec<_>>() {
            redis::cmd("SUNSUBSCRIBE").arg(gone).query_async::<Value>(connection).await?;
        }
        for (channel, sale) in wanted {
            if channels.contains(&channel) {
                continue;
            }
            match redis::cmd("SSUBSCRIBE").arg(&channel).query_async::<Value>(connection).await {
                Ok(_) => {
                    channels.insert(channel);
                    // What was said before is in no picture.
                    self.known.hear_of(&sale);
                }
                // The slot has just moved: it is followed once it is known where to.
                Err(error) if error.code() == Some("MOVED") => stock.fleet.look_again(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn take(&self, push: PushInfo, channels: &mut HashSet<Vec<u8>>) -> anyhow::Result<()> {
        let words: Vec<&[u8]> = push
            .data
            .iter()
            .filter_map(|word| match word {
                Value::BulkString(bytes) => Some(&bytes[..]),
                Value::SimpleString(text) => Some(text.as_bytes()),
                _ => None,
            })
            .collect();
        match (&push.kind, words.as_slice()) {
            (PushKind::Disconnection, _) => anyhow::bail!("the connection was closed"),
            (PushKind::PMessage, [_, channel, payload]) | (PushKind::SMessage, [channel, payload]) => {
                self.hear(channel, payload);
            }
            // The server gives the slot away.
            (PushKind::SUnsubscribe, [channel, ..]) if channels.remove(*channel) => {
                self.store.stock().fleet.look_again()
            }
            _ => {}
        }
        Ok(())
    }

    fn hear(&self, channel: &[u8], payload: &[u8]) {
        let Some(key) = channel.strip_suffix(SUFFIX) else {
            return;
        };
        let Some(message) = parse(payload) else {
            metrics::CHANNEL_MESSAGES.with_label_values(&["unknown"]).inc();
            return;
        };
        let kind = if message.available { "available" } else { "soldout" };
        metrics::CHANNEL_MESSAGES.with_label_values(&[kind]).inc();
        self.known.hear(key, message.sku, message.available, message.version);
    }
}

/// `soldout SKU VERSION` or `available SKU VERSION`. The SKU is whatever stands between: it may have spaces.
fn parse(payload: &[u8]) -> Option<Message<'_>> {
    let space = |byte: &u8| *byte == b' ';
    let first = payload.iter().position(space)?;
    let last = payload.iter().rposition(space)?;
    let sku = payload.get(first + 1..last)?;
    let version = std::str::from_utf8(&payload[last + 1..]).ok()?.parse().ok()?;
    let available = match &payload[..first] {
        b"available" => true,
        b"soldout" => false,
        _ => return None,
    };
    Some(Message { sku, available, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read() {
        let message = |sku, available, version| Some(Message { sku, available, version });
        assert_eq!(parse(b"soldout S 7"), message(&b"S"[..], false, 7));
        assert_eq!(parse(b"available red shoe 42 8"), message(&b"red shoe 42"[..], true, 8));
        assert_eq!(parse(b"available \xff\0 8"), message(&b"\xff\0"[..], true, 8));
        for nonsense in [&b""[..], b"soldout", b"soldout S", b"soldout S x", b"gone S 7", b"soldout S -1", b" "] {
            assert_eq!(parse(nonsense), None, "{nonsense:?}");
        }
    }
}
