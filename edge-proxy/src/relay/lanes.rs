//! Order per buyer: one entry of a buyer at a time, any number of buyers side by side.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

/// The waiting line of every buyer who has an entry under way.
#[derive(Debug)]
pub struct Lanes<Job> {
    behind: HashMap<Vec<u8>, VecDeque<Job>>,
}

impl<Job> Default for Lanes<Job> {
    fn default() -> Self {
        Self { behind: HashMap::new() }
    }
}

impl<Job> Lanes<Job> {
    /// Takes a job in. Gives it back if it may start now; otherwise it waits behind the buyer's earlier ones.
    pub fn enter(&mut self, buyer: &[u8], job: Job) -> Option<Job> {
        match self.behind.entry(buyer.to_vec()) {
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                Some(job)
            }
            Entry::Occupied(mut busy) => {
                busy.get_mut().push_back(job);
                None
            }
        }
    }

    /// The buyer's job under way has ended: the next one, which may start now.
    pub fn leave(&mut self, buyer: &[u8]) -> Option<Job> {
        let next = self.behind.get_mut(buyer)?.pop_front();
        if next.is_none() {
            self.behind.remove(buyer);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buyers_entries_go_one_after_the_other() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.enter(b"ada", 1), Some(1));
        assert_eq!(lanes.enter(b"ada", 2), None);
        assert_eq!(lanes.enter(b"bob", 3), Some(3));
        assert_eq!(lanes.enter(b"ada", 4), None);
        assert_eq!(lanes.leave(b"ada"), Some(2));
        assert_eq!(lanes.leave(b"ada"), Some(4));
        assert_eq!(lanes.leave(b"bob"), None);
        assert_eq!(lanes.leave(b"ada"), None);
        assert_eq!(lanes.enter(b"ada", 5), Some(5));
    }

    #[test]
    fn an_idle_buyer_takes_no_room() {
        let mut lanes = Lanes::default();
        lanes.enter(b"ada", 1);
        lanes.leave(b"ada");
        assert!(lanes.behind.is_empty());
    }
}
