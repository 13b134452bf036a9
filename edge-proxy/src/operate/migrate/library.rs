//! Reads a sale out of the keys of the library of functions; their layout is told at the top of `lua/flashsale.lua`.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, bail, ensure};
use flashsale_core::import::{Counted, Import, KeptHold, KeptItems, KeptSale, KeptSku, KeptState, KeptTransfer};
use flashsale_core::{Events, Sale, Settings, Shard, sharding};
use redis::{Cmd, Value};

use crate::operate::deployment::Deployment;
use crate::packed::Packed;
use crate::store::nodes::Place;

/// The layout that is read here.
const LAYOUT: i64 = 1;
/// Holds read in one command: each takes the server about a microsecond.
const PAGE: usize = 2_000;

/// Whether the library may change the sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is the library's.
    Here,
    /// A move has begun and nothing can have landed.
    Moving,
    /// It is the module's, or may be at any moment: who takes it back asks the target first.
    Moved,
}

/// The keys around a sale's own.
pub struct Keys {
    base: Vec<u8>,
    pub orders: Vec<u8>,
}

impl Keys {
    pub fn of(key: &[u8]) -> Self {
        let orders = sharding::stream_key(key);
        let base = orders.strip_suffix(b":orders").unwrap_or(key).to_vec();
        Self { base, orders }
    }

    /// `BASE:name`
    pub fn named(&self, name: &str) -> Vec<u8> {
        [&self.base[..], b":", name.as_bytes()].concat()
    }
}

/// Where the sale in a key stands; `None` if the library has none there.
///
/// # Errors
/// The server does not answer, or the sale has another layout.
pub async fn standing(source: &Deployment, place: Place<'_>) -> anyhow::Result<Option<Standing>> {
    let reply = source.ask(place, &command("HGET", &[place.key, b"sale"])).await?;
    let Some(record) = bytes(reply) else { return Ok(None) };
    let record = Packed::read(&record).context("the record of the sale")?;
    match record.list()?.first() {
        Some(Packed::Number(LAYOUT)) => Ok(Some(Standing::Here)),
        Some(Packed::Bytes(b"moving")) => Ok(Some(Standing::Moving)),
        Some(Packed::Bytes(b"moved")) => Ok(Some(Standing::Moved)),
        other => bail!("the sale is laid out as {other:?}, and this program reads layout {LAYOUT}: take a newer one"),
    }
}

/// A sale that was read, and what the library had counted of it.
pub struct Copied {
    pub sale: Sale,
    /// Holds, orders and remembered ids.
    pub records: usize,
}

/// Reads a sale that nobody changes any more, and counts it anew.
///
/// # Errors
/// The server does not answer, or what is there contradicts itself: the library's counters are not those that follow
/// from its holds.
pub async fn read(source: &Deployment, place: Place<'_>) -> anyhow::Result<Copied> {
    let keys = Keys::of(place.key);
    let fields = command("HGETALL", &[place.key]);
    let names = command("LRANGE", &[&keys.named("skus"), b"0", b"-1"]);
    let mut replies = source.ask_all(place, &[fields, names]).await?.into_iter();
    let fields = pairs_of(replies.next().unwrap_or_default()).context("HGETALL")?;
    let names = list_of(replies.next().unwrap_or_default()).context("LRANGE")?;
    let (kept, counted, indexes) = sale(&fields, names)?;
    let mut import = Import::new(&kept, [rand::random(), rand::random()])?;
    let records = read_holds(source, place, &keys.named("holds"), &indexes, &mut import).await?;
    let sale = import.finish()?;
    let found = sale.counted();
    ensure!(found == counted, "the library has counted {counted:?}, and its holds are {found:?}: see flash_audit");
    Ok(Copied { sale, records })
}

/// By name, the place in the order of SKUs.
type Indexes = HashMap<Vec<u8>, u16>;

/// The sale, the library's counters, and where each SKU stands.
fn sale(fields: &[(Vec<u8>, Vec<u8>)], names: Vec<Vec<u8>>) -> anyhow::Result<(KeptSale, Counted, Indexes)> {
    let by_name: HashMap<&[u8], &[u8]> = fields.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    let record = by_name.get(&b"sale"[..]).context("the key has no record of a sale")?;
    let record = Packed::read(record).context("the record of the sale")?;
    let record = record.list()?;
    ensure!(record.len() >= 26, "the record of the sale has {} fields", record.len());
    let number = |at: usize| record[at - 1].number().with_context(|| format!("field {at} of the sale"));
    let settings = Settings {
        limit: u32::try_from(number(2)?)?,
        hold_ms: number(3)?,
        maxhold_ms: number(4)?,
        opens_at: number(5)?,
        closes_at: number(6)?,
        retain_ms: number(7)?,
        backlog: number(8)?,
        events: match record[8].bytes()? {
            b"ORDERS" => Events::Orders,
            b"ALL" => Events::All,
            b"NONE" => Events::None,
            other => bail!("EVENTS is {}", other.escape_ascii()),
        },
    };
    let mut kept = KeptSale {
        settings,
        shard: Shard { index: u32::try_from(number(10)?)?, count: u32::try_from(number(11)?)? },
        paused: record[11] == Packed::True,
        closed: record[12] == Packed::True,
        clock_ms: number(14)?,
        entry_no: number(15)?,
        stream_floor_ms: number(16)?,
        orders: number(20)?,
        skus: Vec::new(),
        allocations: Vec::new(),
        transfers: Vec::new(),
    };
    let (live_holds, buyers) = (number(19)?, number(21)?);
    let mut counted = Counted {
        live_holds,
        buyers,
        ended: number(25)?,
        tombstones: number(26)?,
        skus: Vec::with_capacity(names.len()),
    };
    let mut indexes = Indexes::new();
    for name in names {
        let record = by_name.get(&[b"sku:", &name[..]].concat()[..]).context("a SKU without a record")?;
        let (sku, counters) = sku(&name, record).with_context(|| format!("SKU {}", name.escape_ascii()))?;
        indexes.insert(name, u16::try_from(kept.skus.len())?);
        kept.skus.push(sku);
        counted.skus.push(counters);
    }
    let mut transfers: BTreeMap<(u16, u32), KeptTransfer> = BTreeMap::new();
    for (field, value) in fields {
        if let Some(id) = field.strip_prefix(b"alloc:") {
            let record = Packed::read(value)?;
            let [name, delta] = record.list()? else { bail!("an allocation of {record:?}") };
            kept.allocations.push((id.to_vec(), index_of(&indexes, name.bytes()?)?, delta.signed()?));
        } else if let Some((is_grant, other, name)) = transfer(field) {
            let key = (index_of(&indexes, name)?, other);
            let entry = KeptTransfer { sku: key.0, other, granted: 0, accepted: 0 };
            let entry = transfers.entry(key).or_insert(entry);
            let total = std::str::from_utf8(value)?.parse().context("a total of a transfer")?;
            *(if is_grant { &mut entry.granted } else { &mut entry.accepted }) = total;
        }
    }
    kept.transfers = transfers.into_values().collect();
    Ok((kept, counted, indexes))
}

/// `granted:SHARD:NAME` and `accepted:SHARD:NAME`
fn transfer(field: &[u8]) -> Option<(bool, u32, &[u8])> {
    let granted = field.strip_prefix(b"granted:");
    let rest = granted.or_else(|| field.strip_prefix(b"accepted:"))?;
    let colon = rest.iter().position(|&byte| byte == b':')?;
    let other = std::str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
    Some((granted.is_some(), other, &rest[colon + 1..]))
}

fn sku(name: &[u8], record: &[u8]) -> anyhow::Result<(KeptSku, [u64; 5])> {
    let record = Packed::read(record)?;
    let [stocked, available, held, sold, granted, accepted, limit, sold_out, version] = record.list()? else {
        bail!("its record is {record:?}");
    };
    let sku = KeptSku {
        name: name.to_vec(),
        stocked: stocked.number()?,
        limit: u32::try_from(limit.number()?)?,
        sold_out: *sold_out == Packed::True,
        version: version.number()?,
    };
    let counters = [available, held, sold, granted, accepted];
    let mut levels = [0; 5];
    for (level, counter) in levels.iter_mut().zip(counters) {
        *level = counter.number()?;
    }
    Ok((sku, levels))
}

fn index_of(indexes: &Indexes, name: &[u8]) -> anyhow::Result<u16> {
    indexes.get(name).copied().with_context(|| format!("SKU {} is not in the list of SKUs", name.escape_ascii()))
}

/// Reads all holds, page by page. Those that have ended are taken last, in the order in which they ended: it is the
/// order in which they will be forgotten.
async fn read_holds(
    source: &Deployment,
    place: Place<'_>,
    key: &[u8],
    indexes: &Indexes,
    import: &mut Import,
) -> anyhow::Result<usize> {
    let mut ended: Vec<(u64, Vec<u8>, Vec<u8>)> = Vec::new();
    let mut seen = HashSet::new();
    let mut cursor = b"0".to_vec();
    loop {
        let mut scan = command("HSCAN", &[key, &cursor]);
        let Value::Array(page) = source.ask(place, scan.arg("COUNT").arg(PAGE)).await? else {
            bail!("HSCAN answers no page");
        };
        let [next, holds] = <[Value; 2]>::try_from(page).ok().context("HSCAN answers no page")?;
        for (id, packed) in pairs_of(holds)? {
            // A page may have what an earlier one had.
            if !seen.insert(id.clone()) {
                continue;
            }
            let record = Packed::read(&packed).with_context(|| format!("hold {}", id.escape_ascii()))?;
            let kept = hold(&id, &record, indexes).with_context(|| format!("hold {}", id.escape_ascii()))?;
            if matches!(kept.state, KeptState::Held | KeptState::Confirmed) {
                import.push(&kept).with_context(|| format!("hold {}", id.escape_ascii()))?;
            } else {
                ended.push((kept.time_ms, id, packed));
            }
        }
        cursor = bytes(next).context("HSCAN answers no cursor")?;
        if cursor == b"0" {
            break;
        }
    }
    ended.sort_unstable();
    for (_, id, packed) in ended {
        let record = Packed::read(&packed)?;
        import.push(&hold(&id, &record, indexes)?).with_context(|| format!("hold {}", id.escape_ascii()))?;
    }
    Ok(seen.len())
}

fn hold<'a>(id: &'a [u8], record: &Packed<'a>, indexes: &Indexes) -> anyhow::Result<KeptHold<'a>> {
    let [_, state, buyer, time, life, items, order_no, reference, meta, requested, confirmed_from, returns] =
        record.list()?
    else {
        bail!("its record is {record:?}");
    };
    let optional = |packed: &Packed<'a>| packed.present().map(Packed::bytes).transpose();
    let list = |packed: &Packed<'a>| packed.present().map(|packed| kept_items(packed, indexes)).transpose();
    let mut kept = KeptHold {
        id,
        buyer: buyer.bytes()?,
        state: match state.bytes()? {
            b"held" => KeptState::Held,
            b"confirmed" => KeptState::Confirmed,
            b"returned" => KeptState::Returned,
            b"released" => KeptState::Released,
            b"expired" => KeptState::Expired,
            b"tombstone" => KeptState::Tombstone,
            other => bail!("its state is {}", other.escape_ascii()),
        },
        items: kept_items(items, indexes)?,
        time_ms: time.number()?,
        life_ms: life.number()?,
        order_no: order_no.number()?,
        reference: optional(reference)?,
        meta: optional(meta)?,
        requested: list(requested)?,
        confirmed_from: list(confirmed_from)?,
        returns: Vec::new(),
    };
    let returns = returns.present().map(Packed::list).transpose()?.unwrap_or_default();
    for refund in returns.chunks(2) {
        let [id, items] = refund else { bail!("a refund without items") };
        kept.returns.push((id.bytes()?, kept_items(items, indexes)?));
    }
    Ok(kept)
}

/// SKUs and units in turn.
fn kept_items(packed: &Packed<'_>, indexes: &Indexes) -> anyhow::Result<KeptItems> {
    let item = |pair: &[Packed<'_>]| {
        let [name, qty] = pair else { bail!("a SKU without units") };
        Ok((index_of(indexes, name.bytes()?)?, u32::try_from(qty.number()?)?))
    };
    packed.list()?.chunks(2).map(item).collect()
}

/// A command of words that may be any bytes.
pub fn command(name: &str, words: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd(name);
    words.iter().for_each(|word| {
        command.arg(*word);
    });
    command
}

pub fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

pub fn list_of(value: Value) -> anyhow::Result<Vec<Vec<u8>>> {
    let Value::Array(list) = value else { bail!("a list is expected and not {value:?}") };
    list.into_iter().map(|item| bytes(item).context("a string is expected")).collect()
}

pub fn pairs_of(value: Value) -> anyhow::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let pairs = crate::store::answer::pairs(value)?;
    pairs
        .into_iter()
        .map(|(name, value)| bytes(name).zip(bytes(value)).context("pairs of strings are expected"))
        .collect()
}
