//! The data structures that stand millions of holds.
//!
//! Each hold is a [`Record`] of 24 bytes in a slab, with its bytes in an [`arena`]; an [`index`] finds it by
//! id and another one its buyer. Live holds hang in [`deadlines`], ended ones in a [`Fifo`]: both lists run
//! through the records. Chosen so that no single step is long, whatever the number of holds, and so that a
//! live hold with ids of 24 bytes costs less than 100 bytes.

mod arena;
mod buyers;
mod deadlines;
mod fifo;
#[cfg(test)]
mod flooding;
mod index;
mod record;
mod slab;
mod store;

pub(crate) use buyers::{BuyerPlace, Buyers, Usage, kept_items, left_after};
pub(crate) use deadlines::Deadlines;
pub(crate) use fifo::Fifo;
pub(crate) use record::{Content, ItemList, NewContent, State};
pub(crate) use store::{HoldStore, NewHold, Place};

/// No slot: the end of a list.
pub(crate) const NONE: u32 = u32::MAX;
