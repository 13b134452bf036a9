//! What a thread looked up last in a cache that all threads share. In a rush nearly all requests are for one sale, and
//! such a cache hashes its name, reads a clock and notes the use for each of them.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// So often it is taken without asking the cache, which would else forget what is used all the time.
const USES_MAX: u32 = 64;

/// Tells caches apart: one thread may meet several in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(u64);

impl Owner {
    pub fn new() -> Self {
        static OWNERS: AtomicU64 = AtomicU64::new(0);
        Self(OWNERS.fetch_add(1, Ordering::Relaxed))
    }
}

/// One thread's last find.
pub struct Recent<T>(RefCell<Option<Found<T>>>);

struct Found<T> {
    owner: Owner,
    key: Bytes,
    value: T,
    uses: u32,
}

impl<T: Clone> Recent<T> {
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// What was found for `key` a moment ago, or what `find` finds now.
    pub fn get(&self, owner: Owner, key: &[u8], find: impl FnOnce() -> Option<T>) -> Option<T> {
        let mut last = self.0.borrow_mut();
        if let Some(found) = last.as_mut()
            && found.owner == owner
            && found.key == key
            && found.uses < USES_MAX
        {
            found.uses += 1;
            return Some(found.value.clone());
        }
        let value = find()?;
        *last = Some(Found { owner, key: Bytes::copy_from_slice(key), value: value.clone(), uses: 0 });
        Some(value)
    }

    /// The next one to ask looks again.
    pub fn forget(&self) {
        *self.0.borrow_mut() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_find_is_taken_for_a_while() {
        let recent = Recent::new();
        let (one, other) = (Owner::new(), Owner::new());
        assert_eq!(recent.get(one, b"a", || None), None::<u32>);
        assert_eq!(recent.get(one, b"a", || Some(1)), Some(1));
        for _ in 0..USES_MAX {
            assert_eq!(recent.get(one, b"a", || Some(2)), Some(1));
        }
        assert_eq!(recent.get(one, b"a", || Some(2)), Some(2), "the cache is asked again");
        assert_eq!(recent.get(one, b"b", || Some(3)), Some(3));
        assert_eq!(recent.get(other, b"b", || Some(4)), Some(4));
        recent.forget();
        assert_eq!(recent.get(other, b"b", || Some(5)), Some(5));
    }
}
