//! A sale that another implementation of the contract has kept, taken over whole.
//!
//! [`Import`] is told what was kept: first the sale, then every hold, order and remembered id. It is taken in as a
//! snapshot is, by the same checks: data that contradict themselves are refused.

use crate::effect::IndexedItems;
use crate::holds::{Content, State};
use crate::intake::{Intake, add_item, add_refund};
use crate::sale::{Extra, Sale, Settings, Shard, Sku, Transfer};
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
    intake: Intake,
}

impl Import {
    /// Starts with the sale. `seed` as in [`Sale::new`].
    ///
    /// # Errors
    /// A value is out of range, or two contradict each other.
    pub fn new(kept: &KeptSale, seed: [u64; 2]) -> Result<Self, Malformed> {
        let mut sale = Sale::new(kept.settings, kept.shard, seed);
        (sale.paused, sale.closed) = (kept.paused, kept.closed);
        (sale.clock_ms, sale.stream_floor_ms) = (kept.clock_ms, kept.stream_floor_ms);
        (sale.entry_no, sale.orders) = (kept.entry_no, kept.orders);
        let mut intake = Intake::of(sale)?;
        for KeptSku { name, stocked, limit, sold_out, version } in kept.skus.iter().cloned() {
            intake.add_sku(Sku { stocked, limit, sold_out, version, ..Sku::new(&name) })?;
        }
        for (id, sku, delta) in &kept.allocations {
            intake.add_allocation(id, *sku, *delta)?;
        }
        for &KeptTransfer { sku, other, granted, accepted } in &kept.transfers {
            intake.add_transfer(sku, other, Transfer { granted, accepted })?;
        }
        Ok(Self { intake })
    }

    /// Takes the next hold. Those that have ended come in the order in which they ended.
    ///
    /// # Errors
    /// It is malformed.
    pub fn push(&mut self, kept: &KeptHold<'_>) -> Result<(), Malformed> {
        let state = match kept.state {
            KeptState::Held => State::Held,
            KeptState::Confirmed => State::Confirmed,
            KeptState::Returned => State::Returned,
            KeptState::Released => State::Released,
            KeptState::Expired => State::Expired,
            KeptState::Tombstone => return self.intake.add_tombstone(kept.id, kept.time_ms),
        };
        let content = Content {
            id: kept.id,
            buyer: kept.buyer,
            items: items(&kept.items)?,
            meta: kept.meta,
            reference: kept.reference,
        };
        self.intake.add_hold(&content, state, (kept.time_ms, kept.life_ms), kept.order_no, extra(kept)?)
    }

    /// The sale, with everything counted.
    ///
    /// # Errors
    /// More units are held, sold or granted than there are, or an id has come twice.
    pub fn finish(self) -> Result<Sale, Malformed> {
        self.intake.finish()
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

fn items(kept: &KeptItems) -> Result<IndexedItems, Malformed> {
    let mut items = IndexedItems::new();
    kept.iter().try_for_each(|&(sku, qty)| add_item(&mut items, sku, qty))?;
    Ok(items)
}

fn extra(kept: &KeptHold<'_>) -> Result<Option<Extra>, Malformed> {
    let list = |list: &Option<KeptItems>| -> Result<_, Malformed> {
        let list = list.as_ref().map(items).transpose()?;
        Ok(list.map(|items| items.as_slice().into()))
    };
    let order_no = if kept.state == KeptState::Returned { kept.order_no } else { 0 };
    let (requested, confirmed_from) = (list(&kept.requested)?, list(&kept.confirmed_from)?);
    let mut extra = Extra { requested, confirmed_from, order_no, returns: Vec::new() };
    for (id, list) in &kept.returns {
        add_refund(&mut extra, id, items(list)?)?;
    }
    Ok((extra != Extra::default()).then_some(extra))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Loader;

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
        let settings = Settings { retain_ms: u64::MAX, ..Settings::default() };
        assert!(Import::new(&KeptSale { settings, ..sale() }, [1, 2]).is_err());
        assert!(Import::new(&KeptSale { clock_ms: u64::MAX, ..sale() }, [1, 2]).is_err());
        let mut import = Import::new(&sale(), [1, 2]).unwrap();
        for id in [&b""[..], &[b'x'; 129]] {
            assert!(import.push(&KeptHold { id, ..hold(b"h", KeptState::Expired) }).is_err());
        }
        for life_ms in [1_200_001, u64::MAX] {
            assert!(import.push(&KeptHold { life_ms, ..hold(b"h", KeptState::Held) }).is_err());
        }
    }
}
