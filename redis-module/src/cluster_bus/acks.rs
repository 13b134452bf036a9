//! When replicas have what this primary has granted. A total is told to its receiver only then: otherwise a failover
//! could undo the debit of units that another shard has sold.

use crate::cluster::Replication;

/// A primary that has just lost its last replica may itself be the one that was replaced, and not know it yet (it
/// was stopped, or cut off). It then grants nothing that counts for so long.
pub(super) const LONELY_MS: u64 = 15_000;

/// A grant that is not known to be safe.
pub(super) struct Pending {
    pub key: Vec<u8>,
    pub sku: Box<[u8]>,
    pub receiver: u32,
    pub total: u64,
    /// What the primary had sent when the grant was surely among it. `None` until then: within the callback that
    /// writes, a write has not been sent yet.
    pub offset: Option<u64>,
}

#[derive(Default)]
pub(super) struct Acks {
    pub pending: Vec<Pending>,
    /// When a replica was last seen.
    seen_ms: Option<u64>,
    /// When replicas were last asked.
    asked_ms: u64,
    /// Since when something has been pending all the time.
    pub waiting_since_ms: Option<u64>,
}

impl Acks {
    /// Everything up to this offset is safe. `demanded`: replicas that must have it; 0 for all that are connected.
    pub fn safe_offset(&mut self, replication: &Replication, demanded: usize, now_ms: u64) -> Option<u64> {
        let mut acknowledged = replication.acknowledged.clone();
        acknowledged.sort_unstable_by(|left, right| right.cmp(left));
        if !acknowledged.is_empty() {
            self.seen_ms = Some(now_ms);
        }
        match demanded {
            0 if acknowledged.is_empty() => {
                let lonely_for_long = self.seen_ms.is_none_or(|seen_ms| seen_ms + LONELY_MS <= now_ms);
                lonely_for_long.then_some(replication.offset)
            }
            0 => acknowledged.last().copied(),
            _ => acknowledged.get(demanded - 1).copied(),
        }
    }

    /// Marks what has been sent by now, and takes out what is safe.
    pub fn settle(&mut self, replication: &Replication, safe_offset: Option<u64>) -> Vec<Pending> {
        for pending in &mut self.pending {
            pending.offset.get_or_insert(replication.offset);
        }
        let Some(safe_offset) = safe_offset else { return Vec::new() };
        self.pending.extract_if(.., |pending| pending.offset.is_some_and(|offset| offset <= safe_offset)).collect()
    }

    /// Whether replicas should be asked now.
    pub fn should_ask(&mut self, replication: &Replication, now_ms: u64) -> bool {
        const AGAIN_AFTER_MS: u64 = 100;
        let newest = self.pending.iter().filter_map(|pending| pending.offset).max().unwrap_or(0);
        let first = newest == replication.offset;
        let should = !replication.acknowledged.is_empty() && (first || self.asked_ms + AGAIN_AFTER_MS <= now_ms);
        if should {
            self.asked_ms = now_ms;
        }
        should
    }
}
