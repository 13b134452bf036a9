//! Records in chunks: growing never moves a record, and never takes long.

use super::NONE;
use super::record::{Record, State};
use crate::heap;
use crate::memory::Mover;

const CHUNK_RECORDS: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Slab {
    chunks: Vec<Vec<Record>>,
    free: Option<u32>,
    len: u32,
}

impl Slab {
    pub fn insert(&mut self, record: Record) -> u32 {
        if let Some(slot) = self.free {
            let (_, next) = self.get(slot).links();
            self.free = (next != NONE).then_some(next);
            *self.get_mut(slot) = record;
            return slot;
        }
        let slot = self.len;
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK_RECORDS) {
            let whole = !self.chunks.is_empty();
            self.chunks.push(if whole { Vec::with_capacity(CHUNK_RECORDS) } else { Vec::new() });
        }
        let last = self.chunks.len() - 1;
        self.chunks[last].push(record);
        self.len += 1;
        slot
    }

    pub fn remove(&mut self, slot: u32) {
        let next = self.free.unwrap_or(NONE);
        let record = self.get_mut(slot);
        record.state = State::Free;
        record.set_next(next);
        self.free = Some(slot);
    }

    pub fn get(&self, slot: u32) -> &Record {
        &self.chunks[slot as usize / CHUNK_RECORDS][slot as usize % CHUNK_RECORDS]
    }

    pub fn get_mut(&mut self, slot: u32) -> &mut Record {
        &mut self.chunks[slot as usize / CHUNK_RECORDS][slot as usize % CHUNK_RECORDS]
    }

    /// One more than the highest slot in use.
    pub fn end(&self) -> u32 {
        self.len
    }

    /// How many chunks [`Slab::move_chunk`] can move.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    pub fn move_chunk(&mut self, at: usize, mover: &mut impl Mover) {
        self.chunks[at] = mover.relocate(std::mem::take(&mut self.chunks[at]));
    }

    /// Bytes of heap in use.
    pub fn heap_bytes(&self) -> usize {
        let records: usize = self.chunks.iter().map(|chunk| heap::buffer::<Record>(chunk.capacity())).sum();
        records + heap::buffer::<Vec<Record>>(self.chunks.capacity())
    }
}
