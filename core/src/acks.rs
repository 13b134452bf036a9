//! When replicas have what a primary has granted. A total is told to its receiver only then: otherwise a failover could
//! undo the debit of units that another shard has sold (the contract's section 6).

/// A primary that has just lost its last replica may itself be the one that was replaced, and not know it yet (it
/// was stopped, or cut off). It then grants nothing that counts for so long.
pub const LONELY_MS: u64 = 15_000;
/// Replicas that are slow to answer are asked again after this.
const AGAIN_AFTER_MS: u64 = 100;

/// What replicas have.
#[derive(Debug, Clone, Default)]
pub struct Replication {
    /// Bytes that this primary has sent in all.
    pub offset: u64,
    /// How many of them each connected replica has acknowledged.
    pub acknowledged: Vec<u64>,
}

/// A grant that is not known to be safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The key of the shard that has granted.
    pub key: Vec<u8>,
    /// What the units are of.
    pub sku: Box<[u8]>,
    /// The number of the shard that they are for.
    pub receiver: u32,
    /// All that was ever granted to it.
    pub total: u64,
    /// What the primary had sent when the grant was surely among it. `None` until then: within the callback that
    /// writes, a write has not been sent yet.
    offset: Option<u64>,
}

/// The grants of a primary that wait for replicas.
#[derive(Debug, Default)]
pub struct Acks {
    pending: Vec<Pending>,
    /// When a replica was last seen.
    seen_ms: Option<u64>,
    /// When replicas were last asked.
    asked_ms: u64,
    /// Since when something has been pending all the time.
    waiting_since_ms: Option<u64>,
}

impl Acks {
    /// A grant has just been written.
    pub fn wait_for(&mut self, key: &[u8], sku: &[u8], receiver: u32, total: u64) {
        self.pending.push(Pending { key: key.to_vec(), sku: sku.into(), receiver, total, offset: None });
    }

    /// How many grants wait.
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Since when grants have been waiting without a break; `None`: none waits.
    pub fn note_waiting(&mut self, now_ms: u64) -> Option<u64> {
        self.waiting_since_ms =
            if self.pending.is_empty() { None } else { Some(self.waiting_since_ms.unwrap_or(now_ms)) };
        self.waiting_since_ms
    }

    /// Looks whether there are replicas, also while nothing waits: a primary that had one and lost it is not like one
    /// that never had any.
    pub fn see(&mut self, replication: &Replication, now_ms: u64) {
        if !replication.acknowledged.is_empty() {
            self.seen_ms = Some(now_ms);
        }
    }

    /// Marks what has been sent by now, and takes out what is safe. `demanded`: replicas that must have it; 0 for all
    /// that are connected.
    pub fn settle(&mut self, replication: &Replication, demanded: usize, now_ms: u64) -> Vec<Pending> {
        self.see(replication, now_ms);
        for pending in &mut self.pending {
            pending.offset.get_or_insert(replication.offset);
        }
        let Some(safe_offset) = self.safe_offset(replication, demanded, now_ms) else { return Vec::new() };
        self.pending.extract_if(.., |pending| pending.offset.is_some_and(|offset| offset <= safe_offset)).collect()
    }

    /// Everything up to this offset is safe.
    fn safe_offset(&self, replication: &Replication, demanded: usize, now_ms: u64) -> Option<u64> {
        let mut acknowledged = replication.acknowledged.clone();
        acknowledged.sort_unstable_by(|left, right| right.cmp(left));
        match demanded {
            0 if acknowledged.is_empty() => {
                let lonely_for_long = self.seen_ms.is_none_or(|seen_ms| seen_ms + LONELY_MS <= now_ms);
                lonely_for_long.then_some(replication.offset)
            }
            0 => acknowledged.last().copied(),
            _ => acknowledged.get(demanded - 1).copied(),
        }
    }

    /// Whether replicas should be asked now.
    pub fn should_ask(&mut self, replication: &Replication, now_ms: u64) -> bool {
        let newest = self.pending.iter().filter_map(|pending| pending.offset).max().unwrap_or(0);
        let first = newest == replication.offset;
        let should = !replication.acknowledged.is_empty() && (first || self.asked_ms + AGAIN_AFTER_MS <= now_ms);
        if should {
            self.asked_ms = now_ms;
        }
        should
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(offset: u64, acknowledged: &[u64]) -> Replication {
        Replication { offset, acknowledged: acknowledged.to_vec() }
    }

    fn one_grant() -> Acks {
        let mut acks = Acks::default();
        acks.wait_for(b"sale{0}", b"tee", 1, 5);
        acks
    }

    /// How many grants are safe.
    fn safe(acks: &mut Acks, replication: &Replication, demanded: usize, now_ms: u64) -> usize {
        acks.settle(replication, demanded, now_ms).len()
    }

    #[test]
    fn a_grant_is_safe_once_every_replica_has_all_that_was_sent_with_it() {
        let mut acks = one_grant();
        // What was acknowledged before does not tell of the grant: it is somewhere before offset 100.
        assert_eq!(safe(&mut acks, &replicas(100, &[90, 99]), 0, 1_000), 0);
        assert_eq!(safe(&mut acks, &replicas(150, &[120, 99]), 0, 1_001), 0, "the slowest counts");
        assert_eq!(acks.waiting(), 1);
        assert_eq!(safe(&mut acks, &replicas(150, &[120, 100]), 0, 1_002), 1);
        assert_eq!(acks.waiting(), 0);
    }

    #[test]
    fn what_is_sent_later_does_not_hold_up_what_was_sent_before() {
        let mut acks = one_grant();
        assert_eq!(safe(&mut acks, &replicas(100, &[0]), 0, 1_000), 0);
        acks.wait_for(b"sale{0}", b"tee", 2, 7);
        let told = acks.settle(&replicas(200, &[100]), 0, 1_001);
        assert_eq!(told.iter().map(|pending| (pending.receiver, pending.total)).collect::<Vec<_>>(), [(1, 5)]);
        assert_eq!(acks.waiting(), 1);
    }

    #[test]
    fn as_many_replicas_as_are_demanded_must_have_it() {
        let mut acks = one_grant();
        assert_eq!(safe(&mut acks, &replicas(100, &[100]), 2, 1_000), 0, "one of two");
        assert_eq!(safe(&mut acks, &replicas(100, &[]), 1, 99_000), 0, "however long there is none");
        assert_eq!(safe(&mut acks, &replicas(100, &[50, 100, 100]), 2, 99_001), 1, "the third may be slow");
    }

    #[test]
    fn who_never_had_a_replica_counts_on_itself_at_once() {
        assert_eq!(safe(&mut one_grant(), &replicas(100, &[]), 0, 1_000), 1);
    }

    #[test]
    fn who_has_lost_the_last_replica_grants_nothing_that_counts_for_a_while() {
        let mut acks = Acks::default();
        // Seen while nothing was granted.
        acks.see(&replicas(50, &[50]), 1_000);
        acks.wait_for(b"sale{0}", b"tee", 1, 5);
        for now_ms in [1_001, 9_000, 1_000 + LONELY_MS - 1] {
            assert_eq!(safe(&mut acks, &replicas(100, &[]), 0, now_ms), 0, "at {now_ms}");
        }
        assert_eq!(safe(&mut acks, &replicas(100, &[]), 0, 1_000 + LONELY_MS), 1);
    }

    #[test]
    fn a_replica_that_comes_back_ends_the_wait_and_begins_it_anew() {
        let mut acks = Acks::default();
        acks.see(&replicas(50, &[50]), 1_000);
        acks.wait_for(b"sale{0}", b"tee", 1, 5);
        assert_eq!(safe(&mut acks, &replicas(100, &[]), 0, 9_000), 0);
        assert_eq!(safe(&mut acks, &replicas(100, &[100]), 0, 9_001), 1);
        acks.wait_for(b"sale{0}", b"tee", 1, 6);
        assert_eq!(safe(&mut acks, &replicas(120, &[]), 0, 9_001 + LONELY_MS - 1), 0);
        assert_eq!(safe(&mut acks, &replicas(120, &[]), 0, 9_001 + LONELY_MS), 1);
    }

    #[test]
    fn replicas_are_asked_at_once_and_then_now_and_then() {
        let mut acks = one_grant();
        let settle = |acks: &mut Acks, offset| acks.settle(&replicas(offset, &[0]), 0, 1_000);
        assert!(settle(&mut acks, 100).is_empty());
        assert!(acks.should_ask(&replicas(100, &[0]), 1_000), "the grant is the newest of all");
        assert!(!acks.should_ask(&replicas(130, &[0]), 1_050), "asked a moment ago");
        assert!(acks.should_ask(&replicas(130, &[0]), 1_000 + AGAIN_AFTER_MS));
        assert!(!acks.should_ask(&replicas(130, &[]), 9_000), "nobody is there");
    }

    #[test]
    fn the_wait_is_counted_from_its_first_grant_to_its_last() {
        let mut acks = one_grant();
        assert_eq!((acks.note_waiting(1_000), acks.note_waiting(1_500)), (Some(1_000), Some(1_000)));
        assert_eq!(safe(&mut acks, &replicas(100, &[]), 0, 2_000), 1);
        assert_eq!(acks.note_waiting(2_000), None);
        acks.wait_for(b"sale{0}", b"tee", 1, 6);
        assert_eq!(acks.note_waiting(3_000), Some(3_000));
    }
}
