//! A rate limit as a pure function: the generic cell rate algorithm (ITU-T I.371), as `CL.THROTTLE` of
//! redis-cell defines its outcomes.
//!
//! The whole state of a limit is one instant, the *theoretical arrival time*: when the bucket would be full
//! again if nobody asked any more. A request of n units moves it n *emission intervals* into the future, and is
//! refused if it would then lie further away than the whole bucket is long. There is no counter that a timer
//! would have to refill, and so nothing that drifts.
//!
//! Instants and intervals are whole numbers of [`TICKS_PER_NS`] parts of a nanosecond in 128 bits. The interval
//! is rounded up to such a part, and everything else is a sum of intervals: a limit is never exceeded, is at most
//! one in 10^9 lower than asked for at the highest rates, and a burst of exactly the bucket's size always fits.

use crate::bounds;
use crate::outcome::Misuse;

/// Parts of a nanosecond that time is counted in.
pub const TICKS_PER_NS: u128 = 1 << 32;
const TICKS_PER_MS: u128 = TICKS_PER_NS * 1_000_000;
const TICKS_PER_SECOND: u128 = TICKS_PER_MS * 1_000;

/// Most units of a burst, a count or a quantity.
pub const MAX_UNITS: u64 = 1 << 32;
/// Longest period in seconds (68 years).
pub const MAX_PERIOD_S: u64 = 1 << 31;
/// The latest instant that a limit can reach.
const MAX_INSTANT: u128 = bounds::MAX_TIME_MS as u128 * 2 * TICKS_PER_MS;

/// How much is allowed: a bucket of `burst + 1` units that fills at `count` units each `period_s` seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    bucket_units: u64,
    /// Time in which one unit flows in, in ticks.
    interval: u128,
}

/// When the bucket is full again, in ticks since the epoch of unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival(u128);

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the request is refused.
    pub limited: bool,
    /// Units of the whole bucket.
    pub limit: u64,
    /// Units that are left.
    pub remaining: u64,
    /// Seconds until the same request would be allowed; `None` if it is allowed now, or never will be.
    pub retry_after_s: Option<u64>,
    /// Seconds until the bucket is full.
    pub reset_after_s: u64,
}

impl Quota {
    /// `burst` is 0..2^32-1, `count` 1..2^32, `period_s` 1..2^31: the caller has checked that.
    ///
    /// # Errors
    /// If an empty bucket would take longer to fill than time is counted.
    pub fn new(burst: u64, count: u64, period_s: u64) -> Result<Self, Misuse> {
        debug_assert!(burst < MAX_UNITS && (1..=MAX_UNITS).contains(&count) && (1..=MAX_PERIOD_S).contains(&period_s));
        let interval = (u128::from(period_s) * TICKS_PER_SECOND).div_ceil(u128::from(count));
        let quota = Self { bucket_units: burst + 1, interval };
        if quota.bucket() > u128::from(bounds::MAX_TIME_MS) * TICKS_PER_MS {
            return Err(Misuse::BucketTooBig);
        }
        Ok(quota)
    }

    /// Time in which an empty bucket fills.
    fn bucket(&self) -> u128 {
        self.interval * u128::from(self.bucket_units)
    }

    /// Asks for `quantity` units, 0..2^32; 0 looks and takes nothing. `arrival` is what is known of the limit;
    /// nothing is known of a full bucket. The new arrival is to be stored if there is one.
    pub fn ask(&self, arrival: Option<Arrival>, quantity: u64, now_ms: u64) -> (Verdict, Option<Arrival>) {
        debug_assert!(quantity <= MAX_UNITS && now_ms <= bounds::MAX_TIME_MS);
        let now = u128::from(now_ms) * TICKS_PER_MS;
        let before = arrival.map_or(now, |arrival| arrival.0.max(now));
        let increment = self.interval * u128::from(quantity);
        let after = before + increment;
        let too_far = (after - now).saturating_sub(self.bucket());
        let limited = too_far > 0;
        let until_full = if limited { before - now } else { after - now };
        let verdict = Verdict {
            limited,
            limit: self.bucket_units,
            remaining: (self.bucket().saturating_sub(until_full) / self.interval) as u64,
            retry_after_s: (limited && increment <= self.bucket()).then(|| seconds(too_far)),
            reset_after_s: seconds(until_full),
        };
        let changed = !limited && quantity > 0;
        (verdict, changed.then_some(Arrival(after)))
    }
}

/// Whole seconds, the next one if whole milliseconds are left over: what is below is rounding, not waiting.
fn seconds(ticks: u128) -> u64 {
    let part = u64::from(ticks % TICKS_PER_SECOND >= TICKS_PER_MS);
    (ticks / TICKS_PER_SECOND) as u64 + part
}

impl Arrival {
    /// An instant from its ticks, as [`Arrival::ticks`] gave them; `None` if it is later than any limit can be.
    pub fn from_ticks(ticks: u128) -> Option<Self> {
        (ticks <= MAX_INSTANT).then_some(Self(ticks))
    }

    /// For storing and replicating.
    pub fn ticks(self) -> u128 {
        self.0
    }

    /// The first millisecond of unix time at which the bucket is full: from then on nothing need be known of it.
    pub fn full_at_ms(self) -> u64 {
        self.0.div_ceil(TICKS_PER_MS) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: u64 = 1_700_000_000_000;

    /// A limit with its state.
    struct Limit {
        quota: Quota,
        arrival: Option<Arrival>,
    }

    impl Limit {
        fn new(burst: u64, count: u64, period_s: u64) -> Self {
            Self { quota: Quota::new(burst, count, period_s).unwrap(), arrival: None }
        }

        fn ask(&mut self, quantity: u64, now_ms: u64) -> Verdict {
            let (verdict, arrival) = self.quota.ask(self.arrival, quantity, now_ms);
            self.arrival = arrival.or(self.arrival);
            verdict
        }

        /// `limited limit remaining retry reset`, as the command answers.
        fn line(&mut self, quantity: u64, after_ms: u64) -> [i64; 5] {
            let verdict = self.ask(quantity, START_MS + after_ms);
            let retry = verdict.retry_after_s.map_or(-1, |seconds| seconds as i64);
            let [limit, remaining, reset] = [verdict.limit, verdict.remaining, verdict.reset_after_s].map(|n| n as i64);
            [verdict.limited.into(), limit, remaining, retry, reset]
        }
    }

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let mut limit = Limit::new(4, 1, 1);
        assert_eq!(limit.line(6, 0), [1, 5, 5, -1, 0], "more than the bucket: never");
        for taken in 1..=5 {
            assert_eq!(limit.line(1, 0), [0, 5, 5 - taken, -1, taken]);
        }
        assert_eq!(limit.line(1, 0), [1, 5, 0, 1, 5]);
        assert_eq!(limit.line(1, 3_000), [0, 5, 2, -1, 3]);
        assert_eq!(limit.line(1, 3_100), [0, 5, 1, -1, 4], "3.9 seconds are not 3");
        assert_eq!(limit.line(1, 4_000), [0, 5, 1, -1, 4]);
        assert_eq!(limit.line(1, 9_500), [0, 5, 4, -1, 1]);
        assert_eq!(limit.line(0, 9_500), [0, 5, 4, -1, 1], "a look takes nothing");
        assert_eq!(limit.line(2, 9_500), [0, 5, 2, -1, 3]);
        assert_eq!(limit.line(5, 9_500), [1, 5, 2, 3, 3]);
    }

    #[test]
    fn thirty_a_minute_with_a_burst_of_fifteen() {
        assert_eq!(Limit::new(15, 30, 60).line(1, 0), [0, 16, 15, -1, 2]);
        assert_eq!(Limit::new(0, 1, 2).line(1, 0), [0, 1, 0, -1, 2]);
    }

    #[test]
    fn intervals_that_no_nanosecond_divides_still_give_the_whole_burst() {
        for count in [3, 7, 1_000_003, 999_999_999, MAX_UNITS - 1, MAX_UNITS] {
            let mut limit = Limit::new(count - 1, count, 1);
            let all = limit.ask(count, START_MS);
            assert_eq!((all.limited, all.remaining, all.reset_after_s), (false, 0, 1), "{count} each second");
            assert!(limit.ask(1, START_MS).limited);
            let all = limit.ask(count, START_MS + 1_001);
            assert_eq!((all.limited, all.remaining), (false, 0), "{count} each second, full again");
        }
    }

    #[test]
    fn two_to_the_thirty_first_each_second_for_days_do_not_drift() {
        const RATE: u64 = 1 << 31;
        let mut limit = Limit::new(RATE - 1, RATE, 1);
        for second in 0..3 * 86_400 {
            let now_ms = START_MS + second * 1_000;
            assert!(!limit.ask(RATE, now_ms).limited, "second {second}");
            assert!(limit.ask(1, now_ms).limited, "second {second}");
        }
    }

    #[test]
    fn one_in_days_is_right_to_the_millisecond() {
        let period_s = 30 * 86_400;
        let mut limit = Limit::new(0, 1, period_s);
        assert_eq!(limit.line(1, 0), [0, 1, 0, -1, period_s as i64]);
        assert_eq!(limit.line(1, period_s * 1_000 - 1), [1, 1, 0, 1, 1]);
        assert_eq!(limit.line(1, period_s * 1_000), [0, 1, 0, -1, period_s as i64]);
    }

    #[test]
    fn a_lowered_limit_is_refused_until_it_has_drained() {
        let mut limit = Limit::new(9, 1, 1);
        limit.ask(10, START_MS);
        limit.quota = Quota::new(1, 1, 1).unwrap();
        assert_eq!(limit.line(0, 0), [1, 2, 0, 8, 10]);
        assert_eq!(limit.line(1, 9_000), [0, 2, 0, -1, 2]);
    }

    #[test]
    fn the_greatest_numbers_do_not_overflow() {
        assert_eq!(Quota::new(MAX_UNITS - 1, 1, MAX_PERIOD_S), Err(Misuse::BucketTooBig));
        let quota = Quota::new(0, 1, MAX_PERIOD_S).unwrap();
        let (verdict, arrival) = quota.ask(None, 1, bounds::MAX_TIME_MS);
        assert_eq!((verdict.limited, verdict.reset_after_s), (false, MAX_PERIOD_S));
        let arrival = arrival.unwrap();
        assert_eq!(Arrival::from_ticks(arrival.ticks()), Some(arrival));
        assert!(quota.ask(Some(Arrival(MAX_INSTANT)), MAX_UNITS, 0).0.limited);
        assert_eq!(Arrival::from_ticks(MAX_INSTANT + 1), None);
    }
}
