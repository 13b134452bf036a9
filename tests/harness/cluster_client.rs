use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::time::{Duration, Instant};

use crate::{Client, Cluster, Reply};

/// How long a cluster may take to get over a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client of a cluster that does what the clients of all languages do: it follows MOVED and ASK, and sends again
/// what failed on the way. The commands of a sale may be sent twice.
pub struct ClusterClient {
    ports: Vec<u16>,
    connections: BTreeMap<u16, Client>,
    /// Where a key was found last.
    owners: BTreeMap<String, u16>,
}

impl ClusterClient {
    pub fn new(cluster: &Cluster) -> ClusterClient {
        ClusterClient::of_ports(&cluster.ports())
    }

    /// A client that knows these nodes: some may be killed while it works.
    pub fn of_ports(ports: &[u16]) -> ClusterClient {
        ClusterClient { ports: ports.to_vec(), connections: BTreeMap::new(), owners: BTreeMap::new() }
    }

    /// Sends a command whose key is its second word, wherever that key is.
    ///
    /// # Panics
    /// If the cluster does not answer within a minute.
    #[track_caller]
    pub fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Reply {
        let key = String::from_utf8_lossy(arguments[1].as_ref()).into_owned();
        let started = Instant::now();
        let mut attempt = 0;
        loop {
            let port = self.owners.get(&key).copied().unwrap_or(self.ports[attempt % self.ports.len()]);
            let answer = self.try_at(port, arguments, &key);
            if let Ok(Some(reply)) = answer {
                return reply;
            }
            if answer.is_err() {
                self.connections.remove(&port);
                self.owners.remove(&key);
                std::thread::sleep(Duration::from_millis(20));
            }
            attempt += 1;
            let command = String::from_utf8_lossy(arguments[0].as_ref()).into_owned();
            assert!(started.elapsed() < PATIENCE, "{command} {key}: the cluster gives no answer: {answer:?}");
        }
    }

    /// As [`ClusterClient::call`], for a line of words.
    #[track_caller]
    pub fn line(&mut self, line: &str) -> Reply {
        self.call(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Whether a replica has what this client has written to the key, within 100 ms.
    pub fn is_replicated(&mut self, key: &str) -> bool {
        let Some(&port) = self.owners.get(key) else { return false };
        let answer = self.connection(port).and_then(|connection| connection.try_call(&["WAIT", "1", "100"]));
        matches!(answer, Ok(Reply::Integer(1..)))
    }

    /// The port of the node that has a key.
    #[track_caller]
    pub fn owner(&mut self, key: &str) -> u16 {
        self.call(&["EXISTS", key]);
        self.owners[key]
    }

    /// `None`: ask again, at the place that the node has named.
    fn try_at<A: AsRef<[u8]>>(&mut self, port: u16, arguments: &[A], key: &str) -> io::Result<Option<Reply>> {
        let reply = self.connection(port)?.try_call(arguments)?;
        let Reply::Error(text) = &reply else {
            self.owners.insert(key.to_owned(), port);
            return Ok(Some(reply));
        };
        let there = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        match (text.split(' ').next(), there) {
            (Some("MOVED"), Some(there)) => {
                self.owners.insert(key.to_owned(), there);
                Ok(None)
            }
            (Some("ASK"), Some(there)) => {
                let connection = self.connection(there)?;
                let asked = connection.try_call(&["ASKING"]).and_then(|_| connection.try_call(arguments));
                if asked.is_err() {
                    self.connections.remove(&there);
                }
                let reply = asked?;
                if reply.is_error() { Err(io::Error::other(reply.to_string())) } else { Ok(Some(reply)) }
            }
            (Some("CLUSTERDOWN" | "LOADING" | "TRYAGAIN" | "READONLY" | "MASTERDOWN" | "UNBLOCKED"), _) => {
                Err(io::Error::other(text.clone()))
            }
            _ => Ok(Some(reply)),
        }
    }

    fn connection(&mut self, port: u16) -> io::Result<&mut Client> {
        match self.connections.entry(port) {
            Entry::Occupied(open) => Ok(open.into_mut()),
            Entry::Vacant(place) => {
                let mut client = Client::connect(port)?;
                // A node that is stopped does not answer: another one will have taken over by then.
                client.set_patience(Duration::from_secs(15));
                Ok(place.insert(client))
            }
        }
    }
}
