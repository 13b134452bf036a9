//! What all sales of the server add up to, kept beside them: INFO must not look into every key.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that also changes where values are freed: on background threads.
pub(crate) struct Total(AtomicU64);

impl Total {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// From what one sale had to what it has.
    fn change(&self, from: u64, to: u64) {
        if from != to {
            self.0.fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
        }
    }
}

/// Keys of the type `flashsale`.
pub(crate) static SALES: Total = Total::new();
/// Live holds, also those that are due but not yet ended.
pub(crate) static HOLDS: Total = Total::new();
/// Orders ever confirmed in the sales that are there.
pub(crate) static ORDERS: Total = Total::new();
/// Keys of the type `flashrate`.
pub(crate) static RATES: Total = Total::new();
/// Bugs that were caught before they could reach the server.
pub(crate) static BUGS: Total = Total::new();

/// Counts one, for as long as it lives.
pub(crate) struct Counted(&'static Total);

impl Counted {
    pub fn new(total: &'static Total) -> Self {
        total.change(0, 1);
        Self(total)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.change(1, 0);
    }
}

/// A bug was caught.
pub(crate) fn count_bug() {
    BUGS.change(0, 1);
}

/// The part of one sale in the totals.
pub(crate) struct Share {
    holds: u64,
    orders: u64,
    _sale: Counted,
}

impl Share {
    pub fn new() -> Self {
        Self { holds: 0, orders: 0, _sale: Counted::new(&SALES) }
    }

    pub fn update(&mut self, holds: u64, orders: u64) {
        HOLDS.change(std::mem::replace(&mut self.holds, holds), holds);
        ORDERS.change(std::mem::replace(&mut self.orders, orders), orders);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.update(0, 0);
    }
}
