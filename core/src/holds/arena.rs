//! Bytes of variable length: ids, buyers, items and texts of holds.
//!
//! A log of chunks: bytes are appended to the newest chunk, freed bytes are only counted, and a chunk that
//! has become sparse is emptied by moving what still lives to the end of the log. So any mix of lengths
//! wastes at most a third, there is no overhead per entry but its length, and no single step is long.

use crate::heap;
use crate::memory::Mover;

/// Bytes of a chunk, and so the longest entry.
const CHUNK_BYTES: usize = 8 * 1024;
/// Entries start at multiples of this.
const WORD_BYTES: usize = 4;
/// Every entry starts with its length in 16 bits.
const LENGTH_BYTES: usize = 2;
/// A chunk is sparse when less than this lives in it.
const SPARSE_BYTES: usize = CHUNK_BYTES * 3 / 4;
/// So little waste is never worth moving anything.
const TOLERATED_WASTE_BYTES: usize = 4 * CHUNK_BYTES;

/// Chunks beyond which nothing new should be stored, short of those that a [`BlobRef`] can name: 14 of 16 GiB.
const MOST_CHUNKS: usize = (1 << 32) / (CHUNK_BYTES / WORD_BYTES) / 8 * 7;

/// Where an entry starts, in words from the start of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlobRef(u32);

impl BlobRef {
    fn new(chunk: usize, offset: usize) -> Self {
        Self((chunk * (CHUNK_BYTES / WORD_BYTES) + offset / WORD_BYTES) as u32)
    }

    fn chunk(self) -> usize {
        self.0 as usize / (CHUNK_BYTES / WORD_BYTES)
    }

    fn offset(self) -> usize {
        self.0 as usize % (CHUNK_BYTES / WORD_BYTES) * WORD_BYTES
    }
}

#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    live: usize,
    listed_sparse: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Arena {
    chunks: Vec<Chunk>,
    current: usize,
    empty: Vec<u32>,
    sparse: Vec<u32>,
    live: usize,
    written: usize,
}

fn padded(content: usize) -> usize {
    (LENGTH_BYTES + content).next_multiple_of(WORD_BYTES)
}

impl Arena {
    /// Appends an entry of at most so many bytes, which fit a chunk (see [`crate::bounds`]); `write` appends them.
    pub fn push(&mut self, most: usize, write: impl FnOnce(&mut Vec<u8>)) -> BlobRef {
        assert!(padded(most) <= CHUNK_BYTES, "an entry of {most} bytes");
        self.make_room(padded(most));
        let chunk = &mut self.chunks[self.current];
        let start = chunk.bytes.len();
        let at = BlobRef::new(self.current, start);
        chunk.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        write(&mut chunk.bytes);
        let content = chunk.bytes.len() - start - LENGTH_BYTES;
        debug_assert!(content <= most, "no longer than was said");
        chunk.bytes[start..start + LENGTH_BYTES].copy_from_slice(&(content as u16).to_le_bytes());
        while !chunk.bytes.len().is_multiple_of(WORD_BYTES) {
            chunk.bytes.push(0);
        }
        let size = chunk.bytes.len() - start;
        chunk.live += size;
        self.live += size;
        self.written += size;
        at
    }

    /// Whether so much is stored that soon nothing more could be found again.
    pub fn is_full(&self) -> bool {
        self.chunks.len() - self.empty.len() >= MOST_CHUNKS
    }

    fn make_room(&mut self, size: usize) {
        let fits = self.chunks.get(self.current).is_some_and(|chunk| chunk.bytes.len() + size <= CHUNK_BYTES);
        if !fits {
            let full = self.current;
            match self.empty.pop() {
                Some(chunk) => self.current = chunk as usize,
                None => {
                    self.chunks.push(Chunk::default());
                    self.current = self.chunks.len() - 1;
                }
            }
            if full != self.current {
                self.list_if_sparse(full);
            }
        }
        let big = self.chunks.len() > 1;
        let bytes = &mut self.chunks[self.current].bytes;
        let needed = bytes.len() + size;
        if bytes.capacity() < needed {
            // Small sales stay small; a big one goes straight to whole chunks.
            let wanted = if big { CHUNK_BYTES } else { (needed * 2).clamp(256, CHUNK_BYTES) };
            bytes.reserve_exact(wanted - bytes.len());
        }
    }

    pub fn get(&self, at: BlobRef) -> &[u8] {
        let bytes = &self.chunks[at.chunk()].bytes[at.offset()..];
        let content = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        &bytes[LENGTH_BYTES..LENGTH_BYTES + content]
    }

    /// An entry with whatever stands behind it, for who can tell by its first bytes how far to read.
    pub fn from(&self, at: BlobRef) -> &[u8] {
        &self.chunks[at.chunk()].bytes[at.offset() + LENGTH_BYTES..]
    }

    pub fn free(&mut self, at: BlobRef) {
        let size = padded(self.get(at).len());
        self.live -= size;
        let chunk = &mut self.chunks[at.chunk()];
        chunk.live -= size;
        if at.chunk() != self.current {
            self.list_if_sparse(at.chunk());
        }
    }

    fn list_if_sparse(&mut self, at: usize) {
        let chunk = &mut self.chunks[at];
        if chunk.live == 0 && !chunk.bytes.is_empty() {
            self.written -= chunk.bytes.len();
            chunk.bytes = Vec::new();
            self.empty.push(at as u32);
        } else if chunk.live < SPARSE_BYTES && !chunk.bytes.is_empty() && !chunk.listed_sparse {
            chunk.listed_sparse = true;
            self.sparse.push(at as u32);
        }
    }

    /// Every entry of a chunk that should be emptied now, living and dead; `None` while waste is low.
    /// The owner moves the living with [`Arena::relocate`].
    pub fn next_sparse(&mut self) -> Option<Vec<BlobRef>> {
        if self.written - self.live <= TOLERATED_WASTE_BYTES.max(self.live / 3) {
            return None;
        }
        while let Some(at) = self.sparse.pop() {
            let at = at as usize;
            let chunk = &mut self.chunks[at];
            chunk.listed_sparse = false;
            if chunk.bytes.is_empty() || at == self.current {
                continue;
            }
            let mut entries = Vec::new();
            let mut offset = 0;
            while offset < chunk.bytes.len() {
                entries.push(BlobRef::new(at, offset));
                let content = u16::from_le_bytes([chunk.bytes[offset], chunk.bytes[offset + 1]]);
                offset += padded(usize::from(content));
            }
            return Some(entries);
        }
        None
    }

    /// Moves a living entry to the end of the log.
    pub fn relocate(&mut self, at: BlobRef) -> BlobRef {
        let content = self.get(at).to_vec();
        let moved = self.push(content.len(), |out| out.extend_from_slice(&content));
        self.free(at);
        moved
    }

    /// How many chunks [`Arena::move_chunk`] can move.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    pub fn move_chunk(&mut self, at: usize, mover: &mut impl Mover) {
        let bytes = &mut self.chunks[at].bytes;
        *bytes = mover.relocate(std::mem::take(bytes));
    }

    /// Bytes of heap in use.
    pub fn heap_bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|chunk| heap::buffer::<u8>(chunk.bytes.capacity())).sum();
        let lists = heap::buffer::<u32>(self.empty.capacity()) + heap::buffer::<u32>(self.sparse.capacity());
        chunks + heap::buffer::<Chunk>(self.chunks.capacity()) + lists
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waste_stays_bounded_under_any_mix_of_lengths() {
        let mut arena = Arena::default();
        let mut living: Vec<(BlobRef, Vec<u8>)> = Vec::new();
        let mut step: u64 = 7;
        for round in 0..200_000_u64 {
            step = step.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let draw = (step >> 33) as usize;
            if living.len() < 2_000 || draw.is_multiple_of(2) && living.len() < 4_000 {
                let content = vec![round as u8; 1 + draw % 700];
                living.push((arena.push(content.len(), |out| out.extend_from_slice(&content)), content));
            } else {
                let (at, content) = living.swap_remove(draw % living.len());
                assert_eq!(arena.get(at), content);
                arena.free(at);
            }
            if let Some(entries) = arena.next_sparse() {
                for entry in living.iter_mut().filter(|(at, _)| entries.contains(at)) {
                    entry.0 = arena.relocate(entry.0);
                }
            }
        }
        let allowed = arena.live * 2 + 2 * TOLERATED_WASTE_BYTES;
        assert!(arena.heap_bytes() < allowed, "{} bytes for {} living", arena.heap_bytes(), arena.live);
        for (at, content) in &living {
            assert_eq!(arena.get(*at), content);
        }
    }
}
