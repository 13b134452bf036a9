//! The rules of a sale hold for any sequence of commands.
//!
//! [`steps`] makes random commands over a few ids, buyers and SKUs with a clock that moves both ways; a failing
//! sequence is shrunk. [`world`] carries them out on a sale, on the naive model, and by effects on a replica.
//! `FLASHSALE_CASES_FACTOR` multiplies the number of cases: 50 of it compare 14 million commands with the model.

mod balance;
mod garbage;
mod gossip;
mod invariants;
mod model_agrees;
mod persistence;
mod seeds;
mod steps;
mod throttle;
mod world;
