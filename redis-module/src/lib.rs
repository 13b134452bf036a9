//! `libflashsale.so`: atomic stock for flash sales, as commands of Redis (7.0 on) and Valkey (7.2 on).
//!
//! A thin shell around `flashsale-core`, where the rules of a sale are. From outside in:
//!
//! - [`load`] registers everything when the server loads the module;
//! - `commands/` has one file per command, its metadata beside it;
//! - [`execute`] takes a command through the sale: treat what is due, decide, apply, replicate, tell, answer;
//! - [`data_type`] is the native type: persistence, digest, memory; [`rate_type`] that of rate limits;
//! - [`blocking`] lets clients wait for units that others hold;
//! - [`cluster_bus`] moves the units of sharded sales between the nodes of a cluster;
//! - [`order_stream`], [`news`], [`expiry`] are what happens beside a reply; [`search`] finds renamed sales again;
//! - [`phrases`] are words and refusals that the server keeps ready as replies;
//! - [`info`], [`config`], [`defrag`] are what an operator's server asks for;
//! - [`server`] is the server's API, and with [`cluster`] and [`allocator`] the place of nearly all `unsafe`.

mod allocator;
mod blocking;
mod cluster;
mod cluster_bus;
mod commands;
mod config;
mod data_type;
mod defrag;
mod execute;
mod expiry;
mod ids;
mod info;
mod load;
mod news;
mod order_stream;
mod phrases;
mod rate_type;
mod scan;
mod search;
mod server;
mod state;
mod totals;
mod typed;
