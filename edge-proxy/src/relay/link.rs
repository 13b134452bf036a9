//! The relay's connections to Redis and the commands it sends there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, RedisResult, Value};
use tokio::sync::Mutex;

use super::entry::{Entry, EntryId};
use crate::store::StoreError;
use crate::store::fleet::Fleet;
use crate::store::nodes::{Node, Topology};

/// How long an ordinary command may take.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Opens a connection of its own whose commands may block for `longest_block`.
pub async fn connect(client: &Client, longest_block: Duration) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(COMMAND_TIMEOUT + longest_block));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// The connections of a relay: to each server one that all streams use for commands that do not block.
pub struct Links {
    pub fleet: Arc<Fleet>,
    by_node: std::sync::Mutex<HashMap<u64, Arc<SharedLink>>>,
}

impl Links {
    pub fn new(fleet: Arc<Fleet>) -> Self {
        Self { fleet, by_node: std::sync::Mutex::default() }
    }

    /// Which servers there are.
    pub async fn topology(&self) -> RedisResult<Arc<Topology>> {
        self.fleet.topology().await.map_err(away)
    }

    /// The connection to the server.
    pub fn of_node(&self, node: &Node) -> Arc<SharedLink> {
        let mut links = self.by_node.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let link = links.entry(node.number).or_insert_with(|| Arc::new(SharedLink::new(node.client.clone())));
        Arc::clone(link)
    }

    /// The connection to the server that has the key, or, among servers that know nothing of each other, one of
    /// the two: a sale may have been removed while its orders wait.
    pub async fn of_key(&self, key: &[u8], orders: &[u8]) -> RedisResult<Arc<SharedLink>> {
        let topology = self.topology().await?;
        let holders = topology.holders_of(key);
        if let ([_], [node]) = (topology.parts.as_slice(), holders.as_slice()) {
            return Ok(self.of_node(node));
        }
        let mut trouble = unexpected("no server that answers has the key");
        for node in holders {
            let link = self.of_node(node);
            match link.has_one(&[key, orders]).await {
                Ok(true) => return Ok(link),
                Ok(false) => {}
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    /// Something failed on a connection: its successor may lead to another server.
    pub async fn complain(&self, link: &SharedLink, generation: u64) {
        link.complain(generation).await;
        self.fleet.look_again();
    }
}

fn away(error: StoreError) -> RedisError {
    RedisError::from((ErrorKind::Io, "Redis cannot be reached", error.to_string()))
}

/// The connection to one server.
pub struct SharedLink {
    pub client: Client,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    connection: Option<MultiplexedConnection>,
    /// Counts connections: a late complaint about an old one does no harm to its successor.
    generation: u64,
}

impl SharedLink {
    /// Connects when it is first used.
    pub fn new(client: Client) -> Self {
        Self { client, live: Mutex::default() }
    }

    /// The connection, and by which number to complain about it.
    pub async fn get(&self) -> RedisResult<(MultiplexedConnection, u64)> {
        let mut live = self.live.lock().await;
        if let Some(connection) = &live.connection {
            return Ok((connection.clone(), live.generation));
        }
        let connection = connect(&self.client, Duration::ZERO).await?;
        live.generation += 1;
        live.connection = Some(connection.clone());
        Ok((connection, live.generation))
    }

    /// Whether one of the keys is there.
    async fn has_one(&self, keys: &[&[u8]]) -> RedisResult<bool> {
        let (mut connection, generation) = self.get().await?;
        let found = command(&["EXISTS"]).arg(keys).query_async::<u64>(&mut connection).await;
        if found.is_err() {
            self.complain(generation).await;
        }
        Ok(found? > 0)
    }

    /// Something failed on the connection of this number: the next one who asks gets a new one.
    pub async fn complain(&self, generation: u64) {
        let mut live = self.live.lock().await;
        if live.generation == generation {
            live.connection = None;
        }
    }
}

/// Begins every script of the relay: it runs also when the server is out of memory, for draining and trimming
/// streams is how memory comes back.
macro_rules! script {
    ($text:literal) => {
        concat!("#!lua flags=allow-oom\n", $text)
    };
}
pub(crate) use script;

/// A command of several words.
pub fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(word);
    }
    command
}

/// An answer that does not have the form it should have.
pub fn unexpected(what: &'static str) -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, what))
}

/// Entries as `XRANGE`, `XREADGROUP` and `XAUTOCLAIM` list them. An entry that was deleted is left out.
pub fn entries(list: Value) -> RedisResult<Vec<Entry>> {
    let entries = items(list)?.into_iter().filter(|entry| *entry != Value::Nil);
    let parsed = entries.filter_map(|entry| entry_of(entry).transpose());
    parsed.collect()
}

fn entry_of(value: Value) -> RedisResult<Option<Entry>> {
    let mut parts = items(value)?.into_iter();
    let id = parts.next().and_then(|id| EntryId::parse(&bytes(id)?));
    let id = id.ok_or_else(|| unexpected("an entry without an id"))?;
    let mut flat = match parts.next() {
        Some(Value::Nil) | None => return Ok(None),
        Some(fields) => items(fields)?.into_iter(),
    };
    let mut fields = Vec::with_capacity(flat.len() / 2);
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        let pair = bytes(name).zip(bytes(value));
        fields.push(pair.ok_or_else(|| unexpected("a field that is no string"))?);
    }
    Ok(Some(Entry { id, fields }))
}

/// The parts of an array; those of a map one after the other, as the older protocol lists them.
pub fn items(value: Value) -> RedisResult<Vec<Value>> {
    match value {
        Value::Nil => Ok(Vec::new()),
        Value::Array(items) | Value::Set(items) => Ok(items),
        Value::Map(pairs) => Ok(pairs.into_iter().flat_map(|(name, value)| [name, value]).collect()),
        _ => Err(unexpected("not an array")),
    }
}

/// The bytes of a string.
pub fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        Value::Okay => Some(b"OK".to_vec()),
        _ => None,
    }
}

/// The value of `name` in a list of names and values.
pub fn named(list: &[Value], name: &str) -> Option<Value> {
    let mut pairs = list.chunks_exact(2);
    let pair = pairs.find(|pair| bytes(pair[0].clone()).as_deref() == Some(name.as_bytes()));
    pair.map(|pair| pair[1].clone())
}

/// A whole number, however it is written.
pub fn whole(value: Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(number),
        other => std::str::from_utf8(&bytes(other)?).ok()?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Value {
        Value::BulkString(value.as_bytes().to_vec())
    }

    #[test]
    fn reads_entries_and_leaves_deleted_ones_out() {
        let fields = Value::Array(vec![text("no"), text("7")]);
        let whole = Value::Array(vec![text("5-1"), fields]);
        let deleted = Value::Array(vec![text("5-2"), Value::Nil]);
        let read = entries(Value::Array(vec![whole, Value::Nil, deleted])).expect("entries");
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].id, EntryId { ms: 5, seq: 1 });
        assert_eq!(read[0].fields, [(b"no".to_vec(), b"7".to_vec())]);
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(entries(text("5-1")).is_err());
        assert!(entries(Value::Array(vec![Value::Array(vec![text("x"), Value::Nil])])).is_err());
    }

    #[test]
    fn a_map_is_read_like_a_list() {
        let list = items(Value::Map(vec![(text("pending"), Value::Int(3))])).expect("a list");
        assert_eq!(named(&list, "pending").and_then(whole), Some(3));
        assert_eq!(named(&list, "lag"), None);
    }
}
