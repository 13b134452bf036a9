//! What goes on beside reading: renewing the lease, trimming what is done with, measuring the lag.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};
use tokio::time::sleep;

use super::entry::EntryId;
use super::lease::Lease;
use super::link::{bytes, command, entries, items, named, unexpected, whole};
use super::metrics::StreamMetrics;
use super::names::StreamNames;
use super::trim::{GroupProgress, trim_bound};

/// Looks after one stream.
pub struct Keeper<'a> {
    pub names: &'a StreamNames,
    pub group: &'a str,
    pub lease: &'a Lease,
    pub metrics: &'a StreamMetrics,
    pub renew_every: Duration,
    pub survey_every: Duration,
    pub trims: bool,
}

/// A group as `XINFO GROUPS` shows it.
struct Group {
    name: Vec<u8>,
    progress: GroupProgress,
    pending: i64,
    /// Entries after the last delivered one, where the server can tell.
    undelivered: Option<i64>,
}

impl Keeper<'_> {
    /// Works until the lease is lost.
    pub async fn run(&self, mut connection: MultiplexedConnection) -> RedisResult<()> {
        let mut renewed_at = Instant::now();
        let mut trimmed_to = None;
        loop {
            if renewed_at.elapsed() >= self.renew_every {
                renewed_at = Instant::now();
                if !self.lease.take(&mut connection).await? {
                    return Ok(());
                }
            }
            trimmed_to = self.survey(trimmed_to, &mut connection).await?;
            sleep(self.survey_every.min(self.renew_every)).await;
        }
    }

    async fn survey(
        &self,
        trimmed_to: Option<EntryId>,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Option<EntryId>> {
        let groups = self.groups(connection).await?;
        if let Some(own) = groups.iter().find(|group| group.name == self.group.as_bytes()) {
            self.measure(own, connection).await?;
        }
        let progress: Vec<_> = groups.iter().map(|group| group.progress).collect();
        let bound = trim_bound(&progress).filter(|_| self.trims);
        if let Some(bound) = bound.filter(|bound| Some(*bound) != trimmed_to) {
            let mut trim = command(&["XTRIM"]);
            trim.arg(&self.names.orders).arg("MINID").arg(bound.to_string());
            trim.query_async::<Value>(connection).await?;
        }
        Ok(bound)
    }

    async fn groups(&self, connection: &mut MultiplexedConnection) -> RedisResult<Vec<Group>> {
        let mut info = command(&["XINFO", "GROUPS"]);
        info.arg(&self.names.orders);
        let answer: Value = info.query_async(connection).await?;
        let mut groups = Vec::new();
        for listed in items(answer)? {
            let mut group = group_of(&items(listed)?).ok_or_else(|| unexpected("XINFO GROUPS"))?;
            if group.pending > 0 {
                group.progress.oldest_pending = self.oldest_pending(&group.name, connection).await?;
            }
            groups.push(group);
        }
        Ok(groups)
    }

    async fn oldest_pending(
        &self,
        group: &[u8],
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Option<EntryId>> {
        let mut pending = command(&["XPENDING"]);
        pending.arg(&self.names.orders).arg(group);
        let summary = items(pending.query_async(connection).await?)?;
        let smallest = summary.into_iter().nth(1).and_then(bytes);
        Ok(smallest.and_then(|id| EntryId::parse(&id)))
    }

    async fn measure(&self, own: &Group, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let undelivered = match own.undelivered {
            Some(count) => count,
            None => self.count_after(own.progress.last_delivered, connection).await?,
        };
        self.metrics.lag_entries.set(own.pending + undelivered);
        let oldest = match own.progress.oldest_pending {
            None if undelivered > 0 => self.first_after(own.progress.last_delivered, connection).await?,
            pending => pending,
        };
        let age_ms = match oldest {
            Some(id) => server_time_ms(connection).await?.saturating_sub(id.ms),
            None => 0,
        };
        self.metrics.lag_seconds.set(age_ms as f64 / 1000.0);
        Ok(())
    }

    async fn first_after(&self, id: EntryId, connection: &mut MultiplexedConnection) -> RedisResult<Option<EntryId>> {
        let mut range = command(&["XRANGE"]);
        range.arg(&self.names.orders).arg(format!("({id}")).arg("+");
        range.arg("COUNT").arg(1);
        let first = entries(range.query_async(connection).await?)?;
        Ok(first.first().map(|entry| entry.id))
    }

    /// The server cannot tell the lag after entries were deleted by hand: then everything counts, or nothing.
    async fn count_after(&self, id: EntryId, connection: &mut MultiplexedConnection) -> RedisResult<i64> {
        if self.first_after(id, connection).await?.is_none() {
            return Ok(0);
        }
        let mut length = command(&["XLEN"]);
        length.arg(&self.names.orders);
        length.query_async(connection).await
    }
}

fn group_of(listed: &[Value]) -> Option<Group> {
    let last_delivered = bytes(named(listed, "last-delivered-id")?)?;
    Some(Group {
        name: bytes(named(listed, "name")?)?,
        pending: whole(named(listed, "pending")?)?,
        undelivered: named(listed, "lag").and_then(whole),
        progress: GroupProgress { last_delivered: EntryId::parse(&last_delivered)?, oldest_pending: None },
    })
}

async fn server_time_ms(connection: &mut MultiplexedConnection) -> RedisResult<u64> {
    let (seconds, micros): (u64, u64) = command(&["TIME"]).query_async(connection).await?;
    Ok(seconds * 1_000 + micros / 1_000)
}
