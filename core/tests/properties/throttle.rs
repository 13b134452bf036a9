//! A rate limit against arithmetic without rounding, on whatever requests come.

use flashsale_core::bounds::MAX_TIME_MS;
use flashsale_core::gcra::{Arrival, MAX_PERIOD_S, MAX_UNITS, Quota};
use proptest::prelude::*;

const START_MS: u64 = 1_700_000_000_000;

/// Small numbers, large ones, and those at the edges.
fn units(min: u64, max: u64) -> impl Strategy<Value = u64> {
    prop_oneof![3 => min..=min + 20, 2 => min..=max, 1 => Just(max)]
}

fn quota() -> impl Strategy<Value = (u64, u64, u64)> {
    let quota = (units(0, MAX_UNITS - 1), units(1, MAX_UNITS), units(1, MAX_PERIOD_S));
    quota.prop_filter("a bucket that fills in time", |&(burst, count, period)| Quota::new(burst, count, period).is_ok())
}

fn requests() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let pause_ms = prop_oneof![3 => Just(0_u64), 3 => 0..3_000_u64, 1 => 0..100_000_000_u64];
    proptest::collection::vec((pause_ms, units(0, MAX_UNITS)), 1..60)
}

proptest! {
    /// In any stretch of time no more is allowed than the bucket and what flows in meanwhile.
    #[test]
    fn the_rate_is_never_exceeded((burst, count, period) in quota(), requests in requests()) {
        let quota = Quota::new(burst, count, period).unwrap();
        let (mut now_ms, mut arrival) = (START_MS, None);
        let mut allowed: Vec<(u64, u64)> = Vec::new();
        for (pause_ms, quantity) in requests {
            now_ms += pause_ms;
            let (verdict, after) = quota.ask(arrival, quantity, now_ms);
            prop_assert_eq!(verdict.limit, burst + 1);
            prop_assert!(verdict.remaining <= verdict.limit);
            prop_assert!(!verdict.limited || after.is_none());
            arrival = after.or(arrival);
            if !verdict.limited {
                allowed.push((now_ms, quantity));
            }
        }
        for from in 0..allowed.len() {
            let mut sum = 0_u128;
            for &(at_ms, quantity) in &allowed[from..] {
                sum += u128::from(quantity);
                let inflow = u128::from(at_ms - allowed[from].0) * u128::from(count) / (u128::from(period) * 1_000);
                prop_assert!(sum <= u128::from(burst) + 1 + inflow, "{sum} in {} ms", at_ms - allowed[from].0);
            }
        }
    }

    /// What `remaining` says may be taken at once, and not one unit more; a look tells the same before and after.
    #[test]
    fn remaining_is_what_is_left((burst, count, period) in quota(), requests in requests()) {
        let quota = Quota::new(burst, count, period).unwrap();
        let (mut now_ms, mut arrival) = (START_MS, None);
        for (pause_ms, quantity) in requests {
            now_ms += pause_ms;
            arrival = quota.ask(arrival, quantity, now_ms).1.or(arrival);
            let (look, nothing) = quota.ask(arrival, 0, now_ms);
            prop_assert!(!look.limited && nothing.is_none());
            prop_assert!(!quota.ask(arrival, look.remaining, now_ms).0.limited);
            if look.remaining < MAX_UNITS {
                let (more, unchanged) = quota.ask(arrival, look.remaining + 1, now_ms);
                prop_assert!(more.limited && unchanged.is_none());
                prop_assert_eq!((more.remaining, more.reset_after_s), (look.remaining, look.reset_after_s));
            }
        }
    }

    /// Whoever waits as long as told, or until the bucket is full, is served; the key may go when it is full.
    #[test]
    fn waiting_helps((burst, count, period) in quota(), first in units(1, MAX_UNITS), then in units(1, MAX_UNITS)) {
        let quota = Quota::new(burst, count, period).unwrap();
        let arrival = quota.ask(None, first, START_MS).1;
        let (verdict, _) = quota.ask(arrival, then, START_MS);
        if let Some(retry_after_s) = verdict.retry_after_s {
            // Parts of a millisecond are not told.
            let later_ms = START_MS + retry_after_s * 1_000 + 1;
            // A bucket may take until after the latest time to fill, when nobody can ask.
            if later_ms <= MAX_TIME_MS {
                prop_assert!(!quota.ask(arrival, then, later_ms).0.limited);
            }
        }
        prop_assert_eq!(verdict.limited && verdict.retry_after_s.is_none(), then > burst + 1);
        if let Some(arrival) = arrival {
            prop_assert_eq!(Arrival::from_ticks(arrival.ticks()), Some(arrival));
            let full_ms = arrival.full_at_ms();
            if full_ms <= MAX_TIME_MS {
                prop_assert_eq!(quota.ask(Some(arrival), then, full_ms), quota.ask(None, then, full_ms));
            }
            prop_assert!(full_ms <= START_MS + MAX_TIME_MS);
        }
    }

    /// Asking in small pieces for days allows what asking at once would: nothing drifts.
    #[test]
    fn nothing_drifts(count in units(1, MAX_UNITS), period in 1..100_u64, pieces in 1..50_u64) {
        let quota = Quota::new(count - 1, count, period).unwrap();
        let mut arrival = None;
        for round in 0..200 {
            // One millisecond for the rounding of the interval, which only ever slows.
            let now_ms = START_MS + round * (period * 1_000 + 1);
            let mut left = count;
            for piece in (1..=pieces).rev() {
                let quantity = left / piece;
                let (verdict, after) = quota.ask(arrival, quantity, now_ms);
                prop_assert!(!verdict.limited, "round {round}: {quantity} of the {left} left");
                arrival = after.or(arrival);
                left -= quantity;
            }
            prop_assert!(quota.ask(arrival, 1, now_ms).0.limited);
        }
    }
}
