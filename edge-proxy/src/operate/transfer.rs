//! Moves units from shard to shard (the contract's section 6): GRANT, wait for the replicas, ACCEPT.
//!
//! Both counters of a pair only grow, and GRANT names the total it goes on from, so that a step may be lost, repeated
//! or taken over by somebody else at any point. What a mover left behind when it died is the difference of the two
//! totals: [`finish`] brings it to its end.

use std::time::Duration;

use flashsale_core::bounds::MAX_STOCKED;
use futures_util::future::try_join_all;
use redis::{Cmd, Value};

use super::deployment::{Deployment, Trouble, checked};
use super::sale::{Pair, Sale, pairs};
use crate::config::DurabilityConfig;
use crate::store::answer::number;
use crate::store::info::ShardInfo;

/// How many replicas must have a grant before the receiver is told, and how long that may take.
#[derive(Debug, Clone, Copy)]
pub struct Safety {
    pub replicas: u32,
    pub timeout: Duration,
}

impl Safety {
    pub fn of(config: &DurabilityConfig) -> Self {
        Self { replicas: config.replicas, timeout: Duration::from_millis(config.timeout_ms) }
    }
}

/// What a step has moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Units that have arrived by this step.
    pub units: u64,
    /// Units of this pair that have left and cannot be told yet: too few replicas have the grant.
    pub waiting: u64,
}

/// Has `pair.from` send up to `qty` units after what it has granted so far, and brings them to `pair.to`.
///
/// If somebody else has granted meanwhile nothing more leaves, and what that one sent is brought.
///
/// # Errors
/// A server does not answer, or refuses. Units may be in transit then; nothing is lost.
pub async fn send(
    deployment: &Deployment,
    sale: &Sale,
    sku: &[u8],
    pair: Pair,
    qty: u64,
    safety: Safety,
) -> Result<Moved, Trouble> {
    let place = sale.place(pair.from);
    let qty = qty.min(i32::MAX as u64);
    let mut grant = deployment.flash("GRANT", place.key);
    grant.arg(sku).arg(qty).arg("TO").arg(pair.to).arg("AFTER").arg(pair.granted);
    let commands = with_wait(grant, safety);
    let replies = deployment.ask_all(place, &commands).await?;
    bring(deployment, sale, sku, pair, replies, safety).await
}

/// Brings what has left `pair.from` and not arrived, whoever sent it.
///
/// # Errors
/// As [`send`].
pub async fn finish(
    deployment: &Deployment,
    sale: &Sale,
    sku: &[u8],
    pair: Pair,
    safety: Safety,
) -> Result<Moved, Trouble> {
    let place = sale.place(pair.from);
    // A grant that moves nothing: `AFTER` names a total that cannot be. It tells the total as the server has it.
    let mut look = deployment.flash("GRANT", place.key);
    look.arg(sku).arg(1).arg("TO").arg(pair.to).arg("AFTER").arg(MAX_STOCKED);
    let commands = with_wait(look, safety);
    let replies = deployment.ask_all(place, &commands).await?;
    bring(deployment, sale, sku, pair, replies, safety).await
}

/// WAIT counts the replicas that have the latest write of the same connection. A grant that moves nothing is written,
/// too: so it stands for whatever was granted before, by whomever.
pub(super) fn with_wait(grant: Cmd, safety: Safety) -> Vec<Cmd> {
    let mut commands = vec![grant];
    if safety.replicas > 0 {
        let mut wait = redis::cmd("WAIT");
        wait.arg(safety.replicas).arg(safety.timeout.as_millis().max(1) as u64);
        commands.push(wait);
    }
    commands
}

async fn bring(
    deployment: &Deployment,
    sale: &Sale,
    sku: &[u8],
    pair: Pair,
    replies: Vec<Value>,
    safety: Safety,
) -> Result<Moved, Trouble> {
    let donor = deployment.server_of(sale.place(pair.from)).await.unwrap_or_default();
    let replies = replies.into_iter().map(|reply| checked(&donor, reply)).collect::<Result<Vec<_>, _>>()?;
    let Some(total) = granted_total(&replies) else {
        return Err(Trouble::Strange { server: donor, what: format!("{replies:?} to a GRANT") });
    };
    let acknowledged = match replies.get(1) {
        Some(reply) => number(reply).unwrap_or(0) >= u64::from(safety.replicas),
        None => safety.replicas == 0,
    };
    if !acknowledged {
        return Ok(Moved { units: 0, waiting: total.saturating_sub(pair.accepted) });
    }
    if total <= pair.accepted {
        return Ok(Moved::default());
    }
    let place = sale.place(pair.to);
    let mut accept = deployment.flash("ACCEPT", place.key);
    accept.arg(sku).arg("FROM").arg(pair.from).arg("TOTAL").arg(total);
    match deployment.ask(place, &accept).await? {
        Value::Array(words) => Ok(Moved { units: words.get(1).and_then(number).unwrap_or(0), waiting: 0 }),
        other => Err(Trouble::Strange {
            server: deployment.server_of(place).await.unwrap_or_default(),
            what: format!("{other:?} to an ACCEPT"),
        }),
    }
}

/// What [`gather`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Units that have arrived.
    pub units: u64,
    /// Units that are on their way and wait for replicas.
    pub waiting: u64,
}

/// Rounds of [`gather`]: one is enough unless somebody else moves units too.
const ROUNDS: u32 = 10;

/// Brings units of a SKU from all other shards to the shard `to`, until that has `wanted` available, and all that was
/// in transit anywhere to its end.
///
/// # Errors
/// A shard is missing, a server does not answer, or refuses.
pub async fn gather(
    deployment: &Deployment,
    sale: &Sale,
    sku: &[u8],
    to: u32,
    wanted: u64,
    safety: Safety,
) -> anyhow::Result<Gathered> {
    let mut gathered = Gathered::default();
    for _ in 0..ROUNDS {
        let infos: Vec<Option<ShardInfo>> = sale.whole(deployment).await?.into_iter().map(Some).collect();
        let has = available(&infos, sku, to);
        let steps = plan(&infos, sku, to, wanted);
        let moves = steps.into_iter().map(|(pair, qty)| async move {
            let moved = match qty {
                0 => finish(deployment, sale, sku, pair, safety).await,
                qty => send(deployment, sale, sku, pair, qty, safety).await,
            };
            moved.map(|moved| (pair, moved))
        });
        let (mut moved, mut arrived) = (0, 0);
        gathered.waiting = 0;
        for (pair, step) in try_join_all(moves).await? {
            moved += step.units;
            gathered.waiting += step.waiting;
            arrived += if pair.to == to { step.units } else { 0 };
        }
        gathered.units += arrived;
        if moved == 0 || has + arrived >= wanted {
            break;
        }
    }
    Ok(gathered)
}

fn available(infos: &[Option<ShardInfo>], sku: &[u8], shard: u32) -> u64 {
    let info = infos.get(shard as usize).and_then(Option::as_ref);
    info.and_then(|info| info.skus.get(sku)).map_or(0, |counters| counters.available)
}

/// What brings the shard `to` to `wanted` units: transfers to finish (of 0 units), and new ones, the richest first.
fn plan(infos: &[Option<ShardInfo>], sku: &[u8], to: u32, wanted: u64) -> Vec<(Pair, u64)> {
    let known = pairs(infos, sku);
    let mut steps: Vec<(Pair, u64)> =
        known.iter().filter(|pair| pair.granted > pair.accepted).map(|&pair| (pair, 0)).collect();
    let coming = steps.iter().filter(|(pair, _)| pair.to == to).map(|(pair, _)| pair.granted - pair.accepted);
    let mut lacking = wanted.saturating_sub(available(infos, sku, to) + coming.sum::<u64>());
    let mut donors: Vec<(u64, u32)> = (0..infos.len() as u32)
        .filter(|&shard| shard != to)
        .map(|shard| (available(infos, sku, shard), shard))
        .filter(|&(units, _)| units > 0)
        .collect();
    donors.sort_unstable_by(|one, other| other.cmp(one));
    for (units, from) in donors {
        let pair = known.iter().find(|pair| (pair.from, pair.to) == (from, to)).copied();
        let pair = pair.unwrap_or(Pair { from, to, granted: 0, accepted: 0 });
        // One step for a pair at a time: what is in transit is finished in this round, more may follow in the next.
        if lacking > 0 && pair.granted == pair.accepted {
            steps.push((pair, units.min(lacking)));
            lacking = lacking.saturating_sub(units);
        }
    }
    steps
}

/// `GRANTED total available`; a SKU that the donor does not know has granted nothing.
fn granted_total(replies: &[Value]) -> Option<u64> {
    let Some(Value::Array(words)) = replies.first() else { return None };
    match crate::store::answer::text(words.first()?)?.as_str() {
        "GRANTED" => number(words.get(1)?),
        "NOSKU" => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::operate::SkuInfo;

    fn shard(available: u64, granted_to: &[(u32, u64)], accepted_from: &[(u32, u64)]) -> Option<ShardInfo> {
        let (granted_to, accepted_from) =
            (granted_to.iter().copied().collect(), accepted_from.iter().copied().collect());
        let tee = SkuInfo { available, granted_to, accepted_from, ..SkuInfo::default() };
        Some(ShardInfo { skus: BTreeMap::from([("tee".into(), tee)]), ..ShardInfo::default() })
    }

    fn steps(infos: &[Option<ShardInfo>], wanted: u64) -> Vec<(u32, u32, u64)> {
        plan(infos, b"tee", 0, wanted).iter().map(|(pair, qty)| (pair.from, pair.to, *qty)).collect()
    }

    #[test]
    fn the_richest_gives_first_and_no_more_than_is_wanted() {
        let infos = [shard(1, &[], &[]), shard(4, &[], &[]), shard(9, &[], &[])];
        assert_eq!(steps(&infos, 11), [(2, 0, 9), (1, 0, 1)]);
        assert_eq!(steps(&infos, u64::MAX), [(2, 0, 9), (1, 0, 4)]);
        assert_eq!(steps(&infos, 1), []);
    }

    #[test]
    fn what_is_on_its_way_is_finished_and_counted() {
        let infos = [shard(1, &[], &[(1, 2)]), shard(4, &[(0, 5), (2, 1)], &[]), shard(9, &[], &[])];
        assert_eq!(steps(&infos, 6), [(1, 0, 0), (1, 2, 0), (2, 0, 2)]);
    }
}
