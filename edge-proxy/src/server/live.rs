//! What a reload replaces: everything that follows from the config and holds no connection.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::access_log::AccessLog;
use super::cache::Cache;
use super::limits::{BodyTime, Limits};
use super::shop::Shop;
use crate::background::Task;
use crate::config::{Config, millis};
use crate::funnel::Funnel;
use crate::funnel::admission::Admission;
use crate::funnel::challenges::{Challenges, Used};
use crate::funnel::known::{Known, KnownStage};
use crate::funnel::lanes::Lanes;
use crate::funnel::leases::SharedRates;
use crate::funnel::levels::{LevelStage, Levels};
use crate::funnel::lists::{AddressList, BuyerList, Watched};
use crate::funnel::rates::{AddressRate, BuyerRate, SaleRate, ServerRate};
use crate::funnel::stage::Stage;
use crate::funnel::tickets::{TicketStage, Tickets};
use crate::funnel::tokens::Tokens;
use crate::metrics;
use crate::sale::Counter;
use crate::sale::refusals::Refusals;
use crate::store::current::CurrentStore;
use crate::trace::Tracing;

/// What lives as long as the process.
pub struct Fixed {
    pub store: Arc<CurrentStore>,
    pub known: Arc<Known>,
    /// Solutions of challenges that were used.
    pub used: Arc<Used>,
    /// Measures, where levels change by themselves.
    climbing: Mutex<Option<Task>>,
}

impl Fixed {
    pub fn new(store: Arc<CurrentStore>, known: Arc<Known>) -> Self {
        Self { store, known, used: Arc::default(), climbing: Mutex::default() }
    }

    /// `live` is in force now, in place of `before`.
    pub fn adopt(&self, live: &Live, before: Option<&Live>) {
        let Counting { lanes, levels, .. } = &live.counting;
        metrics::LANE_LIMIT.set(lanes.limit().into());
        if before.is_some_and(|before| Arc::ptr_eq(&before.counting.levels, levels)) {
            return;
        }
        let mut climbing = self.climbing.lock().unwrap_or_else(PoisonError::into_inner);
        // First the old one ends: two would pull at one level.
        *climbing = None;
        *climbing = levels.watch(lanes.clone(), live.config.listen.worker_threads());
    }
}

/// What counts requests, and goes on counting after a reload that leaves its limits as they are.
struct Counting {
    address: Arc<AddressRate>,
    server: Arc<ServerRate>,
    sale: Arc<SaleRate>,
    buyer: Arc<BuyerRate>,
    shared: Arc<SharedRates>,
    admission: Arc<Admission>,
    lanes: Arc<Lanes>,
    levels: Arc<Levels>,
}

impl Counting {
    fn new(config: &Config, fixed: &Fixed, before: Option<&Live>) -> Self {
        let rates = before.filter(|before| before.config.rates == config.rates).map(|before| &before.counting);
        let shared = before.filter(|before| before.config.shared_rates == config.shared_rates);
        let admission = before.filter(|before| before.config.admission == config.admission);
        let lanes = match before.map(|before| (before, &before.counting.lanes)) {
            Some((before, lanes)) if before.config.lanes == config.lanes => lanes.clone(),
            Some((_, lanes)) => lanes.with(&config.lanes),
            None => Lanes::new(&config.lanes),
        };
        let levels = match before.map(|before| (before, &before.counting.levels)) {
            Some((before, levels)) if before.config.levels == config.levels => levels.clone(),
            Some((_, levels)) => levels.with(&config.levels),
            None => Levels::new(&config.levels),
        };
        Self {
            address: rates.map_or_else(|| Arc::new(AddressRate::new(&config.rates)), |rates| rates.address.clone()),
            server: rates.map_or_else(|| Arc::new(ServerRate::new(&config.rates)), |rates| rates.server.clone()),
            sale: rates.map_or_else(|| Arc::new(SaleRate::new(&config.rates)), |rates| rates.sale.clone()),
            buyer: rates.map_or_else(|| Arc::new(BuyerRate::new(&config.rates)), |rates| rates.buyer.clone()),
            shared: shared.map_or_else(
                || Arc::new(SharedRates::new(&config.shared_rates, fixed.store.clone())),
                |before| before.counting.shared.clone(),
            ),
            admission: admission.map_or_else(
                || Arc::new(Admission::new(&config.admission, fixed.known.clone())),
                |before| before.counting.admission.clone(),
            ),
            lanes,
            levels,
        }
    }
}

/// The config in force and all that is made of it. A request keeps to the one it began with.
pub struct Live {
    pub config: Config,
    pub funnel: Funnel,
    pub tickets: Arc<Tickets>,
    pub counter: Counter,
    pub shop: Shop,
    pub cache: Arc<Cache>,
    pub access_log: AccessLog,
    pub limits: Limits,
    pub levels: Arc<Levels>,
    /// `None` if no tracing is configured.
    pub tracing: Option<Arc<Tracing>>,
    counting: Counting,
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
        let counting = Counting::new(&config, fixed, before);
        let lists = Watched::new(&config.lists)?;
        let challenges = Challenges::new(&config.challenges, fixed.used.clone(), fixed.store.clone())?;
        let tickets = Arc::new(Tickets::new(&config.tickets, challenges, fixed.known.clone(), refusals.clone())?);
        let cache = match before {
            Some(before) if before.config.cache == config.cache => before.cache.clone(),
            _ => Arc::new(Cache::new(&config.cache)),
        };
        let tracing = match before {
            Some(before) if before.config.tracing == config.tracing => before.tracing.clone(),
            _ => Tracing::new(&config.tracing)?,
        };
        let stages: Vec<Arc<dyn Stage>> = vec![
            Arc::new(AddressList(lists.clone())),
            counting.address.clone(),
            counting.server.clone(),
            Arc::new(LevelStage(counting.levels.clone())),
            Arc::new(KnownStage::new(config.known.mode, fixed.known.clone(), refusals.clone())),
            counting.sale.clone(),
            counting.shared.clone(),
            Arc::new(TicketStage(tickets.clone())),
            Arc::new(Tokens::new(&config.tokens, config.shop.server_key()?)?),
            Arc::new(BuyerList(lists)),
            counting.buyer.clone(),
            counting.admission.clone(),
        ];
        Ok(Self {
            funnel: Funnel::new(stages, counting.lanes.clone()),
            tickets,
            counter: Counter::new(fixed.store.clone(), fixed.known.clone(), refusals, &config.sale, &config.redis),
            shop: Shop::new(&config.shop)?,
            cache,
            access_log: AccessLog::new(&config.access_log),
            limits: Limits {
                headers: config.listen.headers_max,
                body_bytes: config.listen.body_bytes_max,
                body_time: BodyTime {
                    whole: millis(config.listen.body_timeout_ms),
                    rate_min: config.listen.body_rate_min,
                },
            },
            levels: counting.levels.clone(),
            tracing,
            counting,
            config,
        })
    }
}
