//! The stock in Redis servers with the module, or with the library of functions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redis::Value;

use super::answer::{self, Answer, HoldView, SaleView};
use super::command::Command;
use super::fleet::Fleet;
use super::info::ShardInfo;
use super::layout::{Layout, Layouts, PROBED_SHARDS_MAX, sale_of_key};
use super::merge::{self, Plain};
use super::nodes::{Dialect, Node, Place};
use super::sum::sum;
use super::{Called, StoreError, Throttle, Throttled};
use crate::{metrics, quick, trace};

/// Speaks to the servers.
pub struct RedisStore {
    fleet: Arc<Fleet>,
    layouts: Arc<Layouts>,
}

impl RedisStore {
    pub fn new(fleet: Arc<Fleet>, layouts: Arc<Layouts>) -> Self {
        Self { fleet, layouts }
    }

    async fn dialect(&self) -> Result<Dialect, StoreError> {
        Ok(self.fleet.topology().await?.dialect)
    }

    /// Where the hold of `command` is, or will be; `None`: no shard knows it.
    async fn place_of<'a>(&self, layout: &'a Layout, command: &Command) -> Result<Option<Place<'a>>, StoreError> {
        match (command.buyer(), command.id()) {
            (Some(buyer), _) => Ok(Some(layout.home(buyer))),
            (None, Some(id)) if layout.shards() > 1 => {
                Ok(Box::pin(self.find(layout, id)).await?.map(|(place, _)| place))
            }
            _ => Ok(Some(layout.place(0))),
        }
    }

    /// Looks for a hold in all shards.
    async fn find<'a>(&self, layout: &'a Layout, id: &[u8]) -> Result<Option<(Place<'a>, HoldView)>, StoreError> {
        let dialect = self.dialect().await?;
        let ask = |place: Place<'a>| (place, dialect.command("HOLD", place.key).arg(id).to_owned());
        let calls: Vec<_> = layout.places().map(ask).collect();
        let mut trouble = None;
        for ((place, _), reply) in calls.iter().zip(self.fleet.send_each(&calls).await) {
            match reply.and_then(answer::hold) {
                Ok(Some(hold)) => return Ok(Some((*place, hold))),
                Ok(None) => {}
                Err(error) => trouble = Some(error),
            }
        }
        // A shard that cannot be asked may have it.
        trouble.map_or(Ok(None), Err)
    }

    async fn look(
        &self,
        layout: &Layout,
        sale: &[u8],
        id: &[u8],
        buyer: Option<&[u8]>,
    ) -> Result<Option<HoldView>, StoreError> {
        if buyer.is_none() && layout.shards() > 1 {
            return self.find(layout, id).await.map(|found| found.map(|(_, hold)| hold));
        }
        let place = buyer.map_or(layout.place(0), |buyer| layout.home(buyer));
        let look = self.dialect().await?.command("HOLD", place.key).arg(id).to_owned();
        let mut result = self.fleet.send_one(place, &look).await;
        if matches!(result, Err(StoreError::Unknown(_))) {
            result = self.fleet.send_one(place, &look).await;
        }
        result.and_then(answer::hold).map_err(|error| self.missing(sale, place, error))
    }

    async fn call_once(
        &self,
        place: Place<'_>,
        command: &Command,
        began: Instant,
        again: bool,
    ) -> Result<Called, StoreError> {
        if Plain::is(command) {
            let merger = self.fleet.merger(place).await?;
            // Made only now: what is kept while something is waited for makes this future larger.
            if let Some(plain) = Plain::of(command, again) {
                let answer = merger.reserve(&self.fleet, place, plain, began.into())?;
                drop(merger);
                return Ok(Called { answer: merge::told(answer).await?, safe: true });
            }
        }
        // Boxed, so that the future of the plain ones, which are nearly all in a rush, stays small.
        Box::pin(self.call_alone(place, command)).await
    }

    /// A command that is not merged with others.
    async fn call_alone(&self, place: Place<'_>, command: &Command) -> Result<Called, StoreError> {
        let encoded = command.encode(self.dialect().await?, place.key);
        let (reply, safe) = if command.is_a_promise() {
            self.fleet.promise(place, encoded).await?
        } else {
            (self.fleet.send_one(place, &encoded).await?, true)
        };
        Ok(Called { answer: answer::answer(reply)?, safe })
    }

    async fn call_at(&self, place: Place<'_>, command: &Command, began: Instant) -> Result<Called, StoreError> {
        let result = self.call_once(place, command, began, false).await;
        // A connection may turn out to be dead only when it is used. What can be repeated without harm is
        // tried once more, if the first attempt has not used up the time already.
        let soon = || began.elapsed() < self.fleet.times().response / 2;
        if matches!(result, Err(StoreError::Unknown(_))) && command.may_be_repeated() && soon() {
            return Box::pin(self.call_once(place, command, Instant::now(), true)).await.map_err(|error| match error {
                // Not sent this time, but the first attempt may have been heard.
                StoreError::Down(why) => StoreError::Unknown(why),
                error => error,
            });
        }
        result
    }

    /// A hold that no shard knows: giving it back is remembered wherever its reservation may still arrive.
    async fn release_everywhere(
        &self,
        layout: &Layout,
        command: &Command,
        began: Instant,
    ) -> Result<Called, StoreError> {
        let mut last = Err(StoreError::NoSale);
        for place in layout.places() {
            last = self.call_at(place, command, began).await;
            if last.is_err() {
                break;
            }
        }
        last
    }

    async fn call_in(
        &self,
        layout: &Layout,
        sale: &[u8],
        command: &Command,
        began: Instant,
    ) -> Result<Called, StoreError> {
        let Some(place) = self.place_of(layout, command).await? else {
            return match command {
                Command::Release { .. } => Box::pin(self.release_everywhere(layout, command, began)).await,
                _ => Ok(Called { answer: Answer::NotFound, safe: true }),
            };
        };
        let result = self.call_at(place, command, began).await;
        match &result {
            Ok(Called { answer: Answer::WrongShard { .. }, .. }) => {
                self.layouts.forget(sale);
                Err(StoreError::Down("the sale has other shards than a moment ago".to_owned()))
            }
            Err(error) => Err(self.missing(sale, place, error.clone())),
            Ok(_) => result,
        }
    }

    /// A sale is gone if its first key is. That one of its other shards is not there (any more, or yet) is a fault.
    fn missing(&self, sale: &[u8], place: Place<'_>, error: StoreError) -> StoreError {
        match error {
            StoreError::NoSale if place.shard == 0 => {
                self.layouts.forget(sale);
                StoreError::NoSale
            }
            StoreError::NoSale => StoreError::Down(format!("shard {} of the sale is missing", place.shard)),
            error => error,
        }
    }

    async fn view(&self, sale: &[u8]) -> Result<(SaleView, i64), StoreError> {
        let layout = self.layouts.of(sale).await?;
        let dialect = self.dialect().await?;
        let first = layout.place(0);
        let mut calls = vec![(first, redis::cmd("TIME"))];
        calls.extend(layout.places().map(|place| (place, dialect.command("INFO", place.key))));
        let sent_ms = unix_ms();
        let mut replies = self.fleet.send_each(&calls).await.into_iter();
        // The server read its clock about half-way between our two looks.
        let here_ms = sent_ms.midpoint(unix_ms()) as i64;
        let time = replies.next().and_then(Result::ok).and_then(|time| server_ms(&time));
        let offset_ms = time.map_or(0, |there_ms| there_ms - here_ms);

        let mut shards = Vec::with_capacity(calls.len());
        let (mut missing, mut trouble) = (0, StoreError::NoSale);
        for (place, reply) in layout.places().zip(replies) {
            match reply.and_then(ShardInfo::read) {
                Ok(info) => shards.push(SaleView::from(info)),
                Err(StoreError::NoSale) if place.shard == 0 => {
                    return Err(self.missing(sale, place, StoreError::NoSale));
                }
                Err(error) => {
                    missing += 1;
                    trouble = error;
                }
            }
        }
        if shards.is_empty() {
            return Err(trouble);
        }
        Ok((SaleView { shards_missing: missing, ..sum(shards) }, offset_ms))
    }

    /// The sale that a key is a shard of; the key itself if it is no shard.
    async fn name_of(&self, key: Bytes) -> Bytes {
        let name = sale_of_key(&key);
        if name.len() == key.len() {
            return key;
        }
        match self.layouts.of(name).await {
            Ok(layout) if layout.shards() > 1 => Bytes::copy_from_slice(name),
            _ => key,
        }
    }

    /// Keys of sales on one server, at most about `max`.
    async fn scan(&self, node: &Node, dialect: Dialect, pattern: &[u8], max: usize) -> Result<Vec<Bytes>, StoreError> {
        let mut keys = Vec::new();
        let mut cursor = 0u64;
        // A bound on rounds too: a server full of other keys must not be walked to the end.
        for _ in 0..SCAN_ROUNDS_MAX {
            let mut cmd = redis::cmd("SCAN");
            cmd.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT).arg("TYPE").arg(dialect.key_type());
            let reply = self.fleet.send_to(node, &[cmd], false).await?.pop().unwrap_or(Value::Nil);
            let (next, found): (u64, Vec<Vec<u8>>) = redis::from_redis_value(answer::checked(reply)?)
                .map_err(|error| StoreError::Nonsense(error.to_string()))?;
            keys.extend(found.into_iter().filter(|key| dialect.may_be_sale(key)).map(Bytes::from));
            cursor = next;
            if cursor == 0 || keys.len() >= max {
                break;
            }
        }
        Ok(keys)
    }
}

/// The port itself. [`super::current`] implements the trait: so there is one box around each future and not two.
impl RedisStore {
    /// See [`super::SaleStore::call`].
    pub async fn call(&self, sale: &[u8], command: &Command) -> Result<Called, StoreError> {
        let began = Instant::now();
        let work = async {
            match self.layouts.of(sale).await {
                Ok(layout) => self.call_in(&layout, sale, command, began).await,
                Err(error) => Err(not_sent(error)),
            }
        };
        let result = trace::command(command.name(), work).await;
        quick::observe(&metrics::REDIS_SECONDS, command.name(), began.elapsed().as_secs_f64());
        count(command.name(), &result);
        result
    }

    /// See [`super::SaleStore::hold`].
    pub async fn hold(&self, sale: &[u8], id: &[u8], buyer: Option<&[u8]>) -> Result<Option<HoldView>, StoreError> {
        let layout = self.layouts.of(sale).await?;
        let result = trace::command("hold", self.look(&layout, sale, id, buyer)).await;
        count("hold", &result);
        result
    }

    /// See [`super::SaleStore::sale`].
    pub async fn sale(&self, sale: &[u8]) -> Result<(SaleView, i64), StoreError> {
        let result = trace::command("info", self.view(sale)).await;
        count("info", &result);
        result
    }

    /// See [`super::SaleStore::keys`].
    pub async fn keys(&self, prefix: &[u8], max: usize) -> Result<Vec<Bytes>, StoreError> {
        let pattern = [&glob_escape(prefix)[..], b"*"].concat();
        let topology = self.fleet.topology().await?;
        let mut names = BTreeSet::new();
        for node in &topology.nodes {
            let keys_max = max.saturating_mul(PROBED_SHARDS_MAX as usize);
            for key in self.scan(node, topology.dialect, &pattern, keys_max).await? {
                names.insert(self.name_of(key).await);
            }
        }
        Ok(names.into_iter().take(max).collect())
    }

    /// See [`super::SaleStore::throttle`].
    pub async fn throttle(&self, key: &[u8], throttle: Throttle) -> Result<Throttled, StoreError> {
        let mut command = self.dialect().await?.command("THROTTLE", key);
        command.arg(throttle.burst).arg(throttle.count).arg(1).arg(throttle.quantity);
        let result = self.fleet.send_one(Place { key, shard: 0 }, &command).await.and_then(answer::throttled);
        count("throttle", &result);
        result
    }

    /// See [`super::SaleStore::once`].
    pub async fn once(&self, key: &[u8], life: Duration) -> Result<bool, StoreError> {
        let mut command = redis::cmd("SET");
        let life_ms = life.as_millis().max(1) as u64;
        command.arg(key).arg(1).arg("NX").arg("PX").arg(life_ms);
        let result = self.fleet.send_one(Place { key, shard: 0 }, &command).await.and_then(answer::checked);
        count("once", &result);
        Ok(result? != Value::Nil)
    }

    /// See [`super::SaleStore::ping`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        let topology = self.fleet.topology().await?;
        let mut trouble = StoreError::Down("there is no server".to_owned());
        for node in &topology.nodes {
            let replies = self.fleet.send_to(node, &[redis::cmd("PING")], false).await;
            match replies.and_then(|mut replies| answer::checked(replies.pop().unwrap_or(Value::Nil))) {
                // A cluster that has lost a part still sells with the others.
                Ok(_) => return Ok(()),
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }
}

/// While the keys of a sale are looked for, its command was not sent.
fn not_sent(error: StoreError) -> StoreError {
    match error {
        StoreError::Unknown(why) | StoreError::Nonsense(why) => StoreError::Down(why),
        error => error,
    }
}

const SCAN_COUNT: usize = 1000;
const SCAN_ROUNDS_MAX: usize = 1000;

fn count<T>(command: &'static str, result: &Result<T, StoreError>) {
    let outcome = result.as_ref().map_or_else(StoreError::word, |_| "ok");
    quick::count(&metrics::REDIS_CALLS, [command, outcome]);
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
