//! Counts open connections: of each address, and at all.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::http::address::limit_key;
use crate::metrics;

/// Locks that the addresses are spread over, so that connections seldom wait for each other.
const STRIPES: usize = 64;

/// How many connections there may be. Limits can change while connections are open.
pub struct Places {
    per_address: AtomicU32,
    total: AtomicU32,
    taken: AtomicU32,
    addresses: [Mutex<HashMap<IpAddr, u32>>; STRIPES],
    hasher: RandomState,
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Its address has as many as it may.
    Address,
    /// All together have.
    Total,
}

impl Full {
    /// The reason in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Full::Address => "address",
            Full::Total => "total",
        }
    }
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    /// The address it counts for; `None` for trusted proxies.
    address: Option<IpAddr>,
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Places({} taken)", self.taken.load(Ordering::Relaxed))
    }
}

impl Places {
    /// `per_address` 0 is no limit of one address.
    pub fn new(per_address: u32, total: u32) -> Self {
        Self {
            per_address: per_address.into(),
            total: total.into(),
            taken: 0.into(),
            addresses: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }

    /// New limits, for connections from now on.
    pub fn set_limits(&self, per_address: u32, total: u32) {
        self.per_address.store(per_address, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// A place for a connection whose address does not count, or not yet.
    ///
    /// # Errors
    /// All places are taken.
    pub fn take(self: &Arc<Self>) -> Result<Place, Full> {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
        metrics::CONNECTIONS.inc();
        let place = Place { places: self.clone(), address: None };
        if taken > self.total.load(Ordering::Relaxed) { Err(Full::Total) } else { Ok(place) }
    }

    fn stripe(&self, address: &IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        let stripe = self.hasher.hash_one(address) as usize % STRIPES;
        // A count is whole after every step, also if its holder panicked.
        self.addresses[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// From now on this connection counts for `address` (IPv6: its /64).
    ///
    /// # Errors
    /// The address has as many connections as it may.
    pub fn count_for(&mut self, address: IpAddr) -> Result<(), Full> {
        let limit = self.places.per_address.load(Ordering::Relaxed);
        let key = limit_key(address);
        let mut stripe = self.places.stripe(&key);
        let count = stripe.entry(key).or_insert(0);
        if limit > 0 && *count >= limit {
            return Err(Full::Address);
        }
        *count += 1;
        drop(stripe);
        self.address = Some(key);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
        metrics::CONNECTIONS.dec();
        let Some(address) = self.address else {
            return;
        };
        let mut stripe = self.places.stripe(&address);
        if let Some(count) = stripe.get_mut(&address) {
            *count -= 1;
            // Addresses without a connection are forgotten: memory follows the connections.
            if *count == 0 {
                stripe.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn connect(places: &Arc<Places>, from: &str) -> Result<Place, Full> {
        let mut place = places.take()?;
        place.count_for(address(from))?;
        Ok(place)
    }

    #[test]
    fn an_address_has_its_limit_and_others_theirs() {
        let places = Arc::new(Places::new(2, 100));
        let held: Vec<_> = (0..2).map(|_| connect(&places, "192.0.2.1").unwrap()).collect();
        assert_eq!(connect(&places, "192.0.2.1").unwrap_err(), Full::Address);
        let _other = connect(&places, "192.0.2.2").unwrap();
        drop(held);
        let _again = connect(&places, "192.0.2.1").unwrap();
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let places = Arc::new(Places::new(1, 100));
        let _first = connect(&places, "2001:db8::1").unwrap();
        assert_eq!(connect(&places, "2001:db8::2").unwrap_err(), Full::Address);
        let _elsewhere = connect(&places, "2001:db8:0:1::2").unwrap();
    }

    #[test]
    fn all_together_have_a_limit_that_can_change() {
        let places = Arc::new(Places::new(0, 2));
        let _held: Vec<_> = (0..2).map(|_| connect(&places, "192.0.2.1").unwrap()).collect();
        assert_eq!(connect(&places, "192.0.2.9").unwrap_err(), Full::Total);
        places.set_limits(3, 4);
        let _third = connect(&places, "192.0.2.1").unwrap();
        assert_eq!(connect(&places, "192.0.2.1").unwrap_err(), Full::Address);
        let _fourth = connect(&places, "192.0.2.9").unwrap();
        assert_eq!(connect(&places, "192.0.2.10").unwrap_err(), Full::Total);
    }

    #[test]
    fn nothing_is_remembered_of_those_who_left() {
        let places = Arc::new(Places::new(0, 1000));
        for last in 0..200 {
            drop(connect(&places, &format!("192.0.2.{last}")).unwrap());
        }
        assert_eq!(places.taken.load(Ordering::Relaxed), 0);
        assert!(places.addresses.iter().all(|stripe| stripe.lock().unwrap().is_empty()));
    }
}
