//! Remembers what was used, for as long as it could be used again, in bounded memory.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};

use super::Verdict;

/// The name under which something is remembered: a hash, so that its length is ours.
pub fn name(of: &[u8]) -> [u8; 16] {
    let mut name = [0; 16];
    name.copy_from_slice(&digest(&SHA256, of).as_ref()[..16]);
    name
}

/// Two halves, the older of which is thrown away when it has been full or full of age: each name is remembered for
/// one lifetime at least and two at most.
pub struct Used {
    max: usize,
    halves: Mutex<Halves>,
}

/// How many names are remembered: 16 bytes each and as much again for the table.
const USED_MAX: usize = 1_000_000;

impl Default for Used {
    fn default() -> Self {
        Self::new(USED_MAX)
    }
}

struct Halves {
    young: HashSet<[u8; 16]>,
    old: HashSet<[u8; 16]>,
    turned_at: Instant,
}

impl Used {
    /// Remembers at most `max` names.
    pub fn new(max: usize) -> Self {
        let halves = Halves { young: HashSet::new(), old: HashSet::new(), turned_at: Instant::now() };
        Self { max, halves: Mutex::new(halves) }
    }

    /// Uses `name`: [`Verdict::Solved`] the first time, then [`Verdict::Used`]; [`Verdict::Busy`] if there is no
    /// more room, for to forget would be to let it in again. It is remembered for `life` at least, if all who use
    /// names say the same.
    pub(super) fn take(&self, name: &[u8; 16], life: Duration) -> Verdict {
        let mut halves = self.halves();
        if halves.turned_at.elapsed() >= life {
            halves.old = std::mem::take(&mut halves.young);
            halves.turned_at = Instant::now();
        }
        if halves.young.contains(name) || halves.old.contains(name) {
            return Verdict::Used;
        }
        if halves.young.len() + halves.old.len() >= self.max {
            return Verdict::Busy;
        }
        halves.young.insert(*name);
        Verdict::Solved
    }

    /// Takes a use back.
    pub fn give_back(&self, name: &[u8; 16]) {
        let mut halves = self.halves();
        halves.young.remove(name);
        halves.old.remove(name);
    }

    fn halves(&self) -> MutexGuard<'_, Halves> {
        // Nothing in here panics half-way.
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_used_once_and_room_is_not_made_by_forgetting() {
        let used = Used::new(2);
        let hour = Duration::from_secs(3600);
        let [a, b, c] = [b"a", b"b", b"c"].map(|of| name(of));
        assert_eq!((used.take(&a, hour), used.take(&a, hour)), (Verdict::Solved, Verdict::Used));
        assert_eq!((used.take(&b, hour), used.take(&c, hour)), (Verdict::Solved, Verdict::Busy));
        assert_eq!(used.take(&a, hour), Verdict::Used);
        used.give_back(&a);
        assert_eq!((used.take(&c, hour), used.take(&a, hour)), (Verdict::Solved, Verdict::Busy));
    }

    #[test]
    fn what_is_long_over_makes_room() {
        let (used, life) = (Used::new(1), Duration::from_millis(20));
        assert_eq!(used.take(&name(b"a"), life), Verdict::Solved);
        let began = Instant::now();
        while used.take(&name(b"b"), life) != Verdict::Solved {
            assert!(began.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(began.elapsed() >= Duration::from_millis(20), "forgotten too early");
    }
}
