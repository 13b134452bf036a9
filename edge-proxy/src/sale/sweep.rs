//! Ends due holds in sales of the library: functions have no timer, so somebody must call (see
//! `docs/managed-redis.md`). Answers are right without it; memory, news and `expired` entries wait for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use redis::Value;

use crate::config::{RedisConfig, millis};
use crate::funnel::known::Known;
use crate::metrics;
use crate::store::current::CurrentStore;
use crate::store::nodes::Dialect;
use crate::store::{SaleStore, StoreError};

/// Sales that nobody asks for are swept in every so many rounds.
const ROUNDS: u32 = 5;

/// Most sales looked for.
const SALES_MAX: usize = 1000;

/// The sweeping, as a service of the process.
pub struct Sweep {
    store: Arc<CurrentStore>,
    known: Arc<Known>,
    prefix: Vec<u8>,
    every: Duration,
}

impl Sweep {
    pub fn new(config: &RedisConfig, store: Arc<CurrentStore>, known: Arc<Known>) -> Self {
        let prefix = config.key_prefix.clone().into_bytes();
        Self { store, known, prefix, every: millis(config.sweep_ms) }
    }

    async fn sweep(&self, all: bool) -> Result<(), StoreError> {
        let stock = self.store.stock();
        if stock.fleet.topology().await?.dialect != Dialect::Functions {
            return Ok(());
        }
        let mut sales: BTreeSet<Bytes> = self.known.watched_sales().into_iter().collect();
        if all {
            sales.extend(self.store.keys(&self.prefix, SALES_MAX).await?);
        }
        for sale in sales {
            let Ok(layout) = stock.layouts.of(&sale).await else {
                continue;
            };
            let expire = |key| Dialect::Functions.command("EXPIRE", key);
            let calls: Vec<_> = layout.places().map(|place| (place, expire(place.key))).collect();
            for ended in stock.fleet.send_each(&calls).await {
                match ended {
                    Ok(Value::Int(count)) => metrics::SWEPT.inc_by(count.max(0) as u64),
                    other => log::debug!("cannot sweep {}: {other:?}", String::from_utf8_lossy(&sale)),
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl BackgroundService for Sweep {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        if self.every.is_zero() {
            return;
        }
        for round in 0_u32.. {
            tokio::select! {
                () = tokio::time::sleep(self.every) => {}
                _ = shutdown.changed() => return,
            }
            if let Err(error) = self.sweep(round % ROUNDS == 0).await {
                log::debug!("cannot sweep: {error}");
            }
        }
    }
}
