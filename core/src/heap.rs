//! What things take on the heap of Redis, allocator and all.
//!
//! Redis counts its memory as its allocator hands it out: every size is rounded up to one of jemalloc's classes. So
//! is every size here, and what a sale tells of its memory is what the server has really set aside for it.

/// What the allocator sets aside for an allocation: 8, multiples of 16, then four classes to each doubling.
pub(crate) const fn allocated(size: usize) -> usize {
    match size {
        0 => 0,
        1..=8 => 8,
        9..=128 => size.next_multiple_of(16),
        _ => size.next_multiple_of((1 << (size - 1).ilog2()) / 4),
    }
}

/// The buffer of a `Vec` or of a boxed slice with room for `capacity` elements.
pub(crate) const fn buffer<T>(capacity: usize) -> usize {
    allocated(capacity * size_of::<T>())
}

/// The nodes of a `BTreeMap` (a `BTreeSet` has values of size 0). A node has room for 11 entries; trees that have
/// split are about two thirds full: a little less where they grow at one end, a little more where they grow all over.
pub(crate) fn tree<K, V>(len: usize) -> usize {
    const ROOM: usize = 11;
    const ENTRIES_PER_LEAF: usize = 8;
    const LEAVES_PER_BRANCH: usize = 7;
    let leaf = (12 + ROOM * (size_of::<K>() + size_of::<V>())).next_multiple_of(8);
    let branch = allocated(leaf + (ROOM + 1) * size_of::<usize>());
    match len {
        0 => 0,
        1..=ROOM => allocated(leaf),
        _ => {
            let leaves = len.div_ceil(ENTRIES_PER_LEAF);
            leaves * allocated(leaf) + leaves.div_ceil(LEAVES_PER_BRANCH - 1) * branch
        }
    }
}

/// The sum over many things of one kind, from a few of them that are spread evenly.
pub(crate) fn sampled(len: usize, samples: usize, bytes_of: impl Fn(usize) -> usize) -> usize {
    if samples == 0 || len <= samples {
        return (0..len).map(bytes_of).sum();
    }
    let sum: usize = (0..samples).map(|at| bytes_of(at * len / samples)).sum();
    (sum as u128 * len as u128 / samples as u128) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_into_the_classes_of_jemalloc() {
        let classes = [(1, 8), (9, 16), (17, 32), (100, 112), (128, 128), (129, 160), (256, 256), (257, 320)];
        let large = [(1_025, 1_280), (6_144, 6_144), (8_193, 10_240), (16_385, 20_480), (1 << 20, 1 << 20)];
        for (size, class) in classes.into_iter().chain(large) {
            assert_eq!(allocated(size), class, "{size}");
        }
    }

    #[test]
    fn a_sample_stands_for_all() {
        assert_eq!(sampled(3, 5, |at| at + 1), 6);
        assert_eq!(sampled(1_000, 0, |_| 7), 7_000);
        assert_eq!(sampled(1_000, 10, |_| 7), 7_000);
    }
}
