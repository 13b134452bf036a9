//! The state channel: the module says on `KEY:state` when a SKU sells out or comes back, and every edge
//! knows within milliseconds. On a connection of its own, opened again whenever it is lost.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use rand::RngExt;

use crate::config::RedisConfig;
use crate::funnel::known::Known;
use crate::metrics;
use crate::store::redis::glob_escape;

const SUFFIX: &[u8] = b":state";

/// How long to rest between attempts to connect: short, for the sale goes on meanwhile, with jitter, for all
/// edges lost it at once.
const REST_MS: std::ops::Range<u64> = 200..600;

/// A connection from which nothing has come for so long is asked whether it still lives.
const SILENCE: Duration = Duration::from_secs(5);

/// Listens to the state channels of all sales under the key prefix.
pub struct Channel {
    client: redis::Client,
    prefix: Vec<u8>,
    connect_timeout: Duration,
    known: Arc<Known>,
}

/// What the module says.
#[derive(Debug, PartialEq, Eq)]
struct Message<'a> {
    sku: &'a [u8],
    available: bool,
    version: u64,
}

impl Channel {
    /// # Errors
    /// The URL is malformed or its secret cannot be read.
    pub fn new(config: &RedisConfig, known: Arc<Known>) -> anyhow::Result<Self> {
        Ok(Self {
            client: config.client()?,
            prefix: config.key_prefix.clone().into_bytes(),
            connect_timeout: config.connect_timeout(),
            known,
        })
    }

    /// Listens until the connection is lost.
    async fn listen(&self) -> anyhow::Result<()> {
        let subscription = async {
            let mut subscription = self.client.get_async_pubsub().await?;
            let pattern = [&glob_escape(&self.prefix)[..], b"*", SUFFIX].concat();
            subscription.psubscribe(pattern).await?;
            anyhow::Ok(subscription.split())
        };
        let (mut sink, mut messages) = tokio::time::timeout(self.connect_timeout, subscription).await??;
        metrics::CHANNEL_UP.set(1);
        log::info!("listening to the state channel");
        // What was said while nobody listened is in no picture.
        self.known.changed_all();
        loop {
            match tokio::time::timeout(SILENCE, messages.next()).await {
                Ok(Some(message)) => {
                    self.hear(message.get_channel_name().as_bytes(), message.get_payload_bytes());
                }
                Ok(None) => anyhow::bail!("the connection was closed"),
                Err(_) => {
                    let _: redis::Value = tokio::time::timeout(self.connect_timeout, sink.ping()).await??;
                }
            }
        }
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

#[async_trait]
impl BackgroundService for Channel {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut told = false;
        loop {
            tokio::select! {
                result = self.listen() => {
                    if let Err(error) = result && (!told || metrics::CHANNEL_UP.get() == 1) {
                        log::warn!("the state channel is lost, sold-out flags follow the polling: {error:#}");
                        told = true;
                    }
                    metrics::CHANNEL_UP.set(0);
                }
                _ = shutdown.changed() => return,
            }
            let rest = Duration::from_millis(rand::rng().random_range(REST_MS));
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                _ = shutdown.changed() => return,
            }
        }
    }
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
