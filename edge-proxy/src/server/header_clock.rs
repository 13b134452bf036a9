//! How long a request's header may take, how long it may be, and how long a kept connection may be idle before.
//!
//! The library bounds each read, so a header that comes a byte at a time would live for hours. Here the whole
//! header is bounded. Three parties share a clock: the door starts it when it waits for a request, the
//! connection looks at it with every read, and the edge stops it when the header is there.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pingora::protocols::Digest;
use tokio::time::{Instant, Sleep};

/// Shared by all who know a connection. Odd while a header is awaited.
#[derive(Debug, Default)]
pub struct HeaderClock {
    phase: AtomicU32,
}

impl HeaderClock {
    /// The clock of the connection that `digest` belongs to.
    pub fn of(digest: &Digest) -> Option<&Arc<HeaderClock>> {
        digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
    }

    /// A header is awaited from now on.
    pub fn start(&self) {
        let phase = self.phase.load(Ordering::Relaxed);
        self.phase.store(phase.wrapping_add(1) | 1, Ordering::Relaxed);
    }

    /// The header is there.
    pub fn stop(&self) {
        let phase = self.phase.load(Ordering::Relaxed);
        self.phase.store(phase.wrapping_add(1) & !1, Ordering::Relaxed);
    }

    fn awaited(&self) -> Option<u32> {
        let phase = self.phase.load(Ordering::Relaxed);
        (phase & 1 == 1).then_some(phase)
    }
}

/// What a header may cost.
#[derive(Debug, Clone, Copy)]
pub struct HeaderLimits {
    pub time: Duration,
    pub bytes: usize,
    /// How long a kept connection may wait for the first byte.
    pub idle: Duration,
}

/// Why a header is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    Slow,
    TooLarge,
    Idle,
}

/// The header that a connection is reading.
#[derive(Debug)]
pub struct HeaderWatch {
    clock: Arc<HeaderClock>,
    limits: HeaderLimits,
    phase: u32,
    /// When the time is up. Known once a read has had to wait: most headers are there at once, and a look at the clock
    /// costs more than to take them.
    until: Option<Instant>,
    /// Whether not a byte has come on a kept connection: that is idle, not slow.
    idle: bool,
    bytes: usize,
    /// Made only if a read has to wait. It is put forward when it goes off too early, rather than with each request:
    /// a timer costs more than looking at it.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl HeaderWatch {
    /// Of a connection just made: its first header is due from `since` on.
    pub fn new(clock: Arc<HeaderClock>, limits: HeaderLimits, since: Instant) -> Self {
        clock.start();
        let phase = clock.phase.load(Ordering::Relaxed);
        Self { clock, limits, phase, until: Some(since + limits.time), idle: false, bytes: 0, alarm: None }
    }

    /// The next request may come.
    pub fn expect(&self) {
        self.clock.start();
    }

    /// How many bytes may be read now; `usize::MAX` if no header is awaited.
    ///
    /// # Errors
    /// The header has had its time, or its bytes.
    pub fn before_read(&mut self) -> Result<usize, GivenUp> {
        let Some(phase) = self.clock.awaited() else {
            return Ok(usize::MAX);
        };
        if phase != self.phase {
            // The first request of a connection is announced twice: by the connection and by the door.
            if self.phase != 1 || self.bytes > 0 {
                self.until = None;
                self.idle = true;
            }
            self.phase = phase;
            self.bytes = 0;
        }
        if self.bytes > 0 && self.until.is_some_and(|until| Instant::now() >= until) {
            return Err(GivenUp::Slow);
        }
        match self.limits.bytes.saturating_sub(self.bytes) {
            0 => Err(GivenUp::TooLarge),
            left => Ok(left),
        }
    }

    /// How many bytes of the header have come.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Some bytes have come.
    pub fn after_read(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        if bytes > 0 && self.idle {
            self.idle = false;
            self.until = None;
        }
    }

    fn until(&mut self) -> Instant {
        let time = if self.idle { self.limits.idle } else { self.limits.time };
        *self.until.get_or_insert_with(|| Instant::now() + time)
    }

    /// Nothing has come: ready when the time is up.
    pub fn poll_alarm(&mut self, context: &mut Context<'_>) -> Poll<GivenUp> {
        if self.clock.awaited().is_none() {
            return Poll::Pending;
        }
        let until = self.until();
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if alarm.deadline() > until {
            alarm.as_mut().reset(until);
        }
        loop {
            ready!(alarm.as_mut().poll(context));
            if alarm.deadline() >= until {
                return Poll::Ready(if self.idle { GivenUp::Idle } else { GivenUp::Slow });
            }
            alarm.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeaderLimits =
        HeaderLimits { time: Duration::from_secs(10), bytes: 100, idle: Duration::from_secs(60) };

    fn watch() -> (Arc<HeaderClock>, HeaderWatch) {
        let clock = Arc::new(HeaderClock::default());
        let watch = HeaderWatch::new(clock.clone(), LIMITS, Instant::now());
        clock.start();
        (clock, watch)
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_dribbled_header_has_its_time_as_a_whole() {
        let (_clock, mut watch) = watch();
        for _ in 0..9 {
            watch.before_read().unwrap();
            watch.after_read(1);
            pass(1).await;
        }
        watch.before_read().unwrap();
        pass(2).await;
        assert_eq!(watch.before_read().unwrap_err(), GivenUp::Slow);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_at_first_is_slow_and_later_idle() {
        let (clock, mut watch) = watch();
        watch.before_read().unwrap();
        let alarm = std::future::poll_fn(|context| watch.poll_alarm(context));
        assert_eq!(tokio::time::timeout(Duration::from_secs(11), alarm).await, Ok(GivenUp::Slow));
        watch.after_read(50);
        clock.stop();
        assert_eq!(watch.before_read(), Ok(usize::MAX), "a body has limits of its own");
        clock.start();
        assert_eq!(watch.before_read(), Ok(100));
        let alarm = std::future::poll_fn(|context| watch.poll_alarm(context));
        assert!(tokio::time::timeout(Duration::from_secs(59), alarm).await.is_err());
        let alarm = std::future::poll_fn(|context| watch.poll_alarm(context));
        assert_eq!(tokio::time::timeout(Duration::from_secs(2), alarm).await, Ok(GivenUp::Idle));
        watch.after_read(1);
        watch.before_read().unwrap();
        let alarm = std::future::poll_fn(|context| watch.poll_alarm(context));
        assert!(tokio::time::timeout(Duration::from_secs(9), alarm).await.is_err());
        pass(2).await;
        assert_eq!(watch.before_read().unwrap_err(), GivenUp::Slow);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_counted_for_each_header() {
        let (clock, mut watch) = watch();
        assert_eq!(watch.before_read(), Ok(100));
        watch.after_read(60);
        assert_eq!(watch.before_read(), Ok(40));
        watch.after_read(40);
        assert_eq!(watch.before_read().unwrap_err(), GivenUp::TooLarge);
        clock.stop();
        clock.start();
        assert_eq!(watch.before_read(), Ok(100));
    }
}
