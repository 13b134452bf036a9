//! Adds and withdraws units of a running sale, spread over its shards.
//!
//! Each shard gets its part under the same allocation id, which counts once there: a call that broke off is repeated
//! with the same id, and only what is missing happens.

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use flashsale_core::bounds::MAX_QUANTITY;
use redis::{Cmd, Value};
use serde::Serialize;

use super::deployment::Deployment;
use super::sale::Sale;
use super::transfer::{self, Safety};
use crate::store::answer::{number, text};

/// How often units are fetched from other shards to be withdrawn, while buyers take them away.
const FETCHES: u32 = 20;

/// One STOCK.
pub struct Allocation<'a> {
    pub sku: &'a [u8],
    pub delta: i64,
    pub id: Vec<u8>,
    pub limit: Option<u32>,
}

impl Allocation<'_> {
    /// The command that makes it.
    pub fn command(&self, deployment: &Deployment, key: &[u8]) -> Cmd {
        let mut command = deployment.flash("STOCK", key);
        command.arg(self.sku).arg(self.delta).arg("ID").arg(&self.id);
        if let Some(limit) = self.limit {
            command.arg("LIMIT").arg(limit);
        }
        command
    }
}

/// The part of shard `index` of a total: the first ones have one more where it does not go up.
pub fn part(total: u64, shards: u32, index: u32) -> u64 {
    let (each, rest) = (total / u64::from(shards), total % u64::from(shards));
    each + u64::from(u64::from(index) < rest)
}

/// The answer of a STOCK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stocked {
    Done {
        available: u64,
    },
    /// More was to be withdrawn than is available; so much is.
    BelowHeld {
        available: u64,
    },
}

/// Reads the answer of a STOCK.
///
/// # Errors
/// `MISMATCH`: the id was used for something else.
pub fn stocked(answer: &Value) -> anyhow::Result<Stocked> {
    let Value::Array(words) = answer else { bail!("STOCK answered {answer:?}") };
    let count = |at: usize| words.get(at).and_then(number).context("STOCK answered too few words");
    match words.first().and_then(text).as_deref() {
        Some("STOCKED") => Ok(Stocked::Done { available: count(1)? }),
        Some("BELOWHELD") => Ok(Stocked::BelowHeld { available: count(1)? }),
        Some("MISMATCH") => {
            let field = words.get(1).and_then(text).unwrap_or_default();
            bail!("the id was used before with another {field}: take a new id")
        }
        _ => bail!("STOCK answered {answer:?}"),
    }
}

/// What a restock has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restocked {
    pub sku: String,
    pub delta: i64,
    /// Send it again with this id and nothing happens twice.
    pub id: String,
    /// Units available per shard afterwards.
    pub available: Vec<u64>,
}

/// Adds `delta` units (or withdraws them, if below 0), spread over the shards.
///
/// # Errors
/// The id was used for something else, too few units can be withdrawn, or a server does not answer: repeat it with
/// the same id.
pub async fn restock(
    deployment: &Deployment,
    sale: &Sale,
    sku: &str,
    delta: i64,
    id: &str,
    safety: Safety,
) -> anyhow::Result<Restocked> {
    ensure!(delta != 0, "{sku}=0 changes nothing: give +5 or -5");
    let infos = sale.whole(deployment).await?;
    let known = infos.iter().any(|info| info.skus.contains_key(sku.as_bytes()));
    ensure!(known || delta > 0, "the sale has no SKU `{sku}` to withdraw: see `sale show {}`", sale.name);
    let most = u64::from(MAX_QUANTITY) * u64::from(sale.shards());
    ensure!(delta.unsigned_abs() <= most, "{sku}={delta}: at most {most} at once");
    let mut available = Vec::new();
    for shard in 0..sale.shards() {
        let units = part(delta.unsigned_abs(), sale.shards(), shard) as i64;
        let allocation = Allocation { sku: sku.as_bytes(), delta: units * delta.signum(), id: id.into(), limit: None };
        let done = one(deployment, sale, shard, &allocation, safety).await;
        available.push(done.with_context(|| {
            format!("{} of {} shards are done; the same again with --id {id} does the rest", shard, sale.shards())
        })?);
    }
    Ok(Restocked { sku: sku.to_owned(), delta, id: id.to_owned(), available })
}

async fn one(
    deployment: &Deployment,
    sale: &Sale,
    shard: u32,
    allocation: &Allocation<'_>,
    safety: Safety,
) -> anyhow::Result<u64> {
    let place = sale.place(shard);
    let wanted = allocation.delta.unsigned_abs();
    let mut has = 0;
    for _ in 0..FETCHES {
        let answer = deployment.ask(place, &allocation.command(deployment, place.key)).await?;
        match stocked(&answer).with_context(|| sale.key_text(shard))? {
            Stocked::Done { available } => return Ok(available),
            Stocked::BelowHeld { available } => has = available,
        }
        let fetched = transfer::gather(deployment, sale, allocation.sku, shard, wanted, safety).await?;
        if fetched.units == 0 {
            break;
        }
    }
    let sku = Bytes::copy_from_slice(allocation.sku);
    bail!(
        "{} can give up only {has} of the {wanted} units of {} that are its part, and no other shard has units \
         available: wait until holds end, or withdraw less",
        sale.key_text(shard),
        String::from_utf8_lossy(&sku)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_differ_by_one_at_most() {
        for (total, shards) in [(0, 3), (1, 3), (2, 3), (10, 3), (100, 12), (7, 16_384)] {
            let parts: Vec<u64> = (0..shards).map(|index| part(total, shards, index)).collect();
            assert_eq!(parts.iter().sum::<u64>(), total);
            assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1);
        }
    }
}
