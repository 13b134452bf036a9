//! What can be asked of a sale. Names and meaning are those of the contract's section 4.
//!
//! Values borrow from the caller's arguments. They are already within [`crate::bounds`]: the parser in
//! [`crate::protocol`] is the only place where words become commands.

use crate::sale::Settings;
use std::ops::{Deref, DerefMut};

/// A number of units of one SKU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// The stock keeping unit's name.
    pub sku: &'a [u8],
    /// How many units, 1..2^31-1.
    pub qty: u32,
}

/// Items of one hold; every SKU stands there once, in the order first named. Most holds have one: it needs
/// no memory of its own.
#[derive(Clone, Debug)]
pub enum Items<'a> {
    /// One SKU.
    One([Item<'a>; 1]),
    /// None, or several.
    Many(Vec<Item<'a>>),
}

impl<'a> Items<'a> {
    /// No items.
    pub fn new() -> Self {
        Self::Many(Vec::new())
    }

    /// Adds an item of a SKU that is not there yet.
    pub fn push(&mut self, item: Item<'a>) {
        match self {
            Self::One([first]) => *self = Self::Many(vec![*first, item]),
            Self::Many(items) if items.is_empty() => *self = Self::One([item]),
            Self::Many(items) => items.push(item),
        }
    }
}

impl Default for Items<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Deref for Items<'a> {
    type Target = [Item<'a>];

    fn deref(&self) -> &Self::Target {
        match self {
            Self::One(item) => item,
            Self::Many(items) => items,
        }
    }
}

impl DerefMut for Items<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::One(item) => item,
            Self::Many(items) => items,
        }
    }
}

impl<'a> FromIterator<Item<'a>> for Items<'a> {
    fn from_iter<I: IntoIterator<Item = Item<'a>>>(items: I) -> Self {
        let mut all = Self::new();
        items.into_iter().for_each(|item| all.push(item));
        all
    }
}

impl PartialEq for Items<'_> {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for Items<'_> {}

/// A request to a sale that exists.
#[derive(Clone, Debug)]
pub enum Command<'a> {
    /// Changes settings; `None` fields of [`Change`] stay.
    Alter(Change),
    /// Adds or withdraws units.
    Stock(Stock<'a>),
    /// Sets units aside for a buyer.
    Reserve(Reserve<'a>),
    /// Reserves and confirms in one step.
    Order(Order<'a>),
    /// Turns a hold into an order.
    Confirm(Confirm<'a>),
    /// Frees a hold.
    Release(Release<'a>),
    /// Moves the deadline of a hold to now + `ms`.
    Extend {
        /// The hold.
        id: &'a [u8],
        /// Milliseconds from now.
        ms: u64,
    },
    /// Takes units of an order back into stock.
    Return(Return<'a>),
    /// Stops reserving for a while.
    Pause,
    /// Ends a pause.
    Resume,
    /// Stops reserving for good.
    Close,
    /// Debits units that another shard may then take.
    Grant(Grant<'a>),
    /// Credits units that another shard has granted.
    Accept(Accept<'a>),
}

/// The options of CREATE and ALTER that were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Units a buyer may have held + sold in the sale; 0 = no limit.
    pub limit: Option<u32>,
    /// Default life of a hold in ms.
    pub hold_ms: Option<u64>,
    /// Longest total life of a hold in ms.
    pub maxhold_ms: Option<u64>,
    /// When reserving starts, unix ms; 0 = at once.
    pub opens_at: Option<u64>,
    /// When reserving ends, unix ms; 0 = never.
    pub closes_at: Option<u64>,
    /// How long ended hold ids are remembered in ms.
    pub retain_ms: Option<u64>,
    /// Length of the order stream at which reserving stops.
    pub backlog: Option<u64>,
    /// What the order stream holds.
    pub events: Option<crate::sale::Events>,
}

impl Change {
    /// The settings that `base` becomes, or what makes them contradict each other.
    pub fn onto(&self, base: &Settings) -> Result<Settings, crate::outcome::Misuse> {
        let settings = Settings {
            limit: self.limit.unwrap_or(base.limit),
            hold_ms: self.hold_ms.unwrap_or(base.hold_ms),
            maxhold_ms: self.maxhold_ms.unwrap_or(base.maxhold_ms),
            opens_at: self.opens_at.unwrap_or(base.opens_at),
            closes_at: self.closes_at.unwrap_or(base.closes_at),
            retain_ms: self.retain_ms.unwrap_or(base.retain_ms),
            backlog: self.backlog.unwrap_or(base.backlog),
            events: self.events.unwrap_or(base.events),
        };
        settings.check()?;
        Ok(settings)
    }
}

/// FLASH.STOCK.
#[derive(Clone, Copy, Debug)]
pub struct Stock<'a> {
    /// Which SKU; made if it is unknown and `delta >= 0`.
    pub sku: &'a [u8],
    /// Units to add, or to withdraw when negative.
    pub delta: i64,
    /// Makes a repeat harmless: the same id counts once.
    pub alloc_id: Option<&'a [u8]>,
    /// Units of this SKU that a buyer may have held + sold; 0 = no limit.
    pub limit: Option<u32>,
}

/// FLASH.RESERVE, and each hold of FLASH.MRESERVE.
#[derive(Clone, Debug)]
pub struct Reserve<'a> {
    /// The hold's id; `None` where the client wants one made (`*`).
    pub id: Option<&'a [u8]>,
    /// For whom.
    pub buyer: &'a [u8],
    /// Life of the hold in ms; the sale's HOLD if `None`.
    pub ttl_ms: Option<u64>,
    /// Take as many as there are instead of all or none.
    pub up_to: bool,
    /// Answer a repeat with a status of its own.
    pub tell_repeated: bool,
    /// The buyer's own older hold, freed in the same step.
    pub replace: Option<&'a [u8]>,
    /// The request is refused after this time, unix ms.
    pub not_after: Option<u64>,
    /// The caller's text, kept with the hold.
    pub meta: Option<&'a [u8]>,
    /// What to set aside.
    pub items: Items<'a>,
}

/// FLASH.ORDER.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// The hold's id; `None` where the client wants one made (`*`).
    pub id: Option<&'a [u8]>,
    /// For whom.
    pub buyer: &'a [u8],
    /// The shop's reference, e.g. of the payment.
    pub reference: Option<&'a [u8]>,
    /// The caller's text, kept with the order.
    pub meta: Option<&'a [u8]>,
    /// What is bought.
    pub items: Items<'a>,
}

/// FLASH.CONFIRM.
#[derive(Clone, Debug)]
pub struct Confirm<'a> {
    /// Which hold.
    pub id: &'a [u8],
    /// The shop's reference, e.g. of the payment.
    pub reference: Option<&'a [u8]>,
    /// The caller's text, in the place of the one that came with the hold.
    pub meta: Option<&'a [u8]>,
    /// Take the units of an expired hold again if they are there.
    pub late: bool,
    /// Only these; the rest is freed. Empty: all.
    pub items: Items<'a>,
}

/// FLASH.RELEASE.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// Which hold.
    pub id: &'a [u8],
    /// Why, for the order stream.
    pub reason: Option<&'a [u8]>,
}

/// FLASH.RETURN.
#[derive(Clone, Debug)]
pub struct Return<'a> {
    /// Which order.
    pub id: &'a [u8],
    /// Makes a repeat harmless: the same return id counts once.
    pub return_id: &'a [u8],
    /// What comes back. Empty: all that is left.
    pub items: Items<'a>,
}

/// FLASH.GRANT.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    /// Which SKU.
    pub sku: &'a [u8],
    /// The most units to debit.
    pub qty: u32,
    /// The receiving shard.
    pub to: u32,
    /// Act only if the total granted to that shard still is this.
    pub after: Option<u64>,
}

/// FLASH.ACCEPT.
#[derive(Clone, Copy, Debug)]
pub struct Accept<'a> {
    /// Which SKU.
    pub sku: &'a [u8],
    /// The granting shard.
    pub from: u32,
    /// All that the granting shard has ever granted to this one.
    pub total: u64,
}
