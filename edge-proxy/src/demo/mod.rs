//! A whole sale on one machine.
