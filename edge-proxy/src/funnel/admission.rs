//! Stage `admission`: no more buyers inside than there may be units for.
//!
//! Of each article, or of the whole sale where a request names several, at most
//! `factor x (available + returns x held)` buyers may be trying to get one; the rest wait outside and are told
//! to come again. The numbers are those of the edge's picture of the sale, so the door opens and narrows with
//! the stock. A buyer who is inside stays inside for `stay_ms`, however often the request is repeated, and
//! leaves early by getting a hold or a final refusal. With several proxies each admits its share (`proxies`).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use moka::sync::Cache;
use serde::Deserialize;

use super::known::Known;
use super::stage::{Check, Mode, Stage, Verdict, later, now};
use super::visit::{Caller, Visit};
use crate::http::input::Item;
use crate::http::problem::{Problem, Refusal};
use crate::http::reply::Reply;
use crate::sale::picture::Picture;

/// The `[admission]` section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionConfig {
    pub mode: Mode,
    /// Buyers inside for each unit that may be had.
    pub factor: f64,
    /// The share of held units that is expected back.
    pub returns: f64,
    /// How long a buyer may try.
    pub stay_ms: u64,
    /// When those outside should come again, before jitter.
    pub retry_after_s: u64,
    /// How many proxies share the sale.
    pub proxies: u32,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self { mode: Mode::Off, factor: 3.0, returns: 0.2, stay_ms: 10_000, retry_after_s: 2, proxies: 1 }
    }
}

impl AdmissionConfig {
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.factor.is_finite() && self.factor > 0.0, "[admission] factor: {} is not above 0", self.factor);
        ensure!((0.0..=1.0).contains(&self.returns), "[admission] returns: {} is not in 0 to 1", self.returns);
        ensure!(
            self.stay_ms > 0 && self.retry_after_s > 0 && self.proxies > 0,
            "[admission] stay_ms, retry_after_s and proxies must be at least 1"
        );
        Ok(())
    }

    /// How many buyers may be inside for these units.
    fn room(&self, available: u64, held: u64) -> usize {
        let expected = available as f64 + self.returns * held as f64;
        // Somebody must try, or nobody would find out that units are there.
        ((self.factor * expected / f64::from(self.proxies)) as usize).max(1)
    }
}

/// Buyers of one article or sale, by the hash of their id, and when each leaves.
#[derive(Default)]
struct Inside {
    leaves_ms: Mutex<Buyers>,
}

#[derive(Default)]
struct Buyers {
    leaves_ms: HashMap<u64, u64>,
    /// When those who have left were last struck off.
    swept_ms: u64,
}

/// Striking off walks over all who are inside: not for each who comes.
const SWEEP_EVERY_MS: u64 = 100;

impl Inside {
    fn enter(&self, buyer: u64, now_ms: u64, stay_ms: u64, room: usize) -> bool {
        let mut buyers = self.lock();
        if let Some(leaves_ms) = buyers.leaves_ms.get(&buyer)
            && now_ms < *leaves_ms
        {
            return true;
        }
        if buyers.leaves_ms.len() >= room {
            if now_ms < buyers.swept_ms + SWEEP_EVERY_MS {
                return false;
            }
            buyers.swept_ms = now_ms;
            buyers.leaves_ms.retain(|_, leaves_ms| now_ms < *leaves_ms);
            if buyers.leaves_ms.len() >= room {
                return false;
            }
        }
        buyers.leaves_ms.insert(buyer, now_ms + stay_ms);
        true
    }

    fn leave_at(&self, buyer: u64, at_ms: u64) {
        if let Some(leaves_ms) = self.lock().leaves_ms.get_mut(&buyer) {
            *leaves_ms = (*leaves_ms).min(at_ms);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Buyers> {
        // Nothing in here panics half-way.
        self.leaves_ms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stage `admission`.
pub struct Admission {
    config: AdmissionConfig,
    known: Arc<Known>,
    /// By sale, and by sale and article.
    inside: Cache<Bytes, Arc<Inside>>,
    hasher: RandomState,
}

/// What is remembered of one sale or article that nobody asks for any more.
const IDLE: Duration = Duration::from_secs(600);
const SALES_MAX: u64 = 100_000;

/// A buyer's stay, ended by what came of it.
pub struct Stay {
    inside: Arc<Inside>,
    buyer: u64,
    now_ms: u64,
    refresh_ms: u64,
}

impl Stay {
    /// Ends it by the answer: who holds units no longer competes for those that are left, and who was refused for
    /// good need not wait. All others may try again.
    pub fn close(self, result: &Result<Reply, Refusal>) {
        let at_ms = match result {
            // The picture still shows the units as available until it is fetched again.
            Ok(reply) if reply.status < 300 => self.now_ms + self.refresh_ms,
            Err(refusal) if matches!(refusal.status, 400..500) && refusal.retry_after.is_none() => self.now_ms,
            _ => return,
        };
        self.inside.leave_at(self.buyer, at_ms);
    }
}

impl Admission {
    pub fn new(config: &AdmissionConfig, known: Arc<Known>) -> Self {
        Self {
            config: config.clone(),
            known,
            inside: Cache::builder().max_capacity(SALES_MAX).time_to_idle(IDLE).build(),
            hasher: RandomState::new(),
        }
    }

    /// Which door a request goes through, and how many may be behind it.
    fn door(&self, key: &[u8], picture: &Picture, items: &[Item]) -> (Bytes, usize) {
        if let [item] = items
            && let Some(sku) = picture.skus.get(&item.sku)
        {
            let name = [key, b"\0", &item.sku].concat();
            return (name.into(), self.config.room(sku.counters.available, sku.counters.held));
        }
        let counters = || picture.skus.values().map(|sku| &sku.counters);
        let available = counters().map(|counters| counters.available).sum();
        let held = counters().map(|counters| counters.held).sum();
        (Bytes::copy_from_slice(key), self.config.room(available, held))
    }
}

impl Stage for Admission {
    fn name(&self) -> &'static str {
        "admission"
    }

    fn mode(&self) -> Mode {
        self.config.mode
    }

    fn check<'a>(&'a self, visit: &'a mut Visit<'_>) -> Check<'a> {
        if !visit.route.call.takes_stock() || visit.favoured {
            return now(Ok(()));
        }
        later(self.judge(visit))
    }
}

impl Admission {
    async fn judge(&self, visit: &mut Visit<'_>) -> Verdict {
        let Caller::Buyer(buyer) = &visit.caller else {
            return Ok(());
        };
        // If the sale cannot be seen the stock itself decides.
        let Ok(picture) = self.known.picture(visit.key).await else {
            return Ok(());
        };
        let (name, room) = self.door(visit.key, &picture, &visit.input.items);
        let inside = self.inside.get_with(name, Arc::default);
        let buyer = self.hasher.hash_one(buyer);
        if !inside.enter(buyer, visit.now_ms, self.config.stay_ms, room) {
            return Err(Refusal::from(Problem::Overloaded).retry_after(Duration::from_secs(self.config.retry_after_s)));
        }
        let refresh_ms = self.known.refresh_ms();
        visit.stay = Some(Stay { inside, buyer, now_ms: visit.now_ms, refresh_ms });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_follows_the_stock() {
        let config = AdmissionConfig { factor: 2.0, returns: 0.5, ..AdmissionConfig::default() };
        assert_eq!(config.room(10, 0), 20);
        assert_eq!(config.room(0, 10), 10);
        assert_eq!(config.room(0, 0), 1);
        let shared = AdmissionConfig { proxies: 4, ..config };
        assert_eq!(shared.room(10, 0), 5);
    }

    #[test]
    fn who_is_inside_stays_and_others_wait_until_somebody_leaves() {
        let inside = Inside::default();
        let mut now_ms = 1_000_000;
        let enter = |buyer, now_ms, room| inside.enter(buyer, now_ms, 1000, room);
        assert!(enter(1, now_ms, 2) && enter(2, now_ms, 2));
        assert!(!enter(3, now_ms, 2));
        assert!(enter(1, now_ms + 500, 2), "again");
        inside.leave_at(1, now_ms + 600);
        now_ms += 700;
        assert!(enter(3, now_ms, 2));
        assert!(!enter(1, now_ms, 2), "gone is gone");
        assert!(!enter(4, now_ms + 99, 2) && enter(4, now_ms + 400, 2), "the second buyer's time is over");
        // A narrower door puts nobody out.
        assert!(enter(3, now_ms + 500, 1));
        assert!(!enter(5, now_ms + 500, 1));
    }

    #[test]
    fn configs_that_make_no_sense_are_refused() {
        for config in [
            AdmissionConfig { factor: 0.0, ..AdmissionConfig::default() },
            AdmissionConfig { factor: f64::NAN, ..AdmissionConfig::default() },
            AdmissionConfig { returns: 1.1, ..AdmissionConfig::default() },
            AdmissionConfig { proxies: 0, ..AdmissionConfig::default() },
        ] {
            config.validate().unwrap_err();
        }
    }
}
