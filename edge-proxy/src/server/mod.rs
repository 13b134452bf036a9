//! The process: its listeners, what stands behind them, and how it ends.
//!
//! - [`gate`] takes connections: [`places`] counts them, [`proxy_protocol`] says whose they are, [`certificate`]
//!   is for TLS, and [`connection`] is what becomes of them, with a [`header_clock`] each;
//! - [`door`] takes requests from them;
//! - [`answer`] is for those that the edge answers by itself, through the funnel; [`limits`] say how large they may be;
//! - [`edge`] is for those to the shop: the phases of Pingora's proxy, from top to bottom; plain ones go [`straight`]
//!   from its first phase;
//! - [`shop`] is the shop behind: time limits; [`servers`] chooses among its servers, [`forwarded`] tells them who is
//!   there, [`cache`] keeps some of its pages;
//! - [`admin`] is the other listener: metrics, health, the JSON API;
//! - [`access_log`] writes a line for some of the requests, [`calm_log`] is for people;
//! - [`successor`] runs the relay and the balancer, and others in their place after a reload;
//! - [`lifecycle`] starts it all and stops it gently; [`reload`] puts a new [`live`] in place of the old.

pub mod access_log;
pub mod admin;
pub mod answer;
pub mod cache;
pub mod calm_log;
pub mod certificate;
pub mod connection;
pub mod door;
pub mod edge;
pub mod forwarded;
pub mod gate;
pub mod header_clock;
pub mod lifecycle;
pub mod limits;
pub mod live;
pub mod places;
pub mod proxy_protocol;
pub mod reload;
pub mod servers;
pub mod shop;
pub mod straight;
pub mod successor;
