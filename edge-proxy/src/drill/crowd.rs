//! The crowd of a drill: who comes when, and what each was told.

use std::collections::{BTreeMap, HashMap};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Latency, Plan, SKU, Tokens};
use crate::demo::client::{Answer, Browser};
use crate::demo::crowd::{Buyer, Then, buyer};
use crate::demo::tally::Tally;
use crate::store::redis::unix_ms;

/// How often a request whose outcome is open is sent again.
const REPEATS: u32 = 20;
/// The sale opens by the server's clock: nobody is to come too early by that.
const CLOCKS_APART: Duration = Duration::from_millis(200);
/// Most failures that are told in words.
const FAILURES: usize = 10;

/// Everybody, and the books of what they were told.
pub struct Crowd {
    browser: Browser,
    tally: Arc<Tally>,
    tokens: Arc<Tokens>,
    opens_at: u64,
    seed: u64,
    late_us: AtomicU64,
    /// Requests for a unit.
    asked: AtomicU64,
    told: Mutex<Told>,
}

struct Told {
    endings: BTreeMap<String, u64>,
    /// Order by hold and buyer.
    orders: Vec<(String, u64, String)>,
    failures: Vec<String>,
    reserve_us: Histogram<u64>,
    confirm_us: Histogram<u64>,
}

impl Crowd {
    pub fn new(plan: &Plan, sale: &str, tokens: Arc<Tokens>, opens_at: u64) -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, 600_000_000, 3);
        let tally = Arc::new(Tally::default());
        Ok(Self {
            browser: Browser::new(&plan.url, sale, SKU, plan.in_flight, Arc::clone(&tally))?,
            tally,
            tokens,
            opens_at,
            seed: plan.seed,
            late_us: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            told: Mutex::new(Told {
                endings: BTreeMap::new(),
                orders: Vec::new(),
                failures: Vec::new(),
                reserve_us: histogram()?,
                confirm_us: histogram()?,
            }),
        })
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One buyer, from wanting a unit to the end.
    async fn visit(&self, number: u32, due: Instant) {
        let buyer = buyer(number, self.seed);
        let ending = match self.tokens.token(number, &buyer.name) {
            Ok(token) => self.buy(&buyer, &token, due).await,
            Err(error) => Err(format!("token: {error:#}")),
        };
        let ending = ending.unwrap_or_else(|why| {
            let mut told = self.told();
            if told.failures.len() < FAILURES {
                told.failures.push(format!("{}: {why}", buyer.name));
            }
            format!("FAILED: {why}")
        });
        *self.told().endings.entry(ending).or_default() += 1;
    }

    async fn buy(&self, buyer: &Buyer, token: &str, due: Instant) -> Result<String, String> {
        let reserve = || {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.browser.reserve(buyer, token, 1, &buyer.name)
        };
        let hold = match self.until_known(reserve).await {
            Answer::Done(hold) => hold["hold"].as_str().ok_or("a hold without an id")?.to_owned(),
            Answer::Refused(word) => {
                self.told().reserve_us.saturating_record(micros(due));
                return Ok(format!("refused: {word}"));
            }
            other => return Err(format!("reserving: {other:?}")),
        };
        self.told().reserve_us.saturating_record(micros(due));
        let began = Instant::now();
        match buyer.then {
            Then::Pays => match self.until_known(|| self.browser.confirm(buyer, token, &hold)).await {
                Answer::Done(order) => {
                    let no = order["no"].as_u64().ok_or("an order without a number")?;
                    let mut told = self.told();
                    told.confirm_us.saturating_record(micros(began));
                    told.orders.push((hold, no, buyer.name.clone()));
                    Ok("bought".to_owned())
                }
                Answer::Refused(word) => Ok(format!("had a hold, could not buy: {word}")),
                other => Err(format!("paying: {other:?}")),
            },
            Then::GivesBack => match self.until_known(|| self.browser.release(buyer, token, &hold)).await {
                Answer::Done(_) | Answer::Refused(_) => Ok("gave the hold back".to_owned()),
                other => Err(format!("giving back: {other:?}")),
            },
            Then::Forgets => Ok("never paid".to_owned()),
        }
    }

    /// Asks until the outcome is known: the same id makes that harmless.
    async fn until_known<F: Future<Output = Answer>>(&self, ask: impl Fn() -> F) -> Answer {
        let mut answer = ask().await;
        for again in 0..REPEATS {
            if !matches!(answer, Answer::Later(_) | Answer::Failed(_)) {
                break;
            }
            sleep(Duration::from_millis(100 * u64::from(again + 1)).mul_f64(0.5 + rand::random::<f64>())).await;
            answer = ask().await;
        }
        answer
    }

    /// When the first may come.
    pub fn opens(&self) -> Instant {
        let opens_in = Duration::from_millis(self.opens_at.saturating_sub(unix_ms()));
        Instant::now() + opens_in + CLOCKS_APART
    }

    pub fn requests(&self) -> u64 {
        self.tally.requests.load(Ordering::Relaxed)
    }

    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    pub fn endings(&self) -> Vec<(String, u64)> {
        self.told().endings.clone().into_iter().collect()
    }

    pub fn orders(&self) -> Vec<(String, u64, String)> {
        self.told().orders.clone()
    }

    /// Buyers with two orders, orders of two buyers. Numbers count within a shard, holds within the sale.
    pub fn doubles(&self) -> Vec<String> {
        let told = self.told();
        let (mut buyers, mut holds) = (HashMap::new(), HashMap::new());
        let mut doubles = Vec::new();
        for (hold, no, buyer) in &told.orders {
            if let Some(other) = buyers.insert(buyer, hold) {
                doubles.push(format!("{buyer} has the orders {other} and {hold}"));
            }
            if let Some(other) = holds.insert(hold, buyer) {
                doubles.push(format!("order {no} of {hold} was told to {other} and {buyer}"));
            }
        }
        doubles
    }

    pub fn failures(&self) -> Vec<String> {
        self.told().failures.clone()
    }

    pub fn reserve_latency(&self) -> Latency {
        latency(&self.told().reserve_us)
    }

    pub fn confirm_latency(&self) -> Latency {
        latency(&self.told().confirm_us)
    }

    pub fn late_ms(&self) -> f64 {
        self.late_us.load(Ordering::Relaxed) as f64 / 1_000.0
    }
}

pub(super) fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros() as u64
}

pub(super) fn latency(histogram: &Histogram<u64>) -> Latency {
    let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
    Latency {
        count: histogram.len(),
        p50: ms(0.5),
        p90: ms(0.9),
        p99: ms(0.99),
        p999: ms(0.999),
        longest: histogram.max() as f64 / 1_000.0,
    }
}

/// When each buyer comes, counted from the opening, in order: most of them at once, ever fewer later.
fn arrivals(buyers: u32, over: Duration, seed: u64) -> Vec<Duration> {
    /// The first fifth of the time brings 63% of them.
    const STEEPNESS: f64 = 5.0;
    let mut dice = StdRng::seed_from_u64(seed);
    let whole = 1.0 - (-STEEPNESS).exp();
    let mut arrivals: Vec<Duration> = (0..buyers)
        .map(|_| over.mul_f64((-(1.0 - dice.random::<f64>() * whole).ln() / STEEPNESS).clamp(0.0, 1.0)))
        .collect();
    arrivals.sort_unstable();
    arrivals
}

/// Lets everybody come, from `opens` on. Tells how long it took from then to the last answer, in seconds.
///
/// # Errors
/// A visit could not be carried out at all.
pub async fn come(crowd: &Arc<Crowd>, plan: &Plan, opens: Instant) -> anyhow::Result<f64> {
    let bar = bar(plan.buyers);
    let mut visits = JoinSet::new();
    for (number, after) in (0..).zip(arrivals(plan.buyers, plan.over, plan.seed)) {
        let due = opens + after;
        tokio::time::sleep_until(due.into()).await;
        crowd.late_us.fetch_max(micros(due), Ordering::Relaxed);
        let crowd = Arc::clone(crowd);
        visits.spawn(async move { crowd.visit(number, due).await });
        while visits.try_join_next().transpose()?.is_some() {
            bar.inc(1);
        }
    }
    while let Some(ended) = visits.join_next().await {
        ended?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(opens.elapsed().as_secs_f64())
}

fn bar(buyers: u32) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40.green/black} {pos}/{len} buyers  {elapsed}");
    ProgressBar::new(buyers.into()).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[test]
fn most_buyers_come_at_once() {
    let over = Duration::from_secs(10);
    let times = arrivals(10_000, over, 7);
    assert_eq!(times, arrivals(10_000, over, 7));
    assert!(times.is_sorted() && times[9_999] <= over);
    let early = times.iter().filter(|time| **time < over / 5).count();
    assert!((6_000..6_800).contains(&early), "{early}");
}
