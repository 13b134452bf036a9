//! Who comes, and what they do: decided by the seed alone, so that a run can be repeated.

use std::net::Ipv4Addr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How a buyer tries to get a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Tries once when the sale opens.
    Ordinary,
    /// Tries before the sale opens, then as everybody.
    Early,
    /// Comes back while others hold what is left.
    Patient,
    /// Wants more than anybody may have.
    Greedy,
    /// A script that asks as fast as it can.
    Script,
}

/// What a buyer does with a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Pays,
    GivesBack,
    /// Never pays: the hold expires.
    Forgets,
}

/// One buyer.
#[derive(Debug, Clone)]
pub struct Buyer {
    pub name: String,
    /// Where the buyer would come from.
    pub address: Ipv4Addr,
    pub manner: Manner,
    pub then: Then,
    /// Sends each request twice at once, as an impatient finger does.
    pub doubles: bool,
    /// Looks at the shop's pages first.
    pub looks: bool,
}

/// Buyer `number` of the crowd.
pub fn buyer(number: u32, seed: u64) -> Buyer {
    let mut dice = StdRng::seed_from_u64(seed ^ (u64::from(number) << 32));
    let manner = match dice.random_range(0..100) {
        0 => Manner::Script,
        1..3 => Manner::Patient,
        3..5 => Manner::Early,
        5..7 => Manner::Greedy,
        _ => Manner::Ordinary,
    };
    let then = match dice.random_range(0..100) {
        0..15 => Then::GivesBack,
        15..30 => Then::Forgets,
        _ => Then::Pays,
    };
    Buyer {
        name: format!("buyer-{number}"),
        address: Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number),
        manner,
        then,
        doubles: dice.random_bool(0.1),
        looks: dice.random_bool(0.03),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crowd_is_the_same_each_time_and_has_everybody_in_it() {
        let crowd: Vec<_> = (0..2_000).map(|number| buyer(number, 42)).collect();
        let again: Vec<_> = (0..2_000).map(|number| buyer(number, 42)).collect();
        assert_eq!(format!("{crowd:?}"), format!("{again:?}"));
        for manner in [Manner::Ordinary, Manner::Early, Manner::Patient, Manner::Greedy, Manner::Script] {
            assert!(crowd.iter().any(|buyer| buyer.manner == manner), "{manner:?}");
        }
        for then in [Then::Pays, Then::GivesBack, Then::Forgets] {
            assert!(crowd.iter().any(|buyer| buyer.then == then), "{then:?}");
        }
        assert_eq!(crowd[258].address, Ipv4Addr::new(10, 0, 1, 2));
    }
}
