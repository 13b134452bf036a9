//! Stage `shared`: limits that all proxies share, of a sale and of everything.
//!
//! The buckets are in Redis (`FLASH.THROTTLE`, keys `rate:...`), but no request asks there: in the background each
//! proxy leases so many requests as it expects until the next time, and lets that many pass. What is not used is
//! forfeit with the lease, so nobody hoards. When Redis is away the lease goes on without it but shrinks, to half
//! every `half_life_ms`: a failure closes the gates slowly, and never opens them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use moka::sync::Cache;
use serde::Deserialize;

use super::stage::{Check, Mode, Stage, Verdict, now};
use super::standing::Told;
use super::visit::Visit;
use crate::background::{self, Task};
use crate::config::millis;
use crate::metrics;
use crate::store::{SaleStore, Throttle};

/// The `[shared_rates]` section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SharedRatesConfig {
    pub mode: Mode,
    /// Requests a second that want units of one sale, over all proxies; 0 is no limit.
    pub sale_per_second: u32,
    /// Of all sales together.
    pub total_per_second: u32,
    /// How often a lease is taken.
    pub lease_ms: u64,
    /// In which time a lease halves while Redis is away.
    pub half_life_ms: u64,
}

impl Default for SharedRatesConfig {
    fn default() -> Self {
        Self { mode: Mode::Enforce, sale_per_second: 0, total_per_second: 0, lease_ms: 100, half_life_ms: 1000 }
    }
}

impl SharedRatesConfig {
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(
            (10..=10_000).contains(&self.lease_ms),
            "[shared_rates] lease_ms: {} is not in 10 to 10000",
            self.lease_ms
        );
        ensure!(self.half_life_ms > 0, "[shared_rates] half_life_ms must be at least 1");
        Ok(())
    }

    fn mode(&self) -> Mode {
        if self.sale_per_second == 0 && self.total_per_second == 0 { Mode::Off } else { self.mode }
    }
}

/// What a proxy may let pass of one limit.
struct Pool {
    /// Of the bucket in Redis.
    key: Vec<u8>,
    per_second: u32,
    told: Told,
    /// Requests that may still pass under this lease; below 0 if more came.
    left: AtomicI64,
    /// Requests that came since the lease was taken.
    came: AtomicU64,
}

impl Pool {
    /// Before the first lease a proxy lets as much pass as one lease of the whole limit.
    fn new(name: &'static str, key: Vec<u8>, per_second: u32, lease: Duration) -> Self {
        let first = (f64::from(per_second) * lease.as_secs_f64()).ceil() as i64;
        let told = Told::new(name, per_second, 1);
        Self { key, per_second, told, left: AtomicI64::new(first), came: AtomicU64::new(0) }
    }

    fn take(&self) -> bool {
        self.came.fetch_add(1, Ordering::Relaxed);
        // Not below zero by much, however many come.
        self.left.load(Ordering::Relaxed) > 0 && self.left.fetch_sub(1, Ordering::Relaxed) > 0
    }
}

/// How much to lease, decided apart from clocks and Redis.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Lessee {
    /// Requests expected in one lease, smoothed.
    expected: f64,
    /// What the last lease that was granted amounted to.
    granted: f64,
}

impl Lessee {
    /// What to ask for, after `came` requests in the last lease: what is expected and a quarter more.
    fn wants(&mut self, came: u64, most: f64) -> u64 {
        let came = came as f64;
        // Up at once, down slowly: a rush begins from one moment to the next.
        self.expected = came.max(self.expected * 0.8 + came * 0.2);
        (self.expected * 1.25 + 1.0).min(most).max(1.0) as u64
    }

    fn shrink(&mut self, by: f64) -> u64 {
        self.granted *= by;
        self.granted as u64
    }
}

/// Leases, and the stage that spends them.
pub struct SharedRates {
    config: SharedRatesConfig,
    pools: Arc<Pools>,
    _leasing: Option<Task>,
}

struct Pools {
    total: Option<Arc<Pool>>,
    sales: Cache<Bytes, Arc<Pool>>,
}

/// Sales nobody has asked for in this time lease nothing.
const IDLE: Duration = Duration::from_secs(60);
const SALES_MAX: u64 = 10_000;

/// What the keys of the buckets begin with.
const KEY_PREFIX: &[u8] = b"rate:";

impl SharedRates {
    pub fn new(config: &SharedRatesConfig, store: Arc<dyn SaleStore>) -> Self {
        let lease = millis(config.lease_ms);
        let total = (config.total_per_second > 0).then(|| {
            Arc::new(Pool::new("shared-total", [KEY_PREFIX, b"total"].concat(), config.total_per_second, lease))
        });
        let pools =
            Arc::new(Pools { total, sales: Cache::builder().max_capacity(SALES_MAX).time_to_idle(IDLE).build() });
        let leasing =
            (config.mode() != Mode::Off).then(|| background::spawn(keep_leasing(config.clone(), pools.clone(), store)));
        Self { config: config.clone(), pools, _leasing: leasing }
    }

    fn sale(&self, key: &[u8]) -> Option<Arc<Pool>> {
        if self.config.sale_per_second == 0 {
            return None;
        }
        Some(self.pools.sales.get(key).unwrap_or_else(|| {
            self.pools.sales.get_with(Bytes::copy_from_slice(key), || {
                let bucket = [KEY_PREFIX, key].concat();
                Arc::new(Pool::new("shared-sale", bucket, self.config.sale_per_second, millis(self.config.lease_ms)))
            })
        }))
    }
}

async fn keep_leasing(config: SharedRatesConfig, pools: Arc<Pools>, store: Arc<dyn SaleStore>) {
    let mut lessees: std::collections::HashMap<Vec<u8>, Lessee> = std::collections::HashMap::new();
    let mut ticks = tokio::time::interval(millis(config.lease_ms));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        // A lease that came late was spent for longer.
        let span = std::mem::replace(&mut last, Instant::now()).elapsed();
        let shrink = 0.5_f64.powf(span.as_secs_f64() * 1000.0 / config.half_life_ms as f64);
        let all: Vec<Arc<Pool>> = pools.total.iter().cloned().chain(pools.sales.iter().map(|(_, pool)| pool)).collect();
        lessees.retain(|key, _| all.iter().any(|pool| pool.key == *key));
        let leases = all.iter().map(|pool| {
            let most = f64::from(pool.per_second) * config.lease_ms as f64 / 1000.0;
            let lessee = lessees.get(&pool.key).copied().unwrap_or(Lessee { expected: 0.0, granted: most });
            lease(pool, lessee, most.max(1.0), shrink, &*store)
        });
        let leased = futures_util::future::join_all(leases).await;
        lessees.extend(all.iter().zip(leased).map(|(pool, lessee)| (pool.key.clone(), lessee)));
    }
}

/// Takes one lease.
async fn lease(pool: &Pool, mut lessee: Lessee, most: f64, shrink: f64, store: &dyn SaleStore) -> Lessee {
    let came = pool.came.swap(0, Ordering::Relaxed);
    if came == 0 && lessee.expected < 0.5 {
        // Nobody comes: what is left of the last lease will do for the first who does.
        lessee.expected = 0.0;
        return lessee;
    }
    let wants = lessee.wants(came, most);
    let (outcome, granted) = match ask(pool, wants, store).await {
        Ok(granted) => {
            lessee.granted = granted as f64;
            (if granted == wants { "whole" } else { "part" }, granted)
        }
        Err(_) => ("alone", lessee.shrink(shrink)),
    };
    metrics::LEASES.with_label_values(&[outcome]).inc();
    pool.left.store(granted as i64, Ordering::Relaxed);
    lessee
}

/// Asks for `wants`, or if that is not to be had for what there is.
async fn ask(pool: &Pool, wants: u64, store: &dyn SaleStore) -> Result<u64, crate::store::StoreError> {
    // A burst of a second's worth, but never less than one lease.
    let throttle =
        |quantity: u64| Throttle { burst: u64::from(pool.per_second), count: pool.per_second.into(), quantity };
    let first = store.throttle(&pool.key, throttle(wants)).await?;
    if !first.limited {
        return Ok(wants);
    }
    let rest = first.remaining.min(wants);
    if rest == 0 {
        return Ok(0);
    }
    let second = store.throttle(&pool.key, throttle(rest)).await?;
    Ok(if second.limited { 0 } else { rest })
}

impl Stage for SharedRates {
    fn name(&self) -> &'static str {
        "shared"
    }

    fn mode(&self) -> Mode {
        self.config.mode()
    }

    fn check<'a>(&'a self, visit: &'a mut Visit<'_>) -> Check<'a> {
        now(self.judge(visit))
    }
}

impl SharedRates {
    fn judge(&self, visit: &mut Visit<'_>) -> Verdict {
        if !visit.route.call.arrives() || visit.favoured {
            return Ok(());
        }
        for pool in [self.sale(visit.key), self.pools.total.clone()].into_iter().flatten() {
            if !pool.take() {
                return Err(pool.told.refused(millis(self.config.lease_ms)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_spent_and_no_more() {
        let pool = Pool::new("shared-sale", b"rate:s".to_vec(), 25, Duration::from_millis(100));
        let passed = (0..100).filter(|_| pool.take()).count();
        assert_eq!(passed, 3, "one lease of the whole limit");
        assert_eq!(pool.came.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn wishes_rise_at_once_and_fall_slowly() {
        let mut lessee = Lessee { expected: 0.0, granted: 0.0 };
        assert_eq!(lessee.wants(100, 1000.0), 126);
        assert_eq!(lessee.wants(10_000, 1000.0), 1000, "never more than the whole limit");
        let mut wishes = Vec::new();
        for _ in 0..60 {
            wishes.push(lessee.wants(0, 1000.0));
        }
        assert!(wishes.is_sorted_by(|a, b| a >= b) && wishes[0] == 1000 && wishes[59] == 1, "{wishes:?}");
    }

    #[test]
    fn alone_the_lease_shrinks_to_nothing() {
        let mut lessee = Lessee { expected: 100.0, granted: 64.0 };
        let halves: Vec<u64> = (0..8).map(|_| lessee.shrink(0.5)).collect();
        assert_eq!(halves, [32, 16, 8, 4, 2, 1, 0, 0]);
    }

    #[test]
    fn configs_that_make_no_sense_are_refused() {
        SharedRatesConfig { lease_ms: 1, ..SharedRatesConfig::default() }.validate().unwrap_err();
        SharedRatesConfig { half_life_ms: 0, ..SharedRatesConfig::default() }.validate().unwrap_err();
        assert_eq!(SharedRatesConfig::default().mode(), Mode::Off);
    }
}
