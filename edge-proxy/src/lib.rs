//! The edge of a flash sale: a proxy in front of a shop, and the programs around it.
//!
//! - [`relay`] sends confirmed orders downstream to the shop;
//! - [`demo`] shows a whole sale on one machine;
//! - [`config`] is the one file that configures all of them;
//! - [`cli`] holds one file per subcommand of the `flashsale` program.

pub mod cli;
pub mod config;
pub mod demo;
pub mod relay;
