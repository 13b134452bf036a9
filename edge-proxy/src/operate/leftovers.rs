//! Shards of an earlier sale of the same name.
//!
//! A shard that is left from an earlier sale would go on telling what it once granted, and a new sale would take that for
//! units of its own: they would be sold twice. The module tells them apart by the edition that `flashsale sale create`
//! gives each sale; the library cannot, nor can shards that were made without one. So a sale is made only where there
//! are none.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{bail, ensure};
use flashsale_core::sharding::{SLOTS, shard_key};
use redis::{Cmd, Value};

use super::deployment::{Deployment, Trouble};
use super::sale::Sale;
use crate::store::info::{ShardInfo, SkuInfo};
use crate::store::nodes::Place;

/// Keys that are asked for in one write.
const PAGE: usize = 1_000;
/// Most keys that a refusal names.
const NAMED_MAX: usize = 12;

/// A key that has a name which a shard of the sale could have.
struct Shard {
    key: Vec<u8>,
    /// The part of the deployment where it is.
    part: u32,
    info: ShardInfo,
}

/// Whether shards that have sold already may be completed by those that are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mending {
    /// Only if all that is there is as a creation leaves it.
    Untouched,
    /// Also if buyers were faster than the creation.
    InUse,
}

/// Makes sure that `sale` can be made, or completed.
///
/// # Errors
/// Shards are left that are not, or may not be, of this sale; or a server does not answer.
pub async fn refuse(deployment: &Deployment, sale: &Sale, base: &[u8], mending: Mending) -> anyhow::Result<()> {
    let found = shards_of_any_number(deployment, base).await?;
    let parts = deployment.topology().await?.parts.len().max(1) as u32;
    let index_of = |shard: &Shard| {
        let index = shard.info.shard;
        let is_one = shard.info.shards == sale.shards()
            && index < sale.shards()
            && sale.place(index).key == shard.key
            && index % parts == shard.part;
        is_one.then_some(index)
    };
    let (own, others): (Vec<Shard>, Vec<Shard>) = found.into_iter().partition(|shard| index_of(shard).is_some());
    if !others.is_empty() {
        bail!(
            "{} left from another sale called `{}`: {}. A new sale would take their units for its own. If they are \
             not needed any more, delete all of them, each with its order stream (DEL {} {}), or take another name",
            shards_are(others.len()),
            sale.name,
            named(&others),
            String::from_utf8_lossy(&others[0].key),
            String::from_utf8_lossy(&flashsale_core::sharding::stream_key(&others[0].key)),
        );
    }
    let own: BTreeMap<u32, &Shard> = own.iter().filter_map(|shard| Some((index_of(shard)?, shard))).collect();
    one_edition(own.values().map(|shard| &shard.info), &sale.name)?;
    let missing: Vec<u32> = (0..sale.shards()).filter(|shard| !own.contains_key(shard)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (index, shard) in &own {
        if let Some(other) = missing.iter().find(|missing| have_traded(&shard.info, **missing)) {
            bail!(
                "{} is there, has sent units to shard {other} or had some from it, and that one is missing: a new one \
                 would send or take the same units again. Restore {} from a backup, or delete all shards of `{}` with \
                 their order streams and begin anew",
                String::from_utf8_lossy(&shard.key),
                sale.key_text(*other),
                sale.name,
            );
        }
        if mending == Mending::Untouched && is_in_use(&shard.info) {
            bail!(
                "{} of {} shards of `{}` are missing, and {} (shard {index}) has sold or holds units: it may be left \
                 from an earlier sale. If it is, delete all shards that are there with their order streams; if buyers \
                 were faster than the creation of this sale, repeat it with --mend",
                missing.len(),
                sale.shards(),
                sale.name,
                String::from_utf8_lossy(&shard.key),
            );
        }
    }
    Ok(())
}

/// Every key that could be a shard of a sale of this name, whatever its number of shards, and is one: there is one such
/// name for each slot.
async fn shards_of_any_number(deployment: &Deployment, base: &[u8]) -> anyhow::Result<Vec<Shard>> {
    let topology = deployment.whole_topology().await?;
    let mut found = Vec::new();
    for part in 0..topology.parts.len() as u32 {
        let mut by_node: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
        for slot in 0..SLOTS {
            let key = shard_key(base, slot, SLOTS);
            let node = topology.node_of(Place { key: &key, shard: part });
            let number = node.map_or(u64::MAX, |node| node.number);
            by_node.entry(number).or_default().push(key);
        }
        if by_node.contains_key(&u64::MAX) {
            bail!("some slots of the cluster are served by nobody: what lies there cannot be seen");
        }
        for node in &topology.nodes {
            let keys = by_node.remove(&node.number).unwrap_or_default();
            for page in keys.chunks(PAGE) {
                let asks: Vec<Cmd> = page.iter().map(|key| exists(key)).collect();
                for (key, reply) in page.iter().zip(deployment.ask_node_all(node, &asks).await?) {
                    if is_there(deployment, Place { key, shard: part }, reply).await? {
                        found.extend(look_at(deployment, key, part).await?);
                    }
                }
            }
        }
    }
    Ok(found)
}

fn exists(key: &[u8]) -> Cmd {
    redis::cmd("EXISTS").arg(key).to_owned()
}

async fn is_there(deployment: &Deployment, place: Place<'_>, reply: Value) -> Result<bool, Trouble> {
    match reply {
        // A slot that has just moved: the key is looked for there.
        Value::ServerError(_) => Ok(deployment.ask(place, &exists(place.key)).await? == Value::Int(1)),
        reply => Ok(reply == Value::Int(1)),
    }
}

/// `None`: the key is no sale.
async fn look_at(deployment: &Deployment, key: &[u8], part: u32) -> Result<Option<Shard>, Trouble> {
    match deployment.ask(Place { key, shard: part }, &deployment.flash("INFO", key)).await {
        Ok(reply) => Ok(ShardInfo::read(reply).ok().map(|info| Shard { key: key.to_vec(), part, info })),
        Err(trouble) if ["NOSALE", "WRONGTYPE"].contains(&trouble.code()) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// Makes sure that shards are of one sale.
///
/// # Errors
/// Two of them are of different editions.
pub fn one_edition<'i>(shards: impl Iterator<Item = &'i ShardInfo>, name: &str) -> anyhow::Result<()> {
    let mut first: Option<&ShardInfo> = None;
    for info in shards {
        let first = *first.get_or_insert(info);
        ensure!(
            info.edition == first.edition,
            "shard {} of `{name}` is of edition {}, and shard {} of edition {}: one of them is left from an earlier sale \
             of this name, and takes no part in the later one. Delete it with its order stream (the edition is the time \
             when the sale was made, in unix milliseconds), and repeat the `sale create`",
            info.shard,
            info.edition,
            first.shard,
            first.edition,
        );
    }
    Ok(())
}

/// Whether units have gone from this shard to the other or come from there.
pub fn have_traded(info: &ShardInfo, other: u32) -> bool {
    let with_other = |sku: &SkuInfo| {
        let total = |totals: &BTreeMap<u32, u64>| totals.get(&other).copied().unwrap_or(0);
        total(&sku.granted_to) + total(&sku.accepted_from) > 0
    };
    info.skus.values().any(with_other)
}

fn is_in_use(info: &ShardInfo) -> bool {
    let moved = |sku: &SkuInfo| sku.held + sku.sold + sku.granted + sku.accepted > 0;
    info.orders > 0 || info.holds > 0 || info.skus.values().any(moved)
}

fn shards_are(count: usize) -> String {
    if count == 1 { "a shard is".to_owned() } else { format!("{count} shards are") }
}

/// The keys for people, not all if there are many.
fn named(shards: &[Shard]) -> String {
    let mut text = String::new();
    for shard in shards.iter().take(NAMED_MAX) {
        let comma = if text.is_empty() { "" } else { ", " };
        let key = String::from_utf8_lossy(&shard.key);
        let _ = write!(text, "{comma}{key} (shard {} of {})", shard.info.shard, shard.info.shards);
    }
    if shards.len() > NAMED_MAX {
        let _ = write!(text, " and {} more", shards.len() - NAMED_MAX);
    }
    text
}
