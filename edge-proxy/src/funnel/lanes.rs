//! Stage `lane`: how many requests may be with the stock at once, and who goes first.
//!
//! There is one limit for all, which follows the stock's speed: as long as answers come within `target_ms` on
//! average it grows where it is used up, and shrinks by a fifth for each `window_ms` in which they do not
//! (additive increase, multiplicative decrease). The lanes share it by rank: those who arrive may fill 70% of
//! it, those who look 50%, those who extend or give back 90%, and those who pay are only bound by `max`. So a
//! rush of arrivals leaves room for payments, whatever the limit is, and payments squeeze arrivals out.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Deserialize;

use super::stage::Mode;
use crate::config::millis;
use crate::http::problem::{Problem, Refusal};
use crate::http::routes::Call;
use crate::metrics;

/// The `[lanes]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LanesConfig {
    pub mode: Mode,
    /// The limit at the start, and its bounds.
    pub limit: u32,
    pub min: u32,
    pub max: u32,
    /// Above this mean the limit shrinks.
    pub target_ms: u64,
    /// How often it is judged.
    pub window_ms: u64,
}

impl Default for LanesConfig {
    fn default() -> Self {
        Self { mode: Mode::Enforce, limit: 1000, min: 64, max: 10_000, target_ms: 250, window_ms: 100 }
    }
}

impl LanesConfig {
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(
            0 < self.min && self.min <= self.limit && self.limit <= self.max,
            "[lanes] 0 < min <= limit <= max must hold, not {} <= {} <= {}",
            self.min,
            self.limit,
            self.max
        );
        ensure!(self.target_ms > 0 && self.window_ms > 0, "[lanes] target_ms and window_ms must be at least 1");
        Ok(())
    }
}

/// A lane, first come those who go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Confirm,
    Extend,
    Reserve,
    Status,
}

impl Lane {
    pub fn of(call: Call) -> Self {
        match call {
            Call::Confirm => Lane::Confirm,
            Call::Extend | Call::Release | Call::Show => Lane::Extend,
            Call::Reserve | Call::Order | Call::Ticket => Lane::Reserve,
            Call::Status => Lane::Status,
        }
    }

    /// How many requests there may be, this one included, for this lane to get one more in.
    fn room(self, limit: u32, max: u32) -> u32 {
        match self {
            Lane::Confirm => max,
            Lane::Extend => limit * 9 / 10,
            Lane::Reserve => limit * 7 / 10,
            Lane::Status => limit / 2,
        }
        .max(1)
    }
}

/// The lanes, as the config has them.
pub struct Lanes {
    config: LanesConfig,
    traffic: Arc<Traffic>,
}

/// The requests that are with the stock. They are so whatever becomes of the config.
struct Traffic {
    limit: AtomicU32,
    in_flight: AtomicUsize,
    /// The most that were in flight in this window.
    peak: AtomicUsize,
    /// What this window has seen so far.
    took_us: AtomicU64,
    answers: AtomicU64,
    window: Mutex<Instant>,
    /// Mean of the last window that had answers, and when it ended.
    last: Mutex<(Instant, Duration)>,
}

/// A place with the stock, given back when dropped.
pub struct Place {
    lanes: Arc<Lanes>,
    began: Instant,
}

impl Lanes {
    pub fn new(config: &LanesConfig) -> Arc<Self> {
        metrics::LANE_LIMIT.set(config.limit.into());
        let now = Instant::now();
        let traffic = Traffic {
            limit: AtomicU32::new(config.limit),
            in_flight: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            took_us: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            window: Mutex::new(now),
            last: Mutex::new((now, Duration::ZERO)),
        };
        Arc::new(Self { config: config.clone(), traffic: Arc::new(traffic) })
    }

    /// Others for the same requests. The limit stays where it is, within the new bounds. Nothing changes until they
    /// are in force.
    pub fn with(&self, config: &LanesConfig) -> Arc<Self> {
        Arc::new(Self { config: config.clone(), traffic: self.traffic.clone() })
    }

    /// The limit for all lanes; what another config has made of it counts within the bounds of this one.
    pub fn limit(&self) -> u32 {
        self.traffic.limit.load(Ordering::Relaxed).clamp(self.config.min, self.config.max)
    }

    pub fn mode(&self) -> Mode {
        self.config.mode
    }

    /// Takes a place for `call`, at `began`.
    ///
    /// # Errors
    /// Its lane is full. In shadow mode there is a place all the same, and the refusal is only told.
    pub fn enter(self: &Arc<Self>, call: Call, began: Instant) -> (Place, Result<(), Refusal>) {
        let place = Place { lanes: self.clone(), began };
        let now = self.traffic.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.traffic.peak.fetch_max(now, Ordering::Relaxed);
        let room = Lane::of(call).room(self.limit(), self.config.max);
        let verdict = if now > room as usize { Err(Problem::Overloaded.into()) } else { Ok(()) };
        (place, verdict)
    }

    /// How long the stock took of late, on average; zero if nobody asked it for a second.
    pub fn latency(&self) -> Duration {
        let Ok(last) = self.traffic.last.lock() else {
            return Duration::ZERO;
        };
        if last.0.elapsed() > Duration::from_secs(1) { Duration::ZERO } else { last.1 }
    }

    fn answered(&self, asked_at: Instant) {
        let now = Instant::now();
        let took = now.duration_since(asked_at);
        self.traffic.took_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
        self.traffic.answers.fetch_add(1, Ordering::Relaxed);
        // Whoever comes first after a window's end judges it; nobody waits.
        let Ok(mut began) = self.traffic.window.try_lock() else {
            return;
        };
        if now.duration_since(*began) < millis(self.config.window_ms) {
            return;
        }
        *began = now;
        let answers = self.traffic.answers.swap(0, Ordering::Relaxed).max(1);
        let mean = Duration::from_micros(self.traffic.took_us.swap(0, Ordering::Relaxed) / answers);
        let peak = self.traffic.peak.swap(self.traffic.in_flight.load(Ordering::Relaxed), Ordering::Relaxed);
        let next = self.next(self.limit(), peak, mean);
        self.traffic.limit.store(next, Ordering::Relaxed);
        metrics::LANE_LIMIT.set(next.into());
        if let Ok(mut last) = self.traffic.last.lock() {
            *last = (*began, mean);
        }
    }

    /// The limit after a window.
    fn next(&self, limit: u32, peak: usize, mean: Duration) -> u32 {
        let next = if mean > millis(self.config.target_ms) {
            limit - limit / 5
        } else if peak * 2 >= limit as usize {
            limit + (limit / 20).max(1)
        } else {
            // Nobody has tried whether more would do.
            limit
        };
        next.clamp(self.config.min, self.config.max)
    }
}

impl Place {
    /// The stock has answered: how long that took is what the limit follows. Without an answer (the client went
    /// away, the request was malformed) the place is only given back.
    pub fn answered(self) {
        self.lanes.answered(self.began);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lanes.traffic.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(limit: u32) -> Arc<Lanes> {
        let config = LanesConfig { limit, min: 10, max: 200, ..LanesConfig::default() };
        config.validate().unwrap();
        Lanes::new(&config)
    }

    /// How many requests of one kind get in.
    fn fill(lanes: &Arc<Lanes>, call: Call, kept: &mut Vec<Place>) -> usize {
        let before = kept.len();
        loop {
            let (place, Ok(())) = lanes.enter(call, Instant::now()) else {
                return kept.len() - before;
            };
            kept.push(place);
        }
    }

    #[test]
    fn each_lane_leaves_room_for_those_before_it() {
        let lanes = lanes(100);
        let mut kept = Vec::new();
        assert_eq!(fill(&lanes, Call::Status, &mut kept), 50);
        assert_eq!(fill(&lanes, Call::Reserve, &mut kept), 20);
        assert_eq!(fill(&lanes, Call::Order, &mut kept), 0);
        assert_eq!(fill(&lanes, Call::Extend, &mut kept), 20);
        assert_eq!(fill(&lanes, Call::Confirm, &mut kept), 110);
        kept.clear();
        assert_eq!(fill(&lanes, Call::Confirm, &mut kept), 200);
        assert_eq!(fill(&lanes, Call::Reserve, &mut kept), 0, "payments squeeze arrivals out, never the reverse");
    }

    #[test]
    fn a_place_comes_back_however_it_ends() {
        let lanes = lanes(100);
        let (place, _) = lanes.enter(Call::Reserve, Instant::now());
        place.answered();
        drop(lanes.enter(Call::Reserve, Instant::now()));
        assert_eq!(lanes.traffic.in_flight.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_new_config_counts_those_who_are_there() {
        let before = lanes(100);
        let mut kept = Vec::new();
        assert_eq!(fill(&before, Call::Reserve, &mut kept), 70);
        let after = before.with(&LanesConfig { limit: 100, min: 10, max: 100, ..LanesConfig::default() });
        assert_eq!(fill(&after, Call::Reserve, &mut kept), 0);
        let narrow = before.with(&LanesConfig { limit: 50, min: 10, max: 50, ..LanesConfig::default() });
        kept.truncate(30);
        assert_eq!(fill(&narrow, Call::Reserve, &mut kept), 5);
    }

    #[test]
    fn the_limit_follows_the_stock() {
        let lanes = lanes(100);
        let (quick, slow) = (Duration::from_millis(1), Duration::from_millis(400));
        assert_eq!(lanes.next(100, 90, slow), 80);
        assert_eq!(lanes.next(11, 90, slow), 10, "not below min");
        assert_eq!(lanes.next(100, 90, quick), 105);
        assert_eq!(lanes.next(100, 10, quick), 100, "nobody needs more");
        assert_eq!(lanes.next(199, 150, quick), 200, "not above max");
    }
}
