//! Moves units from shard to shard (the contract's section 6): GRANT, wait for the replicas, ACCEPT.
//!
//! Both counters of a pair only grow, and GRANT names the total it goes on from, so that a step may be lost, repeated
//! or taken over by somebody else at any point. What a mover left behind when it died is the difference of the two
//! totals: [`finish`] brings it to its end.

use std::time::Duration;

use flashsale_core::bounds::MAX_STOCKED;
use redis::{Cmd, Value};

use super::deployment::{Deployment, Trouble, checked};
use super::sale::{Pair, Sale, pairs};
use super::shard::ShardInfo;
use crate::config::DurabilityConfig;
use crate::store::answer::number;

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
    let commands = with_wait(deployment, place.key, sku, grant, safety);
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
    let commands = with_wait(deployment, place.key, sku, look, safety);
    let replies = deployment.ask_all(place, &commands).await?;
    bring(deployment, sale, sku, pair, replies, safety).await
}

/// WAIT counts the replicas that have the latest write of the same connection. The grant may be somebody else's, so a
/// write comes between: units stocked by 0, which replicas get after everything that was written before.
fn with_wait(deployment: &Deployment, key: &[u8], sku: &[u8], grant: Cmd, safety: Safety) -> Vec<Cmd> {
    let mut commands = vec![grant];
    if safety.replicas > 0 {
        let mut mark = deployment.flash("STOCK", key);
        mark.arg(sku).arg(0);
        commands.push(mark);
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
    let acknowledged = match replies.get(2) {
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
        let known = pairs(&infos, sku);
        let mut moved = 0;
        gathered.waiting = 0;
        for &pair in known.iter().filter(|pair| pair.granted > pair.accepted) {
            let step = finish(deployment, sale, sku, pair, safety).await?;
            moved += step.units;
            gathered.waiting += step.waiting;
            gathered.units += if pair.to == to { step.units } else { 0 };
        }
        let available = |shard: u32| {
            let info = infos[shard as usize].as_ref()?;
            Some(info.skus.get(sku)?.available)
        };
        let mut lacking = wanted.saturating_sub(available(to).unwrap_or(0) + moved);
        let mut donors: Vec<(u64, u32)> = (0..sale.shards())
            .filter(|&shard| shard != to)
            .filter_map(|shard| available(shard).filter(|&units| units > 0).map(|units| (units, shard)))
            .collect();
        donors.sort_unstable_by(|one, other| other.cmp(one));
        for (units, from) in donors {
            if lacking == 0 {
                break;
            }
            let known = known.iter().find(|pair| (pair.from, pair.to) == (from, to)).copied();
            let pair = known.unwrap_or(Pair { from, to, granted: 0, accepted: 0 });
            let step = send(deployment, sale, sku, pair, units.min(lacking), safety).await?;
            lacking = lacking.saturating_sub(step.units);
            moved += step.units;
            gathered.units += step.units;
            gathered.waiting += step.waiting;
        }
        if moved == 0 || lacking == 0 && wanted < u64::MAX {
            break;
        }
    }
    Ok(gathered)
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
