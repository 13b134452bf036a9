//! The subcommands of `flashsale`: each file has its `Arguments` and a `run`.

pub mod balance;
mod connect;
pub mod demo;
pub mod doctor;
pub mod drill;
pub mod holds;
pub mod relay;
pub mod sale;
pub mod serve;
mod units;
