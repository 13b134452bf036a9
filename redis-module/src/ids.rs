//! Ids for holds whose client gave `*`: `INC-SEQ`.
//!
//! INC is 8 hex digits, drawn anew whenever this process begins to serve writes as a primary, SEQ counts up.
//! So a promoted replica never hands out an id that its predecessor gave to somebody else.

use crate::server;
use flashsale_core::Sale;

#[derive(Default)]
pub(crate) struct IdMaker {
    incarnation: u32,
    sequence: u64,
}

impl IdMaker {
    /// Draws a new incarnation: at load and at every promotion.
    pub fn reincarnate(&mut self) {
        self.incarnation = u32::from_ne_bytes(server::random_bytes());
        self.sequence = 0;
    }

    /// The first half of the ids made now.
    pub fn incarnation(&self) -> String {
        format!("{:08x}", self.incarnation)
    }

    /// An id that the sale does not know, whatever ids its clients have chosen themselves.
    pub fn next(&mut self, sale: &Sale) -> Vec<u8> {
        loop {
            self.sequence += 1;
            let id = format!("{:08x}-{}", self.incarnation, self.sequence).into_bytes();
            if !sale.remembers(&id) {
                return id;
            }
        }
    }
}
