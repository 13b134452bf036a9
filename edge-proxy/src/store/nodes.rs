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

/// Servers that belong together, each by its index among the nodes of the topology.
pub enum Part {
    /// One server.
    Server(u16),
    /// A Redis Cluster: the node of each slot, or [`NOBODY`].
    Cluster(Box<[u16]>),
    /// Nobody knows yet what it is, and why.
    Away(String),
}

/// The node of a slot that nobody serves.
pub const NOBODY: u16 = u16::MAX;

/// The deployment as it was found at some time.
pub struct Topology {
    pub nodes: Vec<Arc<Node>>,
    /// Shard i lives in part i modulo their number: so says the order of the config alone, whoever asks. (By modulo,
    /// because neighbouring shards lie in neighbouring slots: each cluster gets shards from all over its slots.)
    pub parts: Vec<Part>,
    pub dialect: Dialect,
    pub found_at: Instant,
    /// After this time it is looked at again, without being asked; `None`: it does not change by itself.
    pub lasts: Option<Duration>,
}

impl Part {
    /// The index of the node that has the key, or would have it.
    fn node_of(&self, key: &[u8]) -> Option<u16> {
        match self {
            Self::Server(index) => Some(*index),
            Self::Cluster(slots) => Some(slots[key_slot(key) as usize]),
            Self::Away(_) => None,
        }
    }

    fn has(&self, node: u16) -> bool {
        match self {
            Self::Server(index) => *index == node,
            Self::Cluster(slots) => slots.contains(&node),
            Self::Away(_) => false,
        }
    }

    fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

impl Topology {
    /// The node that has the key; `None` if nobody serves its slot, or its part is away.
    pub fn node_of(&self, place: Place<'_>) -> Option<&Arc<Node>> {
        self.nodes.get(usize::from(self.part_of(place.shard)?.node_of(place.key)?))
    }

    /// The nodes that may have a key of which nobody knows which shard it is: one in each part.
    pub fn holders_of(&self, key: &[u8]) -> Vec<&Arc<Node>> {
        self.parts.iter().filter_map(|part| self.nodes.get(usize::from(part.node_of(key)?))).collect()
    }

    fn part_index(&self, shard: u32) -> usize {
        shard as usize % self.parts.len().max(1)
    }

    fn part_of(&self, shard: u32) -> Option<&Part> {
        self.parts.get(self.part_index(shard))
    }

    /// The index of the part that the node belongs to.
    pub fn part_with(&self, node: &Node) -> Option<usize> {
        let index = self.nodes.iter().position(|other| other.number == node.number)? as u16;
        self.parts.iter().position(|part| part.has(index))
    }

    /// The same with one slot at another node of the cluster that `from` belongs to: what its `MOVED` tells. Outside
    /// a cluster it tells nothing.
    pub fn with_moved(self: &Arc<Self>, from: &Node, slot: u16, node: &Arc<Node>) -> Arc<Self> {
        let moved = self.part_with(from).filter(|&part| self.parts[part].is_cluster());
        let Some(moved) = moved else {
            return Arc::clone(self);
        };
        let mut nodes = self.nodes.clone();
        let index = nodes.iter().position(|other| other.number == node.number).unwrap_or_else(|| {
            nodes.push(Arc::clone(node));
            nodes.len() - 1
        });
        let copy = |(number, part): (usize, &Part)| match part {
            Part::Server(index) => Part::Server(*index),
            Part::Away(why) => Part::Away(why.clone()),
            Part::Cluster(slots) => {
                let mut slots = slots.clone();
                if number == moved {
                    slots[usize::from(slot)] = index as u16;
                }
                Part::Cluster(slots)
            }
        };
        let parts = self.parts.iter().enumerate().map(copy).collect();
        Arc::new(Self { nodes, parts, dialect: self.dialect, found_at: self.found_at, lasts: self.lasts })
    }

    /// Whether the node is one of a cluster.
    pub fn is_in_cluster(&self, node: &Node) -> bool {
        self.part_with(node).is_some_and(|part| self.parts[part].is_cluster())
    }

    /// Whether two shards send each other units by themselves: the modules of one cluster do, over its bus.
    pub fn have_a_bus(&self, one: u32, other: u32) -> bool {
        self.dialect == Dialect::Module
            && self.part_index(one) == self.part_index(other)
            && self.part_of(one).is_some_and(Part::is_cluster)
    }

    /// Whether all shards of every sale do.
    pub fn is_one_with_a_bus(&self) -> bool {
        self.parts.len() == 1 && self.have_a_bus(0, 0)
    }

    /// Why no server is known for the key of a shard.
    pub fn why_nobody(&self, shard: u32) -> String {
        match self.part_of(shard) {
            Some(Part::Away(why)) => why.clone(),
            _ => "no server has the slot of the key".to_owned(),
        }
    }

    /// Which parts are not known yet, and why.
    pub fn away(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Away(why) => Some(why.as_str()),
            _ => None,
        })
    }

    /// What it is, for people.
    pub fn kind(&self) -> String {
        let count = |kind: fn(&Part) -> bool| self.parts.iter().filter(|part| kind(part)).count();
        let clusters = count(Part::is_cluster);
        match (clusters, self.parts.len()) {
            (0, _) => "standalone".to_owned(),
            (1, 1) => "a cluster of".to_owned(),
            (clusters, parts) => format!("{clusters} clusters among {parts} groups of"),
        }
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
            parts: (0..3).map(Part::Server).collect(),
            dialect: Dialect::Module,
            found_at: Instant::now(),
            lasts: None,
        };
        let address = |shard| topology.node_of(Place { key: b"k", shard }).unwrap().address.clone();
        assert_eq!([address(0), address(1), address(5)], ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    }

    fn topology(nodes: Vec<Arc<Node>>, parts: Vec<Part>) -> Arc<Topology> {
        Arc::new(Topology { nodes, parts, dialect: Dialect::Module, found_at: Instant::now(), lasts: None })
    }

    /// All slots at one node, or none.
    fn cluster(node: u16) -> Box<[u16]> {
        vec![node; SLOTS as usize].into_boxed_slice()
    }

    #[test]
    fn a_slot_without_a_server_has_none() {
        let mut slots = cluster(NOBODY);
        slots[key_slot(b"foo") as usize] = 0;
        let first = node(1);
        let topology = topology(vec![first.clone()], vec![Part::Cluster(slots)]);
        assert!(topology.node_of(Place { key: b"foo", shard: 0 }).is_some());
        assert!(topology.node_of(Place { key: b"{foo}:orders", shard: 0 }).is_some());
        assert!(topology.node_of(Place { key: b"bar", shard: 0 }).is_none());

        let moved = topology.with_moved(&first, key_slot(b"bar") as u16, &node(2));
        assert_eq!(moved.node_of(Place { key: b"bar", shard: 0 }).unwrap().address, "127.0.0.1:2");
        let servers = self::topology(vec![first.clone()], vec![Part::Server(0)]);
        assert_eq!(
            servers.with_moved(&first, 1, &node(2)).nodes.len(),
            1,
            "a server of no cluster may say what it likes"
        );
    }

    #[test]
    fn several_clusters_and_servers_take_shards_in_turn() {
        let nodes: Vec<_> = (1..=3).map(node).collect();
        let parts =
            vec![Part::Cluster(cluster(0)), Part::Server(1), Part::Away("gone".to_owned()), Part::Cluster(cluster(2))];
        let several = topology(nodes.clone(), parts);
        let address = |topology: &Topology, shard| {
            topology.node_of(Place { key: b"k", shard }).map_or("", |node| node.address.as_str()).to_owned()
        };
        let of = |topology: &Topology| (0..5).map(|shard| address(topology, shard)).collect::<Vec<_>>();
        assert_eq!(of(&several), ["127.0.0.1:1", "127.0.0.1:2", "", "127.0.0.1:3", "127.0.0.1:1"]);
        assert_eq!(several.away().collect::<Vec<_>>(), ["gone"]);
        assert_eq!(several.why_nobody(2), "gone");
        assert_eq!(several.holders_of(b"k").len(), 3);
        assert!(several.is_in_cluster(&nodes[2]) && !several.is_in_cluster(&nodes[1]));

        let moved = several.with_moved(&nodes[2], key_slot(b"k") as u16, &node(4));
        assert_eq!(of(&moved), ["127.0.0.1:1", "127.0.0.1:2", "", "127.0.0.1:4", "127.0.0.1:1"]);
    }

    #[test]
    fn units_move_by_themselves_within_a_cluster_alone() {
        let nodes = || vec![node(1), node(2)];
        let two = topology(nodes(), vec![Part::Cluster(cluster(0)), Part::Cluster(cluster(1))]);
        assert!(two.have_a_bus(0, 2) && two.have_a_bus(1, 3) && !two.have_a_bus(0, 1));
        assert!(!two.is_one_with_a_bus());
        let servers = topology(nodes(), vec![Part::Server(0), Part::Server(1)]);
        assert!(!servers.have_a_bus(0, 2));
        let one = topology(nodes(), vec![Part::Cluster(cluster(0))]);
        assert!(one.is_one_with_a_bus());
        let library = Topology {
            dialect: Dialect::Functions,
            parts: vec![Part::Cluster(cluster(0))],
            nodes: nodes(),
            found_at: Instant::now(),
            lasts: None,
        };
        assert!(!library.is_one_with_a_bus());
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
