//! How commands and outcomes look as words: the contract's section 4, for every shell around this crate.
//!
//! [`args`] reads words into commands, [`throttle`] those of a rate limit; [`reply`] writes outcomes and views as
//! replies; [`packed`] does both for many holds at a time.

pub mod args;
mod error;
pub mod packed;
pub mod reply;
pub mod throttle;
mod words;

pub use error::ParseError;
