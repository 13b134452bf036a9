//! One shard as `FLASH.INFO` shows it, with what it has moved to and from each other shard. Operators see all of it;
//! [`SaleView`] is what the proxy needs.

use std::collections::BTreeMap;

use bytes::Bytes;
use redis::Value;
use serde::Serialize;

use super::StoreError;
use super::answer::{SaleView, SkuView, bytes_of, checked, fields, number, pairs, text};

/// Settings and counters of one shard. Times are unix milliseconds, durations milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ShardInfo {
    /// `pending`, `open`, `paused` or `closed`.
    pub state: String,
    /// `ORDERS`, `ALL` or `NONE`.
    pub events: String,
    /// Units a buyer may have; 0: no limit.
    pub limit: u64,
    pub hold_ms: u64,
    pub maxhold_ms: u64,
    pub opens_at: u64,
    pub closes_at: u64,
    pub retain_ms: u64,
    pub backlog: u64,
    pub shard: u32,
    pub shards: u32,
    /// Tells the shards of this sale from those of an earlier one of the same name; 0: nobody said.
    pub edition: u64,
    pub holds: u64,
    pub orders: u64,
    pub buyers: u64,
    pub next_deadline: u64,
    pub expiry_lag_ms: u64,
    /// Entries of the order stream, ever.
    pub entries: u64,
    /// Commands that asked this key; 0 where the server cannot count them.
    pub commands: u64,
    #[serde(serialize_with = "by_name")]
    pub skus: BTreeMap<Bytes, SkuInfo>,
}

/// One SKU of a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SkuInfo {
    pub stocked: u64,
    pub available: u64,
    pub held: u64,
    pub sold: u64,
    pub granted: u64,
    pub accepted: u64,
    pub limit: u64,
    pub version: u64,
    /// Units asked for in vain here, and of the latest such request.
    pub missed: u64,
    pub missed_last: u64,
    /// By the other shard: all units ever sent there.
    pub granted_to: BTreeMap<u32, u64>,
    /// By the other shard: its total that was last taken.
    pub accepted_from: BTreeMap<u32, u64>,
}

impl SkuInfo {
    /// Whether the shard's own sum is right (the contract's invariant 1).
    pub fn adds_up(&self) -> bool {
        self.stocked + self.accepted == self.granted + self.available + self.held + self.sold
    }
}

impl ShardInfo {
    /// Reads the reply of `FLASH.INFO`. What later versions add is passed over.
    ///
    /// # Errors
    /// The server's error, or the reply has another form.
    pub fn read(reply: Value) -> Result<Self, StoreError> {
        let mut info = Self::default();
        for (name, value) in fields(checked(reply)?)? {
            let count = || number(&value).unwrap_or(0);
            let small = || u32::try_from(count()).unwrap_or(u32::MAX);
            match name.as_str() {
                "state" => info.state = text(&value).unwrap_or_default().to_ascii_lowercase(),
                "events" => info.events = text(&value).unwrap_or_default(),
                "limit" => info.limit = count(),
                "hold_ms" => info.hold_ms = count(),
                "maxhold_ms" => info.maxhold_ms = count(),
                "opens_at" => info.opens_at = count(),
                "closes_at" => info.closes_at = count(),
                "retain_ms" => info.retain_ms = count(),
                "backlog" => info.backlog = count(),
                "shard" => info.shard = small(),
                "shards" => info.shards = small(),
                "edition" => info.edition = count(),
                "holds" => info.holds = count(),
                "orders" => info.orders = count(),
                "buyers" => info.buyers = count(),
                "next_deadline" => info.next_deadline = count(),
                "expiry_lag_ms" => info.expiry_lag_ms = count(),
                "entries" => info.entries = count(),
                "commands" => info.commands = count(),
                "skus" => info.skus = skus(value)?,
                _ => {}
            }
        }
        if info.state.is_empty() || info.shards == 0 {
            return Err(StoreError::Nonsense("FLASH.INFO without `state` or `shards`".to_owned()));
        }
        Ok(info)
    }
}

impl From<ShardInfo> for SaleView {
    fn from(info: ShardInfo) -> Self {
        Self {
            state: info.state,
            limit: info.limit,
            hold_ms: info.hold_ms,
            maxhold_ms: info.maxhold_ms,
            opens_at_ms: info.opens_at,
            closes_at_ms: info.closes_at,
            shard: info.shard.into(),
            shards: info.shards.into(),
            holds: info.holds,
            orders: info.orders,
            buyers: info.buyers,
            next_deadline_ms: info.next_deadline,
            expiry_lag_ms: info.expiry_lag_ms,
            shards_missing: 0,
            commands: info.commands,
            skus: info.skus.into_iter().map(|(name, sku)| (name, SkuView::from(&sku))).collect(),
        }
    }
}

impl From<&SkuInfo> for SkuView {
    fn from(sku: &SkuInfo) -> Self {
        Self {
            stocked: sku.stocked,
            available: sku.available,
            held: sku.held,
            sold: sku.sold,
            granted: sku.granted,
            accepted: sku.accepted,
            limit: sku.limit,
            version: sku.version,
        }
    }
}

fn skus(value: Value) -> Result<BTreeMap<Bytes, SkuInfo>, StoreError> {
    let read = |(name, counters): (Value, Value)| {
        let name = bytes_of(&name).ok_or_else(|| StoreError::Nonsense("a SKU without a name".to_owned()))?;
        Ok((name, sku(counters)?))
    };
    pairs(value)?.into_iter().map(read).collect()
}

fn sku(counters: Value) -> Result<SkuInfo, StoreError> {
    let mut sku = SkuInfo::default();
    for (name, value) in fields(counters)? {
        let count = || number(&value).unwrap_or(0);
        match name.as_str() {
            "stocked" => sku.stocked = count(),
            "available" => sku.available = count(),
            "held" => sku.held = count(),
            "sold" => sku.sold = count(),
            "granted" => sku.granted = count(),
            "accepted" => sku.accepted = count(),
            "limit" => sku.limit = count(),
            "version" => sku.version = count(),
            "missed" => sku.missed = count(),
            "missed_last" => sku.missed_last = count(),
            "granted_to" => sku.granted_to = totals(value)?,
            "accepted_from" => sku.accepted_from = totals(value)?,
            _ => {}
        }
    }
    Ok(sku)
}

fn totals(value: Value) -> Result<BTreeMap<u32, u64>, StoreError> {
    let read = |(shard, total): (Value, Value)| {
        let shard = number(&shard).and_then(|shard| u32::try_from(shard).ok());
        let pair = shard.zip(number(&total));
        pair.ok_or_else(|| StoreError::Nonsense("a transfer that is no pair of numbers".to_owned()))
    };
    pairs(value)?.into_iter().map(read).collect()
}

/// SKUs are any bytes, JSON is text.
pub fn by_name<T: Serialize, S: serde::Serializer>(map: &BTreeMap<Bytes, T>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(map.iter().map(|(name, value)| (String::from_utf8_lossy(name), value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(reply: &str) -> Value {
        redis::parse_redis_value(reply.replace('\n', "\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn both_protocols_are_read() {
        let body = "$5\nstate\n$4\nopen\n$6\nshards\n:3\n$4\nskus\nM1\n$3\ntee\nM2\n$9\navailable\n:7\n\
                    $10\ngranted_to\nM1\n$1\n2\n:5\n";
        let map = parsed(&format!("%3\n{}", body.replace("M1", "%1").replace("M2", "%2")));
        let flat = parsed(&format!("*6\n{}", body.replace("M1", "*2").replace("M2", "*4")));
        let info = ShardInfo::read(map).unwrap();
        assert_eq!(info, ShardInfo::read(flat).unwrap());
        let tee = &info.skus[&b"tee"[..]];
        assert_eq!((info.shards, tee.available, &tee.granted_to), (3, 7, &BTreeMap::from([(2, 5)])));
        let view = SaleView::from(info);
        assert_eq!((view.state.as_str(), view.shards, view.skus[0].1.available), ("open", 3, 7));
    }

    #[test]
    fn what_is_new_or_below_zero_is_no_error() {
        let info = parsed("%4\n$5\nstate\n$4\nOPEN\n$6\nshards\n:1\n$8\nopens_at\n:-1\n$4\nnews\n*0\n");
        let view = SaleView::from(ShardInfo::read(info).unwrap());
        assert_eq!((view.state.as_str(), view.opens_at_ms, view.skus.len()), ("open", 0, 0));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(ShardInfo::read(parsed("*0\n")).is_err());
        assert!(ShardInfo::read(parsed("+OK\n")).is_err());
    }
}
