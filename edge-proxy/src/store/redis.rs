//! The stock in a Redis server with the module.
//!
//! Each worker thread has a connection of its own, opened on its own runtime, so that the client can put the
//! commands of many requests into one write (see the field notes: 1.1 instead of 8.6 us of Redis a request).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Client, Pipeline, Value};

use super::answer::{self, HoldView, SaleView};
use super::command::Command;
use super::commit::GroupCommit;
use super::link::{Gate, Link, LinkTimes};
use super::{Called, SaleStore, StoreError};
use crate::config::{DurabilityConfig, RedisConfig, millis};
use crate::metrics;

/// Speaks to the module.
pub struct RedisStore {
    number: u64,
    client: Client,
    times: LinkTimes,
    durability: DurabilityConfig,
    gate: Arc<Gate>,
}

/// What one thread has of one store.
#[derive(Clone)]
struct Desk {
    link: Arc<Link>,
    commits: Option<Arc<GroupCommit>>,
}

thread_local! {
    /// By store: tests have several in one thread.
    static DESKS: RefCell<HashMap<u64, Desk>> = RefCell::new(HashMap::new());
}

impl RedisStore {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// The URL is malformed or its secret cannot be read.
    pub fn new(config: &RedisConfig, durability: &DurabilityConfig) -> anyhow::Result<Self> {
        static STORES: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            number: STORES.fetch_add(1, Ordering::Relaxed),
            client: config.client()?,
            times: LinkTimes {
                connect: config.connect_timeout(),
                response: config.timeout(),
                rest: millis(config.retry_after_failure_ms),
            },
            durability: durability.clone(),
            gate: Arc::new(Gate::new()),
        })
    }

    fn desk(&self) -> Desk {
        DESKS.with_borrow_mut(|desks| desks.entry(self.number).or_insert_with(|| self.new_desk()).clone())
    }

    fn new_desk(&self) -> Desk {
        let link = |times| Link::new(self.client.clone(), times, self.gate.clone());
        let commits = (self.durability.replicas > 0).then(|| {
            let wait = millis(self.durability.timeout_ms);
            let response = wait + self.times.response;
            let times = LinkTimes { response, ..self.times };
            // One batch may be under way when a command comes: it waits for that one and its own.
            Arc::new(GroupCommit::start(link(times), self.durability.replicas, wait, response * 2))
        });
        Desk { link: Arc::new(link(self.times)), commits }
    }

    /// Reserves under the client's own id: the hold is looked up in the same write, which tells a repeat
    /// from the first time.
    async fn reserve_named(&self, key: &[u8], id: &[u8], command: &Command) -> Result<Called, StoreError> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("FLASH.HOLD").arg(key).arg(id);
        pipeline.add_command(command.encode(key));
        let replies = self.desk().link.send_all(&pipeline, 2).await?;
        let [before, reply] = <[Value; 2]>::try_from(replies)
            .map_err(|replies| StoreError::Nonsense(format!("{} replies to 2 commands", replies.len())))?;
        Ok(Called { answer: answer::answer(reply)?, repeated: answer::hold(before)?.is_some(), safe: true })
    }

    async fn call_once(&self, key: &[u8], command: &Command) -> Result<Called, StoreError> {
        let desk = self.desk();
        let (reply, safe) = match (&desk.commits, command) {
            (_, Command::Reserve { id: Some(id), .. }) => return self.reserve_named(key, id, command).await,
            (Some(commits), command) if command.is_a_promise() => commits.send(command.encode(key)).await?,
            _ => (desk.link.send(&command.encode(key)).await?, true),
        };
        Ok(Called { answer: answer::answer(reply)?, repeated: false, safe })
    }
}

#[async_trait]
impl SaleStore for RedisStore {
    async fn call(&self, key: &[u8], command: &Command) -> Result<Called, StoreError> {
        let timer = metrics::REDIS_SECONDS.with_label_values(&[command.name()]).start_timer();
        let mut result = self.call_once(key, command).await;
        // A connection may turn out to be dead only when it is used. What can be repeated without harm is
        // tried once more, if the first attempt has not used up the time already.
        let soon = Duration::from_secs_f64(timer.stop_and_record()) < self.times.response / 2;
        if soon && command.may_be_repeated() && matches!(result, Err(StoreError::Unknown(_))) {
            result = self.call_once(key, command).await.map_err(|error| match error {
                // Not sent this time, but the first attempt may have been heard.
                StoreError::Down(why) => StoreError::Unknown(why),
                error => error,
            });
        }
        count(command.name(), &result);
        result
    }

    async fn hold(&self, key: &[u8], id: &[u8]) -> Result<Option<HoldView>, StoreError> {
        let mut cmd = redis::cmd("FLASH.HOLD");
        cmd.arg(key).arg(id);
        let link = self.desk().link;
        let mut result = link.send(&cmd).await;
        if matches!(result, Err(StoreError::Unknown(_))) {
            result = link.send(&cmd).await;
        }
        let result = result.and_then(answer::hold);
        count("hold", &result);
        result
    }

    async fn sale(&self, key: &[u8]) -> Result<(SaleView, i64), StoreError> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("TIME");
        pipeline.cmd("FLASH.INFO").arg(key);
        let sent_ms = unix_ms();
        let result = self.desk().link.send_all(&pipeline, 2).await.and_then(|replies| {
            let [time, info] = <[Value; 2]>::try_from(replies)
                .map_err(|replies| StoreError::Nonsense(format!("{} replies to 2 commands", replies.len())))?;
            // The server read its clock about half-way between our two looks.
            let here_ms = sent_ms.midpoint(unix_ms()) as i64;
            let offset_ms = server_ms(&time).map_or(0, |there_ms| there_ms - here_ms);
            Ok((answer::sale(info)?, offset_ms))
        });
        count("info", &result);
        result
    }

    async fn keys(&self, prefix: &[u8], max: usize) -> Result<Vec<Bytes>, StoreError> {
        let pattern = [&glob_escape(prefix)[..], b"*"].concat();
        let mut keys = Vec::new();
        let mut cursor = 0u64;
        // A bound on rounds too: a server full of other keys must not be walked to the end.
        for _ in 0..SCAN_ROUNDS_MAX {
            let mut cmd = redis::cmd("SCAN");
            cmd.arg(cursor).arg("MATCH").arg(&pattern[..]).arg("COUNT").arg(SCAN_COUNT);
            let reply = self.desk().link.send(&cmd).await?;
            let (next, found): (u64, Vec<Vec<u8>>) = reply
                .extract_error()
                .and_then(|reply| redis::from_redis_value(reply).map_err(Into::into))
                .map_err(|error| StoreError::Nonsense(error.to_string()))?;
            keys.extend(found.into_iter().map(Bytes::from));
            cursor = next;
            if cursor == 0 || keys.len() >= max {
                break;
            }
        }
        keys.truncate(max);
        Ok(keys)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        match self.desk().link.send(&redis::cmd("PING")).await? {
            Value::ServerError(error) => Err(answer::server_error(error.code(), error.details().unwrap_or_default())),
            _ => Ok(()),
        }
    }
}

const SCAN_COUNT: usize = 1000;
const SCAN_ROUNDS_MAX: usize = 1000;

fn count<T>(command: &str, result: &Result<T, StoreError>) {
    let outcome = match result {
        Ok(_) => "ok",
        Err(StoreError::Down(_)) => "down",
        Err(StoreError::Unknown(_)) => "unknown",
        Err(StoreError::NoSale) => "no-sale",
        Err(StoreError::Full(_)) => "full",
        Err(StoreError::Misuse(_)) => "misuse",
        Err(StoreError::Nonsense(_)) => "nonsense",
    };
    metrics::REDIS_CALLS.with_label_values(&[command, outcome]).inc();
}

/// Unix milliseconds by this machine's clock.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn server_ms(time: &Value) -> Option<i64> {
    let (seconds, micros): (i64, i64) = redis::from_redis_value(time.clone()).ok()?;
    Some(seconds * 1000 + micros / 1000)
}

/// A prefix as a pattern that matches nothing but itself.
pub fn glob_escape(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len());
    for byte in prefix {
        if b"*?[]^\\".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_no_pattern() {
        assert_eq!(glob_escape(b"sale:"), b"sale:");
        assert_eq!(glob_escape(b"a*[b]"), b"a\\*\\[b\\]");
    }

    #[test]
    fn the_servers_clock_is_read() {
        let time = Value::Array(vec![Value::BulkString(b"1700000000".to_vec()), Value::BulkString(b"123456".to_vec())]);
        assert_eq!(server_ms(&time), Some(1_700_000_000_123));
        assert_eq!(server_ms(&Value::Nil), None);
    }
}
