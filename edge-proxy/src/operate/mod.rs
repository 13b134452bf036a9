//! What an operator does with sales: make, look at, restock, stop, check. The `flashsale` command line calls these.
//!
//! [`deployment`] is every server that has a part of a sale, and how to ask it something. [`sale`] finds the shards of a
//! sale and adds up what [`ShardInfo`] tells of each. Then one file per deed: [`create`] (and what it
//! must not find: [`leftovers`]), [`stock`], [`switch`],
//! [`audit`], [`holds`], [`list`], [`migrate`], [`doctor`]. [`transfer`] moves units between shards; [`crate::balancer`] does the
//! same without being told.
//!
//! Everything here may be repeated: after a crash, a lost answer or by a second operator at the same time. Commands
//! carry ids or totals, so that what has happened does not happen again.

pub mod audit;
pub mod create;
pub mod deployment;
pub mod doctor;
pub mod holds;
pub mod leftovers;
pub mod list;
pub mod migrate;
pub mod sale;
pub mod stock;
pub mod switch;
pub mod transfer;

pub use crate::store::info::{ShardInfo, SkuInfo};
pub use deployment::{Deployment, Patience, Trouble};
pub use sale::{Book, Sale};
