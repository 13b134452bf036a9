//! Sends confirmed orders downstream: reads order streams, delivers each order at least once.
//!
//! An order's way through the files: [`reader`] reads it from its stream and waits until it is safe
//! ([`safety`]); [`dispatch`] lines it up behind the same buyer's earlier ones ([`lanes`]); [`courier`] tries
//! until the [`webhook`] has taken it, waiting as [`backoff`] says; [`ledger`] acknowledges it, or moves it to the
//! dead letters ([`dead`]); [`keeper`] trims it away. [`stream`] holds these together for one stream, of which one
//! relay at a time is the owner by its [`lease`]. What is promised stands in `docs/relay.md`.

mod backoff;
pub mod config;
mod courier;
mod dead;
mod discover;
mod dispatch;
mod entry;
mod keeper;
mod lanes;
mod lease;
mod ledger;
pub(crate) mod link;
mod message;
mod metrics;
mod names;
mod reader;
mod safety;
mod stream;
mod trim;
mod webhook;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

pub use self::dead::{DeadLetter, DeadLetters, Replayed};
pub use self::names::StreamNames;
pub use self::safety::Safety;

use crate::config::{Config, millis};
use crate::store::fleet::Fleet;

use self::config::RelayConfig;
use self::courier::Courier;
use self::discover::discover;
use self::link::Links;
use self::stream::{Common, Stream};
use self::webhook::Webhook;

/// Everything a relay needs to know.
#[derive(Clone)]
pub struct Settings {
    pub fleet: Arc<Fleet>,
    pub safety: Safety,
    pub config: RelayConfig,
}

/// A relay that is ready to run.
pub struct Relay {
    common: Arc<Common>,
}

impl Settings {
    /// What the config file says.
    ///
    /// # Errors
    /// The address of Redis is malformed or its password cannot be read.
    pub fn of_config(config: &Config) -> anyhow::Result<Self> {
        let mut relay = config.relay.clone();
        if relay.sales.is_empty() && relay.pattern.is_empty() {
            relay.pattern = discover::prefix_pattern(&config.redis.key_prefix);
        }
        Ok(Self {
            fleet: Fleet::reading(&config.redis, &config.durability)?,
            safety: Safety {
                replicas: config.durability.replicas,
                local_fsync: relay.local_fsync,
                timeout: millis(config.durability.timeout_ms),
            },
            config: relay,
        })
    }
}

impl Relay {
    /// Checks the settings; connects to nothing.
    ///
    /// # Errors
    /// A setting makes no sense, or the webhook's secret cannot be read; the error names it.
    pub fn new(settings: Settings) -> anyhow::Result<Self> {
        settings.config.validate()?;
        let webhook = Webhook::new(&settings.config.webhook)?;
        let courier = Courier::new(Arc::new(webhook), &settings.config.webhook);
        let consumer = format!("{}-{:08x}", std::process::id(), rand::random::<u32>());
        Ok(Self {
            common: Arc::new(Common {
                links: Links::new(settings.fleet),
                courier: Arc::new(courier),
                safety: settings.safety,
                config: settings.config,
                consumer,
            }),
        })
    }

    /// Keys of the sales whose orders this relay sends, as far as they are known now.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn keys(&self) -> RedisResult<Vec<Vec<u8>>> {
        let config = &self.common.config;
        let mut keys: Vec<_> = config.sales.iter().map(|key| key.clone().into_bytes()).collect();
        if !config.pattern.is_empty() {
            keys.extend(self.found().await?);
        }
        keys.sort();
        keys.dedup();
        Ok(keys)
    }

    /// The orders of the sale (shard) in `key` that could not be delivered.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn dead_letters(&self, key: &[u8]) -> RedisResult<DeadLetters> {
        DeadLetters::open(&self.common, key).await
    }

    /// Delivers orders until `shutdown` turns true (or its sender is gone). Redis and the receiver need not be
    /// there at the start, and may go away and come back.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut convoy = Convoy::default();
        let config = &self.common.config;
        log::info!("sending orders of {:?} {} as {}", config.sales, config.pattern, self.common.consumer);
        for key in &self.common.config.sales {
            self.launch(key.as_bytes(), false, &mut convoy, &shutdown);
        }
        let interval = Duration::from_millis(self.common.config.discover_ms);
        let mut trouble = false;
        while !self.common.config.pattern.is_empty() {
            let found = self.found().await;
            if let (Err(error), false) = (&found, trouble) {
                log::warn!("cannot look for sales: {error}; trying again");
            }
            trouble = found.is_err();
            for key in found.unwrap_or_default() {
                self.launch(&key, true, &mut convoy, &shutdown);
            }
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => break,
                () = sleep(interval) => {}
            }
        }
        while convoy.tasks.join_next().await.is_some() {}
    }

    fn launch(&self, key: &[u8], found: bool, convoy: &mut Convoy, shutdown: &watch::Receiver<bool>) {
        // Those that have ended are reaped here, so that they do not pile up.
        while convoy.tasks.try_join_next().is_some() {}
        convoy.by_key.retain(|_, task| !task.is_finished());
        if convoy.by_key.contains_key(key) {
            return;
        }
        let stream = Stream::new(Arc::clone(&self.common), StreamNames::of_key(key));
        let task = convoy.tasks.spawn(stream.run(found, shutdown.clone()));
        convoy.by_key.insert(key.to_vec(), task);
    }

    /// The keys of sales that match the pattern now.
    async fn found(&self) -> RedisResult<Vec<Vec<u8>>> {
        let links = &self.common.links;
        let topology = links.topology().await?;
        let mut found = Vec::new();
        for node in &topology.nodes {
            let link = links.of_node(node);
            let (mut connection, generation) = link.get().await?;
            match discover(&mut connection, &self.common.config.pattern, topology.dialect).await {
                Ok(keys) => found.extend(keys),
                Err(error) => {
                    links.complain(&link, generation).await;
                    return Err(error);
                }
            }
        }
        Ok(found)
    }
}

/// The streams that are being delivered.
#[derive(Default)]
struct Convoy {
    tasks: JoinSet<()>,
    by_key: HashMap<Vec<u8>, AbortHandle>,
}
