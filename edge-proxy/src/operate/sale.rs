//! A sale as its operator sees it: found by its name, all shards together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use flashsale_core::bounds::MAX_SHARDS;
use flashsale_core::sharding::{self, shard_key};
use futures_util::future::{join_all, try_join_all};
use redis::Value;
use serde::Serialize;
use tokio::time::sleep;

use super::deployment::{Deployment, Trouble};
use super::leftovers;
use crate::store::info::{ShardInfo, by_name};
use crate::store::layout::Layout;
use crate::store::nodes::Place;

/// How often the shards are read again while units move between two looks.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Where a sale lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sale {
    /// As in the URL, without the prefix of keys.
    pub name: String,
    layout: Arc<Layout>,
}

impl Sale {
    /// The sale `name` of so many shards, there or not. One shard is a plain key.
    pub fn of(prefix: &str, name: &str, shards: u32) -> Self {
        let layout = Layout::new(format!("{prefix}{name}").as_bytes(), shards);
        Self { name: name.to_owned(), layout: Arc::new(layout) }
    }

    /// Finds out in how many shards a sale lives.
    ///
    /// # Errors
    /// There is no such sale, or a server does not answer.
    pub async fn find(deployment: &Deployment, prefix: &str, name: &str) -> anyhow::Result<Self> {
        let single = Self::of(prefix, name, 1);
        if let Some(info) = single.info(deployment, 0).await? {
            if info.shards > 1 {
                let key = single.key_text(0);
                bail!("{key} is shard {} of {}: name the sale, not one of its keys", info.shard, info.shards);
            }
            return Ok(single);
        }
        let base = format!("{prefix}{name}").into_bytes();
        for key in existing(deployment, first_shard_keys(&base)).await? {
            let reply = deployment.ask(Place { key: &key, shard: 0 }, &deployment.flash("INFO", &key)).await?;
            let info = ShardInfo::read(reply)?;
            let sale = Self::of(prefix, name, info.shards);
            if info.shard == 0 && sale.place(0).key == key {
                return Ok(sale);
            }
        }
        bail!(
            "there is no sale `{name}`: neither the key `{prefix}{name}` nor a first shard `{prefix}{name}{{...}}`; \
             `flashsale sale list` shows what there is"
        )
    }

    /// In how many keys it lives.
    pub fn shards(&self) -> u32 {
        self.layout.shards()
    }

    /// The key of a shard, and where it is.
    pub fn place(&self, shard: u32) -> Place<'_> {
        self.layout.place(shard)
    }

    /// The key of a shard for people.
    pub fn key_text(&self, shard: u32) -> String {
        String::from_utf8_lossy(self.place(shard).key).into_owned()
    }

    /// Where a buyer lives.
    pub fn home_of(&self, buyer: &[u8]) -> Place<'_> {
        self.layout.home(buyer)
    }

    /// One shard; `None` if it is not there.
    ///
    /// # Errors
    /// The server does not answer, or the key holds something else.
    pub async fn info(&self, deployment: &Deployment, shard: u32) -> anyhow::Result<Option<ShardInfo>> {
        let place = self.place(shard);
        match deployment.ask(place, &deployment.flash("INFO", place.key)).await {
            Ok(reply) => Ok(Some(ShardInfo::read(reply).context("FLASH.INFO")?)),
            Err(trouble) if trouble.code() == "NOSALE" => Ok(None),
            Err(trouble) => Err(anyhow::Error::from(trouble).context(format!("key {}", self.key_text(shard)))),
        }
    }

    /// All shards at about the same time, in their order.
    ///
    /// # Errors
    /// A server does not answer.
    pub async fn infos(&self, deployment: &Deployment) -> anyhow::Result<Vec<Option<ShardInfo>>> {
        try_join_all((0..self.shards()).map(|shard| self.info(deployment, shard))).await
    }

    /// All shards, none missing.
    ///
    /// # Errors
    /// A server does not answer, a shard is missing, or is of another edition than the others.
    pub async fn whole(&self, deployment: &Deployment) -> anyhow::Result<Vec<ShardInfo>> {
        let infos = self.infos(deployment).await?;
        let missing: Vec<String> = (0..self.shards())
            .filter(|&shard| infos[shard as usize].is_none())
            .map(|shard| self.key_text(shard))
            .collect();
        if !missing.is_empty() {
            bail!(
                "{} of {} shards of `{}` are missing ({}): repeat the `sale create` that made it, with the same words",
                missing.len(),
                self.shards(),
                self.name,
                missing.join(", ")
            );
        }
        leftovers::one_edition(infos.iter().flatten(), &self.name)?;
        Ok(infos.into_iter().flatten().collect())
    }

    /// Sends the same command to each shard and gives the answers in the order of the shards.
    pub async fn ask_each(&self, deployment: &Deployment, name: &str) -> Vec<Result<Value, Trouble>> {
        let commands: Vec<_> =
            (0..self.shards()).map(|shard| (shard, deployment.flash(name, self.place(shard).key))).collect();
        join_all(commands.iter().map(|(shard, command)| deployment.ask(self.place(*shard), command))).await
    }
}

/// The keys that shard 0 may have, for all numbers of shards: few, for many numbers share one.
pub(super) fn first_shard_keys(base: &[u8]) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut before = u32::MAX;
    for shards in 2..=MAX_SHARDS {
        let slot = sharding::shard_slot(0, shards);
        if slot != before {
            keys.push(shard_key(base, 0, shards));
            before = slot;
        }
    }
    keys
}

/// Those of the keys (of shards 0) that are there.
pub(super) async fn existing(deployment: &Deployment, keys: Vec<Vec<u8>>) -> anyhow::Result<Vec<Vec<u8>>> {
    let topology = deployment.topology().await?;
    let mut by_server: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for key in keys {
        if let Some(node) = topology.node_of(Place { key: &key, shard: 0 }) {
            by_server.entry(node.number).or_default().push(key);
        }
    }
    let mut found = Vec::new();
    for node in &topology.nodes {
        let Some(keys) = by_server.remove(&node.number) else { continue };
        let asks: Vec<_> = keys.iter().map(|key| redis::cmd("EXISTS").arg(key).clone()).collect();
        for (key, reply) in keys.into_iter().zip(deployment.ask_node_all(node, &asks).await?) {
            match reply {
                Value::Int(0) => {}
                Value::Int(_) => found.push(key),
                // A slot that has just moved: the key is looked for there.
                Value::ServerError(_) => {
                    let mut exists = redis::cmd("EXISTS");
                    if deployment.ask(Place { key: &key, shard: 0 }, exists.arg(&key)).await? == Value::Int(1) {
                        found.push(key);
                    }
                }
                other => bail!("{} answers EXISTS with {other:?}", node.address),
            }
        }
    }
    Ok(found)
}

/// A sale added up.
#[derive(Debug, Clone, Serialize)]
pub struct Book {
    pub name: String,
    /// What all shards say, or `mixed`.
    pub state: String,
    pub limit: u64,
    pub hold_ms: u64,
    pub maxhold_ms: u64,
    pub opens_at: u64,
    pub closes_at: u64,
    pub holds: u64,
    pub orders: u64,
    /// The earliest deadline of a hold; 0: none is held.
    pub next_deadline: u64,
    #[serde(serialize_with = "by_name")]
    pub skus: BTreeMap<Bytes, SkuSum>,
    pub shards: Vec<ShardLine>,
}

/// A SKU over all shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SkuSum {
    pub stocked: u64,
    pub available: u64,
    pub held: u64,
    pub sold: u64,
    /// Units that have left one shard and not yet arrived in another.
    pub in_transit: u64,
    pub limit: u64,
}

/// One shard of a [`Book`].
#[derive(Debug, Clone, Serialize)]
pub struct ShardLine {
    pub shard: u32,
    pub key: String,
    pub server: Option<String>,
    /// `None`: the shard is missing.
    pub info: Option<ShardInfo>,
}

/// Units of a SKU between two shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    pub from: u32,
    pub to: u32,
    pub granted: u64,
    pub accepted: u64,
}

/// Every pair of shards that has moved units of a SKU.
pub fn pairs(shards: &[Option<ShardInfo>], sku: &[u8]) -> Vec<Pair> {
    let of = |shard: u32| shards.get(shard as usize).and_then(Option::as_ref).and_then(|info| info.skus.get(sku));
    let mut pairs: BTreeMap<(u32, u32), (u64, u64)> = BTreeMap::new();
    for shard in 0..shards.len() as u32 {
        let Some(counters) = of(shard) else { continue };
        counters.granted_to.iter().for_each(|(&to, &total)| pairs.entry((shard, to)).or_default().0 = total);
        counters.accepted_from.iter().for_each(|(&from, &total)| pairs.entry((from, shard)).or_default().1 = total);
    }
    pairs.into_iter().map(|((from, to), (granted, accepted))| Pair { from, to, granted, accepted }).collect()
}

/// The SKUs of any shard.
pub fn skus_of(shards: &[Option<ShardInfo>]) -> Vec<Bytes> {
    let mut names: Vec<Bytes> = shards.iter().flatten().flat_map(|info| info.skus.keys().cloned()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl Book {
    /// Reads all shards, until no unit seems to have arrived before it left.
    ///
    /// # Errors
    /// A server does not answer, or no shard is there.
    pub async fn read(deployment: &Deployment, sale: &Sale) -> anyhow::Result<Self> {
        let mut infos = sale.infos(deployment).await?;
        for _ in 0..LOOKS {
            let ahead = |sku: &Bytes| pairs(&infos, sku).iter().any(|pair| pair.accepted > pair.granted);
            if !skus_of(&infos).iter().any(ahead) {
                break;
            }
            sleep(BETWEEN_LOOKS).await;
            infos = sale.infos(deployment).await?;
        }
        let topology = deployment.topology().await?;
        let server_of = |shard| topology.node_of(sale.place(shard)).map(|node| node.address.clone());
        Self::of(sale, infos, server_of).with_context(|| format!("no shard of `{}` is there", sale.name))
    }

    /// Adds shards up; `None` if there is none.
    pub fn of(sale: &Sale, infos: Vec<Option<ShardInfo>>, server_of: impl Fn(u32) -> Option<String>) -> Option<Self> {
        let first = infos.iter().flatten().next()?.clone();
        let all = || infos.iter().flatten();
        let state = if all().all(|info| info.state == first.state) { first.state.clone() } else { "mixed".to_owned() };
        let skus = skus_of(&infos).into_iter().map(|name| (name.clone(), sum(&infos, &name))).collect();
        Some(Self {
            name: sale.name.clone(),
            state,
            limit: first.limit,
            hold_ms: first.hold_ms,
            maxhold_ms: first.maxhold_ms,
            opens_at: first.opens_at,
            closes_at: first.closes_at,
            holds: all().map(|info| info.holds).sum(),
            orders: all().map(|info| info.orders).sum(),
            next_deadline: all().map(|info| info.next_deadline).filter(|&at| at > 0).min().unwrap_or(0),
            skus,
            shards: infos
                .into_iter()
                .enumerate()
                .map(|(shard, info)| {
                    let shard = shard as u32;
                    ShardLine { shard, key: sale.key_text(shard), server: server_of(shard), info }
                })
                .collect(),
        })
    }

    /// Shards that are not there.
    pub fn missing(&self) -> impl Iterator<Item = &ShardLine> {
        self.shards.iter().filter(|line| line.info.is_none())
    }
}

/// A SKU over the shards that are there.
pub fn sum(shards: &[Option<ShardInfo>], sku: &[u8]) -> SkuSum {
    let mut sum = SkuSum::default();
    for counters in shards.iter().flatten().filter_map(|info| info.skus.get(sku)) {
        sum.stocked += counters.stocked;
        sum.available += counters.available;
        sum.held += counters.held;
        sum.sold += counters.sold;
        sum.limit = sum.limit.max(counters.limit);
    }
    sum.in_transit = pairs(shards, sku).iter().map(|pair| pair.granted.saturating_sub(pair.accepted)).sum();
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::info::SkuInfo;

    #[test]
    fn shard_0_of_any_number_of_shards_is_among_few_keys() {
        let keys = first_shard_keys(b"sale:1");
        assert!(keys.len() < 200, "{}", keys.len());
        for shards in [2, 3, 12, 90, 91, 1_000, 5_555, MAX_SHARDS] {
            assert!(keys.contains(&shard_key(b"sale:1", 0, shards)), "{shards}");
        }
    }

    fn shard(tee: SkuInfo) -> Option<ShardInfo> {
        let skus = BTreeMap::from([(Bytes::from("tee"), tee)]);
        Some(ShardInfo { state: "open".to_owned(), shards: 3, skus, ..ShardInfo::default() })
    }

    #[test]
    fn what_left_and_did_not_arrive_is_in_transit() {
        let donor = SkuInfo {
            stocked: 10,
            available: 3,
            granted: 7,
            granted_to: BTreeMap::from([(1, 4), (2, 3)]),
            ..SkuInfo::default()
        };
        let taker = SkuInfo { held: 1, accepted: 1, accepted_from: BTreeMap::from([(0, 1)]), ..SkuInfo::default() };
        assert!(donor.adds_up() && taker.adds_up());
        let sale = Sale::of("sale:", "1", 3);
        let book = Book::of(&sale, vec![shard(donor), shard(taker), None], |_| None).unwrap();
        let tee = book.skus[&b"tee"[..]];
        assert_eq!(tee, SkuSum { stocked: 10, available: 3, held: 1, in_transit: 6, ..SkuSum::default() });
        assert_eq!(book.missing().map(|line| line.shard).collect::<Vec<_>>(), [2]);
    }
}
