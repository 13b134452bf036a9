//! Reads one stream: first what was handed out and never acknowledged, then what is new.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::entry::{Entry, EntryId};
use super::lease::Lease;
use super::link::{bytes, command, entries, items, unexpected};
use super::metrics::StreamMetrics;
use super::names::StreamNames;
use super::safety::Safety;

/// Most entries read in one command.
const BATCH: usize = 100;
/// How long a read waits for something new.
pub const BLOCK: Duration = Duration::from_secs(1);

/// An entry that is safe to deliver, and the room it takes until it is settled.
pub struct Arrival {
    pub entry: Entry,
    pub room: OwnedSemaphorePermit,
}

/// Entries read and not yet written down as settled.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<HashSet<EntryId>>);

impl InFlight {
    /// Forgets entries that are settled.
    pub fn remove(&self, settled: &[EntryId]) {
        let mut known = self.lock();
        for id in settled {
            known.remove(id);
        }
    }

    /// Takes an entry in; `false` if it is under way already.
    fn insert(&self, id: EntryId) -> bool {
        self.lock().insert(id)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<EntryId>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Why reading ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadEnd {
    /// Another relay owns the stream.
    LeaseLost,
    /// Nobody takes arrivals any more.
    NoTaker,
}

/// The reading side of one stream, with a connection of its own: it blocks.
pub struct Reader<'a> {
    pub names: &'a StreamNames,
    pub group: &'a str,
    pub consumer: &'a str,
    pub safety: Safety,
    pub lease: &'a Lease,
    pub metrics: &'a StreamMetrics,
    pub in_flight: &'a InFlight,
    pub room: Arc<Semaphore>,
    pub feed: mpsc::Sender<Vec<Arrival>>,
    /// Entries that somebody was handed and that lie untouched for so long are taken up again.
    pub stray_after: Duration,
}

impl Reader<'_> {
    /// Reads until something ends it.
    pub async fn run(&self, connection: &mut MultiplexedConnection) -> RedisResult<ReadEnd> {
        // Whoever owns the stream owns all that is pending in it, however fresh.
        if let Some(end) = self.take_up(Duration::ZERO, connection).await? {
            return Ok(end);
        }
        let mut swept_at = Instant::now();
        loop {
            if swept_at.elapsed() > self.stray_after {
                swept_at = Instant::now();
                if let Some(end) = self.take_up(self.stray_after, connection).await? {
                    return Ok(end);
                }
            }
            let Some(room) = self.make_room().await else {
                return Ok(ReadEnd::NoTaker);
            };
            let fresh = self.read_new(room.num_permits(), connection).await?;
            if let Some(end) = self.hand_on(fresh, room, connection).await? {
                return Ok(end);
            }
        }
    }

    /// Takes up entries of consumers that died, of this one before a restart, and strays.
    async fn take_up(&self, idle: Duration, connection: &mut MultiplexedConnection) -> RedisResult<Option<ReadEnd>> {
        let mut cursor = b"0-0".to_vec();
        loop {
            let Some(room) = self.make_room().await else {
                return Ok(Some(ReadEnd::NoTaker));
            };
            let mut claim = command(&["XAUTOCLAIM"]);
            claim.arg(&self.names.orders).arg(self.group).arg(self.consumer);
            claim.arg(idle.as_millis() as u64).arg(&cursor);
            claim.arg("COUNT").arg(room.num_permits());
            let mut answer = items(claim.query_async(connection).await?)?.into_iter();
            let next = answer.next().and_then(bytes);
            cursor = next.ok_or_else(|| unexpected("XAUTOCLAIM answers a cursor"))?;
            let claimed = entries(answer.next().unwrap_or_default())?;
            self.tell_vanished(items(answer.next().unwrap_or_default())?.len());
            if let Some(end) = self.hand_on_claimed(claimed, room, connection).await? {
                return Ok(Some(end));
            }
            if cursor == b"0-0" {
                return Ok(None);
            }
        }
    }

    async fn hand_on_claimed(
        &self,
        mut claimed: Vec<Entry>,
        room: OwnedSemaphorePermit,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Option<ReadEnd>> {
        claimed.retain(|entry| !self.in_flight.lock().contains(&entry.id));
        if !claimed.is_empty() {
            log::info!("{}: {} entries taken up again", self.names.label(), claimed.len());
            self.metrics.claimed.inc_by(claimed.len() as u64);
        }
        self.hand_on(claimed, room, connection).await
    }

    fn tell_vanished(&self, count: usize) {
        if count > 0 {
            log::error!("{}: {count} entries were deleted before they were delivered", self.names.label());
            self.metrics.vanished.inc_by(count as u64);
        }
    }

    async fn read_new(&self, count: usize, connection: &mut MultiplexedConnection) -> RedisResult<Vec<Entry>> {
        let mut read = command(&["XREADGROUP", "GROUP", self.group, self.consumer]);
        read.arg("COUNT").arg(count);
        read.arg("BLOCK").arg(BLOCK.as_millis() as u64);
        read.arg("STREAMS").arg(&self.names.orders).arg(">");
        let answer: Value = read.query_async(connection).await?;
        // A list of streams (one here), each with its name and its entries; a map in the newer protocol.
        let stream = match answer {
            Value::Map(streams) => streams.into_iter().next().map(|(_, list)| list),
            Value::Nil => None,
            other => match items(other)?.into_iter().next() {
                Some(stream) => items(stream)?.into_iter().nth(1),
                None => None,
            },
        };
        stream.map_or_else(|| Ok(Vec::new()), entries)
    }

    /// Waits until the batch is safe, then hands it on, each entry with its part of the room.
    async fn hand_on(
        &self,
        batch: Vec<Entry>,
        mut room: OwnedSemaphorePermit,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Option<ReadEnd>> {
        if batch.is_empty() {
            return Ok(None);
        }
        if !self.make_safe(connection).await? {
            return Ok(Some(ReadEnd::LeaseLost));
        }
        let fresh = batch.into_iter().filter(|entry| self.in_flight.insert(entry.id));
        let arrivals = fresh.filter_map(|entry| {
            let room = room.split(1)?;
            Some(Arrival { entry, room })
        });
        let taken = self.feed.send(arrivals.collect()).await;
        Ok(taken.is_err().then_some(ReadEnd::NoTaker))
    }

    /// Renews the lease and waits for replicas or the disk. `WAIT` covers what was written before the last write
    /// of its own connection; the renewal is that write. `false`: the lease is lost.
    async fn make_safe(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        loop {
            if !self.lease.take(connection).await? {
                return Ok(false);
            }
            if !self.safety.is_asked_for() || self.safety.wait(connection).await? {
                return Ok(true);
            }
            log::warn!("{}: orders wait for an acknowledgement of {:?}", self.names.label(), self.safety);
            self.metrics.unsafe_waits.inc();
        }
    }

    /// Room for a batch, at least for one entry.
    async fn make_room(&self) -> Option<OwnedSemaphorePermit> {
        let mut room = Arc::clone(&self.room).acquire_owned().await.ok()?;
        let more = self.room.available_permits().min(BATCH - 1);
        if let Ok(rest) = Arc::clone(&self.room).try_acquire_many_owned(more as u32) {
            room.merge(rest);
        }
        Some(room)
    }
}
