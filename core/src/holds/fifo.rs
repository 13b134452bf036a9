//! A queue that runs through the records, oldest first.

use super::NONE;
use super::store::HoldStore;

#[derive(Debug)]
pub(crate) struct Fifo {
    head: u32,
    tail: u32,
    len: usize,
}

impl Default for Fifo {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, len: 0 }
    }
}

impl Fifo {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn oldest(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub fn push(&mut self, store: &mut HoldStore, slot: u32) {
        let record = store.get_mut(slot);
        record.set_prev(self.tail);
        record.set_next(NONE);
        match self.tail {
            NONE => self.head = slot,
            tail => store.get_mut(tail).set_next(slot),
        }
        self.tail = slot;
        self.len += 1;
    }

    pub fn remove(&mut self, store: &mut HoldStore, slot: u32) {
        let (prev, next) = store.get(slot).links();
        match prev {
            NONE => self.head = next,
            prev => store.get_mut(prev).set_next(next),
        }
        match next {
            NONE => self.tail = prev,
            next => store.get_mut(next).set_prev(prev),
        }
        store.get_mut(slot).unlink();
        self.len -= 1;
    }

    pub fn iter<'a>(&self, store: &'a HoldStore) -> impl Iterator<Item = u32> + use<'a> {
        std::iter::successors(self.oldest(), |&slot| {
            let (_, next) = store.get(slot).links();
            (next != NONE).then_some(next)
        })
    }
}
