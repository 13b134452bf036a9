//! How long to wait before the next try.

use std::time::{Duration, SystemTime};

/// Exponential growth between two bounds.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The wait after the first failure, before jitter.
    pub first: Duration,
    /// The longest wait, before jitter.
    pub longest: Duration,
}

impl Backoff {
    /// The wait after `failures` failures in a row (from 1). `jitter` in 0..1 picks a point in the upper
    /// half of the wait, so that deliveries which failed together do not come back as one wave.
    pub fn wait(&self, failures: u32, jitter: f64) -> Duration {
        let doubled = failures.saturating_sub(1).min(31);
        let full = self.first.saturating_mul(1 << doubled).min(self.longest);
        full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

/// Reads a `Retry-After` header: seconds, or a date.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(10) };

    #[test]
    fn doubles_up_to_the_longest() {
        let waits = [1, 2, 3, 8, 1_000_000].map(|failures| BACKOFF.wait(failures, 1.0).as_millis());
        assert_eq!(waits, [100, 200, 400, 10_000, 10_000]);
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        assert_eq!(BACKOFF.wait(1, 0.0).as_millis(), 50);
        assert_eq!(BACKOFF.wait(3, 0.5).as_millis(), 300);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let seconds = |value| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(seconds(" 120 "), Some(120));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(seconds("-5"), None);
        assert_eq!(seconds("soon"), None);
    }
}
