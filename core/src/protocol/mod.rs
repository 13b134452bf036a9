//! How commands and outcomes look as words: the contract's section 4, for every shell around this crate.
//!
//! [`args`] reads words into commands, [`reply`] writes outcomes and views as replies.

pub mod args;
mod error;
pub mod reply;

pub use error::ParseError;
