//! A sale that another implementation of the contract has kept, taken over whole.
//!
//! [`Import`] is told what was kept: first the sale, then every hold, order and remembered id. What follows from
//! those (levels, limits, deadlines by SKU, counters) is counted anew, as when a snapshot is loaded, and by the same
//! checks: data that contradict themselves are refused.

use crate::bounds;
use crate::holds::{Content, State};
use crate::sale::{Extra, Refund, Sale, Settings, Shard, Sku, Transfer};
use crate::snapshot::Loader;
use crate::wire::Malformed;

/// The sale itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSale {
    /// What CREATE and ALTER have set.
    pub settings: Settings,
    /// Which part of the sale it is.
    pub shard: Shard,
    /// PAUSE was the latest of PAUSE and RESUME.
    pub paused: bool,
    /// CLOSE was called.
    pub closed: bool,
    /// Time of the latest change, unix ms.
    pub clock_ms: u64,
    /// Number of the latest entry of the order stream.
    pub entry_no: u64,
    /// The least time part of the ids of entries to come, unix ms.
    pub stream_floor_ms: u64,
    /// Orders ever confirmed.
    pub orders: u64,
    /// SKUs in the order in which they were first stocked; they are named by their place in it.
    pub skus: Vec<KeptSku>,
    /// STOCK ids that have been counted, with SKU and delta.
    pub allocations: Vec<(Vec<u8>, u16, i64)>,
    /// What was moved between shards.
    pub transfers: Vec<KeptTransfer>,
}

/// One SKU, without what follows from holds and transfers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSku {
    /// Its name.
    pub name: Vec<u8>,
    /// Units added less units withdrawn.
    pub stocked: u64,
    /// Units a buyer may have; 0 = no limit.
    pub limit: u32,
    /// Whether subscribers were last told that it is sold out.
    pub sold_out: bool,
    /// The version of that message.
    pub version: u64,
}

/// Units that have left for another shard and come from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptTransfer {
    /// Which SKU.
    pub sku: u16,
    /// The other shard.
    pub other: u32,
    /// All units ever granted to it.
    pub granted: u64,
    /// Its total that was last accepted.
    pub accepted: u64,
}

/// Where a hold stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptState {
    /// Live.
    Held,
    /// An order.
    Confirmed,
    /// An order of which nothing is left.
    Returned,
    /// Freed before its deadline.
    Released,
    /// Ended at its deadline.
    Expired,
    /// An id that RELEASE met before RESERVE.
    Tombstone,
}

/// SKUs and units.
pub type KeptItems = Vec<(u16, u32)>;

/// One hold, order, or remembered id. Of a tombstone only id and time count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptHold<'a> {
    /// Its id.
    pub id: &'a [u8],
    /// For whom.
    pub buyer: &'a [u8],
    /// Where it stands.
    pub state: KeptState,
    /// What it has or had.
    pub items: KeptItems,
    /// The deadline; of what was released or wholly returned, when that happened; unix ms.
    pub time_ms: u64,
    /// From its beginning to its deadline.
    pub life_ms: u64,
    /// The order's number; 0 if it is none.
    pub order_no: u64,
    /// The shop's reference.
    pub reference: Option<&'a [u8]>,
    /// The caller's text.
    pub meta: Option<&'a [u8]>,
    /// The items first asked for, where UPTO took fewer.
    pub requested: Option<KeptItems>,
    /// The items of the hold, where CONFIRM took fewer.
    pub confirmed_from: Option<KeptItems>,
    /// Refunds in the order in which they came, with their ids.
    pub returns: Vec<(&'a [u8], KeptItems)>,
}

/// Takes a sale over, hold by hold.
#[derive(Debug)]
pub struct Import {
    loader: Loader,
}

impl Import {
    /// Starts with the sale. `seed` as in [`Sale::new`].
    ///
    /// # Errors
    /// A value is out of range, or two contradict each other.
    pub fn new(kept: &KeptSale, seed: [u64; 2]) -> Result<Self, Malformed> {
        kept.settings.check().map_err(|_| Malformed("the settings contradict each other"))?;
        if kept.shard.index >= kept.shard.count || kept.shard.count > bounds::MAX_SHARDS {
            return Err(Malformed("the shard is not one of the sale's"));
        }
        let mut sale = Sale::new(kept.settings, kept.shard, seed);
        (sale.paused, sale.closed) = (kept.paused, kept.closed);
        sale.clock_ms = within(kept.clock_ms, bounds::MAX_TIME_MS, "the clock is out of range")?;
        sale.entry_no = within(kept.entry_no, bounds::MAX_STOCKED, "the entry number is out of range")?;
        sale.stream_floor_ms = within(kept.stream_floor_ms, bounds::MAX_TIME_MS * 2, "a time is out of range")?;
        sale.orders = within(kept.orders, bounds::MAX_STOCKED, "the number of orders is out of range")?;
        for sku in &kept.skus {
            add_sku(&mut sale, sku)?;
        }
        for (id, sku, delta) in &kept.allocations {
            sale.allocations.insert(name(id)?.into(), (known_sku(&sale, *sku)?, *delta));
        }
        for transfer in &kept.transfers {
            add_transfer(&mut sale, transfer)?;
        }
        Ok(Self { loader: Loader::of(sale) })
    }

    /// Takes the next hold. Those that have ended come in the order in which they ended.
    ///
    /// # Errors
    /// It is malformed.
    pub fn push(&mut self, kept: &KeptHold<'_>) -> Result<(), Malformed> {
        let sale = self.loader.sale();
        let id = name(kept.id)?;
        let latest_ms = bounds::MAX_TIME_MS + bounds::MAX_HOLD_MS;
        let time_ms = within(kept.time_ms, latest_ms, "a time is out of range")?;
        let state = match kept.state {
            KeptState::Held => State::Held,
            KeptState::Confirmed => State::Confirmed,
            KeptState::Returned => State::Returned,
            KeptState::Released => State::Released,
            KeptState::Expired => State::Expired,
            KeptState::Tombstone => return self.loader.store_tombstone(id, time_ms),
        };
        if kept.items.is_empty() {
            return Err(Malformed("a hold of nothing"));
        }
        let content = Content {
            id,
            buyer: name(kept.buyer)?,
            items: (&*items(sale, &kept.items)?).into(),
            meta: text(kept.meta, bounds::MAX_META_BYTES)?,
            reference: text(kept.reference, bounds::MAX_REF_BYTES)?,
        };
        let life_ms = within(kept.life_ms, bounds::MAX_HOLD_MS.min(time_ms), "a life is out of range")? as u32;
        let extra = extra(sale, kept)?;
        self.loader.store(content, state, (time_ms, life_ms), kept.order_no, extra)
    }

    /// The sale, with everything counted.
    ///
    /// # Errors
    /// More units are held, sold or granted than there are, or an id has come twice.
    pub fn finish(mut self) -> Result<Sale, Malformed> {
        self.loader.push(&[])?;
        self.loader.finish()
    }
}

/// Counters as they follow from the holds. What is due and was not swept counts as held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Live holds.
    pub live_holds: u64,
    /// Buyers with anything held or bought.
    pub buyers: u64,
    /// Ended ids that are remembered.
    pub ended: u64,
    /// Ids that RELEASE met before RESERVE.
    pub tombstones: u64,
    /// Of each SKU, in the order in which they were first stocked: available, held, sold, granted, accepted.
    pub skus: Vec<[u64; 5]>,
}

impl Sale {
    /// Every counter, to be compared with those that another implementation has kept.
    pub fn counted(&self) -> Counted {
        Counted {
            live_holds: self.live_holds,
            buyers: self.buyers.len() as u64,
            ended: self.ended.len() as u64,
            tombstones: self.tombstones.len() as u64,
            skus: self.skus.iter().map(|sku| [sku.available, sku.held, sku.sold, sku.granted, sku.accepted]).collect(),
        }
    }
}

fn within(number: u64, max: u64, what: &'static str) -> Result<u64, Malformed> {
    if number <= max { Ok(number) } else { Err(Malformed(what)) }
}

fn name(name: &[u8]) -> Result<&[u8], Malformed> {
    let fits = (1..=bounds::MAX_NAME_BYTES).contains(&name.len());
    if fits { Ok(name) } else { Err(Malformed("a name is not 1..128 bytes long")) }
}

fn text(text: Option<&[u8]>, max: usize) -> Result<Option<&[u8]>, Malformed> {
    if text.is_some_and(|text| text.len() > max) { Err(Malformed("a text is too long")) } else { Ok(text) }
}

fn known_sku(sale: &Sale, sku: u16) -> Result<u16, Malformed> {
    if usize::from(sku) < sale.skus.len() { Ok(sku) } else { Err(Malformed("an unknown SKU")) }
}

/// Distinct SKUs that are there, each with at least one unit.
fn items(sale: &Sale, items: &KeptItems) -> Result<Box<[(u16, u32)]>, Malformed> {
    for (at, &(sku, qty)) in items.iter().enumerate() {
        known_sku(sale, sku)?;
        if qty == 0 || qty > bounds::MAX_QUANTITY || items[..at].iter().any(|&(other, _)| other == sku) {
            return Err(Malformed("items are not distinct SKUs with units"));
        }
    }
    if items.len() > bounds::MAX_ITEMS {
        return Err(Malformed("too many items"));
    }
    Ok(items.as_slice().into())
}

fn extra(sale: &Sale, kept: &KeptHold<'_>) -> Result<Option<Extra>, Malformed> {
    let list = |list: &Option<KeptItems>| list.as_ref().map(|list| items(sale, list)).transpose();
    let refund = |(id, list): &(&[u8], KeptItems)| Ok(Refund { id: name(id)?.into(), items: items(sale, list)? });
    if kept.returns.len() > bounds::MAX_RETURNS {
        return Err(Malformed("too many refunds"));
    }
    let extra = Extra {
        requested: list(&kept.requested)?,
        confirmed_from: list(&kept.confirmed_from)?,
        order_no: if kept.state == KeptState::Returned { kept.order_no } else { 0 },
        returns: kept.returns.iter().map(refund).collect::<Result<_, _>>()?,
    };
    Ok((extra != Extra::default()).then_some(extra))
}

fn add_sku(sale: &mut Sale, kept: &KeptSku) -> Result<(), Malformed> {
    if sale.skus.len() >= bounds::MAX_SKUS {
        return Err(Malformed("too many SKUs"));
    } else if sale.skus.find(name(&kept.name)?).is_some() {
        return Err(Malformed("a SKU stands there twice"));
    } else if kept.limit > bounds::MAX_QUANTITY {
        return Err(Malformed("a limit is out of range"));
    }
    let mut sku = Sku::new(&kept.name);
    sku.stocked = within(kept.stocked, bounds::MAX_STOCKED * 2, "stock is out of range")?;
    (sku.limit, sku.sold_out, sku.version) = (kept.limit, kept.sold_out, kept.version);
    sale.units = sale.units.saturating_add(sku.stocked);
    sale.skus.push(sku);
    Ok(())
}

fn add_transfer(sale: &mut Sale, kept: &KeptTransfer) -> Result<(), Malformed> {
    let sku = known_sku(sale, kept.sku)?;
    if kept.other >= sale.shard.count || kept.other == sale.shard.index {
        return Err(Malformed("a transfer with no other shard"));
    }
    let granted = within(kept.granted, bounds::MAX_STOCKED, "a transfer is out of range")?;
    let accepted = within(kept.accepted, bounds::MAX_STOCKED, "a transfer is out of range")?;
    if sale.transfers.insert((sku, kept.other), Transfer { granted, accepted }).is_some() {
        return Err(Malformed("a transfer stands there twice"));
    }
    let counters = sale.skus.get_mut(sku);
    counters.granted = counters.granted.saturating_add(granted);
    counters.accepted = counters.accepted.saturating_add(accepted);
    if counters.accepted > bounds::MAX_STOCKED {
        return Err(Malformed("more was accepted than there can be"));
    }
    sale.units = sale.units.saturating_add(accepted);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sale() -> KeptSale {
        let sku = |name: &[u8]| KeptSku { name: name.to_vec(), stocked: 10, limit: 0, sold_out: false, version: 0 };
        KeptSale {
            settings: Settings::default(),
            shard: Shard::default(),
            paused: false,
            closed: false,
            clock_ms: 1_000_000,
            entry_no: 7,
            stream_floor_ms: 0,
            orders: 1,
            skus: vec![sku(b"red"), sku(b"blue")],
            allocations: vec![(b"pallet".to_vec(), 1, 10)],
            transfers: Vec::new(),
        }
    }

    fn hold(id: &'static [u8], state: KeptState) -> KeptHold<'static> {
        KeptHold {
            id,
            buyer: b"ann",
            state,
            items: vec![(1, 3)],
            time_ms: 1_200_000,
            life_ms: 300_000,
            order_no: 0,
            reference: None,
            meta: None,
            requested: None,
            confirmed_from: None,
            returns: Vec::new(),
        }
    }

    #[test]
    fn levels_are_counted_anew_and_a_snapshot_carries_them() {
        let mut import = Import::new(&sale(), [1, 2]).unwrap();
        import.push(&hold(b"live", KeptState::Held)).unwrap();
        let returns = vec![(&b"r1"[..], vec![(1, 1)])];
        import.push(&KeptHold { order_no: 7, returns, ..hold(b"order", KeptState::Confirmed) }).unwrap();
        import.push(&hold(b"gone", KeptState::Expired)).unwrap();
        import.push(&hold(b"never", KeptState::Tombstone)).unwrap();
        let sale = import.finish().unwrap();
        assert_eq!(sale.audit(), Vec::<String>::new());
        let blue = sale.sku_views(1_000_000).nth(1).unwrap();
        assert_eq!((blue.available, blue.held, blue.sold), (5, 3, 2));
        let mut loader: Option<Loader> = None;
        sale.snapshot(|chunk| match &mut loader {
            None => loader = Some(Loader::new(chunk, [3, 4]).unwrap()),
            Some(loader) => loader.push(chunk).unwrap(),
        });
        let loaded = loader.unwrap().finish().unwrap();
        assert_eq!(loaded.view(1_000_000), sale.view(1_000_000));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let mut import = Import::new(&sale(), [1, 2]).unwrap();
        import.push(&hold(b"h", KeptState::Held)).unwrap();
        assert!(import.push(&KeptHold { items: vec![(2, 1)], ..hold(b"i", KeptState::Held) }).is_err());
        assert!(import.push(&KeptHold { order_no: 8, ..hold(b"o", KeptState::Confirmed) }).is_err());
        import.push(&KeptHold { items: vec![(1, 8)], ..hold(b"many", KeptState::Held) }).unwrap();
        assert!(import.finish().is_err(), "more is held than there is");
        let mut import = Import::new(&sale(), [1, 2]).unwrap();
        import.push(&hold(b"h", KeptState::Held)).unwrap();
        import.push(&hold(b"h", KeptState::Held)).unwrap();
        assert!(import.finish().is_err(), "the same id");
        let transfers = vec![KeptTransfer { sku: 0, other: 0, granted: 1, accepted: 0 }];
        assert!(Import::new(&KeptSale { transfers, ..sale() }, [1, 2]).is_err());
    }
}
