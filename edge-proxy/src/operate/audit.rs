//! Proves that no unit was made or lost: every shard by itself, and all of them together with what is in transit.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use redis::Value;
use serde::Serialize;
use tokio::time::sleep;

use super::deployment::Deployment;
use super::sale::{Sale, SkuSum, pairs, skus_of, sum};
use crate::store::answer::{fields, number, text};
use crate::store::info::ShardInfo;

/// How often the shards are read while units move, before the sums are taken as they are.
const LOOKS: u32 = 40;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The outcome of an audit.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub name: String,
    /// Nothing differs.
    pub ok: bool,
    pub shards: Vec<ShardReport>,
    pub skus: Vec<SkuReport>,
    /// Units kept moving while the shards were read: the sums over all shards are of slightly different moments.
    pub moving: bool,
}

/// `FLASH.AUDIT` of one shard.
#[derive(Debug, Clone, Serialize)]
pub struct ShardReport {
    pub shard: u32,
    pub key: String,
    pub differences: Vec<String>,
}

/// One SKU over all shards.
#[derive(Debug, Clone, Serialize)]
pub struct SkuReport {
    pub sku: String,
    #[serde(flatten)]
    pub sum: SkuSum,
    pub differences: Vec<String>,
}

/// Audits a sale. It costs each server a look at every hold and order, with nothing else done meanwhile.
///
/// # Errors
/// A shard is missing or a server does not answer.
pub async fn audit(deployment: &Deployment, sale: &Sale) -> anyhow::Result<Report> {
    let before = sale.whole(deployment).await?;
    let mut shards = Vec::new();
    for shard in 0..sale.shards() {
        shards.push(audit_shard(deployment, sale, shard).await?);
    }
    let mut last = before.clone();
    let mut moving = true;
    let mut now = sale.whole(deployment).await?;
    for _ in 0..LOOKS {
        if transfers(&last) == transfers(&now) {
            moving = false;
            break;
        }
        sleep(BETWEEN_LOOKS).await;
        (last, now) = (now, sale.whole(deployment).await?);
    }
    let (before, now) = (some(before), some(now));
    let skus: Vec<SkuReport> = skus_of(&now).iter().map(|sku| audit_sku(sku, &before, &now, moving)).collect();
    let ok =
        shards.iter().all(|shard| shard.differences.is_empty()) && skus.iter().all(|sku| sku.differences.is_empty());
    Ok(Report { name: sale.name.clone(), ok, shards, skus, moving })
}

fn some(infos: Vec<ShardInfo>) -> Vec<Option<ShardInfo>> {
    infos.into_iter().map(Some).collect()
}

/// Every counter of transfers: equal at two looks, nothing has moved between them, and what lies between them is one
/// moment for all shards.
fn transfers(infos: &[ShardInfo]) -> Vec<(u64, u64)> {
    infos.iter().flat_map(|info| info.skus.values().map(|sku| (sku.granted, sku.accepted))).collect()
}

async fn audit_shard(deployment: &Deployment, sale: &Sale, shard: u32) -> anyhow::Result<ShardReport> {
    let (place, key) = (sale.place(shard), sale.key_text(shard));
    let reply = deployment.ask(place, &deployment.flash("AUDIT", place.key)).await?;
    let (mut ok, mut differences) = (false, Vec::new());
    for (name, value) in fields(reply).with_context(|| format!("FLASH.AUDIT {key}"))? {
        match (name.as_str(), value) {
            ("ok", value) => ok = number(&value) == Some(1),
            ("differences", Value::Array(list)) => differences = list.iter().filter_map(text).collect(),
            _ => {}
        }
    }
    if !ok && differences.is_empty() {
        differences.push("the server says that something differs, and not what".to_owned());
    }
    Ok(ShardReport { shard, key, differences })
}

/// `before` was read wholly before `now`.
fn audit_sku(sku: &Bytes, before: &[Option<ShardInfo>], now: &[Option<ShardInfo>], moving: bool) -> SkuReport {
    let mut differences = Vec::new();
    let in_shards = |infos: &[Option<ShardInfo>]| -> Vec<(u32, bool)> {
        let of = |(shard, info): (u32, &Option<ShardInfo>)| Some((shard, info.as_ref()?.skus.get(sku)?.adds_up()));
        (0..).zip(infos).filter_map(of).collect()
    };
    for (shard, _) in in_shards(now).into_iter().filter(|(_, adds_up)| !adds_up) {
        differences.push(format!("shard {shard}: stocked + accepted - granted is not available + held + sold"));
    }
    let granted = pairs(now, sku);
    for early in pairs(before, sku) {
        // Totals only grow: what had arrived by the first look must have left by the second.
        let late = granted.iter().find(|late| (late.from, late.to) == (early.from, early.to));
        let left = late.map_or(0, |late| late.granted);
        if early.accepted > left {
            differences.push(format!(
                "shard {} has taken {} units from shard {}, which has sent {left}: {} units were made. A failover lost \
                 a grant that was told too early: set [durability] replicas, and `sale restock` by -{} if they are sold \
                 beyond the stock",
                early.to,
                early.accepted,
                early.from,
                early.accepted - left,
                early.accepted - left
            ));
        }
    }
    let sum = sum(now, sku);
    let spread = sum.available + sum.held + sum.sold + sum.in_transit;
    if !moving && differences.is_empty() && sum.stocked != spread {
        differences.push(format!("{} units were stocked, {spread} are there", sum.stocked));
    }
    SkuReport { sku: String::from_utf8_lossy(sku).into_owned(), sum, differences }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::info::SkuInfo;

    fn shard(tee: SkuInfo) -> Option<ShardInfo> {
        Some(ShardInfo { skus: BTreeMap::from([(Bytes::from("tee"), tee)]), ..ShardInfo::default() })
    }

    fn donor(granted: u64) -> SkuInfo {
        let granted_to = BTreeMap::from([(1, granted)]);
        SkuInfo { stocked: 10, available: 10 - granted, granted, granted_to, ..SkuInfo::default() }
    }

    fn taker(accepted: u64) -> SkuInfo {
        let accepted_from = BTreeMap::from([(0, accepted)]);
        SkuInfo { sold: accepted, accepted, accepted_from, ..SkuInfo::default() }
    }

    #[test]
    fn units_in_transit_are_counted() {
        let now = [shard(donor(4)), shard(taker(1))];
        let report = audit_sku(&Bytes::from("tee"), &now, &now, false);
        assert!(report.differences.is_empty(), "{report:?}");
        assert_eq!((report.sum.stocked, report.sum.in_transit, report.sum.sold), (10, 3, 1));
    }

    #[test]
    fn units_that_came_out_of_nothing_are_found() {
        let now = [shard(donor(4)), shard(taker(6))];
        let report = audit_sku(&Bytes::from("tee"), &now, &now, false);
        assert_eq!(report.differences.len(), 1);
        assert!(report.differences[0].contains("2 units were made"), "{report:?}");
    }

    #[test]
    fn a_shard_that_does_not_add_up_is_found() {
        let now = [shard(SkuInfo { stocked: 10, available: 9, ..SkuInfo::default() }), shard(taker(0))];
        let report = audit_sku(&Bytes::from("tee"), &now, &now, false);
        assert!(report.differences[0].contains("shard 0"), "{report:?}");
    }

    #[test]
    fn a_grant_seen_between_the_looks_is_no_difference() {
        let (before, now) = ([shard(donor(1)), shard(taker(1))], [shard(donor(4)), shard(taker(4))]);
        assert!(audit_sku(&Bytes::from("tee"), &before, &now, true).differences.is_empty());
    }
}
