//! The numbers of the edge, in the default Prometheus registry. No label ever holds a buyer, a sale or an
//! address: their number is bounded only by the crowd.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;
use prometheus::{
    Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, TextEncoder, register_histogram,
    register_histogram_vec, register_int_counter, register_int_counter_vec, register_int_gauge,
};

// The names are constants of this file, so registering them can only fail if one stands here twice, which
// the test below would find.
macro_rules! counter {
    ($name:literal, $help:literal, $labels:expr) => {
        Lazy::new(|| register_int_counter_vec!($name, $help, $labels).expect($name))
    };
}

macro_rules! gauge {
    ($name:literal, $help:literal) => {
        Lazy::new(|| register_int_gauge!($name, $help).expect($name))
    };
}

macro_rules! histogram {
    ($name:literal, $help:literal, $labels:expr, $buckets:expr) => {
        Lazy::new(|| register_histogram_vec!($name, $help, $labels, $buckets.to_vec()).expect($name))
    };
}

/// Seconds, from a refusal out of memory to a shop that takes its time.
const SECONDS: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

pub static STAGES: Lazy<IntCounterVec> = counter!(
    "flashsale_stage_total",
    "Requests to sale routes, by stage of the funnel and how they left it (pass, shadow, or the refusal's word).",
    &["stage", "outcome"]
);

pub static SHADOWED: Lazy<IntCounterVec> = counter!(
    "flashsale_shadowed_total",
    "Refusals that a stage in shadow mode would have made.",
    &["stage", "outcome"]
);

pub static RESPONSES: Lazy<IntCounterVec> = counter!(
    "flashsale_responses_total",
    "Answers to clients, by route (shop, or the sale's call) and status.",
    &["route", "status"]
);

pub static REQUEST_SECONDS: Lazy<HistogramVec> = histogram!(
    "flashsale_request_seconds",
    "From the request's header to the last byte of the answer, by route.",
    &["route"],
    SECONDS
);

pub static REQUESTS_IN_FLIGHT: Lazy<IntGauge> =
    gauge!("flashsale_requests_in_flight", "Requests that are being answered now.");

pub static CONNECTIONS: Lazy<IntGauge> = gauge!("flashsale_connections", "Connections of clients open now.");

pub static CONNECTIONS_REFUSED: Lazy<IntCounterVec> = counter!(
    "flashsale_connections_refused_total",
    "Connections of clients that were closed by a limit, by reason.",
    &["reason"]
);

pub static REDIS_CALLS: Lazy<IntCounterVec> = counter!(
    "flashsale_redis_calls_total",
    "Commands to the stock, by command and how they ended.",
    &["command", "outcome"]
);

pub static REDIS_SECONDS: Lazy<HistogramVec> =
    histogram!("flashsale_redis_seconds", "How long commands to the stock took.", &["command"], SECONDS);

pub static REDIS_BATCH: Lazy<Histogram> = Lazy::new(|| {
    let sizes = vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
    register_histogram!("flashsale_redis_batch_holds", "Plain reservations that went in one command.", sizes)
        .expect("flashsale_redis_batch_holds")
});

pub static REDIS_BREAKERS_OPEN: Lazy<IntGauge> =
    gauge!("flashsale_redis_breakers_open", "Servers whose circuit breaker is open.");

pub static REDIS_BREAKER: Lazy<IntCounterVec> =
    counter!("flashsale_redis_breaker_total", "What circuit breakers did: opened, probe, closed.", &["event"]);

pub static SWEPT: Lazy<IntCounter> = Lazy::new(|| {
    register_int_counter!("flashsale_swept_holds_total", "Due holds ended in sales of the library.")
        .expect("flashsale_swept_holds_total")
});

pub static KNOWN_REFRESHES: Lazy<IntCounterVec> =
    counter!("flashsale_known_refreshes_total", "Pictures of sales fetched from the stock.", &["outcome"]);

pub static CHANNEL_MESSAGES: Lazy<IntCounterVec> =
    counter!("flashsale_channel_messages_total", "Messages heard on the state channel.", &["kind"]);

pub static CHANNEL_UP: Lazy<IntGauge> =
    gauge!("flashsale_channel_up", "1 while the edge listens to the state channel.");

pub static SHOP_ERRORS: Lazy<IntCounterVec> =
    counter!("flashsale_shop_errors_total", "Requests that the shop did not answer.", &["kind"]);

pub static HOTTEST_KEY: Lazy<IntGauge> = gauge!(
    "flashsale_hottest_key_commands_per_second",
    "Commands a second of the key that was asked most in the last seconds, among the sales that this edge knows."
);

/// Finds the highest rate of the last seconds.
pub static HEAT: Heat = Heat { seen: Mutex::new(None) };

/// See [`HEAT`].
pub struct Heat {
    /// Since when, and the highest rate.
    seen: Mutex<Option<(Instant, i64)>>,
}

impl Heat {
    const WINDOW: Duration = Duration::from_secs(5);

    /// A key was asked so often a second.
    pub fn note(&self, rate: i64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *seen {
            Some((since, highest)) if since.elapsed() < Self::WINDOW => *highest = rate.max(*highest),
            slot => *slot = Some((Instant::now(), rate)),
        }
        HOTTEST_KEY.set(seen.map_or(0, |(_, highest)| highest));
    }
}

pub static BALANCED_UNITS: Lazy<IntCounter> = Lazy::new(|| {
    register_int_counter!("flashsale_balanced_units_total", "Units brought to the shards where buyers are.")
        .expect("flashsale_balanced_units_total")
});

pub static TOKENS_VERIFIED: Lazy<IntCounterVec> = counter!(
    "flashsale_tokens_verified_total",
    "Tokens signed by public keys, by what became of them: good, bad, remembered, busy.",
    &["outcome"]
);

pub static JWKS_REFRESHES: Lazy<IntCounterVec> =
    counter!("flashsale_jwks_refreshes_total", "Key sets of tokens read from their file or URL.", &["outcome"]);

pub static CACHE: Lazy<IntCounterVec> =
    counter!("flashsale_cache_total", "Requests for pages of the shop that a rule keeps, by outcome.", &["outcome"]);

pub static CHALLENGES: Lazy<IntCounterVec> = counter!(
    "flashsale_challenges_total",
    "Challenges of tickets, by kind and by what became of them.",
    &["kind", "outcome"]
);

pub static LIST_REFRESHES: Lazy<IntCounterVec> =
    counter!("flashsale_list_refreshes_total", "Deny and allow lists read again because they changed.", &["outcome"]);

pub static LEASES: Lazy<IntCounterVec> = counter!(
    "flashsale_leases_total",
    "Leases of shared rates: whole, part (of what was asked for), alone (without Redis).",
    &["outcome"]
);

pub static LEVEL: Lazy<IntGauge> =
    gauge!("flashsale_level", "The level of degradation, 0 to 3: what share of those who arrive is turned away.");

pub static LANE_LIMIT: Lazy<IntGauge> =
    gauge!("flashsale_lane_limit", "How many requests may be with the stock at once.");

pub static REDIS_SPARED: Lazy<IntCounter> = Lazy::new(|| {
    let name = "flashsale_redis_spared_total";
    register_int_counter!(name, "Reservations answered by what those before them were told: nothing is left.")
        .expect(name)
});

pub static TRACE_EXPORTS: Lazy<IntCounterVec> =
    counter!("flashsale_trace_exports_total", "Batches of spans sent to the tracing system, by outcome.", &["outcome"]);

/// Touches every metric, so that it is shown from the start.
pub fn register() {
    for counters in [
        &STAGES,
        &SHADOWED,
        &RESPONSES,
        &CONNECTIONS_REFUSED,
        &CACHE,
        &REDIS_CALLS,
        &KNOWN_REFRESHES,
        &CHANNEL_MESSAGES,
        &SHOP_ERRORS,
        &TOKENS_VERIFIED,
        &JWKS_REFRESHES,
        &CHALLENGES,
        &LIST_REFRESHES,
        &LEASES,
        &TRACE_EXPORTS,
    ] {
        Lazy::force(counters);
    }
    Lazy::force(&BALANCED_UNITS);
    Lazy::force(&HOTTEST_KEY);
    Lazy::force(&REQUEST_SECONDS);
    Lazy::force(&REDIS_SECONDS);
    Lazy::force(&REDIS_BATCH);
    Lazy::force(&SWEPT);
    Lazy::force(&REDIS_SPARED);
    Lazy::force(&REDIS_BREAKERS_OPEN);
    Lazy::force(&REQUESTS_IN_FLIGHT);
    Lazy::force(&CONNECTIONS);
    Lazy::force(&CHANNEL_UP);
    Lazy::force(&LEVEL);
    Lazy::force(&LANE_LIMIT);
}

/// All metrics in Prometheus' text format.
pub fn text() -> String {
    let mut text = Vec::new();
    // Writing to memory cannot fail; a metric that cannot be encoded is left out.
    let _ = TextEncoder::new().encode(&prometheus::gather(), &mut text);
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_can_be_registered_and_shown() {
        super::register();
        super::STAGES.with_label_values(&["test", "pass"]).inc();
        assert!(super::text().contains("flashsale_stage_total{outcome=\"pass\",stage=\"test\"} 1"));
        assert!(super::text().contains("flashsale_channel_up 0"));
    }
}
