//! The circuit breaker of one server, shared by all connections to it.
//!
//! It opens when a connection cannot be made, or after a run of commands without an answer. While it is open,
//! requests are refused at once, instead of each waiting for an answer that will not come; one in a while is let
//! through as a probe (half open), and the first answer closes it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::metrics;

/// See the module.
pub struct Breaker {
    born: Instant,
    /// Milliseconds after `born` at which the next probe may go; 0: closed, all may go.
    probe_at_ms: AtomicU64,
    /// Commands without an answer since the last answer.
    failures: AtomicU32,
    /// So many of them open the breaker.
    failures_max: u32,
    rest: Duration,
}

/// Why a request may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// All may.
    Free,
    /// This one is to find out whether the server is back.
    Probe,
}

impl Breaker {
    /// Opens after `failures_max` commands without an answer; probes every `rest`.
    pub fn new(failures_max: u32, rest: Duration) -> Self {
        Self {
            born: Instant::now(),
            probe_at_ms: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            failures_max,
            rest: rest.max(Duration::from_millis(1)),
        }
    }

    /// Whether a request may try the server.
    pub fn pass(&self) -> Option<Pass> {
        let probe_at = self.probe_at_ms.load(Ordering::Relaxed);
        if probe_at == 0 {
            return Some(Pass::Free);
        }
        if self.now_ms() < probe_at {
            return None;
        }
        let next = self.after_rest_ms();
        self.probe_at_ms.compare_exchange(probe_at, next, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        metrics::REDIS_BREAKER.with_label_values(&["probe"]).inc();
        Some(Pass::Probe)
    }

    pub fn is_open(&self) -> bool {
        self.probe_at_ms.load(Ordering::Relaxed) != 0
    }

    /// The server has answered.
    pub fn answered(&self) {
        // Reads first: the values are shared by all threads, and nearly always these.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.is_open() && self.probe_at_ms.swap(0, Ordering::Relaxed) != 0 {
            metrics::REDIS_BREAKERS_OPEN.dec();
            metrics::REDIS_BREAKER.with_label_values(&["closed"]).inc();
        }
    }

    /// No connection could be made.
    pub fn unreachable(&self) {
        if self.probe_at_ms.swap(self.after_rest_ms(), Ordering::Relaxed) == 0 {
            metrics::REDIS_BREAKERS_OPEN.inc();
            metrics::REDIS_BREAKER.with_label_values(&["opened"]).inc();
        }
    }

    /// A command was not answered.
    pub fn unanswered(&self) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= self.failures_max {
            self.unreachable();
        }
    }

    fn now_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    fn after_rest_ms(&self) -> u64 {
        self.now_ms() + self.rest.as_millis() as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_breaker_lets_one_probe_through_at_a_time() {
        let breaker = Breaker::new(3, Duration::from_millis(20));
        assert_eq!(breaker.pass(), Some(Pass::Free));
        breaker.unreachable();
        assert_eq!(breaker.pass(), None);
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(breaker.pass(), Some(Pass::Probe));
        assert_eq!(breaker.pass(), None);
        breaker.answered();
        assert_eq!(breaker.pass(), Some(Pass::Free));
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_run_of_lost_answers_opens_it_and_single_ones_do_not() {
        let breaker = Breaker::new(3, Duration::from_secs(60));
        for _ in 0..10 {
            breaker.unanswered();
            breaker.unanswered();
            breaker.answered();
        }
        assert!(!breaker.is_open());
        (0..3).for_each(|_| breaker.unanswered());
        assert!(breaker.is_open());
        assert_eq!(breaker.pass(), None);
    }
}
