//! The subcommands of `flashsale`: each file has its `Arguments` and a `run`.

pub mod demo;
pub mod relay;
pub mod serve;
