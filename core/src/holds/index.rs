//! An index from hashed names to slots that grows a little at a time.
//!
//! One big table stops the server while it doubles: measured at 740 ms on the way to 2 million holds.
//! Linear hashing (Litwin, 1980) splits one small group per insertion instead, so the longest stop is the
//! re-hash of a few hundred slots.

use crate::heap;
use hashbrown::HashTable;

/// Groups at first, and so always this times a power of two. Tables have powers of two as well, so the choice
/// says at which numbers they are full: with 5 it is a million, its halves and its doubles (195 slots of 224);
/// with 1 they would just have grown there, and a hold would take 7 bytes more.
const BASE_GROUPS: usize = 5;
/// Mean slots per group. A group's table of 256 buckets is full at 224: three deviations above.
const GROUP_MEAN: usize = 184;
/// Lowest bit of a hash that chooses the group.
const GROUP_SHIFT: u32 = 24;
/// Below this mean the last group is folded back.
const GROUP_SPARSE: usize = 48;

#[derive(Debug)]
pub(crate) struct Index {
    groups: Vec<HashTable<u32>>,
    /// A group's number is that of its base and these bits of the hash; all groups below `split` are addressed
    /// by one more bit than this mask has.
    mask: usize,
    split: usize,
    len: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self { groups: std::iter::repeat_with(HashTable::new).take(BASE_GROUPS).collect(), mask: 0, split: 0, len: 0 }
    }
}

impl Index {
    /// An index of names that are known beforehand, as (hash, slot). Of names with equal hashes it takes the first, and
    /// gives the others back to be added one by one.
    ///
    /// It is filled in the order of its groups: each is in the processor's cache while it is filled, and no name is
    /// looked at but those of the few groups that outgrow their tables, by `hash_of`.
    pub fn build(mut names: Vec<(u64, u32)>, hash_of: impl Fn(u32) -> u64) -> (Self, Vec<(u64, u32)>) {
        let mut index = Self::with_room_for(names.len());
        let group_first = 64 - GROUP_SHIFT - index.mask.count_ones();
        names.sort_unstable_by_key(|&(hash, _)| hash.rotate_left(group_first));
        let mut repeated = Vec::new();
        let mut last = None;
        for (hash, slot) in names {
            if last.replace(hash) == Some(hash) {
                repeated.push((hash, slot));
                continue;
            }
            let group = index.group(hash);
            index.groups[group].insert_unique(hash, slot, |&slot| hash_of(slot));
            index.len += 1;
        }
        (index, repeated)
    }

    /// An empty index whose groups and tables are as many and as big as if it had grown to `len` names.
    fn with_room_for(len: usize) -> Self {
        let groups = len.div_ceil(GROUP_MEAN).max(BASE_GROUPS);
        let whole = 1_usize << (groups / BASE_GROUPS).ilog2();
        let (mask, split) = (whole - 1, groups - whole * BASE_GROUPS);
        let in_unsplit = len / (whole * BASE_GROUPS);
        let is_split = |group: usize| group < split || group >= whole * BASE_GROUPS;
        let room = |group: usize| if is_split(group) { in_unsplit.min(GROUP_MEAN) } else { in_unsplit };
        Self { groups: (0..groups).map(|group| HashTable::with_capacity(room(group))).collect(), mask, split, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The group bits are taken from the middle of the hash: the table inside uses both ends.
    fn group(&self, hash: u64) -> usize {
        const BASE_BITS: u32 = 12;
        let bits = (hash >> GROUP_SHIFT) as usize & u32::MAX as usize;
        let base = ((bits >> (32 - BASE_BITS)) * BASE_GROUPS) >> BASE_BITS;
        let group = (bits & self.mask) * BASE_GROUPS + base;
        if group < self.split { (bits & (self.mask << 1 | 1)) * BASE_GROUPS + base } else { group }
    }

    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.groups[self.group(hash)].find(hash, |&slot| is_it(slot)).copied()
    }

    /// The entry itself, to put another slot in its place under the same name.
    pub fn find_mut(&mut self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<&mut u32> {
        let group = self.group(hash);
        self.groups[group].find_mut(hash, |&slot| is_it(slot))
    }

    /// Adds a name that is not there yet; `hash_of` gives the hash of any slot stored before.
    pub fn insert(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        let group = self.group(hash);
        self.groups[group].insert_unique(hash, slot, |&slot| hash_of(slot));
        self.len += 1;
        if self.len > self.groups.len() * GROUP_MEAN {
            self.split_one(hash_of);
        }
    }

    pub fn remove(
        &mut self,
        hash: u64,
        mut is_it: impl FnMut(u32) -> bool,
        hash_of: impl Fn(u32) -> u64,
    ) -> Option<u32> {
        let group = self.group(hash);
        let entry = self.groups[group].find_entry(hash, |&slot| is_it(slot)).ok()?;
        let (slot, _) = entry.remove();
        self.len -= 1;
        if self.groups.len() > BASE_GROUPS && self.len < self.groups.len() * GROUP_SPARSE {
            self.fold_one(hash_of);
        }
        Some(slot)
    }

    fn split_one(&mut self, hash_of: impl Fn(u32) -> u64) {
        // Both halves get their final size at once: a table that grows hashes everything again.
        let halved = || HashTable::with_capacity(GROUP_MEAN);
        let old = std::mem::replace(&mut self.groups[self.split], halved());
        self.groups.push(halved());
        self.split += 1;
        if self.split == (self.mask + 1) * BASE_GROUPS {
            self.mask = self.mask << 1 | 1;
            self.split = 0;
        }
        for slot in old {
            let hash = hash_of(slot);
            let group = self.group(hash);
            self.groups[group].insert_unique(hash, slot, |&slot| hash_of(slot));
        }
    }

    /// Builds the index anew if it has far more room than it needs: after [`Index::with_room_for`] too many.
    pub fn fit(&mut self, hash_of: impl Fn(u32) -> u64) {
        if self.groups.len() == BASE_GROUPS || self.len > self.groups.len() * GROUP_MEAN / 2 {
            return;
        }
        let fitting = Self::with_room_for(self.len);
        for slot in std::mem::replace(self, fitting).groups.into_iter().flatten() {
            self.insert(hash_of(slot), slot, &hash_of);
        }
    }

    fn fold_one(&mut self, hash_of: impl Fn(u32) -> u64) {
        let Some(last) = self.groups.pop() else { return };
        if self.split == 0 {
            self.mask >>= 1;
            self.split = (self.mask + 1) * BASE_GROUPS;
        }
        self.split -= 1;
        let into = &mut self.groups[self.split];
        for slot in last {
            into.insert_unique(hash_of(slot), slot, |&slot| hash_of(slot));
        }
    }

    /// How many groups [`Index::move_group`] can move.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    #[cfg(test)]
    pub fn fullest_group(&self) -> usize {
        self.groups.iter().map(HashTable::len).max().unwrap_or(0)
    }

    /// Puts a group's table into fresh memory: tables give nobody their buffers.
    pub fn move_group(&mut self, at: usize) {
        self.groups[at] = self.groups[at].clone();
    }

    /// Bytes of heap in use.
    pub fn heap_bytes(&self) -> usize {
        let tables: usize = self.groups.iter().map(|group| heap::allocated(group.allocation_size())).sum();
        tables + heap::buffer::<HashTable<u32>>(self.groups.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(slot: u32) -> u64 {
        u64::from(slot).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17)
    }

    #[test]
    fn every_slot_is_found_while_it_grows_and_shrinks() {
        let mut index = Index::default();
        for slot in 0..20_000 {
            index.insert(spread(slot), slot, spread);
            assert_eq!(index.find(spread(slot / 2), |s| s == slot / 2), Some(slot / 2));
        }
        assert!(index.groups.len() > 100, "it splits");
        for slot in 0..20_000 {
            assert_eq!(index.remove(spread(slot), |s| s == slot, spread), Some(slot));
            assert_eq!(index.find(spread(slot), |s| s == slot), None);
            let last = 19_999;
            assert_eq!(index.find(spread(last), |s| s == last).is_some(), slot < last);
        }
        assert_eq!((index.len(), index.groups.len()), (0, BASE_GROUPS), "it folds back");
    }

    #[test]
    fn what_is_built_at_once_is_as_what_has_grown() {
        for len in [0, 1, 900, 921, 20_000, 40_000] {
            let names = (0..len).map(|slot| (spread(slot), slot)).collect();
            let (mut built, repeated) = Index::build(names, spread);
            let mut grown = Index::default();
            (0..len).for_each(|slot| grown.insert(spread(slot), slot, spread));
            assert_eq!((built.len(), repeated.len()), (grown.len(), 0));
            let shape = |index: &Index| (index.groups.len(), index.mask, index.split);
            assert_eq!(shape(&built), shape(&grown), "{len}");
            assert!(built.heap_bytes() <= grown.heap_bytes() * 11 / 10 + 64, "{len}");
            (len..2 * len).for_each(|slot| built.insert(spread(slot), slot, spread));
            for slot in 0..2 * len {
                assert_eq!(built.remove(spread(slot), |s| s == slot, spread), Some(slot), "{len}");
            }
        }
    }

    #[test]
    fn names_with_equal_hashes_are_given_back() {
        let names = (0..3_000).map(|slot| (spread(slot % 1_000), slot)).collect();
        let (mut index, repeated) = Index::build(names, |slot| spread(slot % 1_000));
        assert_eq!((index.len(), repeated.len()), (1_000, 2_000));
        let room = index.heap_bytes();
        index.fit(|slot| spread(slot % 1_000));
        assert!(index.heap_bytes() < room, "room for 3,000 is too much for 1,000");
        for name in 0..1_000 {
            assert!(index.find(spread(name), |slot| slot % 1_000 == name).is_some());
        }
    }
}
