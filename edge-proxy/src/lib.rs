//! The edge of a flash sale: a proxy in front of a shop, and the programs around it.
//!
//! Begin with [`funnel`]: it lists what a request to a sale must pass, in order. Then:
//!
//! - [`http`] is what a request may say and what answers look like;
//! - [`sale`] carries the calls of a sale out; [`store`] is the port to Redis behind it;
//! - [`server`] is the process: listeners, the shop behind, start and end;
//! - [`background`] is where work beside the requests runs;
//! - [`trace`] tells a tracing system of requests, if that is configured;
//! - [`config`] is the one file that configures it all, [`metrics`] the numbers it shows;
//! - [`relay`] sends confirmed orders downstream to the shop;
//! - [`balancer`] moves the stock of a sharded sale to its buyers where the servers cannot;
//! - [`operate`] is what an operator does with sales: make, look at, restock, stop, check;
//! - [`demo`] shows a whole sale on one machine, [`drill`] rehearses one on yours;
//! - [`cli`] holds one file per subcommand of the `flashsale` program.

pub mod background;
pub mod balancer;
pub mod cli;
pub mod config;
pub mod demo;
pub mod drill;
pub mod funnel;
pub mod http;
pub mod metrics;
pub mod operate;
mod packed;
mod quick;
mod recent;
pub mod relay;
pub mod sale;
pub mod server;
mod single_flight;
pub mod store;
pub mod trace;
