//! No order leaves before it is safe (the contract's section 7).

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use super::link::{command, items, unexpected, whole};

/// Who must have a write before it counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Safety {
    /// Replicas that must have acknowledged it.
    pub replicas: u32,
    /// Whether the server's own append-only file must be on disk (`WAITAOF`, Redis 7.2).
    pub local_fsync: bool,
    /// How long one wait may take; then it is begun again.
    pub timeout: Duration,
}

impl Safety {
    /// Whether there is anything to wait for.
    pub fn is_asked_for(&self) -> bool {
        self.replicas > 0 || self.local_fsync
    }

    /// Waits for everything that was written before the last write on this connection.
    /// `false`: not acknowledged in time.
    pub async fn wait(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        let timeout = self.timeout.as_millis().max(1) as u64;
        if !self.local_fsync {
            let wait = command(&["WAIT"]).arg(self.replicas).arg(timeout).to_owned();
            let acknowledged: u32 = wait.query_async(connection).await?;
            return Ok(acknowledged >= self.replicas);
        }
        let wait = command(&["WAITAOF", "1"]).arg(self.replicas).arg(timeout).to_owned();
        let answer: Value = wait.query_async(connection).await?;
        let counts: Vec<_> = items(answer)?.into_iter().filter_map(whole).collect();
        match counts[..] {
            [local, replicas] => Ok(local >= 1 && replicas >= i64::from(self.replicas)),
            _ => Err(unexpected("WAITAOF answers two numbers")),
        }
    }
}
