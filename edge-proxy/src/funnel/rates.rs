//! Stages `address`, `server`, `sale` and `buyer`: how many requests a second one client may send, and how many
//! may come in all.
//!
//! Addresses are counted in fixed memory, however many come (65,536 slots: at 100,000 addresses and a limit
//! of 5 no innocent first request was refused; the library's 1,024 refused 92%). Buyers have proven who they
//! are, so there is no more of them than customers: they are counted exactly, by GCRA, and so are sales, which
//! are counted once they are known to exist. The limits of a sale and of the server are for those who arrive or
//! look: who holds units is never held up by them. Limits that several proxies share are in [`super::leases`].

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use pingora_limits::rate::Rate;
use serde::Deserialize;

use super::stage::{Check, Mode, Stage, Verdict, now};
use super::standing::Told;
use super::visit::{Caller, Visit};
use crate::http::address::limit_key;
use crate::http::routes::Call;

/// The `[rates]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RatesConfig {
    pub mode: Mode,
    /// Requests a second of one address, IPv6 by /64; 0 is no limit.
    pub address_per_second: u32,
    /// Requests a second of one buyer; 0 is no limit.
    pub buyer_per_second: u32,
    /// How many of them may come at once.
    pub buyer_burst: u32,
    /// Requests a second that want units of one sale; 0 is no limit.
    pub sale_per_second: u32,
    /// Requests a second that want units or look, of all sales; 0 is no limit.
    pub server_per_second: u32,
}

impl Default for RatesConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            address_per_second: 50,
            buyer_per_second: 5,
            buyer_burst: 10,
            sale_per_second: 0,
            server_per_second: 0,
        }
    }
}

impl RatesConfig {
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.buyer_per_second == 0 || self.buyer_burst > 0, "[rates] buyer_burst must be at least 1");
        Ok(())
    }
}

const SKETCH_HASHES: usize = 4;
const SKETCH_SLOTS: usize = 65_536;

/// Stage `address`.
pub struct AddressRate {
    mode: Mode,
    limit: isize,
    told: Told,
    rate: Rate,
}

impl AddressRate {
    pub fn new(config: &RatesConfig) -> Self {
        let limit = config.address_per_second;
        Self {
            mode: if limit == 0 { Mode::Off } else { config.mode },
            limit: limit as isize,
            told: Told::new("address", limit, 1),
            rate: Rate::new_with_estimator_config(Duration::from_secs(1), SKETCH_HASHES, SKETCH_SLOTS),
        }
    }
}

impl Stage for AddressRate {
    fn name(&self) -> &'static str {
        "address"
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn check<'a>(&'a self, visit: &'a mut Visit<'_>) -> Check<'a> {
        now(self.judge(visit))
    }
}

impl AddressRate {
    fn judge(&self, visit: &mut Visit<'_>) -> Verdict {
        // The shop's own server speaks for all buyers, but proves itself only later: put it on the allow list.
        if visit.favoured {
            return Ok(());
        }
        let count = self.rate.observe(&limit_key(visit.address), 1);
        if count > self.limit {
            return Err(self.told.refused(Duration::from_secs(1)));
        }
        if self.mode == Mode::Enforce {
            visit.standings.note(self.told.standing((self.limit - count) as u32, 1));
        }
        Ok(())
    }
}

/// Buyers whose bucket is full again are forgotten every so many checks.
const FORGET_EVERY: u32 = 16_384;

/// One that tells how much is left.
type BuyerLimiter = DefaultKeyedRateLimiter<Bytes, StateInformationMiddleware>;

/// Stage `buyer`.
pub struct BuyerRate {
    mode: Mode,
    told: Told,
    per_second: u32,
    limiter: Option<Arc<BuyerLimiter>>,
    clock: DefaultClock,
    checks: std::sync::atomic::AtomicU32,
}

impl BuyerRate {
    pub fn new(config: &RatesConfig) -> Self {
        let limiter = NonZeroU32::new(config.buyer_per_second).map(|per_second| {
            let burst = NonZeroU32::new(config.buyer_burst).unwrap_or(NonZeroU32::MIN);
            let limiter = RateLimiter::keyed(Quota::per_second(per_second).allow_burst(burst));
            Arc::new(limiter.with_middleware::<StateInformationMiddleware>())
        });
        Self {
            mode: if limiter.is_some() { config.mode } else { Mode::Off },
            // So many at once, and as many again by the time that the bucket is full again.
            told: Told::new(
                "buyer",
                config.buyer_burst,
                u64::from(config.buyer_burst.div_ceil(config.buyer_per_second.max(1))),
            ),
            per_second: config.buyer_per_second.max(1),
            limiter,
            clock: DefaultClock::default(),
            checks: std::sync::atomic::AtomicU32::new(0),
        }
    }

    fn forget_idle_buyers(&self, limiter: &BuyerLimiter) {
        let checks = self.checks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if checks % FORGET_EVERY == FORGET_EVERY - 1 {
            limiter.retain_recent();
        }
    }
}

impl Stage for BuyerRate {
    fn name(&self) -> &'static str {
        "buyer"
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn check<'a>(&'a self, visit: &'a mut Visit<'_>) -> Check<'a> {
        now(self.judge(visit))
    }
}

impl BuyerRate {
    fn judge(&self, visit: &mut Visit<'_>) -> Verdict {
        let (Some(limiter), Caller::Buyer(buyer)) = (&self.limiter, &visit.caller) else {
            return Ok(());
        };
        if visit.favoured {
            return Ok(());
        }
        self.forget_idle_buyers(limiter);
        match limiter.check_key(buyer) {
            Ok(state) => {
                let quota = self.told.quota();
                let left = state.remaining_burst_capacity().min(quota);
                let reset_s = u64::from((quota - left).div_ceil(self.per_second).max(1));
                if self.mode == Mode::Enforce {
                    visit.standings.note(self.told.standing(left, reset_s));
                }
                Ok(())
            }
            Err(not_until) => Err(self.told.refused(not_until.wait_time_from(self.clock.now()))),
        }
    }
}

/// Stage `server`.
pub struct ServerRate {
    mode: Mode,
    told: Told,
    limiter: Option<DefaultDirectRateLimiter>,
    clock: DefaultClock,
}

impl ServerRate {
    pub fn new(config: &RatesConfig) -> Self {
        let limiter = NonZeroU32::new(config.server_per_second).map(|n| RateLimiter::direct(Quota::per_second(n)));
        Self {
            mode: if limiter.is_some() { config.mode } else { Mode::Off },
            told: Told::new("server", config.server_per_second, 1),
            limiter,
            clock: DefaultClock::default(),
        }
    }
}

impl Stage for ServerRate {
    fn name(&self) -> &'static str {
        "server"
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn check<'a>(&'a self, visit: &'a mut Visit<'_>) -> Check<'a> {
        now(self.judge(visit))
    }
}

impl ServerRate {
    fn judge(&self, visit: &mut Visit<'_>) -> Verdict {
        let counts = visit.route.call.arrives() || visit.route.call == Call::Status;
        match &self.limiter {
            Some(limiter) if counts && !visit.favoured => {
                limiter.check().map_err(|not_until| self.told.refused(not_until.wait_time_from(self.clock.now())))
            }
            _ => Ok(()),
        }
    }
}

/// Stage `sale`. It stands behind `known`, so that there are no more names than sales.
pub struct SaleRate {
    mode: Mode,
    told: Told,
    limiter: Option<DefaultKeyedRateLimiter<Bytes>>,
    clock: DefaultClock,
}

impl SaleRate {
    pub fn new(config: &RatesConfig) -> Self {
        let limiter = NonZeroU32::new(config.sale_per_second).map(|n| RateLimiter::keyed(Quota::per_second(n)));
        Self {
            mode: if limiter.is_some() { config.mode } else { Mode::Off },
            told: Told::new("sale", config.sale_per_second, 1),
            limiter,
            clock: DefaultClock::default(),
        }
    }
}

impl Stage for SaleRate {
    fn name(&self) -> &'static str {
        "sale"
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn check<'a>(&'a self, visit: &'a mut Visit<'_>) -> Check<'a> {
        now(self.judge(visit))
    }
}

impl SaleRate {
    fn judge(&self, visit: &mut Visit<'_>) -> Verdict {
        match &self.limiter {
            Some(limiter) if visit.route.call.arrives() && !visit.favoured => limiter
                .check_key(&visit.route.sale)
                .map_err(|not_until| self.told.refused(not_until.wait_time_from(self.clock.now()))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::visit::tests::{request, visit};
    use super::*;

    fn config(address_per_second: u32, buyer_per_second: u32) -> RatesConfig {
        RatesConfig { address_per_second, buyer_per_second, buyer_burst: 2, ..RatesConfig::default() }
    }

    #[tokio::test]
    async fn one_address_is_limited_and_others_are_not() {
        let stage = AddressRate::new(&config(3, 0));
        let request = request("GET", "/flash/s", &[]);
        let mut refused = 0;
        for _ in 0..8 {
            refused += usize::from(stage.check(&mut visit(&request)).await.is_err());
        }
        // The eight may straddle a second.
        assert!((2..=5).contains(&refused), "{refused}");
        let mut other = visit(&request);
        other.address = "192.0.2.2".parse().unwrap();
        stage.check(&mut other).await.unwrap();
    }

    #[tokio::test]
    async fn an_ipv6_network_is_one_address() {
        let stage = AddressRate::new(&config(1, 0));
        let request = request("GET", "/flash/s", &[]);
        let mut refused = 0;
        for host in 1..=4 {
            let mut visit = visit(&request);
            visit.address = format!("2001:db8::{host}").parse().unwrap();
            refused += usize::from(stage.check(&mut visit).await.is_err());
        }
        assert!(refused >= 2, "{refused}");
    }

    #[tokio::test]
    async fn a_buyer_has_a_burst_and_then_a_rate() {
        let stage = BuyerRate::new(&config(0, 1));
        let request = request("GET", "/flash/s", &[]);
        let mut visit = visit(&request);
        visit.caller = Caller::Buyer(Bytes::from_static(b"anna"));
        stage.check(&mut visit).await.unwrap();
        stage.check(&mut visit).await.unwrap();
        let refusal = stage.check(&mut visit).await.unwrap_err();
        assert_eq!(refusal.status, 429);
        assert!(refusal.retry_after_s().is_some());
        visit.caller = Caller::Buyer(Bytes::from_static(b"bert"));
        stage.check(&mut visit).await.unwrap();
        visit.caller = Caller::Shop;
        for _ in 0..10 {
            stage.check(&mut visit).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_sale_and_the_server_limit_those_who_arrive() {
        let config = RatesConfig { sale_per_second: 2, server_per_second: 4, ..RatesConfig::default() };
        let (sale, server) = (SaleRate::new(&config), ServerRate::new(&config));
        let confirm = request("POST", "/flash/s/holds/h/confirm", &[]);
        let reserve = request("POST", "/flash/s/holds?sku=S", &[]);
        let other = request("POST", "/flash/t/holds?sku=S", &[]);
        for _ in 0..50 {
            sale.check(&mut visit(&confirm)).await.unwrap();
            server.check(&mut visit(&confirm)).await.unwrap();
        }
        let mut passed = (0, 0);
        for _ in 0..50 {
            passed.0 += usize::from(sale.check(&mut visit(&reserve)).await.is_ok());
            passed.1 += usize::from(server.check(&mut visit(&reserve)).await.is_ok());
        }
        assert!((2..20).contains(&passed.0) && (4..40).contains(&passed.1), "{passed:?}");
        sale.check(&mut visit(&other)).await.unwrap();
        let refusal = Told::new("sale", 2, 1).refused(Duration::from_millis(1200));
        assert!(refusal.retry_after_s() >= Some(2));
        let mut favoured = visit(&reserve);
        favoured.favoured = true;
        for _ in 0..50 {
            sale.check(&mut favoured).await.unwrap();
            server.check(&mut favoured).await.unwrap();
        }
    }

    #[test]
    fn nought_is_no_limit() {
        assert_eq!(AddressRate::new(&config(0, 0)).mode(), Mode::Off);
        assert_eq!(BuyerRate::new(&config(0, 0)).mode(), Mode::Off);
    }
}
