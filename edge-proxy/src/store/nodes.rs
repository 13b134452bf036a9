//! The Redis servers of a deployment, and which of them has a key.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flashsale_core::sharding::{SLOTS, key_slot};
use redis::{Client, Value};

use super::breaker::Breaker;

/// One server.
pub struct Node {
    /// Tells nodes apart, for as long as the process lives.
    pub number: u64,
    /// `host:port`
    pub address: String,
    pub client: Client,
    pub(super) breaker: Arc<Breaker>,
}

impl Node {
    pub fn new(client: Client, breaker: Breaker) -> Self {
        static NODES: AtomicU64 = AtomicU64::new(0);
        let address = client.get_connection_info().addr().to_string();
        Self { number: NODES.fetch_add(1, Ordering::Relaxed), address, client, breaker: Arc::new(breaker) }
    }
}

/// Every server that was ever heard of, so that its connections outlive a change of the deployment.
pub struct Registry {
    nodes: Mutex<Vec<Arc<Node>>>,
    breaker_failures: u32,
    breaker_rest: Duration,
}

impl Registry {
    /// Each node's breaker opens after so many commands without an answer, and probes every `breaker_rest`.
    pub fn new(breaker_failures: u32, breaker_rest: Duration) -> Self {
        Self { nodes: Mutex::default(), breaker_failures, breaker_rest }
    }

    /// The node at the client's address.
    pub fn node(&self, client: Client) -> Arc<Node> {
        let address = client.get_connection_info().addr().to_string();
        let mut nodes = self.nodes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(node) = nodes.iter().find(|node| node.address == address) {
            return Arc::clone(node);
        }
        let node = Arc::new(Node::new(client, Breaker::new(self.breaker_failures, self.breaker_rest)));
        nodes.push(Arc::clone(&node));
        node
    }
}

/// What the commands of a sale are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `FLASH.RESERVE key ...`
    Module,
    /// `FCALL flash_reserve 1 key ...`
    Functions,
}

/// Where a key is: by its slot in a cluster, by the shard's number among servers that know nothing of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    pub key: &'a [u8],
    /// The number of the shard; 0 for a sale in one key.
    pub shard: u32,
}

/// How the nodes share the keys.
pub enum Split {
    /// Shard i is on node i modulo n.
    ByShard,
    /// By cluster slot: the index of the node of each, or [`NOBODY`].
    BySlot(Box<[u16]>),
}

/// The node of a slot that nobody serves.
pub const NOBODY: u16 = u16::MAX;

/// The deployment as it was found at some time.
pub struct Topology {
    pub nodes: Vec<Arc<Node>>,
    pub split: Split,
    pub dialect: Dialect,
    pub found_at: Instant,
    /// After this time it is looked at again, without being asked; `None`: it does not change by itself.
    pub lasts: Option<Duration>,
}

impl Topology {
    /// The node that has the key; `None` in a cluster where nobody serves the slot.
    pub fn node_of(&self, place: Place<'_>) -> Option<&Arc<Node>> {
        match &self.split {
            Split::ByShard => self.nodes.get(place.shard as usize % self.nodes.len().max(1)),
            Split::BySlot(slots) => self.nodes.get(usize::from(slots[key_slot(place.key) as usize])),
        }
    }

    /// The same with one slot at another node: what a `MOVED` tells. Outside a cluster it tells nothing.
    pub fn with_moved(self: &Arc<Self>, slot: u16, node: &Arc<Node>) -> Arc<Self> {
        let Split::BySlot(slots) = &self.split else {
            return Arc::clone(self);
        };
        let mut nodes = self.nodes.clone();
        let index = nodes.iter().position(|other| other.number == node.number).unwrap_or_else(|| {
            nodes.push(Arc::clone(node));
            nodes.len() - 1
        });
        let mut slots = slots.clone();
        slots[usize::from(slot)] = index as u16;
        let split = Split::BySlot(slots);
        Arc::new(Self { nodes, split, dialect: self.dialect, found_at: self.found_at, lasts: self.lasts })
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self.split, Split::BySlot(_))
    }
}

/// Some slots and who serves them.
#[derive(Debug, PartialEq, Eq)]
pub struct Range {
    pub first: u16,
    pub last: u16,
    /// Empty: the server that was asked.
    pub host: String,
    pub port: u16,
}

/// Reads the reply of `CLUSTER SLOTS`: of each range the primary, which stands first.
pub fn ranges(reply: &Value) -> Option<Vec<Range>> {
    let Value::Array(rows) = reply else {
        return None;
    };
    rows.iter().map(range).collect()
}

fn range(row: &Value) -> Option<Range> {
    let Value::Array(row) = row else {
        return None;
    };
    let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = row.as_slice() else {
        return None;
    };
    let [host, Value::Int(port), ..] = primary.as_slice() else {
        return None;
    };
    let host = match host {
        Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) => host.clone(),
        Value::Nil => String::new(),
        _ => return None,
    };
    let slot = |number: i64| u16::try_from(number).ok().filter(|slot| u32::from(*slot) < SLOTS);
    // A server that was told to announce no name says "?".
    let host = if host == "?" { String::new() } else { host };
    Some(Range { first: slot(*first)?, last: slot(*last)?, host, port: u16::try_from(*port).ok()? })
}

/// Where a server sends the one who asked for a key that it has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// For this command only (`ASK`), or from now on (`MOVED`).
    pub asking: bool,
    pub slot: u16,
    /// Empty: the server that was asked.
    pub host: String,
    pub port: u16,
}

/// Reads `MOVED 3999 127.0.0.1:6381` and `ASK 3999 127.0.0.1:6381`.
pub fn redirect(reply: &Value) -> Option<Redirect> {
    let Value::ServerError(error) = reply else {
        return None;
    };
    let asking = match error.code() {
        "ASK" => true,
        "MOVED" => false,
        _ => return None,
    };
    let mut words = error.details()?.split_ascii_whitespace();
    let slot = words.next()?.parse().ok().filter(|slot| u32::from(*slot) < SLOTS)?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    let host = if host == "?" { "" } else { host.trim_start_matches('[').trim_end_matches(']') };
    Some(Redirect { asking, slot, host: host.to_owned(), port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> Arc<Node> {
        let breaker = Breaker::new(1, Duration::from_millis(1));
        Arc::new(Node::new(Client::open(format!("redis://127.0.0.1:{port}")).unwrap(), breaker))
    }

    fn parsed(reply: &str) -> Value {
        redis::parse_redis_value(reply.as_bytes()).unwrap()
    }

    #[test]
    fn a_shard_lives_on_the_server_of_its_number() {
        let topology = Topology {
            nodes: vec![node(1), node(2), node(3)],
            split: Split::ByShard,
            dialect: Dialect::Module,
            found_at: Instant::now(),
            lasts: None,
        };
        let address = |shard| topology.node_of(Place { key: b"k", shard }).unwrap().address.clone();
        assert_eq!([address(0), address(1), address(5)], ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    }

    #[test]
    fn a_slot_without_a_server_has_none() {
        let mut slots = vec![NOBODY; SLOTS as usize].into_boxed_slice();
        slots[key_slot(b"foo") as usize] = 0;
        let topology = Topology {
            nodes: vec![node(1)],
            split: Split::BySlot(slots),
            dialect: Dialect::Module,
            found_at: Instant::now(),
            lasts: None,
        };
        assert!(topology.node_of(Place { key: b"foo", shard: 0 }).is_some());
        assert!(topology.node_of(Place { key: b"{foo}:orders", shard: 0 }).is_some());
        assert!(topology.node_of(Place { key: b"bar", shard: 0 }).is_none());

        let moved = Arc::new(topology).with_moved(key_slot(b"bar") as u16, &node(2));
        assert_eq!(moved.node_of(Place { key: b"bar", shard: 0 }).unwrap().address, "127.0.0.1:2");
        let servers = Arc::new(Topology { split: Split::ByShard, nodes: vec![node(1)], ..topology_of_nobody() });
        assert_eq!(servers.with_moved(1, &node(2)).nodes.len(), 1, "a server of no cluster may say what it likes");
    }

    fn topology_of_nobody() -> Topology {
        Topology {
            nodes: Vec::new(),
            split: Split::ByShard,
            dialect: Dialect::Module,
            found_at: Instant::now(),
            lasts: None,
        }
    }

    #[test]
    fn slots_are_read_and_nonsense_is_none() {
        let reply = parsed(
            "*2\r\n*4\r\n:0\r\n:5460\r\n*2\r\n$9\r\n127.0.0.1\r\n:7000\r\n*2\r\n$1\r\nx\r\n:1\r\n\
             *3\r\n:5461\r\n:16383\r\n*3\r\n$0\r\n\r\n:7001\r\n$2\r\nid\r\n",
        );
        let ranges_read = ranges(&reply).unwrap();
        assert_eq!(ranges_read[0], Range { first: 0, last: 5460, host: "127.0.0.1".to_owned(), port: 7000 });
        assert_eq!(ranges_read[1], Range { first: 5461, last: 16383, host: String::new(), port: 7001 });
        for nonsense in ["*1\r\n:1\r\n", "$-1\r\n", "*1\r\n*3\r\n:0\r\n:99999\r\n*2\r\n$1\r\nx\r\n:1\r\n"] {
            assert_eq!(ranges(&parsed(nonsense)), None);
        }
    }

    #[test]
    fn redirects_are_read() {
        let read = |text: &str| redirect(&parsed(text));
        let to = |asking, host: &str| Redirect { asking, slot: 3999, host: host.to_owned(), port: 6381 };
        assert_eq!(read("-MOVED 3999 127.0.0.1:6381\r\n"), Some(to(false, "127.0.0.1")));
        assert_eq!(read("-ASK 3999 ::1:6381\r\n"), Some(to(true, "::1")));
        assert_eq!(read("-MOVED 3999 :6381\r\n"), Some(to(false, "")));
        for other in ["-ERR no\r\n", "-MOVED x y\r\n", "-MOVED 99999 h:1\r\n", "+OK\r\n"] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
