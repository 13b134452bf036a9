//! Stage `known`: refuses what is known to be in vain, without asking Redis.
//!
//! For each sale asked for, the edge keeps a [`Picture`]: `FLASH.INFO`, at most `refresh_ms` old and fetched
//! by one request at a time, with what the state channel has said since (see [`crate::sale::channel`]). Names
//! that are no sale are remembered too, in bounded memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;
use serde::Deserialize;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use super::stage::{Check, Mode, Stage, Verdict, later, now};
use super::visit::Visit;
use crate::config::millis;
use crate::http::input::Item;
use crate::http::problem::Refusal;
use crate::http::routes::Call;
use crate::metrics;
use crate::recent::{Owner, Recent};
use crate::sale::picture::Picture;
use crate::sale::refusals::Refusals;
use crate::single_flight::SingleFlight;
use crate::store::layout::sale_of_key;
use crate::store::redis::unix_ms;
use crate::store::{Answer, SaleStore, StoreError};

/// The `[known]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KnownConfig {
    pub mode: Mode,
    pub refresh_ms: u64,
    pub stale_ms: u64,
    pub refuse_all_held: bool,
    pub sales_max: u64,
    pub unknown_max: u64,
    pub unknown_ms: u64,
    pub unknown_lookups_per_second: u32,
}

impl Default for KnownConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            refresh_ms: 1000,
            stale_ms: 10_000,
            refuse_all_held: true,
            sales_max: 10_000,
            unknown_max: 10_000,
            unknown_ms: 1000,
            unknown_lookups_per_second: 500,
        }
    }
}

impl KnownConfig {
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.refresh_ms > 0 && self.unknown_ms > 0, "[known] refresh_ms and unknown_ms must be at least 1");
        ensure!(
            self.sales_max > 0 && self.unknown_max > 0 && self.unknown_lookups_per_second > 0,
            "[known] sales_max, unknown_max and unknown_lookups_per_second must be at least 1"
        );
        Ok(())
    }
}

/// A sale that somebody has asked for.
struct Watched {
    picture: ArcSwapOption<Picture>,
    fetching: SingleFlight<StoreError>,
    /// Something happened here that the picture does not show.
    outdated: AtomicBool,
    /// One of several shards has said something: the others must be asked what it means.
    rumour: AtomicBool,
}

/// What this edge knows of sales. Shared by the stage, the status call and the state channel.
pub struct Known {
    refresh_ms: AtomicU64,
    stale_ms: AtomicU64,
    refuse_all_held: AtomicBool,
    store: Arc<dyn SaleStore>,
    sales: Cache<Bytes, Arc<Watched>>,
    owner: Owner,
    strangers: ArcSwap<Strangers>,
    /// The server's clock less ours, in milliseconds.
    clock_offset_ms: AtomicI64,
}

thread_local! {
    static RECENT: Recent<Arc<Watched>> = const { Recent::new() };
}

/// Names that are no sale, and how many more may be looked up.
struct Strangers {
    names: Cache<Bytes, ()>,
    lookups: DefaultDirectRateLimiter,
}

impl Strangers {
    fn new(config: &KnownConfig) -> Self {
        let per_second = NonZeroU32::new(config.unknown_lookups_per_second).unwrap_or(NonZeroU32::MIN);
        Self {
            names: Cache::builder().max_capacity(config.unknown_max).time_to_live(millis(config.unknown_ms)).build(),
            lookups: RateLimiter::direct(Quota::per_second(per_second)),
        }
    }
}

/// Tells how often the sale's key was asked between two pictures. One that is asked for less than every half second
/// says little about a rate.
fn note_heat(before: &Picture, now: &Picture) {
    let seconds = now.asked_at.duration_since(before.asked_at).as_secs_f64();
    if seconds >= 0.5 {
        metrics::HEAT.note((now.sale.commands.saturating_sub(before.sale.commands) as f64 / seconds) as i64);
    }
}

/// How often at most a picture is fetched again because its earliest deadline is over, or a shard has spoken.
const OVERTAKEN: Duration = Duration::from_millis(50);

/// Forget a sale that nobody has asked for in this time.
const IDLE: Duration = Duration::from_secs(600);

impl Known {
    pub fn new(config: &KnownConfig, store: Arc<dyn SaleStore>) -> Self {
        Self {
            store,
            refresh_ms: AtomicU64::new(config.refresh_ms),
            stale_ms: AtomicU64::new(config.stale_ms),
            refuse_all_held: AtomicBool::new(config.refuse_all_held),
            sales: Cache::builder().max_capacity(config.sales_max).time_to_idle(IDLE).build(),
            owner: Owner::new(),
            strangers: ArcSwap::from_pointee(Strangers::new(config)),
            clock_offset_ms: AtomicI64::new(0),
        }
    }

    /// Takes over another config; the pictures stay. `sales_max` cannot change any more.
    pub fn change(&self, config: &KnownConfig) {
        self.refresh_ms.store(config.refresh_ms, Ordering::Relaxed);
        self.stale_ms.store(config.stale_ms, Ordering::Relaxed);
        self.refuse_all_held.store(config.refuse_all_held, Ordering::Relaxed);
        self.strangers.store(Arc::new(Strangers::new(config)));
    }

    /// Unix milliseconds by the server's clock.
    pub fn server_ms(&self, here_ms: u64) -> u64 {
        here_ms.saturating_add_signed(self.clock_offset_ms.load(Ordering::Relaxed))
    }

    /// How old a picture may be, in milliseconds.
    pub fn refresh_ms(&self) -> u64 {
        self.refresh_ms.load(Ordering::Relaxed)
    }

    /// A time by the server's clock, by ours.
    pub fn here_ms(&self, server_ms: u64) -> u64 {
        server_ms.saturating_sub_signed(self.clock_offset_ms.load(Ordering::Relaxed))
    }

    /// The sale `key`, at most `refresh_ms` old.
    ///
    /// # Errors
    /// There is no such sale, or Redis cannot be asked.
    pub async fn picture(&self, key: &[u8]) -> Result<Arc<Picture>, StoreError> {
        let watched = self.watched(key)?;
        watched.fetching.get(|| self.fresh(&watched, unix_ms()), self.fetch(key, &watched)).await
    }

    /// The same, if it need not be fetched.
    fn picture_at_hand(&self, key: &[u8], now_ms: u64) -> Option<Arc<Picture>> {
        self.fresh(&*RECENT.with(|recent| recent.get(self.owner, key, || self.sales.get(key)))?, now_ms)
    }

    /// The same, but an older picture will do while Redis is away.
    ///
    /// # Errors
    /// As [`Known::picture`].
    pub async fn picture_or_stale(&self, key: &[u8]) -> Result<Arc<Picture>, StoreError> {
        let error = match self.picture(key).await {
            Ok(picture) => return Ok(picture),
            Err(StoreError::NoSale) => return Err(StoreError::NoSale),
            Err(error) => error,
        };
        let stale = self.sales.get(key).and_then(|watched| watched.picture.load_full());
        stale.filter(|picture| picture.asked_at.elapsed() < millis(self.stale_ms.load(Ordering::Relaxed))).ok_or(error)
    }

    fn watched(&self, key: &[u8]) -> Result<Arc<Watched>, StoreError> {
        if let Some(watched) = self.sales.get(key) {
            return Ok(watched);
        }
        let strangers = self.strangers.load();
        if strangers.names.contains_key(key) {
            return Err(StoreError::NoSale);
        }
        if strangers.lookups.check().is_err() {
            return Err(StoreError::Full("too many unknown sales are asked for".to_owned()));
        }
        Ok(self.sales.get_with(Bytes::copy_from_slice(key), || {
            Arc::new(Watched {
                picture: ArcSwapOption::empty(),
                fetching: SingleFlight::default(),
                outdated: AtomicBool::new(false),
                rumour: AtomicBool::new(false),
            })
        }))
    }

    fn fresh(&self, watched: &Watched, now_ms: u64) -> Option<Arc<Picture>> {
        let picture = watched.picture.load_full()?;
        let age = picture.asked_at.elapsed();
        if age >= millis(self.refresh_ms()) || watched.outdated.load(Ordering::Relaxed) {
            return None;
        }
        if age >= OVERTAKEN && watched.rumour.load(Ordering::Relaxed) {
            return None;
        }
        // Once the earliest deadline is over, units may be free that the picture does not show.
        let next_ms = picture.sale.next_deadline_ms;
        let overtaken = next_ms > 0 && self.server_ms(now_ms) >= next_ms;
        (!overtaken || age < OVERTAKEN).then_some(picture)
    }

    async fn fetch(&self, key: &[u8], watched: &Watched) -> Result<Arc<Picture>, StoreError> {
        let asked_at = Instant::now();
        // What happens from now on may or may not be in the answer.
        watched.outdated.store(false, Ordering::Relaxed);
        watched.rumour.store(false, Ordering::Relaxed);
        match self.store.sale(key).await {
            Ok((sale, offset_ms)) => {
                self.clock_offset_ms.store(offset_ms, Ordering::Relaxed);
                metrics::KNOWN_REFRESHES.with_label_values(&["ok"]).inc();
                let mut picture = Picture::new(sale, asked_at);
                watched.picture.rcu(|before| {
                    if let Some(before) = before {
                        picture.keep_news_of(before);
                        note_heat(before, &picture);
                    }
                    Some(Arc::new(picture.clone()))
                });
                Ok(watched.picture.load_full().unwrap_or_else(|| Arc::new(picture)))
            }
            Err(error) => {
                metrics::KNOWN_REFRESHES.with_label_values(&["error"]).inc();
                if error == StoreError::NoSale {
                    // Threads that have it at hand must look again.
                    watched.picture.store(None);
                    self.sales.invalidate(key);
                    self.strangers.load().names.insert(Bytes::copy_from_slice(key), ());
                }
                Err(error)
            }
        }
    }

    /// A SKU has sold out or come back in the sale or shard `key`, says the state channel.
    pub fn hear(&self, key: &[u8], sku: &[u8], available: bool, version: u64) {
        let Some(watched) = self.sales.get(key) else {
            self.hear_of(sale_of_key(key));
            // A sale that nobody asks for needs no picture.
            return;
        };
        watched.picture.rcu(|picture| {
            picture.as_ref().map(|picture| {
                let mut picture = Picture::clone(picture);
                picture.hear(sku, available, version);
                Arc::new(picture)
            })
        });
    }

    /// News of a sale may have been missed, or come from one of its shards.
    pub fn hear_of(&self, sale: &[u8]) {
        if let Some(watched) = self.sales.get(sale) {
            watched.rumour.store(true, Ordering::Relaxed);
        }
    }

    /// The sales that somebody has asked for.
    pub fn watched_sales(&self) -> Vec<Bytes> {
        self.sales.iter().map(|(sale, _)| Bytes::clone(&sale)).collect()
    }

    /// This edge has given units back: the next one to ask looks again.
    pub fn released(&self, key: &[u8]) {
        if let Some(watched) = self.sales.get(key) {
            watched.outdated.store(true, Ordering::Relaxed);
        }
    }

    /// This edge has turned a hold into an order. Only where nothing is available does that change what a
    /// reservation is told: "all held" becomes "sold out".
    pub fn confirmed(&self, key: &[u8]) {
        if let Some(watched) = self.sales.get(key)
            && watched.picture.load().as_ref().is_some_and(|picture| picture.is_scarce())
        {
            watched.outdated.store(true, Ordering::Relaxed);
        }
    }

    /// Redis has refused one unit of `item` to somebody who asked at `asked_at`, because none is there: until the next
    /// picture nobody else need ask. One of several shards does not know that of the others.
    pub fn refused(&self, key: &[u8], item: &Item, answer: &Answer, asked_at: Instant) {
        let (next_ms, is_held) = match answer {
            Answer::AllHeld { next_ms, .. } => (*next_ms, true),
            Answer::SoldOut { .. } => (0, false),
            _ => return,
        };
        if item.quantity != 1 {
            return;
        }
        let Some(watched) = self.sales.get(key) else {
            return;
        };
        let newer = |picture: &Arc<Picture>| picture.without(&item.sku, is_held, next_ms, asked_at);
        // In a rush most refusals tell nothing new.
        if watched.picture.load().as_ref().and_then(newer).is_none() {
            return;
        }
        watched
            .picture
            .rcu(|picture| picture.as_ref().map(|picture| newer(picture).map_or_else(|| picture.clone(), Arc::new)));
    }

    /// Messages of the state channel may have been missed: every picture is outdated.
    pub fn changed_all(&self) {
        for (_, watched) in &self.sales {
            watched.outdated.store(true, Ordering::Relaxed);
        }
    }

    /// Refuses a ticket that could only be for nothing.
    fn judge_ticket(&self, picture: &Picture, now_ms: u64, refusals: &Refusals) -> Result<(), Refusal> {
        match picture.verdict_on_tickets(self.server_ms(now_ms)) {
            None => Ok(()),
            Some(answer) => Err(refusals.of_answer(&answer)),
        }
    }

    /// Refuses `items` if the picture says that reserving them is in vain.
    pub fn judge(&self, picture: &Picture, items: &[Item], now_ms: u64, refusals: &Refusals) -> Result<(), Refusal> {
        match picture.verdict(items, self.server_ms(now_ms), self.refuse_all_held.load(Ordering::Relaxed)) {
            None => Ok(()),
            Some(answer) => Err(refusals.of_answer(&answer)),
        }
    }
}

/// Stage `known`.
pub struct KnownStage {
    mode: Mode,
    known: Arc<Known>,
    refusals: Arc<Refusals>,
}

impl KnownStage {
    pub fn new(mode: Mode, known: Arc<Known>, refusals: Arc<Refusals>) -> Self {
        Self { mode, known, refusals }
    }
}

impl Stage for KnownStage {
    fn name(&self) -> &'static str {
        "known"
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn check<'a>(&'a self, visit: &'a mut Visit<'_>) -> Check<'a> {
        match visit.route.call {
            Call::Ticket => later(self.judge_ticket(visit)),
            // Paying and giving back go on in a sale that is paused or over, and Redis knows best.
            call if !call.takes_stock() => now(Ok(())),
            _ => match self.known.picture_at_hand(visit.key, visit.now_ms) {
                Some(picture) => now(self.judge(visit, &picture)),
                None => later(async {
                    match self.known.picture(visit.key).await {
                        Ok(picture) => self.judge(visit, &picture),
                        Err(error) => Err(self.refusals.of_error(&error, Call::Status, None)),
                    }
                }),
            },
        }
    }
}

impl KnownStage {
    fn judge(&self, visit: &Visit<'_>, picture: &Picture) -> Verdict {
        self.known.judge(picture, &visit.input.items, visit.now_ms, &self.refusals)
    }

    async fn judge_ticket(&self, visit: &Visit<'_>) -> Verdict {
        match self.known.picture_or_stale(visit.key).await {
            Ok(picture) => self.known.judge_ticket(&picture, visit.now_ms, &self.refusals),
            Err(error) => Err(self.refusals.of_error(&error, Call::Status, None)),
        }
    }
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;
