//! Starts and stops the real thing: Redis servers of every supported version, clusters, the edge
//! proxy and a shop, for tests that see them as users do.
//!
//! Everything is RAII. What a test starts is stopped when its handle is dropped, also when the test
//! panics, and dies with the test process if even that does not happen ([`process`]). Nothing sleeps
//! and hopes: [`wait_until`] waits for a condition and says which one did not come true.
//!
//! ```no_run
//! use flashsale_tests::{RedisServer, Server};
//!
//! let redis = RedisServer::builder(Server::Redis70).module().start();
//! let mut client = redis.client();
//! client.ok(&["FLASH.CREATE", "sale:1", "ITEMS", "shirt", "10"]);
//! let hold = client.call(&["FLASH.RESERVE", "sale:1", "h1", "ann", "ITEMS", "shirt", "1"]);
//! assert_eq!(hold.status(), "RESERVED");
//! ```
//!
//! Where to go next: [`on_every_server!`] runs a test on each server version; [`RedisServer`] and
//! [`Cluster`] for stores, [`Client`] and [`Reply`] for the wire, [`sale`], [`sharded`] and [`rush`] for what is sold,
//! [`Proxy`], [`http`], [`tls`] and [`token`] for the edge, [`shop`] for what stands behind it.

pub mod artifacts;
pub mod callgrind;
pub mod cli;
mod client;
mod clock;
mod cluster;
mod cluster_client;
mod collector;
pub mod http;
mod openapi;
mod ports;
pub mod process;
mod proxy;
mod redis_server;
mod reply;
pub mod rush;
pub mod sale;
mod sentinel;
mod server;
pub mod sharded;
pub mod shop;
mod site;
pub mod tls;
pub mod token;
mod wait;

pub use client::Client;
pub use clock::Clock;
pub use cluster::{Cluster, ClusterBuilder};
pub use cluster_client::ClusterClient;
pub use collector::{Collector, Seen};
pub use ports::free_port;
pub use proxy::{Addresses, Proxy, ProxyBuilder, TOKEN_SECRET};
pub use redis_server::{AppendFsync, RedisServer, RedisServerBuilder};
pub use reply::Reply;
pub use sentinel::Sentinel;
pub use server::Server;
pub use site::Site;
pub use wait::{unix_ms, wait_until};

/// Runs each named function, which takes a [`Server`], as one test per server version.
///
/// ```ignore
/// on_every_server!(sells_out);
/// fn sells_out(server: Server) { ... }
/// ```
#[macro_export]
macro_rules! on_every_server {
    ($($test:ident),+ $(,)?) => {$(
        mod $test {
            #[test]
            fn redis_7_0() {
                $crate::Server::Redis70.run_if_here(super::$test);
            }
            #[test]
            fn redis_8_0() {
                $crate::Server::Redis80.run_if_here(super::$test);
            }
            #[test]
            fn valkey_8_1() {
                $crate::Server::Valkey81.run_if_here(super::$test);
            }
        }
    )+};
}

/// Makes two tests of each function for every server: with the module, and with the library of functions. The functions
/// take a [`RedisServerBuilder`] that has the one or the other.
#[macro_export]
macro_rules! with_module_and_library {
    ($($test:ident),+ $(,)?) => {
        mod with_the_module {
            $(fn $test(server: $crate::Server) {
                super::$test($crate::RedisServer::builder(server).module());
            })+
            $crate::on_every_server!($($test),+);
        }
        mod with_the_library {
            $(fn $test(server: $crate::Server) {
                super::$test($crate::RedisServer::builder(server).functions());
            })+
            $crate::on_every_server!($($test),+);
        }
    };
}
