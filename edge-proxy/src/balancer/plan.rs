//! Which units should move now.

use bytes::Bytes;
use flashsale_core::balance::{Peer, Shelf, ask, give};

use super::demand::Demand;
use crate::operate::ShardInfo;
use crate::operate::sale::{Pair, pairs, skus_of};

/// A transfer to make; of 0 units: one to finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub sku: Bytes,
    pub pair: Pair,
    pub qty: u64,
}

/// The transfers that the policy asks for, at most one to each shard and SKU, from one shard to another of which
/// `is_ours` says that they may be made. Shards that are `None` are left out.
pub fn steps(
    infos: &[Option<ShardInfo>],
    demand: &mut Demand,
    is_ours: impl Fn(u32, u32) -> bool,
    now_ms: u64,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for sku in skus_of(infos) {
        let mut shelves: Vec<Shelf> = (0..)
            .zip(infos)
            .filter_map(|(shard, info)| {
                let counters = info.as_ref()?.skus.get(&sku);
                let available = counters.map_or(0, |counters| counters.available);
                Some(Shelf { shard, available, need: demand.need(&sku, shard, now_ms) })
            })
            .collect();
        let known = pairs(infos, &sku);
        for own in 0..shelves.len() {
            let to = shelves[own].shard;
            let donors = shelves.iter().filter(|shelf| is_ours(shelf.shard, to));
            let peers: Vec<Peer> = donors.map(|&shelf| Peer { shelf, age_ms: 0 }).collect();
            let Some(asked) = ask(&shelves[own], &peers, demand.attempts(&sku, to)) else { continue };
            let Some(donor) = shelves.iter().position(|shelf| shelf.shard == asked.donor) else { continue };
            let qty = give(&shelves[donor], &shelves[own], asked.qty);
            if qty == 0 {
                demand.refused(&sku, to);
                continue;
            }
            // What is promised here is not promised twice.
            shelves[donor].available -= qty;
            shelves[own].available += qty;
            let from = shelves[donor].shard;
            let pair = known.iter().find(|pair| (pair.from, pair.to) == (from, to)).copied();
            let pair = pair.unwrap_or(Pair { from, to, granted: 0, accepted: 0 });
            steps.push(Step { sku: sku.clone(), pair, qty });
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::operate::SkuInfo;

    fn shards(tees: &[SkuInfo]) -> Vec<Option<ShardInfo>> {
        let info = |tee: &SkuInfo| {
            let skus = BTreeMap::from([(Bytes::from("tee"), tee.clone())]);
            Some(ShardInfo { skus, ..ShardInfo::default() })
        };
        tees.iter().map(info).collect()
    }

    fn idle(available: u64) -> SkuInfo {
        SkuInfo { available, ..SkuInfo::default() }
    }

    fn planned(before: &[SkuInfo], now: &[SkuInfo]) -> Vec<(u32, u32, u64)> {
        planned_where(before, now, |_, _| true)
    }

    fn planned_where(before: &[SkuInfo], now: &[SkuInfo], is_ours: impl Fn(u32, u32) -> bool) -> Vec<(u32, u32, u64)> {
        let mut demand = Demand::default();
        demand.see(&shards(before), 1_000_000);
        demand.see(&shards(now), 1_000_100);
        let steps = steps(&shards(now), &mut demand, is_ours, 1_000_100);
        steps.iter().map(|step| (step.pair.from, step.pair.to, step.qty)).collect()
    }

    #[test]
    fn nothing_moves_without_buyers() {
        let idle = [idle(0), idle(100), idle(3)];
        assert_eq!(planned(&idle, &idle), []);
    }

    #[test]
    fn units_go_to_the_shard_that_is_bought_empty() {
        let before = [idle(10), idle(100)];
        let now = [SkuInfo { available: 0, sold: 10, ..SkuInfo::default() }, idle(100)];
        assert_eq!(planned(&before, &now), [(1, 0, 20)]);
    }

    #[test]
    fn buyers_who_find_nothing_are_heard() {
        let before = [idle(0), idle(5)];
        let now = [SkuInfo { missed: 3, missed_last: 3, ..SkuInfo::default() }, idle(5)];
        assert_eq!(planned(&before, &now), [(1, 0, 5)]);
    }

    #[test]
    fn what_the_bus_can_move_is_left_to_it() {
        let before = [idle(0), idle(9), idle(500), idle(4)];
        let now = [SkuInfo { missed: 3, missed_last: 3, ..SkuInfo::default() }, idle(9), idle(500), idle(4)];
        // Shards 0 and 2 are in one cluster: the richest gives by itself.
        let across = |from: u32, to: u32| from % 2 != to % 2;
        assert_eq!(planned(&before, &now)[0].0, 2);
        assert_eq!(planned_where(&before, &now, across)[0].0, 1);
        assert_eq!(planned_where(&before, &now, |_, _| false), []);
    }

    #[test]
    fn one_donor_is_not_promised_to_many() {
        let before = [idle(0), idle(0), idle(0), idle(8)];
        let wants = SkuInfo { missed: 8, missed_last: 8, ..SkuInfo::default() };
        let now = [wants.clone(), wants.clone(), wants, idle(8)];
        let given: u64 = planned(&before, &now).iter().filter(|step| step.0 == 3).map(|step| step.2).sum();
        assert_eq!(given, 8);
    }
}
