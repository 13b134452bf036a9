//! Delivers one order: try after try, until it is taken or given up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::Backoff;
use super::config::WebhookConfig;
use super::lease::Lease;
use super::message::Message;
use super::metrics::StreamMetrics;
use super::webhook::{Outcome, Sink};

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// Refused, or tried too often.
    Dead {
        reason: String,
        tries: u32,
    },
    /// The relay stops or has lost the stream; whoever reads it next delivers the order.
    Unfinished,
}

/// What all streams share on the way to one receiver.
pub struct Courier {
    sink: Arc<dyn Sink>,
    timeout: Duration,
    max_tries: u32,
    backoff: Backoff,
    /// Tries that may be under way at once.
    places: Semaphore,
    /// Until when the receiver has asked to be left alone.
    rests_until: Mutex<Instant>,
}

impl Courier {
    /// Delivers to `sink` with the patience of `config`.
    pub fn new(sink: Arc<dyn Sink>, config: &WebhookConfig) -> Self {
        Self {
            sink,
            timeout: config.timeout(),
            max_tries: config.max_tries,
            backoff: config.backoff(),
            places: Semaphore::new(config.concurrency.min(Semaphore::MAX_PERMITS)),
            rests_until: Mutex::new(Instant::now()),
        }
    }

    /// Makes one try, whatever the receiver has asked for.
    pub async fn try_once(&self, message: &Message) -> Outcome {
        self.sink.deliver(message).await
    }

    /// Tries until there is a verdict. Once `stop` turns true no further try begins; one under way is finished.
    pub async fn deliver(
        &self,
        message: &Message,
        lease: &Lease,
        metrics: &StreamMetrics,
        mut stop: watch::Receiver<bool>,
    ) -> Verdict {
        let mut tries = 0;
        loop {
            let place = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Verdict::Unfinished,
                place = self.may_try(lease) => place,
            };
            tries += 1;
            let timer = metrics.try_seconds.start_timer();
            let outcome = self.sink.deliver(message).await;
            timer.observe_duration();
            drop(place);
            let (reason, after) = match outcome {
                Outcome::Accepted => return Verdict::Delivered,
                Outcome::Refused { reason } => return Verdict::Dead { reason, tries },
                Outcome::Retry { reason, after } => (reason, after),
                Outcome::Rest { reason, after } => {
                    self.rest(after);
                    (reason, after)
                }
            };
            if tries >= self.max_tries {
                return Verdict::Dead { reason, tries };
            }
            metrics.retried.inc();
            let wait = self.backoff.wait(tries, rand::random()).max(after);
            log::debug!("order {}: try {tries} failed ({reason}), next in {wait:?}", message.id);
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Verdict::Unfinished,
                () = sleep(wait) => {}
            }
        }
    }

    /// Waits until the receiver does not rest, a place is free, and the lease outlives a try.
    async fn may_try(&self, lease: &Lease) -> Option<SemaphorePermit<'_>> {
        loop {
            lease.lasts(self.timeout).await;
            sleep_until(self.rests_until()).await;
            // The semaphore is never closed: there is always a place in the end.
            let place = self.places.acquire().await.ok();
            if self.rests_until() <= Instant::now() && lease.lasts_now(self.timeout) {
                return place;
            }
        }
    }

    fn rest(&self, wait: Duration) {
        let mut until = self.rests_until.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *until = (*until).max(Instant::now() + wait);
    }

    fn rests_until(&self) -> Instant {
        *self.rests_until.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
