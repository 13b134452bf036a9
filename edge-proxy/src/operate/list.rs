//! Finds all sales of a deployment.

use std::collections::BTreeSet;

use redis::Value;
use serde::Serialize;

use super::deployment::{Deployment, Trouble};
use super::sale::{Book, Sale};
use crate::store::answer::{number, text};
use crate::store::info::ShardInfo;
use crate::store::layout::sale_of_key;
use crate::store::nodes::{Dialect, Node};
use crate::store::redis::glob_escape;

/// Keys that one SCAN looks at.
const PAGE: u32 = 1_000;

/// A sale in one line.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    pub name: String,
    pub state: String,
    pub shards: u32,
    /// Shards that are not there: an unfinished creation.
    pub missing: u32,
    pub opens_at: u64,
    pub closes_at: u64,
    pub stocked: u64,
    pub available: u64,
    pub held: u64,
    pub sold: u64,
    pub in_transit: u64,
    pub orders: u64,
}

/// All sales whose keys begin with `prefix`, added up. One that has gone meanwhile, or whose servers do not all answer,
/// is left out.
///
/// # Errors
/// A server does not answer.
pub async fn list(deployment: &Deployment, prefix: &str) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for sale in names(deployment, prefix).await? {
        let Ok(book) = Book::read(deployment, &sale).await else { continue };
        lines.push(Line::of(&book));
    }
    Ok(lines)
}

/// All sales whose keys begin with `prefix`, by name. Each server is scanned: on one with many other keys that takes a
/// while, and harms nobody.
///
/// Shards of a name that say that they are of different numbers of shards are different sales.
///
/// # Errors
/// A server does not answer.
pub async fn names(deployment: &Deployment, prefix: &str) -> anyhow::Result<Vec<Sale>> {
    Ok(sales_of(&found(deployment, prefix).await?, prefix))
}

/// The sales that the keys belong to, by name.
pub fn sales_of(found: &[FoundKey], prefix: &str) -> Vec<Sale> {
    let sales: BTreeSet<(String, u32)> = found.iter().map(|key| (key.sale_name(prefix), key.info.shards)).collect();
    sales.into_iter().map(|(name, shards)| Sale::of(prefix, &name, shards)).collect()
}

/// A key that holds a sale or a shard of one.
pub struct FoundKey {
    pub key: Vec<u8>,
    pub info: ShardInfo,
    /// The part of the deployment where it was found, which is not always where it is looked for.
    pub part: usize,
}

impl FoundKey {
    /// The sale's name, without the prefix.
    pub fn sale_name(&self, prefix: &str) -> String {
        let sale = if self.info.shards > 1 { sale_of_key(&self.key) } else { &self.key };
        let name = String::from_utf8_lossy(sale);
        name.strip_prefix(prefix).unwrap_or(&name).to_owned()
    }
}

/// All keys that hold sales and begin with `prefix`.
///
/// # Errors
/// A server does not answer.
pub async fn found(deployment: &Deployment, prefix: &str) -> anyhow::Result<Vec<FoundKey>> {
    let mut found = Vec::new();
    let topology = deployment.whole_topology().await?;
    for node in &topology.nodes {
        let Some(part) = topology.part_with(node) else { continue };
        for key in scan(deployment, node, prefix).await? {
            let info = deployment.flash("INFO", &key);
            // The library's sales are hashes like any others; and a key may have gone meanwhile.
            let Ok(reply) = deployment.ask_node(node, &info).await else { continue };
            let Ok(info) = ShardInfo::read(reply) else { continue };
            found.push(FoundKey { key, info, part });
        }
    }
    Ok(found)
}

impl Line {
    fn of(book: &Book) -> Self {
        let total = |pick: fn(&super::sale::SkuSum) -> u64| book.skus.values().map(pick).sum();
        Self {
            name: book.name.clone(),
            state: book.state.clone(),
            shards: book.shards.len() as u32,
            missing: book.missing().count() as u32,
            opens_at: book.opens_at,
            closes_at: book.closes_at,
            stocked: total(|sku| sku.stocked),
            available: total(|sku| sku.available),
            held: total(|sku| sku.held),
            sold: total(|sku| sku.sold),
            in_transit: total(|sku| sku.in_transit),
            orders: book.orders,
        }
    }
}

async fn scan(deployment: &Deployment, node: &Node, prefix: &str) -> Result<Vec<Vec<u8>>, Trouble> {
    let pattern = [&glob_escape(prefix.as_bytes())[..], b"*"].concat();
    let kind = match deployment.dialect() {
        Dialect::Module => "flashsale",
        Dialect::Functions => "hash",
    };
    let (mut keys, mut cursor) = (Vec::new(), 0);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(PAGE).arg("TYPE").arg(kind);
        let reply = match deployment.ask_node(node, &scan).await {
            // A server that never had the module does not know the type (Valkey says so): it has no sale.
            Err(Trouble::Refused { text, .. }) if text.starts_with("unknown type") => return Ok(keys),
            reply => reply?,
        };
        let parts = match reply {
            Value::Array(parts) => <[Value; 2]>::try_from(parts).ok(),
            _ => None,
        };
        let Some([next, Value::Array(found)]) = parts else {
            return Err(Trouble::Strange { server: node.address.clone(), what: "no page to a SCAN".to_owned() });
        };
        keys.extend(found.into_iter().filter_map(|key| match key {
            Value::BulkString(bytes) => Some(bytes),
            other => text(&other).map(String::into_bytes),
        }));
        cursor = number(&next).unwrap_or(0);
        if cursor == 0 {
            return Ok(keys);
        }
    }
}
