//! A sale in several shards as one.

use bytes::Bytes;

use super::answer::{SaleView, SkuView};

/// What all shards are together. Empty for no shards.
///
/// What differs between shards, because somebody is changing it at the moment, is told as the one who sells most
/// would tell it: a sale is open as long as one of its shards is.
pub fn sum(shards: Vec<SaleView>) -> SaleView {
    let mut shards = shards.into_iter();
    let Some(mut all) = shards.next() else {
        return SaleView::default();
    };
    all.shard = 0;
    for shard in shards {
        if openness(&shard.state) > openness(&all.state) {
            all.state = shard.state;
        }
        all.opens_at_ms = all.opens_at_ms.min(shard.opens_at_ms);
        all.closes_at_ms = if shard.closes_at_ms == 0 { 0 } else { latest(all.closes_at_ms, shard.closes_at_ms) };
        all.holds += shard.holds;
        all.orders += shard.orders;
        all.buyers += shard.buyers;
        all.next_deadline_ms = earliest(all.next_deadline_ms, shard.next_deadline_ms);
        all.expiry_lag_ms = all.expiry_lag_ms.max(shard.expiry_lag_ms);
        all.commands = all.commands.max(shard.commands);
        for (sku, counters) in shard.skus {
            add(&mut all.skus, sku, &counters);
        }
    }
    all
}

fn openness(state: &str) -> u8 {
    match state {
        "open" => 3,
        "pending" => 2,
        "paused" => 1,
        _ => 0,
    }
}

/// Of two times of which 0 means never.
fn latest(one_ms: u64, other_ms: u64) -> u64 {
    if one_ms == 0 { 0 } else { one_ms.max(other_ms) }
}

/// Of two times of which 0 means that there is none.
fn earliest(one_ms: u64, other_ms: u64) -> u64 {
    match (one_ms, other_ms) {
        (0, time) | (time, 0) => time,
        (one, other) => one.min(other),
    }
}

fn add(skus: &mut Vec<(Bytes, SkuView)>, sku: Bytes, more: &SkuView) {
    let Some((_, all)) = skus.iter_mut().find(|(name, _)| *name == sku) else {
        skus.push((sku, SkuView { version: 0, ..*more }));
        return;
    };
    all.stocked += more.stocked;
    all.available += more.available;
    all.held += more.held;
    all.sold += more.sold;
    all.granted += more.granted;
    all.accepted += more.accepted;
    all.limit = all.limit.max(more.limit);
    // The versions of different shards say nothing about each other.
    all.version = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(state: &str, available: u64, next_deadline_ms: u64) -> SaleView {
        let counters = SkuView { stocked: 10, available, granted: 2, accepted: 1, version: 9, ..SkuView::default() };
        SaleView {
            state: state.to_owned(),
            shards: 2,
            shard: 1,
            holds: 3,
            orders: 4,
            next_deadline_ms,
            skus: vec![(Bytes::from_static(b"S"), counters)],
            ..SaleView::default()
        }
    }

    #[test]
    fn counters_add_up() {
        let all = sum(vec![shard("open", 5, 0), shard("open", 6, 70), shard("open", 0, 60)]);
        assert_eq!((all.shard, all.shards, all.holds, all.orders, all.next_deadline_ms), (0, 2, 9, 12, 60));
        let counters = all.skus[0].1;
        assert_eq!((counters.stocked, counters.available, counters.granted, counters.accepted), (30, 11, 6, 3));
        assert_eq!(counters.version, 0);
    }

    #[test]
    fn a_sku_of_one_shard_only_is_there() {
        let mut other = shard("open", 1, 0);
        other.skus[0].0 = Bytes::from_static(b"T");
        assert_eq!(sum(vec![shard("open", 5, 0), other]).skus.len(), 2);
    }

    #[test]
    fn a_sale_is_open_as_long_as_one_shard_is() {
        assert_eq!(sum(vec![shard("paused", 1, 0), shard("open", 1, 0)]).state, "open");
        assert_eq!(sum(vec![shard("closed", 1, 0), shard("paused", 1, 0)]).state, "paused");
        assert_eq!(sum(vec![shard("closed", 1, 0), shard("closed", 1, 0)]).state, "closed");
        assert_eq!(sum(vec![]), SaleView::default());
    }
}
