//! All holds of a sale, found by slot or by id.

use super::arena::Arena;
use super::index::Index;
use super::record::{Content, ItemList, NewContent, Record, State};
use super::slab::Slab;
use crate::memory::Mover;
use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use std::hash::Hasher;

pub(crate) struct HoldStore {
    slab: Slab,
    arena: Arena,
    ids: Index,
    hash_key: HashKey,
}

/// Keys the hash of names: whoever chooses ids cannot choose collisions without knowing it.
struct HashKey {
    own: u64,
    shared: SharedSeed,
}

impl HashKey {
    fn hash(&self, name: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.own, &self.shared);
        hasher.write(name);
        hasher.finish()
    }
}

impl std::fmt::Debug for HoldStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HoldStore").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// What looking for an id has shown.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub hash: u64,
    /// Where it is stored, if it is.
    pub slot: Option<u32>,
}

/// A hold that is to be stored.
pub(crate) struct NewHold<'a> {
    pub content: &'a NewContent<'a>,
    pub state: State,
    /// Deadline or end, see [`Record::time_ms`].
    pub time_ms: u64,
    pub life_ms: u32,
}

impl HoldStore {
    pub fn new(seed: [u64; 2]) -> Self {
        Self {
            slab: Slab::default(),
            arena: Arena::default(),
            ids: Index::default(),
            hash_key: HashKey { own: seed[0], shared: SharedSeed::from_u64(seed[1]) },
        }
    }

    /// The hash of an id or a buyer.
    pub fn hash(&self, name: &[u8]) -> u64 {
        self.hash_key.hash(name)
    }

    /// All remembered ids.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn find(&self, id: &[u8]) -> Option<u32> {
        self.place(id).slot
    }

    /// Where an id is, or will be stored.
    #[inline(always)] // on the way of every request
    pub fn place(&self, id: &[u8]) -> Place {
        let hash = self.hash(id);
        Place { hash, slot: self.ids.find(hash, |slot| self.id(slot) == id) }
    }

    pub fn get(&self, slot: u32) -> &Record {
        self.slab.get(slot)
    }

    pub fn get_mut(&mut self, slot: u32) -> &mut Record {
        self.slab.get_mut(slot)
    }

    pub fn id(&self, slot: u32) -> &[u8] {
        Content::id_of(self.from(slot))
    }

    pub fn buyer(&self, slot: u32) -> &[u8] {
        Content::buyer_of(self.from(slot))
    }

    /// Id, buyer, REF and META, each empty where there is none.
    pub fn texts(&self, slot: u32) -> (&[u8], &[u8], &[u8], &[u8]) {
        Content::texts_of(self.blob(slot))
    }

    pub fn content(&self, slot: u32) -> Content<'_> {
        Content::decode(self.blob(slot))
    }

    pub fn items(&self, slot: u32) -> ItemList {
        Content::items_of(self.from(slot))
    }

    fn blob(&self, slot: u32) -> &[u8] {
        self.arena.get(self.slab.get(slot).blob)
    }

    /// The blob with whatever stands behind it: all that it takes to read names and items.
    fn from(&self, slot: u32) -> &[u8] {
        self.arena.from(self.slab.get(slot).blob)
    }

    /// Stores a hold whose id is not there yet.
    pub fn insert(&mut self, hold: &NewHold<'_>) -> u32 {
        self.insert_at(hold, self.hash(hold.content.id))
    }

    /// Stores a hold whose id is not there yet, and whose hash is known.
    pub fn insert_at(&mut self, hold: &NewHold<'_>, hash: u64) -> u32 {
        debug_assert!(self.find(hold.content.id).is_none() && hash == self.hash(hold.content.id));
        let slot = self.append(hold);
        let (slab, arena, key) = (&self.slab, &self.arena, &self.hash_key);
        self.ids.insert(hash, slot, |slot| key.hash(Content::id_of(arena.from(slab.get(slot).blob))));
        slot
    }

    /// Stores a hold that is not found by its id before [`HoldStore::index_ids`].
    pub fn append(&mut self, hold: &NewHold<'_>) -> u32 {
        let blob = self.arena.push(hold.content.most_bytes(), |out| hold.content.encode(out));
        let mut record = Record::new(blob, hold.state);
        record.set_time_ms(hold.time_ms);
        record.life_ms = hold.life_ms;
        self.slab.insert(record)
    }

    /// Indexes the ids of holds that were appended, from this slot on. `false` if an id stands there twice.
    pub fn index_ids(&mut self, from: u32) -> bool {
        let (slab, arena, key) = (&self.slab, &self.arena, &self.hash_key);
        let id = |slot: u32| Content::id_of(arena.from(slab.get(slot).blob));
        let mut names = (from..slab.end()).map(|slot| (key.hash(id(slot)), slot)).collect();
        if self.ids.len() == 0 {
            (self.ids, names) = Index::build(names, |slot| key.hash(id(slot)));
        }
        for (hash, slot) in names {
            if self.ids.find(hash, |known| id(known) == id(slot)).is_some() {
                return false;
            }
            self.ids.insert(hash, slot, |known| key.hash(id(known)));
        }
        true
    }

    /// Whether no more holds should be stored.
    pub fn is_full(&self) -> bool {
        self.arena.is_full()
    }

    /// Stores other items, another REF, and another META if there is one.
    pub fn rewrite(&mut self, slot: u32, items: &ItemList, (reference, meta): (Option<&[u8]>, Option<&[u8]>)) {
        let old = self.slab.get(slot).blob;
        let bytes = self.arena.get(old).to_vec();
        let mut content = Content::decode(&bytes);
        content.items = items.clone();
        content.reference = reference;
        content.meta = meta.or(content.meta);
        let content = content.as_new();
        let blob = self.arena.push(content.most_bytes(), |out| content.encode(out));
        self.slab.get_mut(slot).blob = blob;
        self.arena.free(old);
        self.compact();
    }

    /// Forgets a hold that is in no list any more.
    pub fn remove(&mut self, slot: u32) {
        let hash = self.hash(self.id(slot));
        let (slab, arena, key) = (&self.slab, &self.arena, &self.hash_key);
        self.ids.remove(
            hash,
            |candidate| candidate == slot,
            |slot| key.hash(Content::id_of(arena.from(slab.get(slot).blob))),
        );
        let blob = self.slab.get(slot).blob;
        self.slab.remove(slot);
        self.arena.free(blob);
        self.compact();
    }

    /// Moves the living entries of one sparse chunk; an entry lives if its id leads back to it.
    fn compact(&mut self) {
        let Some(entries) = self.arena.next_sparse() else { return };
        let living = entries.into_iter().filter_map(|at| {
            let hash = self.hash(Content::id_of(self.arena.from(at)));
            self.ids.find(hash, |slot| self.slab.get(slot).blob == at)
        });
        // All are found before the first is moved: with the last one the chunk goes, and its dead entries too.
        for slot in living.collect::<Vec<_>>() {
            let moved = self.arena.relocate(self.slab.get(slot).blob);
            self.slab.get_mut(slot).blob = moved;
        }
    }

    /// One more than the highest slot in use.
    pub fn end(&self) -> u32 {
        self.slab.end()
    }

    /// Slots in use, in no order that means anything.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        (0..self.slab.end()).filter(|&slot| self.slab.get(slot).state != State::Free)
    }

    /// How many parts [`HoldStore::move_part`] can move.
    pub fn parts(&self) -> usize {
        self.slab.chunks() + self.arena.chunks() + self.ids.groups()
    }

    pub fn move_part(&mut self, at: usize, mover: &mut impl Mover) {
        let Some(at) = at.checked_sub(self.slab.chunks()) else { return self.slab.move_chunk(at, mover) };
        match at.checked_sub(self.arena.chunks()) {
            None => self.arena.move_chunk(at, mover),
            Some(group) => self.ids.move_group(group),
        }
    }

    /// Bytes of heap in use.
    pub fn heap_bytes(&self) -> usize {
        self.slab.heap_bytes() + self.arena.heap_bytes() + self.ids.heap_bytes()
    }
}
