//! How a command ends. Every outcome has a name; [`crate::protocol`] says how it looks on the wire.

use crate::sale::Shard;
use std::borrow::Cow;

/// An argument that differs from the first time an id was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Another buyer.
    Buyer,
    /// Other items.
    Items,
    /// Another REF.
    Ref,
    /// Another delta.
    Delta,
}

/// A number of units of one SKU, with a name that outlives the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The SKU's name.
    pub sku: Box<[u8]>,
    /// Units.
    pub qty: u32,
}

/// The value that a command answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Done.
    Ok,
    /// The SKU's counters after STOCK.
    Stocked {
        /// Units free to be reserved.
        available: u64,
        /// Units set aside in holds.
        held: u64,
        /// Units in orders.
        sold: u64,
    },
    /// STOCK would withdraw more than is available.
    BelowHeld {
        /// Units free to be withdrawn.
        available: u64,
    },
    /// Units are set aside.
    Reserved {
        /// The hold.
        id: Cow<'a, [u8]>,
        /// Until when, unix ms.
        deadline: u64,
        /// With UPTO: what was taken.
        taken: Option<Box<[Taken]>>,
        /// They were before, and the client wants to be told so.
        repeated: bool,
    },
    /// The hold is an order.
    Confirmed {
        /// The hold's id.
        id: Cow<'a, [u8]>,
        /// The order's number in its shard's stream.
        order_no: u64,
    },
    /// The hold is released.
    Released,
    /// The hold has expired.
    Expired,
    /// The deadline has moved.
    Extended {
        /// The hold.
        id: Cow<'a, [u8]>,
        /// Until when, unix ms.
        deadline: u64,
    },
    /// The units are back in stock.
    Returned,
    /// No such hold, or no such order.
    NotFound,
    /// The id was used before with other arguments.
    Mismatch(Field),
    /// GRANT.
    Granted {
        /// All ever granted to that shard.
        total: u64,
        /// Units left here.
        available: u64,
    },
    /// ACCEPT.
    Accepted {
        /// Units credited by this call.
        taken: u64,
        /// Units now here.
        available: u64,
    },
    /// The buyer lives in another shard.
    WrongShard(Shard),
    /// Reserving starts later.
    NotOpen {
        /// When, unix ms.
        opens_at: u64,
    },
    /// Reserving is stopped for a while.
    Paused,
    /// Reserving is over.
    Closed,
    /// The request waited longer than its NOTAFTER.
    TooLate,
    /// The order stream is longer than BACKLOG.
    Backlog,
    /// The sale has no such SKU.
    NoSku {
        /// The name asked for.
        sku: Cow<'a, [u8]>,
    },
    /// The buyer would exceed a limit.
    Limit {
        /// The limited SKU; empty for the sale's own limit.
        sku: Cow<'a, [u8]>,
        /// Units that the buyer may still have.
        left: u64,
    },
    /// Too few units, and none to be hoped for: nothing is held or in transit.
    SoldOut {
        /// Which SKU.
        sku: Cow<'a, [u8]>,
    },
    /// Too few units are available, but holds may still free some.
    AllHeld {
        /// Which SKU.
        sku: Cow<'a, [u8]>,
        /// The earliest deadline of a hold of that SKU, unix ms.
        next_ms: u64,
    },
    /// Too few units in this shard; others may have some.
    Empty {
        /// Which SKU.
        sku: Cow<'a, [u8]>,
    },
}

impl Outcome<'_> {
    /// Whether somebody may act on it as on a write. Where the command itself changed nothing, it was an earlier one
    /// that did: the client that repeats it must be able to wait until replicas have that one (the contract's
    /// section 7).
    pub fn tells_of_a_write(&self) -> bool {
        matches!(
            self,
            Self::Ok
                | Self::Stocked { .. }
                | Self::Reserved { .. }
                | Self::Confirmed { .. }
                | Self::Released
                | Self::Expired
                | Self::Extended { .. }
                | Self::Returned
                | Self::Granted { .. }
                | Self::Accepted { .. }
        )
    }
}

/// A command that cannot be meant: answered with an error, not with an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// TTL or EXTEND outside 1..MAXHOLD of the sale.
    LifeOutOfRange {
        /// `TTL` or `ms`.
        what: &'static str,
        /// The value given.
        ms: u64,
        /// The sale's MAXHOLD.
        maxhold_ms: u64,
    },
    /// HOLD is longer than MAXHOLD.
    HoldAboveMaxHold {
        /// HOLD in ms.
        hold_ms: u64,
        /// MAXHOLD in ms.
        maxhold_ms: u64,
    },
    /// CLOSES is not later than OPENS.
    ClosesBeforeOpens {
        /// OPENS, unix ms.
        opens_at: u64,
        /// CLOSES, unix ms.
        closes_at: u64,
    },
    /// PAUSE or RESUME of a sale that was closed.
    ClosedForGood,
    /// The sale has as many SKUs as it can.
    TooManySkus,
    /// STOCK would exceed what a SKU may be stocked with.
    TooMuchStock {
        /// Units stocked so far.
        stocked: u64,
    },
    /// GRANT or ACCEPT names a shard that is not another shard of this sale.
    NotAnotherShard {
        /// The number given.
        given: u32,
        /// How many shards the sale has.
        shards: u32,
    },
    /// The order has as many returns as can be remembered.
    TooManyReturns,
    /// REPLACE names the hold that is to be made.
    ReplacesItself,
    /// The sale has as many bytes of holds as it can find again.
    SaleFull,
    /// A rate limit whose bucket would take longer to fill than time is counted.
    BucketTooBig,
}

impl std::fmt::Display for Misuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LifeOutOfRange { what, ms, maxhold_ms } => {
                write!(f, "{what} {ms} is out of range: a hold may live 1..{maxhold_ms} ms in this sale (MAXHOLD)")
            }
            Self::HoldAboveMaxHold { hold_ms, maxhold_ms } => {
                write!(f, "HOLD {hold_ms} is longer than MAXHOLD {maxhold_ms}: lower HOLD or raise MAXHOLD")
            }
            Self::ClosesBeforeOpens { opens_at, closes_at } => {
                write!(f, "CLOSES {closes_at} is not later than OPENS {opens_at}")
            }
            Self::ClosedForGood => write!(f, "the sale was closed for good: create a new one to sell again"),
            Self::TooManySkus => write!(
                f,
                "the sale has {} SKUs already, which is the most: spread them over several sales",
                crate::bounds::MAX_SKUS
            ),
            Self::TooMuchStock { stocked } => {
                write!(f, "the SKU is stocked with {stocked} units and may have at most {}", crate::bounds::MAX_STOCKED)
            }
            Self::NotAnotherShard { given, shards } => write!(
                f,
                "{given} is not another shard of this sale, which has {shards}: give 0..{} but not the key's own",
                shards.saturating_sub(1)
            ),
            Self::TooManyReturns => write!(
                f,
                "the order has {} returns already, which is the most that are remembered",
                crate::bounds::MAX_RETURNS
            ),
            Self::SaleFull => write!(
                f,
                "the sale has 14 GiB of holds and orders, which is the most: spread it over shards or over several sales"
            ),
            Self::ReplacesItself => write!(f, "REPLACE names the hold that is to be made: give the older hold's id"),
            Self::BucketTooBig => write!(
                f,
                "the burst would take thousands of years to come back at that rate: lower burst or period, or raise count"
            ),
        }
    }
}

impl std::error::Error for Misuse {}
