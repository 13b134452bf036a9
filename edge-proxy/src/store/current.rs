//! The deployment that `[redis]` leads to now. A reload puts another in its place: calls that have begun end where they
//! began, and the connections of the old one are closed when the last of them is answered.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;

use super::fleet::Fleet;
use super::layout::Layouts;
use super::redis::RedisStore;
use super::{Called, Command, HoldView, SaleStore, SaleView, StoreError, Throttle, Throttled};
use crate::config::Config;

/// What is made of one deployment: its servers, the keys of its sales, and what speaks to them.
pub struct Stock {
    pub fleet: Arc<Fleet>,
    pub layouts: Arc<Layouts>,
    store: RedisStore,
}

impl Stock {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// An address is malformed, or a secret or certificate cannot be read.
    pub fn new(config: &Config) -> anyhow::Result<Arc<Self>> {
        let fleet = Fleet::new(&config.redis, &config.durability)?;
        let layouts = Arc::new(Layouts::new(fleet.clone(), &config.sales, config.redis.key_prefix.as_bytes()));
        let store = RedisStore::new(fleet.clone(), layouts.clone());
        Ok(Arc::new(Self { fleet, layouts, store }))
    }
}

/// That of whichever deployment it is now.
pub struct CurrentStore(ArcSwap<Stock>);

impl CurrentStore {
    pub fn new(first: Arc<Stock>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(first)))
    }

    pub fn stock(&self) -> Arc<Stock> {
        self.0.load_full()
    }

    pub fn replace(&self, next: Arc<Stock>) {
        self.0.store(next);
    }
}

#[async_trait]
impl SaleStore for CurrentStore {
    async fn call(&self, sale: &[u8], command: &Command) -> Result<Called, StoreError> {
        self.stock().store.call(sale, command).await
    }

    async fn hold(&self, sale: &[u8], id: &[u8], buyer: Option<&[u8]>) -> Result<Option<HoldView>, StoreError> {
        self.stock().store.hold(sale, id, buyer).await
    }

    async fn sale(&self, sale: &[u8]) -> Result<(SaleView, i64), StoreError> {
        self.stock().store.sale(sale).await
    }

    async fn keys(&self, prefix: &[u8], max: usize) -> Result<Vec<Bytes>, StoreError> {
        self.stock().store.keys(prefix, max).await
    }

    async fn throttle(&self, key: &[u8], throttle: Throttle) -> Result<Throttled, StoreError> {
        self.stock().store.throttle(key, throttle).await
    }

    async fn once(&self, key: &[u8], life: Duration) -> Result<bool, StoreError> {
        self.stock().store.once(key, life).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.stock().store.ping().await
    }
}
