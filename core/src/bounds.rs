//! What a sale accepts: every bound on a value that a stranger may send.

/// Longest id, buyer or SKU in bytes (the contract's section 4).
pub const MAX_NAME_BYTES: usize = 128;
/// Longest META in bytes.
pub const MAX_META_BYTES: usize = 1024;
/// Longest REF and REASON in bytes.
pub const MAX_REF_BYTES: usize = 256;
/// Largest quantity in units (the contract's section 4).
pub const MAX_QUANTITY: u32 = i32::MAX as u32;
/// Most SKUs in one hold.
pub const MAX_ITEMS: usize = 64;
/// Most SKUs in one sale: an index of 16 bits names them in a hold.
pub const MAX_SKUS: usize = u16::MAX as usize;
/// Most shards of a sale: the slots of a Redis Cluster.
pub const MAX_SHARDS: u32 = 16_384;
/// Longest life of a hold in milliseconds (24.8 days).
pub const MAX_HOLD_MS: u64 = i32::MAX as u64;
/// Longest retention of ended ids in milliseconds (ten years).
pub const MAX_RETAIN_MS: u64 = 315_360_000_000;
/// Latest point in time, in unix milliseconds (the year 5138): what a hold keeps in 47 bits.
pub const MAX_TIME_MS: u64 = 100_000_000_000_000;
/// Most units that one SKU may be stocked with, over all STOCK commands, and again over all ACCEPT commands.
pub const MAX_STOCKED: u64 = 1 << 52;
/// Most ids remembered by RELEASE before RESERVE; the oldest are forgotten first.
pub const MAX_TOMBSTONES: usize = 65_536;
/// Ended ids that a sale remembers at least, whatever its stock.
pub const MIN_ENDED: usize = 65_536;
/// Most refunds of one order: each return id is remembered for as long as its order.
pub const MAX_RETURNS: usize = 1_024;
