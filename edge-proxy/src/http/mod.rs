//! The HTTP surface of a sale: its routes in one table, what requests may say, what answers look like.

pub mod address;
pub mod input;
pub mod openapi;
pub mod problem;
pub mod reply;
pub mod routes;
