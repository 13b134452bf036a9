//! Moves stock to the shards where buyers are, where the servers cannot do it among themselves: between standalone
//! servers or several clusters, and among servers with the library instead of the module. What moves within one cluster
//! is left to its bus.
//!
//! [`demand`] measures what buyers want from two looks at a shard, [`plan`] decides what moves by the rules that the
//! module's own bus follows ([`flashsale_core::balance`]), and [`crate::operate::transfer`] moves it. A balancer keeps
//! nothing that matters: any number of them may run, be killed at any point, and be started again.

pub mod config;
mod demand;
mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

use self::config::{BalancerConfig, Mode};
use self::demand::Demand;
use self::plan::{Step, steps};
use crate::config::RedisConfig;
use crate::metrics;
use crate::operate::sale::pairs;
use crate::operate::transfer::{self, Moved, Safety};
use crate::operate::{Deployment, Patience, Sale, ShardInfo, list};
use crate::store::redis::unix_ms;

/// After a search for sales nobody searches for so many times as long as it took.
const SEARCH_REST: u32 = 20;
/// A sale that nobody has touched for so long is looked at less often.
const CALM: Duration = Duration::from_secs(5);
/// Units that stay in transit for two looks have been left there by a mover that is gone, or by a lost message.
const LOOKS_IN_TRANSIT: u32 = 2;

/// A balancer for all sharded sales of a deployment.
pub struct Balancer {
    redis: RedisConfig,
    safety: Safety,
    config: BalancerConfig,
    /// Only these sales; empty: all.
    names: Vec<String>,
}

/// What one look at one sale has moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    pub moved: u64,
    /// Units that left and wait for replicas.
    pub waiting: u64,
    /// Something was bought, missed or moved since the last look.
    pub is_busy: bool,
}

impl Balancer {
    pub fn new(redis: RedisConfig, safety: Safety, config: BalancerConfig, names: Vec<String>) -> Self {
        Self { redis, safety, config, names }
    }

    /// Balances until told to stop. Servers may come and go.
    pub async fn run(&self, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            () = self.work() => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    async fn work(&self) {
        let mut was_told = false;
        loop {
            match Deployment::open(&self.redis, self.patience()).await {
                Ok(deployment) if self.is_needed(&deployment).await => {
                    was_told = false;
                    self.watch(Arc::new(deployment)).await;
                }
                Ok(_) => {
                    log::debug!("balancer: the servers move stock by themselves");
                    sleep(self.config.discover() * 10).await;
                }
                // Once is enough until it has changed.
                Err(error) if was_told => log::debug!("balancer: {error:#}"),
                Err(error) => {
                    was_told = true;
                    log::warn!("balancer: {error:#}; trying again until it goes");
                }
            }
            sleep(self.config.discover()).await;
        }
    }

    /// Whether stock has to be moved from outside.
    async fn is_needed(&self, deployment: &Deployment) -> bool {
        match self.config.mode {
            Mode::On => true,
            Mode::Off => false,
            // The modules of a cluster tell each other their stock over the cluster bus.
            Mode::Auto => !deployment.topology().await.is_ok_and(|topology| topology.is_one_with_a_bus()),
        }
    }

    fn patience(&self) -> Patience {
        let once = self.redis.timeout().max(self.safety.timeout + Duration::from_millis(500));
        // One try: the next look is the next try, and a server that is away must not keep the others waiting.
        Patience { once, in_all: Duration::ZERO }
    }

    /// Looks for sales now and then, and at each of them often.
    async fn watch(&self, deployment: Arc<Deployment>) {
        let mut sales: HashMap<(String, u32), Watched> = HashMap::new();
        let mut discover_at = Instant::now();
        loop {
            let now = Instant::now();
            if now >= discover_at {
                match self.find(&deployment).await {
                    Ok(found) => {
                        let id = |sale: &Sale| (sale.name.clone(), sale.shards());
                        sales.retain(|known, _| found.iter().any(|sale| id(sale) == *known));
                        for sale in found {
                            sales.entry(id(&sale)).or_insert_with(|| Watched::new(sale));
                        }
                    }
                    Err(error) => {
                        log::warn!("balancer: looking for sales: {error:#}");
                        if sales.is_empty() {
                            return;
                        }
                    }
                }
                // Servers may hold millions of other keys: looking through them must not be what they are busy with.
                let rest = now.elapsed() * SEARCH_REST;
                discover_at = Instant::now() + self.config.discover().max(rest);
            }
            let due = sales.values_mut().filter(|watched| watched.next_at <= Instant::now());
            join_all(due.map(|watched| self.look(&deployment, watched))).await;
            let next = sales.values().map(|watched| watched.next_at).min().unwrap_or(discover_at).min(discover_at);
            sleep_until(next.into()).await;
        }
    }

    /// The sharded sales.
    async fn find(&self, deployment: &Deployment) -> anyhow::Result<Vec<Sale>> {
        let prefix = &self.redis.key_prefix;
        let mut found: Vec<Sale> = Vec::new();
        if self.names.is_empty() {
            found = list::names(deployment, prefix).await?;
        }
        for name in &self.names {
            found.push(Sale::find(deployment, prefix, name).await?);
        }
        found.retain(|sale| sale.shards() > 1);
        Ok(found)
    }

    async fn look(&self, deployment: &Deployment, watched: &mut Watched) {
        let longest = self.patience().once * 4;
        let done = timeout(longest, watched.look(deployment, self.config.mode, self.safety)).await;
        let now = Instant::now();
        match done {
            Ok(work) => {
                if work.is_busy {
                    watched.busy_at = now;
                }
                if work.moved > 0 {
                    metrics::BALANCED_UNITS.inc_by(work.moved);
                }
            }
            Err(_) => log::warn!("balancer: `{}` took longer than {longest:?}", watched.sale.name),
        }
        let is_calm = now.duration_since(watched.busy_at) > CALM;
        watched.next_at = now + if is_calm { self.config.idle() } else { self.config.every() };
    }

    /// One look at each sale, twice, so that what was left in transit is finished too; for a run by hand.
    ///
    /// # Errors
    /// No server answers, or a sale is not there.
    pub async fn once(&self) -> anyhow::Result<Work> {
        let deployment = Deployment::open(&self.redis, self.patience()).await?;
        let mut all = Work::default();
        for sale in self.find(&deployment).await? {
            let mut watched = Watched::new(sale);
            for _ in 0..=LOOKS_IN_TRANSIT {
                let work = watched.look(&deployment, self.config.mode, self.safety).await;
                all.moved += work.moved;
                all.waiting = work.waiting;
            }
        }
        Ok(all)
    }
}

/// One sale, and what was seen of it.
struct Watched {
    sale: Sale,
    demand: Demand,
    /// How often each pair was seen with the same units in transit.
    in_transit: HashMap<(Bytes, u32, u32), (u64, u32)>,
    next_at: Instant,
    busy_at: Instant,
}

impl Watched {
    fn new(sale: Sale) -> Self {
        let now = Instant::now();
        Self { sale, demand: Demand::default(), in_transit: HashMap::new(), next_at: now, busy_at: now }
    }

    async fn look(&mut self, deployment: &Deployment, mode: Mode, safety: Safety) -> Work {
        let infos = self.read(deployment).await;
        let mut work = Work { is_busy: self.demand.see(&infos, unix_ms()), ..Work::default() };
        let topology = deployment.topology().await.ok();
        let has_bus = |from, to| topology.as_ref().is_some_and(|topology| topology.have_a_bus(from, to));
        let edition = |shard: u32| infos.get(shard as usize)?.as_ref().map(|info| info.edition);
        let is_one_sale = |from, to| edition(from) == edition(to);
        let is_ours = |from, to| is_one_sale(from, to) && (mode == Mode::On || !has_bus(from, to));
        let planned = steps(&infos, &mut self.demand, is_ours, unix_ms());
        let finishing = self.left_in_transit(&infos, is_ours);
        let sale = &self.sale;
        let moves = planned.into_iter().chain(finishing).map(|step| async move {
            let result = match step.qty {
                0 => transfer::finish(deployment, sale, &step.sku, step.pair, safety).await,
                qty => transfer::send(deployment, sale, &step.sku, step.pair, qty, safety).await,
            };
            (step, result)
        });
        for (step, result) in join_all(moves).await {
            match result {
                Ok(Moved { units, waiting }) => {
                    work.moved += units;
                    work.waiting += waiting;
                    self.demand.brought(&step, units);
                }
                Err(trouble) => log::debug!("balancer: `{}`: {trouble}", self.sale.name),
            }
        }
        work.is_busy |= work.moved + work.waiting > 0;
        work
    }

    /// The shards that answer.
    async fn read(&self, deployment: &Deployment) -> Vec<Option<ShardInfo>> {
        let reads = (0..self.sale.shards()).map(|shard| self.sale.info(deployment, shard));
        let told = |(shard, info): (u32, anyhow::Result<Option<ShardInfo>>)| {
            info.unwrap_or_else(|error| {
                log::debug!("balancer: {}: {error:#}", self.sale.key_text(shard));
                None
            })
        };
        (0..).zip(join_all(reads).await).map(told).collect()
    }

    /// Transfers that nobody seems to be finishing, of those from one shard to another that are `is_ours`.
    fn left_in_transit(&mut self, infos: &[Option<ShardInfo>], is_ours: impl Fn(u32, u32) -> bool) -> Vec<Step> {
        let mut seen = HashMap::new();
        let mut left = Vec::new();
        for sku in crate::operate::sale::skus_of(infos) {
            for pair in pairs(infos, &sku) {
                let there = |shard: u32| infos.get(shard as usize).is_some_and(Option::is_some);
                let is_over = pair.granted <= pair.accepted || !there(pair.from) || !there(pair.to);
                if is_over || !is_ours(pair.from, pair.to) {
                    continue;
                }
                let key = (sku.clone(), pair.from, pair.to);
                let times = match self.in_transit.get(&key) {
                    Some(&(granted, times)) if granted == pair.granted => times + 1,
                    _ => 1,
                };
                if times >= LOOKS_IN_TRANSIT {
                    left.push(Step { sku: sku.clone(), pair, qty: 0 });
                }
                seen.insert(key, (pair.granted, times));
            }
        }
        self.in_transit = seen;
        left
    }
}
