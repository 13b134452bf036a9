//! What is settled downstream and not yet written down in Redis.
//!
//! The ledger outlives a lost connection: what the receiver has taken is acknowledged as soon as Redis is back,
//! before anything is read again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;

use super::entry::{Entry, EntryId};
use super::link::{command, script};
use super::names::StreamNames;

/// One that is buried already (the answer was lost, and it is tried again) is not buried twice.
const BURY: &str = script!(
    "if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end \
    redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3)) return 1"
);

/// Most entries settled in one command.
const BATCH: usize = 128;

/// How an entry ended.
#[derive(Debug, Clone)]
pub enum Settled {
    /// Taken by the receiver, or not meant for it.
    Done(EntryId),
    /// Given up.
    Dead { entry: Entry, reason: String, tries: u32 },
}

impl Settled {
    /// Which entry it is.
    pub fn id(&self) -> EntryId {
        match self {
            Self::Done(id) => *id,
            Self::Dead { entry, .. } => entry.id,
        }
    }
}

/// Settled entries in the order they were settled.
#[derive(Debug, Default)]
pub struct Ledger {
    open: Mutex<VecDeque<Settled>>,
    added: Notify,
}

impl Ledger {
    /// Notes that an entry is settled.
    pub fn add(&self, settled: Settled) {
        self.open().push_back(settled);
        self.added.notify_one();
    }

    /// Waits until there is something to write down.
    pub async fn has_open(&self) {
        while self.open().is_empty() {
            self.added.notified().await;
        }
    }

    /// Writes down what is open, at most a batch; gives back what was written. What fails stays open.
    pub async fn write_down(
        &self,
        names: &StreamNames,
        group: &str,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Vec<EntryId>> {
        let batch: Vec<_> = self.open().iter().take(BATCH).cloned().collect();
        acknowledge(&batch, names, group, connection).await?;
        for settled in &batch {
            if let Settled::Dead { entry, reason, tries } = settled {
                bury(entry, reason, *tries, names, group, connection).await?;
            }
        }
        // Only this function takes entries out, and others are added at the end.
        self.open().drain(..batch.len());
        Ok(batch.iter().map(Settled::id).collect())
    }

    fn open(&self) -> MutexGuard<'_, VecDeque<Settled>> {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

async fn acknowledge(
    batch: &[Settled],
    names: &StreamNames,
    group: &str,
    connection: &mut MultiplexedConnection,
) -> RedisResult<()> {
    let done: Vec<_> = batch.iter().filter(|settled| matches!(settled, Settled::Done(_))).collect();
    if done.is_empty() {
        return Ok(());
    }
    let mut acknowledge = command(&["XACK"]);
    acknowledge.arg(&names.orders).arg(group);
    for settled in done {
        acknowledge.arg(settled.id().to_string());
    }
    acknowledge.query_async(connection).await
}

/// Moves an entry to the dead letters: its own fields, and why it is there. In one step, so that it is in exactly
/// one of the two places.
async fn bury(
    entry: &Entry,
    reason: &str,
    tries: u32,
    names: &StreamNames,
    group: &str,
    connection: &mut MultiplexedConnection,
) -> RedisResult<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut bury = command(&["EVAL", BURY, "2"]);
    bury.arg(&names.orders).arg(&names.dead);
    bury.arg(group).arg(entry.id.to_string());
    for (name, value) in &entry.fields {
        bury.arg(name).arg(value);
    }
    bury.arg("dead_entry").arg(entry.id.to_string());
    bury.arg("dead_reason").arg(reason);
    bury.arg("dead_tries").arg(tries);
    bury.arg("dead_at").arg(now.as_millis() as u64);
    bury.exec_async(connection).await
}
