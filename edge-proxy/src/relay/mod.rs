//! Sends confirmed orders downstream: reads order streams, delivers each order at least once.

pub mod config;
