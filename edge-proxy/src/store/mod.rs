//! The port to the stock: what the edge asks of Redis, and what it can hear.
//!
//! [`SaleStore`] is the trait; [`redis`] speaks to Redis. [`command`] writes commands, [`answer`] and [`info`] read
//! replies, all pure. [`layout`] knows the keys of a sale, [`fleet`] the server of a key, which [`discovery`] finds
//! ([`backend`] what it speaks) and
//! [`nodes`] describes. [`link`] is one connection, [`breaker`] knows when not to use it, [`merge`] puts reservations
//! together ([`mreserve`] is how that is said), [`commit`] groups writes that must reach replicas. [`current`] is the deployment of the moment.

pub mod answer;
pub mod backend;
mod breaker;
pub mod command;
mod commit;
pub mod current;
mod discovery;
pub mod fleet;
pub mod info;
pub mod layout;
mod link;
mod merge;
mod mreserve;
pub mod nodes;
pub mod redis;
mod sum;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use answer::{Answer, HoldView, SaleView, SkuView};
pub use command::Command;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The command was not sent, or the server cannot serve: nothing has happened.
    #[error("the stock cannot be reached: {0}")]
    Down(String),
    /// The command was sent and its answer is lost: it may have happened.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// There is no such sale.
    #[error("there is no such sale")]
    NoSale,
    /// The server is out of memory: nothing has happened.
    #[error("the stock takes nothing new: {0}")]
    Full(String),
    /// The server refused the command itself: nothing has happened.
    #[error("{0}")]
    Misuse(String),
    /// A reply that this version does not understand: it may have happened.
    #[error("the stock answered something strange: {0}")]
    Nonsense(String),
}

impl StoreError {
    /// Its kind, in metrics and spans.
    pub fn word(&self) -> &'static str {
        match self {
            StoreError::Down(_) => "down",
            StoreError::Unknown(_) => "unknown",
            StoreError::NoSale => "no-sale",
            StoreError::Full(_) => "full",
            StoreError::Misuse(_) => "misuse",
            StoreError::Nonsense(_) => "nonsense",
        }
    }
}

/// An answer, with what the store knows about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    pub answer: Answer,
    /// As many replicas as configured have it.
    pub safe: bool,
}

/// What is taken from a rate bucket: `quantity` of a bucket that holds `burst` and one more and gets `count` back in
/// a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    pub burst: u64,
    pub count: u64,
    pub quantity: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttled {
    /// Nothing was taken.
    pub limited: bool,
    /// What may be taken now.
    pub remaining: u64,
}

/// Where the stock is. A sale is named by its key, one in shards by what the keys of its shards begin with.
#[async_trait]
pub trait SaleStore: Send + Sync {
    /// Runs one command on a sale, in the shard of the command's buyer.
    async fn call(&self, sale: &[u8], command: &Command) -> Result<Called, StoreError>;

    /// A hold, or `None` if the sale knows no such id. Without a `buyer` all shards are asked.
    async fn hold(&self, sale: &[u8], id: &[u8], buyer: Option<&[u8]>) -> Result<Option<HoldView>, StoreError>;

    /// The whole sale, over all its shards. The second value is the server's clock less ours, in milliseconds.
    async fn sale(&self, sale: &[u8]) -> Result<(SaleView, i64), StoreError>;

    /// Sales whose names begin with `prefix`, at most about `max`.
    async fn keys(&self, prefix: &[u8], max: usize) -> Result<Vec<Bytes>, StoreError>;

    /// Takes from the rate bucket `key`, which all proxies share.
    async fn throttle(&self, key: &[u8], throttle: Throttle) -> Result<Throttled, StoreError> {
        let _ = (key, throttle);
        Err(StoreError::Misuse("this stock has no rate buckets".to_owned()))
    }

    /// Writes `key` down for `life`. Whether it was not there: of all who ask for it, on all proxies, one is the first.
    async fn once(&self, key: &[u8], life: Duration) -> Result<bool, StoreError> {
        let _ = (key, life);
        Err(StoreError::Misuse("this stock remembers no names".to_owned()))
    }

    /// Whether the server answers at all.
    async fn ping(&self) -> Result<(), StoreError>;
}
