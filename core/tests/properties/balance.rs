//! Sharded stock gets to where it is wanted: any number of shards, any stock, any demand.

use crate::world::cases;
use flashsale_core::balance::{self, Need, Peer, Shelf};
use proptest::prelude::*;

/// Shards with stock, and units that buyers there still want: each of them asks for so many at a time.
#[derive(Clone, Debug)]
struct Sale {
    available: Vec<u64>,
    /// Units still wanted, and how many each buyer takes.
    wanted: Vec<(u64, u64)>,
    attempts: Vec<u32>,
    served: u64,
    moves: u64,
}

impl Sale {
    fn shelf(&self, shard: usize) -> Shelf {
        let (left, each) = self.wanted[shard];
        let wanting = left.min(each);
        let need = if left == 0 { Need::default() } else { Need { pace: left, wanting } };
        Shelf { shard: shard as u32, available: self.available[shard], need }
    }

    fn sell(&mut self) {
        for (available, (left, each)) in self.available.iter_mut().zip(&mut self.wanted) {
            while *left > 0 && *available >= (*left).min(*each) {
                let units = (*left).min(*each);
                *available -= units;
                *left -= units;
                self.served += units;
            }
        }
    }

    /// All shards that are low ask, by what they were told `news` ago; donors answer one after the other.
    fn round(&mut self, news: &[Shelf]) -> u64 {
        let asks: Vec<_> = (0..self.available.len())
            .filter_map(|shard| {
                let own = self.shelf(shard);
                let peers: Vec<Peer> = news.iter().map(|&shelf| Peer { shelf, age_ms: 100 }).collect();
                balance::ask(&own, &peers, self.attempts[shard]).map(|ask| (own, ask))
            })
            .collect();
        let mut moved = 0;
        for (asker, ask) in asks {
            let (from, to) = (ask.donor as usize, asker.shard as usize);
            assert_ne!(from, to, "a shard asked itself");
            assert!(ask.qty > 0 && ask.qty <= news[from].available, "{ask:?} of {:?}", news[from]);
            let given = balance::give(&self.shelf(from), &asker, ask.qty);
            assert!(given <= ask.qty && given <= self.available[from], "{given} for {ask:?}");
            self.available[from] -= given;
            self.available[to] += given;
            self.attempts[to] = if given > 0 { 0 } else { self.attempts[to] + 1 };
            moved += given;
        }
        self.moves += u64::from(moved > 0);
        moved
    }

    fn news(&self) -> Vec<Shelf> {
        (0..self.available.len()).map(|shard| self.shelf(shard)).collect()
    }
}

fn sale(each: impl Strategy<Value = u64> + Clone) -> impl Strategy<Value = Sale> {
    let stock = prop_oneof![2 => 0..3_u64, 2 => 0..200_u64, 1 => 0..1_000_000_u64];
    let wanted = prop_oneof![2 => Just(0_u64), 2 => 0..5_u64, 1 => 0..2_000_000_u64];
    proptest::collection::vec((stock, wanted, each), 2..16).prop_map(|shards| Sale {
        available: shards.iter().map(|shard| shard.0).collect(),
        wanted: shards.iter().map(|shard| (shard.1, shard.2)).collect(),
        attempts: vec![0; shards.len()],
        served: 0,
        moves: 0,
    })
}

proptest! {
    #![proptest_config(cases(256))]

    /// Buyers of single units get all there is: whoever still wants one in the end wants what nobody has.
    #[test]
    fn the_last_unit_gets_to_who_wants_it(mut sale in sale(Just(1_u64))) {
        let total: u64 = sale.available.iter().sum();
        let wanted: u64 = sale.wanted.iter().map(|wanted| wanted.0).sum();
        for _ in 0..2_000 {
            sale.sell();
            if sale.served == total.min(wanted) {
                break;
            }
            let news = sale.news();
            sale.round(&news);
        }
        prop_assert_eq!(sale.served, total.min(wanted), "{:?}", sale);
    }

    /// With buyers of several units too nobody is left wanting what another shard has to spare.
    #[test]
    fn nobody_waits_for_what_is_idle(mut sale in sale(1..5_u64)) {
        for _ in 0..2_000 {
            sale.sell();
            let news = sale.news();
            if sale.round(&news) == 0 && sale.attempts.iter().all(|&attempt| attempt == 0 || attempt > 40) {
                break;
            }
        }
        sale.sell();
        let idle: u64 = (0..sale.available.len()).filter(|&at| sale.wanted[at].0 == 0).map(|at| sale.available[at]).sum();
        let short: Vec<u64> = (0..sale.available.len())
            .filter(|&at| sale.wanted[at].0 > 0)
            .map(|at| sale.wanted[at].0.min(sale.wanted[at].1) - sale.available[at])
            .collect();
        prop_assert!(short.iter().all(|&lacking| lacking > idle), "{idle} idle: {sale:?}");
    }

    /// Where nothing is sold, units come to rest: nobody sends them to and fro.
    #[test]
    fn units_come_to_rest(mut sale in sale(1..5_u64), stale in any::<bool>()) {
        let mut before = sale.news();
        let mut quiet = 0;
        for _ in 0..2_000 {
            let now = sale.news();
            let moved = sale.round(if stale { &before } else { &now });
            before = now;
            quiet = if moved == 0 { quiet + 1 } else { 0 };
            if quiet > 64 {
                break;
            }
        }
        prop_assert!(quiet > 64, "still moving: {sale:?}");
        prop_assert!(sale.moves <= 400, "{} rounds moved units: {sale:?}", sale.moves);
    }

    /// Whatever is said of shards, no rule overflows, and nobody gives what is not there.
    #[test]
    fn nothing_overflows(
        numbers in proptest::collection::vec(prop_oneof![0..4_u64, Just(u64::MAX), any::<u64>()], 12),
        attempt in any::<u32>(),
    ) {
        let shelf = |at: usize| Shelf {
            shard: (numbers[at] % 3) as u32,
            available: numbers[at + 1],
            need: Need { pace: numbers[at + 2], wanting: numbers[at + 3] },
        };
        let (own, other, third) = (shelf(0), shelf(4), shelf(8));
        let peers = [Peer { shelf: other, age_ms: numbers[3] }, Peer { shelf: third, age_ms: 0 }];
        if let Some(ask) = balance::ask(&own, &peers, attempt) {
            prop_assert!(ask.donor != own.shard && ask.qty > 0);
        }
        prop_assert!(balance::give(&other, &own, numbers[11]) <= other.available.min(numbers[11]));
    }
}
