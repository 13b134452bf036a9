//! Whole-system tests: each file proves what its name says, on real servers.

mod harness_works;
