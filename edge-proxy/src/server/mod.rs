//! The process: its listeners, what stands behind them, and how it ends.
//!
//! - [`door`] takes connections of buyers;
//! - [`edge`] answers a request or passes it on: the phases of Pingora's proxy, from top to bottom;
//! - [`shop`] is the shop behind: choice of server, time limits, forwarded headers;
//! - [`admin`] is the other listener: metrics, health, the JSON API;
//! - [`access_log`] writes a line for some of the requests;
//! - [`lifecycle`] starts it all and stops it gently.

pub mod access_log;
pub mod admin;
pub mod door;
pub mod edge;
pub mod lifecycle;
pub mod shop;
