//! Whole-system tests: each file proves what its name says, on real servers.

mod bad_input;
mod blocking;
mod cluster;
mod demo;
mod durability;
mod edge_bad_input;
mod edge_durability;
mod edge_holds;
mod edge_known;
mod edge_lifecycle;
mod edge_rates;
mod edge_shop;
mod expiry;
mod harness_works;
mod keyspace;
mod load;
mod oversell;
mod raw_commands_python;
mod redis_away;
mod relay_delivery;
mod relay_faults;
mod relay_orders;
mod relay_setup;
mod replication;
mod throttle;
mod whole_path;
