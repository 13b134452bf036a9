//! What a sale takes on the heap, and how it is moved when the heap is to be tidied up.

use crate::heap;
use crate::sale::{Extra, Refund, Sale, Sku, Transfer};

/// Parts that [`Sale::defragment`] moves between two looks at the clock: a few ten KiB.
const PARTS_PER_LOOK: usize = 8;

/// Moves buffers to where memory is less scattered.
pub trait Mover {
    /// The same buffer, perhaps in another place: same content, same capacity.
    fn relocate<T>(&mut self, buffer: Vec<T>) -> Vec<T>;

    /// Whether there is no more time.
    fn is_time_up(&mut self) -> bool;
}

impl Sale {
    /// Bytes of heap in use, as the server's allocator rounds them. Where there are many things of a kind `samples`
    /// of them stand for all; 0 looks at each.
    pub fn heap_bytes(&self, samples: usize) -> usize {
        let names = self.skus.iter().map(|sku| 2 * heap::buffer::<u8>(sku.name.len()));
        let skus = names.sum::<usize>() + self.skus.heap_bytes();
        let allocations = sum(self.allocations.keys(), samples, |id| heap::buffer::<u8>(id.len()));
        let extras = sum(self.extras.values(), samples, |extra| of_extra(extra));
        self.holds.heap_bytes()
            + self.buyers.heap_bytes(samples)
            + self.deadlines.heap_bytes()
            + skus
            + allocations
            + heap::tree::<Box<[u8]>, (u16, i64)>(self.allocations.len())
            + extras
            + heap::tree::<u32, Box<Extra>>(self.extras.len())
            + heap::tree::<(u16, u32), Transfer>(self.transfers.len())
    }

    /// How many pieces freeing the sale gives back, roughly.
    pub fn heap_pieces(&self) -> usize {
        self.holds.parts() + self.buyers.parts() + self.allocations.len() + self.extras.len() + self.skus.len()
    }

    /// Has what the sale consists of moved, part by part from `cursor` on (0 at first), until time is up. Tells where
    /// to go on; `None` if all is done. The sale may change in between.
    pub fn defragment(&mut self, cursor: u64, mover: &mut impl Mover) -> Option<u64> {
        let mut at = usize::try_from(cursor).unwrap_or(usize::MAX);
        loop {
            for _ in 0..PARTS_PER_LOOK {
                match at.checked_sub(self.holds.parts()) {
                    None => self.holds.move_part(at, mover),
                    Some(part) if part < self.buyers.parts() => self.buyers.move_part(part, mover),
                    Some(_) => return None,
                }
                at += 1;
            }
            if mover.is_time_up() {
                return Some(at as u64);
            }
        }
    }
}

/// What values of a tree have on the heap: `samples` of them from the front stand for all.
fn sum<T>(values: impl ExactSizeIterator<Item = T>, samples: usize, bytes_of: impl Fn(T) -> usize) -> usize {
    // The first of a tree are as good as any, and found at once.
    const LOOKED_AT: usize = 64;
    let len = values.len();
    let looked_at = if samples == 0 { len } else { len.min(samples.max(LOOKED_AT)) };
    let bytes: usize = values.take(looked_at).map(bytes_of).sum();
    if looked_at == len { bytes } else { bytes / looked_at * len }
}

fn of_extra(extra: &Extra) -> usize {
    let items = |items: &Option<Box<[(u16, u32)]>>| items.as_deref().map_or(0, of_items);
    let of_refund = |refund: &Refund| heap::buffer::<u8>(refund.id.len()) + of_items(&refund.items);
    heap::buffer::<Extra>(1)
        + items(&extra.requested)
        + items(&extra.confirmed_from)
        + heap::buffer::<Refund>(extra.returns.capacity())
        + extra.returns.iter().map(of_refund).sum::<usize>()
}

fn of_items(items: &[(u16, u32)]) -> usize {
    heap::buffer::<(u16, u32)>(items.len())
}

impl crate::sale::Skus {
    /// The list and the tree, without the names.
    fn heap_bytes(&self) -> usize {
        heap::buffer::<Sku>(self.capacity()) + heap::tree::<Box<[u8]>, u16>(self.len())
    }
}
