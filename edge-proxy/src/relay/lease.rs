//! Which relay delivers a stream.
//!
//! A consumer group alone would hand two entries of one buyer to two relays, which would then overtake each other.
//! So one relay at a time owns a stream, by a key that lives in the stream's slot and goes away by itself when
//! the relay dies. A try begins only if the lease, by this process's own monotonic clock, outlives the try:
//! a relay that was stopped and wakes up does not deliver beside its successor.

use std::time::{Duration, Instant};

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;

use super::link::{command, script};

/// Takes or renews the lease unless somebody else has it. A write in either case, so that a `WAIT` on the same
/// connection covers everything that was written before it.
const TAKE: &str = script!(
    "local owner = redis.call('GET', KEYS[1]) \
    if owner and owner ~= ARGV[1] then return 0 end \
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1"
);

const GIVE_BACK: &str =
    script!("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0");

/// One relay's claim to one stream.
pub struct Lease {
    key: Vec<u8>,
    owner: String,
    length: Duration,
    /// Until when this process may believe that it owns the stream.
    until: watch::Sender<Instant>,
}

impl Lease {
    /// A lease that is not taken yet.
    pub fn new(key: &[u8], owner: &str, length: Duration) -> Self {
        Self { key: key.to_vec(), owner: owner.to_owned(), length, until: watch::Sender::new(Instant::now()) }
    }

    /// Takes or renews it. `false`: another relay has it.
    pub async fn take(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        // Counted from before the question: the server counts from later, so it never ends there first.
        let asked_at = Instant::now();
        let mut take = command(&["EVAL", TAKE, "1"]);
        take.arg(&self.key).arg(&self.owner).arg(self.length.as_millis() as u64);
        let taken: bool = take.query_async(connection).await?;
        let until = if taken { asked_at + self.length } else { asked_at };
        self.until.send_modify(|known| *known = if taken { until.max(*known) } else { until });
        Ok(taken)
    }

    /// Lets another relay take over at once.
    pub async fn give_back(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        self.until.send_replace(Instant::now());
        let mut give_back = command(&["EVAL", GIVE_BACK, "1"]);
        give_back.arg(&self.key).arg(&self.owner);
        give_back.query_async(connection).await
    }

    /// Whether the lease lasts for `span` from now.
    pub fn lasts_now(&self, span: Duration) -> bool {
        *self.until.borrow() > Instant::now() + span
    }

    /// Waits until the lease lasts for `span` from now.
    pub async fn lasts(&self, span: Duration) {
        let mut until = self.until.subscribe();
        // The sender lives as long as `self`.
        let _ = until.wait_for(|until| *until > Instant::now() + span).await;
    }
}
