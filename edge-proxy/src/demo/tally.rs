//! What the buyers were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use hdrhistogram::Histogram;

/// How it ended for one buyer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Ordered,
    GaveBack,
    NeverPaid,
    /// Refused, by the stable word of the problem document.
    Refused(String),
    /// No answer, or one that makes no sense.
    Failed(String),
}

/// An order as a buyer was told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldOrder {
    pub buyer: String,
    pub hold: String,
    pub no: u64,
}

/// Counts over the whole crowd.
#[derive(Default)]
pub struct Tally {
    pub requests: AtomicU64,
    /// Pages that came from the shop through the proxy.
    pub pages: AtomicU64,
    pub holds: AtomicU64,
    pub buyers_done: AtomicU64,
    /// Requests that were sent again with the same id.
    pub repeats: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    refusals: BTreeMap<String, u64>,
    endings: BTreeMap<String, u64>,
    orders: Vec<ToldOrder>,
    /// What was answered to a repeat and should not have been.
    contradictions: Vec<String>,
    latency_us: Histogram<u64>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            refusals: BTreeMap::new(),
            endings: BTreeMap::new(),
            orders: Vec::new(),
            contradictions: Vec::new(),
            latency_us: Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds"),
        }
    }
}

impl Tally {
    pub fn request(&self, took: Duration) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.inner().latency_us.saturating_record(took.as_micros() as u64);
    }

    pub fn refusal(&self, word: &str) {
        *self.inner().refusals.entry(word.to_owned()).or_default() += 1;
    }

    pub fn order(&self, order: ToldOrder) {
        self.inner().orders.push(order);
    }

    pub fn contradiction(&self, what: String) {
        self.inner().contradictions.push(what);
    }

    pub fn ending(&self, ending: &Ending) {
        let name = match ending {
            Ending::Ordered => "got an order",
            Ending::GaveBack => "gave their hold back",
            Ending::NeverPaid => "never paid, the hold expired",
            Ending::Refused(word) => &format!("refused: {word}"),
            Ending::Failed(why) => &format!("FAILED: {why}"),
        };
        *self.inner().endings.entry(name.to_owned()).or_default() += 1;
        self.buyers_done.fetch_add(1, Ordering::Relaxed);
    }

    pub fn refusals(&self) -> BTreeMap<String, u64> {
        self.inner().refusals.clone()
    }

    pub fn endings(&self) -> BTreeMap<String, u64> {
        self.inner().endings.clone()
    }

    pub fn orders(&self) -> Vec<ToldOrder> {
        self.inner().orders.clone()
    }

    pub fn order_count(&self) -> usize {
        self.inner().orders.len()
    }

    pub fn contradictions(&self) -> Vec<String> {
        self.inner().contradictions.clone()
    }

    /// The latency below which the share `quantile` of all requests lies.
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.inner().latency_us.value_at_quantile(quantile))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
