//! An index from hashed names to slots that grows a little at a time.
//!
//! One big table stops the server while it doubles: measured at 740 ms on the way to 2 million holds. So there are many
//! small tables, groups, and one that is full is split in two. That is the longest step there is: to hash some two
//! hundred names again. All groups have the same number of bits of the hash in common, or one more where they have been
//! split since all had been (linear hashing, Litwin 1980, but it splits what is full and not what is next).

use crate::heap;
use hashbrown::HashTable;

/// Groups at first, and so always this times a power of two. Tables have powers of two as well, so the choice
/// says at which numbers they are full: with 5 it is a million, its halves and its doubles (195 slots of 224);
/// with 1 they would just have been split there, and a hold would take 7 bytes more.
const BASE_GROUPS: usize = 5;
/// A group of so many slots is full: so many fit a table of 256 buckets.
pub(super) const GROUP_FULL: usize = 224;
/// Most slots of a group, on average, when groups are made at once: few are full then.
const GROUP_MEAN: usize = 200;
/// Below this mean two groups that were one are one again.
const GROUP_SPARSE: usize = 48;
/// Lowest bit of a hash that chooses the group.
const GROUP_SHIFT: u32 = 24;

#[derive(Debug)]
pub(crate) struct Index {
    /// Those of the level, then, as soon as one of them is split, the second halves of all: empty where it is whole.
    groups: Vec<HashTable<u32>>,
    /// Bits of the hash that choose one of the groups of the level, beside its base.
    mask: usize,
    /// Which groups of the level are split. Beyond the end there is none.
    is_split: Vec<bool>,
    /// How many are.
    splits: usize,
    len: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self::with_room_for(0)
    }
}

impl Index {
    /// An index of names that are known beforehand, as (hash, slot). Of names with equal hashes it takes the first, and
    /// gives the others back to be added one by one.
    ///
    /// It is filled in the order of its groups: each is in the processor's cache while it is filled, and no name is
    /// looked at but those of the few groups that must be split, by `hash_of`.
    pub fn build(mut names: Vec<(u64, u32)>, hash_of: impl Fn(u32) -> u64) -> (Self, Vec<(u64, u32)>) {
        let mut index = Self::with_room_for(names.len());
        let group_first = 64 - GROUP_SHIFT - index.mask.count_ones();
        names.sort_unstable_by_key(|&(hash, _)| hash.rotate_left(group_first));
        let mut repeated = Vec::new();
        let mut last = None;
        for (hash, slot) in names {
            if last.replace(hash) == Some(hash) {
                repeated.push((hash, slot));
            } else {
                index.insert(hash, slot, &hash_of);
            }
        }
        (index, repeated)
    }

    /// An empty index of as many groups as if it had grown to `len` names, with tables to match.
    fn with_room_for(len: usize) -> Self {
        let whole = len.div_ceil(BASE_GROUPS * GROUP_MEAN).next_power_of_two();
        let room = if whole == 1 { len / BASE_GROUPS } else { GROUP_FULL };
        let groups = std::iter::repeat_with(|| HashTable::with_capacity(room)).take(whole * BASE_GROUPS).collect();
        Self { groups, mask: whole - 1, is_split: Vec::new(), splits: 0, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Groups of the level.
    fn level(&self) -> usize {
        (self.mask + 1) * BASE_GROUPS
    }

    /// The group of the level that a hash belongs to, and whether to its second half, once there is one. The bits are
    /// taken from the middle of the hash: the table inside uses both ends.
    fn place(&self, hash: u64) -> (usize, bool) {
        const BASE_BITS: u32 = 12;
        let bits = (hash >> GROUP_SHIFT) as usize & u32::MAX as usize;
        let base = ((bits >> (32 - BASE_BITS)) * BASE_GROUPS) >> BASE_BITS;
        ((bits & self.mask) * BASE_GROUPS + base, bits & (self.mask + 1) != 0)
    }

    fn group(&self, hash: u64) -> usize {
        let (group, second) = self.place(hash);
        if second && self.is_split(group) { group + self.level() } else { group }
    }

    fn is_split(&self, group: usize) -> bool {
        self.is_split.get(group).is_some_and(|split| *split)
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
        let mut group = self.group(hash);
        if self.groups[group].len() >= GROUP_FULL && group < self.level() && !self.is_split(group) {
            self.split(group, &hash_of);
            group = self.group(hash);
        }
        self.groups[group].insert_unique(hash, slot, |&slot| hash_of(slot));
        self.len += 1;
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
        if self.len < (self.level() + self.splits) * GROUP_SPARSE {
            self.fold_one(hash_of);
        }
        Some(slot)
    }

    /// Both halves get their final size at once: a table that grows hashes everything again.
    fn split(&mut self, group: usize, hash_of: impl Fn(u32) -> u64) {
        let level = self.level();
        if self.groups.len() == level {
            self.groups.resize_with(2 * level, HashTable::new);
        }
        if self.is_split.len() <= group {
            self.is_split.resize(group + 1, false);
        }
        self.is_split[group] = true;
        self.splits += 1;
        let mut halves = [HashTable::with_capacity(GROUP_FULL), HashTable::with_capacity(GROUP_FULL)];
        for slot in std::mem::take(&mut self.groups[group]) {
            let hash = hash_of(slot);
            let (_, second) = self.place(hash);
            halves[usize::from(second)].insert_unique(hash, slot, |&slot| hash_of(slot));
        }
        [self.groups[group], self.groups[group + level]] = halves;
        if self.splits == level {
            self.mask = self.mask << 1 | 1;
            (self.is_split, self.splits) = (Vec::new(), 0);
        }
    }

    /// Makes the last group that is split whole again.
    fn fold_one(&mut self, hash_of: impl Fn(u32) -> u64) {
        if self.splits == 0 {
            if self.mask == 0 {
                return;
            }
            self.mask >>= 1;
            (self.is_split, self.splits) = (vec![true; self.level()], self.level());
        }
        let Some(group) = self.is_split.iter().rposition(|split| *split) else { return };
        self.is_split.truncate(group);
        self.splits -= 1;
        let level = self.level();
        for slot in std::mem::take(&mut self.groups[group + level]) {
            self.groups[group].insert_unique(hash_of(slot), slot, |&slot| hash_of(slot));
        }
        if self.splits == 0 {
            self.groups.truncate(level);
        }
    }

    /// Builds the index anew if it has far more room than it needs: after [`Index::build`] with many repeated names.
    pub fn fit(&mut self, hash_of: impl Fn(u32) -> u64) {
        if self.mask == 0 || self.len > self.level() * GROUP_MEAN / 2 {
            return;
        }
        let fitting = Self::with_room_for(self.len);
        for slot in std::mem::replace(self, fitting).groups.into_iter().flatten() {
            self.insert(hash_of(slot), slot, &hash_of);
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
        let lists =
            heap::buffer::<HashTable<u32>>(self.groups.capacity()) + heap::buffer::<bool>(self.is_split.capacity());
        tables + lists
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
    fn no_step_hashes_more_than_a_group() {
        let (mut index, mut most) = (Index::default(), 0);
        for slot in 0..2_000_000 {
            let hashed = std::cell::Cell::new(0);
            index.insert(spread(slot), slot, |slot| {
                hashed.set(hashed.get() + 1);
                spread(slot)
            });
            most = most.max(hashed.get());
        }
        assert!(most <= GROUP_FULL, "{most} names were hashed again in one step");
        for slot in 0..2_000_000 {
            let hashed = std::cell::Cell::new(0);
            index.remove(
                spread(slot),
                |known| known == slot,
                |slot| {
                    hashed.set(hashed.get() + 1);
                    spread(slot)
                },
            );
            most = most.max(hashed.get());
        }
        assert!(most <= GROUP_FULL, "{most} names were hashed again in one step");
    }

    #[test]
    fn what_is_built_at_once_is_as_what_has_grown() {
        for len in [0, 1, 900, 921, 20_000, 40_000] {
            let names = (0..len).map(|slot| (spread(slot), slot)).collect();
            let (mut built, repeated) = Index::build(names, spread);
            let mut grown = Index::default();
            (0..len).for_each(|slot| grown.insert(spread(slot), slot, spread));
            assert_eq!((built.len(), repeated.len()), (grown.len(), 0));
            assert!(built.heap_bytes() <= grown.heap_bytes() * 5 / 4 + 64, "{len}");
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
