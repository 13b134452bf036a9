//! What a reload replaces: everything that follows from the config and holds no connection.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::access_log::AccessLog;
use super::cache::Cache;
use super::edge::Limits;
use super::shop::Shop;
use crate::config::Config;
use crate::funnel::Funnel;
use crate::funnel::known::{Known, KnownStage};
use crate::funnel::rates::{AddressRate, BuyerRate};
use crate::funnel::stage::Stage;
use crate::funnel::tokens::Tokens;
use crate::sale::Counter;
use crate::sale::refusals::Refusals;
use crate::store::SaleStore;

/// What lives as long as the process.
pub struct Fixed {
    pub store: Arc<dyn SaleStore>,
    pub known: Arc<Known>,
}

/// The config in force and all that is made of it. A request keeps to the one it began with.
pub struct Live {
    pub config: Config,
    pub funnel: Funnel,
    pub counter: Counter,
    pub shop: Shop,
    pub cache: Arc<Cache>,
    pub access_log: AccessLog,
    pub limits: Limits,
    rates: (Arc<AddressRate>, Arc<BuyerRate>),
}

/// Where everybody finds the newest.
pub type Current = Arc<ArcSwap<Live>>;

impl Live {
    /// Makes all that `config` asks for. What was counted in `before` goes on where its limits are the same.
    ///
    /// # Errors
    /// A secret cannot be read, a name not resolved.
    pub fn new(config: Config, fixed: &Fixed, before: Option<&Live>) -> anyhow::Result<Self> {
        let refusals = Arc::new(Refusals::new(&config.sale));
        let rates = match before {
            Some(before) if before.config.rates == config.rates => before.rates.clone(),
            _ => (Arc::new(AddressRate::new(&config.rates)), Arc::new(BuyerRate::new(&config.rates))),
        };
        let cache = match before {
            Some(before) if before.config.cache == config.cache => before.cache.clone(),
            _ => Arc::new(Cache::new(&config.cache)),
        };
        let stages: Vec<Arc<dyn Stage>> = vec![
            rates.0.clone(),
            Arc::new(KnownStage::new(fixed.known.clone(), refusals.clone())),
            Arc::new(Tokens::new(&config.tokens, config.shop.server_key()?)?),
            rates.1.clone(),
        ];
        Ok(Self {
            funnel: Funnel::new(stages),
            counter: Counter::new(fixed.store.clone(), fixed.known.clone(), refusals, &config.sale, &config.redis),
            shop: Shop::new(&config.shop)?,
            cache,
            access_log: AccessLog::new(&config.access_log),
            limits: Limits { headers: config.listen.headers_max, body_bytes: config.listen.body_bytes_max },
            rates,
            config,
        })
    }
}
