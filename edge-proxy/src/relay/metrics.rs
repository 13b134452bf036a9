//! What the relay counts, in the default registry of the `prometheus` crate.

use once_cell::sync::Lazy;
use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    default_registry,
};

/// The figures of one stream.
#[derive(Debug, Clone)]
pub struct StreamMetrics {
    pub delivered: IntCounter,
    pub retried: IntCounter,
    pub dead: IntCounter,
    pub claimed: IntCounter,
    pub vanished: IntCounter,
    pub unsafe_waits: IntCounter,
    pub lag_entries: IntGauge,
    pub lag_seconds: Gauge,
    pub owner: IntGauge,
    pub try_seconds: Histogram,
}

impl StreamMetrics {
    /// The figures of the sale (shard) whose key is `sale`.
    pub fn of(sale: &str) -> Self {
        let labels = [sale];
        Self {
            delivered: FAMILIES.delivered.with_label_values(&labels),
            retried: FAMILIES.retried.with_label_values(&labels),
            dead: FAMILIES.dead.with_label_values(&labels),
            claimed: FAMILIES.claimed.with_label_values(&labels),
            vanished: FAMILIES.vanished.with_label_values(&labels),
            unsafe_waits: FAMILIES.unsafe_waits.with_label_values(&labels),
            lag_entries: FAMILIES.lag_entries.with_label_values(&labels),
            lag_seconds: FAMILIES.lag_seconds.with_label_values(&labels),
            owner: FAMILIES.owner.with_label_values(&labels),
            try_seconds: FAMILIES.try_seconds.with_label_values(&labels),
        }
    }
}

struct Families {
    delivered: IntCounterVec,
    retried: IntCounterVec,
    dead: IntCounterVec,
    claimed: IntCounterVec,
    vanished: IntCounterVec,
    unsafe_waits: IntCounterVec,
    lag_entries: IntGaugeVec,
    lag_seconds: GaugeVec,
    owner: IntGaugeVec,
    try_seconds: HistogramVec,
}

static FAMILIES: Lazy<Families> = Lazy::new(|| Families {
    delivered: counter("delivered_total", "Orders that the receiver has taken"),
    retried: counter("retried_total", "Tries that failed and are made again"),
    dead: counter("dead_total", "Orders that went to the dead letters"),
    claimed: counter("claimed_total", "Entries handed out before and taken up again"),
    vanished: counter("vanished_total", "Entries that somebody deleted before they were delivered"),
    unsafe_waits: counter("unsafe_waits_total", "Batches that replicas or the disk did not acknowledge in time"),
    lag_entries: register(IntGaugeVec::new(
        options("lag_entries", "Entries of the stream that are not delivered yet"),
        &["sale"],
    )),
    lag_seconds: register(GaugeVec::new(
        options("lag_seconds", "Age of the oldest entry that is not delivered yet"),
        &["sale"],
    )),
    owner: register(IntGaugeVec::new(
        options("owner", "1 if this relay delivers the stream, 0 if it stands by"),
        &["sale"],
    )),
    try_seconds: register(HistogramVec::new(
        HistogramOpts::from(options("try_seconds", "How long a try to deliver takes")),
        &["sale"],
    )),
});

fn options(name: &str, help: &str) -> Opts {
    Opts::new(format!("flashsale_relay_{name}"), help)
}

fn counter(name: &str, help: &str) -> IntCounterVec {
    register(IntCounterVec::new(options(name, help), &["sale"]))
}

/// Names are constants of this file: a wrong or doubled one shows in the first test.
fn register<C: Collector + Clone + 'static>(family: prometheus::Result<C>) -> C {
    let family = family.expect("a valid metric name");
    let registered = default_registry().register(Box::new(family.clone()));
    registered.expect("a metric name used once");
    family
}
