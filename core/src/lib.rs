//! The rules of a flash sale.
//!
//! This crate knows shops and no Redis: no clock, no I/O, no randomness but what it is handed.
//! A sale ([`Sale`]) changes in two steps and no other way:
//!
//! 1. [`decide`](Sale::decide) looks at the sale, a [`Command`] and the time, may refuse, and changes
//!    nothing. Its [`Decision`] is an [`Outcome`] for the caller and the [`Effect`]s that make it true.
//! 2. [`apply`](Sale::apply) carries an effect out. It cannot fail and reads no clock, so a primary, a
//!    replica, a replayed log and an imported shard all end in the same state.
//!
//! Where to read on: [`command`] and [`outcome`] are the vocabulary, `decide/` holds the rules command by
//! command, [`effect`] what is replicated, [`snapshot`] what is stored, [`protocol`] how commands and
//! outcomes look as words on the wire, `holds/` the data structures that stand millions of holds.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod acks;
mod apply;
pub mod audit;
pub mod balance;
pub mod bounds;
pub mod command;
mod decide;
pub mod effect;
pub mod facts;
#[cfg(feature = "fault-injection")]
pub mod fault;
pub mod gcra;
pub mod gossip;
mod heap;
mod holds;
pub mod import;
mod intake;
pub mod memory;
#[cfg(feature = "model")]
pub mod model;
pub mod outcome;
pub mod protocol;
mod sale;
pub mod sharding;
pub mod snapshot;
pub mod view;
mod wire;

pub use command::Command;
pub use decide::{Decision, Situation};
pub use effect::Effect;
pub use facts::Facts;
pub use outcome::Outcome;
pub use sale::{Events, Sale, Settings, Shard};
